//! What a client is told when a request fails: one type, one stable code each, mapped to HTTP here and nowhere else.

use std::time::Duration;

use bytes::Bytes;
use http::header::{ALLOW, CONTENT_TYPE, RETRY_AFTER};
use http::{HeaderValue, Response, StatusCode};
use http_body_util::Full;
use pilotlight_engine::RunError;

use crate::metrics::Outcome;

/// The header that carries the code of an error.
pub const REASON_HEADER: &str = "x-pilotlight-reason";

/// The stable codes. Clients and the activator tell errors apart by them, never by the text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Code {
    /// The request contradicts the protocol or the model's signature: 400.
    InvalidRequest,
    /// The request asks for something of the protocol that is not there yet: 501.
    Unsupported,
    /// No such path: 404.
    UnknownPath,
    /// No model of this name: 404.
    ModelNotFound,
    /// The path exists, but not for this method: 405.
    MethodNotAllowed,
    /// The body is longer than the limit: 413.
    BodyTooLarge,
    /// The body is compressed or in a form that is not read: 415.
    UnsupportedMedia,
    /// The model is loading, failed or unloading: 503.
    ModelNotReady,
    /// The process as a whole is not ready: 503.
    NotReady,
    /// As many requests wait as may: 503.
    QueueFull,
    /// What waits before it leaves no time to answer it by its deadline: 503.
    DeadlineUnreachable,
    /// The process is ending and takes no more: 503.
    Draining,
    /// The deadline passed: 504.
    RequestTimeout,
    /// The model failed on these inputs: 500.
    ExecutionFailed,
}

impl Code {
    /// As it stands in the body and in the header.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::InvalidRequest => "invalid-request",
            Self::Unsupported => "unsupported",
            Self::UnknownPath => "unknown-path",
            Self::ModelNotFound => "model-not-found",
            Self::MethodNotAllowed => "method-not-allowed",
            Self::BodyTooLarge => "body-too-large",
            Self::UnsupportedMedia => "unsupported-media",
            Self::ModelNotReady => "model-not-ready",
            Self::NotReady => "not-ready",
            Self::QueueFull => "queue-full",
            Self::DeadlineUnreachable => "deadline-unreachable",
            Self::Draining => "draining",
            Self::RequestTimeout => "request-timeout",
            Self::ExecutionFailed => "execution-failed",
        }
    }

    /// The HTTP status.
    pub fn status(self) -> StatusCode {
        match self {
            Self::InvalidRequest => StatusCode::BAD_REQUEST,
            Self::Unsupported => StatusCode::NOT_IMPLEMENTED,
            Self::UnknownPath | Self::ModelNotFound => StatusCode::NOT_FOUND,
            Self::MethodNotAllowed => StatusCode::METHOD_NOT_ALLOWED,
            Self::BodyTooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            Self::UnsupportedMedia => StatusCode::UNSUPPORTED_MEDIA_TYPE,
            Self::ModelNotReady | Self::NotReady | Self::QueueFull | Self::DeadlineUnreachable | Self::Draining => {
                StatusCode::SERVICE_UNAVAILABLE
            }
            Self::RequestTimeout => StatusCode::GATEWAY_TIMEOUT,
            Self::ExecutionFailed => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }

    /// How the request counts in the metrics.
    pub(crate) fn outcome(self) -> Outcome {
        match self {
            Self::QueueFull => Outcome::QueueFull,
            Self::DeadlineUnreachable => Outcome::Deadline,
            Self::RequestTimeout => Outcome::Timeout,
            Self::ExecutionFailed | Self::ModelNotReady | Self::NotReady | Self::Draining => Outcome::Error,
            _ => Outcome::ClientError,
        }
    }
}

/// A failed request: a code for machines, a text for people.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct ApiError {
    /// What went wrong.
    pub code: Code,
    /// What went wrong in this case and what would be right.
    pub message: String,
    /// For `MethodNotAllowed`: the methods that the path has.
    pub allow: Option<&'static str>,
}

impl ApiError {
    /// An error with this code and text.
    pub fn new(code: Code, message: impl Into<String>) -> Self {
        Self {
            code,
            message: message.into(),
            allow: None,
        }
    }

    /// A 400.
    pub fn invalid(message: impl Into<String>) -> Self {
        Self::new(Code::InvalidRequest, message)
    }

    /// `{"error": text, "code": code}` with the code in the header as well.
    pub(crate) fn into_response(self) -> Response<Full<Bytes>> {
        let body = serde_json::json!({"error": self.message, "code": self.code.as_str()}).to_string();
        let mut response = Response::new(Full::new(Bytes::from(body)));
        *response.status_mut() = self.code.status();
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        headers.insert(REASON_HEADER, HeaderValue::from_static(self.code.as_str()));
        if self.code.status() == StatusCode::SERVICE_UNAVAILABLE {
            headers.insert(RETRY_AFTER, HeaderValue::from_static("1"));
        }
        if let Some(allow) = self.allow {
            headers.insert(ALLOW, HeaderValue::from_static(allow));
        }
        response
    }
}

/// A request that came as far as the queue and has no answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InferError {
    /// As many requests wait as may.
    #[error("the queue is full: {limit} requests wait; try again, or raise --queue-size")]
    QueueFull {
        /// The bound that was reached.
        limit: usize,
    },
    /// As many bytes of inputs wait, or are being received, as may.
    #[error("the queue is full: inputs of {limit} bytes wait or are being received; try again, or raise --queue-bytes")]
    QueueBytesFull {
        /// The bound that was reached, in bytes.
        limit: usize,
    },
    /// By what runs have cost so far, the request can't be answered by its deadline.
    #[error(
        "what waits before the request takes until {} ms after its arrival, and its deadline is {} ms after it; try again later, or \
         allow it more time", .expected.as_millis(), .limit.as_millis()
    )]
    Unreachable {
        /// From arrival to the answer that was forecast.
        expected: Duration,
        /// How long the request could take.
        limit: Duration,
    },
    /// The deadline passed in the queue or on the device.
    #[error("no answer within {} ms; try again, or raise --request-timeout-ms", .limit.as_millis())]
    Timeout {
        /// How long the request could take.
        limit: Duration,
    },
    /// The model refused or failed.
    #[error(transparent)]
    Run(#[from] RunError),
    /// The model panicked, or answered with tensors that contradict its signature.
    #[error("{0}")]
    Broken(String),
}

impl From<InferError> for ApiError {
    fn from(error: InferError) -> Self {
        let code = match &error {
            InferError::QueueFull { .. } | InferError::QueueBytesFull { .. } => Code::QueueFull,
            InferError::Unreachable { .. } => Code::DeadlineUnreachable,
            InferError::Timeout { .. } => Code::RequestTimeout,
            InferError::Run(RunError::Input { .. }) => Code::InvalidRequest,
            InferError::Run(RunError::Node { .. }) | InferError::Broken(_) => Code::ExecutionFailed,
        };
        Self::new(code, error.to_string())
    }
}
