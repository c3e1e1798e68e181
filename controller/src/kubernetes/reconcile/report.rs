//! What is seen of a service, written as its status where it changed, and told as Events.

use k8s_openapi::jiff::Timestamp;
use kube::api::{DynamicObject, Patch, PatchParams};
use pilotlight_manifests::{
    Service,
    kubernetes::{CONTROLLER_MANAGER, Workload},
};
use serde_json::json;

use super::{ReconcileError, api_error, key_of};
use crate::kubernetes::{
    context::{Context, inference_services, reference},
    facts::World,
    runtimes::Runtime,
    status::{Invalid, Observed, Tier, same, status, transitions},
};

/// Writes the status where it changed, and tells what changed.
pub(super) async fn report(
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
            tier: service
                .filter(|(_, runtime)| runtime.is_none_or(|runtime| *runtime == Runtime::Own))
                .and_then(|(service, _)| tier(&world, service, &Workload::stable(&namespace, &name))),
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

/// How the service stands to its standby pods, where it asks for any.
fn tier(world: &World, service: &Service, stable: &Workload) -> Option<Tier> {
    service.scaling.standby?;
    let deployment = world.deployment(stable)?;
    let mut claimed = world
        .pods(stable)
        .filter(|pod| pod.claimed_at.is_some() && !pod.terminating);
    let armed = deployment.parked.is_some() && deployment.armed == deployment.parked;
    Some(Tier::of(
        claimed.next().map(|pod| pod.name.clone()),
        deployment.replicas,
        armed,
    ))
}
