//! One attempt: a request to one endpoint and its answer, held or streamed.

use std::collections::VecDeque;

use bytes::Bytes;
use http::{
    HeaderMap, Request, Response, StatusCode, Uri, header,
    uri::{PathAndQuery, Scheme},
};
use tokio::time::Instant;

use crate::{
    Protocol,
    backend::Permit,
    body::{Content, Kept, Outgoing},
    core::{retry::Cause, state::Outcome},
    error::{Failure, REASON},
    grpc::status::{self, GrpcStatus},
    pool::{self, Broken, Line, PoolLimits, Wire},
    replay,
    secure::upstream::Upstream,
};

/// What a runtime says when its queue is full.
const QUEUE_FULL: &str = "queue-full";

/// What a runtime says that is ending.
const DRAINING: &str = "draining";

/// Bytes of a refusal that are passed on.
const REFUSAL_LIMIT: usize = 64 << 10;

/// How an attempt went.
pub(crate) enum Attempt {
    /// An answer for the client, and when its head came.
    Answered(Response<Content>, Instant),
    /// None.
    Broken(Broken),
    /// None, because the client broke off its body; the endpoint did nothing wrong.
    ClientBroke(Failure),
    /// The endpoint's queue is full, or it is ending; this is what it said.
    Refused(Cause, Response<Content>),
}

impl Attempt {
    /// What the endpoint answered, where it did.
    pub(crate) fn status(&self) -> Option<StatusCode> {
        match self {
            Self::Answered(response, _) | Self::Refused(_, response) => Some(response.status()),
            Self::Broken(_) | Self::ClientBroke(_) => None,
        }
    }
}

/// Sends a request to the endpoint of `permit`. A unary answer of at most `hold` bytes is read to its end before it is
/// given, any other streams and keeps the place until then. An endpoint that breaks is taken out of the choice. A gRPC
/// call goes over HTTP/2 whatever the endpoint speaks otherwise.
pub(crate) async fn attempt(
    permit: Permit,
    mut request: Request<Outgoing>,
    hold: usize,
    limits: PoolLimits,
    tls: Option<&Upstream>,
    grpc: bool,
) -> Attempt {
    let Some(replica) = permit.replica() else {
        return Attempt::Broken(Broken {
            cause: Cause::ConnectFailed,
            error: "no endpoint".to_owned(),
            unsent: Some(Box::new(request)),
        });
    };
    let protocol = if grpc { Protocol::H2c } else { replica.protocol };
    if protocol == Protocol::H2c {
        make_absolute(&mut request, if tls.is_some() { Scheme::HTTPS } else { Scheme::HTTP });
    }
    let broke = request.body().broke();
    let line = Line { protocol, tls, limits };
    let response = match pool::send(&replica, line, request).await {
        Ok(response) => response,
        Err(broken) => {
            if let Some(failure) = broke.and_then(|broke| broke.failure()) {
                return Attempt::ClientBroke(failure);
            }
            if broken.cause.is_overload() {
                // As if the endpoint were full: no more than what has a connection.
                permit.release(Outcome::Refused);
            } else {
                permit.fail(&broken.error);
            }
            return Attempt::Broken(broken);
        }
    };
    let first_byte = Instant::now();
    let refusal = refusal(&response).or_else(|| grpc.then(|| grpc_refusal(response.headers())).flatten());
    if let Some(cause) = refusal {
        return refused(permit, cause, response).await;
    }
    if grpc && response.body().is_end_stream() {
        // A status without more: it has to stay a head that ends the stream.
        permit.release(Outcome::Answered);
        return Attempt::Answered(response.map(|_| replay::held(Kept::default())), first_byte);
    }
    if hold == 0 || !replay::is_unary(&response, hold) {
        return Attempt::Answered(stream(response, permit, VecDeque::new()), first_byte);
    }
    let (parts, mut wire) = response.into_parts();
    match replay::hold(&mut wire, hold).await {
        Ok(Ok(kept)) => {
            if let Some(cause) = grpc.then(|| kept.trailers().and_then(grpc_refusal)).flatten() {
                give_up(permit, cause);
                return Attempt::Refused(cause, Response::from_parts(parts, replay::held(kept)));
            }
            permit.release(Outcome::Answered);
            Attempt::Answered(Response::from_parts(parts, replay::held(kept)), first_byte)
        }
        Ok(Err(prefix)) => {
            let response = Response::from_parts(parts, wire);
            Attempt::Answered(stream(response, permit, prefix), first_byte)
        }
        Err(error) => {
            permit.fail(&error.to_string());
            Attempt::Broken(Broken {
                cause: Cause::AnswerCut,
                error: error.to_string(),
                unsent: None,
            })
        }
    }
}

/// Reads a refusal, so that its connection can be used again. What does not fit is left off: only a runtime's own short
/// error is expected here.
async fn refused(permit: Permit, cause: Cause, response: Response<Wire>) -> Attempt {
    let (parts, mut wire) = response.into_parts();
    let body = replay::hold(&mut wire, REFUSAL_LIMIT).await;
    give_up(permit, cause);
    let kept = body.ok().and_then(Result::ok).unwrap_or_default();
    Attempt::Refused(cause, Response::from_parts(parts, replay::held(kept)))
}

/// An endpoint that is full gets less; one that is ending gets nothing, unless it should answer its probe again.
fn give_up(permit: Permit, cause: Cause) {
    if cause == Cause::Draining {
        permit.fail("it is ending");
    } else {
        permit.release(Outcome::Refused);
    }
}

fn stream(response: Response<Wire>, permit: Permit, prefix: VecDeque<Bytes>) -> Response<Content> {
    response.map(|wire| {
        let mut wire = wire.holding(permit);
        if wire.is_end_stream() {
            wire.finish();
        }
        Content::Stream {
            prefix,
            rest: Box::new(wire),
        }
    })
}

fn refusal<B>(response: &Response<B>) -> Option<Cause> {
    if response.status() != StatusCode::SERVICE_UNAVAILABLE {
        return None;
    }
    marked(response.headers())
}

/// The same as headers or trailers of a gRPC answer say it.
fn grpc_refusal(headers: &HeaderMap) -> Option<Cause> {
    let status = headers.get(status::STATUS)?;
    if *status == GrpcStatus::Unavailable.value() {
        marked(headers)
    } else {
        None
    }
}

/// The marks of refusals that are not the client's business.
fn marked(headers: &HeaderMap) -> Option<Cause> {
    let reason = headers.get(REASON)?;
    if reason == QUEUE_FULL {
        Some(Cause::QueueFull)
    } else if reason == DRAINING {
        Some(Cause::Draining)
    } else {
        None
    }
}

/// Path and query without the route's prefix.
pub(crate) fn target_uri(uri: &Uri, strip: usize) -> Result<Uri, http::Error> {
    let path_and_query = match uri.path_and_query() {
        Some(path_and_query) if strip == 0 => path_and_query.clone(),
        Some(path_and_query) => {
            let rest = &path_and_query.as_str()[strip..];
            if rest.starts_with('/') {
                PathAndQuery::try_from(rest)?
            } else {
                PathAndQuery::try_from(format!("/{rest}"))?
            }
        }
        None => PathAndQuery::from_static("/"),
    };
    Ok(Uri::from(path_and_query))
}

/// HTTP/2 wants scheme and authority in the URI.
fn make_absolute(request: &mut Request<Outgoing>, scheme: Scheme) {
    let host = request.headers_mut().remove(header::HOST);
    let authority = host.as_ref().and_then(|host| host.to_str().ok()).unwrap_or("localhost");
    let path = request
        .uri()
        .path_and_query()
        .cloned()
        .unwrap_or(PathAndQuery::from_static("/"));
    let uri = Uri::builder()
        .scheme(scheme)
        .authority(authority)
        .path_and_query(path)
        .build();
    if let Ok(uri) = uri {
        *request.uri_mut() = uri;
    }
    *request.version_mut() = http::Version::HTTP_2;
}
