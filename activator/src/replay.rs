//! Keeps what a replay needs: the request's body while it is small, and a unary answer until it is complete.

use std::{collections::VecDeque, time::Duration};

use bytes::Bytes;
use http::{Request, Response, header, request};
use http_body::Body;

use crate::{
    RoutePolicy,
    backend::Arrival,
    body::{Collector, Content, Kept, Outgoing, Replay},
    error::{Code, Failure},
    pool::Wire,
    secure::incoming::{BodyFault, ClientBody},
};

/// Bytes and time that [`discard`] spends on a body.
const DISCARD_LIMIT: usize = 1 << 20;
const DISCARD_TIME: Duration = Duration::from_secs(1);

/// A request's body between attempts.
pub(crate) enum RequestBody {
    /// At hand as a whole: may be sent again and again.
    Kept(Kept),
    /// Still on the client's connection: may be sent once. `None` once it was.
    Stream(Option<Outgoing>),
}

impl RequestBody {
    /// Whether the whole body is still at hand.
    pub(crate) fn is_intact(&self) -> bool {
        match self {
            Self::Kept(_) => true,
            Self::Stream(rest) => rest.is_some(),
        }
    }

    /// Bytes in memory.
    pub(crate) fn kept_bytes(&self) -> usize {
        match self {
            Self::Kept(kept) => kept.len(),
            Self::Stream(_) => 0,
        }
    }

    fn streamed(prefix: VecDeque<Bytes>, rest: ClientBody) -> Self {
        Self::Stream(Some(Outgoing::stream(prefix, rest)))
    }
}

/// A client's body as it comes, after what was read of it already.
pub(crate) struct Received {
    pub(crate) read: Collector,
    pub(crate) rest: ClientBody,
}

impl From<ClientBody> for Received {
    fn from(rest: ClientBody) -> Self {
        Self {
            read: Collector::default(),
            rest,
        }
    }
}

/// Reads the body while it stays within the route's replay limit and the waiting room's bytes. A larger one is left on
/// the wire, where it costs no memory: the client is slowed down until an endpoint takes it.
///
/// A body that is read also lets the server see that its client left; one left on the wire hides that until it is
/// forwarded.
pub(crate) async fn keep(body: Received, arrival: &mut Arrival, policy: &RoutePolicy) -> Result<RequestBody, Failure> {
    let Received {
        read: mut collector,
        rest: mut body,
    } = body;
    if body.is_end_stream() && collector.len() == 0 {
        return Ok(RequestBody::Kept(Kept::default()));
    }
    // Where the length is not known it is that of what was read already, and grows.
    let rest = body.size_hint().exact().unwrap_or(0);
    let mut reserved = collector
        .len()
        .saturating_add(usize::try_from(rest).unwrap_or(usize::MAX));
    if reserved > policy.replay_limit || (reserved > 0 && !arrival.reserve(reserved, policy)?) {
        return Ok(RequestBody::streamed(collector.into_prefix(), body));
    }
    let reading = async {
        while let Some(frame) = next(&mut body).await {
            let read = collector.push(frame.map_err(|fault| Failure::from(&fault))?);
            let more = read.saturating_sub(reserved);
            if read > policy.replay_limit || (more > 0 && !arrival.reserve(more, policy)?) {
                return Ok(false);
            }
            reserved += more;
        }
        Ok::<bool, Failure>(true)
    };
    let whole = tokio::time::timeout(policy.wait_timeout, reading)
        .await
        .map_err(|_| Failure::new(Code::RequestBodyTimeout, "the request's body did not arrive in time"))??;
    Ok(if whole {
        RequestBody::Kept(collector.finish())
    } else {
        RequestBody::streamed(collector.into_prefix(), body)
    })
}

/// A body that is not going to be sent twice.
pub(crate) fn pass(body: Received) -> RequestBody {
    if body.rest.is_end_stream() {
        return RequestBody::Kept(body.read.finish());
    }
    RequestBody::streamed(body.read.into_prefix(), body.rest)
}

/// Reads and drops what a refused client still sends, within bounds: closing a connection with unread data would reset
/// it, and the client might never see why it was refused.
pub(crate) async fn discard(mut body: ClientBody) {
    body.unbounded();
    let reading = async {
        let mut read = 0;
        while let Some(Ok(frame)) = next(&mut body).await {
            read += frame.data_ref().map_or(0, Bytes::len);
            if read > DISCARD_LIMIT {
                return;
            }
        }
    };
    tokio::time::timeout(DISCARD_TIME, reading).await.ok();
}

/// The next frame; `None` at the end.
pub(crate) async fn next(body: &mut ClientBody) -> Option<Result<http_body::Frame<Bytes>, BodyFault>> {
    if body.is_end_stream() {
        return None;
    }
    http_body_util::BodyExt::frame(body).await
}

/// The head of a request as it goes to endpoints.
pub(crate) struct Head(Option<request::Parts>);

impl Head {
    pub(crate) fn new(parts: request::Parts) -> Self {
        Self(Some(parts))
    }

    /// The next attempt's request; `None` if an earlier attempt used up what there was. A kept body's head is copied,
    /// a streamed one's is handed over, since it goes only once.
    pub(crate) fn request(&mut self, body: &mut RequestBody) -> Option<Request<Outgoing>> {
        match body {
            RequestBody::Kept(kept) => {
                let parts = self.0.as_ref()?.clone();
                Some(Request::from_parts(parts, Outgoing::Kept(Replay::from(kept.clone()))))
            }
            RequestBody::Stream(rest) => Some(Request::from_parts(self.0.take()?, rest.take()?)),
        }
    }

    /// An attempt did not send the request: what was handed over is put back.
    pub(crate) fn put_back(&mut self, body: &mut RequestBody, unsent: Request<Outgoing>) {
        if let RequestBody::Stream(rest) = body {
            let (parts, outgoing) = unsent.into_parts();
            self.0 = Some(parts);
            *rest = Some(outgoing);
        }
    }
}

/// Whether an answer is held until it is complete: unary ones of bounded size. Streams of events or lines are for the
/// client to see as they come.
pub(crate) fn is_unary(response: &Response<Wire>, limit: usize) -> bool {
    if let Some(length) = response.body().size_hint().exact() {
        return length <= limit as u64;
    }
    let content_type = response
        .headers()
        .get(header::CONTENT_TYPE)
        .and_then(|value| value.to_str().ok());
    content_type.is_some_and(|value| {
        // What streams over gRPC does not come here: only pure calls do, all of which are unary.
        let unary = ["application/json", "application/octet-stream", "application/grpc"];
        unary.iter().any(|unary| value.starts_with(unary))
    })
}

/// Reads a unary answer to its end. One that turns out larger than `limit` goes on as a stream (`Err`).
pub(crate) async fn hold(wire: &mut Wire, limit: usize) -> Result<Result<Kept, VecDeque<Bytes>>, hyper::Error> {
    let mut collector = Collector::default();
    while !wire.is_end_stream() {
        let Some(frame) = wire.frame().await else { break };
        if collector.push(frame?) > limit {
            return Ok(Err(collector.into_prefix()));
        }
    }
    wire.finish();
    Ok(Ok(collector.finish()))
}

/// A held answer as content for the client.
pub(crate) fn held(kept: Kept) -> Content {
    Content::Kept(Replay::from(kept))
}
