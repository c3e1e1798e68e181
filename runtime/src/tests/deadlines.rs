//! Priorities, preferred sizes and deadlines that are kept by what runs cost. On a paused clock.

use std::sync::Arc;
use std::time::Duration;

use pilotlight_engine::DataType;
use tokio::time::advance;

use crate::config::Config;
use crate::testing::{Bench, Manual, Mock, Seen, config, settle};

fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}

fn infer(parameters: &str) -> String {
    format!(r#"{{"inputs":[{{"name":"x","shape":[1,1],"datatype":"FP32","data":[1]}}],"parameters":{{{parameters}}}}}"#)
}

async fn bench(config: Config) -> (Bench, Manual) {
    let device = Manual::default();
    let bench = Bench::new(config, device.clone(), &[("m", Mock::echo(DataType::F32, 1))]).await;
    device.hold();
    (bench, device)
}

#[tokio::test(start_paused = true)]
async fn a_request_of_a_higher_priority_overtakes_those_that_wait() {
    let config = Config {
        max_batch_size: 1,
        priority_levels: 3,
        default_priority: 2,
        ..config()
    };
    let (bench, device) = bench(config).await;
    let mut order = Vec::new();
    let mut tasks = Vec::new();
    for (name, parameters) in [
        ("first", ""),
        ("low", r#""priority":3"#),
        ("default", ""),
        ("unknown", r#""priority":9"#),
        ("high", r#""priority":1"#),
    ] {
        tasks.push((name, bench.start("/v2/models/m/infer", &infer(parameters)).await));
    }
    for _ in 0..5 {
        device.finish();
        settle().await;
        let done = tasks
            .iter()
            .position(|(_, task)| task.is_finished())
            .expect("one more is answered");
        order.push(tasks.remove(done).0);
    }
    assert_eq!(order, ["first", "high", "default", "unknown", "low"]);
}

#[tokio::test(start_paused = true)]
async fn a_batch_has_a_preferred_size_where_enough_wait() {
    let config = Config {
        preferred_batch_sizes: vec![2, 4],
        ..config()
    };
    let (bench, device) = bench(config).await;
    let mut tasks = vec![bench.start("/v2/models/m/infer", &infer("")).await];
    for _ in 0..7 {
        tasks.push(bench.start("/v2/models/m/infer", &infer("")).await);
    }
    for expected in [1, 4, 2, 1] {
        assert_eq!(device.running(), Some(expected));
        device.finish();
    }
    for task in tasks {
        assert_eq!(task.await.unwrap().status, 200);
    }
    let config = bench.get("/v2/models/m/config").await.body;
    assert!(config.contains(r#""preferred_batch_size":[2,4]"#), "{config}");
}

/// A bench whose model has been seen to take 100 ms a run, whatever the rows.
async fn learned() -> (Bench, Manual) {
    let config = Config {
        max_batch_size: 1,
        adaptive_batching: true,
        ..config()
    };
    let (bench, device) = bench(config).await;
    for _ in 0..6 {
        let task = bench.start("/v2/models/m/infer", &infer("")).await;
        run(&device, 100).await;
        assert_eq!(task.await.unwrap().status, 200);
    }
    (bench, device)
}

/// The run on the device takes this long.
async fn run(device: &Manual, millis: u64) {
    advance(ms(millis)).await;
    device.finish();
    settle().await;
}

#[tokio::test(start_paused = true)]
async fn what_cannot_meet_its_deadline_is_refused_at_once_with_the_reason() {
    let (bench, device) = learned().await;
    let running = bench.start("/v2/models/m/infer", &infer("")).await;
    let waiting = bench.start("/v2/models/m/infer", &infer("")).await;
    let hopeless = bench.start("/v2/models/m/infer", &infer(r#""timeout":250000"#)).await;
    let seen: Seen = hopeless.await.unwrap();
    assert_eq!((seen.status, seen.code()), (503, "deadline-unreachable"));
    assert!(seen.body.contains("its deadline is 250 ms after it"), "{}", seen.body);
    assert_eq!(seen.header("retry-after"), Some("1"));
    let hopeful = bench.start("/v2/models/m/infer", &infer(r#""timeout":350000"#)).await;
    for _ in 0..3 {
        run(&device, 100).await;
    }
    for task in [running, waiting, hopeful] {
        assert_eq!(task.await.unwrap().status, 200);
    }
    bench.assert_metric("ml_requests_total{status=\"deadline_unreachable\"} 1");
    bench.assert_metric("ml_requests_dropped_total{reason=\"deadline_unreachable\"} 1");
    bench.assert_metric("nv_inference_request_failure{reason=\"REJECTED\"} 1");
}

#[tokio::test(start_paused = true)]
async fn a_cost_learned_wrong_is_corrected_by_requests_that_find_the_device_idle() {
    let (bench, device) = learned().await;
    let task = bench.start("/v2/models/m/infer", &infer("")).await;
    run(&device, 4000).await;
    assert_eq!(task.await.unwrap().status, 200);
    for _ in 0..100 {
        let task = bench.start("/v2/models/m/infer", &infer(r#""timeout":50000"#)).await;
        run(&device, 10).await;
        assert_eq!(task.await.unwrap().status, 200, "nobody else is there");
    }
    let running = bench.start("/v2/models/m/infer", &infer("")).await;
    let second = bench.start("/v2/models/m/infer", &infer(r#""timeout":3000000"#)).await;
    run(&device, 10).await;
    run(&device, 10).await;
    assert_eq!(
        (running.await.unwrap().status, second.await.unwrap().status),
        (200, 200)
    );
}

#[tokio::test(start_paused = true)]
async fn without_adaptive_batching_a_request_waits_until_its_deadline() {
    let (bench, device) = bench(config()).await;
    let running = bench.start("/v2/models/m/infer", &infer("")).await;
    let late = bench.start("/v2/models/m/infer", &infer(r#""timeout":50000"#)).await;
    advance(ms(51)).await;
    let seen = late.await.unwrap();
    assert_eq!((seen.status, seen.code()), (504, "request-timeout"));
    device.finish();
    assert_eq!(running.await.unwrap().status, 200);
}

#[tokio::test]
async fn a_batch_of_a_model_that_is_not_pure_fails_as_one_and_is_not_run_again() {
    let device = Manual::default();
    let model = Mock::impure(Mock::echo(DataType::F32, 1));
    let bench = Bench::new(config(), device.clone(), &[("m", Arc::clone(&model))]).await;
    assert_eq!(model.runs(), 0, "no run on made-up inputs");
    device.hold();
    let first = bench.start("/v2/models/m/infer", &infer("")).await;
    let failing = infer("").replace("[1]}", "[-1]}");
    let others = [
        bench.start("/v2/models/m/infer", &infer("")).await,
        bench.start("/v2/models/m/infer", &failing).await,
    ];
    device.finish();
    device.finish();
    assert_eq!(first.await.unwrap().status, 200);
    for other in others {
        assert_eq!(other.await.unwrap().code(), "execution-failed");
    }
    assert_eq!(model.runs(), 2);
}
