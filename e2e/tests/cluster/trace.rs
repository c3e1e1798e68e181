//! Four minutes of a bursty trace: from zero to many and back, again and again.

use std::time::Duration;

use pilotlight_e2e::{
    Load, Outcome,
    cluster::{Cluster, Namespace},
};

/// Seconds of silence, then clients for so many seconds.
const BURSTS: [(u64, usize, u64); 6] = [
    (0, 1, 10),
    (25, 16, 15),
    (5, 4, 20),
    (30, 24, 10),
    (2, 2, 30),
    (28, 12, 20),
];

#[tokio::test]
async fn four_minutes_of_bursts_lose_no_request() {
    let cluster = Cluster::shared();
    let home = Namespace::new(cluster, "bursts").await;
    home.deploy(&[home.service("iris", "iris.onnx").concurrency(2).max(4)])
        .await;
    let mut all: Vec<Outcome> = Vec::new();
    for (silence, clients, seconds) in BURSTS {
        tokio::time::sleep(Duration::from_secs(silence)).await;
        let ask = home.flowers("iris");
        let load = Load::start(clients, Duration::from_millis(50), move |_, _| ask.clone());
        tokio::time::sleep(Duration::from_secs(seconds)).await;
        all.push(load.stop().await);
    }
    for outcome in all {
        outcome.assert_none_lost(1);
    }
    home.asleep("iris").await;
}
