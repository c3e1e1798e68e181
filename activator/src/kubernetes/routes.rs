//! The one place that sets the activator's routes: every source of routes hands in its own, and all together go live at once,
//! shortly after.
//!
//! A table is compiled as a whole, which takes some milliseconds for 10,000 routes. Changes that come in a burst are taken
//! together, and the longer compiling takes the longer the pause between two tables.

use std::{
    collections::{BTreeMap, HashSet},
    time::Duration,
};

use parking_lot::Mutex;
use tokio::{sync::Notify, time::Instant};
use tokio_util::sync::CancellationToken;

use crate::{Activator, Route, RouteError};

/// From the first change of a burst to the new table, at least.
const SETTLE: Duration = Duration::from_millis(10);
/// Share of the time that compiling tables may take: one part in so many.
const DUTY: u32 = 10;

/// The routes of all sources.
#[derive(Debug)]
pub struct Routes {
    /// `None` for a source that has not said yet what it has.
    sources: Mutex<BTreeMap<&'static str, Option<Vec<Route>>>>,
    changed: Notify,
}

impl Routes {
    /// Nothing goes live, and the activator is not ready, until each of these sources has handed in its routes once.
    pub fn new(sources: &[&'static str]) -> Self {
        Self {
            sources: Mutex::new(sources.iter().map(|source| (*source, None)).collect()),
            changed: Notify::new(),
        }
    }

    /// Nothing goes live either until this source has handed in its routes once.
    pub fn announce(&self, source: &'static str) {
        self.sources.lock().entry(source).or_default();
    }

    /// Replaces the routes of a source; one that was not announced comes in addition. Where two routes collide the one of
    /// the source that is first by name stays, and within a source the one that comes first.
    pub fn set(&self, source: &'static str, routes: Vec<Route>) {
        self.sources.lock().insert(source, Some(routes));
        self.changed.notify_one();
    }

    fn all(&self) -> Option<Vec<Route>> {
        let sources = self.sources.lock();
        let lists: Option<Vec<&Vec<Route>>> = sources.values().map(Option::as_ref).collect();
        Some(lists?.into_iter().flatten().cloned().collect())
    }

    /// Brings changes to the activator until `stop`.
    pub async fn run(&self, activator: &Activator, stop: CancellationToken) {
        let mut told = HashSet::new();
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                () = self.changed.notified() => {}
            }
            tokio::time::sleep(SETTLE).await;
            let Some(routes) = self.all() else { continue };
            let began = Instant::now();
            told = tell(&told, apply(activator, routes));
            tokio::time::sleep(began.elapsed() * (DUTY - 1)).await;
        }
    }
}

/// Sets the routes without those that are faulty, and says what was wrong with these.
fn apply(activator: &Activator, mut routes: Vec<Route>) -> Vec<RouteError> {
    let mut faults = Vec::new();
    loop {
        let Err(fault) = activator.set_routes(routes.clone()) else {
            return faults;
        };
        let Some(at) = routes.iter().rposition(|route| route.id == *fault.route()) else {
            // Every fault names a route of the table.
            return faults;
        };
        routes.remove(at);
        faults.push(fault);
    }
}

/// Logs the faults that are new.
fn tell(told: &HashSet<String>, faults: Vec<RouteError>) -> HashSet<String> {
    let faults: HashSet<String> = faults.iter().map(ToString::to_string).collect();
    for fault in faults.difference(told) {
        tracing::warn!(fault, "a route was left out");
    }
    faults
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use futures_util::future::BoxFuture;

    use super::*;
    use crate::{BackendId, Config, Predicate, RouteId, RoutePolicy, WakeError, Waker, WeightedBackend};

    struct Asleep;

    impl Waker for Asleep {
        fn wake(&self, _: &BackendId) -> BoxFuture<'static, Result<(), WakeError>> {
            Box::pin(async { Ok(()) })
        }
    }

    fn route(id: &str, host: &str) -> Route {
        Route {
            id: RouteId::new(id),
            predicate: Predicate {
                hosts: vec![host.to_owned()],
                ..Predicate::default()
            },
            backends: vec![WeightedBackend {
                backend: BackendId::new(id),
                weight: 1,
            }],
            policy: RoutePolicy::default(),
        }
    }

    fn live(activator: &Activator) -> Vec<String> {
        activator.snapshot().backends.keys().map(ToString::to_string).collect()
    }

    #[tokio::test(start_paused = true)]
    async fn routes_go_live_once_every_source_has_said_what_it_has() {
        let activator = Activator::new(Config::default(), Arc::new(Asleep));
        let routes = Arc::new(Routes::new(&["keda", "services"]));
        let stop = CancellationToken::new();
        let task = tokio::spawn({
            let (routes, activator, stop) = (Arc::clone(&routes), activator.clone(), stop.clone());
            async move { routes.run(&activator, stop).await }
        });
        routes.set("services", vec![route("ns/a", "a")]);
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert!(live(&activator).is_empty() && !activator.inner.is_ready());
        routes.set("keda", Vec::new());
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert_eq!(live(&activator), ["ns/a"]);
        assert!(activator.inner.is_ready());
        stop.cancel();
        task.await.unwrap();
    }

    #[tokio::test]
    async fn a_faulty_route_keeps_no_other_from_going_live() {
        let activator = Activator::new(Config::default(), Arc::new(Asleep));
        let list = vec![
            route("ns/a", "a"),
            route("ns/b", "a"),
            route("ns/a", "other"),
            route("ns/c", "UPPER"),
            route("ns/d", "d"),
        ];
        assert_eq!(apply(&activator, list).len(), 3);
        assert_eq!(live(&activator), ["ns/a", "ns/d"]);
    }
}
