//! One service: what should be there is applied where it isn't, and what is seen becomes its status.

use std::{sync::Arc, time::Duration};

use futures_util::{StreamExt, stream};
use k8s_openapi::jiff::Timestamp;
use kube::{
    api::{DynamicObject, Patch, PatchParams},
    runtime::{
        applier,
        controller::{Action, Config, Error as ControllerError},
        reflector::ObjectRef,
    },
};
use pilotlight_manifests::{
    AutoscalerClass, Service,
    kubernetes::{ANNOTATION_TRAFFIC_PERCENT, AUTOSCALER_MANAGER, CONTROLLER_MANAGER, Workload},
    parse_object,
    v1alpha1::ServingRuntime,
};
use serde_json::{Value, json};
use tokio::{sync::mpsc, time::Instant};

use super::{
    context::{Context, Managed, inference_services, reference, unpacked},
    facts::{DeploymentFacts, Key},
    objects::{
        ANNOTATION_APPLIED, ANNOTATION_SCALED_BY, Absent, DeploymentPlan, Owner, Settings, deployment, digest,
        endpoint_slice, slice_name, surroundings, value_digest,
    },
    runtimes::{Runtime, reason, select},
    scaler::Reach,
    standby::{UNOWNED_LIMIT, Wish, prepare, younger},
    status::{Invalid, Observed, Transition, same, status, transitions},
};

/// A pod is taken out of a crash loop at most this often for one service.
const REPLACE_PAUSE: Duration = Duration::from_secs(30);
/// What the API server says, with a 500, of a field of a wrong type or name in what is applied.
const TYPED_PATCH: &str = "failed to create typed patch object";
/// A canary that goes gets no request any more for so long before its pods end, so that no activator routes to what is gone.
const HIDE: Duration = Duration::from_secs(3);
/// Digits of the digest of what was applied.
const APPLIED_DIGITS: usize = 24;

/// Why a reconciliation failed; it is tried again.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ReconcileError {
    /// The API server refused or could not be reached.
    #[error("{what}: {source}")]
    Api {
        what: &'static str,
        #[source]
        source: Box<kube::Error>,
    },
}

fn api_error(what: &'static str) -> impl FnOnce(kube::Error) -> ReconcileError {
    move |source| ReconcileError::Api {
        what,
        source: Box::new(source),
    }
}

/// Reconciles whatever is asked for, until the queue ends.
pub(crate) async fn run(context: Arc<Context>, requests: mpsc::Receiver<ObjectRef<DynamicObject>>) {
    let queue = stream::unfold(requests, |mut requests| async {
        let next = requests.recv().await?;
        Some((Ok::<_, std::convert::Infallible>(next), requests))
    });
    let config = Config::default().concurrency(context.config.concurrency);
    let store = context.services.clone();
    let reconciler = |object: Arc<DynamicObject>, context: Arc<Context>| Box::pin(timed(object, context));
    let mut results = std::pin::pin!(applier(
        reconciler,
        retry,
        context.clone(),
        store,
        Box::pin(queue),
        config
    ));
    while let Some(result) = results.next().await {
        match result {
            Ok(_) => {}
            // Deleted while it waited; its objects go by their owner reference.
            Err(ControllerError::ObjectNotFound(gone)) => {
                context.forget(&(gone.namespace.clone().unwrap_or_default(), gone.name.clone()));
            }
            Err(error) => tracing::warn!(%error, "a reconciliation failed and is tried again"),
        }
    }
}

fn retry(object: Arc<DynamicObject>, _: &ReconcileError, context: Arc<Context>) -> Action {
    Action::requeue(context.failed(&key_of(&object)))
}

fn key_of(object: &DynamicObject) -> Key {
    let metadata = &object.metadata;
    (
        metadata.namespace.clone().unwrap_or_default(),
        metadata.name.clone().unwrap_or_default(),
    )
}

async fn timed(object: Arc<DynamicObject>, context: Arc<Context>) -> Result<Action, ReconcileError> {
    let start = Instant::now();
    let object = unpacked(&object);
    let outcome = reconcile(&object, &context).await;
    context.metrics.reconcile_seconds.observe(start.elapsed().as_secs_f64());
    let result = outcome.as_ref().map_or("error", |done| done.result);
    context.metrics.reconciles.with_label_values(&[result]).inc();
    let done = outcome?;
    context.succeeded(&key_of(&object));
    if let Some(again) = done.again {
        return Ok(Action::requeue(again));
    }
    // Spread over the interval, so that what began together does not come back together.
    let spread = context.config.resync.mul_f64(0.75 + 0.5 * fraction(&key_of(&object)));
    Ok(Action::requeue(spread))
}

/// A number in [0, 1) that is always the same for a service.
fn fraction((namespace, name): &Key) -> f64 {
    let sum = namespace
        .bytes()
        .chain(name.bytes())
        .fold(7_u32, |sum, byte| sum.wrapping_mul(31).wrapping_add(byte.into()));
    f64::from(sum % 1000) / 1000.0
}

/// How a reconciliation ended.
#[derive(Clone, Copy, Debug)]
struct Done {
    result: &'static str,
    /// Whether there is more to do, and when.
    again: Option<Duration>,
}

impl From<&'static str> for Done {
    fn from(result: &'static str) -> Self {
        Self { result, again: None }
    }
}

/// What a service is to become.
struct Goal {
    service: Arc<Service>,
    runtime: Runtime,
    /// Its newest revision, for the stable workload or the canary.
    plans: Vec<DeploymentPlan>,
    /// Canaries whose Deployments go.
    ending: Vec<Workload>,
}

async fn reconcile(object: &DynamicObject, context: &Context) -> Result<Done, ReconcileError> {
    let key = key_of(object);
    if object.metadata.deletion_timestamp.is_some() {
        // Its objects follow by their owner references, and drain as pods do.
        context.forget(&key);
        return Ok("deleted".into());
    }
    let stable = Workload::stable(&key.0, &key.1);
    let adopted = context.config.beside_kserve || {
        let world = context.world.lock();
        world.deployment(&stable).is_some_and(|facts| !facts.ours)
    };
    let parsed = parse_object(&serde_json::to_value(object).unwrap_or_default());
    let Some(service) = parsed.services.into_iter().next().map(Arc::new) else {
        let invalid = Invalid::from_faults(&parsed.faults);
        context.standby.keep(&key, &owner(object).uid);
        if !adopted {
            write_slices(context, object).await?;
            report(context, object, None, Some(invalid)).await?;
        }
        return Ok("invalid".into());
    };
    if adopted {
        adopt(context, &service);
        context.standby.set(&key, &owner(object).uid, Vec::new());
        return Ok("adopted".into());
    }
    let goal = match goal(context, object, &service) {
        Ok(goal) => goal,
        Err(invalid) => {
            context.standby.keep(&key, &owner(object).uid);
            // What runs goes on as it is, and is scaled as before.
            report(context, object, Some((&service, None)), Some(invalid)).await?;
            return Ok("invalid".into());
        }
    };
    manage(context, &goal);
    let wishes: Vec<Wish> = goal.plans.iter().filter_map(|plan| plan.standby.clone()).collect();
    context.standby.set(&key, &owner(object).uid, wishes);
    let outcome = match apply(context, object, &goal).await {
        Ok(done) => Ok(done),
        Err(error) => match refused(&error) {
            Some(invalid) => {
                report(context, object, Some((&service, Some(&goal.runtime))), Some(invalid)).await?;
                return Ok("invalid".into());
            }
            None => Err(error),
        },
    };
    write_slices(context, object).await?;
    replace_pausing(context, object).await;
    let again = [
        delete_unowned(context, &key).await,
        park(context, &goal).await?,
        outcome.as_ref().ok().and_then(|done| done.again),
    ];
    report(context, object, Some((&service, Some(&goal.runtime))), None).await?;
    outcome.map(|done| Done {
        again: again.into_iter().flatten().min(),
        ..done
    })
}

/// Makes what sleeps ready for claims of standby pods; answers when to look again.
async fn park(context: &Context, goal: &Goal) -> Result<Option<Duration>, ReconcileError> {
    let mut again = None;
    for plan in &goal.plans {
        let when = prepare(context, plan)
            .await
            .map_err(api_error("preparing for a standby pod"))?;
        again = again.into_iter().chain(when).min();
    }
    Ok(again)
}

/// Deletes claimed pods that no ReplicaSet took; answers when to look again.
async fn delete_unowned(context: &Context, key: &Key) -> Option<Duration> {
    let unowned = context.world.lock().unowned(key);
    let now = Timestamp::now();
    for (pod, uid, claimed_at) in &unowned {
        let young = claimed_at
            .parse::<Timestamp>()
            .is_ok_and(|claimed_at| younger(claimed_at, UNOWNED_LIMIT, now));
        if young {
            continue;
        }
        match context.delete_pod(pod, uid).await {
            Ok(()) => tracing::warn!(pod = pod.1, "a claimed pod that no ReplicaSet took was deleted"),
            Err(error) => tracing::warn!(%error, pod = pod.1, "a claimed pod that nobody owns was not deleted"),
        }
    }
    (!unowned.is_empty()).then_some(UNOWNED_LIMIT)
}

/// What the API server finds wrong with what the user wrote: to try again would change nothing.
fn refused(error: &ReconcileError) -> Option<Invalid> {
    let ReconcileError::Api { source, .. } = error;
    match &**source {
        kube::Error::Api(status) if matches!(status.code, 400 | 422) || status.message.contains(TYPED_PATCH) => {
            Some(Invalid {
                reason: reason::INVALID_SPEC,
                message: status.message.clone(),
            })
        }
        _ => None,
    }
}

fn owner(object: &DynamicObject) -> Owner {
    let (namespace, name) = key_of(object);
    Owner {
        name,
        namespace,
        uid: object.metadata.uid.clone().unwrap_or_default(),
    }
}

/// What should be there, from the service, the runtimes and what is there.
fn goal(context: &Context, object: &DynamicObject, service: &Arc<Service>) -> Result<Goal, Invalid> {
    let owner = owner(object);
    let (of_namespace, of_cluster) = runtimes(context, &owner.namespace);
    let runtime = select(service, &of_namespace, &of_cluster)?;
    let settings = Settings {
        image: context.config.image.clone(),
        gpu_image: context.config.gpu_image.clone(),
        drain_delay: context.config.drain_delay,
    };
    let newest = deployment(service, &runtime, &settings, &owner, None)?;
    let stable = newest.workload.clone();
    let (running, beside) = {
        let world = context.world.lock();
        let key = (owner.namespace.clone(), owner.name.clone());
        (world.deployment(&stable).cloned(), world.canaries(&key))
    };
    let mut plans = Vec::new();
    for canary in &service.cluster.canaries {
        let share = Some((canary.name.as_str(), canary.percent));
        match &canary.service {
            Some(other) => {
                let runtime = select(other, &of_namespace, &of_cluster)?;
                plans.push(deployment(other, &runtime, &settings, &owner, share)?);
            }
            // The predictor is the new revision; the one that runs stays as it is.
            None if running
                .as_ref()
                .is_some_and(|running| running.revision != newest.revision) =>
            {
                plans.push(deployment(service, &runtime, &settings, &owner, share)?);
            }
            None => {}
        }
    }
    let stays = service.cluster.canaries.iter().any(|canary| canary.service.is_none()) && !plans.is_empty();
    // A canary that won goes once the stable one serves what it served; until then both do.
    let settled = !stays
        && running
            .as_ref()
            .is_some_and(|running| running.revision == newest.revision && running.rolled_out);
    if !stays {
        plans.insert(0, newest);
    }
    let wanted = |workload: &Workload| plans.iter().any(|plan| plan.workload == *workload);
    let ending = beside
        .into_iter()
        .filter(|(workload, facts)| settled && !wanted(workload) && facts.ours && !facts.deleting)
        .map(|(workload, _)| workload)
        .collect();
    Ok(Goal {
        service: service.clone(),
        runtime,
        plans,
        ending,
    })
}

fn runtimes(context: &Context, namespace: &str) -> (Vec<Arc<ServingRuntime>>, Vec<Arc<ServingRuntime>>) {
    let all = context.runtimes.lock();
    let of = |wanted: &str| {
        let found = all.iter().filter(|((namespace, _), _)| namespace == wanted);
        found.map(|(_, runtime)| runtime.clone()).collect()
    };
    (of(namespace), of(""))
}

/// Says whose replicas are ours to decide.
fn manage(context: &Context, goal: &Goal) {
    let reach = goal.service.cluster.autoscaler_class.is_own().then_some(Reach::All);
    let (namespace, name) = (&goal.service.namespace, &goal.service.name);
    let mut managed = context.managed.lock();
    let stable = Managed {
        scaling: Arc::new(goal.service.scaling.clone()),
        reach,
    };
    managed.insert(Workload::stable(namespace, name), stable);
    let workload = Workload::stable(namespace, name);
    managed.retain(|other, _| {
        !other.is_beside(&workload) || !other.is_canary() || goal.plans.iter().any(|plan| plan.workload == *other)
    });
    for canary in &goal.service.cluster.canaries {
        let workload = Workload::canary(namespace, name, &canary.name);
        if goal.plans.iter().any(|plan| plan.workload == workload) {
            let service = canary.service.as_deref().unwrap_or(&goal.service);
            let scaling = Arc::new(service.scaling.clone());
            managed.insert(workload, Managed { scaling, reach });
        }
    }
    context.metrics.services.set(managed.len() as i64);
}

/// A workload that somebody else made: its way to zero is ours where nobody is said to scale it, and nothing else.
fn adopt(context: &Context, service: &Arc<Service>) {
    let may = service.cluster.autoscaler_class == AutoscalerClass::Own && service.scaling.min_replicas == 0;
    let managed = Managed {
        scaling: Arc::new(service.scaling.clone()),
        reach: may.then_some(Reach::ToZero),
    };
    context
        .managed
        .lock()
        .insert(Workload::stable(&service.namespace, &service.name), managed);
}

/// Applies what isn't there as it should be.
async fn apply(context: &Context, object: &DynamicObject, goal: &Goal) -> Result<Done, ReconcileError> {
    let owner = owner(object);
    let key = key_of(object);
    let around = surroundings(&goal.service, &owner);
    // One digest over everything, written with the Deployment at last, says that all of it was applied.
    let everything: Value = json!([
        around.present,
        goal.plans.iter().map(|plan| &plan.object).collect::<Vec<_>>(),
    ]);
    let wanted = digest(&everything, APPLIED_DIGITS);
    let missing = context.missing.lock().contains(&key);
    let facts = |workload: &Workload| context.world.lock().deployment(workload).cloned();
    let up_to_date =
        |plan: &DeploymentPlan| facts(&plan.workload).is_some_and(|facts| facts.applied.as_ref() == Some(&wanted));
    let mut changed = false;
    if missing || !goal.plans.iter().all(up_to_date) {
        for object in &around.present {
            context
                .apply(object, CONTROLLER_MANAGER)
                .await
                .map_err(api_error("applying what is around"))?;
        }
        // A service that has no Deployment yet never had anything that it must not have now.
        let former = facts(&Workload::stable(&owner.namespace, &owner.name)).is_some();
        for absent in around.absent.iter().filter(|_| former) {
            context
                .remove(&owner.namespace, absent)
                .await
                .map_err(api_error("removing what is not needed"))?;
        }
        for plan in &goal.plans {
            apply_deployment(context, plan, facts(&plan.workload).as_ref(), &wanted).await?;
        }
        context.missing.lock().remove(&key);
        changed = true;
    }
    let mut again = None;
    for canary in &goal.ending {
        let later = end_canary(context, canary).await?;
        again = [again, later].into_iter().flatten().min();
    }
    context.hidden.lock().retain(|workload, _| {
        goal.ending.contains(workload) || (&workload.namespace, &workload.name) != (&key.0, &key.1)
    });
    let result = if changed { "applied" } else { "unchanged" };
    Ok(Done { result, again })
}

/// Ends a canary in two steps: first nobody is routed to it, then its pods drain and go. Answers when to look again.
async fn end_canary(context: &Context, canary: &Workload) -> Result<Option<Duration>, ReconcileError> {
    let shown = context
        .world
        .lock()
        .deployment(canary)
        .is_some_and(|facts| facts.percent != Some(0));
    if shown {
        let api = context.api(&canary.namespace, &super::context::resource("apps/v1", "Deployment"));
        let body = json!({ "metadata": { "annotations": { ANNOTATION_TRAFFIC_PERCENT: "0" } } });
        let parameters = PatchParams {
            field_manager: Some(CONTROLLER_MANAGER.to_owned()),
            ..PatchParams::default()
        };
        context.pace.take().await;
        let outcome = api.patch(&canary.deployment(), &parameters, &Patch::Merge(body)).await;
        outcome.map_err(api_error("routing nobody to the canary"))?;
    }
    let now = Instant::now();
    let since = *context.hidden.lock().entry(canary.clone()).or_insert(now);
    if now < since + HIDE {
        return Ok(Some(since + HIDE - now));
    }
    let absent = Absent {
        api_version: "apps/v1",
        kind: "Deployment",
        name: canary.deployment(),
    };
    context
        .remove(&canary.namespace, &absent)
        .await
        .map_err(api_error("ending the canary"))?;
    Ok(None)
}

/// Applies a Deployment so that its replicas never belong to our field manager: a new one is made by the autoscaler's, and ours
/// takes over everything but the replicas. With the first change the autoscaler's lets go of all but them. An apply that leaves
/// out what it never owned resets nothing.
async fn apply_deployment(
    context: &Context,
    plan: &DeploymentPlan,
    facts: Option<&DeploymentFacts>,
    wanted: &str,
) -> Result<(), ReconcileError> {
    let mut marked = plan.object.clone();
    marked["metadata"]["annotations"][ANNOTATION_APPLIED] = wanted.into();
    if facts.is_none() {
        let mut first = plan.object.clone();
        first["spec"]["replicas"] = plan.initial.into();
        context
            .apply(&first, AUTOSCALER_MANAGER)
            .await
            .map_err(api_error("creating the Deployment"))?;
    }
    let applied = context
        .apply(&marked, CONTROLLER_MANAGER)
        .await
        .map_err(api_error("applying the Deployment"))?;
    match facts {
        None => context.take_in(applied),
        Some(facts) if !facts.handed_over => hand_over(context, plan, facts.replicas).await?,
        Some(_) => {}
    }
    Ok(())
}

/// The autoscaler's field manager, which made the Deployment, keeps nothing but the replicas.
async fn hand_over(context: &Context, plan: &DeploymentPlan, replicas: u32) -> Result<(), ReconcileError> {
    let share = json!({
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {
            "name": plan.workload.deployment(),
            "namespace": plan.workload.namespace,
            "annotations": { ANNOTATION_SCALED_BY: AUTOSCALER_MANAGER },
        },
        "spec": { "replicas": replicas },
    });
    let api = context.api(
        &plan.workload.namespace,
        &super::context::resource("apps/v1", "Deployment"),
    );
    // Without force: where an activator has woken it since, the number is the activator's and the share is taken without it.
    let unforced = PatchParams::apply(AUTOSCALER_MANAGER);
    let outcome = api
        .patch(&plan.workload.deployment(), &unforced, &Patch::Apply(&share))
        .await;
    match outcome {
        Err(kube::Error::Api(status)) if status.code == 409 => {
            let mut without = share;
            if let Some(object) = without.as_object_mut() {
                object.remove("spec");
            }
            context
                .apply(&without, AUTOSCALER_MANAGER)
                .await
                .map_err(api_error("handing the replicas over"))?;
        }
        Err(error) => return Err(api_error("handing the replicas over")(error)),
        Ok(_) => {}
    }
    Ok(())
}

/// The slices that lead a service's address to the activators.
async fn write_slices(context: &Context, object: &DynamicObject) -> Result<(), ReconcileError> {
    let owner = owner(object);
    let activators = context.world.lock().reachable_activators();
    for ipv6 in [false, true] {
        let key = (owner.namespace.clone(), slice_name(&owner.name, ipv6));
        let known = context.slices.lock().get(&key).cloned();
        let any = activators.iter().any(|endpoint| endpoint.address.contains(':') == ipv6);
        // A slice without endpoints is written only over one that had some.
        if !any && known.is_none() {
            continue;
        }
        let slice = endpoint_slice(&owner, &activators, ipv6);
        let wanted = value_digest(&slice);
        if known.as_ref() == Some(&wanted) {
            continue;
        }
        context
            .apply(&slice, CONTROLLER_MANAGER)
            .await
            .map_err(api_error("writing the way to the activators"))?;
        context.slices.lock().insert(key, wanted);
    }
    Ok(())
}

/// Deletes pods that served and are in kubelet's pause between crashes.
async fn replace_pausing(context: &Context, object: &DynamicObject) {
    let key = key_of(object);
    let pausing = context.world.lock().pausing(&key);
    let Some((pod, uid)) = pausing.first() else { return };
    {
        let mut replaced = context.replaced.lock();
        let now = Instant::now();
        if replaced.get(&key).is_some_and(|last| *last + REPLACE_PAUSE > now) {
            return;
        }
        replaced.insert(key.clone(), now);
    }
    match context.delete_pod(pod, uid).await {
        Ok(()) => {
            context.metrics.replaced.with_label_values::<&str>(&[]).inc();
            let what = Transition {
                warning: true,
                reason: "PodReplaced".to_owned(),
                note: format!(
                    "{} served and now crashes: deleted, so that a new one starts without a pause",
                    pod.1
                ),
            };
            context.tell(&reference(object), &what).await;
        }
        Err(error) => tracing::warn!(%error, pod = pod.1, "a crashing pod was not deleted"),
    }
}

/// Writes the status where it changed, and tells what changed.
async fn report(
    context: &Context,
    object: &DynamicObject,
    service: Option<(&Service, Option<&Runtime>)>,
    invalid: Option<Invalid>,
) -> Result<(), ReconcileError> {
    let (namespace, name) = key_of(object);
    let former = object.data.get("status").cloned().unwrap_or_default();
    let runtime = service
        .and_then(|(_, runtime)| runtime)
        .and_then(|runtime| match runtime {
            Runtime::Serving { runtime, cluster } => Some((runtime.metadata.name.clone(), *cluster)),
            _ => None,
        });
    let scaling = service.map(|(service, _)| &service.scaling);
    let observed = {
        let world = context.world.lock();
        let shares = service.into_iter().flat_map(|(service, _)| &service.cluster.canaries);
        let canaries = shares.filter_map(|canary| {
            let workload = Workload::canary(&namespace, &name, &canary.name);
            world.deployment(&workload)?;
            Some((canary.name.clone(), canary.percent, world.seen(&workload)))
        });
        let canaries = canaries.collect();
        Observed {
            name: &name,
            namespace: &namespace,
            generation: object.metadata.generation.unwrap_or_default(),
            domain: &context.config.domain,
            cluster_domain: &context.config.cluster_domain,
            invalid,
            stopped: scaling.is_some_and(|scaling| scaling.max_replicas == Some(0)),
            promised: scaling.map_or(0, |scaling| scaling.min_replicas),
            stable: world.seen(&Workload::stable(&namespace, &name)),
            canaries,
            reachable: world.activators().iter().any(|activator| activator.ready),
            runtime,
        }
    };
    let now = Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
    let new = status(&observed, &former, &now);
    if same(&former, &new) {
        return Ok(());
    }
    let body = json!({
        "apiVersion": pilotlight_manifests::v1beta1::API_VERSION,
        "kind": pilotlight_manifests::v1beta1::KIND,
        "metadata": { "name": name, "namespace": namespace },
        "status": new,
    });
    context.pace.take().await;
    let api = context.api(&namespace, &inference_services());
    let parameters = PatchParams::apply(CONTROLLER_MANAGER).force();
    let outcome = api.patch_status(&name, &parameters, &Patch::Apply(&body)).await;
    context.metrics.wrote("Status", outcome.as_ref().map(|_| ()));
    match outcome {
        Ok(written) => context.wrote_status(&key_of(object), &written.data["status"]),
        // Deleted meanwhile.
        Err(kube::Error::Api(status)) if status.code == 404 => return Ok(()),
        Err(error) => return Err(api_error("writing the status")(error)),
    }
    for transition in transitions(&former, &new) {
        context.tell(&reference(object), &transition).await;
    }
    Ok(())
}
