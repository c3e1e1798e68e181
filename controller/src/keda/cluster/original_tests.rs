use super::{super::fake::Fake, *};

fn deleted(finalizers: &[&str], original: Option<&str>) -> Meta {
    Meta {
        deletion_timestamp: Some("2026-01-01T00:00:00Z".to_owned()),
        finalizers: finalizers.iter().map(ToString::to_string).collect(),
        annotations: original
            .map(|count| (keda::ORIGINAL_REPLICAS.to_owned(), count.to_owned()))
            .into_iter()
            .collect(),
        ..Meta::default()
    }
}

fn spec(restore: bool) -> ScaledObjectSpec {
    ScaledObjectSpec {
        advanced: Some(keda::Advanced {
            restore_to_original_replica_count: Some(restore),
            horizontal_pod_autoscaler_config: None,
            scaling_modifiers: None,
        }),
        ..ScaledObjectSpec::default()
    }
}

#[test]
fn a_deleted_scaled_object_gives_the_replicas_of_before_back_where_it_says_so() {
    let subject = Subject::ScaledObject("shop/so".to_owned());
    let of = |meta: &Meta, restore, keda| {
        leave(
            &subject,
            meta,
            Some(&spec(restore)),
            &json!({ "originalReplicaCount": 3 }),
            keda,
        )
    };
    let meta = deleted(&[keda::FINALIZER], None);
    assert_eq!(
        of(&meta, true, false),
        Leave::Restore(keda::ScaleTargetRef::default(), 3)
    );
    assert_eq!(of(&meta, false, false), Leave::Free);
    assert_eq!(of(&meta, true, true), Leave::Not, "KEDA does it");
    assert_eq!(of(&deleted(&["other"], None), true, false), Leave::Not);
    let living = Meta {
        deletion_timestamp: None,
        ..meta
    };
    assert_eq!(of(&living, true, false), Leave::Not);
}

#[test]
fn a_deleted_http_scaled_object_is_let_go_with_keda_and_restores_without() {
    let subject = Subject::HttpScaledObject("shop/app".to_owned());
    let meta = deleted(&[keda::HTTP_FINALIZER], Some("2"));
    let of = |spec: Option<&ScaledObjectSpec>, keda| leave(&subject, &meta, spec, &Value::Null, keda);
    assert_eq!(
        of(Some(&spec(true)), false),
        Leave::Restore(keda::ScaleTargetRef::default(), 2)
    );
    assert_eq!(of(Some(&spec(true)), true), Leave::Free);
    assert_eq!(of(None, false), Leave::Free, "invalid, or another object scaled it");
}

const SCALED_OBJECT: &str = "/apis/keda.sh/v1alpha1/namespaces/shop/scaledobjects/so";
const WORKLOAD: &str = "/apis/apps/v1/namespaces/shop/deployments/web";

fn server() -> Fake {
    let kinds = json!({
        "kind": "APIResourceList", "groupVersion": "apps/v1",
        "resources": [{ "name": "deployments", "singularName": "", "namespaced": true, "kind": "Deployment", "verbs": ["get"] }],
    });
    Fake::default()
        .with("/apis/apps/v1", kinds)
        .with(
            WORKLOAD,
            json!({ "metadata": { "name": "web" }, "spec": { "replicas": 3 } }),
        )
        .with(
            SCALED_OBJECT,
            json!({ "metadata": { "name": "so", "finalizers": ["other"] } }),
        )
}

fn scalable(finalizers: &[&str]) -> Scalable {
    let target = keda::ScaleTargetRef {
        name: "web".to_owned(),
        ..keda::ScaleTargetRef::default()
    };
    Scalable {
        meta: Meta {
            name: "so".to_owned(),
            namespace: "shop".to_owned(),
            finalizers: finalizers.iter().map(ToString::to_string).collect(),
            ..Meta::default()
        },
        spec: ScaledObjectSpec {
            scale_target_ref: target,
            ..spec(true)
        },
        status: Value::Null,
    }
}

#[tokio::test]
async fn what_was_there_is_noted_once_and_comes_back_before_the_finalizer_goes() {
    let server = server();
    let (client, subject) = (server.client(), Subject::ScaledObject("shop/so".to_owned()));
    remember(&client, &subject, &scalable(&["other"]), 3).await.unwrap();
    let noted = server.get(SCALED_OBJECT);
    assert_eq!(noted["status"]["originalReplicaCount"], 3);
    assert_eq!(noted["metadata"]["finalizers"], json!(["other", keda::FINALIZER]));
    // As a later look has it, from another number.
    let mut again = scalable(&["other", keda::FINALIZER]);
    again.status = noted["status"].clone();
    remember(&client, &subject, &again, 1).await.unwrap();
    assert_eq!(server.get(SCALED_OBJECT), noted);

    let written = json!({ "spec": { "replicas": 0 } });
    server.write(WORKLOAD, &written);
    let leave = Leave::Restore(again.spec.scale_target_ref.clone(), 3);
    let_go(&client, &subject, &again.meta, &leave).await.unwrap();
    assert_eq!(server.get(WORKLOAD)["spec"]["replicas"], 3);
    assert_eq!(server.get(SCALED_OBJECT)["metadata"]["finalizers"], json!(["other"]));
}

#[tokio::test]
async fn a_workload_that_is_gone_keeps_no_object() {
    let server = Fake::default().with(
        SCALED_OBJECT,
        json!({ "metadata": { "name": "so", "finalizers": [keda::FINALIZER] } }),
    );
    let subject = Subject::ScaledObject("shop/so".to_owned());
    let Scalable { meta, spec, .. } = scalable(&[keda::FINALIZER]);
    let leave = Leave::Restore(spec.scale_target_ref, 3);
    let_go(&server.client(), &subject, &meta, &leave).await.unwrap();
    assert_eq!(server.get(SCALED_OBJECT)["metadata"]["finalizers"], json!([]));
}
