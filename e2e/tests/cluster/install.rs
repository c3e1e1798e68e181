//! What is installed: every overlay is valid, and each part may do what it needs and no more.

use std::process::Command;

use pilotlight_e2e::{
    cluster::{ACTIVATOR, CONTROLLER, Cluster, SYSTEM},
    places,
};

#[tokio::test]
async fn every_overlay_is_accepted_by_the_api_server() {
    let cluster = Cluster::shared();
    for overlay in ["standalone", "high-availability", "beside-kserve", "gpu"] {
        let path = places::root().join("manifests/install/overlays").join(overlay);
        let args = format!(
            "apply --server-side --force-conflicts --dry-run=server -k {}",
            path.display()
        );
        let said = cluster.kubectl().must(&args).await;
        assert!(said.contains("networkpolicy"), "{overlay}: {said}");
    }
}

#[tokio::test]
async fn the_chart_is_made_from_what_kustomize_installs() {
    let cluster = Cluster::shared();
    let output = Command::new(places::root().join("manifests/install/helm/make"))
        .arg("--check")
        .arg(cluster.kubectl().program())
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
}

#[tokio::test]
async fn no_part_may_do_more_than_it_needs() {
    let cluster = Cluster::shared();
    for (part, verb, kind, expected) in [
        (ACTIVATOR, "patch", "deployments.apps/scale", "yes"),
        (ACTIVATOR, "get", "secrets", "no"),
        (ACTIVATOR, "create", "pods", "no"),
        (ACTIVATOR, "delete", "deployments.apps", "no"),
        (ACTIVATOR, "update", "inferenceservices.serving.kserve.io", "no"),
        (CONTROLLER, "create", "deployments.apps", "yes"),
        (CONTROLLER, "get", "secrets", "no"),
        (CONTROLLER, "create", "pods", "no"),
        (CONTROLLER, "delete", "inferenceservices.serving.kserve.io", "no"),
        (CONTROLLER, "create", "rolebindings.rbac.authorization.k8s.io", "no"),
    ] {
        let (resource, sub) = kind.split_once('/').unwrap_or((kind, ""));
        let account = format!("system:serviceaccount:{SYSTEM}:{part}");
        let args = format!("auth can-i {verb} {resource} --subresource={sub} --as={account} --namespace default");
        // A "no" is also an exit code.
        let said = cluster.kubectl().run(&args, "").await;
        let allowed = if said.is_ok() { "yes" } else { "no" };
        assert_eq!(allowed, expected, "{part} {verb} {kind}: {said:?}");
    }
}

#[tokio::test]
async fn the_namespace_of_the_platform_takes_only_restricted_pods() {
    let cluster = Cluster::shared();
    let pod = format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: root, namespace: {SYSTEM}}}\nspec: {{containers: [{{name: root, image: any}}]}}\n"
    );
    let refused = cluster.kubectl().run("apply -f -", &pod).await.unwrap_err();
    assert!(refused.contains("violates PodSecurity"), "{refused}");
}
