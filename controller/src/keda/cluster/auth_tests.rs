use pilotlight_manifests::keda::Object;
use serde_json::{Value, json};

use super::{super::fake::Fake, *};

fn spec(reference: Value) -> ScaledObjectSpec {
    let trigger = json!({ "type": "prometheus", "authenticationRef": reference });
    let spec = json!({ "scaleTargetRef": { "name": "app" }, "triggers": [{ "type": "cron" }, trigger] });
    let object: Object<ScaledObjectSpec> = keda::read(json!({ "spec": spec })).unwrap();
    object.spec
}

fn authentication(name: &str, key: &str) -> Value {
    let reference =
        |parameter: &str, name: &str, key: &str| json!([{ "parameter": parameter, "name": name, "key": key }]);
    json!({
        "metadata": { "name": name },
        "spec": { "secretTargetRef": reference("bearerToken", "prometheus", key), "configMapTargetRef": reference("ca", "trust", "ca.crt") },
    })
}

fn stage() -> Fake {
    let vault = json!({ "metadata": { "name": "vault" }, "spec": { "hashiCorpVault": { "address": "http://v" } } });
    let secret = |text: &str| json!({ "metadata": { "name": "prometheus" }, "data": { "token": text } });
    let map = json!({ "metadata": { "name": "trust" }, "data": { "ca.crt": "PEM" } });
    let own = "/apis/keda.sh/v1alpha1/namespaces/shop/triggerauthentications";
    Fake::default()
        .with(&format!("{own}/metrics"), authentication("metrics", "token"))
        .with(&format!("{own}/keyless"), authentication("keyless", "other"))
        .with(&format!("{own}/vault"), vault)
        .with(
            "/apis/keda.sh/v1alpha1/clustertriggerauthentications/all",
            authentication("all", "token"),
        )
        .with("/api/v1/namespaces/shop/secrets/prometheus", secret("c2hvcA=="))
        .with("/api/v1/namespaces/keda/secrets/prometheus", secret("Y2x1c3Rlcg=="))
        .with("/api/v1/namespaces/shop/configmaps/trust", map.clone())
        .with("/api/v1/namespaces/keda/configmaps/trust", map)
}

async fn secrets(reference: Value) -> Result<Vec<Secrets>, Unsupported> {
    read(&stage().client(), "keda", "shop", &spec(reference)).await
}

#[tokio::test]
async fn secrets_are_those_of_the_namespace_or_of_the_whole_cluster() {
    let all = secrets(json!({ "name": "metrics" })).await.unwrap();
    assert_eq!(all[0], Secrets::default(), "it asks for none");
    assert_eq!(
        (all[1].get("bearerToken"), all[1].get("ca")),
        (Some("shop"), Some("PEM"))
    );
    let cluster = secrets(json!({ "name": "all", "kind": "ClusterTriggerAuthentication" }))
        .await
        .unwrap();
    assert_eq!(cluster[1].get("bearerToken"), Some("cluster"));
}

#[tokio::test]
async fn what_is_missing_or_needs_keda_is_named_with_its_trigger() {
    for (reference, text) in [
        (
            json!({ "name": "nobody" }),
            "TriggerAuthentication nobody does not exist",
        ),
        (json!({ "name": "keyless" }), "Secret shop/prometheus has no key other"),
        (json!({ "name": "vault" }), "hashiCorpVault"),
        (
            json!({ "name": "x", "kind": "CloudAuthentication" }),
            "CloudAuthentication",
        ),
        (json!({}), "has no name"),
    ] {
        let error = secrets(reference).await.unwrap_err();
        assert_eq!(error.reason(), "InvalidTrigger");
        let shown = error.to_string();
        assert!(shown.starts_with("trigger 1: ") && shown.contains(text), "{shown}");
    }
}
