//! How a service is reached in the cluster: a Service that leads to the activators, and one with the pods.

use k8s_openapi::api::discovery::v1::EndpointSlice;
use pilotlight_manifests::kubernetes::{
    APP_PROTOCOL, COMPONENT_PREDICTOR, CONTROLLER_MANAGER, DATA_PORT, LABEL_COMPONENT, LABEL_INFERENCE_SERVICE,
    LABEL_SERVICE_NAME, PORT_NAME, SERVICE_PORT, predictor, private_service,
};
use serde_json::{Map, Value, json};

use super::{Owner, digest, labels, metadata};

/// Label of an EndpointSlice: who looks after it, the well-known key.
const LABEL_SLICE_MANAGER: &str = "endpointslice.kubernetes.io/managed-by";

/// An activator as its Service's EndpointSlices list it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Endpoint {
    pub(crate) address: String,
    pub(crate) ready: bool,
    pub(crate) serving: bool,
    pub(crate) terminating: bool,
    pub(crate) node: Option<String>,
    pub(crate) zone: Option<String>,
}

/// The Service of the service's name, without a selector, and the headless one with its pods.
pub(super) fn services(owner: &Owner) -> Vec<Value> {
    let port = |number: u16| {
        json!({
            "name": PORT_NAME,
            "port": number,
            "targetPort": DATA_PORT,
            "protocol": "TCP",
            "appProtocol": APP_PROTOCOL,
        })
    };
    let public = json!({
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": metadata(&predictor(&owner.name), owner, labels(&owner.name), Map::new()),
        "spec": { "type": "ClusterIP", "ports": [port(SERVICE_PORT)] },
    });
    let selector = json!({ LABEL_INFERENCE_SERVICE: owner.name, LABEL_COMPONENT: COMPONENT_PREDICTOR });
    let private = json!({
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": metadata(&private_service(&owner.name), owner, labels(&owner.name), Map::new()),
        "spec": { "type": "ClusterIP", "clusterIP": "None", "selector": selector, "ports": [port(DATA_PORT)] },
    });
    vec![public, private]
}

/// Name of the slice that leads to the activators.
pub(crate) fn slice_name(name: &str, ipv6: bool) -> String {
    format!("{}-activators{}", predictor(name), if ipv6 { "-ipv6" } else { "" })
}

/// Digits of a slice's digest; thousands are kept.
const SLICE_DIGITS: usize = 16;
/// Endpoints in one slice at most, the API server's limit.
const MAX_ENDPOINTS: usize = 1000;

/// The slice of a service with the activators of one address family.
pub(crate) fn endpoint_slice(owner: &Owner, activators: &[Endpoint], ipv6: bool) -> Value {
    let mut labels = labels(&owner.name);
    labels.insert(LABEL_SERVICE_NAME.to_owned(), predictor(&owner.name).into());
    labels.insert(LABEL_SLICE_MANAGER.to_owned(), CONTROLLER_MANAGER.into());
    let of_family = activators
        .iter()
        .filter(|endpoint| endpoint.address.contains(':') == ipv6);
    let endpoints: Vec<Value> = of_family.take(MAX_ENDPOINTS).map(endpoint).collect();
    json!({
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": metadata(&slice_name(&owner.name, ipv6), owner, labels, Map::new()),
        "addressType": if ipv6 { "IPv6" } else { "IPv4" },
        "ports": [{ "name": PORT_NAME, "port": DATA_PORT, "protocol": "TCP", "appProtocol": APP_PROTOCOL }],
        "endpoints": endpoints,
    })
}

/// The digest of what a slice of ours should say.
pub(crate) fn value_digest(slice: &Value) -> String {
    serde_json::from_value(slice.clone())
        .map(|slice| slice_digest(&slice))
        .unwrap_or_default()
}

/// The digest of what a slice says, whatever the API server added to it.
pub(crate) fn slice_digest(slice: &EndpointSlice) -> String {
    let says = json!([slice.address_type, slice.ports, slice.endpoints, slice.metadata.labels]);
    digest(&says, SLICE_DIGITS)
}

fn endpoint(activator: &Endpoint) -> Value {
    let mut endpoint = json!({
        "addresses": [activator.address],
        "conditions": {
            "ready": activator.ready,
            "serving": activator.serving,
            "terminating": activator.terminating,
        },
    });
    if let Some(node) = &activator.node {
        endpoint["nodeName"] = node.as_str().into();
    }
    if let Some(zone) = &activator.zone {
        endpoint["zone"] = zone.as_str().into();
    }
    endpoint
}
