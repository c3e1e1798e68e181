//! Brings the activators' counts: a look at every `/queue` each tick, and arrivals at idle routes the moment they come.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    net::SocketAddr,
    sync::Arc,
    time::Duration,
};

use futures_util::future;
use serde::Deserialize;
use tokio::{sync::watch, task::AbortHandle, time::Instant};
use tokio_util::sync::CancellationToken;

use super::{
    counts::{Pod, Queue},
    state::Scaler,
};

/// How long an activator may hold a question for arrivals. Its own bound is higher.
const WAIT: Duration = Duration::from_secs(20);
/// After a question for arrivals failed.
const PAUSE: Duration = Duration::from_secs(1);

/// After an answer: more arrivals come as one.
const REST: Duration = Duration::from_millis(20);

/// The admin addresses of all activators that are ready, by pod.
pub type Activators = BTreeMap<Pod, SocketAddr>;

/// Looks until `end`. `activators` is read at each tick.
pub async fn run(
    scaler: Arc<Scaler>,
    client: reqwest::Client,
    activators: watch::Receiver<Arc<Activators>>,
    end: CancellationToken,
) {
    let mut followers = Followers::default();
    let mut ticks = tokio::time::interval(scaler.config().tick);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = end.cancelled() => return,
            _ = ticks.tick() => {}
        }
        let listed = Arc::clone(&activators.borrow());
        followers.follow(&listed, &scaler, &client);
        let began = Instant::now();
        let looks = look(&client, &listed, scaler.config().fetch_timeout()).await;
        if !scaler.take(looks, began.elapsed()) && !listed.is_empty() {
            tracing::warn!(activators = listed.len(), "no activator told its counts");
        }
    }
}

/// One look at all at once.
async fn look(client: &reqwest::Client, listed: &Activators, limit: Duration) -> BTreeMap<Pod, Option<Queue>> {
    let looks = listed.iter().map(|(pod, address)| async move {
        let queue = queue(client, *address, limit).await;
        if let Err(error) = &queue {
            tracing::debug!(pod, %error, "activator did not tell its counts");
        }
        (pod.clone(), queue.ok())
    });
    future::join_all(looks).await.into_iter().collect()
}

/// As the add-on's scaler: the status is not looked at, the body has to be JSON.
async fn queue(client: &reqwest::Client, address: SocketAddr, limit: Duration) -> reqwest::Result<Queue> {
    let request = client.get(format!("http://{address}/queue")).timeout(limit);
    request.send().await?.json().await
}

/// What an activator says of arrivals.
#[derive(Debug, Deserialize)]
struct Arrivals {
    /// To be given back with the next question.
    sequence: u64,
    /// Routes at which a request arrived while they had none.
    routes: BTreeSet<String>,
}

/// One task for each activator.
#[derive(Default)]
struct Followers(HashMap<(Pod, SocketAddr), AbortHandle>);

impl Followers {
    fn follow(&mut self, listed: &Activators, scaler: &Arc<Scaler>, client: &reqwest::Client) {
        self.0.retain(|(pod, address), task| {
            let stays = listed.get(pod) == Some(address);
            if !stays {
                task.abort();
            }
            stays
        });
        for (pod, address) in listed {
            self.0.entry((pod.clone(), *address)).or_insert_with(|| {
                let following = follow(Arc::clone(scaler), client.clone(), *address);
                tokio::spawn(following).abort_handle()
            });
        }
    }
}

impl Drop for Followers {
    fn drop(&mut self) {
        for task in self.0.values() {
            task.abort();
        }
    }
}

async fn follow(scaler: Arc<Scaler>, client: reqwest::Client, address: SocketAddr) {
    let mut since = None;
    loop {
        match arrivals(&client, address, since).await {
            Ok(Arrivals { sequence, routes }) => {
                // What came before the first question is in the counts.
                if since.replace(sequence).is_some() && !routes.is_empty() {
                    scaler.pushed(routes.iter().map(String::as_str));
                    // A route that is busy with one request after the other would have it ask without a pause.
                    tokio::time::sleep(REST).await;
                }
            }
            Err(error) => {
                tracing::debug!(%address, %error, "activator did not tell arrivals");
                since = None;
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
}

async fn arrivals(client: &reqwest::Client, address: SocketAddr, since: Option<u64>) -> reqwest::Result<Arrivals> {
    let url = match since {
        None => format!("http://{address}/api/v1/active"),
        Some(since) => format!(
            "http://{address}/api/v1/active?since={since}&waitSeconds={}",
            WAIT.as_secs()
        ),
    };
    let request = client.get(url).timeout(WAIT + Duration::from_secs(5));
    request.send().await?.error_for_status()?.json().await
}

#[cfg(test)]
#[path = "pinger_tests.rs"]
mod tests;
