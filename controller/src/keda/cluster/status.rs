//! The status of the add-on's objects, as its operator writes it, and that of ScaledObjects that are scaled by us.

use k8s_openapi::jiff::Timestamp;
use kube::{
    Api, Client,
    api::{ApiResource, DynamicObject, Patch, PatchParams},
};
use pilotlight_manifests::{
    keda::{HttpScaledObjectSpec, InterceptorRouteSpec, Meta, Problem, ScaledObjectSpec},
    kubernetes::CONTROLLER_MANAGER,
};
use serde_json::{Map, Value, json};

use super::objects::{Known, Seen, resource_of};

/// One condition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Condition {
    pub(crate) kind: &'static str,
    pub(crate) status: bool,
    pub(crate) reason: &'static str,
    pub(crate) message: String,
}

/// Writes the status of an InterceptorRoute where it is another: `Ready=True/Reconciled`, or what is wrong.
pub(crate) async fn of_route(client: &Client, routes: &Known<InterceptorRouteSpec>, key: &str) {
    let Some(seen) = routes.get(key) else { return };
    let condition = reconciled(seen, "InterceptorRoute reconciled");
    write(
        client,
        &resource_of::<InterceptorRouteSpec>(),
        seen,
        Map::new(),
        &condition,
    )
    .await;
}

/// The same for an HTTPScaledObject, with its targets.
pub(crate) async fn of_http_scaled_object(client: &Client, https: &Known<HttpScaledObjectSpec>, key: &str) {
    let Some(seen) = https.get(key) else { return };
    let mut more = Map::new();
    if let Ok(object) = &seen.object {
        more.insert("targetWorkload".to_owned(), object.spec.target_workload().into());
        more.insert("targetService".to_owned(), object.spec.target_service().into());
    }
    let condition = reconciled(seen, "ScaledObject created and configured");
    write(client, &resource_of::<HttpScaledObjectSpec>(), seen, more, &condition).await;
}

/// Says what is wrong with a ScaledObject that can't be scaled by; of a good one its worker tells.
pub(crate) async fn of_scaled_object(client: &Client, scaled: &Known<ScaledObjectSpec>, key: &str) {
    let Some(seen) = scaled.get(key).filter(|seen| seen.object.is_err()) else {
        return;
    };
    let condition = Condition {
        reason: "ScaledObjectCheckFailed",
        ..reconciled(seen, "")
    };
    write(client, &resource_of::<ScaledObjectSpec>(), seen, Map::new(), &condition).await;
}

fn reconciled<S>(seen: &Seen<S>, message: &str) -> Condition {
    match &seen.object {
        Ok(_) => Condition {
            kind: "Ready",
            status: true,
            reason: "Reconciled",
            message: message.to_owned(),
        },
        Err(problems) => Condition {
            kind: "Ready",
            status: false,
            reason: "CreateError",
            message: problems.iter().map(Problem::to_string).collect::<Vec<_>>().join("; "),
        },
    }
}

async fn write<S>(
    client: &Client,
    resource: &ApiResource,
    seen: &Seen<S>,
    mut more: Map<String, Value>,
    condition: &Condition,
) {
    let conditions = conditions(
        &seen.status,
        &seen.meta,
        std::slice::from_ref(condition),
        Timestamp::now(),
    );
    let same = |(field, value): (&String, &Value)| seen.status.get(field) == Some(value);
    more.insert("conditions".to_owned(), conditions);
    if !more.iter().all(same) {
        patch(client, resource, &seen.meta, more.into()).await;
    }
}

/// Merges a status in.
pub(crate) async fn patch(client: &Client, resource: &ApiResource, meta: &Meta, status: Value) {
    let api: Api<DynamicObject> = Api::namespaced_with(client.clone(), &meta.namespace, resource);
    let params = PatchParams {
        field_manager: Some(CONTROLLER_MANAGER.to_owned()),
        ..PatchParams::default()
    };
    let patch = Patch::Merge(json!({ "status": status }));
    if let Err(error) = api.patch_status(&meta.name, &params, &patch).await {
        tracing::warn!(object = meta.key(), kind = resource.kind, %error, "the status could not be written");
    }
}

/// The conditions with these in the place of those of the same type. Time moves only with the status; one without a time, as
/// the add-on's old releases wrote them, is dropped.
pub(crate) fn conditions(status: &Value, meta: &Meta, new: &[Condition], now: Timestamp) -> Value {
    let before: Vec<&Value> = status
        .get("conditions")
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
        .collect();
    let of = |kind: &str| before.iter().find(|condition| condition["type"] == kind);
    let others = before.iter().filter(|condition| {
        condition["lastTransitionTime"].is_string() && !new.iter().any(|new| condition["type"] == new.kind)
    });
    let mut all: Vec<Value> = others.map(|condition| (*condition).clone()).collect();
    all.extend(new.iter().map(|new| {
        let status = if new.status { "True" } else { "False" };
        let unchanged =
            of(new.kind).filter(|before| before["status"] == status && before["lastTransitionTime"].is_string());
        let now = now.round(k8s_openapi::jiff::Unit::Second).unwrap_or(now).to_string();
        let since = unchanged.map_or_else(|| Value::from(now), |before| before["lastTransitionTime"].clone());
        json!({
            "type": new.kind, "status": status, "reason": new.reason, "message": new.message,
            "observedGeneration": meta.generation, "lastTransitionTime": since,
        })
    }));
    all.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ready(status: bool) -> Condition {
        Condition {
            kind: "Ready",
            status,
            reason: "Reconciled",
            message: "m".to_owned(),
        }
    }

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    #[test]
    fn a_conditions_time_moves_with_its_status_only_and_the_generation_always() {
        let mut meta = Meta {
            generation: 1,
            ..Meta::default()
        };
        let first = conditions(&Value::Null, &meta, &[ready(true)], at("2026-01-01T00:00:00Z"));
        assert_eq!(first[0]["lastTransitionTime"], "2026-01-01T00:00:00Z");
        meta.generation = 2;
        let status = json!({ "conditions": first });
        let second = conditions(&status, &meta, &[ready(true)], at("2026-01-02T00:00:00Z"));
        assert_eq!(
            (&second[0]["lastTransitionTime"], &second[0]["observedGeneration"]),
            (&json!("2026-01-01T00:00:00Z"), &json!(2))
        );
        let third = conditions(&status, &meta, &[ready(false)], at("2026-01-03T00:00:00Z"));
        assert_eq!(
            (&third[0]["status"], &third[0]["lastTransitionTime"]),
            (&json!("False"), &json!("2026-01-03T00:00:00Z"))
        );
    }

    /// Fact 1.1: old conditions without lastTransitionTime are dropped.
    #[test]
    fn add_on_conditions_of_others_stay_and_those_without_time_go() {
        let other = json!({ "type": "Other", "status": "True", "lastTransitionTime": "2020-01-01T00:00:00Z" });
        let status = json!({ "conditions": [{ "type": "Old", "status": "True" }, other] });
        let merged = conditions(&status, &Meta::default(), &[ready(true)], at("2026-01-01T00:00:00Z"));
        let kinds: Vec<&str> = merged
            .as_array()
            .unwrap()
            .iter()
            .map(|condition| condition["type"].as_str().unwrap())
            .collect();
        assert_eq!(kinds, ["Other", "Ready"]);
    }
}
