//! What a service is to become, applied: what is around its workloads, their Deployments, the end of canaries, the way to the
//! activators.

use std::time::Duration;

use kube::api::{DynamicObject, Patch, PatchParams};
use pilotlight_manifests::kubernetes::{ANNOTATION_TRAFFIC_PERCENT, AUTOSCALER_MANAGER, CONTROLLER_MANAGER, Workload};
use serde_json::{Value, json};
use tokio::time::Instant;

use super::{Done, Goal, ReconcileError, api_error, key_of, owner};
use crate::kubernetes::{
    context::{Context, resource},
    facts::DeploymentFacts,
    objects::{
        ANNOTATION_APPLIED, ANNOTATION_SCALED_BY, Absent, DeploymentPlan, digest, endpoint_slice, slice_name,
        surroundings, value_digest,
    },
};

/// A canary that goes gets no request any more for so long before its pods end, so that no activator routes to what is gone.
const HIDE: Duration = Duration::from_secs(3);
/// Digits of the digest of what was applied.
const APPLIED_DIGITS: usize = 24;

/// Applies what isn't there as it should be.
pub(super) async fn apply(context: &Context, object: &DynamicObject, goal: &Goal) -> Result<Done, ReconcileError> {
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
        let api = context.api(&canary.namespace, &resource("apps/v1", "Deployment"));
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
    let api = context.api(&plan.workload.namespace, &resource("apps/v1", "Deployment"));
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
pub(super) async fn write_slices(context: &Context, object: &DynamicObject) -> Result<(), ReconcileError> {
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
