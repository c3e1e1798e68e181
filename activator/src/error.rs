//! Failures that the activator itself answers with, mapped to HTTP and gRPC in one place.
//!
//! | code | HTTP | gRPC | when |
//! |---|---|---|---|
//! | `unknown-route` | 404 | NOT_FOUND | no host, path prefix or model name of the request is known |
//! | `unknown-model` | 404 | NOT_FOUND | the path names a model that no route has |
//! | `ambiguous-route` | 404 | NOT_FOUND | the model's name exists in several namespaces and nothing else tells them apart |
//! | `route-disagreement` | 404 | NOT_FOUND | host, path and model name lead to different routes |
//! | `route-removed` | 404 | NOT_FOUND | the route was removed while the request waited |
//! | `bad-request` | 400 | INVALID_ARGUMENT | the request is malformed or its body broke off |
//! | `unauthenticated` | 401 | UNAUTHENTICATED | tokens are demanded and the request brings none of them |
//! | `body-too-large` | 413 | RESOURCE_EXHAUSTED | the request's body is longer than allowed |
//! | `unknown-method` | 501 | UNIMPLEMENTED | a gRPC call that belongs to no model, of a service that is not the activator's |
//! | `request-body-timeout` | 408 | DEADLINE_EXCEEDED | the request's body did not arrive within the waiting limit |
//! | `waiting-room-full` | 503 | UNAVAILABLE | more requests or bytes wait for the backend than the route allows |
//! | `wait-timeout` | 504 | DEADLINE_EXCEEDED | no endpoint was free within the waiting limit |
//! | `response-timeout` | 504 | DEADLINE_EXCEEDED | the endpoint did not answer within the response limit |
//! | `unresolved-port` | 500 | INTERNAL | the Service of the route's target has no such port |
//! | `replica-failed` | 502 | UNAVAILABLE | the endpoint failed under a request that may not be sent twice |
//! | `replicas-failed` | 502 | INTERNAL | endpoints kept failing under the request, as often as the route allows |
//! | `shutting-down` | 503 | UNAVAILABLE | the request still waited when the drain time of the activator was over |
//! | `unknown-backend` | 503 | UNAVAILABLE | wake: nobody knows the backend |
//! | `load-failed` | 503 | UNAVAILABLE | wake: its replicas die or fail to load |
//! | `no-capacity` | 503 | UNAVAILABLE | wake: the platform has no room |
//! | `platform-error` | 503 | UNAVAILABLE | wake: the platform could not be reached or refused |
//! | `disabled` | 503 | UNAVAILABLE | wake: the backend is stopped |
//!
//! Each answer is JSON `{"error": text, "code": code}` with the code in `x-pilotlight-reason` too; 503s carry
//! `Retry-After`. Routes of applications ([`crate::Purity::Opaque`]) get the same headers with the status in words as the body, as from
//! the KEDA HTTP add-on. A gRPC call gets the gRPC status with the text as its message, and the same header. A replica's own
//! errors pass unchanged.

use std::borrow::Cow;

use bytes::Bytes;
use http::{HeaderName, HeaderValue, Response, StatusCode, header};
use serde::Serialize;

use crate::{WakeError, WakeReason, body::ProxyBody, core::table::Miss, grpc::status::GrpcStatus};

/// Header that names the reason of an error, of ours and of the runtimes alike.
pub const REASON: HeaderName = HeaderName::from_static("x-pilotlight-reason");
/// The one content type of errors, without parameters.
pub(crate) const JSON: HeaderValue = HeaderValue::from_static("application/json");
/// That of an answer in words.
const TEXT: HeaderValue = HeaderValue::from_static("text/plain; charset=utf-8");

/// What a client without a right token is told to bring.
const CHALLENGE: HeaderValue = HeaderValue::from_static("Bearer realm=\"pilotlight\"");

/// Stable codes of the activator's own failures; the table is in the module's head.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Code {
    /// No host, path prefix or model name of the request is known.
    UnknownRoute,
    /// The path names a model that no route has.
    UnknownModel,
    /// The model's name exists in several namespaces.
    AmbiguousRoute,
    /// Host, path and model name lead to different routes.
    RouteDisagreement,
    /// The route was removed while the request waited.
    RouteRemoved,
    /// The request is malformed or its body broke off.
    BadRequest,
    /// No token, or a wrong one.
    Unauthenticated,
    /// The body is longer than allowed.
    BodyTooLarge,
    /// A gRPC call that belongs to no model and that the activator does not know.
    UnknownMethod,
    /// The request's body did not arrive in time.
    RequestBodyTimeout,
    /// Too many requests or bytes wait.
    WaitingRoomFull,
    /// Nothing was free in time.
    WaitTimeout,
    /// The endpoint did not answer in time.
    ResponseTimeout,
    /// The Service of the route's target has no such port.
    UnresolvedPort,
    /// The endpoint failed under a request that may not be sent twice.
    ReplicaFailed,
    /// Endpoints kept failing under the request.
    ReplicasFailed,
    /// The activator ends.
    ShuttingDown,
    /// The backend can't be woken.
    Wake(WakeReason),
}

impl Code {
    /// Every code, in the order of the table.
    pub const ALL: [Self; 22] = [
        Self::UnknownRoute,
        Self::UnknownModel,
        Self::AmbiguousRoute,
        Self::RouteDisagreement,
        Self::RouteRemoved,
        Self::BadRequest,
        Self::Unauthenticated,
        Self::BodyTooLarge,
        Self::UnknownMethod,
        Self::RequestBodyTimeout,
        Self::WaitingRoomFull,
        Self::WaitTimeout,
        Self::ResponseTimeout,
        Self::UnresolvedPort,
        Self::ReplicaFailed,
        Self::ReplicasFailed,
        Self::ShuttingDown,
        Self::Wake(WakeReason::UnknownBackend),
        Self::Wake(WakeReason::LoadFailed),
        Self::Wake(WakeReason::NoCapacity),
        Self::Wake(WakeReason::PlatformError),
        Self::Wake(WakeReason::Disabled),
    ];

    /// The stable text.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::UnknownRoute => "unknown-route",
            Self::UnknownModel => "unknown-model",
            Self::AmbiguousRoute => "ambiguous-route",
            Self::RouteDisagreement => "route-disagreement",
            Self::RouteRemoved => "route-removed",
            Self::BadRequest => "bad-request",
            Self::Unauthenticated => "unauthenticated",
            Self::BodyTooLarge => "body-too-large",
            Self::UnknownMethod => "unknown-method",
            Self::RequestBodyTimeout => "request-body-timeout",
            Self::WaitingRoomFull => "waiting-room-full",
            Self::WaitTimeout => "wait-timeout",
            Self::ResponseTimeout => "response-timeout",
            Self::UnresolvedPort => "unresolved-port",
            Self::ReplicaFailed => "replica-failed",
            Self::ReplicasFailed => "replicas-failed",
            Self::ShuttingDown => "shutting-down",
            Self::Wake(reason) => reason.code(),
        }
    }

    /// The HTTP status it is answered with.
    pub fn status(self) -> StatusCode {
        match self {
            Self::UnknownRoute
            | Self::UnknownModel
            | Self::AmbiguousRoute
            | Self::RouteDisagreement
            | Self::RouteRemoved => StatusCode::NOT_FOUND,
            Self::BadRequest => StatusCode::BAD_REQUEST,
            Self::Unauthenticated => StatusCode::UNAUTHORIZED,
            Self::BodyTooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            Self::UnknownMethod => StatusCode::NOT_IMPLEMENTED,
            Self::RequestBodyTimeout => StatusCode::REQUEST_TIMEOUT,
            Self::WaitTimeout | Self::ResponseTimeout => StatusCode::GATEWAY_TIMEOUT,
            Self::UnresolvedPort => StatusCode::INTERNAL_SERVER_ERROR,
            Self::ReplicaFailed | Self::ReplicasFailed => StatusCode::BAD_GATEWAY,
            Self::WaitingRoomFull | Self::ShuttingDown | Self::Wake(_) => StatusCode::SERVICE_UNAVAILABLE,
        }
    }

    /// The gRPC status it is answered with.
    pub(crate) fn grpc_status(self) -> GrpcStatus {
        match self {
            Self::UnknownRoute
            | Self::UnknownModel
            | Self::AmbiguousRoute
            | Self::RouteDisagreement
            | Self::RouteRemoved => GrpcStatus::NotFound,
            Self::BadRequest => GrpcStatus::InvalidArgument,
            Self::Unauthenticated => GrpcStatus::Unauthenticated,
            Self::BodyTooLarge => GrpcStatus::ResourceExhausted,
            Self::UnknownMethod => GrpcStatus::Unimplemented,
            Self::RequestBodyTimeout | Self::WaitTimeout | Self::ResponseTimeout => GrpcStatus::DeadlineExceeded,
            // Clients try UNAVAILABLE again by themselves; a request under which several replicas failed should not be.
            Self::ReplicasFailed | Self::UnresolvedPort => GrpcStatus::Internal,
            Self::ReplicaFailed | Self::WaitingRoomFull | Self::ShuttingDown | Self::Wake(_) => GrpcStatus::Unavailable,
        }
    }
}

/// A failure on its way to the client.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub(crate) struct Failure {
    pub(crate) code: Code,
    pub(crate) message: Cow<'static, str>,
}

impl Failure {
    pub(crate) fn new(code: Code, message: impl Into<Cow<'static, str>>) -> Self {
        Self {
            code,
            message: message.into(),
        }
    }

    /// Nothing can serve, in contrast to something that failed.
    pub(crate) fn is_of_cold_start(&self) -> bool {
        matches!(self.code, Code::WaitTimeout | Code::Wake(_))
    }

    /// The answer. `retry_after` in seconds goes with every 503.
    pub(crate) fn response(&self, retry_after: u32) -> Response<ProxyBody> {
        let body = ErrorBody {
            error: &self.message,
            code: self.code.as_str(),
        };
        self.explained(json(self.code.status(), &body), retry_after)
    }

    /// The answer in the words of the KEDA HTTP add-on: the status's own.
    pub(crate) fn plain(&self, retry_after: u32) -> Response<ProxyBody> {
        self.explained(plain(self.code.status()), retry_after)
    }

    fn explained(&self, mut response: Response<ProxyBody>, retry_after: u32) -> Response<ProxyBody> {
        let status = response.status();
        let headers = response.headers_mut();
        headers.insert(REASON, HeaderValue::from_static(self.code.as_str()));
        if status == StatusCode::SERVICE_UNAVAILABLE {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(retry_after));
        }
        if self.code == Code::Unauthenticated {
            headers.insert(header::WWW_AUTHENTICATE, CHALLENGE);
        }
        response
    }
}

impl From<Miss> for Failure {
    fn from(miss: Miss) -> Self {
        Self::new(miss.code, miss.message)
    }
}

impl From<&WakeError> for Failure {
    fn from(error: &WakeError) -> Self {
        Self::new(Code::Wake(error.reason), error.message.to_string())
    }
}

#[derive(Serialize)]
struct ErrorBody<'a> {
    error: &'a str,
    code: &'static str,
}

/// A status and its words, as Go's `http.Error` says it.
pub(crate) fn plain(status: StatusCode) -> Response<ProxyBody> {
    let text = format!("{}\n", status.canonical_reason().unwrap_or_default());
    let mut response = Response::new(ProxyBody::full(Bytes::from(text)));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, TEXT);
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}

/// A JSON answer of our own.
pub(crate) fn json(status: StatusCode, value: &impl Serialize) -> Response<ProxyBody> {
    // Text and numbers under constant keys always serialize.
    let body = serde_json::to_vec(value).unwrap_or_default();
    let mut response = Response::new(ProxyBody::full(Bytes::from(body)));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, JSON);
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_lists_every_code_with_its_statuses() {
        let rows: Vec<[String; 3]> = include_str!("error.rs")
            .lines()
            .filter_map(|line| line.strip_prefix("//! | `"))
            .filter_map(|line| {
                let mut cells = line.split('|').map(str::trim);
                let grpc = |name: &str| name.to_ascii_lowercase().replace('_', "");
                Some([
                    cells.next()?.trim_end_matches('`').to_owned(),
                    cells.next()?.to_owned(),
                    grpc(cells.next()?),
                ])
            })
            .collect();
        let codes: Vec<[String; 3]> = Code::ALL
            .iter()
            .map(|code| {
                let grpc = format!("{:?}", code.grpc_status()).to_ascii_lowercase();
                [code.as_str().to_owned(), code.status().as_u16().to_string(), grpc]
            })
            .collect();
        assert_eq!(rows, codes);
    }

    #[test]
    fn a_503_asks_to_come_back_and_other_statuses_do_not() {
        for code in Code::ALL {
            let response = Failure::new(code, "x").response(1);
            assert_eq!(
                response.headers().contains_key(header::RETRY_AFTER),
                response.status() == StatusCode::SERVICE_UNAVAILABLE
            );
            assert_eq!(response.headers()[header::CONTENT_TYPE], "application/json");
            assert_eq!(response.headers()[REASON], code.as_str());
        }
    }

    /// Fact 2.3: errors are in the words of Go's `http.Error`.
    #[test]
    fn add_on_errors_are_the_words_of_their_status() {
        let response = Failure::new(Code::WaitTimeout, "x").plain(1);
        assert_eq!(response.status(), StatusCode::GATEWAY_TIMEOUT);
        assert_eq!(response.headers()[header::CONTENT_TYPE], "text/plain; charset=utf-8");
        assert_eq!(response.headers()[header::X_CONTENT_TYPE_OPTIONS], "nosniff");
        assert_eq!(response.headers()[REASON], "wait-timeout");
        let length = http_body::Body::size_hint(response.body()).exact();
        assert_eq!(length, Some("Gateway Timeout\n".len() as u64));
    }
}
