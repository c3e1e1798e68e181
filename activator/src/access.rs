//! The log of requests in the Combined Log Format, where it is asked for ([`Config::log_requests`]): one line a request, once its answer
//! is sent or its client gone.
//!
//! [`Config::log_requests`]: crate::Config::log_requests

use std::fmt;

use http::{HeaderName, Request, Response, header};
use k8s_openapi::jiff::Timestamp;

use crate::{body::ProxyBody, server::Client};

/// What is known of a request at its arrival; written where it is dropped.
#[derive(Debug)]
pub(crate) struct Line {
    peer: String,
    at: Timestamp,
    request: String,
    referer: String,
    agent: String,
    status: u16,
    /// Of the answer's body, as far as they were taken.
    pub(crate) bytes: u64,
}

impl Line {
    pub(crate) fn new<B>(client: &Client, request: &Request<B>, at: Timestamp) -> Self {
        let of = |name: HeaderName| {
            request
                .headers()
                .get(name)
                .map_or("-".to_owned(), |value| shown(value.as_bytes()))
        };
        let target = request.uri().path_and_query().map_or("/", |path| path.as_str());
        Self {
            peer: shown(client.address.as_bytes()),
            at,
            request: format!(
                "{} {} {:?}",
                request.method(),
                shown(target.as_bytes()),
                request.version()
            ),
            referer: of(header::REFERER),
            agent: of(header::USER_AGENT),
            status: 0,
            bytes: 0,
        }
    }

    /// It is written once this answer is over.
    pub(crate) fn follow(mut self: Box<Self>, response: Response<ProxyBody>) -> Response<ProxyBody> {
        self.status = response.status().as_u16();
        response.map(|body| body.logging(self))
    }
}

/// Nothing that a client sends ends a line or a quotation.
fn shown(bytes: &[u8]) -> String {
    bytes.escape_ascii().to_string()
}

impl fmt::Display for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            peer,
            at,
            request,
            referer,
            agent,
            status,
            bytes,
        } = self;
        let at = at.strftime("%d/%b/%Y:%H:%M:%S +0000");
        write!(
            f,
            "{peer} - - [{at}] \"{request}\" {status} {bytes} \"{referer}\" \"{agent}\""
        )
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        tracing::info!(target: "access", "{self}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn add_on_a_request_is_one_line_of_the_combined_log_format_whatever_its_client_sends() {
        let line = Line {
            peer: "10.0.0.1".to_owned(),
            at: "2026-06-28T13:55:36.5Z".parse().unwrap(),
            request: "GET /a?b=c HTTP/1.1".to_owned(),
            referer: "-".to_owned(),
            agent: shown(b"x\" \n\xff"),
            status: 200,
            bytes: 2326,
        };
        assert_eq!(
            line.to_string(),
            r#"10.0.0.1 - - [28/Jun/2026:13:55:36 +0000] "GET /a?b=c HTTP/1.1" 200 2326 "-" "x\" \n\xff""#
        );
    }
}
