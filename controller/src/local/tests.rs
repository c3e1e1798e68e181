//! Real processes (a script that stands in for the runtime), so on the real clock and with waits for events only.

use std::{net::TcpStream, path::PathBuf};

use super::*;
use crate::{model::Model, platform::Hold, testing::service, workload::workload};

fn config() -> LocalConfig {
    let script = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/fake-runtime.sh");
    LocalConfig {
        term_limit: Duration::from_millis(200),
        ..LocalConfig::with_executable(script)
    }
}

fn platform(change: impl FnOnce(&mut LocalConfig)) -> LocalPlatform {
    let mut config = config();
    change(&mut config);
    LocalPlatform::new(config).unwrap()
}

/// A workload of the service `default/iris` whose model file has this name.
fn model(file: &str) -> Workload {
    let mut service = service("iris");
    service.env.insert("GREETING".into(), "hello".into());
    workload(
        &service,
        &Model {
            path: PathBuf::from("/secret/place").join(file),
            digest: file.to_owned(),
            hold: Hold::default(),
        },
    )
}

async fn event(platform: &LocalPlatform) -> PlatformEvent {
    tokio::time::timeout(Duration::from_secs(20), platform.next_event())
        .await
        .expect("an event in time")
}

async fn until(platform: &LocalPlatform, holds: impl Fn(&PlatformEvent) -> bool) -> PlatformEvent {
    loop {
        let event = event(platform).await;
        if holds(&event) {
            return event;
        }
    }
}

async fn exit(platform: &LocalPlatform) -> Exit {
    until(platform, |event| !event.exits.is_empty()).await.exits.remove(0)
}

/// Starts one replica and waits for its first words.
async fn started(platform: &LocalPlatform, workload: Workload) -> (Replica, LogLine) {
    let id = workload.id.clone();
    platform.apply(workload);
    platform.scale(&id, 1);
    let replica = event(platform).await.replicas.remove(0);
    let words = platform
        .logs(&id, 1, true)
        .next()
        .await
        .expect("the script says something");
    (replica, words)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_inherits_its_listener_and_a_minimal_environment() {
    let platform = platform(|_| {});
    let (replica, words) = started(&platform, model("m.onnx")).await;
    assert_eq!(
        words.text,
        "listening, 1 descriptor, greeting hello, home kept, secret none"
    );
    assert_eq!(words.endpoint, replica.endpoint.id);
    assert!(
        TcpStream::connect(replica.endpoint.address).is_ok(),
        "it listens already"
    );
    assert_eq!(replica.endpoint.state, EndpointState::Starting);
    assert_eq!(
        replica.endpoint.probe,
        pilotlight_activator::Probe::Http("/v2/models/iris/ready".parse().unwrap())
    );
    assert_eq!(replica.endpoint.initial_capacity, 64);
    assert_eq!(platform.processes(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_ended_replica_is_shown_as_draining_and_then_gone() {
    let platform = platform(|_| {});
    let (replica, _) = started(&platform, model("m.onnx")).await;
    platform.end(&BackendId::new("default/iris"), &replica.endpoint.id);
    let exit = exit(&platform).await;
    assert_eq!((exit.endpoint, exit.cause), (replica.endpoint.id, ExitCause::Ended));
    assert_eq!(platform.processes(), 0);
    assert!(
        TcpStream::connect(replica.endpoint.address).is_err(),
        "nobody holds its listener"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_that_ignores_sigterm_is_killed_after_its_time() {
    let platform = platform(|_| {});
    let (replica, _) = started(&platform, model("stubborn.onnx")).await;
    platform.end(&BackendId::new("default/iris"), &replica.endpoint.id);
    assert_eq!(exit(&platform).await.cause, ExitCause::Ended);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_that_cannot_load_tells_why_without_paths_of_the_host() {
    let platform = platform(|_| {});
    platform.apply(model("fail.onnx"));
    platform.scale(&BackendId::new("default/iris"), 1);
    let cause = exit(&platform).await.cause;
    let message = "fail.onnx: operator Foo is not supported".to_owned();
    assert_eq!(
        cause,
        ExitCause::Died {
            message,
            by_signal: false
        }
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_replica_is_told_with_its_signal() {
    let platform = platform(|_| {});
    let (replica, _) = started(&platform, model("stubborn.onnx")).await;
    platform.inner.kill.cancel();
    platform.end(&BackendId::new("default/iris"), &replica.endpoint.id);
    exit(&platform).await;
    assert_eq!(platform.processes(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn scaling_is_idempotent_and_starts_what_the_applied_revision_lacks() {
    let platform = platform(|_| {});
    let id = BackendId::new("default/iris");
    platform.apply(model("one.onnx"));
    platform.scale(&id, 2);
    platform.scale(&id, 2);
    platform.scale(&id, 1);
    assert_eq!(platform.processes(), 2);
    platform.apply(model("two.onnx"));
    assert_eq!(platform.processes(), 2);
    platform.scale(&id, 1);
    let revision = model("two.onnx").revision;
    let shown = until(&platform, |event| event.replicas.len() == 3).await;
    assert_eq!(
        shown
            .replicas
            .iter()
            .filter(|replica| replica.revision == revision)
            .count(),
        1
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn past_the_limit_of_processes_the_refusal_names_the_remedy() {
    let platform = platform(|config| config.max_processes = 1);
    platform.apply(model("m.onnx"));
    platform.scale(&BackendId::new("default/iris"), 2);
    let ExitCause::Refused { reason, message } = exit(&platform).await.cause else {
        panic!("refused")
    };
    assert_eq!(reason, WakeReason::NoCapacity);
    assert!(message.contains("--max-processes"), "{message}");
    assert_eq!(platform.processes(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_executable_is_a_typed_refusal() {
    let platform = platform(|config| config.executable = PathBuf::from("/nowhere/pilotlight"));
    platform.apply(model("m.onnx"));
    platform.scale(&BackendId::new("default/iris"), 1);
    let ExitCause::Refused { reason, .. } = exit(&platform).await.cause else {
        panic!("refused")
    };
    assert_eq!(reason, WakeReason::PlatformError);
    assert_eq!(platform.processes(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn shutdown_leaves_no_process_however_stubborn() {
    let platform = platform(|config| config.term_limit = Duration::from_mins(10));
    platform.apply(model("stubborn.onnx"));
    platform.scale(&BackendId::new("default/iris"), 3);
    let _ = platform
        .logs(&BackendId::new("default/iris"), 0, true)
        .take(3)
        .collect::<Vec<_>>()
        .await;
    platform.shutdown(Duration::from_millis(100)).await;
    assert_eq!(platform.processes(), 0);
    platform.scale(&BackendId::new("default/iris"), 1);
    assert_eq!(platform.processes(), 0, "nothing starts after it");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_removed_workload_is_ended_and_its_logs_are_closed() {
    let platform = platform(|_| {});
    let (_, first) = started(&platform, model("m.onnx")).await;
    let id = BackendId::new("default/iris");
    let logs = platform.logs(&id, 10, true);
    platform.remove(&id);
    exit(&platform).await;
    assert_eq!(logs.collect::<Vec<_>>().await, [first]);
    platform.scale(&id, 1);
    assert_eq!(platform.processes(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_end_of_the_lifeline_ends_every_child() {
    let lifeline = Lifeline::new().unwrap();
    let mut children = Vec::new();
    for _ in 0..3 {
        let spec = model("stubborn.onnx").runtime;
        children.push(process::spawn(&config(), &spec, None, Listener::bind().unwrap(), &lifeline).unwrap());
    }
    assert!(children.iter_mut().all(|child| child.try_wait().unwrap().is_none()));
    drop(lifeline);
    for mut child in children {
        let status = tokio::time::timeout(Duration::from_secs(20), child.wait())
            .await
            .expect("it ends")
            .unwrap();
        assert!(status.success(), "{status}");
    }
}
