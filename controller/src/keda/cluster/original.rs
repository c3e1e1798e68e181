//! The replicas that a workload had before it was scaled by an object, and their return when that object is deleted
//! (`restoreToOriginalReplicaCount`, which every HTTPScaledObject has).
//!
//! They are noted where KEDA notes them, in a ScaledObject's `status.originalReplicaCount`, and under an annotation of an
//! HTTPScaledObject, whose status has no place for them. KEDA's finalizer and the add-on's keep the object until they are back:
//! a KEDA that is installed meanwhile finds everything as it would have left it.

use std::collections::HashSet;

use kube::{
    Api, Client, ResourceExt,
    api::{DynamicObject, Patch, PatchParams},
};
use pilotlight_activator::kubernetes::keda::resource;
use pilotlight_manifests::{
    keda::{self, HttpScaledObjectSpec, Meta, ScaledObjectSpec},
    kubernetes::{AUTOSCALER_MANAGER, CONTROLLER_MANAGER},
};
use serde_json::{Value, json};
use tokio::{task::JoinSet, time::Duration};

use super::objects::{self, Known, Scalable, Seen, Subject};

/// First pause after the API server did not take something, and the longest.
const PAUSES: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(30));

fn finalizer(subject: &Subject) -> &'static str {
    match subject {
        Subject::ScaledObject(_) => keda::FINALIZER,
        Subject::HttpScaledObject(_) => keda::HTTP_FINALIZER,
    }
}

fn api(client: &Client, subject: &Subject, namespace: &str) -> Api<DynamicObject> {
    match subject {
        Subject::ScaledObject(_) => objects::api::<ScaledObjectSpec>(client, Some(namespace)),
        Subject::HttpScaledObject(_) => objects::api::<HttpScaledObjectSpec>(client, Some(namespace)),
    }
}

/// Notes them, and the finalizer where they are to come back, unless that was done before.
///
/// # Errors
/// Where the API server does not take it; nothing is half done then that a second call would not do.
pub(crate) async fn remember(
    client: &Client,
    subject: &Subject,
    scalable: &Scalable,
    current: u32,
) -> kube::Result<()> {
    let Scalable { meta, spec, status } = scalable;
    let api = api(client, subject, &meta.namespace);
    let noted = original(meta, status).is_some();
    if let (Subject::ScaledObject(_), false) = (subject, noted) {
        let patch = json!({ "status": { "originalReplicaCount": current } });
        api.patch_status(&meta.name, &manager(), &Patch::Merge(patch)).await?;
    }
    let name = finalizer(subject);
    if !spec.restores() || meta.finalizers.iter().any(|known| known == name) {
        return Ok(());
    }
    let note = matches!(subject, Subject::HttpScaledObject(_)) && !noted;
    let annotations = note.then(|| json!({ keda::ORIGINAL_REPLICAS: current.to_string() }));
    change_finalizers(&api, &meta.name, annotations, |finalizers| {
        if !finalizers.iter().any(|known| known == name) {
            finalizers.push(name.to_owned());
        }
    })
    .await
}

fn manager() -> PatchParams {
    PatchParams {
        field_manager: Some(CONTROLLER_MANAGER.to_owned()),
        ..PatchParams::default()
    }
}

/// On the condition that nobody else changed the object meanwhile.
async fn change_finalizers(
    api: &Api<DynamicObject>,
    name: &str,
    annotations: Option<Value>,
    change: impl FnOnce(&mut Vec<String>),
) -> kube::Result<()> {
    let Some(object) = api.get_metadata_opt(name).await? else {
        return Ok(());
    };
    let mut finalizers = object.metadata.finalizers.clone().unwrap_or_default();
    change(&mut finalizers);
    let mut metadata = json!({ "resourceVersion": object.resource_version(), "finalizers": finalizers });
    if let Some(annotations) = annotations {
        metadata["annotations"] = annotations;
    }
    let patch = Patch::Merge(json!({ "metadata": metadata }));
    api.patch_metadata(name, &manager(), &patch).await.map(drop)
}

fn original(meta: &Meta, status: &Value) -> Option<u32> {
    let by_status = status.get("originalReplicaCount").and_then(Value::as_u64);
    let by_status = by_status.and_then(|count| u32::try_from(count).ok());
    by_status.or_else(|| meta.annotations.get(keda::ORIGINAL_REPLICAS)?.parse().ok())
}

/// What becomes of an object that is being deleted.
#[derive(Clone, Debug, PartialEq)]
enum Leave {
    /// It is not ours to let go, or there is nothing to do.
    Not,
    /// Its finalizer goes.
    Free,
    /// The workload gets its replicas back first.
    Restore(keda::ScaleTargetRef, u32),
}

/// `keda` is whether a KEDA operator runs: a ScaledObject is its own then, and that of an HTTPScaledObject goes with it.
fn leave(subject: &Subject, meta: &Meta, spec: Option<&ScaledObjectSpec>, status: &Value, keda: bool) -> Leave {
    let name = finalizer(subject);
    if meta.deletion_timestamp.is_none() || !meta.finalizers.iter().any(|known| known == name) {
        return Leave::Not;
    }
    match (subject, spec, original(meta, status)) {
        (Subject::ScaledObject(_), ..) if keda => Leave::Not,
        (_, Some(spec), Some(replicas)) if spec.restores() && !keda => {
            Leave::Restore(spec.scale_target_ref.clone(), replicas)
        }
        _ => Leave::Free,
    }
}

/// Objects that are being deleted, each with a task that does what has to be done before.
#[derive(Default)]
pub(crate) struct Leaving {
    tasks: JoinSet<Subject>,
    known: HashSet<Subject>,
}

impl Leaving {
    /// Begins with those that are new.
    pub(crate) fn see(
        &mut self,
        client: &Client,
        scaled: &Known<ScaledObjectSpec>,
        https: &Known<HttpScaledObjectSpec>,
        keda: bool,
    ) {
        while let Some(done) = self.tasks.try_join_next() {
            if let Ok(subject) = done {
                self.known.remove(&subject);
            }
        }
        for (key, seen) in scaled.deleted() {
            let spec = seen.object.as_ref().ok().map(|object| object.spec.clone());
            self.begin(client, Subject::ScaledObject(key.clone()), seen, spec, keda);
        }
        for (key, seen) in https.deleted() {
            // A ScaledObject of its name is what scaled the workload.
            let own = seen.object.as_ref().ok().filter(|_| scaled.get(key).is_none());
            let spec = own.and_then(|object| objects::scaled_object(&object.metadata, &object.spec, ""));
            self.begin(client, Subject::HttpScaledObject(key.clone()), seen, spec, keda);
        }
    }

    fn begin<S>(
        &mut self,
        client: &Client,
        subject: Subject,
        seen: &Seen<S>,
        spec: Option<ScaledObjectSpec>,
        keda: bool,
    ) {
        let leave = leave(&subject, &seen.meta, spec.as_ref(), &seen.status, keda);
        if leave == Leave::Not || !self.known.insert(subject.clone()) {
            return;
        }
        let (client, meta) = (client.clone(), seen.meta.clone());
        self.tasks.spawn(async move {
            let mut pause = PAUSES.0;
            while let Err(error) = let_go(&client, &subject, &meta, &leave).await {
                tracing::warn!(object = meta.key(), %error, "a deleted object can't be let go yet");
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(PAUSES.1);
            }
            subject
        });
    }
}

async fn let_go(client: &Client, subject: &Subject, meta: &Meta, leave: &Leave) -> kube::Result<()> {
    if let Leave::Restore(target, replicas) = leave {
        restore(client, &meta.namespace, target, *replicas).await?;
        tracing::info!(object = meta.key(), replicas, "the replicas of before are back");
    }
    let name = finalizer(subject);
    let api = api(client, subject, &meta.namespace);
    change_finalizers(&api, &meta.name, None, |finalizers| {
        finalizers.retain(|known| known != name);
    })
    .await
}

/// A workload that is gone, or a kind that is, needs nothing.
async fn restore(client: &Client, namespace: &str, target: &keda::ScaleTargetRef, replicas: u32) -> kube::Result<()> {
    let gone = |error: &kube::Error| match error {
        kube::Error::Api(status) => status.code == 404,
        kube::Error::Discovery(_) => true,
        _ => false,
    };
    let written = async {
        let kind = resource(client, target.api_version(), target.kind()).await?;
        let api: Api<DynamicObject> = Api::namespaced_with(client.clone(), namespace, &kind);
        let params = PatchParams {
            field_manager: Some(AUTOSCALER_MANAGER.to_owned()),
            ..PatchParams::default()
        };
        let patch = Patch::Merge(json!({ "spec": { "replicas": replicas } }));
        api.patch_scale(&target.name, &params, &patch).await.map(drop)
    };
    match written.await {
        Err(error) if gone(&error) => Ok(()),
        written => written,
    }
}

#[cfg(test)]
#[path = "original_tests.rs"]
mod tests;
