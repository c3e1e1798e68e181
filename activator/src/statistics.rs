//! Statistics of all models, as Triton's extension has them: what the replicas that are awake count, put together. Neither wakes
//! nor counts: a model that sleeps has no statistics.

use std::{collections::BTreeMap, sync::Arc};

use bytes::Bytes;
use futures_util::{StreamExt as _, stream};
use http::{Response, StatusCode, uri::PathAndQuery};
use serde_json::{Map, Value, json};

use crate::{
    activator::{Inner, RouteEntry},
    backend::Replica,
    body::ProxyBody,
    error, pool,
    pool::{Line, PoolLimits, Wire},
    probe,
};

/// Where a replica tells of all its models.
const PATH: &str = "/v2/models/stats";

/// Replicas that are asked at once.
const AT_ONCE: usize = 16;

/// The longest answer of a replica: a thousand models have less.
const LIMIT: usize = 4 << 20;

/// The answer. A replica that is silent for as long as a probe may take is left out.
pub(crate) async fn answer(inner: &Inner) -> Response<ProxyBody> {
    let (limits, wait) = (inner.shared.pool_limits(), inner.shared.config.probe_timeout);
    let replicas = replicas(&inner.live.load().entries);
    let asked = stream::iter(replicas).map(|(backend, replica)| async move {
        let told = tokio::time::timeout(wait, ask(&replica, limits)).await.ok().flatten();
        if told.is_none() {
            tracing::debug!(endpoint = %replica.id, "no statistics from it");
        }
        (backend, told.unwrap_or_default())
    });
    let told: Vec<(String, Vec<Value>)> = asked.buffer_unordered(AT_ONCE).collect().await;
    error::json(StatusCode::OK, &json!({ "model_stats": together(told) }))
}

/// Every replica that is ready, once, with the name of its backend.
fn replicas(entries: &[Arc<RouteEntry>]) -> Vec<(String, Arc<Replica>)> {
    let named = entries
        .iter()
        .filter(|entry| entry.route.predicate.model_name.is_some());
    let backends: BTreeMap<&str, _> = named
        .flat_map(|entry| &entry.backends)
        .map(|backend| (backend.id.as_str(), backend))
        .collect();
    let ready = backends.into_iter().flat_map(|(id, backend)| {
        let ready = backend.ready_replicas().into_iter();
        ready.map(move |replica| (id.to_owned(), replica))
    });
    ready.collect()
}

async fn ask(replica: &Arc<Replica>, limits: PoolLimits) -> Option<Vec<Value>> {
    let request = probe::request(replica, &PathAndQuery::from_static(PATH))?;
    let line = Line {
        protocol: replica.protocol,
        tls: None,
        limits,
    };
    let response = pool::send(replica, line, request).await.ok()?;
    if response.status() != StatusCode::OK {
        return None;
    }
    let mut told: Value = serde_json::from_slice(&read(response.into_body()).await?).ok()?;
    match told["model_stats"].take() {
        Value::Array(models) => Some(models),
        _ => None,
    }
}

async fn read(mut wire: Wire) -> Option<Vec<u8>> {
    let mut body = Vec::new();
    while !wire.is_end_stream() {
        let Some(frame) = wire.frame().await else { break };
        let data = frame.ok()?.into_data().unwrap_or_else(|_| Bytes::new());
        if body.len() + data.len() > LIMIT {
            return None;
        }
        body.extend_from_slice(&data);
    }
    wire.finish();
    Some(body)
}

/// One entry a model and version of each backend, by name: replicas of one backend add up, two backends that call their models the
/// same stay apart.
fn together(told: Vec<(String, Vec<Value>)>) -> Vec<Value> {
    let mut models: BTreeMap<(String, String, String), Value> = BTreeMap::new();
    for (backend, list) in told {
        for model in list {
            let text = |key: &str| model[key].as_str().unwrap_or_default().to_owned();
            let key = (text("name"), backend.clone(), text("version"));
            match models.get_mut(&key) {
                Some(sum) => add(sum, &model),
                None => drop(models.insert(key, model)),
            }
        }
    }
    models.into_values().collect()
}

/// Adds what another replica counted.
fn add(sum: &mut Value, more: &Value) {
    match (sum, more) {
        (Value::Object(sum), Value::Object(more)) => add_members(sum, more),
        (Value::Array(sum), Value::Array(more)) => add_batches(sum, more),
        (Value::Number(sum), Value::Number(more)) => {
            if let (Some(a), Some(b)) = (sum.as_u64(), more.as_u64()) {
                *sum = a.saturating_add(b).into();
            }
        }
        _ => {}
    }
}

fn add_members(sum: &mut Map<String, Value>, more: &Map<String, Value>) {
    for (key, more) in more {
        match sum.get_mut(key) {
            None => drop(sum.insert(key.clone(), more.clone())),
            Some(_) if key == "batch_size" => {}
            // The time of the last one, not a count.
            Some(last) if key == "last_inference" => {
                if more.as_u64() > last.as_u64() {
                    *last = more.clone();
                }
            }
            Some(sum) => add(sum, more),
        }
    }
}

/// Batches are told by their size.
fn add_batches(sum: &mut Vec<Value>, more: &[Value]) {
    for more in more {
        match sum.iter_mut().find(|batch| batch["batch_size"] == more["batch_size"]) {
            Some(batch) => add(batch, more),
            None => sum.push(more.clone()),
        }
    }
    sum.sort_by_key(|batch| batch["batch_size"].as_u64());
}

#[cfg(test)]
mod tests {
    use super::*;

    fn model(name: &str, last: u64, count: u64, size: u64) -> Value {
        json!({
            "name": name, "version": "1", "last_inference": last, "inference_count": count,
            "inference_stats": {"success": {"count": count, "ns": 10 * count}},
            "batch_stats": [{"batch_size": size, "compute_infer": {"count": count, "ns": count}}],
        })
    }

    #[test]
    fn replicas_of_one_backend_add_up_and_backends_stay_apart() {
        let told = vec![
            ("ns/b".to_owned(), vec![model("iris", 7, 2, 4)]),
            ("ns/a".to_owned(), vec![model("iris", 5, 3, 1)]),
            (
                "ns/b".to_owned(),
                vec![model("iris", 6, 1, 4), model("digits", 1, 1, 1)],
            ),
            ("ns/b".to_owned(), vec![model("iris", 1, 1, 2)]),
        ];
        let all = together(told);
        let names: Vec<_> = all.iter().map(|model| model["name"].as_str().unwrap()).collect();
        assert_eq!(names, ["digits", "iris", "iris"]);
        assert_eq!(all[1], model("iris", 5, 3, 1));
        let sum = &all[2];
        assert_eq!(
            (&sum["inference_count"], &sum["last_inference"]),
            (&json!(4), &json!(7))
        );
        assert_eq!(sum["inference_stats"]["success"], json!({"count": 4, "ns": 40}));
        let batches = json!([
            {"batch_size": 2, "compute_infer": {"count": 1, "ns": 1}},
            {"batch_size": 4, "compute_infer": {"count": 3, "ns": 3}},
        ]);
        assert_eq!(sum["batch_stats"], batches);
    }
}
