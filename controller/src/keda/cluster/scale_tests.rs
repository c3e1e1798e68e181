use std::{collections::BTreeSet, sync::Arc, time::Duration};

use kube::api::ApiResource;
use serde_json::Value;
use tokio::sync::watch;

use super::{super::fake::Fake, *};
use crate::kubernetes::activators::Activators;

const PATH: &str = "/apis/apps/v1/namespaces/shop/deployments/web";

fn stage() -> (Fake, Api<DynamicObject>, Sealer) {
    let fake = Fake::default().with(
        PATH,
        json!({ "metadata": { "name": "web" }, "spec": { "replicas": 1 } }),
    );
    let resource = ApiResource {
        group: "apps".to_owned(),
        version: "v1".to_owned(),
        api_version: "apps/v1".to_owned(),
        kind: "Deployment".to_owned(),
        plural: "deployments".to_owned(),
    };
    let api = Api::namespaced_with(fake.client(), "shop", &resource);
    let (_, nobody) = watch::channel(Arc::new(BTreeSet::new()));
    (fake, api, Sealer::new(Activators::new(Duration::from_secs(1)), nobody))
}

async fn to_zero(api: &Api<DynamicObject>, sealer: &Sealer) -> Result<Scale, Refused> {
    let write = Write {
        api,
        name: "web",
        version: "1",
        current: 1,
        replicas: 0,
    };
    write.to_zero(sealer, &["shop/web@http".to_owned()]).await
}

fn replicas(fake: &Fake) -> Value {
    fake.get(PATH)["spec"]["replicas"].clone()
}

#[tokio::test]
async fn an_idle_workload_goes_to_zero_whatever_its_status_does_meanwhile() {
    let (fake, api, sealer) = stage();
    let mut writes = 0;
    fake.meanwhile(move |_, objects| {
        writes += 1;
        if writes < 3 {
            Fake::touch(objects, PATH, &json!({ "status": { "observedGeneration": writes } }));
        }
    });
    to_zero(&api, &sealer).await.unwrap();
    assert_eq!(replicas(&fake), 0);
}

#[tokio::test]
async fn a_request_between_the_seal_and_the_write_keeps_the_workload() {
    let (fake, api, sealer) = stage();
    // As an activator wakes a workload whose pods are sealed.
    fake.meanwhile(|_, objects| {
        let woken = json!({ "metadata": { "annotations": { ANNOTATION_WOKEN_AT: "now" } } });
        Fake::touch(objects, PATH, &woken);
    });
    let refused = to_zero(&api, &sealer).await.unwrap_err();
    assert_eq!(refused.to_string(), "it was asked for");
    assert_eq!(replicas(&fake), 1);
}

#[tokio::test]
async fn other_replicas_in_between_outdate_the_step() {
    let (fake, api, sealer) = stage();
    fake.meanwhile(|_, objects| Fake::touch(objects, PATH, &json!({ "spec": { "replicas": 4 } })));
    assert!(to_zero(&api, &sealer).await.is_err());
    assert_eq!(replicas(&fake), 4);
}
