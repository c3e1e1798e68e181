//! gRPC statuses as they travel: in the trailers, or alone in the head.

use std::fmt::Write;

use http::{HeaderMap, HeaderName, HeaderValue, Response, header};

use crate::{
    body::ProxyBody,
    error::{Failure, REASON},
};

pub(crate) const CONTENT_TYPE: HeaderValue = HeaderValue::from_static("application/grpc");
/// Header or trailer with the number of the status.
pub(crate) const STATUS: HeaderName = HeaderName::from_static("grpc-status");
const MESSAGE: HeaderName = HeaderName::from_static("grpc-message");

/// The statuses that the activator uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum GrpcStatus {
    InvalidArgument = 3,
    DeadlineExceeded = 4,
    NotFound = 5,
    ResourceExhausted = 8,
    Unimplemented = 12,
    Internal = 13,
    Unavailable = 14,
    Unauthenticated = 16,
}

impl GrpcStatus {
    pub(crate) fn value(self) -> HeaderValue {
        HeaderValue::from(self as u16)
    }
}

/// What says that a call succeeded.
pub(crate) fn success() -> HeaderMap {
    HeaderMap::from_iter([(STATUS, HeaderValue::from_static("0"))])
}

/// What says that a call failed and why.
pub(crate) fn trailers(failure: &Failure) -> HeaderMap {
    let mut headers = HeaderMap::with_capacity(4);
    headers.insert(STATUS, failure.code.grpc_status().value());
    if let Ok(message) = HeaderValue::try_from(percent_encoded(&failure.message)) {
        headers.insert(MESSAGE, message);
    }
    headers.insert(REASON, HeaderValue::from_static(failure.code.as_str()));
    headers
}

/// An answer of nothing but a failure.
pub(crate) fn failed(failure: &Failure) -> Response<ProxyBody> {
    let mut response = Response::new(ProxyBody::full(bytes::Bytes::new()));
    let headers = response.headers_mut();
    *headers = trailers(failure);
    headers.insert(header::CONTENT_TYPE, CONTENT_TYPE);
    response
}

/// Text as the protocol wants it: printable ASCII without `%`, everything else as `%` and two hex digits.
fn percent_encoded(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        if matches!(byte, b' '..=b'~') && byte != b'%' {
            encoded.push(char::from(byte));
        } else {
            // Writing to a string does not fail.
            write!(encoded, "%{byte:02X}").ok();
        }
    }
    encoded
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Code;

    #[test]
    fn messages_are_percent_encoded() {
        assert_eq!(percent_encoded("50 % of \"ü\"\n"), "50 %25 of \"%C3%BC\"%0A");
    }

    #[test]
    fn a_failure_is_an_answer_of_a_head_only() {
        let failure = Failure::new(Code::UnknownModel, "no \"cats\"");
        let response = failed(&failure);
        assert_eq!(response.status(), 200);
        assert_eq!(response.headers()["content-type"], "application/grpc");
        assert_eq!(response.headers()["grpc-status"], "5");
        assert_eq!(response.headers()["grpc-message"], "no \"cats\"");
        assert_eq!(response.headers()[REASON], "unknown-model");
        assert!(http_body::Body::is_end_stream(response.body()));
    }
}
