//! Fewer replicas without a lost request: choose pods, seal them at every activator, wait until nothing is on them, lower the
//! scale on the condition that nobody asked for more meanwhile.

use std::{
    collections::{BTreeSet, HashMap},
    net::SocketAddr,
    time::Duration,
};

use futures_util::{StreamExt, stream::FuturesUnordered};
use k8s_openapi::api::{apps::v1::Deployment, core::v1::Pod};
use kube::{
    Api,
    api::{Patch, PatchParams},
};
use pilotlight_manifests::kubernetes::{ANNOTATION_DELETION_COST, ANNOTATION_WOKEN_AT, AUTOSCALER_MANAGER, Workload};
use serde_json::json;
use tokio::time::{Instant, sleep};

use super::{
    activators::SealRequest,
    context::Context,
    facts::{DeploymentFacts, PodFacts},
};

/// A seal lapses after this, so that a controller that dies leaves nothing sealed.
const HOLD: Duration = Duration::from_secs(30);
/// Time between two looks at what is still in flight, the first and the longest.
const LOOKS: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(1));
/// Conditioned writes that may fail for another reason than a wake.
const TRIES: u32 = 5;

/// A scale-down that was decided.
#[derive(Clone, Debug)]
pub(crate) struct Order {
    pub(crate) workload: Workload,
    pub(crate) to: u32,
    /// The Deployment as it was decided on.
    pub(crate) from: DeploymentFacts,
    /// The pods to choose from.
    pub(crate) pods: Vec<PodFacts>,
}

/// The pods that go: names and uids.
type Chosen = Vec<(String, String)>;

/// What became of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// The scale is lower.
    Done,
    /// Somebody asked for the workload meanwhile, or an activator was silent, or the pods stayed busy.
    TakenBack(&'static str),
    /// The API server refused.
    Failed(String),
}

/// The pods that go so that `keep` stay: those that serve nothing yet, then those of an older revision, then those with the
/// fewest requests (`load`, by uid), then the youngest, as Kubernetes chooses.
fn choose(pods: &[PodFacts], keep: u32, newest: &str, load: &HashMap<String, u64>) -> Chosen {
    let mut living: Vec<&PodFacts> = pods.iter().filter(|pod| !pod.terminating).collect();
    living.sort_by(|left, right| {
        let busy = |pod: &PodFacts| load.get(&pod.uid).copied().unwrap_or_default();
        let rank = |pod: &PodFacts| (pod.ready, pod.revision == newest, busy(pod));
        rank(left)
            .cmp(&rank(right))
            .then_with(|| right.created.cmp(&left.created))
            .then_with(|| left.name.cmp(&right.name))
    });
    let many = living.len().saturating_sub(keep as usize);
    living
        .iter()
        .take(many)
        .map(|pod| (pod.name.clone(), pod.uid.clone()))
        .collect()
}

/// Carries an order out. Dropping the future leaves seals that lapse.
pub(crate) async fn carry_out(context: &Context, order: &Order) -> Outcome {
    let mut request = SealRequest {
        backend: order.workload.backend(),
        endpoints: order.pods.iter().map(|pod| pod.uid.clone()).collect(),
        hold_seconds: HOLD.as_secs(),
    };
    // Where all go there is nothing to choose.
    let load = if order.to > 0 {
        load(context, &request).await
    } else {
        HashMap::new()
    };
    let pods = choose(&order.pods, order.to, &order.from.revision, &load);
    request.endpoints = pods.iter().map(|(_, uid)| uid.clone()).collect();
    let outcome = match drained(context, order, &request).await {
        Ok(()) => lower(context, order, &pods).await,
        Err(why) => Outcome::TakenBack(why),
    };
    if outcome != Outcome::Done {
        take_back(context, order, &pods, &request).await;
    }
    outcome
}

/// Requests in flight on each pod over all activators. One that does not answer is left out: to seal fails there anyway.
async fn load(context: &Context, request: &SealRequest) -> HashMap<String, u64> {
    let mut asked: FuturesUnordered<_> = holding(context)
        .into_iter()
        .map(|at| context.activators.load(at, request))
        .collect();
    let mut load = HashMap::new();
    while let Some(answer) = asked.next().await {
        for (uid, on_it) in answer.unwrap_or_default().endpoints {
            *load.entry(uid).or_default() += on_it.in_flight;
        }
    }
    load
}

/// Seals the pods everywhere, again and again, until nothing is in flight on any.
async fn drained(context: &Context, order: &Order, request: &SealRequest) -> Result<(), &'static str> {
    if request.endpoints.is_empty() {
        return Ok(());
    }
    let deadline = Instant::now() + context.config.drain_limit;
    let mut pause = LOOKS.0;
    // An activator that went on once unsealed could hold new requests, so every look asks all that are there then.
    let mut sealed = BTreeSet::new();
    loop {
        let addresses = holding(context);
        match seal_all(context, &addresses, request).await {
            Some(0) if sealed == addresses => return Ok(()),
            Some(_) => {}
            None => return Err("an activator is silent"),
        }
        sealed = addresses;
        if woken(context, order) {
            return Err("it was asked for");
        }
        if Instant::now() >= deadline {
            return Err("requests took too long");
        }
        sleep(pause).await;
        pause = (pause * 2).min(LOOKS.1);
    }
}

/// Whether the watch already shows that the order is outdated.
fn woken(context: &Context, order: &Order) -> bool {
    let world = context.world.lock();
    world
        .deployment(&order.workload)
        .is_none_or(|now| outdated(&order.from, now.replicas, now.woken_at.as_deref()))
}

/// Whether somebody asked for the workload after the decision: other replicas, or another wake.
fn outdated(from: &DeploymentFacts, replicas: u32, woken_at: Option<&str>) -> bool {
    from.replicas != replicas || from.woken_at.as_deref() != woken_at
}

fn holding(context: &Context) -> BTreeSet<SocketAddr> {
    context.activator_addresses().0
}

/// Requests in flight on the sealed pods over all activators; `None` where one did not answer.
async fn seal_all(context: &Context, addresses: &BTreeSet<SocketAddr>, request: &SealRequest) -> Option<u64> {
    let mut asked: FuturesUnordered<_> = addresses
        .iter()
        .map(|at| context.activators.seal(*at, request))
        .collect();
    let mut in_flight = 0;
    while let Some(answer) = asked.next().await {
        match answer {
            Ok(answer) => in_flight += answer.in_flight(),
            Err(error) => {
                tracing::info!(%error, backend = request.backend, "an activator did not seal");
                return None;
            }
        }
    }
    Some(in_flight)
}

/// Lowers the scale where nobody asked for more since the decision. A write of the Deployment's status moves its version too, so
/// a conflict is looked at before it counts.
async fn lower(context: &Context, order: &Order, pods: &Chosen) -> Outcome {
    if order.to > 0 {
        mark(context, order, pods, Some("-1000")).await;
    }
    let namespace = &order.workload.namespace;
    let api: Api<Deployment> = Api::namespaced(context.client.clone(), namespace);
    let name = order.workload.deployment();
    let mut version = order.from.resource_version.clone();
    for _ in 0..TRIES {
        let body = json!({ "metadata": { "resourceVersion": version }, "spec": { "replicas": order.to } });
        let parameters = PatchParams {
            field_manager: Some(AUTOSCALER_MANAGER.to_owned()),
            ..PatchParams::default()
        };
        let outcome = api.patch_scale(&name, &parameters, &Patch::Merge(body)).await;
        context.metrics.wrote("Scale", outcome.as_ref().map(|_| ()));
        match outcome {
            Ok(_) => return Outcome::Done,
            Err(kube::Error::Api(status)) if status.code == 409 => {}
            Err(error) => return Outcome::Failed(error.to_string()),
        }
        let now = match api.get(&name).await {
            Ok(now) => now,
            Err(error) => return Outcome::Failed(error.to_string()),
        };
        let replicas = now.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(1).max(0) as u32;
        let woken_at = now
            .metadata
            .annotations
            .as_ref()
            .and_then(|all| all.get(ANNOTATION_WOKEN_AT));
        if outdated(&order.from, replicas, woken_at.map(String::as_str)) {
            return Outcome::TakenBack("it was asked for");
        }
        version = now.metadata.resource_version.unwrap_or_default();
    }
    Outcome::TakenBack("the Deployment is busy")
}

/// Says which pods are to go, or says it no more.
async fn mark(context: &Context, order: &Order, pods: &Chosen, cost: Option<&str>) {
    let api: Api<Pod> = Api::namespaced(context.client.clone(), &order.workload.namespace);
    for (name, _) in pods {
        let body = json!({ "metadata": { "annotations": { ANNOTATION_DELETION_COST: cost } } });
        let outcome = api
            .patch_metadata(name, &PatchParams::default(), &Patch::Merge(body))
            .await;
        context.metrics.wrote("Pod", outcome.as_ref().map(|_| ()));
    }
}

async fn take_back(context: &Context, order: &Order, pods: &Chosen, request: &SealRequest) {
    if request.endpoints.is_empty() {
        return;
    }
    for at in context.activator_addresses().1 {
        // One that does not hear it lets the seal lapse.
        if let Err(error) = context.activators.unseal(at, request).await {
            tracing::debug!(%error, %at, "a seal was not taken back");
        }
    }
    if order.to > 0 {
        mark(context, order, pods, None).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(name: &str, ready: bool, revision: &str, created: u32) -> PodFacts {
        PodFacts {
            name: name.to_owned(),
            uid: name.to_owned(),
            ready,
            revision: revision.to_owned(),
            created: format!("2026-11-23T12:00:{created:02}Z"),
            ..PodFacts::default()
        }
    }

    fn chosen(pods: &[PodFacts], keep: u32) -> Vec<String> {
        chosen_of(pods, keep, &[])
    }

    fn chosen_of(pods: &[PodFacts], keep: u32, load: &[(&str, u64)]) -> Vec<String> {
        let load = load.iter().map(|(uid, busy)| ((*uid).to_owned(), *busy)).collect();
        choose(pods, keep, "r2", &load)
            .into_iter()
            .map(|(name, _)| name)
            .collect()
    }

    #[test]
    fn what_serves_nothing_goes_first_then_the_old_revision_then_the_youngest() {
        let pods = [
            pod("newest-old", true, "r2", 1),
            pod("starting", false, "r2", 9),
            pod("former", true, "r1", 0),
            pod("newest-young", true, "r2", 5),
        ];
        assert_eq!(chosen(&pods, 3), ["starting"]);
        assert_eq!(chosen(&pods, 1), ["starting", "former", "newest-young"]);
        assert_eq!(chosen(&pods, 0).len(), 4);
    }

    #[test]
    fn of_pods_that_serve_the_same_the_idle_ones_go_first() {
        let pods = [
            pod("busy", true, "r2", 9),
            pod("idle", true, "r2", 1),
            pod("busiest", true, "r2", 5),
        ];
        let load = [("busy", 2), ("busiest", 7)];
        assert_eq!(chosen_of(&pods, 2, &load), ["idle"]);
        assert_eq!(chosen_of(&pods, 1, &load), ["idle", "busy"]);
    }

    #[test]
    fn pods_that_end_already_are_neither_kept_nor_chosen() {
        let mut ending = pod("ending", true, "r2", 1);
        ending.terminating = true;
        assert_eq!(chosen(&[ending, pod("a", true, "r2", 2)], 1), [""; 0]);
    }

    #[test]
    fn a_wake_or_other_replicas_outdate_a_decision() {
        let from = DeploymentFacts {
            replicas: 1,
            woken_at: Some("t1".to_owned()),
            ..DeploymentFacts::default()
        };
        assert!(!outdated(&from, 1, Some("t1")));
        assert!(outdated(&from, 1, Some("t2")));
        assert!(outdated(&from, 2, Some("t1")));
    }
}
