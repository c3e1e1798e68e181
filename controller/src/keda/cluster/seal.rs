//! Zero without a lost request: before the last replicas go, every activator is told to send them nothing more, and only then is
//! the scale written. A request that comes in between waits, and wakes by a write of the workload, which makes ours fail.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    sync::Arc,
    time::Duration,
};

use futures_util::future;
use tokio::sync::watch;

use crate::kubernetes::activators::{Activators, SealRequest};

/// A seal lapses after this: a controller that dies leaves nothing sealed, and a pod that stays after all (zero and one in one breath)
/// is used again. Longer than asking everybody twice takes ([`ASKING`]) and the write after it.
const HOLD: Duration = Duration::from_secs(5);
/// How long an activator may take to answer.
pub(crate) const ASKING: Duration = Duration::from_secs(1);
/// Every pod that an activator knows.
const ALL: &str = "*";

/// Activators that may hold requests, and a way to ask them.
#[derive(Clone, Debug)]
pub(crate) struct Sealer {
    activators: Activators,
    holding: watch::Receiver<Arc<BTreeSet<SocketAddr>>>,
}

/// What is sealed: uids of pods by backend.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Sealed(BTreeMap<String, BTreeSet<String>>);

impl Sealer {
    pub(crate) fn new(activators: Activators, holding: watch::Receiver<Arc<BTreeSet<SocketAddr>>>) -> Self {
        Self { activators, holding }
    }

    /// Seals every pod of these backends at every activator. All are asked twice: a pod that only one of them knows is sealed at
    /// the others too, before it could be told to them.
    ///
    /// # Errors
    /// Where an activator is silent or has a request on one of the pods; what was sealed is taken back.
    pub(crate) async fn seal(&self, backends: &[String]) -> Result<Sealed, &'static str> {
        let mut sealed = Sealed::default();
        for _ in 0..2 {
            let addresses = Arc::clone(&self.holding.borrow());
            for backend in backends {
                let uids = sealed.0.entry(backend.clone()).or_default();
                let outcome = self.ask(&addresses, backend, uids).await;
                if let Err(why) = outcome {
                    self.take_back(&sealed).await;
                    return Err(why);
                }
            }
        }
        Ok(sealed)
    }

    async fn ask(
        &self,
        addresses: &BTreeSet<SocketAddr>,
        backend: &str,
        uids: &mut BTreeSet<String>,
    ) -> Result<(), &'static str> {
        let endpoints = uids.iter().cloned().chain([ALL.to_owned()]);
        let request = SealRequest {
            backend: backend.to_owned(),
            endpoints: endpoints.collect(),
            hold_seconds: HOLD.as_secs(),
        };
        let asked = addresses.iter().map(|at| self.activators.seal(*at, &request));
        let mut outcome = Ok(());
        for answer in future::join_all(asked).await {
            match answer {
                Ok(answer) => {
                    if answer.in_flight() > 0 {
                        outcome = Err("a request came");
                    }
                    uids.extend(answer.endpoints.into_keys());
                }
                Err(error) => {
                    tracing::info!(%error, backend, "an activator did not seal");
                    outcome = Err("an activator is silent");
                }
            }
        }
        outcome
    }

    /// Takes seals back; an activator that does not hear it lets them lapse.
    pub(crate) async fn take_back(&self, sealed: &Sealed) {
        let addresses = Arc::clone(&self.holding.borrow());
        for (backend, uids) in sealed.0.iter().filter(|(_, uids)| !uids.is_empty()) {
            let request = SealRequest {
                backend: backend.clone(),
                endpoints: uids.iter().cloned().collect(),
                hold_seconds: HOLD.as_secs(),
            };
            let asked = addresses.iter().map(|at| self.activators.unseal(*at, &request));
            for error in future::join_all(asked).await.into_iter().filter_map(Result::err) {
                tracing::debug!(%error, backend, "a seal was not taken back");
            }
        }
    }
}

#[cfg(test)]
#[path = "seal_tests.rs"]
mod tests;
