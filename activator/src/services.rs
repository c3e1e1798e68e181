//! What a declared service means to the activator: its backend, its route and how a replica of it is asked. Shared by the
//! homes of the platform, so that a service is reached the same way in each.

use http::uri::PathAndQuery;
use pilotlight_manifests::{Activation, Service};

use crate::{BackendId, Predicate, Probe, Purity, Route, RouteId, RoutePolicy, WeightedBackend};

/// The weight of a service whose traffic goes to one backend. Shares of a canary are of this.
pub const WHOLE: u32 = 100;

/// The backend of a service: its `namespace/name`.
pub fn backend(service: &Service) -> BackendId {
    BackendId::new(service.key())
}

/// Where a replica answers whether its model is ready. `None` for a name that doesn't fit a path, which no manifest allows.
pub fn probe(model: &str) -> Option<Probe> {
    let path = PathAndQuery::try_from(format!("/v2/models/{model}/ready")).ok()?;
    Some(Probe::Http(path))
}

/// The path under which a service is reached whatever its host.
pub fn path_prefix(namespace: &str, name: &str) -> String {
    format!("/serving/{namespace}/{name}")
}

/// What a fresh replica may hold at once: its concurrency, or else two batches, of which one runs while the next one fills.
pub fn initial_capacity(capacity: Option<u32>, max_batch_size: u32) -> u32 {
    capacity.unwrap_or_else(|| max_batch_size.saturating_mul(2))
}

/// The route of a service: its hosts, its path and its model's name, all to its one backend.
pub fn route(service: &Service, domain: &str) -> Route {
    let hosts = service.hosts(domain);
    route_of(&service.namespace, &service.name, &service.activation, hosts)
}

/// The route of a service of which only the name and its bounds are known.
pub(crate) fn route_of(
    namespace: &str,
    name: &str,
    activation: &Activation,
    hosts: impl IntoIterator<Item = String>,
) -> Route {
    let key = format!("{namespace}/{name}");
    Route {
        id: RouteId::new(&key),
        predicate: Predicate {
            hosts: hosts.into_iter().map(|host| host.to_ascii_lowercase()).collect(),
            path_prefixes: vec![path_prefix(namespace, name)],
            headers: Vec::new(),
            model_name: Some(name.to_owned()),
            rules: None,
        },
        backends: vec![WeightedBackend {
            backend: BackendId::new(&key),
            weight: WHOLE,
        }],
        policy: policy(activation),
    }
}

fn policy(activation: &Activation) -> RoutePolicy {
    RoutePolicy {
        max_waiting: activation.max_waiting,
        max_waiting_bytes: activation.max_waiting_bytes,
        wait_timeout: activation.wait_timeout,
        purity: if activation.pure {
            Purity::Inference
        } else {
            Purity::Opaque
        },
        replay_limit: activation.replay_limit,
        ..RoutePolicy::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_service_is_reached_by_host_path_and_name() {
        let hosts = [
            "iris.default.example.com".to_owned(),
            "Iris-default.example.com".to_owned(),
        ];
        let predicate = route_of("default", "iris", &Activation::default(), hosts).predicate;
        assert_eq!(
            predicate.hosts,
            ["iris.default.example.com", "iris-default.example.com"]
        );
        assert_eq!(predicate.path_prefixes, ["/serving/default/iris"]);
        assert_eq!(predicate.model_name.as_deref(), Some("iris"));
    }

    #[test]
    fn a_fresh_replica_may_hold_two_batches_or_its_concurrency() {
        assert_eq!(initial_capacity(None, 32), 64);
        assert_eq!(initial_capacity(Some(3), 32), 3);
    }
}
