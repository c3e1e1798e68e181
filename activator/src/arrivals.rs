//! Tells at once of requests that arrive at routes which had none, to whoever scales and should not wait for a tick.
//!
//! Each such arrival gets the next number of a sequence, and its route remembers its last one: whoever asks for what came
//! after a number gets the routes, however many arrivals there were and however late they ask. Nothing is queued.

use std::{
    collections::BTreeSet,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use axum::{
    Json,
    extract::{Query, State},
};
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use crate::{activator::Inner, metrics::RouteStats};

/// Longest time that a question may wait for an arrival.
const LONGEST_WAIT: u64 = 60;

/// The sequence.
#[derive(Default)]
pub(crate) struct Arrivals(watch::Sender<u64>);

impl Arrivals {
    /// A request arrived at a route that had none.
    pub(crate) fn note(&self, stats: &RouteStats) {
        self.0.send_modify(|sequence| {
            *sequence += 1;
            // Seen by everyone who sees the number: both are behind the channel's lock.
            stats.activated.store(*sequence, Ordering::Relaxed);
        });
    }
}

/// A question.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Asked {
    /// The sequence of the answer before. Absent: only the sequence is asked for.
    since: Option<u64>,
    /// How long to wait for something new, 0 to 60. Default 0.
    #[serde(default)]
    wait_seconds: u64,
}

/// An answer.
#[derive(Debug, PartialEq, Serialize)]
pub(crate) struct Told {
    sequence: u64,
    /// Routes at which a request arrived since, while they had none.
    routes: BTreeSet<String>,
}

/// `GET /api/v1/active?since=N&waitSeconds=S`. A `since` of another life of this process, higher than the sequence, is 0.
pub(crate) async fn active(State(inner): State<Arc<Inner>>, Query(asked): Query<Asked>) -> Json<Told> {
    Json(tell(&inner, asked).await)
}

async fn tell(inner: &Inner, asked: Asked) -> Told {
    let mut sequence = inner.arrivals.0.subscribe();
    let Some(since) = asked.since else {
        return Told {
            sequence: *sequence.borrow(),
            routes: BTreeSet::new(),
        };
    };
    let since = if since > *sequence.borrow() { 0 } else { since };
    let wait = Duration::from_secs(asked.wait_seconds.min(LONGEST_WAIT));
    // Whether something came or the time is over, the answer is what there is.
    tokio::time::timeout(wait, sequence.wait_for(|now| *now > since))
        .await
        .ok();
    let now = *sequence.borrow();
    let live = inner.live.load();
    let stats = live.entries.iter().map(|entry| &entry.stats);
    let routes = stats
        .filter(|stats| stats.activated.load(Ordering::Relaxed) > since)
        .map(|stats| stats.id.to_string());
    Told {
        sequence: now,
        routes: routes.collect(),
    }
}

#[cfg(test)]
mod tests {
    use futures_util::{FutureExt, future::BoxFuture};

    use super::*;
    use crate::{
        Activator, BackendId, Config, Predicate, Route, RouteId, RoutePolicy, WakeError, Waker, WeightedBackend,
    };

    struct Asleep;

    impl Waker for Asleep {
        fn wake(&self, _: &BackendId) -> BoxFuture<'static, Result<(), WakeError>> {
            async { Ok(()) }.boxed()
        }
    }

    fn activator() -> Activator {
        let activator = Activator::new(Config::default(), Arc::new(Asleep));
        let route = |id: &str| Route {
            id: RouteId::new(id),
            predicate: Predicate {
                hosts: vec![id.replace('/', ".")],
                ..Predicate::default()
            },
            backends: vec![WeightedBackend {
                backend: BackendId::new(id),
                weight: 1,
            }],
            policy: RoutePolicy::default(),
        };
        activator.set_routes(vec![route("ns/a"), route("ns/b")]).unwrap();
        activator
    }

    fn note(activator: &Activator, index: usize) {
        let live = activator.inner.live.load();
        activator.inner.arrivals.note(&live.entries[index].stats);
    }

    fn since(since: u64, wait_seconds: u64) -> Asked {
        Asked {
            since: Some(since),
            wait_seconds,
        }
    }

    fn told(sequence: u64, routes: &[&str]) -> Told {
        Told {
            sequence,
            routes: routes.iter().map(|route| (*route).to_owned()).collect(),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn an_arrival_answers_a_waiting_question_at_once_and_none_answers_it_at_the_end() {
        let activator = activator();
        let mut asked = Box::pin(tell(&activator.inner, since(0, 30)));
        assert!(asked.as_mut().now_or_never().is_none());
        note(&activator, 0);
        assert_eq!(asked.now_or_never(), Some(told(1, &["ns/a"])));
        let began = tokio::time::Instant::now();
        assert_eq!(tell(&activator.inner, since(1, 30)).await, told(1, &[]));
        assert_eq!(began.elapsed(), Duration::from_secs(30));
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_asks_late_or_after_a_restart_loses_nothing() {
        let activator = activator();
        for route in [0, 1, 0] {
            note(&activator, route);
        }
        assert_eq!(tell(&activator.inner, since(0, 0)).await, told(3, &["ns/a", "ns/b"]));
        assert_eq!(tell(&activator.inner, since(2, 0)).await, told(3, &["ns/a"]));
        assert_eq!(tell(&activator.inner, since(99, 0)).await, told(3, &["ns/a", "ns/b"]));
        let first = Asked {
            since: None,
            wait_seconds: 9,
        };
        assert_eq!(tell(&activator.inner, first).await, told(3, &[]));
    }
}
