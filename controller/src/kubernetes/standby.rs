//! The standby tier: started pods without a model, of which a wake claims one instead of making one.
//!
//! Services that have the annotation `pilotlight.dev/standby` get a pod template that names no model: the model stands in an
//! annotation of the pod, which comes into the container as a variable, and a runtime that finds it empty waits for one. Those whose
//! pod spec is then the same, of one namespace, are a **group** (its name is the digest of the spec), and share a Deployment of
//! standby pods with as many replicas as the largest number that one of them asks for. The group's objects belong to its services,
//! so that they go with the last of them.
//!
//! # How a claimed pod comes under its model's Deployment
//!
//! A ReplicaSet adopts pods that match its selector and have no controller, counts them when it syncs, and then deletes or makes
//! pods until the number is right. Pod and replicas are two objects, so whichever is written first is seen alone: a pod that matches
//! a ReplicaSet of 0 replicas is adopted and deleted at once; one that matches a moment too late finds that its ReplicaSet of 1 has
//! made another. No order of writes to a ReplicaSet that is there helps. So there is none while the service sleeps:
//!
//! 1. **Park.** A Deployment at zero is paused: a paused Deployment makes no ReplicaSet. The hash that Kubernetes gives the pods of
//!    this template (`pod-template-hash`) is noted beside it, read from the ReplicaSet it has.
//! 2. **Arm.** That ReplicaSet is deleted (only as it was read: one that was scaled meanwhile stays), and the Deployment is marked.
//! 3. **Claim** (by an activator, without the controller). *Lock*: a mark on the Deployment, conditioned on its version, so that of
//!    several activators one goes on. *Relabel*: the pod gets all labels of the model's pods with the noted hash, and loses its
//!    controller, in one write conditioned on its version, so that of several models one gets it. The standby ReplicaSet sees that
//!    it lost a pod and makes another. *Raise*: one write takes the pause away and sets the replicas, conditioned on the version
//!    that the lock left.
//! 4. The Deployment makes its ReplicaSet anew, with these replicas from its first moment and the same hash; the pod has carried the
//!    labels since before. Its first sync adopts the pod and finds the number right.
//!
//! What is left to chance is that the pod's change reaches the ReplicaSet controller (one watch event) after a chain of two writes
//! and two watch events that begins later. If it ever does, the ReplicaSet makes a pod too many and deletes it in its next sync: of two
//! it takes the one that is not ready.
//!
//! | where it breaks off | what follows |
//! |---|---|
//! | before the lock | nothing happened |
//! | after the lock | the next wake takes the lock over when it is [`CLAIM_LIMIT`] old |
//! | after the relabelling | the pod serves; the next wake raises without claiming again; an unowned pod is deleted after [`UNOWNED_LIMIT`] |
//! | the controller is away | what is armed is claimed; what woke is not armed again, and wakes by a new pod |
//! | Kubernetes hashes otherwise than before (an upgrade) | the pod stays unowned and goes after [`UNOWNED_LIMIT`], when its ReplicaSet's own serves |
//! | somebody else raises a parked Deployment | it is unparked here, and starts like any |
//!
//! A wake without a ready standby pod raises and unparks in one write, and is like any other.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
    time::Duration,
};

use k8s_openapi::{
    api::apps::v1::{Deployment, ReplicaSet},
    jiff::Timestamp,
};
use kube::{
    Api, ResourceExt,
    api::{DeleteParams, ListParams, Patch, PatchParams, Preconditions},
};
use parking_lot::Mutex;
use pilotlight_manifests::kubernetes::{
    ANNOTATION_ARMED, ANNOTATION_CLAIMING, ANNOTATION_PARKED, AUTOSCALER_MANAGER, CONTROLLER_MANAGER, LABEL_APP,
    LABEL_REVISION, LABEL_STANDBY, LABEL_TEMPLATE_HASH, Workload, standby_deployment,
};
use serde_json::{Value, json};
use tokio::{
    sync::Notify,
    time::{MissedTickBehavior, interval},
};

use super::{
    context::Context,
    facts::{DeploymentFacts, Key},
    objects::{Absent, DeploymentPlan, Group, digest, standby},
};

/// A claim that is older has broken off.
pub(crate) const CLAIM_LIMIT: Duration = Duration::from_secs(5);
/// A claimed pod without a controller is deleted after so long.
pub(crate) const UNOWNED_LIMIT: Duration = Duration::from_secs(30);
/// Time between two looks at all groups.
const PERIOD: Duration = Duration::from_secs(30);
/// Changes that come together are applied together.
const SETTLE: Duration = Duration::from_millis(50);
/// Conditioned writes that may fail: the Deployment's status moves its version too.
const TRIES: u32 = 5;
/// Digits of the digest of what was applied.
const DIGITS: usize = 24;

/// What one revision of a service asks of its group.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Wish {
    /// Digest of the pod spec.
    pub(crate) group: String,
    /// Pods.
    pub(crate) count: u32,
    /// The pod spec.
    pub(crate) spec: Value,
}

/// What all services ask for.
#[derive(Debug, Default)]
pub(crate) struct Wishes {
    state: Mutex<State>,
    changed: Notify,
}

#[derive(Debug, Default)]
struct State {
    /// By service: its uid and wishes. One that was looked at and asks for nothing is there too.
    services: BTreeMap<Key, (String, Vec<Wish>)>,
    /// Digest of each group as applied.
    applied: HashMap<Key, String>,
}

impl Wishes {
    /// What a service asks for from now on.
    pub(crate) fn set(&self, key: &Key, uid: &str, wishes: Vec<Wish>) {
        let wanted = (uid.to_owned(), wishes);
        let before = self.state.lock().services.insert(key.clone(), wanted.clone());
        if before.is_none_or(|before| before != wanted) {
            self.changed.notify_one();
        }
    }

    /// A service was looked at and is faulty: what it asked for before stands.
    pub(crate) fn keep(&self, key: &Key, uid: &str) {
        let mut state = self.state.lock();
        state
            .services
            .entry(key.clone())
            .or_insert_with(|| (uid.to_owned(), Vec::new()));
    }

    /// A service is gone.
    pub(crate) fn forget(&self, key: &Key) {
        if self
            .state
            .lock()
            .services
            .remove(key)
            .is_some_and(|(_, had)| !had.is_empty())
        {
            self.changed.notify_one();
        }
    }
}

/// The groups of these services, by namespace and name of the group.
fn groups(services: &BTreeMap<Key, (String, Vec<Wish>)>) -> BTreeMap<Key, Group> {
    let mut groups: BTreeMap<Key, Group> = BTreeMap::new();
    for ((namespace, name), (uid, wishes)) in services {
        for wish in wishes {
            let group = groups
                .entry((namespace.clone(), wish.group.clone()))
                .or_insert_with(|| Group {
                    namespace: namespace.clone(),
                    name: wish.group.clone(),
                    count: 0,
                    spec: wish.spec.clone(),
                    owners: BTreeSet::new(),
                });
            group.count = group.count.max(wish.count);
            group.owners.insert((name.clone(), uid.clone()));
        }
    }
    groups
}

/// Keeps every group's Deployment as it should be, for as long as this process leads.
pub(crate) async fn run(context: Arc<Context>) {
    let mut ticks = interval(PERIOD);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let all = tokio::select! {
            _ = ticks.tick() => true,
            () = context.standby.changed.notified() => {
                tokio::time::sleep(SETTLE).await;
                false
            }
        };
        if let Err(error) = keep(&context, all).await {
            tracing::warn!(%error, "a group of standby pods is not as it should be; it is tried again");
            context.standby.changed.notify_one();
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    }
}

/// Applies what changed; with `all`, also looks at what is there.
async fn keep(context: &Context, all: bool) -> kube::Result<()> {
    if all {
        look(context).await?;
    }
    let (wanted, applied) = {
        let state = context.standby.state.lock();
        (groups(&state.services), state.applied.clone())
    };
    let pods: u32 = wanted.values().map(|group| group.count).sum();
    context
        .metrics
        .standby
        .with_label_values(&["wanted"])
        .set(i64::from(pods));
    for (key, group) in &wanted {
        let object = standby(group);
        let written = digest(&object, DIGITS);
        if applied.get(key) != Some(&written) {
            context.apply(&object, CONTROLLER_MANAGER).await?;
            context.standby.state.lock().applied.insert(key.clone(), written);
        }
    }
    for key in applied.keys().filter(|key| !wanted.contains_key(*key)) {
        if !context.all_considered(|key| context.standby.state.lock().services.contains_key(key)) {
            // A new leader has not seen everything yet.
            continue;
        }
        let absent = Absent {
            api_version: "apps/v1",
            kind: "Deployment",
            name: standby_deployment(&key.1),
        };
        context.remove(&key.0, &absent).await?;
        context.standby.state.lock().applied.remove(key);
    }
    Ok(())
}

/// Learns which groups there are: those that nobody asks for go, and those that are gone are applied again.
async fn look(context: &Context) -> kube::Result<()> {
    let api: Api<Deployment> = match &context.config.watched {
        Some(namespace) => Api::namespaced(context.client.clone(), namespace),
        None => Api::all(context.client.clone()),
    };
    let list = api.list(&ListParams::default().labels(LABEL_STANDBY)).await?;
    let ready = |one: &Deployment| {
        one.status
            .as_ref()
            .and_then(|status| status.ready_replicas)
            .unwrap_or(0)
    };
    let total: i32 = list.iter().map(ready).sum();
    context
        .metrics
        .standby
        .with_label_values(&["ready"])
        .set(i64::from(total));
    let there: BTreeSet<Key> = list
        .iter()
        .filter_map(|one| Some((one.namespace()?, one.labels().get(LABEL_STANDBY)?.clone())))
        .collect();
    let mut state = context.standby.state.lock();
    state.applied.retain(|key, _| there.contains(key));
    for key in there {
        state.applied.entry(key).or_default();
    }
    Ok(())
}

/// What is to be done with a Deployment, so that its next wake may claim a pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Move {
    /// Nothing.
    Stay,
    /// Pause it.
    Park,
    /// Delete its ReplicaSet, and mark it.
    Arm,
    /// Take the pause and all marks away.
    Unpark,
    /// Look again: a claim is under way.
    Wait,
}

/// The next step for a Deployment. `wanted`: it has a group. `pods`: it has pods that are not on their way out.
pub(crate) fn next(wanted: bool, facts: &DeploymentFacts, pods: bool, now: Timestamp) -> Move {
    let wanted = wanted && facts.replicas == 0;
    let of_now = |mark: &String| mark.split('.').next() == Some(facts.revision.as_str());
    match &facts.parked {
        Some(parked) if wanted && of_now(parked) => match &facts.armed {
            Some(armed) if armed == parked => Move::Stay,
            _ => Move::Arm,
        },
        Some(_) if facts.replicas == 0 && facts.claiming.as_deref().is_some_and(|mark| is_fresh(mark, now)) => {
            Move::Wait
        }
        Some(_) => Move::Unpark,
        None if wanted && facts.settled && !pods => Move::Park,
        None => Move::Stay,
    }
}

/// Whether the claim of this mark, `{pod uid} {RFC 3339}`, may still be under way.
fn is_fresh(mark: &str, now: Timestamp) -> bool {
    let began = mark.split_once(' ').and_then(|(_, at)| at.parse::<Timestamp>().ok());
    began.is_some_and(|began| younger(began, CLAIM_LIMIT, now))
}

/// Whether less than `limit` has passed since `then`.
pub(crate) fn younger(then: Timestamp, limit: Duration, now: Timestamp) -> bool {
    now.as_millisecond().saturating_sub(then.as_millisecond()) < limit.as_millis() as i64
}

/// Carries the next step out for a workload; answers when to look again, where no event will say so.
pub(crate) async fn prepare(context: &Context, plan: &DeploymentPlan) -> kube::Result<Option<Duration>> {
    let workload = &plan.workload;
    let (facts, pods) = {
        let world = context.world.lock();
        let Some(facts) = world.deployment(workload).cloned() else {
            return Ok(None);
        };
        let pods = world.pods(workload).any(|pod| !pod.terminating);
        (facts, pods)
    };
    let step = next(plan.standby.is_some(), &facts, pods, Timestamp::now());
    let name = match step {
        Move::Stay => return Ok(None),
        Move::Wait => return Ok(Some(CLAIM_LIMIT)),
        Move::Park => "park",
        Move::Arm => "arm",
        Move::Unpark => "unpark",
    };
    let outcome = match step {
        Move::Park => park(context, workload, &facts).await,
        Move::Arm => arm(context, workload, &facts).await,
        _ => unpark(context, workload, &facts).await,
    };
    match outcome {
        Ok(()) => {
            context.metrics.parkings.with_label_values(&[name]).inc();
            Ok(None)
        }
        // Somebody wrote first, and the event of it brings us back; should it have come by before, so does the clock.
        Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => Ok(Some(Duration::from_secs(1))),
        Err(error) => Err(error),
    }
}

/// Pauses the Deployment and notes its hash.
async fn park(context: &Context, workload: &Workload, facts: &DeploymentFacts) -> kube::Result<()> {
    let Some(set) = newest(context, workload, &facts.revision).await? else {
        // Not made yet; the Deployment's status will tell.
        return Ok(());
    };
    let Some(hash) = set.labels().get(LABEL_TEMPLATE_HASH) else {
        return Ok(());
    };
    let mark = format!("{}.{hash}", facts.revision);
    let body = json!({
        "metadata": { "resourceVersion": facts.resource_version, "annotations": { ANNOTATION_PARKED: mark } },
        "spec": { "paused": true },
    });
    patch(context, workload, body).await
}

/// The ReplicaSet of the Deployment's newest revision.
async fn newest(context: &Context, workload: &Workload, revision: &str) -> kube::Result<Option<ReplicaSet>> {
    let api: Api<ReplicaSet> = Api::namespaced(context.client.clone(), &workload.namespace);
    let selector = format!("{LABEL_APP}={},{LABEL_REVISION}={revision}", workload.app());
    let list = api.list(&ListParams::default().labels(&selector)).await?;
    let name = workload.deployment();
    let ours = |set: &ReplicaSet| set.owner_references().iter().any(|owner| owner.name == name);
    Ok(list.into_iter().find(ours))
}

/// Deletes the ReplicaSet and marks the Deployment.
async fn arm(context: &Context, workload: &Workload, facts: &DeploymentFacts) -> kube::Result<()> {
    if let Some(set) = newest(context, workload, &facts.revision).await? {
        let wanted = set.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(1);
        let has = set.status.as_ref().map_or(0, |status| status.replicas);
        if wanted > 0 || has > 0 {
            return Ok(());
        }
        let parameters = DeleteParams::background().preconditions(Preconditions {
            uid: set.uid(),
            resource_version: set.resource_version(),
        });
        let api: Api<ReplicaSet> = Api::namespaced(context.client.clone(), &workload.namespace);
        context.pace.take().await;
        api.delete(&set.name_any(), &parameters).await?;
    }
    let api: Api<Deployment> = Api::namespaced(context.client.clone(), &workload.namespace);
    for _ in 0..TRIES {
        let now = api.get(&workload.deployment()).await?;
        let same = now.annotations().get(ANNOTATION_PARKED) == facts.parked.as_ref()
            && now.spec.as_ref().and_then(|spec| spec.replicas) == Some(0);
        if !same {
            return Ok(());
        }
        let body = json!({ "metadata": {
            "resourceVersion": now.metadata.resource_version,
            "annotations": { ANNOTATION_ARMED: facts.parked, ANNOTATION_CLAIMING: null },
        } });
        match patch(context, workload, body).await {
            Err(kube::Error::Api(status)) if status.code == 409 => {}
            outcome => return outcome,
        }
    }
    Ok(())
}

async fn unpark(context: &Context, workload: &Workload, facts: &DeploymentFacts) -> kube::Result<()> {
    let body = json!({
        "metadata": {
            "resourceVersion": facts.resource_version,
            "annotations": { ANNOTATION_PARKED: null, ANNOTATION_ARMED: null, ANNOTATION_CLAIMING: null },
        },
        "spec": { "paused": false },
    });
    patch(context, workload, body).await
}

/// Under the autoscaler's name, as the activators do: what our own manager applies says nothing of a pause.
async fn patch(context: &Context, workload: &Workload, body: Value) -> kube::Result<()> {
    let api: Api<Deployment> = Api::namespaced(context.client.clone(), &workload.namespace);
    let parameters = PatchParams {
        field_manager: Some(AUTOSCALER_MANAGER.to_owned()),
        ..PatchParams::default()
    };
    context.pace.take().await;
    let outcome = api
        .patch(&workload.deployment(), &parameters, &Patch::Merge(body))
        .await;
    context.metrics.wrote("Deployment", outcome.as_ref().map(|_| ()));
    outcome.map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wish(group: &str, count: u32) -> Wish {
        Wish {
            group: group.to_owned(),
            count,
            spec: json!({ "of": group }),
        }
    }

    fn key(namespace: &str, name: &str) -> Key {
        (namespace.to_owned(), name.to_owned())
    }

    #[test]
    fn services_of_one_template_share_the_largest_number_that_one_asks_for() {
        let services = BTreeMap::from([
            (key("shop", "a"), ("1".to_owned(), vec![wish("g", 2)])),
            (key("shop", "b"), ("2".to_owned(), vec![wish("g", 0)])),
            (key("shop", "c"), ("3".to_owned(), vec![wish("h", 1), wish("g", 1)])),
            (key("lab", "a"), ("4".to_owned(), vec![wish("g", 1)])),
            (key("lab", "z"), ("5".to_owned(), Vec::new())),
        ]);
        let groups = groups(&services);
        let counts: Vec<(&str, &str, u32, usize)> = groups
            .iter()
            .map(|((namespace, name), group)| (namespace.as_str(), name.as_str(), group.count, group.owners.len()))
            .collect();
        assert_eq!(counts, [("lab", "g", 1, 1), ("shop", "g", 2, 3), ("shop", "h", 1, 1)]);
    }

    fn asleep() -> DeploymentFacts {
        DeploymentFacts {
            revision: "r1".to_owned(),
            settled: true,
            ..DeploymentFacts::default()
        }
    }

    fn marked(parked: Option<&str>, armed: Option<&str>) -> DeploymentFacts {
        DeploymentFacts {
            parked: parked.map(str::to_owned),
            armed: armed.map(str::to_owned),
            ..asleep()
        }
    }

    fn step(wanted: bool, facts: &DeploymentFacts, pods: bool) -> Move {
        next(wanted, facts, pods, "2026-11-23T12:00:00Z".parse().unwrap())
    }

    #[test]
    fn a_sleeping_deployment_is_parked_and_armed_and_then_left_alone() {
        assert_eq!(step(true, &asleep(), false), Move::Park);
        assert_eq!(step(true, &marked(Some("r1.h"), None), false), Move::Arm);
        assert_eq!(step(true, &marked(Some("r1.h"), Some("r1.h")), false), Move::Stay);
    }

    #[test]
    fn one_that_has_pods_or_replicas_or_no_group_is_not_parked() {
        assert_eq!(step(true, &asleep(), true), Move::Stay);
        assert_eq!(step(false, &asleep(), false), Move::Stay);
        let mut unsettled = asleep();
        unsettled.settled = false;
        assert_eq!(step(true, &unsettled, false), Move::Stay);
        let mut awake = asleep();
        awake.replicas = 1;
        assert_eq!(step(true, &awake, false), Move::Stay);
    }

    #[test]
    fn a_parked_one_that_is_raised_changed_or_left_by_its_group_is_unparked() {
        let mut raised = marked(Some("r1.h"), Some("r1.h"));
        raised.replicas = 1;
        assert_eq!(step(true, &raised, false), Move::Unpark);
        assert_eq!(step(true, &marked(Some("r0.h"), Some("r0.h")), false), Move::Unpark);
        assert_eq!(step(false, &marked(Some("r1.h"), None), false), Move::Unpark);
    }

    #[test]
    fn a_claim_under_way_is_not_disturbed_and_one_that_broke_off_is() {
        let mut claimed = marked(Some("r0.h"), Some("r0.h"));
        claimed.claiming = Some("uid 2026-11-23T11:59:58Z".to_owned());
        assert_eq!(step(true, &claimed, false), Move::Wait);
        claimed.claiming = Some("uid 2026-11-23T11:59:50Z".to_owned());
        assert_eq!(step(true, &claimed, false), Move::Unpark);
    }
}
