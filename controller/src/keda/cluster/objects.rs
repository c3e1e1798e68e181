//! The objects of KEDA's kinds as they are known, and what of them is scaled by us.

use std::collections::{BTreeMap, HashMap};

use kube::{
    Api, Client,
    api::{ApiResource, DeleteParams, DynamicObject, Patch, PatchParams, Preconditions},
};
use pilotlight_manifests::{
    keda::{self, HttpScaledObjectSpec, Meta, Object, Problem, ScaleTargetRef, ScaledObjectSpec, Spec, Trigger},
    kubernetes::CONTROLLER_MANAGER,
    v1beta1,
};
use serde_json::{Value, json};

use super::events::Change;

/// An object, or what is wrong with it.
#[derive(Debug)]
pub(crate) struct Seen<S> {
    /// Its metadata, which is there whatever is wrong with the spec.
    pub(crate) meta: Meta,
    /// The object, or its problems.
    pub(crate) object: Result<Object<S>, Vec<Problem>>,
    /// Its status as written.
    pub(crate) status: Value,
}

impl<S> Seen<S> {
    fn is_deleted(&self) -> bool {
        self.meta.deletion_timestamp.is_some()
    }
}

/// Every object of a kind.
#[derive(Debug)]
pub(crate) struct Known<S> {
    seen: BTreeMap<String, Seen<S>>,
}

impl<S> Default for Known<S> {
    fn default() -> Self {
        Self { seen: BTreeMap::new() }
    }
}

/// What a change touched.
#[derive(Debug, Default)]
pub(crate) struct Taken {
    /// Objects that are there and changed.
    pub(crate) keys: Vec<String>,
    /// It was the end of a list.
    pub(crate) is_list: bool,
}

impl<S: Spec> Known<S> {
    pub(crate) fn take(&mut self, change: Change<DynamicObject>) -> Taken {
        match change {
            Change::Is(key, object) => {
                let value = serde_json::to_value(&object).unwrap_or_default();
                let meta = serde_json::from_value(value["metadata"].clone()).unwrap_or_default();
                let status = value.get("status").cloned().unwrap_or_default();
                let object = keda::read(value);
                self.seen.insert(key.clone(), Seen { meta, object, status });
                Taken {
                    keys: vec![key],
                    is_list: false,
                }
            }
            Change::Gone(key) => {
                self.seen.remove(&key);
                Taken::default()
            }
            Change::Listed(kept) => {
                self.seen.retain(|key, _| kept.contains(key));
                Taken {
                    keys: Vec::new(),
                    is_list: true,
                }
            }
        }
    }

    /// `namespace/name` of all.
    pub(crate) fn keys(&self) -> Vec<String> {
        self.seen.keys().cloned().collect()
    }

    pub(crate) fn get(&self, key: &str) -> Option<&Seen<S>> {
        self.seen.get(key)
    }

    /// Those without problems that are not being deleted.
    pub(crate) fn good(&self) -> impl Iterator<Item = &Object<S>> {
        let living = self.seen.values().filter(|seen| !seen.is_deleted());
        living.filter_map(|seen| seen.object.as_ref().ok())
    }

    /// Those that are being deleted, whatever is wrong with them.
    pub(crate) fn deleted(&self) -> impl Iterator<Item = (&String, &Seen<S>)> {
        self.seen.iter().filter(|(_, seen)| seen.is_deleted())
    }
}

/// What is scaled: an object of one of the two kinds, by `namespace/name`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Subject {
    ScaledObject(String),
    HttpScaledObject(String),
}

/// How it is scaled: as a ScaledObject says it.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Scalable {
    pub(crate) meta: Meta,
    pub(crate) spec: ScaledObjectSpec,
    /// As written before, so that a restart forgets neither activity nor what was there at first.
    pub(crate) status: Value,
}

/// Every object that scales: ScaledObjects, and HTTPScaledObjects that no ScaledObject of a user's stands in for.
pub(crate) fn subjects(
    scaled: &Known<ScaledObjectSpec>,
    https: &Known<HttpScaledObjectSpec>,
) -> HashMap<Subject, Scalable> {
    let mut subjects = HashMap::new();
    for (key, seen) in &scaled.seen {
        if let (Ok(object), false) = (&seen.object, seen.is_deleted()) {
            subjects.insert(
                Subject::ScaledObject(key.clone()),
                scalable(&seen.meta, object.spec.clone(), &seen.status),
            );
        }
    }
    for (key, seen) in &https.seen {
        let Ok(object) = &seen.object else { continue };
        // The add-on's own ScaledObject of it has its name.
        let stands_in = scaled.seen.contains_key(key);
        if stands_in || seen.is_deleted() || seen.meta.is_marked(keda::SKIP_SCALED_OBJECT) {
            continue;
        }
        if let Some(spec) = scaled_object(&object.metadata, &object.spec, "") {
            subjects.insert(
                Subject::HttpScaledObject(key.clone()),
                scalable(&seen.meta, spec, &seen.status),
            );
        }
    }
    subjects
}

fn scalable(meta: &Meta, spec: ScaledObjectSpec, status: &Value) -> Scalable {
    Scalable {
        meta: meta.clone(),
        spec,
        status: status.clone(),
    }
}

/// The ScaledObject that the add-on's operator makes of an HTTPScaledObject; `None` where that names no workload.
pub(crate) fn scaled_object(
    meta: &Meta,
    spec: &HttpScaledObjectSpec,
    scaler_address: &str,
) -> Option<ScaledObjectSpec> {
    let target = &spec.scale_target_ref;
    let replicas = spec.replicas.unwrap_or_default();
    let metadata = [
        ("scalerAddress", scaler_address),
        ("httpScaledObject", meta.name.as_str()),
    ];
    Some(ScaledObjectSpec {
        scale_target_ref: ScaleTargetRef {
            name: target.name.clone().filter(|name| !name.is_empty())?,
            api_version: target.api_version.clone(),
            kind: target.kind.clone(),
            env_source_container_name: None,
        },
        polling_interval: Some(15),
        cooldown_period: spec.scaledown_period,
        initial_cooldown_period: spec.initial_cooldown_period,
        min_replica_count: replicas.min,
        max_replica_count: replicas.max,
        advanced: Some(keda::Advanced {
            restore_to_original_replica_count: Some(true),
            horizontal_pod_autoscaler_config: None,
            scaling_modifiers: None,
        }),
        triggers: vec![Trigger {
            kind: "external-push".to_owned(),
            metadata: metadata.map(|(key, value)| (key.to_owned(), value.to_owned())).into(),
            ..Trigger::default()
        }],
        ..ScaledObjectSpec::default()
    })
}

/// Where a KEDA operator runs: gives it the ScaledObject of an HTTPScaledObject, which goes with it, unless annotations say
/// otherwise. Fields that are not the add-on's stay as a user set them.
pub(crate) async fn hand_to_keda(
    client: &Client,
    https: &Known<HttpScaledObjectSpec>,
    key: &str,
    scaler_address: &str,
) {
    let Some(Seen {
        meta,
        object: Ok(object),
        ..
    }) = https.get(key)
    else {
        return;
    };
    if meta.deletion_timestamp.is_some() {
        return;
    }
    let api: Api<DynamicObject> =
        Api::namespaced_with(client.clone(), &meta.namespace, &resource_of::<ScaledObjectSpec>());
    // In the add-on's order.
    let orphan = meta.is_marked(keda::ORPHAN_SCALED_OBJECT);
    if orphan || meta.is_marked(keda::SKIP_SCALED_OBJECT) {
        if let Err(error) = part(&api, meta, orphan).await {
            tracing::warn!(key, %error, "the ScaledObject of an HTTPScaledObject could not be parted from it");
        }
        return;
    }
    let Some(spec) = scaled_object(&object.metadata, &object.spec, scaler_address) else {
        return;
    };
    let applied = handed(meta, &spec);
    let params = PatchParams::apply(CONTROLLER_MANAGER).force();
    if let Err(error) = api.patch(&meta.name, &params, &Patch::Apply(applied)).await {
        tracing::warn!(key, %error, "the ScaledObject of an HTTPScaledObject could not be written");
    }
}

/// Takes an HTTPScaledObject's ScaledObject away, or leaves it to itself (`orphan`). One that is not its own stays as it is.
async fn part(api: &Api<DynamicObject>, meta: &Meta, orphan: bool) -> kube::Result<()> {
    let Some(found) = api.get_metadata_opt(&meta.name).await? else {
        return Ok(());
    };
    let mut owners = found.metadata.owner_references.unwrap_or_default();
    let before = owners.len();
    owners.retain(|owner| owner.uid != meta.uid);
    if owners.len() == before {
        return Ok(());
    }
    let version = found.metadata.resource_version;
    if orphan {
        let patch = json!({ "metadata": { "resourceVersion": version, "ownerReferences": owners } });
        let params = PatchParams {
            field_manager: Some(CONTROLLER_MANAGER.to_owned()),
            ..PatchParams::default()
        };
        return api
            .patch_metadata(&meta.name, &params, &Patch::Merge(patch))
            .await
            .map(drop);
    }
    let exactly = Preconditions {
        resource_version: version,
        uid: found.metadata.uid,
    };
    let params = DeleteParams::default().preconditions(exactly);
    api.delete(&meta.name, &params).await.map(drop)
}

fn handed(meta: &Meta, spec: &ScaledObjectSpec) -> Value {
    let owner = json!({
        "apiVersion": format!("{}/{}", HttpScaledObjectSpec::GROUP, HttpScaledObjectSpec::VERSION),
        "kind": HttpScaledObjectSpec::KIND,
        "name": meta.name, "uid": meta.uid, "controller": true, "blockOwnerDeletion": true,
    });
    json!({
        "apiVersion": format!("{}/{}", ScaledObjectSpec::GROUP, ScaledObjectSpec::VERSION),
        "kind": ScaledObjectSpec::KIND,
        "metadata": {
            "name": meta.name, "namespace": meta.namespace, "labels": meta.labels,
            "annotations": meta.annotations, "ownerReferences": [owner],
        },
        "spec": spec,
    })
}

/// The API of a kind of KEDA's.
pub(crate) fn api<S: Spec>(client: &Client, namespace: Option<&str>) -> Api<DynamicObject> {
    scoped(client, namespace, &resource_of::<S>())
}

/// The API of InferenceServices.
pub(crate) fn inference_services(client: &Client, namespace: Option<&str>) -> Api<DynamicObject> {
    let (group, version) = v1beta1::API_VERSION.split_once('/').unwrap_or_default();
    let resource = ApiResource {
        group: group.to_owned(),
        version: version.to_owned(),
        api_version: v1beta1::API_VERSION.to_owned(),
        kind: v1beta1::KIND.to_owned(),
        plural: "inferenceservices".to_owned(),
    };
    scoped(client, namespace, &resource)
}

fn scoped(client: &Client, namespace: Option<&str>, resource: &ApiResource) -> Api<DynamicObject> {
    match namespace {
        Some(namespace) => Api::namespaced_with(client.clone(), namespace, resource),
        None => Api::all_with(client.clone(), resource),
    }
}

/// The resource of a kind of KEDA's.
pub(crate) fn resource_of<S: Spec>() -> ApiResource {
    ApiResource {
        group: S::GROUP.to_owned(),
        version: S::VERSION.to_owned(),
        api_version: format!("{}/{}", S::GROUP, S::VERSION),
        kind: S::KIND.to_owned(),
        plural: S::PLURAL.to_owned(),
    }
}

#[cfg(test)]
#[path = "objects_tests.rs"]
mod tests;
