//! The Deployment of a group's standby pods.

use std::collections::BTreeSet;

use pilotlight_manifests::{
    Service,
    kubernetes::{LABEL_MANAGED_BY, LABEL_STANDBY, MANAGED_BY, standby_deployment},
    v1beta1,
};
use serde_json::{Value, json};

use super::{REVISION_DIGITS, container, digest};
use crate::kubernetes::{runtimes::Runtime, standby::Wish};

/// Started pods without a model that several services share.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Group {
    pub(crate) namespace: String,
    /// Digest of the pod spec.
    pub(crate) name: String,
    pub(crate) count: u32,
    pub(crate) spec: Value,
    /// Name and uid of each service that shares it; garbage collection follows the last of them.
    pub(crate) owners: BTreeSet<(String, String)>,
}

/// What a service whose pods have this template asks for. Only our own runtime waits for a model.
pub(super) fn wish(service: &Service, runtime: &Runtime, template: &Value) -> Option<Wish> {
    let count = service.scaling.standby.filter(|_| *runtime == Runtime::Own)?;
    debug_assert!(container::is_generic(service));
    let spec = template["spec"].clone();
    Some(Wish {
        group: digest(&spec, REVISION_DIGITS),
        count,
        spec,
    })
}

/// The Deployment of a group. Its replicas are its own: nobody else scales it.
pub(crate) fn standby(group: &Group) -> Value {
    let owners: Vec<Value> = group
        .owners
        .iter()
        .map(|(name, uid)| json!({ "apiVersion": v1beta1::API_VERSION, "kind": v1beta1::KIND, "name": name, "uid": uid }))
        .collect();
    let labels = json!({ LABEL_STANDBY: group.name });
    json!({
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {
            "name": standby_deployment(&group.name),
            "namespace": group.namespace,
            "labels": { LABEL_MANAGED_BY: MANAGED_BY, LABEL_STANDBY: group.name },
            "ownerReferences": owners,
        },
        "spec": {
            "replicas": group.count,
            "selector": { "matchLabels": labels },
            "revisionHistoryLimit": 0,
            "template": { "metadata": { "labels": labels }, "spec": group.spec },
        },
    })
}
