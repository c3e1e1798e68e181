//! Tells claimed pods their model. Every activator tells every claimed pod that it learns of, once for each start of its container:
//! whoever claimed it may be gone, a container that was started again right after the claim may not have been given the model by the
//! kubelet, and a runtime that is told the same again waits for the same load.

use std::{
    collections::{HashMap, HashSet},
    net::SocketAddr,
    time::Duration,
};

use bytes::Bytes;
use http::{Request, StatusCode, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use serde_json::json;
use tokio::time::Instant;

use crate::{BackendId, pool};

/// Where a runtime takes its model.
const PATH: &str = "/v2/standby";
/// How long connecting may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
/// A runtime that can't be told for so long is left to the others, and to its own restart.
const PATIENCE: Duration = Duration::from_secs(30);
/// How long one answer may take: a model may have to be fetched first.
const ANSWER_TIMEOUT: Duration = Duration::from_mins(10);
/// First pause before another try; doubles up to [`PAUSE_MAX`].
const PAUSE: Duration = Duration::from_millis(10);
/// Longest such pause.
const PAUSE_MAX: Duration = Duration::from_millis(500);
/// Bytes of an answer that are read for the log.
const ANSWER_LIMIT: usize = 4 << 10;

/// A pod's uid and how often its container was started again.
type Start = (String, i32);

/// A pod and its model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Assignment {
    /// Uid of the pod, which is the key of its runtime.
    pub(crate) uid: String,
    /// How often its container was started again.
    restarts: i32,
    pub(crate) address: SocketAddr,
    name: String,
    model: String,
}

impl Assignment {
    /// `model` is `{name}={path or URI}`; `None` where it isn't.
    pub(crate) fn of(uid: &str, restarts: i32, address: SocketAddr, model: Option<&str>) -> Option<Self> {
        let (name, model) = model?.split_once('=')?;
        Some(Self {
            uid: uid.to_owned(),
            restarts,
            address,
            name: name.to_owned(),
            model: model.to_owned(),
        })
    }

    /// One start of one pod's container.
    fn start(&self) -> Start {
        (self.uid.clone(), self.restarts)
    }
}

/// What was told to whom.
#[derive(Debug, Default)]
pub(crate) struct Assigner {
    told: Mutex<HashMap<BackendId, HashSet<Start>>>,
}

impl Assigner {
    /// Tells a pod, unless it was told. Has to be called within a Tokio runtime; returns at once.
    pub(crate) fn ensure(&self, backend: &BackendId, assignment: Assignment) {
        let news = self
            .told
            .lock()
            .entry(backend.clone())
            .or_default()
            .insert(assignment.start());
        if news {
            tokio::spawn(tell(backend.clone(), assignment));
        }
    }

    /// These are the claimed pods of a backend now: those that were not told are, those that are gone are forgotten.
    pub(crate) fn publish(&self, backend: &BackendId, assignments: Vec<Assignment>) {
        {
            let mut told = self.told.lock();
            if assignments.is_empty() {
                told.remove(backend);
                return;
            }
            let starts: HashSet<Start> = assignments.iter().map(Assignment::start).collect();
            told.entry(backend.clone())
                .or_default()
                .retain(|start| starts.contains(start));
        }
        for assignment in assignments {
            self.ensure(backend, assignment);
        }
    }
}

async fn tell(backend: BackendId, assignment: Assignment) {
    let began = Instant::now();
    let mut pause = PAUSE;
    loop {
        match tokio::time::timeout(ANSWER_TIMEOUT, once(&assignment)).await {
            Ok(Ok((StatusCode::OK, _))) => {
                tracing::debug!(%backend, pod = assignment.uid, ms = began.elapsed().as_millis(), "a claimed pod has its model");
                return;
            }
            // It says why in its pod's status too: it ends.
            Ok(Ok((status, answer))) => {
                tracing::warn!(%backend, pod = assignment.uid, %status, answer, "a claimed pod did not take its model");
                return;
            }
            Ok(Err(error)) if began.elapsed() > PATIENCE => {
                tracing::warn!(%backend, pod = assignment.uid, error, "a claimed pod can't be told its model");
                return;
            }
            Ok(Err(_)) => {}
            Err(_) => {
                tracing::warn!(%backend, pod = assignment.uid, "a claimed pod does not answer");
                return;
            }
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(PAUSE_MAX);
    }
}

/// One call; the error is for the log.
async fn once(assignment: &Assignment) -> Result<(StatusCode, String), String> {
    let Assignment {
        uid,
        address,
        name,
        model,
        ..
    } = assignment;
    let stream = pool::connect(*address, CONNECT_TIMEOUT)
        .await
        .map_err(|error| error.to_string())?;
    let text = |error: hyper::Error| error.to_string();
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(text)?;
    let body = json!({ "key": uid, "name": name, "model": model }).to_string();
    let request = Request::post(PATH)
        .header(header::HOST, address.to_string())
        .header(header::CONTENT_TYPE, "application/json")
        .body(Full::new(Bytes::from(body)))
        .map_err(|error| error.to_string())?;
    let exchange = async {
        let answer = sender.send_request(request).await.map_err(text)?;
        let status = answer.status();
        let body = Limited::new(answer.into_body(), ANSWER_LIMIT).collect().await;
        let said = body.map_or_else(|_| Bytes::new(), http_body_util::Collected::to_bytes);
        Ok((status, String::from_utf8_lossy(&said).into_owned()))
    };
    // Ends with the exchange, which has its error.
    tokio::spawn(connection);
    exchange.await
}

#[cfg(test)]
mod tests {
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::TcpListener,
    };

    use super::*;

    #[tokio::test]
    async fn a_claimed_pod_is_told_its_model_once() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let assigner = Assigner::default();
        let backend = BackendId::new("shop/iris");
        let address = listener.local_addr().unwrap();
        let assignment = Assignment::of("u", 0, address, Some("iris=/mnt/models/a=b.onnx")).unwrap();
        assigner.ensure(&backend, assignment.clone());
        assigner.publish(&backend, vec![assignment.clone()]);

        let (mut stream, _) = listener.accept().await.unwrap();
        let mut asked = vec![0; 4096];
        let mut read = 0;
        while !asked[..read].ends_with(b"}") {
            read += stream.read(&mut asked[read..]).await.unwrap();
        }
        let asked = String::from_utf8_lossy(&asked[..read]).into_owned();
        assert!(asked.starts_with("POST /v2/standby HTTP/1.1\r\n"), "{asked}");
        assert!(
            asked.ends_with(r#"{"key":"u","model":"/mnt/models/a=b.onnx","name":"iris"}"#),
            "{asked}"
        );
        stream
            .write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")
            .await
            .unwrap();

        assigner.publish(&backend, vec![assignment.clone()]);
        assigner.publish(&backend, Vec::new());
        assigner.ensure(&backend, assignment);
        // The second connection is that of the pod which was gone in between: told once each.
        listener.accept().await.unwrap();
    }

    #[tokio::test]
    async fn a_container_that_was_started_again_is_told_again() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let assigner = Assigner::default();
        let backend = BackendId::new("shop/iris");
        for restarts in 0..2 {
            let address = listener.local_addr().unwrap();
            let assignment = Assignment::of("u", restarts, address, Some("iris=/a.onnx")).unwrap();
            assigner.publish(&backend, vec![assignment]);
            listener.accept().await.unwrap();
        }
    }
}
