//! What a platform with 200 sleeping models holds in memory.

use std::time::Duration;

use pilotlight_e2e::{Manifest, Settings, Up, bench::figure, places, processes, until};
use tokio::time::Instant;

const MODELS: usize = 200;
const DEPLOYED: Duration = Duration::from_mins(2);

#[tokio::main]
async fn main() {
    let empty = Up::with([]).await;
    figure("idle-empty-rss-mib", mib(&empty));

    let start = Instant::now();
    let manifests = (0..MODELS).map(|n| Manifest::new(&format!("model-{n}"), places::example("iris.onnx")));
    let up = Up::start_only(&Settings {
        manifests: manifests.collect(),
        ..Settings::default()
    })
    .await;
    until("all are deployed", DEPLOYED, async || {
        let services = up.services().await;
        services.len() == MODELS && services.iter().all(|item| item["ready"] == true)
    })
    .await;
    let deployed = start.elapsed();
    up.no_process_left(DEPLOYED).await;
    // A few turns of the controller, so that what it keeps for each service is there.
    tokio::time::sleep(Duration::from_secs(5)).await;
    figure("deploy-200-models-s", deployed.as_secs_f64());
    figure("idle-200-models-rss-mib", mib(&up));
}

fn mib(up: &Up) -> f64 {
    processes::resident_bytes(up.pid()) as f64 / f64::from(1 << 20)
}
