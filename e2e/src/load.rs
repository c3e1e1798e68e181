//! Clients that ask without pause while a test does something to the platform, and notice every answer that is lost.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use reqwest::Method;
use serde_json::Value;
use tokio::{task::JoinSet, time::Instant};

use crate::client;

/// One request and the only answer to it that is right.
#[derive(Clone, Debug)]
pub struct Ask {
    /// Where it goes.
    pub url: String,
    /// The body.
    pub body: Value,
    /// The answer's body; its status has to be 200.
    pub answer: Value,
}

impl Ask {
    /// The two flowers, asked of the model at `url` (V1), which is an iris model.
    pub fn flowers(url: String) -> Self {
        Self {
            url,
            body: client::flowers_v1(),
            answer: serde_json::json!({ "predictions": [1, 1] }),
        }
    }

    /// Sends it. The error tells what came instead of the right answer.
    pub async fn send(&self) -> Result<client::Reply, String> {
        let body = self.body.to_string().into_bytes();
        let reply = client::send(Method::POST, &self.url, None, Some(body)).await;
        let reply = reply.map_err(|error| format!("{}: {error:?}", self.url))?;
        let right = reply.status == 200 && serde_json::from_slice(&reply.body).ok().as_ref() == Some(&self.answer);
        if right {
            Ok(reply)
        } else {
            Err(format!("{}: {} {}", self.url, reply.status, reply.text()))
        }
    }
}

/// What became of the requests of a load.
#[derive(Clone, Debug, Default)]
pub struct Outcome {
    /// Requests with the right answer.
    pub answered: u64,
    /// What came instead of the right answer, one text for each request that was lost.
    pub lost: Vec<String>,
    /// The longest that a right answer took.
    pub slowest: Duration,
}

impl Outcome {
    /// Asserts that at least `least` requests were answered and none was lost.
    pub fn assert_none_lost(&self, least: u64) {
        let (lost, some) = (self.lost.len(), self.lost.iter().take(5).collect::<Vec<_>>());
        assert!(
            lost == 0,
            "{lost} lost, {} answered; some of them: {some:#?}",
            self.answered
        );
        assert!(self.answered >= least, "only {} requests were made", self.answered);
    }

    fn add(&mut self, other: Self) {
        self.answered += other.answered;
        self.lost.extend(other.lost);
        self.slowest = self.slowest.max(other.slowest);
    }
}

/// Running clients. Dropping it ends them at once, [`Load::stop`] after the answers that are due.
pub struct Load {
    stop: Arc<AtomicBool>,
    clients: JoinSet<Outcome>,
}

impl Load {
    /// Starts `clients` clients. Each sends one request after the other, with `pause` between them; `next` makes the n-th
    /// request of a client.
    pub fn start(
        clients: usize,
        pause: Duration,
        next: impl Fn(usize, usize) -> Ask + Clone + Send + Sync + 'static,
    ) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let mut set = JoinSet::new();
        for client in 0..clients {
            let (stop, next) = (stop.clone(), next.clone());
            set.spawn(async move {
                let mut outcome = Outcome::default();
                for nth in 0.. {
                    if stop.load(Ordering::Relaxed) {
                        break;
                    }
                    let start = Instant::now();
                    match next(client, nth).send().await {
                        Ok(_) => {
                            outcome.answered += 1;
                            outcome.slowest = outcome.slowest.max(start.elapsed());
                        }
                        Err(lost) => outcome.lost.push(lost),
                    }
                    tokio::time::sleep(pause).await;
                }
                outcome
            });
        }
        Self { stop, clients: set }
    }

    /// Lets every client finish the request it is at and tells what became of all of them.
    pub async fn stop(mut self) -> Outcome {
        self.stop.store(true, Ordering::Relaxed);
        let mut all = Outcome::default();
        while let Some(outcome) = self.clients.join_next().await {
            all.add(outcome.expect("a client does not panic"));
        }
        all
    }
}
