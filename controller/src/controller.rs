//! The reconcile loop: declared services in, replicas and routes out.
//!
//! One task owns every [`ServiceState`]; nothing in it waits but for the next thing to happen, so a wake is carried out the
//! moment it arrives. What takes time (reading models, checks, drains) runs beside it and comes back as an event.
//!
//! Order of construction, as each part needs the one before: [`wake::channel`](crate::wake::channel), the activator with the
//! handle, the platform, the source, [`Controller::new`] with all of them, then the servers, then [`Controller::run`].

mod run;

use std::sync::Arc;

use prometheus::Registry;
use tokio::sync::{broadcast, watch};
use tokio_util::sync::CancellationToken;

use self::run::Run;
use crate::{
    change::Change,
    check::Check,
    config::Config,
    error::Error,
    metrics::Metrics,
    platform::Platform,
    source::{Declared, Source, SourceHandle},
    status::StatusSet,
    traffic::Traffic,
    wake::Wakes,
    workload,
};

/// What a controller works with.
pub struct Parts {
    /// Its end of the wake channel.
    pub wakes: Wakes,
    /// The proxy.
    pub traffic: Arc<dyn Traffic>,
    /// Whatever runs replicas.
    pub platform: Arc<dyn Platform>,
    /// Checks models at deployment; `None` trusts them.
    pub checker: Option<Arc<dyn Check>>,
    /// What is declared.
    pub source: Source,
    /// Where its metrics are registered.
    pub registry: Registry,
}

/// Keeps what runs in line with what is declared and with the load.
pub struct Controller {
    pub(crate) shared: Shared,
    wakes: Wakes,
    checker: Option<Arc<dyn Check>>,
    source: Source,
    declared: watch::Receiver<Arc<Declared>>,
}

/// What the loop and the API both hold.
#[derive(Clone)]
pub(crate) struct Shared {
    pub(crate) config: Arc<Config>,
    pub(crate) traffic: Arc<dyn Traffic>,
    pub(crate) platform: Arc<dyn Platform>,
    pub(crate) source: SourceHandle,
    pub(crate) status: watch::Sender<Arc<StatusSet>>,
    pub(crate) changes: broadcast::Sender<Arc<Change>>,
    pub(crate) metrics: Metrics,
    /// Cancelled when the shutdown begins, so that streams to clients end.
    pub(crate) ending: CancellationToken,
}

impl Controller {
    /// Puts the parts together and sets the routes, so that a server that starts now knows them; nothing else happens before
    /// [`Self::run`]. Fails where a metric's name is taken.
    pub fn new(config: Config, parts: Parts) -> Result<Self, Error> {
        let shared = Shared {
            traffic: parts.traffic,
            platform: parts.platform,
            source: parts.source.handle(),
            status: watch::Sender::new(Arc::default()),
            changes: broadcast::Sender::new(config.changes_capacity.max(1)),
            metrics: Metrics::new(&parts.registry)?,
            ending: CancellationToken::new(),
            config: Arc::new(config),
        };
        let declared = parts.source.declared();
        let routes = workload::routes(&declared.borrow(), &shared.config.domain);
        if let Err(error) = shared.traffic.set_routes(routes) {
            // The loop says it again to whoever watches changes.
            tracing::error!(%error, "the routes were refused");
        }
        Ok(Self {
            shared,
            wakes: parts.wakes,
            checker: parts.checker,
            source: parts.source,
            declared,
        })
    }

    /// State changes in words from now on. A reader that lags misses the oldest.
    pub fn changes(&self) -> broadcast::Receiver<Arc<Change>> {
        self.shared.changes.subscribe()
    }

    /// The services as they are, now and later.
    pub fn status(&self) -> watch::Receiver<Arc<StatusSet>> {
        self.shared.status.subscribe()
    }

    /// The API under `/api/v1`, to be merged into the admin address' router.
    pub fn api_router(&self) -> axum::Router {
        crate::api::router(self.shared.clone())
    }

    /// Runs until `shutdown`: then wakes fail, requests in flight get `shutdown_drain`, replicas `shutdown_limit`, and it
    /// resolves when none is left. Dropping the future leaves replicas to the platform's drop.
    pub async fn run(self, shutdown: CancellationToken) {
        let ending = self.shared.ending.clone();
        // Whichever way this ends, also by being dropped.
        let _ended = ending.clone().drop_guard();
        let source = tokio::spawn(self.source.run(ending.clone()));
        let mut run = Run::new(self.shared, self.checker, self.declared);
        run.until(shutdown, self.wakes).await;
        ending.cancel();
        run.stop().await;
        // It ends at its next step; a slow disk must not hold the shutdown.
        source.abort();
    }
}

#[cfg(test)]
mod tests;
