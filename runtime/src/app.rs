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
use tokio::sync::watch;
use tokio::time::{Instant, timeout, timeout_at};

use crate::config::Config;
use crate::control::Control;
use crate::error::{ApiError, Code, InferError};
use crate::faces::{Budget, Coding, Face, Management, ModelConfig, Of, Share, Target};
use crate::faces::{index, metadata, read_body, statistics, target};
use crate::gate::{Gate, Pass};
use crate::metrics::{Meter, Metrics, Outcome};
use crate::models::{Listed, ModelState, Repository};
use crate::scheduler::{Answer, Open, Request as InferRequest, Scheduler, Timings};
use crate::served::Served;
use crate::standby::Standby;
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
    pub(crate) control: Control,
    pub(crate) standby: Standby,
    /// Bodies on their way to tensors; bounded as the tensors in the queue are.
    pub(crate) receiving: Budget,
    /// Where inference requests come in.
    pub(crate) gate: Gate,
    stage: AtomicU8,
    /// Changes with the stage.
    stages: watch::Sender<()>,
}

/// What of V2 beyond its core is served.
pub(crate) const EXTENSIONS: &[&str] = &[
    "binary_tensor_data",
    "classification",
    "model_configuration",
    "model_repository",
    "parameters",
    "schedule_policy",
    "statistics",
];

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
            control: Control::new(&config),
            standby: Standby::new(config.standby_key.clone(), config.assigned_model.clone()),
            gate: Gate::new(config.container_concurrency),
            config,
            stage: AtomicU8::new(Stage::Starting as u8),
            stages: watch::Sender::new(()),
        }
    }

    /// Moves the process to another stage.
    pub fn enter(&self, stage: Stage) {
        self.stage.store(stage as u8, Ordering::Release);
        self.stages.send_replace(());
    }

    /// Changes with the stage.
    pub(crate) fn stages(&self) -> watch::Receiver<()> {
        self.stages.subscribe()
    }

    /// The process is ending.
    pub(crate) fn is_draining(&self) -> bool {
        self.is(Stage::Draining)
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
            Ok(Target::V1Predict(model)) => {
                let of = Of { model, version: None };
                self.infer(Face::V1, of, &head.headers, body, arrived).await
            }
            Ok(Target::V2Infer(of)) => self.infer(Face::V2, of, &head.headers, body, arrived).await,
            Ok(Target::Predict) => match self.only_model() {
                Ok(model) => {
                    let (model, version) = (&*model, None);
                    self.infer(Face::Predict, Of { model, version }, &head.headers, body, arrived)
                        .await
                }
                Err(error) => Err(error),
            },
            Ok(target @ (Target::V2Index | Target::V2Load(_) | Target::V2Unload(_))) => {
                self.manage(target, &head.headers, body).await
            }
            Ok(Target::V2Standby) => self.assign(&head.headers, body).await,
            Ok(target) => {
                if let Target::V2ModelReady(of) = target {
                    self.hold_ready(of.model).await;
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
            Target::V1Model(model) => self.model_ready(Of { model, version: None }),
            Target::V2ModelReady(of) => self.model_ready(of),
            Target::V2Server => Ok(json_reply(
                &json!({"name": "pilotlight", "version": env!("CARGO_PKG_VERSION"), "extensions": EXTENSIONS}),
            )),
            Target::V2Model(of) => {
                let lease = self.repository.lease_version(of.model, of.version)?;
                Ok(json_reply(&metadata(&lease.served)))
            }
            Target::V2Config(of) => {
                let lease = self.repository.lease_version(of.model, of.version)?;
                Ok(json_reply(&ModelConfig::of(&lease.served, &self.config).to_json()))
            }
            Target::V2Stats(of) => {
                let stats = self.statistics(of)?;
                Ok(json_reply(&statistics(stats.iter().map(|(s, c)| (&**s, c)))))
            }
            Target::V1Predict(_)
            | Target::V2Infer(_)
            | Target::Predict
            | Target::V2Index
            | Target::V2Standby
            | Target::V2Load(_)
            | Target::V2Unload(_) => Err(ApiError::new(Code::ExecutionFailed, "a request went the wrong way")),
        }
    }

    /// The model repository extension.
    async fn manage<B>(&self, target: Target<'_>, headers: &HeaderMap, body: B) -> Result<Reply, ApiError>
    where
        B: Body<Data = Bytes>,
        B::Error: std::fmt::Display,
    {
        let (body, _share) = self
            .body_by(Instant::now() + self.config.request_timeout, headers, body)
            .await?;
        let request = Management::parse(&body)?;
        Ok(json_reply(&match target {
            Target::V2Load(name) => {
                self.load_model(name, request.parameters.keys().map(String::as_str))
                    .await?;
                json!({"name": name, "load": true})
            }
            Target::V2Unload(name) => {
                self.unload_model(name).await?;
                json!({"name": name, "unload": true})
            }
            _ => index(&self.index(request.ready)),
        }))
    }

    /// The whole body, if it comes by then.
    pub(crate) async fn body_by<B>(
        &self,
        deadline: Instant,
        headers: &HeaderMap,
        body: B,
    ) -> Result<(Bytes, Share), ApiError>
    where
        B: Body<Data = Bytes>,
        B::Error: std::fmt::Display,
    {
        let reading = read_body(headers, body, self.config.max_body_bytes, &self.receiving);
        let limit = self.config.request_timeout;
        let body = timeout_at(deadline, reading).await;
        body.map_err(|_| InferError::Timeout { limit })?
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

    /// Lets an inference request in.
    ///
    /// # Errors
    /// As the gate's; `draining` too in a process that was given no model yet, or has not loaded it: who asks it took it for the one
    /// before it in its pod, and is to ask elsewhere or later.
    pub(crate) fn admit(&self) -> Result<Pass, ApiError> {
        self.has_its_model()?;
        self.gate.enter()
    }

    /// Fails, with the mark, while this process waits for its model.
    fn has_its_model(&self) -> Result<(), ApiError> {
        if self.standby.waits(|model| self.repository.readiness(model).is_ok()) {
            let why = "this process waits for its model; ask another replica";
            return Err(ApiError::new(Code::Draining, why));
        }
        Ok(())
    }

    /// One model's own readiness, which no queue changes.
    pub(crate) fn model_ready(&self, of: Of<'_>) -> Result<Reply, ApiError> {
        let model = of.model;
        let readiness = self.repository.readiness(model)?;
        self.repository.lease_version(model, of.version)?;
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
    pub(crate) fn statistics(&self, of: Option<Of<'_>>) -> Result<Vec<(Arc<Served>, Counts)>, ApiError> {
        let read = |served: Arc<Served>| {
            let counts = served.stats.read();
            (served, counts)
        };
        if let Some(of) = of {
            let lease = self.repository.lease_version(of.model, of.version)?;
            return Ok(vec![read(Arc::clone(&lease.served))]);
        }
        let ready = |listed: Listed| match listed.state {
            ModelState::Ready(served, _) => Some(read(served)),
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
    pub(crate) fn answered(served: &Served, arrived: Instant, mut timings: Timings, input: Duration, output: Duration) {
        let total = arrived.elapsed();
        crate::trace::ran(&timings, output);
        served.metrics.answered(total, &timings, input, output);
        timings.input += input;
        timings.output += output;
        served.stats.answered(total, &timings);
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
        of: Of<'_>,
        headers: &HeaderMap,
        body: B,
        arrived: Instant,
    ) -> Result<Reply, ApiError>
    where
        B: Body<Data = Bytes>,
        B::Error: std::fmt::Display,
    {
        let mut meter = Meter::start(&self.metrics, arrived);
        let result = match self
            .has_its_model()
            .and_then(|()| self.repository.lease_version(of.model, of.version))
        {
            Ok(lease) => {
                meter.model(&lease.served.metrics);
                self.run(face, &lease.served, headers, body, arrived).await
            }
            Err(error) => Err(error),
        };
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
        served: &Arc<Served>,
        headers: &HeaderMap,
        body: B,
        arrived: Instant,
    ) -> Result<Reply, ApiError>
    where
        B: Body<Data = Bytes>,
        B::Error: std::fmt::Display,
    {
        // Refused before the body is read: a full queue is no time to take in more.
        let _pass = self.admit()?;
        self.scheduler.admit(served)?;
        let open = self.scheduler.open(served);
        let deadline = arrived + self.config.request_timeout;
        let (body, share) = self.body_by(deadline, headers, body).await?;

        let start = Instant::now();
        let (inputs, call) = face.parse(headers, &body, served.name(), served.signature())?;
        let deadline = call.timeout().map_or(deadline, |limit| deadline.min(arrived + limit));
        drop((body, share));
        let input = start.elapsed();

        let request = InferRequest {
            inputs,
            arrived,
            deadline,
            priority: call.priority(),
        };
        let answer = self.execute(served, open, request).await?;

        let start = Instant::now();
        let (mut body, json) = call.answer(served, &answer, arrived)?;
        let packed = Coding::accepted(headers).and_then(|coding| Some((coding, coding.pack(&body)?)));
        let coding = packed.map(|(coding, packed)| {
            body = packed;
            coding
        });
        Self::answered(served, arrived, answer.timings, input, start.elapsed());
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
