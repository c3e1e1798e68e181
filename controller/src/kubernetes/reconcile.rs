//! One service: what should be there is applied where it isn't, and what is seen becomes its status.

mod apply;
mod report;

use std::{sync::Arc, time::Duration};

use futures_util::{StreamExt, stream};
use k8s_openapi::jiff::Timestamp;
use kube::{
    api::DynamicObject,
    runtime::{
        applier,
        controller::{Action, Config, Error as ControllerError},
        reflector::ObjectRef,
    },
};
use pilotlight_manifests::{AutoscalerClass, Service, kubernetes::Workload, parse_object, v1alpha1::ServingRuntime};
use tokio::{sync::mpsc, time::Instant};

use self::{
    apply::{apply, write_slices},
    report::report,
};
use super::{
    context::{Context, Managed, reference, unpacked},
    facts::Key,
    objects::{DeploymentPlan, Owner, Settings, deployment},
    runtimes::{Runtime, reason, select},
    scaler::Reach,
    standby::{UNOWNED_LIMIT, Wish, prepare, younger},
    status::{Invalid, Transition},
};

/// A pod is taken out of a crash loop at most this often for one service.
const REPLACE_PAUSE: Duration = Duration::from_secs(30);
/// What the API server says, with a 500, of a field of a wrong type or name in what is applied.
const TYPED_PATCH: &str = "failed to create typed patch object";

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
