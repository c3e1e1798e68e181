//! The endpoints of a route's Service, from its EndpointSlices: a pure function.

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use k8s_openapi::api::{
    core::v1::{Service, ServicePort},
    discovery::v1::EndpointSlice,
};
use pilotlight_manifests::{keda::TargetRef, kubernetes::APP_PROTOCOL};
use tokio::time::Instant;

use crate::{Endpoint, EndpointId, EndpointState, Probe, Protocol};

/// The port of a target as its Service has it.
pub(crate) fn port<'a>(service: &'a Service, target: &TargetRef) -> Option<&'a ServicePort> {
    let ports = service.spec.as_ref()?.ports.as_ref()?;
    ports.iter().find(|port| match (&target.port_name, target.port) {
        (Some(name), _) => port.name.as_ref() == Some(name),
        (None, number) => Some(port.port) == number,
    })
}

/// The endpoints behind a port. One without a condition is ready; one that ends finishes what it has. `server_name` is what their
/// certificates are for, where they are spoken to over TLS.
pub(crate) fn endpoints<'a>(
    port: &ServicePort,
    slices: impl IntoIterator<Item = &'a EndpointSlice>,
    server_name: &Arc<str>,
    now: Instant,
) -> Vec<Endpoint> {
    let protocol = match port.app_protocol.as_deref() {
        Some(APP_PROTOCOL) => Protocol::H2c,
        _ => Protocol::H1,
    };
    let name = port.name.as_deref().unwrap_or("");
    let mut found: Vec<Endpoint> = Vec::new();
    for slice in slices {
        let ports = slice.ports.iter().flatten();
        let Some(number) = ports
            .filter(|port| port.name.as_deref().unwrap_or("") == name)
            .find_map(|port| u16::try_from(port.port?).ok())
        else {
            continue;
        };
        for endpoint in &slice.endpoints {
            let conditions = endpoint.conditions.as_ref();
            let ready = conditions.and_then(|conditions| conditions.ready).unwrap_or(true);
            let ending = conditions
                .and_then(|conditions| conditions.terminating)
                .unwrap_or(false);
            let state = match (ready, ending) {
                (_, true) => EndpointState::Draining,
                (true, false) => EndpointState::Ready,
                (false, false) => continue,
            };
            let uid = endpoint.target_ref.as_ref().and_then(|target| target.uid.as_deref());
            for address in endpoint.addresses.iter().filter_map(|text| text.parse::<IpAddr>().ok()) {
                let address = SocketAddr::new(address, number);
                let id = identity(uid, address);
                // An address may be on two slices while it moves from one to the other.
                if !found.iter().any(|known| known.id == id) {
                    found.push(Endpoint {
                        id,
                        address,
                        protocol,
                        server_name: Some(Arc::clone(server_name)),
                        capacity: None,
                        // The add-on has no limit per pod.
                        initial_capacity: u32::MAX,
                        probe: Probe::Declared,
                        state,
                        started: now,
                    });
                }
            }
        }
    }
    found
}

/// An address with the pod behind it, where there is one: the same address is another endpoint with another pod.
fn identity(uid: Option<&str>, address: SocketAddr) -> EndpointId {
    EndpointId::new(format!("{}/{address}", uid.unwrap_or("")))
}

/// What an endpoint is sealed by: the uid of its pod, or its address where it has none.
pub(crate) fn uid(endpoint: &EndpointId) -> &str {
    match endpoint.as_str().split_once('/') {
        Some(("", address)) => address,
        Some((uid, _)) => uid,
        None => endpoint.as_str(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn service(ports: Value) -> Service {
        serde_json::from_value(json!({ "spec": { "ports": ports } })).unwrap()
    }

    fn slice(ports: Value, endpoints: Value) -> EndpointSlice {
        serde_json::from_value(json!({ "addressType": "IPv4", "ports": ports, "endpoints": endpoints })).unwrap()
    }

    fn target(port: Option<i32>, name: Option<&str>) -> TargetRef {
        TargetRef {
            service: "app".to_owned(),
            port,
            port_name: name.map(str::to_owned),
        }
    }

    fn seen(port: &ServicePort, slices: &[EndpointSlice]) -> Vec<(String, EndpointState)> {
        let endpoints = endpoints(port, slices, &"app.shop".into(), Instant::now());
        endpoints
            .into_iter()
            .map(|endpoint| (endpoint.address.to_string(), endpoint.state))
            .collect()
    }

    /// Add-on unit test `TestCollectServiceState_*`: nil is ready, addresses count once, ports by name.
    #[tokio::test]
    async fn add_on_endpoints_are_those_that_are_ready_or_do_not_say_on_the_port_of_the_name() {
        let service = service(json!([{ "name": "web", "port": 80 }, { "name": "other", "port": 81 }]));
        let port = port(&service, &target(Some(80), None)).unwrap();
        let ports = json!([{ "name": "other", "port": 9 }, { "name": "web", "port": 8080 }]);
        let endpoints = json!([
            { "addresses": ["10.0.0.1"], "conditions": { "ready": true } },
            { "addresses": ["10.0.0.2"] },
            { "addresses": ["10.0.0.3"], "conditions": { "ready": false } },
            { "addresses": ["10.0.0.4"], "conditions": { "ready": false, "serving": true, "terminating": true } },
        ]);
        let twice = [slice(ports.clone(), endpoints.clone()), slice(ports, endpoints)];
        assert_eq!(
            seen(port, &twice),
            [
                ("10.0.0.1:8080".to_owned(), EndpointState::Ready),
                ("10.0.0.2:8080".to_owned(), EndpointState::Ready),
                ("10.0.0.4:8080".to_owned(), EndpointState::Draining),
            ]
        );
        assert_eq!(
            seen(port, &[slice(json!([{ "name": "none", "port": 1 }]), json!([]))]),
            []
        );
    }

    /// Add-on e2e `TestPortNameRouting`.
    #[test]
    fn add_on_a_port_is_found_by_name_or_number() {
        let service = service(json!([{ "name": "web", "port": 80 }, { "port": 81 }]));
        assert_eq!(port(&service, &target(None, Some("web"))).unwrap().port, 80);
        assert_eq!(port(&service, &target(Some(81), None)).unwrap().port, 81);
        assert!(port(&service, &target(Some(82), None)).is_none());
    }

    /// Add-on unit test `TestUpstream_AppProtocolTransportSelection`.
    #[tokio::test]
    async fn add_on_the_app_protocol_h2c_speaks_http2() {
        for (app_protocol, expected) in [
            (json!("kubernetes.io/h2c"), Protocol::H2c),
            (json!("http"), Protocol::H1),
            (json!(null), Protocol::H1),
        ] {
            let service = service(json!([{ "port": 80, "appProtocol": app_protocol }]));
            let port = port(&service, &target(Some(80), None)).unwrap();
            let slice = slice(
                json!([{ "name": "", "port": 80 }]),
                json!([{ "addresses": ["10.0.0.1"] }]),
            );
            let endpoints = endpoints(port, [&slice], &"app.shop".into(), Instant::now());
            assert_eq!(endpoints[0].protocol, expected);
            assert_eq!(uid(&endpoints[0].id), "10.0.0.1:80", "it has no pod");
        }
    }
}
