//! Bodies on their way through: kept whole for a replay, or streamed.
//!
//! Kept bodies are reference-counted pieces as they came from the wire; nothing is copied together.

use std::{
    collections::VecDeque,
    pin::Pin,
    sync::{Arc, OnceLock},
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http::HeaderMap;
use http_body::{Body, Frame, SizeHint};
use tokio::time::{Instant, Sleep};

use crate::{
    access,
    error::{Code, Failure},
    exchange::InFlight,
    grpc::status,
    pool::Wire,
    secure::incoming::{BodyFault, ClientBody},
};

/// A body that is at hand as a whole. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub(crate) struct Kept {
    pieces: Pieces,
    trailers: Option<HeaderMap>,
}

#[derive(Clone, Debug, Default)]
enum Pieces {
    #[default]
    None,
    /// The common case: a small body comes in one piece.
    One(Bytes),
    Many(Arc<[Bytes]>),
}

impl Kept {
    /// Bytes in it.
    pub(crate) fn len(&self) -> usize {
        match &self.pieces {
            Pieces::None => 0,
            Pieces::One(bytes) => bytes.len(),
            Pieces::Many(pieces) => pieces.iter().map(Bytes::len).sum(),
        }
    }

    pub(crate) fn trailers(&self) -> Option<&HeaderMap> {
        self.trailers.as_ref()
    }

    pub(crate) fn with_trailers(mut self, trailers: HeaderMap) -> Self {
        self.trailers = Some(trailers);
        self
    }

    fn piece(&self, index: usize) -> Option<&Bytes> {
        match &self.pieces {
            Pieces::None => None,
            Pieces::One(bytes) => (index == 0).then_some(bytes),
            Pieces::Many(pieces) => pieces.get(index),
        }
    }
}

impl From<Bytes> for Kept {
    fn from(bytes: Bytes) -> Self {
        Self {
            pieces: if bytes.is_empty() {
                Pieces::None
            } else {
                Pieces::One(bytes)
            },
            trailers: None,
        }
    }
}

/// Pieces being collected.
#[derive(Debug, Default)]
pub(crate) struct Collector {
    pieces: VecDeque<Bytes>,
    trailers: Option<HeaderMap>,
    len: usize,
}

impl Collector {
    /// Adds a frame; gives the bytes collected so far.
    pub(crate) fn push(&mut self, frame: Frame<Bytes>) -> usize {
        match frame.into_data() {
            Ok(data) if data.is_empty() => {}
            Ok(data) => {
                self.len += data.len();
                self.pieces.push_back(data);
            }
            Err(frame) => self.trailers = frame.into_trailers().ok(),
        }
        self.len
    }

    /// Bytes collected so far.
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// The body is complete.
    pub(crate) fn finish(mut self) -> Kept {
        let pieces = match self.pieces.len() {
            0 => Pieces::None,
            1 => self.pieces.pop_front().map_or(Pieces::None, Pieces::One),
            _ => Pieces::Many(Vec::from(self.pieces).into()),
        };
        Kept {
            pieces,
            trailers: self.trailers,
        }
    }

    /// It is not going to be kept: what was read goes first, the rest follows from the wire.
    pub(crate) fn into_prefix(self) -> VecDeque<Bytes> {
        self.pieces
    }
}

/// Sends a kept body.
#[derive(Debug)]
pub(crate) struct Replay {
    kept: Kept,
    next: usize,
    left: usize,
}

impl From<Kept> for Replay {
    fn from(kept: Kept) -> Self {
        Self {
            left: kept.len(),
            next: 0,
            kept,
        }
    }
}

impl Replay {
    fn next_frame(&mut self) -> Option<Frame<Bytes>> {
        if let Some(piece) = self.kept.piece(self.next) {
            self.next += 1;
            self.left -= piece.len();
            return Some(Frame::data(piece.clone()));
        }
        self.kept.trailers.take().map(Frame::trailers)
    }

    fn is_end(&self) -> bool {
        self.left == 0 && self.kept.trailers.is_none()
    }
}

/// A request body on its way to an endpoint.
#[derive(Debug)]
pub(crate) enum Outgoing {
    /// At hand; another copy may be sent again.
    Kept(Replay),
    /// From the client's connection, after what was read of it already.
    Stream {
        /// What was read already.
        prefix: VecDeque<Bytes>,
        /// What is still on the wire.
        rest: ClientBody,
        /// Told when the client's side fails.
        broke: Broke,
    },
}

/// Why a client's body failed, if it did, seen from where that makes the endpoint's answer fail.
#[derive(Clone, Debug, Default)]
pub(crate) struct Broke(Arc<OnceLock<Failure>>);

impl Broke {
    pub(crate) fn failure(&self) -> Option<Failure> {
        self.0.get().cloned()
    }
}

impl Outgoing {
    /// A body from the client's connection, after what was read of it already.
    pub(crate) fn stream(prefix: VecDeque<Bytes>, rest: ClientBody) -> Self {
        Self::Stream {
            prefix,
            rest,
            broke: Broke::default(),
        }
    }

    /// What tells of a client that breaks off its body; `None` for one that is at hand.
    pub(crate) fn broke(&self) -> Option<Broke> {
        match self {
            Self::Kept(_) => None,
            Self::Stream { broke, .. } => Some(broke.clone()),
        }
    }

    /// No body.
    pub(crate) fn empty() -> Self {
        Self::Kept(Kept::default().into())
    }
}

impl Body for Outgoing {
    type Data = Bytes;
    type Error = BodyFault;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyFault>>> {
        match self.get_mut() {
            Self::Kept(replay) => Poll::Ready(replay.next_frame().map(Ok)),
            Self::Stream { prefix, rest, broke } => {
                if let Some(data) = prefix.pop_front() {
                    return Poll::Ready(Some(Ok(Frame::data(data))));
                }
                let frame = ready!(Pin::new(rest).poll_frame(cx));
                if let Some(Err(fault)) = &frame {
                    // Only the first counts.
                    let _ = broke.0.set(Failure::from(fault));
                }
                Poll::Ready(frame)
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Kept(replay) => replay.is_end(),
            Self::Stream { prefix, rest, .. } => prefix.is_empty() && rest.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Kept(replay) => SizeHint::with_exact(replay.left as u64),
            Self::Stream { prefix, rest, .. } => with_prefix(prefix, rest.size_hint()),
        }
    }
}

/// The size of a body of which `prefix` was read already.
fn with_prefix(prefix: &VecDeque<Bytes>, rest: SizeHint) -> SizeHint {
    let read: u64 = prefix.iter().map(|piece| piece.len() as u64).sum();
    let mut hint = SizeHint::new();
    if let Some(upper) = rest.upper() {
        hint.set_upper(upper + read);
    }
    hint.set_lower(rest.lower() + read);
    hint
}

/// An answer on its way to the client. It carries the request's counts, which end with its last byte or when the client
/// goes.
pub(crate) struct ProxyBody {
    content: Content,
    in_flight: Option<InFlight>,
    /// A gRPC call: it ends with a status even where the endpoint breaks off.
    grpc: bool,
    /// Ends it where the request has a limit.
    timer: Option<Pin<Box<Sleep>>>,
    /// Where requests are logged.
    log: Option<Box<access::Line>>,
}

/// Why an answer ends before its end.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AnswerFault {
    /// The endpoint broke it off.
    #[error("the replica broke off its answer: {0}")]
    Broke(#[from] hyper::Error),
    /// The limit of its request has passed.
    #[error("the answer took longer than its request may")]
    TooLate,
}

impl From<&AnswerFault> for Failure {
    fn from(fault: &AnswerFault) -> Self {
        let code = match fault {
            AnswerFault::Broke(_) => Code::ReplicaFailed,
            AnswerFault::TooLate => Code::ResponseTimeout,
        };
        Self::new(code, fault.to_string())
    }
}

/// Where an answer's bytes come from.
pub(crate) enum Content {
    /// At hand: our own answers, and unary answers held to their end.
    Kept(Replay),
    /// From the endpoint's connection, after what was read of it already.
    Stream {
        /// What was read already.
        prefix: VecDeque<Bytes>,
        /// What is still on the wire.
        rest: Box<Wire>,
    },
}

impl ProxyBody {
    /// An answer of our own.
    pub(crate) fn full(bytes: Bytes) -> Self {
        Self::new(Content::Kept(Kept::from(bytes).into()))
    }

    pub(crate) fn new(content: Content) -> Self {
        Self {
            content,
            in_flight: None,
            grpc: false,
            timer: None,
            log: None,
        }
    }

    /// The answer to a gRPC call: should the endpoint break off, it ends with a status.
    pub(crate) fn grpc(mut self) -> Self {
        self.grpc = true;
        self
    }

    /// An answer that streams is cut at this time.
    pub(crate) fn until(mut self, deadline: Option<Instant>) -> Self {
        let streams = matches!(self.content, Content::Stream { .. });
        let deadline = deadline.filter(|_| streams);
        self.timer = deadline.map(|at| Box::pin(tokio::time::sleep_until(at)));
        self
    }

    /// Its bytes are counted for the log.
    pub(crate) fn logging(mut self, line: Box<access::Line>) -> Self {
        self.log = Some(line);
        self
    }

    fn poll_content(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, AnswerFault>>> {
        if let Some(timer) = &mut self.timer
            && timer.as_mut().poll(cx).is_ready()
        {
            return Poll::Ready(Some(Err(AnswerFault::TooLate)));
        }
        match &mut self.content {
            Content::Kept(replay) => Poll::Ready(replay.next_frame().map(Ok)),
            Content::Stream { prefix, rest } => match prefix.pop_front() {
                Some(data) => Poll::Ready(Some(Ok(Frame::data(data)))),
                None => rest.poll_frame(cx).map_err(AnswerFault::from),
            },
        }
    }

    /// The request counts until this body is sent or dropped.
    pub(crate) fn counting(mut self, in_flight: InFlight) -> Self {
        self.in_flight = Some(in_flight);
        self
    }
}

impl Body for ProxyBody {
    type Data = Bytes;
    type Error = AnswerFault;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, AnswerFault>>> {
        let this = self.get_mut();
        match ready!(this.poll_content(cx)) {
            Some(Err(fault)) if this.grpc => {
                this.timer = None;
                this.content = Content::Kept(Kept::default().into());
                let failure = Failure::from(&fault);
                Poll::Ready(Some(Ok(Frame::trailers(status::trailers(&failure)))))
            }
            frame => {
                if let (Some(line), Some(Ok(frame))) = (&mut this.log, &frame) {
                    line.bytes += frame.data_ref().map_or(0, Bytes::len) as u64;
                }
                Poll::Ready(frame)
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.content {
            Content::Kept(replay) => replay.is_end(),
            // Not before the wire itself said so: it hands its connection back then.
            Content::Stream { .. } => false,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.content {
            Content::Kept(replay) => SizeHint::with_exact(replay.left as u64),
            Content::Stream { prefix, rest } => with_prefix(prefix, rest.size_hint()),
        }
    }
}
