//! Runtimes that are killed under load, as the kernel does when memory runs out.

use std::time::Duration;

use pilotlight_e2e::{Ask, LIMIT, Load, Manifest, Up, places, processes, until};
use rustix::process::Signal;

const ROUNDS: usize = 12;

#[tokio::test]
async fn a_runtime_killed_every_second_loses_no_request() {
    let models = ["lonely", "pair"];
    let up = Up::with([
        Manifest::new("lonely", places::example("iris.onnx")).max(1),
        Manifest::new("pair", places::example("iris-forest.onnx")).min(2),
    ])
    .await;
    let urls = models.map(|name| up.predict_url(name));
    let load = Load::start(8, Duration::from_millis(2), move |client, nth| {
        Ask::flowers(urls[(client + nth) % urls.len()].clone())
    });
    until("both are awake", LIMIT, async || up.runtimes().len() >= 3).await;

    let mut killed = Vec::new();
    for round in 0..ROUNDS {
        tokio::time::sleep(Duration::from_secs(1)).await;
        let runtimes = up.runtimes();
        // Any order is random enough; every model gets its turn.
        let Some(victim) = runtimes.get((round * 7 + 3) % runtimes.len().max(1)) else {
            continue;
        };
        processes::signal(victim.pid, Signal::KILL);
        killed.push(victim.clone());
    }
    assert!(killed.len() >= ROUNDS / 2, "only {} found alive", killed.len());

    let outcome = load.stop().await;
    println!(
        "{} killed, {} answered, the slowest in {:?}",
        killed.len(),
        outcome.answered,
        outcome.slowest
    );
    outcome.assert_none_lost(200);
    until("the dead are replaced", LIMIT, async || {
        up.runtimes_of("pair").len() == 2
    })
    .await;
}
