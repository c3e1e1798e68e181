//! What the controller asks of an activator, as JSON on the admin port.
//!
//! | request | answer |
//! |---|---|
//! | `GET /api/v1/snapshot` | [`Snapshot`](crate::Snapshot) |
//! | `POST /api/v1/seal` `{"backend", "endpoints": [uid], "holdSeconds"}` | `{"endpoints": {uid: {"known", "inFlight"}}}` |
//! | `POST /api/v1/unseal` the same | the same, as it was before |
//! | `POST /api/v1/load` the same | the same; nothing is sealed |
//! | `GET /api/v1/wakes` | `{"backends": {name: {phase: seconds}}}` of the last cold wake of each |

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use axum::{
    Json, Router,
    extract::State,
    routing::{get, post},
};
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use super::seals::{Drain, Seals};
use crate::{Activator, BackendId, Snapshot, WakePhases};

/// How long a seal holds where the request does not say.
const HOLD: f64 = 30.0;

/// Body of `seal`, `unseal` and `load`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SealRequest {
    /// Whose pods.
    pub backend: BackendId,
    /// Uids of pods; `*` is every one that is known now.
    pub endpoints: Vec<String>,
    /// For how long, from now on; at most [`ClusterConfig::hold_max`](super::ClusterConfig::hold_max). Default 30.
    #[serde(default = "hold")]
    pub hold_seconds: f64,
}

fn hold() -> f64 {
    HOLD
}

/// Answer of `seal`, `unseal` and `load`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SealAnswer {
    /// By uid.
    pub endpoints: BTreeMap<String, Drain>,
}

#[derive(Serialize)]
struct Wakes {
    backends: BTreeMap<BackendId, BTreeMap<&'static str, f64>>,
}

struct Api {
    activator: Activator,
    seals: Arc<Seals>,
    hold_max: Duration,
}

/// The routes of this API.
pub(crate) fn router(activator: Activator, seals: Arc<Seals>, hold_max: Duration) -> Router {
    let api = Api {
        activator,
        seals,
        hold_max,
    };
    Router::new()
        .route("/api/v1/snapshot", get(snapshot))
        .route("/api/v1/seal", post(seal))
        .route("/api/v1/unseal", post(unseal))
        .route("/api/v1/load", post(load))
        .route("/api/v1/wakes", get(wakes))
        .with_state(Arc::new(api))
}

async fn snapshot(State(api): State<Arc<Api>>) -> Json<Snapshot> {
    Json(api.activator.snapshot())
}

async fn seal(State(api): State<Arc<Api>>, Json(request): Json<SealRequest>) -> Json<SealAnswer> {
    let hold = Duration::try_from_secs_f64(request.hold_seconds).unwrap_or(api.hold_max);
    let until = Instant::now() + hold.min(api.hold_max);
    Json(SealAnswer {
        endpoints: api.seals.seal(&request.backend, &request.endpoints, until),
    })
}

async fn unseal(State(api): State<Arc<Api>>, Json(request): Json<SealRequest>) -> Json<SealAnswer> {
    let SealRequest { backend, endpoints, .. } = request;
    let answer = SealAnswer {
        endpoints: api.seals.seal(&backend, &endpoints, Instant::now()),
    };
    api.seals.unseal(&backend, &endpoints);
    Json(answer)
}

async fn load(State(api): State<Arc<Api>>, Json(request): Json<SealRequest>) -> Json<SealAnswer> {
    Json(SealAnswer {
        endpoints: api.seals.load(&request.backend, &request.endpoints),
    })
}

async fn wakes(State(api): State<Arc<Api>>) -> Json<Wakes> {
    let backends = api.activator.snapshot().backends.into_keys();
    let last = |backend: BackendId| {
        let phases = api.activator.last_wake(&backend)?;
        let seconds = phases.durations().map(|phase| phase.as_secs_f64());
        Some((backend, WakePhases::NAMES.into_iter().zip(seconds).collect()))
    };
    Json(Wakes {
        backends: backends.filter_map(last).collect(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_and_answers_are_written_as_the_controller_expects() {
        let request: SealRequest =
            serde_json::from_value(serde_json::json!({ "backend": "ns/a", "endpoints": ["u"] })).unwrap();
        assert_eq!((request.backend.as_str(), request.hold_seconds), ("ns/a", 30.0));
        let drain = Drain {
            known: true,
            in_flight: 2,
        };
        let answer = SealAnswer {
            endpoints: [("u".to_owned(), drain)].into(),
        };
        assert_eq!(
            serde_json::to_value(answer).unwrap(),
            serde_json::json!({ "endpoints": { "u": { "known": true, "inFlight": 2 } } })
        );
    }
}
