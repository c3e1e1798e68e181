//! Whether a KEDA operator runs in the cluster: what it scales is left to it.

use std::time::Duration;

use k8s_openapi::{api::coordination::v1::Lease, jiff::Timestamp};
use kube::{
    Api, Client,
    api::{ApiResource, DynamicObject, ListParams},
};
use serde_json::Value;

/// Name of the lease that KEDA's operators are elected by, in KEDA's namespace.
const LEASE: &str = "operator.keda.sh";
/// The API that KEDA's metrics server answers.
const API_SERVICE: &str = "v1beta1.external.metrics.k8s.io";
/// A lease that was renewed within so long is held: KEDA's own lasts 15 s.
const RENEWED: Duration = Duration::from_mins(1);

/// What was seen of KEDA.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    /// Since when the operator's lease was renewed, where there is one.
    pub renewed: Option<Duration>,
    /// The API service of external metrics is KEDA's and available.
    pub serves_metrics: bool,
}

impl Seen {
    /// Whether KEDA scales. One of the two is enough: each is away for a while where the operator is being rolled.
    pub fn runs(self) -> bool {
        self.serves_metrics || self.renewed.is_some_and(|since| since <= RENEWED)
    }
}

/// Looks. An error leaves the question open; whoever can't tell has to keep its hands off.
pub async fn look(client: &Client) -> kube::Result<Seen> {
    let leases: Api<Lease> = Api::all(client.clone());
    let named = ListParams::default().fields(&format!("metadata.name={LEASE}"));
    let leases = leases.list(&named).await?;
    let renewed = leases
        .items
        .iter()
        .filter_map(|lease| since(lease, Timestamp::now()))
        .min();
    let services: Api<DynamicObject> = Api::all_with(client.clone(), &api_services());
    let service = services.get_opt(API_SERVICE).await?;
    Ok(Seen {
        renewed,
        serves_metrics: service.is_some_and(|service| is_kedas(&service.data)),
    })
}

fn api_services() -> ApiResource {
    ApiResource {
        group: "apiregistration.k8s.io".to_owned(),
        version: "v1".to_owned(),
        api_version: "apiregistration.k8s.io/v1".to_owned(),
        kind: "APIService".to_owned(),
        plural: "apiservices".to_owned(),
    }
}

fn since(lease: &Lease, now: Timestamp) -> Option<Duration> {
    let spec = lease.spec.as_ref()?;
    // Given up at the end of the last holder.
    spec.holder_identity.as_ref().filter(|holder| !holder.is_empty())?;
    let renewed = spec.renew_time.as_ref()?.0;
    Some(Duration::try_from(now.duration_since(renewed)).unwrap_or_default())
}

fn is_kedas(service: &Value) -> bool {
    let name = service
        .pointer("/spec/service/name")
        .and_then(Value::as_str)
        .unwrap_or_default();
    let conditions = service.pointer("/status/conditions").and_then(Value::as_array);
    let available = |condition: &Value| condition["type"] == "Available" && condition["status"] == "True";
    name.contains("keda") && conditions.is_some_and(|conditions| conditions.iter().any(available))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_fresh_lease_or_an_available_api_is_a_keda_that_runs() {
        let seconds = |seconds| Some(Duration::from_secs(seconds));
        for (renewed, serves_metrics, runs) in [
            (None, false, false),
            (seconds(5), false, true),
            (seconds(600), false, false),
            (seconds(600), true, true),
        ] {
            let seen = Seen {
                renewed,
                serves_metrics,
            };
            assert_eq!(seen.runs(), runs, "{seen:?}");
        }
    }

    #[test]
    fn a_lease_without_holder_is_given_up() {
        let lease = |holder: &str| -> Lease {
            let spec = json!({ "holderIdentity": holder, "renewTime": "2026-01-01T00:00:00.000000Z" });
            serde_json::from_value(json!({ "spec": spec })).unwrap()
        };
        let now = "2026-01-01T00:00:07Z".parse().unwrap();
        assert_eq!(since(&lease("keda-operator-1"), now), Some(Duration::from_secs(7)));
        assert_eq!(since(&lease(""), now), None);
    }

    #[test]
    fn another_metrics_server_is_not_keda() {
        let service = |name: &str, status: &str| {
            let conditions = json!([{ "type": "Available", "status": status }]);
            json!({ "spec": { "service": { "name": name } }, "status": { "conditions": conditions } })
        };
        assert!(is_kedas(&service("keda-operator-metrics-apiserver", "True")));
        assert!(!is_kedas(&service("keda-operator-metrics-apiserver", "False")));
        assert!(!is_kedas(&service("prometheus-adapter", "True")));
    }
}
