//! One request to one answer: path to target, body to tensors, scheduler, tensors to body.
//!
//! `App::handle` never fails: every error is an answer. It knows no sockets, so tests call it directly.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONTENT_ENCODING, CONTENT_TYPE, HeaderName};
use http::{HeaderMap, HeaderValue, Request, Response};
use http_body::Body;
use http_body_util::Full;
use serde_json::json;
use tokio::time::{Instant, timeout, timeout_at};

use crate::config::Config;
use crate::error::{ApiError, Code, InferError};
use crate::faces::Target;
use crate::faces::{Budget, Coding, Face, ModelConfig, VERSION, metadata, read_body, statistics, target};
use crate::gate::Gate;
use crate::metrics::{Meter, Metrics, Outcome, Phase};
use crate::models::{ModelState, Repository};
use crate::scheduler::{Answer, Open, Request as InferRequest, Scheduler, Timings};
use crate::served::Served;
use crate::stats::Counts;

/// The header that tells how a model came up: `load=<ns>, ready-age=<ns>`.
pub const STARTUP_HEADER: &str = "x-pilotlight-startup";

/// The header that gives a `/predict` request's `request_id` back.
pub const REQUEST_ID_HEADER: &str = "x-request-id";

/// How long the readiness of a loading model is held back, so that whoever probes learns of it the moment it is ready and not
/// at the next probe. Far below the timeout of any prober.
const READY_HOLD: Duration = Duration::from_millis(50);

/// Where the process stands, whatever its models do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Stage {
    /// The models of the command line are loading.
    Starting,
    /// They are loaded.
    Serving,
    /// SIGTERM came.
    Draining,
}

/// Everything a request needs.
pub struct App {
    pub(crate) repository: Repository,
    pub(crate) scheduler: Scheduler,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) config: Config,
    /// Bodies on their way to tensors; bounded as the tensors in the queue are.
    pub(crate) receiving: Budget,
    /// Where inference requests come in.
    pub(crate) gate: Gate,
    stage: AtomicU8,
}

/// What of V2 beyond its core is served.
pub(crate) const EXTENSIONS: &[&str] = &["binary_tensor_data", "model_configuration", "parameters", "statistics"];

/// An answer, always whole.
pub type Reply = Response<Full<Bytes>>;

impl App {
    /// An app in `Stage::Starting`.
    pub fn new(repository: Repository, scheduler: Scheduler, metrics: Arc<Metrics>, config: Config) -> Self {
        Self {
            repository,
            scheduler,
            metrics,
            receiving: Budget::new(config.queue_bytes),
            gate: Gate::new(config.container_concurrency),
            config,
            stage: AtomicU8::new(Stage::Starting as u8),
        }
    }

    /// Moves the process to another stage.
    pub fn enter(&self, stage: Stage) {
        self.stage.store(stage as u8, Ordering::Release);
    }

    fn is(&self, stage: Stage) -> bool {
        self.stage.load(Ordering::Acquire) == stage as u8
    }

    /// Answers a request. Dropped before it is done, the request leaves the queue and counts as cancelled.
    pub async fn handle<B>(&self, request: Request<B>) -> Reply
    where
        B: Body<Data = Bytes>,
        B::Error: std::fmt::Display,
    {
        let arrived = Instant::now();
        let (head, body) = request.into_parts();
        let reply = match target(&head.method, head.uri.path()) {
            Ok(Target::V1Predict(model)) => self.infer(Face::V1, model, &head.headers, body, arrived).await,
            Ok(Target::V2Infer(model)) => self.infer(Face::V2, model, &head.headers, body, arrived).await,
            Ok(Target::Predict) => match self.only_model() {
                Ok(model) => self.infer(Face::Predict, &model, &head.headers, body, arrived).await,
                Err(error) => Err(error),
            },
            Ok(target) => {
                if let Target::V2ModelReady(model) = target {
                    self.hold_ready(model).await;
                }
                self.look_up(target)
            }
            Err(error) => Err(error),
        };
        reply.unwrap_or_else(ApiError::into_response)
    }

    /// Waits a little for a model that is loading.
    pub(crate) async fn hold_ready(&self, model: &str) {
        // Past it the answer is that it is not ready, so the elapsed time is of no interest.
        let _ = timeout(READY_HOLD, self.repository.loaded(model)).await;
    }

    /// Whatever runs no model.
    fn look_up(&self, target: Target<'_>) -> Result<Reply, ApiError> {
        match target {
            Target::Root => Ok(json_reply(&json!({"status": "alive"}))),
            Target::Health => Ok(json_reply(&json!({"status": "ok"}))),
            Target::V2Live => Ok(json_reply(&json!({"live": true}))),
            Target::Ready => self.ready().map(|()| json_reply(&json!({"status": "ready"}))),
            Target::V2Ready => self.serving().map(|()| json_reply(&json!({"ready": true}))),
            Target::Metrics => Ok(reply(Bytes::from(self.metrics.render()), "text/plain; version=0.0.4")),
            Target::V1Models | Target::V2Models => Ok(json_reply(&json!({"models": self.repository.names()}))),
            Target::V1Model(model) | Target::V2ModelReady(model) => self.model_ready(model),
            Target::V2Server => Ok(json_reply(
                &json!({"name": "pilotlight", "version": env!("CARGO_PKG_VERSION"), "extensions": EXTENSIONS}),
            )),
            Target::V2Model(model) => {
                let lease = self.repository.lease(model)?;
                Ok(json_reply(&metadata(model, lease.served.signature())))
            }
            Target::V2Config(model) => {
                let lease = self.repository.lease(model)?;
                Ok(json_reply(&ModelConfig::of(&lease.served, &self.config).to_json()))
            }
            Target::V2Stats(model) => {
                let stats = self.statistics(model)?;
                Ok(json_reply(&statistics(stats.iter().map(|(n, c)| (&**n, c)))))
            }
            Target::V2Index => Ok(json_reply(&self.index())),
            Target::V1Predict(_) | Target::V2Infer(_) | Target::Predict => Err(ApiError::new(
                Code::ExecutionFailed,
                "an inference request went the wrong way",
            )),
        }
    }

    /// The process as a whole: it serves, and every model is ready.
    pub(crate) fn serving(&self) -> Result<(), ApiError> {
        let why = if self.is(Stage::Draining) {
            "the process is ending"
        } else if self.is(Stage::Starting) {
            "the models of the command line are still loading"
        } else if !self.repository.all_ready() {
            "not every model is ready; POST /v2/repository/index tells which"
        } else {
            return Ok(());
        };
        Err(ApiError::new(Code::NotReady, why))
    }

    /// `serving`, with room in the queue.
    fn ready(&self) -> Result<(), ApiError> {
        self.serving()?;
        let (waiting, limit) = (self.scheduler.waiting(), self.config.ready_queue_limit);
        if waiting > limit {
            let why = format!("{waiting} requests wait, more than {limit} (--ready-queue-limit)");
            return Err(ApiError::new(Code::NotReady, why));
        }
        Ok(())
    }

    /// One model's own readiness, which no queue changes.
    pub(crate) fn model_ready(&self, model: &str) -> Result<Reply, ApiError> {
        let readiness = self.repository.readiness(model)?;
        if self.is(Stage::Draining) {
            return Err(ApiError::new(
                Code::ModelNotReady,
                format!("model {model:?}: the process is ending"),
            ));
        }
        let mut reply = json_reply(&json!({"name": model, "ready": true}));
        let (load, age) = (readiness.load.as_nanos(), readiness.since.elapsed().as_nanos());
        if let Ok(value) = HeaderValue::try_from(format!("load={load}, ready-age={age}")) {
            reply.headers_mut().insert(STARTUP_HEADER, value);
        }
        Ok(reply)
    }

    /// The statistics of this model, or of all that are ready.
    pub(crate) fn statistics(&self, model: Option<&str>) -> Result<Vec<(String, Counts)>, ApiError> {
        if let Some(model) = model {
            let lease = self.repository.lease(model)?;
            return Ok(vec![(model.to_owned(), lease.served.stats.read())]);
        }
        let ready = |(name, state)| match state {
            ModelState::Ready(served, _) => Some((name, served.stats.read())),
            _ => None,
        };
        Ok(self.repository.index().into_iter().filter_map(ready).collect())
    }

    /// From the queue's door to the model's answer.
    pub(crate) async fn execute(&self, served: &Served, open: Open, request: InferRequest) -> Result<Answer, ApiError> {
        let arrived = request.arrived;
        let answer = match self.scheduler.submit(open, request) {
            Ok(pending) => pending.wait().await,
            Err(error) => Err(error),
        };
        if answer.is_err() {
            served.stats.failed(arrived.elapsed());
        }
        Ok(answer?)
    }

    /// Counts an answered request; `input` and `output` are what it took to read it and to write its answer.
    pub(crate) fn answered(
        &self,
        served: &Served,
        arrived: Instant,
        mut timings: Timings,
        input: Duration,
        output: Duration,
    ) {
        timings.input += input;
        timings.output += output;
        self.metrics.phase(Phase::Queue, timings.queue);
        self.metrics.phase(Phase::Input, timings.input);
        self.metrics.phase(Phase::Compute, timings.compute);
        self.metrics.phase(Phase::Output, timings.output);
        served.stats.answered(arrived.elapsed(), &timings);
    }

    fn index(&self) -> serde_json::Value {
        let entry = |(name, state): (String, ModelState)| {
            let reason = match &state {
                ModelState::Failed(reason) => reason.clone(),
                _ => String::new(),
            };
            json!({"name": name, "version": VERSION, "state": state.as_str(), "reason": reason})
        };
        self.repository.index().into_iter().map(entry).collect()
    }

    /// `/predict` names no model, so there has to be one only.
    fn only_model(&self) -> Result<String, ApiError> {
        let mut names = self.repository.names();
        match (names.pop(), names.is_empty()) {
            (Some(name), true) => Ok(name),
            (None, _) => Err(ApiError::new(Code::ModelNotFound, "there is no model")),
            (Some(_), false) => Err(ApiError::invalid(
                "/predict names no model and there are several; use V2, POST /v2/models/{name}/infer",
            )),
        }
    }

    /// The way of every inference request; `face` is what differs.
    async fn infer<B>(
        &self,
        face: Face,
        model: &str,
        headers: &HeaderMap,
        body: B,
        arrived: Instant,
    ) -> Result<Reply, ApiError>
    where
        B: Body<Data = Bytes>,
        B::Error: std::fmt::Display,
    {
        let meter = Meter::start(&self.metrics, arrived);
        let result = self.run(face, model, headers, body, arrived).await;
        meter.finish(
            result
                .as_ref()
                .map_or_else(|error| error.code.outcome(), |_| Outcome::Success),
        );
        result
    }

    async fn run<B>(
        &self,
        face: Face,
        model: &str,
        headers: &HeaderMap,
        body: B,
        arrived: Instant,
    ) -> Result<Reply, ApiError>
    where
        B: Body<Data = Bytes>,
        B::Error: std::fmt::Display,
    {
        let lease = self.repository.lease(model)?;
        let signature = lease.served.signature();
        // Refused before the body is read: a full queue is no time to take in more.
        let _pass = self.gate.enter()?;
        self.scheduler.admit()?;
        let open = self.scheduler.open(&lease.served);
        let timeout = self.config.request_timeout;
        let deadline = arrived + timeout;
        let reading = read_body(headers, body, self.config.max_body_bytes, &self.receiving);
        let (body, share) = match timeout_at(deadline, reading).await {
            Ok(body) => body?,
            Err(_) => return Err(InferError::Timeout { limit: timeout }.into()),
        };

        let start = Instant::now();
        let (inputs, call) = face.parse(headers, &body, model, signature)?;
        let deadline = call.timeout().map_or(deadline, |limit| deadline.min(arrived + limit));
        drop((body, share));
        let input = start.elapsed();

        let request = InferRequest {
            inputs,
            arrived,
            deadline,
        };
        let answer = self.execute(&lease.served, open, request).await?;

        let start = Instant::now();
        let (mut body, json) = call.answer(model, signature, &answer, arrived)?;
        let packed = Coding::accepted(headers).and_then(|coding| Some((coding, coding.pack(&body)?)));
        let coding = packed.map(|(coding, packed)| {
            body = packed;
            coding
        });
        self.answered(&lease.served, arrived, answer.timings, input, start.elapsed());
        let mut reply = reply(Bytes::from(body), if json.is_some() { BINARY } else { JSON });
        if let Some(len) = json {
            reply
                .headers_mut()
                .insert(HeaderName::from_static(BINARY_HEADER), len.into());
        }
        if let Some(coding) = coding {
            let value = HeaderValue::from_static(coding.as_str());
            reply.headers_mut().insert(CONTENT_ENCODING, value);
        }
        if let Some(id) = call.request_id().and_then(|id| HeaderValue::try_from(id).ok()) {
            reply.headers_mut().insert(REQUEST_ID_HEADER, id);
        }
        Ok(reply)
    }
}

const JSON: &str = "application/json";
const BINARY: &str = "application/octet-stream";
/// The length of the JSON before binary tensors.
const BINARY_HEADER: &str = "inference-header-content-length";

fn json_reply(body: &serde_json::Value) -> Reply {
    reply(Bytes::from(body.to_string()), JSON)
}

fn reply(body: Bytes, content_type: &'static str) -> Reply {
    let mut reply = Response::new(Full::new(body));
    reply
        .headers_mut()
        .insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    reply
}
