//! Requests together: batches, waiting, leaving, deadlines and the bounds. On a paused clock.

use std::sync::Arc;
use std::time::Duration;

use pilotlight_engine::{Data, DataType, Dim, RunError, Tensor};
use tokio::time::{Instant, advance};

use crate::config::Config;
use crate::error::InferError;
use crate::scheduler::{Request, Scheduler};
use crate::served::Served;
use crate::testing::{Bench, Manual, Mock, config, info, n, settle, signature};

fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}

async fn bench(config: Config, model: Arc<Mock>) -> (Bench, Manual) {
    let device = Manual::default();
    let bench = Bench::new(config, device.clone(), &[("m", model)]).await;
    device.hold();
    (bench, device)
}

fn waiting_config() -> Config {
    Config {
        max_batch_size: 32,
        max_latency: ms(50),
        ..config()
    }
}

fn served(bench: &Bench) -> Arc<Served> {
    bench.repository.lease("m").unwrap().served
}

fn request(rows: usize) -> Request {
    let now = Instant::now();
    let inputs = vec![Tensor::new(vec![rows, 1], Data::F32(vec![1.0; rows])).unwrap()];
    Request {
        inputs,
        arrived: now,
        deadline: now + ms(5000),
        priority: 0,
    }
}

fn submit(scheduler: &Scheduler, served: &Arc<Served>) -> crate::scheduler::Pending {
    scheduler.submit(scheduler.open(served), request(1)).unwrap()
}

const ONE: &str = r#"{"instances":[[1]]}"#;

#[tokio::test(start_paused = true)]
async fn without_max_latency_an_idle_device_takes_at_once_and_the_next_batch_fills_up_meanwhile() {
    let (bench, device) = bench(config(), Mock::echo(DataType::F32, 1)).await;
    let mut tasks = vec![bench.start("/v1/models/m:predict", ONE).await];
    assert_eq!(device.running(), Some(1), "no waiting on an idle device");
    for _ in 0..5 {
        tasks.push(bench.start("/v1/models/m:predict", ONE).await);
    }
    bench.assert_metric("ml_queue_size 5");
    bench.assert_metric("inference_queue_depth{model=\"m\"} 5");
    bench.assert_metric("active_inferences 1");
    bench.assert_metric("ml_active_requests 6");
    device.finish();
    assert_eq!(device.running(), Some(5), "what came in the meantime runs together");
    device.finish();
    for task in tasks {
        assert_eq!(task.await.unwrap().body, r#"{"predictions":[[1.0]]}"#);
    }
    bench.assert_metric("ml_queue_size 0");
    bench.assert_metric("active_inferences 0");
}

#[tokio::test(start_paused = true)]
async fn at_32_and_50_ms_a_batch_leaves_when_it_is_full() {
    let (bench, device) = bench(waiting_config(), Mock::echo(DataType::F32, 1)).await;
    let served = served(&bench);
    let _slow = bench.scheduler.open(&served);
    let mut pending: Vec<_> = (0..31).map(|_| submit(&bench.scheduler, &served)).collect();
    settle().await;
    assert_eq!(device.running(), None, "31 wait for the one that is open");
    pending.push(submit(&bench.scheduler, &served));
    assert_eq!(
        device.running(),
        Some(32),
        "the 32nd starts it without any time passing"
    );
    device.finish();
    for pending in pending {
        assert_eq!(pending.wait().await.unwrap().batch_rows, 32);
    }
}

#[tokio::test(start_paused = true)]
async fn at_32_and_50_ms_a_batch_leaves_when_its_oldest_is_that_old() {
    let (bench, device) = bench(waiting_config(), Mock::echo(DataType::F32, 1)).await;
    let served = served(&bench);
    let _slow = bench.scheduler.open(&served);
    let first = submit(&bench.scheduler, &served);
    settle().await;
    advance(ms(30)).await;
    let second = submit(&bench.scheduler, &served);
    settle().await;
    advance(ms(19)).await;
    settle().await;
    assert_eq!(device.running(), None, "49 ms");
    advance(ms(2)).await;
    settle().await;
    assert_eq!(
        device.running(),
        Some(2),
        "the age of the oldest counts, not of the newest"
    );
    device.finish();
    assert!(first.wait().await.is_ok() && second.wait().await.is_ok());
    // The timer works more than once.
    let third = submit(&bench.scheduler, &served);
    settle().await;
    advance(ms(49)).await;
    settle().await;
    assert_eq!(device.running(), None);
    advance(ms(2)).await;
    settle().await;
    assert_eq!(device.running(), Some(1));
    device.finish();
    assert!(third.wait().await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn at_32_and_50_ms_a_batch_leaves_when_no_other_request_is_open() {
    let (bench, device) = bench(waiting_config(), Mock::echo(DataType::F32, 1)).await;
    let served = served(&bench);
    let alone = bench.start("/v1/models/m:predict", ONE).await;
    assert_eq!(device.running(), Some(1), "nobody else is there to wait for");
    device.finish();
    let slow = bench.scheduler.open(&served);
    let other = bench.start("/v1/models/m:predict", ONE).await;
    assert_eq!(device.running(), None);
    drop(slow);
    assert_eq!(device.running(), Some(1), "the open one left");
    device.finish();
    assert_eq!((alone.await.unwrap().status, other.await.unwrap().status), (200, 200));
}

#[tokio::test(start_paused = true)]
async fn at_32_and_50_ms_forty_clients_make_two_batches() {
    let (bench, device) = bench(waiting_config(), Mock::echo(DataType::F32, 1)).await;
    let served = served(&bench);
    let slow = bench.scheduler.open(&served);
    let mut tasks = Vec::new();
    for _ in 0..40 {
        tasks.push(bench.start("/v1/models/m:predict", ONE).await);
    }
    assert_eq!(device.running(), Some(32));
    drop(slow);
    device.finish();
    assert_eq!(device.running(), Some(8));
    device.finish();
    for task in tasks {
        assert_eq!(task.await.unwrap().status, 200);
    }
}

#[tokio::test(start_paused = true)]
async fn a_client_that_leaves_is_out_of_the_queue_before_its_batch_forms() {
    let (bench, device) = bench(config(), Mock::echo(DataType::F32, 1)).await;
    let running = bench.start("/v1/models/m:predict", ONE).await;
    let leaving = bench.start("/v1/models/m:predict", ONE).await;
    let staying = bench.start("/v1/models/m:predict", ONE).await;
    leaving.abort();
    settle().await;
    bench.assert_metric("ml_requests_dropped_total{reason=\"cancelled\"} 1");
    bench.assert_metric("ml_queue_size 1");
    device.finish();
    assert_eq!(device.running(), Some(1), "only the one that stayed");
    device.finish();
    assert_eq!(
        (running.await.unwrap().status, staying.await.unwrap().status),
        (200, 200)
    );
    bench.assert_metric("ml_requests_total{status=\"cancelled\"} 1");
}

#[tokio::test(start_paused = true)]
async fn a_client_that_leaves_during_its_run_harms_nobody() {
    let (bench, device) = bench(config(), Mock::echo(DataType::F32, 1)).await;
    let leaving = bench.start("/v1/models/m:predict", ONE).await;
    leaving.abort();
    settle().await;
    device.finish();
    bench.assert_metric("ml_requests_dropped_total{reason=\"cancelled\"} 0");
    bench.assert_metric("ml_requests_total{status=\"cancelled\"} 1");
    assert_eq!(bench.scheduler.waiting(), 0);
}

#[tokio::test(start_paused = true)]
async fn the_deadline_runs_from_arrival() {
    let (bench, device) = bench(config(), Mock::echo(DataType::F32, 1)).await;
    let start = Instant::now();
    let running = bench.start("/v1/models/m:predict", ONE).await;
    let queued = bench.start("/v1/models/m:predict", ONE).await;
    advance(ms(4990)).await;
    settle().await;
    assert!(!running.is_finished() && !queued.is_finished());
    for task in [running, queued] {
        let seen = task.await.unwrap();
        assert_eq!((seen.status, seen.code()), (504, "request-timeout"));
        assert!(seen.body.contains("--request-timeout-ms"), "{}", seen.body);
    }
    assert!(start.elapsed() < ms(5010), "{:?}", start.elapsed());
    bench.assert_metric("ml_requests_dropped_total{reason=\"deadline\"} 1");
    bench.assert_metric("ml_requests_total{status=\"timeout\"} 2");
    device.finish();
    assert_eq!(device.running(), None, "the one that was queued never runs");
}

#[tokio::test(start_paused = true)]
async fn a_full_queue_is_a_marked_503() {
    let (bench, device) = bench(
        Config {
            queue_size: 2,
            ..config()
        },
        Mock::echo(DataType::F32, 1),
    )
    .await;
    let mut tasks = Vec::new();
    for _ in 0..3 {
        tasks.push(bench.start("/v1/models/m:predict", ONE).await);
    }
    let seen = bench.post("/v1/models/m:predict", ONE).await;
    assert_eq!(
        (seen.status, seen.code(), seen.header("retry-after")),
        (503, "queue-full", Some("1"))
    );
    bench.assert_metric("ml_requests_total{status=\"queue_full\"} 1");
    bench.assert_metric("ml_requests_dropped_total{reason=\"queue_full\"} 1");
    device.finish();
    device.finish();
    for task in tasks {
        assert_eq!(task.await.unwrap().status, 200);
    }
}

#[tokio::test(start_paused = true)]
async fn a_full_queue_of_one_model_leaves_the_others_theirs() {
    let device = Manual::default();
    let config = Config {
        queue_size: 2,
        ..config()
    };
    let mock = || Mock::echo(DataType::F32, 1);
    let bench = Bench::new(config, device.clone(), &[("m", mock()), ("other", mock())]).await;
    device.hold();
    let mut tasks = Vec::new();
    for _ in 0..3 {
        tasks.push(bench.start("/v1/models/m:predict", ONE).await);
    }
    assert_eq!(bench.post("/v1/models/m:predict", ONE).await.code(), "queue-full");
    for _ in 0..2 {
        tasks.push(bench.start("/v1/models/other:predict", ONE).await);
    }
    assert_eq!(bench.post("/v1/models/other:predict", ONE).await.code(), "queue-full");
    // Whoever leaves gives the place back.
    tasks.remove(1).abort();
    settle().await;
    tasks.push(bench.start("/v1/models/m:predict", ONE).await);
    while device.running().is_some() {
        device.finish();
    }
    for task in tasks {
        assert_eq!(task.await.unwrap().status, 200);
    }
    bench.assert_metric("ml_requests_dropped_total{reason=\"queue_full\"} 2");
}

#[tokio::test(start_paused = true)]
async fn more_requests_at_once_than_the_container_concurrency_are_a_marked_503() {
    let (bench, device) = bench(
        Config {
            container_concurrency: 2,
            ..config()
        },
        Mock::echo(DataType::F32, 1),
    )
    .await;
    let mut tasks = Vec::new();
    for _ in 0..2 {
        tasks.push(bench.start("/v1/models/m:predict", ONE).await);
    }
    let seen = bench.post("/v1/models/m:predict", ONE).await;
    assert_eq!((seen.status, seen.code()), (503, "queue-full"));
    device.finish();
    device.finish();
    for task in tasks {
        assert_eq!(task.await.unwrap().status, 200);
    }
}

#[tokio::test(start_paused = true)]
async fn the_queue_is_bounded_in_bytes_too() {
    let (bench, device) = bench(
        Config {
            queue_bytes: 100,
            ..config()
        },
        Mock::echo(DataType::F32, 1),
    )
    .await;
    let served = served(&bench);
    let submit = |rows| bench.scheduler.submit(bench.scheduler.open(&served), request(rows));
    let running = submit(1).unwrap();
    let large = submit(1000).unwrap();
    assert_eq!(
        submit(1).err(),
        Some(InferError::QueueBytesFull { limit: 100 }),
        "a large one may wait, but alone"
    );
    device.finish();
    let next = submit(20).unwrap();
    assert!(submit(6).is_err());
    let last = submit(5).unwrap();
    device.finish();
    device.finish();
    for pending in [running, large, next, last] {
        assert!(pending.wait().await.is_ok());
    }
}

#[tokio::test(start_paused = true)]
async fn requests_of_another_shape_run_in_a_batch_of_their_own() {
    let x = info("x", DataType::F32, vec![n(), Dim::Unknown]);
    let (bench, device) = bench(config(), Mock::new(signature(vec![x.clone()], vec![x]), Ok)).await;
    let mut tasks = Vec::new();
    for body in [ONE, ONE, r#"{"instances":[[1,2]]}"#, ONE, r#"{"instances":[[3,4]]}"#] {
        tasks.push(bench.start("/v1/models/m:predict", body).await);
    }
    device.finish();
    assert_eq!(device.running(), Some(2), "the narrow ones, first in line");
    device.finish();
    assert_eq!(device.running(), Some(2), "the wide ones");
    device.finish();
    for task in tasks {
        assert_eq!(task.await.unwrap().status, 200);
    }
}

#[tokio::test(start_paused = true)]
async fn a_model_of_fixed_batch_runs_each_request_alone() {
    let x = info("x", DataType::F32, vec![Dim::Fixed(1), Dim::Fixed(1)]);
    let (bench, device) = bench(config(), Mock::new(signature(vec![x.clone()], vec![x]), Ok)).await;
    let mut tasks = Vec::new();
    for _ in 0..3 {
        tasks.push(bench.start("/v1/models/m:predict", ONE).await);
    }
    for _ in 0..3 {
        assert_eq!(device.running(), Some(1));
        device.finish();
    }
    for task in tasks {
        assert_eq!(task.await.unwrap().status, 200);
    }
}

#[tokio::test(start_paused = true)]
async fn each_client_gets_its_own_rows() {
    let (bench, device) = bench(config(), Mock::echo(DataType::I64, 1)).await;
    let first = bench.start("/v1/models/m:predict", r#"{"instances":[[0]]}"#).await;
    let a = bench.start("/v1/models/m:predict", r#"{"instances":[[1],[2]]}"#).await;
    let b = bench.start("/v1/models/m:predict", r#"{"instances":[[3]]}"#).await;
    let c = bench
        .start("/v1/models/m:predict", r#"{"instances":[[4],[5],[6]]}"#)
        .await;
    device.finish();
    assert_eq!(device.running(), Some(3));
    device.finish();
    assert_eq!(first.await.unwrap().body, r#"{"predictions":[[0]]}"#);
    assert_eq!(a.await.unwrap().body, r#"{"predictions":[[1],[2]]}"#);
    assert_eq!(b.await.unwrap().body, r#"{"predictions":[[3]]}"#);
    assert_eq!(c.await.unwrap().body, r#"{"predictions":[[4],[5],[6]]}"#);
    bench.assert_metric("ml_batch_size_bucket{le=\"8\"} 3");
}

#[tokio::test(start_paused = true)]
async fn one_bad_request_does_not_spoil_its_batch() {
    let x = info("x", DataType::I64, vec![n(), Dim::Fixed(1)]);
    let model = Mock::new(signature(vec![x.clone()], vec![x]), |inputs| {
        let Data::I64(v) = inputs[0].data() else {
            unreachable!("declared INT64")
        };
        if v.contains(&13) {
            return Err(RunError::Input {
                name: "x".into(),
                reason: "13 is no index".into(),
            });
        }
        Ok(inputs)
    });
    let (bench, device) = bench(config(), model).await;
    let mut tasks = Vec::new();
    for value in [0, 1, 13, 2] {
        let body = format!(r#"{{"instances":[[{value}]]}}"#);
        tasks.push(bench.start("/v1/models/m:predict", &body).await);
    }
    device.finish();
    assert_eq!(device.running(), Some(3));
    device.finish();
    let mut statuses = Vec::new();
    for task in tasks {
        statuses.push(task.await.unwrap().status);
    }
    assert_eq!(statuses, [200, 200, 400, 200]);
}

#[tokio::test(start_paused = true)]
async fn a_model_whose_outputs_have_no_batch_dimension_is_found_out() {
    // It declares nothing about its output, which is one sum whatever comes in.
    let mut y = info("y", DataType::F32, vec![]);
    y.shape = None;
    let x = info("x", DataType::F32, vec![n(), Dim::Fixed(1)]);
    let model = Mock::new(signature(vec![x], vec![y]), |inputs| {
        let Data::F32(v) = inputs[0].data() else {
            unreachable!("declared FP32")
        };
        Ok(vec![
            Tensor::new(vec![1], Data::F32(vec![v.iter().sum()])).expect("one element"),
        ])
    });
    let (bench, device) = bench(config(), Arc::clone(&model)).await;
    let mut tasks = Vec::new();
    for _ in 0..4 {
        tasks.push(bench.start("/v1/models/m:predict", ONE).await);
    }
    device.finish();
    assert_eq!(device.running(), Some(3));
    let before = model.runs();
    device.finish();
    assert_eq!(model.runs() - before, 4, "once together, then one by one");
    for task in tasks {
        assert_eq!(task.await.unwrap().body, r#"{"predictions":[1.0]}"#);
    }
    assert!(!served(&bench).batchable(), "and it is remembered");
}

#[tokio::test(start_paused = true)]
async fn one_model_does_not_starve_another() {
    let device = Manual::default();
    let models = [("a", Mock::echo(DataType::F32, 1)), ("b", Mock::echo(DataType::F32, 1))];
    let bench = Bench::new(
        Config {
            max_batch_size: 2,
            ..config()
        },
        device.clone(),
        &models,
    )
    .await;
    device.hold();
    let mut tasks = Vec::new();
    for _ in 0..4 {
        tasks.push(bench.start("/v1/models/a:predict", ONE).await);
        advance(ms(1)).await;
    }
    let b = bench.start("/v1/models/b:predict", ONE).await;
    for _ in 0..4 {
        advance(ms(1)).await;
        tasks.push(bench.start("/v1/models/a:predict", ONE).await);
    }
    // In order of arrival: the first alone, then pairs of a; b after those of a that came before it.
    for _ in 0..3 {
        device.finish();
    }
    settle().await;
    assert!(!b.is_finished());
    device.finish();
    settle().await;
    assert!(b.is_finished());
    while device.running().is_some() {
        device.finish();
    }
    for task in tasks {
        assert_eq!(task.await.unwrap().status, 200);
    }
}
