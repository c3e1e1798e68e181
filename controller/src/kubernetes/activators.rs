//! The client of the activators' admin side: counts, seals.

use std::{collections::HashMap, net::SocketAddr, time::Duration};

use bytes::Bytes;
use http::{Method, Request, StatusCode, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use pilotlight_activator::Snapshot;
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use tokio::time::timeout;

/// Largest answer; a snapshot has some 150 bytes a backend.
const MAX_ANSWER: usize = 64 << 20;

/// Why an activator gave no answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AskError {
    /// Not in time.
    #[error("no answer in time")]
    Timeout,
    /// The connection failed.
    #[error("{0}")]
    Connection(String),
    /// It refused.
    #[error("answered {0}")]
    Status(StatusCode),
    /// It said something else.
    #[error("the answer is not understood: {0}")]
    Answer(#[from] serde_json::Error),
}

/// What is to be sealed, or given free.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct SealRequest {
    /// `namespace/name`.
    pub(crate) backend: String,
    /// Uids of the pods.
    pub(crate) endpoints: Vec<String>,
    /// For how long, unless it is said again.
    pub(crate) hold_seconds: u64,
}

/// What an activator has on the pods that are sealed.
#[derive(Clone, Debug, Default, Deserialize)]
pub(crate) struct SealAnswer {
    /// By the uid of the pod.
    #[serde(default)]
    pub(crate) endpoints: HashMap<String, Sealed>,
}

/// One pod at one activator.
#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Sealed {
    /// Requests that it answers.
    #[serde(default)]
    pub(crate) in_flight: u64,
}

impl SealAnswer {
    /// Requests on all of them.
    pub(crate) fn in_flight(&self) -> u64 {
        self.endpoints.values().map(|sealed| sealed.in_flight).sum()
    }
}

/// Asks activators. Cheap to clone; connections are kept.
#[derive(Clone, Debug)]
pub(crate) struct Activators {
    client: Client<HttpConnector, Full<Bytes>>,
    limit: Duration,
}

impl Activators {
    pub(crate) fn new(limit: Duration) -> Self {
        let mut connector = HttpConnector::new();
        connector.set_nodelay(true);
        connector.set_connect_timeout(Some(limit));
        Self {
            client: Client::builder(TokioExecutor::new()).build(connector),
            limit,
        }
    }

    /// The counts of one activator.
    pub(crate) async fn snapshot(&self, at: SocketAddr) -> Result<Snapshot, AskError> {
        self.ask(Method::GET, at, "/api/v1/snapshot", Bytes::new()).await
    }

    /// No new requests to these pods from this activator; answers what is still on them. To be said again in time.
    pub(crate) async fn seal(&self, at: SocketAddr, request: &SealRequest) -> Result<SealAnswer, AskError> {
        let body = serde_json::to_vec(request)?;
        self.ask(Method::POST, at, "/api/v1/seal", body.into()).await
    }

    /// What is on these pods from this activator; nothing is sealed.
    pub(crate) async fn load(&self, at: SocketAddr, request: &SealRequest) -> Result<SealAnswer, AskError> {
        let body = serde_json::to_vec(request)?;
        self.ask(Method::POST, at, "/api/v1/load", body.into()).await
    }

    /// Takes it back.
    pub(crate) async fn unseal(&self, at: SocketAddr, request: &SealRequest) -> Result<(), AskError> {
        let body = serde_json::to_vec(request)?;
        self.ask::<serde_json::Value>(Method::POST, at, "/api/v1/unseal", body.into())
            .await
            .map(|_| ())
    }

    async fn ask<T: DeserializeOwned>(
        &self,
        method: Method,
        at: SocketAddr,
        path: &str,
        body: Bytes,
    ) -> Result<T, AskError> {
        let request = Request::builder()
            .method(method)
            .uri(format!("http://{at}{path}"))
            .header(header::CONTENT_TYPE, "application/json")
            .body(Full::new(body))
            .map_err(|error| AskError::Connection(error.to_string()))?;
        let exchange = async {
            let answer = self
                .client
                .request(request)
                .await
                .map_err(|error| AskError::Connection(error.to_string()))?;
            if !answer.status().is_success() {
                return Err(AskError::Status(answer.status()));
            }
            let body = Limited::new(answer.into_body(), MAX_ANSWER).collect().await;
            Ok(body
                .map_err(|error| AskError::Connection(error.to_string()))?
                .to_bytes())
        };
        let bytes = timeout(self.limit, exchange).await.map_err(|_| AskError::Timeout)??;
        Ok(serde_json::from_slice(if bytes.is_empty() { b"null" } else { &bytes })?)
    }
}
