//! Runtimes that are killed under load, as the kernel does when memory runs out.

use std::time::Duration;

use pilotlight_e2e::{Ask, LIMIT, Load, Manifest, Up, client, metrics, places, processes, until};
use rustix::process::Signal;
use serde_json::json;

const ROUNDS: usize = 12;

/// What the n-th request of a client asks: two clients keep two slow replicas busy, so that most deaths of these hit a request
/// in the middle; the others share a model with one replica and one with two.
fn ask(up: &Up) -> impl Fn(usize, usize) -> Ask + Clone + Send + Sync + 'static {
    let [lonely, pair, slow] = ["lonely", "pair", "slow"].map(|name| up.predict_url(name));
    move |client, nth| match client {
        0 | 1 => {
            let x = f64::from((client * 1000 + nth % 1000) as u32);
            Ask {
                url: slow.clone(),
                body: client::slow_v1(x),
                answer: json!({ "predictions": [[x]] }),
            }
        }
        _ if nth % 2 == 0 => Ask::flowers(lonely.clone()),
        _ => Ask::flowers(pair.clone()),
    }
}

#[tokio::test]
async fn a_runtime_killed_every_second_loses_no_request() {
    let up = Up::with([
        Manifest::new("lonely", places::example("iris.onnx")).max(1),
        Manifest::new("pair", places::example("iris-forest.onnx")).min(2),
        Manifest::new("slow", places::fixture("slow.onnx"))
            .min(2)
            .max(2)
            .timeout(60),
    ])
    .await;
    let load = Load::start(8, Duration::from_millis(2), ask(&up));
    until("all are awake", LIMIT, async || up.runtimes().len() >= 5).await;

    let mut killed = Vec::new();
    for round in 0..ROUNDS {
        tokio::time::sleep(Duration::from_secs(1)).await;
        let runtimes = up.runtimes();
        // Any order is random enough; every model gets its turn.
        let Some(victim) = runtimes.get((round * 7 + 3) % runtimes.len().max(1)) else {
            continue;
        };
        processes::signal(victim.pid, Signal::KILL);
        killed.push(victim.model.clone());
    }
    for name in ["lonely", "pair", "slow"] {
        assert!(
            killed.iter().any(|model| model.starts_with(name)),
            "{name} was spared: {killed:?}"
        );
    }

    let outcome = load.stop().await;
    let (count, answered) = (killed.len(), outcome.answered);
    println!(
        "{count} killed, {answered} answered, the slowest in {:?}",
        outcome.slowest
    );
    outcome.assert_none_lost(200);
    for name in ["pair", "slow"] {
        until("the dead are replaced", LIMIT, async || up.runtimes_of(name).len() == 2).await;
    }
    let replayed = metrics::sum(&up.metrics().await, "activator_replays_total", &[]);
    assert!(replayed >= 1.0, "a request was under a replica when it died");
}
