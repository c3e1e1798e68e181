//! Many models that fall asleep and wake again and again, side by side.

use std::time::Duration;

use futures_util::future::join_all;
use pilotlight_e2e::{Ask, Manifest, Up, places, processes};

const MODELS: usize = 20;
const CYCLES: usize = 5;
const CLIENTS: usize = 3;
const REQUESTS: usize = 4;

/// A few clients at once ask one sleeping model. Returns how many requests had to wait for it.
async fn burst(ask: Ask) -> usize {
    let client = async || {
        let mut waited = 0;
        for _ in 0..REQUESTS {
            let reply = ask.send().await.unwrap_or_else(|lost| panic!("lost: {lost}"));
            waited += usize::from(reply.header("x-keda-http-cold-start") == "true");
        }
        waited
    };
    join_all((0..CLIENTS).map(|_| client())).await.into_iter().sum()
}

#[tokio::test]
async fn twenty_models_sleep_and_wake_five_times_side_by_side_and_lose_nothing() {
    let models = ["iris.onnx", "iris-forest.onnx"];
    let names: Vec<String> = (0..MODELS).map(|n| format!("flower-{n}")).collect();
    let manifests = names.iter().enumerate();
    let up = Up::with(manifests.map(|(n, name)| Manifest::new(name, places::example(models[n % 2])))).await;

    for cycle in 1..=CYCLES {
        let idle = up.no_process_left(Duration::from_secs(25)).await;
        let start = tokio::time::Instant::now();
        let waited = join_all(names.iter().map(|name| burst(Ask::flowers(up.predict_url(name))))).await;
        println!(
            "cycle {cycle}: asleep after {:.1} s, answered after {:.1} s",
            idle.as_secs_f64(),
            start.elapsed().as_secs_f64()
        );
        for (name, waited) in names.iter().zip(waited) {
            assert!(waited >= 1, "{name} was asleep, so its first request waited");
            assert!(!up.runtimes_of(name).is_empty(), "{name} is awake");
        }
    }
    up.no_process_left(Duration::from_secs(25)).await;
    assert!(processes::alive(up.pid()));
}

#[tokio::test]
async fn a_thousand_clients_that_find_a_model_asleep_are_all_answered() {
    let up = Up::with([Manifest::new("iris", places::example("iris.onnx"))]).await;
    let ask = Ask::flowers(up.predict_url("iris"));
    let answers = join_all((0..1000).map(|_| ask.send())).await;
    let lost: Vec<String> = answers.into_iter().filter_map(Result::err).collect();
    assert_eq!(lost, Vec::<String>::new());
}
