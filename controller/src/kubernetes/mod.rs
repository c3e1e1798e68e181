//! The controller in a cluster: InferenceServices become Deployments, Services and the rest, and their replicas follow the load.
//!
//! Decisions, without IO and clock: `objects` (a service to what is applied), `runtimes` (which runtime serves it), `status`
//! (what is seen to KServe's status), `scaler` over [`autoscaler`](crate::autoscaler), the choice of pods in `drain`, the
//! candidate of `lease`. State: `facts`, a few of each object. Adapters: `watches`, `reconcile`, `autoscale`, `drain`, the
//! activators' client, the Lease.
//!
//! It holds no request and routes none: the activators do, and go on while no controller runs.

pub(crate) mod activators;
mod admin;
mod autoscale;
mod calls;
pub mod config;
mod context;
pub mod counts;
mod drain;
mod facts;
mod lease;
mod metrics;
mod objects;
mod pace;
mod reconcile;
mod runtimes;
mod scaler;
mod standby;
mod status;
#[cfg(test)]
mod testing;
mod watches;

use std::{future::Future, io, sync::Arc};

use kube::{Client, api::DynamicObject, runtime::reflector::store::Writer};
use prometheus::Registry;
use tokio::{net::TcpListener, task::JoinSet};
use tokio_util::sync::CancellationToken;

pub use self::{
    calls::Calls,
    config::{ClusterConfig, LeaseConfig},
};
use self::{
    context::{Context, inference_services},
    counts::Counts,
    lease::Election,
    metrics::Metrics,
};

/// Why the controller ended otherwise than by being told to.
#[derive(Debug, thiserror::Error)]
pub enum ClusterError {
    /// The admin address can't be had.
    #[error("can't listen on the admin address: {0}")]
    Admin(#[from] io::Error),
    /// A metric's name is taken.
    #[error("metrics: {0}")]
    Metrics(#[from] prometheus::Error),
    /// Another process leads, or the API server could not be reached for too long. A new process begins as a follower.
    #[error("the lease was lost")]
    LeaseLost,
}

/// The controller in a cluster.
pub struct ClusterController {
    context: Arc<Context>,
    writer: Writer<DynamicObject>,
    requests: tokio::sync::mpsc::Receiver<kube::runtime::reflector::ObjectRef<DynamicObject>>,
    registry: Registry,
}

impl ClusterController {
    /// Puts the parts together; nothing happens before [`Self::run`]. `calls` made the client. Fails where a metric's name is
    /// taken.
    pub fn new(client: Client, calls: &Calls, config: ClusterConfig) -> Result<Self, ClusterError> {
        let registry = Registry::new();
        calls.register(&registry)?;
        let writer = Writer::new(inference_services());
        let counts = Arc::new(Counts::new(config.stale_after, config.unknown_limit));
        let metrics = Metrics::new(&registry)?;
        let (context, requests) = Context::new(client, config, writer.as_reader(), counts, metrics);
        Ok(Self {
            context,
            writer,
            requests,
            registry,
        })
    }

    /// Where more metrics may be registered; `/metrics` of the admin side shows it.
    pub fn registry(&self) -> &Registry {
        &self.registry
    }

    /// The counts of all activators; fresh while this process leads.
    pub fn counts(&self) -> Arc<Counts> {
        self.context.counts.clone()
    }

    /// Watches, waits to lead, then reconciles and scales until `shutdown`; what is being written then is finished or left
    /// for the next leader. `also` runs for as long as this process leads. Ends with an error where the lease is lost.
    pub async fn run(
        self,
        shutdown: CancellationToken,
        also: impl Future<Output = ()> + Send + 'static,
    ) -> Result<(), ClusterError> {
        let context = self.context;
        let listener = TcpListener::bind(context.config.admin_address).await?;
        let mut tasks = JoinSet::new();
        let router = admin::router(context.clone(), self.registry);
        tasks.spawn(async move {
            if let Err(error) = axum::serve(listener, router).await {
                tracing::error!(%error, "the admin side ended");
            }
        });
        tasks.spawn(watches::services(context.clone(), self.writer));
        tasks.spawn(watches::deployments(context.clone()));
        tasks.spawn(watches::pods(context.clone()));
        tasks.spawn(watches::troubles(context.clone()));
        tasks.spawn(watches::activators(context.clone()));
        tasks.spawn(watches::slices(context.clone()));
        tasks.spawn(watches::children(context.clone()));
        tasks.spawn(watches::runtimes(context.clone(), false));
        tasks.spawn(watches::runtimes(context.clone(), true));
        let config = &context.config;
        let mut election = Election::new(
            context.client.clone(),
            &config.namespace,
            pilotlight_manifests::kubernetes::CONTROLLER,
            &config.identity,
            config.lease,
        );
        tokio::select! {
            () = shutdown.cancelled() => return Ok(()),
            () = led(&context, &mut election) => {}
        }
        tracing::info!("leading");
        tasks.spawn(reconcile::run(context.clone(), self.requests));
        tasks.spawn(autoscale::run(context.clone()));
        tasks.spawn(standby::run(context.clone()));
        tasks.spawn(also);
        context.lead();
        context.enqueue_all().await;
        let outcome = tokio::select! {
            () = shutdown.cancelled() => Ok(()),
            () = election.hold() => Err(ClusterError::LeaseLost),
        };
        tasks.shutdown().await;
        if outcome.is_ok() {
            election.release().await;
        }
        outcome
    }
}

/// Resolves when everything was listed once and this process leads: a leader that knew half would scale by half.
async fn led(context: &Context, election: &mut Election) {
    let mut synced = context.synced.subscribe();
    // The sender lives in the context, so this only ends when it is so.
    let _ = synced.wait_for(|synced| *synced >= watches::WATCHES).await;
    election.acquire().await;
}
