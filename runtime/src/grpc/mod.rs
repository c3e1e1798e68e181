//! The gRPC face: `inference.GRPCInferenceService`, `grpc.health.v1.Health` and reflection, on the port of the REST faces and into
//! the same queue and batches.
//!
//! Written on hyper rather than tonic, so that one port tells REST and gRPC apart by the content type, bodies share one budget, an
//! answer's error goes into headers and trailers with its code, and inputs are decoded from the message's own bytes without a
//! copy. Reflection, which has none of that, is tonic's.

mod descriptor;
mod health;
mod lookup;
mod messages;
mod reflection;
mod tensors;
#[cfg(test)]
mod tests;
mod wire;

use std::sync::Arc;

use bytes::Bytes;
use futures_util::{StreamExt as _, stream};
use http::header::CONTENT_TYPE;
use http::{HeaderMap, Request, Response};
use http_body::Body;
use hyper::body::Frame;
use pilotlight_engine::{Signature, Tensor};
use tokio::time::{Instant, timeout_at};

use self::messages::{InferTensor, ModelInferRequest, ModelInferResponse, ModelStreamInferResponse};
pub(crate) use self::wire::GrpcBody;
use self::wire::{Messages, decode, encode, failed, reply, trailers};
use crate::app::App;
use crate::error::{ApiError, InferError};
use crate::faces::raw;
use crate::gate::Pass;
use crate::metrics::{Meter, Outcome};
use crate::scheduler::Request as InferRequest;
use crate::served::Served;

/// How many requests of one stream are under way at a time. They are answered in their order.
const STREAM_AHEAD: usize = 32;

/// The tensors of an inference request.
///
/// # Errors
/// As the client would be told.
pub(crate) fn read(message: Bytes, signature: &Signature) -> Result<Vec<Tensor>, ApiError> {
    let whole = message.len();
    let (inputs, _) = tensors::parse(decode(message)?, whole, signature)?;
    Ok(inputs)
}

/// An inference request with raw contents.
pub(crate) fn request(model: &str, signature: &Signature, inputs: &[Tensor]) -> ModelInferRequest {
    let mut request = ModelInferRequest {
        model_name: model.to_owned(),
        ..ModelInferRequest::default()
    };
    for (tensor, info) in inputs.iter().zip(&signature.inputs) {
        let mut bytes = Vec::new();
        raw::encode(tensor.data(), &mut bytes);
        request.raw_input_contents.push(bytes.into());
        request.inputs.push(InferTensor {
            name: info.name.clone(),
            datatype: tensor.datatype().as_str().to_owned(),
            shape: tensor.shape().iter().map(|&size| size as i64).collect(),
            contents: None,
        });
    }
    request
}

/// Whether a request is for this face.
pub(crate) fn is_grpc(headers: &HeaderMap) -> bool {
    headers
        .get(CONTENT_TYPE)
        .and_then(|value| value.as_bytes().strip_prefix(b"application/grpc"))
        .is_some_and(|rest| matches!(rest.first(), None | Some(b'+' | b';')))
}

/// Answers a call. Dropped before it is done, its requests leave the queue and count as cancelled.
pub(crate) async fn handle<B>(app: Arc<App>, request: Request<B>) -> Response<GrpcBody>
where
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: std::fmt::Display + Into<Box<dyn std::error::Error + Send + Sync>> + Send,
{
    let arrived = Instant::now();
    if request.uri().path().starts_with("/grpc.reflection.") {
        return reflection::answer(request).await;
    }
    let (head, body) = request.into_parts();
    let limit = app.config.max_body_bytes;
    let mut messages = Messages::new(&head.headers, body, limit, app.receiving.clone());
    let path = head.uri.path();
    if path == "/inference.GRPCInferenceService/ModelStreamInfer" {
        return match app.admit() {
            Ok(pass) => stream_infer(app, messages, pass),
            Err(error) => failed(&error),
        };
    }
    if path == "/grpc.health.v1.Health/Watch" {
        return health::watch(app, messages)
            .await
            .unwrap_or_else(|error| failed(&error));
    }
    match unary(&app, path, &head.headers, &mut messages, arrived).await {
        Ok(message) => reply(stream::iter([Frame::data(message), Frame::trailers(trailers(Ok(())))])),
        Err(error) => failed(&error),
    }
}

async fn unary<B>(
    app: &App,
    path: &str,
    headers: &HeaderMap,
    messages: &mut Messages<B>,
    arrived: Instant,
) -> Result<Bytes, ApiError>
where
    B: Body<Data = Bytes>,
    B::Error: std::fmt::Display,
{
    let limit = app.config.request_timeout;
    let limit = wire::timeout(headers)?.map_or(limit, |given| given.min(limit));
    let deadline = arrived + limit;
    let receive = async {
        let first = timeout_at(deadline, messages.next()).await;
        let first = first.map_err(|_| ApiError::from(InferError::Timeout { limit }))??;
        first.ok_or_else(|| ApiError::invalid("the call has no message"))
    };
    if path != "/inference.GRPCInferenceService/ModelInfer" {
        return lookup::answer(app, path, receive.await?.0).await;
    }
    // Until the answer is made.
    let mut pass = None;
    let call = async {
        // Refused before the message is read, which names the model and so its queue; what is received is bounded in bytes.
        let _ = pass.insert(app.admit()?);
        let (message, share) = receive.await?;
        Ok((decode::<ModelInferRequest>(message)?, share))
    };
    metered(app, arrived, deadline, call)
        .await
        .map(|response| encode(&response))
}

/// Receives an inference request, answers it and counts it.
async fn metered<S>(
    app: &App,
    arrived: Instant,
    deadline: Instant,
    receive: impl Future<Output = Result<(ModelInferRequest, S), ApiError>>,
) -> Result<ModelInferResponse, ApiError> {
    let mut meter = Meter::start(&app.metrics, arrived);
    let call = async {
        let (request, share) = receive.await?;
        let lease = app
            .repository
            .lease_version(&request.model_name, version(&request.model_version))?;
        meter.model(&lease.served.metrics);
        app.scheduler.admit(&lease.served)?;
        infer(app, &lease.served, request, share, arrived, deadline).await
    };
    let result = call.await;
    meter.finish(
        result
            .as_ref()
            .map_or_else(|error| error.code.outcome(), |_| Outcome::Success),
    );
    result
}

/// The way of every inference request from its message on. `received` is kept as long as the message.
async fn infer<S>(
    app: &App,
    served: &Arc<Served>,
    request: ModelInferRequest,
    received: S,
    arrived: Instant,
    deadline: Instant,
) -> Result<ModelInferResponse, ApiError> {
    let signature = served.signature();
    let open = app.scheduler.open(served);
    let start = Instant::now();
    let whole = prost::Message::encoded_len(&request);
    let (inputs, call) = tensors::parse(request, whole, signature)?;
    drop(received);
    let input = start.elapsed();
    let request = InferRequest {
        inputs,
        arrived,
        deadline: call.timeout.map_or(deadline, |limit| deadline.min(arrived + limit)),
        priority: call.priority,
    };
    let answer = app.execute(served, open, request).await?;
    let start = Instant::now();
    let timings = answer.timings;
    let response = tensors::answer(&call, served, answer.outputs);
    App::answered(served, arrived, timings, input, start.elapsed());
    Ok(response)
}

/// The version that is asked for, if any.
fn version(text: &str) -> Option<&str> {
    Some(text).filter(|text| !text.is_empty())
}

/// Requests of a stream run side by side and may share a batch. A request that fails is answered with its error and ends nothing;
/// a message that can't be read ends the stream. The whole stream has one `pass`.
fn stream_infer<B>(app: Arc<App>, messages: Messages<B>, pass: Pass) -> Response<GrpcBody>
where
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: std::fmt::Display,
{
    let requests = stream::unfold(Some(messages), |messages| async {
        let mut messages = messages?;
        match messages.next().await.transpose()? {
            Ok(message) => Some((Ok(message), Some(messages))),
            Err(error) => Some((Err(error), None)),
        }
    });
    let answers = requests.map(move |message| {
        let app = Arc::clone(&app);
        let arrived = Instant::now();
        async move {
            let (message, share) = message?;
            let request: ModelInferRequest = decode(message)?;
            let (model, id) = (request.model_name.clone(), request.id.clone());
            let deadline = arrived + app.config.request_timeout;
            let result = metered(&app, arrived, deadline, async { Ok((request, share)) }).await;
            Ok::<_, ApiError>(encode(&streamed(model, id, result)))
        }
    });
    let answers = answers
        .buffered(STREAM_AHEAD)
        .map(Some)
        .chain(stream::iter([None]))
        .boxed();
    reply(stream::unfold(Some((answers, pass)), |answers| async {
        let (mut answers, pass) = answers?;
        match answers.next().await? {
            Some(Ok(message)) => Some((Frame::data(message), Some((answers, pass)))),
            Some(Err(error)) => Some((Frame::trailers(trailers(Err(&error))), None)),
            None => Some((Frame::trailers(trailers(Ok(()))), None)),
        }
    }))
}

fn streamed(model_name: String, id: String, result: Result<ModelInferResponse, ApiError>) -> ModelStreamInferResponse {
    let (error_message, response) = match result {
        Ok(response) => (String::new(), response),
        Err(error) => {
            let response = ModelInferResponse {
                model_name,
                id,
                ..ModelInferResponse::default()
            };
            (error.message, response)
        }
    };
    ModelStreamInferResponse {
        error_message,
        infer_response: Some(response),
    }
}
