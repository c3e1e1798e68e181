//! How long a request to a model without a process takes, and where the time goes.
//!
//! Ten platforms take turns, each with one model, so that fifty wakes from a real sleep (the shortest window is 6 s) fit into a
//! minute. Only one is woken at a time, and before each wake its platform is seen to have no process.

use std::{collections::BTreeMap, time::Duration};

use futures_util::future::join_all;
use pilotlight_e2e::{
    Ask, Manifest, Up,
    bench::{figure, median, percentile},
    metrics, places,
};
use tokio::time::Instant;

const PLATFORMS: usize = 10;
const ROUNDS: usize = 5;
const ASLEEP: Duration = Duration::from_secs(20);
const HISTOGRAM: &str = "activator_wake_phase_seconds";

#[tokio::main]
async fn main() {
    let platforms = (0..PLATFORMS).map(|_| Up::with([Manifest::new("iris", places::example("iris.onnx"))]));
    let platforms = join_all(platforms).await;
    let mut wakes = Vec::new();
    let mut phases: BTreeMap<String, Vec<f64>> = BTreeMap::new();
    for _ in 0..ROUNDS {
        for up in &platforms {
            up.no_process_left(ASLEEP).await;
            let before = sums(up).await;
            let ask = Ask::flowers(up.predict_url("iris"));
            let start = Instant::now();
            let reply = ask.send().await.expect("the right answer");
            wakes.push(start.elapsed().as_secs_f64() * 1e3);
            assert_eq!(reply.header("x-keda-http-cold-start"), "true");
            for (phase, sum) in sums(up).await {
                let spent = sum - before.get(&phase).copied().unwrap_or_default();
                phases.entry(phase).or_default().push(spent * 1e3);
            }
        }
    }

    println!("{} wakes of iris from zero, as the client sees them", wakes.len());
    figure("wake-p50-ms", median(&mut wakes));
    figure("wake-p99-ms", percentile(&mut wakes, 0.99));
    for (phase, mut spent) in phases {
        figure(&format!("wake-{phase}-p50-ms"), median(&mut spent));
    }
}

/// The seconds spent in each phase so far.
async fn sums(up: &Up) -> BTreeMap<String, f64> {
    let text = up.metrics().await;
    let name = format!("{HISTOGRAM}_sum");
    let phases = metrics::label_values(&text, &name, "phase").into_iter();
    phases
        .map(|phase| (phase.clone(), metrics::sum(&text, &name, &[("phase", &phase)])))
        .collect()
}
