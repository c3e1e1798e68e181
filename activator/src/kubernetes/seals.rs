//! Seals that the controller asks for by pod, and that lapse unless it asks again: a controller that died leaves no pod
//! without requests.

use std::{
    collections::{BTreeMap, HashMap},
    sync::OnceLock,
    time::Duration,
};

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::{Activator, BackendId, Endpoint, EndpointId};

/// In the place of uids: every pod that is known now.
pub(crate) const ALL: &str = "*";

/// How often lapsed seals are looked for.
const SWEEP: Duration = Duration::from_millis(500);

/// A pod that is sealed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Drain {
    /// This activator knows the pod as an endpoint of the backend. One that it does not know gets nothing from it either.
    pub known: bool,
    /// Requests in flight on it from here.
    pub in_flight: u32,
}

#[derive(Debug, Default)]
struct State {
    /// The endpoints of each backend with the uid of their pod.
    endpoints: HashMap<BackendId, Vec<(String, EndpointId)>>,
    /// Until when each pod is sealed.
    sealed: HashMap<BackendId, HashMap<String, Instant>>,
}

/// The seals of one activator.
#[derive(Debug, Default)]
pub struct Seals {
    /// The waker has to know the seals, and the activator the waker, so it comes last.
    activator: OnceLock<Activator>,
    state: Mutex<State>,
}

impl Seals {
    /// Whose endpoints they are. Before it nothing has an effect; a second one is ignored.
    pub fn bind(&self, activator: &Activator) {
        self.activator.set(activator.clone()).ok();
    }

    /// Declares the endpoints of a backend, each with the uid of its pod. A new endpoint of a sealed pod is sealed.
    pub(crate) fn publish(&self, backend: &BackendId, uids: Vec<(String, EndpointId)>, endpoints: Vec<Endpoint>) {
        let Some(activator) = self.activator.get() else { return };
        let mut state = self.state.lock();
        // Under the lock, so that a seal between the two would not miss an endpoint.
        activator.set_endpoints(backend, endpoints);
        if let Some(sealed) = state.sealed.get(backend) {
            let ids = uids.iter().filter(|(uid, _)| sealed.contains_key(uid));
            for (_, id) in ids {
                activator.seal(backend, id);
            }
        }
        if uids.is_empty() {
            state.endpoints.remove(backend);
        } else {
            state.endpoints.insert(backend.clone(), uids);
        }
    }

    /// Ends new picks of these pods until `until`, and says what is still in flight on them. Again is the same, and later. `*` among
    /// them stands for every pod of the backend that is known now, by whose uid it is answered.
    pub fn seal(&self, backend: &BackendId, uids: &[String], until: Instant) -> BTreeMap<String, Drain> {
        let mut state = self.state.lock();
        let uids = expanded(&state, backend, uids);
        if uids.is_empty() {
            return BTreeMap::new();
        }
        let sealed = state.sealed.entry(backend.clone()).or_default();
        sealed.extend(uids.iter().map(|uid| (uid.clone(), until)));
        let drain = |uid: &String| {
            let mut drain = Drain {
                known: false,
                in_flight: 0,
            };
            for id in ids(&state, backend, uid) {
                if let Some(sealed) = self.activator.get().and_then(|activator| activator.seal(backend, id)) {
                    drain.known = true;
                    drain.in_flight += sealed.in_flight();
                }
            }
            (uid.clone(), drain)
        };
        uids.iter().map(drain).collect()
    }

    /// What is in flight on these pods, and nothing else: who chooses pods that are to go asks first.
    pub fn load(&self, backend: &BackendId, uids: &[String]) -> BTreeMap<String, Drain> {
        let state = self.state.lock();
        let load = |uid: &String| {
            let held = ids(&state, backend, uid).filter_map(|id| self.activator.get()?.in_flight(backend, id));
            let held: Vec<u32> = held.collect();
            let drain = Drain {
                known: !held.is_empty(),
                in_flight: held.iter().sum(),
            };
            (uid.clone(), drain)
        };
        uids.iter().map(load).collect()
    }

    /// Takes the seals of these pods back.
    pub fn unseal(&self, backend: &BackendId, uids: &[String]) {
        let mut state = self.state.lock();
        if let Some(sealed) = state.sealed.get_mut(backend) {
            sealed.retain(|uid, _| !uids.contains(uid));
            if sealed.is_empty() {
                state.sealed.remove(backend);
            }
        }
        let Some(activator) = self.activator.get() else { return };
        for uid in uids {
            for id in ids(&state, backend, uid) {
                activator.unseal(backend, id);
            }
        }
    }

    /// Takes all seals of a backend back.
    pub(crate) fn release(&self, backend: &BackendId) {
        let uids: Vec<String> = {
            let state = self.state.lock();
            let sealed = state.sealed.get(backend);
            sealed.into_iter().flat_map(HashMap::keys).cloned().collect()
        };
        if !uids.is_empty() {
            tracing::info!(%backend, "a request came while its replicas were being taken out of service: they stay");
            self.unseal(backend, &uids);
        }
    }

    /// Whether pods of a backend are sealed.
    pub(crate) fn any(&self, backend: &BackendId) -> bool {
        self.state.lock().sealed.contains_key(backend)
    }

    /// Takes back what was not asked for again in time.
    fn lapse(&self, now: Instant) {
        let lapsed: Vec<(BackendId, Vec<String>)> = {
            let state = self.state.lock();
            let over = |sealed: &HashMap<String, Instant>| {
                let over = sealed.iter().filter(|(_, until)| **until <= now);
                over.map(|(uid, _)| uid.clone()).collect::<Vec<_>>()
            };
            let all = state
                .sealed
                .iter()
                .map(|(backend, sealed)| (backend.clone(), over(sealed)));
            all.filter(|(_, over)| !over.is_empty()).collect()
        };
        for (backend, uids) in lapsed {
            // Seals of pods that are gone are just forgotten.
            let there = |uid: &String| ids(&self.state.lock(), &backend, uid).next().is_some();
            if uids.iter().any(there) {
                tracing::warn!(%backend, ?uids, "a seal lapsed: the controller did not ask for it again");
            }
            self.unseal(&backend, &uids);
        }
    }

    /// Lets seals lapse until `stop`.
    pub(crate) async fn run(&self, stop: CancellationToken) {
        while stop.run_until_cancelled(tokio::time::sleep(SWEEP)).await.is_some() {
            self.lapse(Instant::now());
        }
    }
}

fn expanded(state: &State, backend: &BackendId, uids: &[String]) -> Vec<String> {
    let all = uids.iter().any(|uid| uid == ALL);
    let known = state.endpoints.get(backend).into_iter().flatten();
    let known = known.filter(|_| all).map(|(uid, _)| uid);
    let named = uids.iter().filter(|uid| *uid != ALL);
    named.chain(known).cloned().collect()
}

fn ids<'a>(state: &'a State, backend: &BackendId, uid: &'a str) -> impl Iterator<Item = &'a EndpointId> {
    let known = state.endpoints.get(backend).into_iter().flatten();
    known.filter(move |(known, _)| known == uid).map(|(_, id)| id)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use futures_util::future::BoxFuture;

    use super::*;
    use crate::{Config, EndpointState, Probe, Protocol, WakeError, Waker};

    struct Asleep;

    impl Waker for Asleep {
        fn wake(&self, _: &BackendId) -> BoxFuture<'static, Result<(), WakeError>> {
            Box::pin(async { Ok(()) })
        }
    }

    fn endpoint(id: &str) -> Endpoint {
        Endpoint {
            id: EndpointId::new(id),
            address: ([127, 0, 0, 1], 1).into(),
            protocol: Protocol::H1,
            server_name: None,
            capacity: None,
            initial_capacity: 1,
            probe: Probe::Declared,
            state: EndpointState::Ready,
            started: Instant::now(),
        }
    }

    fn stage(ids: &[(&str, &str)]) -> (Activator, Arc<Seals>, BackendId) {
        let seals = Arc::new(Seals::default());
        let activator = Activator::new(Config::default(), Arc::new(Asleep));
        seals.bind(&activator);
        let backend = BackendId::new("ns/a");
        publish(&seals, &backend, ids);
        (activator, seals, backend)
    }

    fn publish(seals: &Seals, backend: &BackendId, ids: &[(&str, &str)]) {
        let uids = ids
            .iter()
            .map(|(uid, id)| ((*uid).to_owned(), EndpointId::new(id)))
            .collect();
        seals.publish(backend, uids, ids.iter().map(|(_, id)| endpoint(id)).collect());
    }

    fn uids(uids: &[&str]) -> Vec<String> {
        uids.iter().map(ToString::to_string).collect()
    }

    #[tokio::test(start_paused = true)]
    async fn a_seal_lapses_unless_it_is_asked_for_again() {
        let (activator, seals, backend) = stage(&[("p", "p")]);
        let stop = CancellationToken::new();
        let task = tokio::spawn({
            let (seals, stop) = (Arc::clone(&seals), stop.clone());
            async move { seals.run(stop).await }
        });
        let hold = Duration::from_secs(30);
        let answer = seals.seal(&backend, &uids(&["p", "q"]), Instant::now() + hold);
        let known = |known| Drain { known, in_flight: 0 };
        assert_eq!(answer, [("p".into(), known(true)), ("q".into(), known(false))].into());
        tokio::time::sleep(hold / 2).await;
        seals.seal(&backend, &uids(&["p"]), Instant::now() + hold);
        tokio::time::sleep(hold.saturating_sub(SWEEP)).await;
        assert!(activator.ready(&backend).is_empty(), "asked for again in between");
        tokio::time::sleep(3 * SWEEP).await;
        assert_eq!(activator.ready(&backend), [EndpointId::new("p")]);
        assert!(!seals.any(&backend));
        stop.cancel();
        task.await.unwrap();
    }

    #[tokio::test]
    async fn a_star_seals_every_pod_that_is_known_and_none_that_comes_later() {
        let (activator, seals, backend) = stage(&[("p", "p"), ("q", "q")]);
        let until = Instant::now() + Duration::from_secs(30);
        let sealed = seals.seal(&backend, &uids(&["*"]), until);
        assert_eq!(sealed.into_keys().collect::<Vec<_>>(), ["p", "q"]);
        assert!(activator.ready(&backend).is_empty());
        publish(&seals, &backend, &[("p", "p"), ("q", "q"), ("late", "late")]);
        assert_eq!(activator.ready(&backend), [EndpointId::new("late")]);
        let other = BackendId::new("ns/unknown");
        assert!(seals.seal(&other, &uids(&["*"]), until).is_empty() && !seals.any(&other));
    }

    #[tokio::test]
    async fn a_restarted_container_of_a_sealed_pod_is_sealed_too() {
        let (activator, seals, backend) = stage(&[("p", "p")]);
        let until = Instant::now() + Duration::from_secs(30);
        seals.seal(&backend, &uids(&["p", "late"]), until);
        publish(&seals, &backend, &[("p", "p.1"), ("late", "late"), ("o", "o")]);
        assert_eq!(activator.ready(&backend), [EndpointId::new("o")]);
        seals.unseal(&backend, &uids(&["p"]));
        let mut ready = activator.ready(&backend);
        ready.sort_unstable();
        assert_eq!(ready, [EndpointId::new("o"), EndpointId::new("p.1")]);
        seals.release(&backend);
        assert_eq!(activator.ready(&backend).len(), 3);
    }
}
