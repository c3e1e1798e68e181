//! The activator in a cluster: routes, endpoints and wakes from the API server alone.
//!
//! [`Cluster`] puts it together. Watches (`watch`) bring objects as they come and go; what matters of each is read by pure
//! functions (`service`, `deployment`, `pod`, `peers`) into the `index`, which knows what follows for a route, a backend's
//! endpoints, what a wake scales and whether replicas can start at all; `sync` tells the activator. Of containerConcurrency
//! each activator takes its share (`shares`). The waker raises the `scale` (`waker`, whose decisions are in `scale`), with a standby
//! pod where there is one (`claim`, whose decisions are in `standby`; `assign` gives the pod its model), and the
//! controller seals pods over the admin port (`api`, `seals`).
//!
//! It needs no controller: what sleeps is woken and what runs is served without one. While the API server is away everything
//! that is known is served on, and wakes are tried until it is back.
//!
//! Other kinds of workloads come in the same way: hand routes in ([`Routes`]), say what a wake scales ([`Targets`]) and set
//! endpoints on the activator; a [`Context`] has all three.

mod api;
mod assign;
mod claim;
mod config;
mod deployment;
mod index;
pub mod keda;
mod limiter;
mod peers;
mod pod;
mod routes;
mod scale;
mod seals;
mod service;
mod shares;
mod standby;
mod sync;
mod target;
mod waker;
mod watch;

use std::sync::Arc;

use kube::Client;
use tokio_util::sync::CancellationToken;

pub use self::{
    api::{SealAnswer, SealRequest},
    config::ClusterConfig,
    routes::Routes,
    seals::{Drain, Seals},
    target::{Target, Targets},
};
use self::{
    assign::Assigner,
    claim::{Claimer, KubeClaims},
    standby::StandbyPods,
    sync::{SERVICES, Sync},
    waker::{KubeScales, ScaleWaker},
};
use crate::{Activator, Config};

/// What a source of routes and workloads works with. Cheap to clone.
#[derive(Clone)]
pub struct Context {
    /// The API server.
    pub client: Client,
    /// Where endpoints are set.
    pub activator: Activator,
    /// Where routes are handed in.
    pub routes: Arc<Routes>,
    /// What wakes scale.
    pub targets: Arc<Targets>,
    /// Pods that are taken out of service.
    pub seals: Arc<Seals>,
    /// Settings.
    pub config: Arc<ClusterConfig>,
}

/// An activator that lives on a cluster's API server.
pub struct Cluster {
    context: Context,
    standby: Arc<StandbyPods>,
    assigner: Arc<Assigner>,
}

impl Cluster {
    /// Has to be called within a Tokio runtime. Nothing is asked of the API server before [`Self::run`].
    pub fn new(client: Client, config: ClusterConfig, proxy: Config) -> Self {
        let targets = Arc::new(Targets::default());
        let seals = Arc::new(Seals::default());
        let scales = KubeScales {
            client: client.clone(),
            timeout: config.call_timeout,
        };
        let (standby, assigner) = (Arc::new(StandbyPods::default()), Arc::new(Assigner::default()));
        let claims = claim::counter();
        let claimer = Claimer {
            claims: Box::new(KubeClaims {
                client: client.clone(),
                timeout: config.call_timeout,
            }),
            pods: Arc::clone(&standby),
            assigner: Arc::clone(&assigner),
            counter: claims.clone(),
        };
        let waker = ScaleWaker::new(&config, scales, Some(claimer), Arc::clone(&targets), Arc::clone(&seals));
        let activator = Activator::new(proxy, Arc::new(waker));
        // The registry is new, and no other metric has its name.
        let registered = activator.registry().register(Box::new(claims));
        debug_assert!(registered.is_ok());
        seals.bind(&activator);
        Self {
            context: Context {
                client,
                activator,
                routes: Arc::new(Routes::new(&[SERVICES])),
                targets,
                seals,
                config: Arc::new(config),
            },
            standby,
            assigner,
        }
    }

    /// The proxy. It is ready once all of the cluster is known.
    pub fn activator(&self) -> &Activator {
        &self.context.activator
    }

    /// What further sources of routes work with.
    pub fn context(&self) -> Context {
        self.context.clone()
    }

    /// The admin side: the activator's own, and what the controller asks for.
    pub fn admin_router(&self) -> axum::Router {
        let Context {
            activator,
            seals,
            config,
            ..
        } = &self.context;
        activator
            .admin_router()
            .merge(api::router(activator.clone(), Arc::clone(seals), config.hold_max))
    }

    /// Follows the cluster until `stop`. An API server that is away at any time is waited for.
    pub async fn run(&self, stop: CancellationToken) {
        let Context {
            client,
            activator,
            routes,
            targets,
            seals,
            config,
        } = self.context.clone();
        let (sources, changes) = watch::all(&client, &config);
        let sync = Sync::new(
            &config,
            activator.clone(),
            targets,
            Arc::clone(&seals),
            Arc::clone(&routes),
            (Arc::clone(&self.standby), Arc::clone(&self.assigner)),
            sources,
        );
        tokio::join!(
            sync.run(changes, stop.clone()),
            routes.run(&activator, stop.clone()),
            seals.run(stop),
        );
    }
}
