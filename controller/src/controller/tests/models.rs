//! A service's model and document change, break and are mended.

use super::*;

#[tokio::test(start_paused = true)]
async fn a_changed_model_rolls_over_new_ready_before_old_drains() {
    let world = World::new().await;
    let old = world.awake().await;
    world.traffic.load(&world.id, 1, 0);
    let first = world.status().revision;
    world.write_model("v2, longer");
    world.declare(|_| {});
    world.settle().await;
    let running = world.running();
    assert_eq!(running.len(), 2);
    assert!(
        world.traffic.sealed().is_empty(),
        "the old one serves until the new one is ready"
    );
    world.all_ready().await;
    assert_eq!(world.traffic.sealed(), std::slice::from_ref(&old));
    assert_eq!(world.running().len(), 1);
    assert!(!world.running().contains(&old));
    assert_ne!(world.status().revision, first);
}

#[tokio::test(start_paused = true)]
async fn a_broken_new_model_leaves_the_former_revision_serving() {
    let world = World::new().await;
    let old = world.awake().await;
    let revision = world.status().revision.unwrap();
    world.write_model("broken");
    world.declare(|_| {});
    world.settle().await;
    assert_eq!(world.running(), [old]);
    let status = world.status();
    assert_eq!(status.reason, Some(reason::REVISION_FAILED));
    let expected = format!("operator Foo is not supported; revision {revision} goes on serving");
    assert_eq!(status.message, Some(expected));
    assert_eq!(status.replicas.ready, 1);
    assert_eq!(world.wake().await, Ok(()));
    world.write_model("v3, mended");
    world.declare(|_| {});
    world.settle().await;
    world.all_ready().await;
    assert!(world.status().ready);
    assert_eq!(world.running().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn going_back_to_the_serving_model_mends_the_status() {
    let world = World::new().await;
    let old = world.awake().await;
    world.write_model("broken");
    world.declare(|_| {});
    world.settle().await;
    world.write_model("v1");
    world.declare(|_| {});
    world.settle().await;
    assert!(world.status().ready, "{:?}", world.status());
    assert_eq!(world.running(), [old]);
}

#[tokio::test(start_paused = true)]
async fn a_broken_model_is_reported_at_deployment_and_never_started() {
    let world = World::new().await;
    world.write_model("broken");
    world.declare(|_| {});
    world.settle().await;
    let status = world.status();
    assert_eq!((status.ready, status.reason), (false, Some(reason::MODEL_INVALID)));
    let error = world.wake().await.unwrap_err();
    assert_eq!(error.reason, WakeReason::LoadFailed);
    assert_eq!(
        &*error.message,
        "the model can't be loaded: operator Foo is not supported"
    );
    world.seconds(100).await;
    assert!(world.platform.starts(&world.id).is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_missing_model_is_reported_without_the_hosts_paths_and_mended_when_it_appears() {
    let world = World::new().await;
    fs::remove_file(world.model()).unwrap();
    world.declare(|_| {});
    world.settle().await;
    assert_eq!(world.status().reason, Some(reason::MODEL_NOT_FOUND));
    assert_eq!(
        &*world.wake().await.unwrap_err().message,
        "the model file iris.onnx does not exist"
    );
    world.write_model("v1");
    world.declare(|_| {});
    world.settle().await;
    assert!(world.status().ready, "{:?}", world.status());
    assert_eq!(world.wake().await, Ok(()));
}

#[tokio::test(start_paused = true)]
async fn a_broken_model_in_another_file_leaves_the_former_revision_to_wake() {
    let world = World::new().await;
    let revision = world.status().revision;
    let other = world.directory.path().join("other.onnx");
    fs::write(&other, "broken").unwrap();
    world.declare(|service| service.storage = Storage::Local(other));
    world.settle().await;
    assert_eq!(world.status().reason, Some(reason::REVISION_FAILED));
    world.awake().await;
    let status = world.status();
    assert_eq!((status.replicas.ready, status.revision), (1, revision));
    assert_eq!(
        status.reason,
        Some(reason::REVISION_FAILED),
        "the newest revision is still broken"
    );
}

#[tokio::test(start_paused = true)]
async fn the_same_fault_is_told_once_however_often_it_is_looked_at() {
    let world = World::new().await;
    let mut changes = world.shared.changes.subscribe();
    world.write_model("broken");
    for _ in 0..3 {
        world.declare(|_| {});
        world.settle().await;
    }
    let told: Vec<_> = std::iter::from_fn(|| changes.try_recv().ok())
        .filter(|change| change.what.is_problem())
        .collect();
    assert_eq!(told.len(), 1, "{told:?}");
    assert_eq!(
        told[0].to_string(),
        "default/iris: the model can't be served: operator Foo is not supported"
    );
}

#[tokio::test(start_paused = true)]
async fn the_status_says_whether_it_is_about_the_newest_document() {
    let world = World::new().await;
    assert!(world.status().checked);
    world.write_model("broken");
    world.declare(|_| {});
    let mut seen = world.shared.status.subscribe();
    world.settle().await;
    assert_eq!(world.status().reason, Some(reason::MODEL_INVALID));
    assert!(world.status().checked);
    world.write_model("v2");
    world.declare(|service| service.timeout = Duration::from_secs(9));
    let mended = |set: &Arc<StatusSet>| set.services.values().all(|status| status.checked && status.ready);
    seen.mark_unchanged();
    loop {
        seen.changed().await.unwrap();
        let set = seen.borrow_and_update().clone();
        if mended(&set) {
            return;
        }
        let status = set.services.values().next().unwrap();
        assert_eq!((status.checked, status.reason), (false, Some(reason::CHECKING)));
    }
}

#[tokio::test(start_paused = true)]
async fn storage_that_only_a_cluster_has_is_a_problem_that_says_so() {
    let world = World::with(|service| {
        service.storage = Storage::Claim {
            claim: "models".to_owned(),
            path: "iris".to_owned(),
        };
    })
    .await;
    let status = world.status();
    assert_eq!(
        (status.ready, status.reason),
        (false, Some(reason::STORAGE_UNSUPPORTED))
    );
    assert!(
        status
            .message
            .is_some_and(|message| message.contains("needs Kubernetes"))
    );
    assert_eq!(world.wake().await.unwrap_err().reason, WakeReason::LoadFailed);
}

#[tokio::test(start_paused = true)]
async fn a_fetch_that_fails_is_a_problem_and_a_path_instead_mends_it() {
    let config = Config {
        fetcher: Some(pilotlight_storage::Fetcher::new(pilotlight_storage::Config::default())),
        ..Config::default()
    };
    // Not a URI of a store: refused before anything is asked.
    let world = World::configured(config, |service| {
        service.storage = Storage::Remote("hf://owner/model".to_owned());
    })
    .await;
    assert_eq!(world.status().reason, Some(reason::FETCH_FAILED));
    world.declare(|_| {});
    world.settle().await;
    assert!(world.status().ready);
}
