//! A client's body within its bounds: no longer than allowed, and no longer silent.

use std::{
    future::Future,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use tokio::time::{Instant, Sleep};

use super::guard;
use crate::error::{Code, Failure};

/// Why no more of a client's body comes.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BodyFault {
    /// The connection or the stream broke.
    #[error("the request's body broke off: {0}")]
    Broke(#[from] hyper::Error),
    /// It is longer than this.
    #[error("the request's body is longer than {0} bytes")]
    TooLarge(u64),
    /// Nothing came for so long.
    #[error("the request's body paused for {0:?}")]
    Paused(Duration),
}

impl From<&BodyFault> for Failure {
    fn from(fault: &BodyFault) -> Self {
        match fault {
            BodyFault::Broke(_) => Self::new(Code::BadRequest, fault.to_string()),
            BodyFault::TooLarge(limit) => guard::too_large(*limit),
            BodyFault::Paused(_) => Self::new(Code::RequestBodyTimeout, fault.to_string()),
        }
    }
}

/// A body from a client's connection.
#[derive(Debug)]
pub(crate) struct ClientBody {
    body: Incoming,
    limit: u64,
    read: u64,
    /// How long it may pause; `None` for as long as it likes.
    pause: Option<Duration>,
    /// Runs while it pauses.
    timer: Option<Pin<Box<Sleep>>>,
}

impl ClientBody {
    pub(crate) fn new(body: Incoming, limit: u64, pause: Option<Duration>) -> Self {
        Self {
            body,
            limit,
            read: 0,
            pause,
            timer: None,
        }
    }

    /// A stream of messages: each has its bounds, all of them together have none.
    pub(crate) fn unbounded(&mut self) {
        self.limit = u64::MAX;
        self.pause = None;
        self.timer = None;
    }

    fn paused(&mut self, cx: &mut Context<'_>) -> Option<BodyFault> {
        let pause = self.pause?;
        let timer = self.timer.get_or_insert_with(|| Box::pin(tokio::time::sleep(pause)));
        timer.as_mut().poll(cx).is_ready().then_some(BodyFault::Paused(pause))
    }
}

impl Body for ClientBody {
    type Data = Bytes;
    type Error = BodyFault;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyFault>>> {
        let this = &mut *self;
        let Poll::Ready(frame) = Pin::new(&mut this.body).poll_frame(cx) else {
            return match this.paused(cx) {
                Some(fault) => Poll::Ready(Some(Err(fault))),
                None => Poll::Pending,
            };
        };
        if let (Some(pause), Some(timer)) = (this.pause, &mut this.timer) {
            timer.as_mut().reset(Instant::now() + pause);
        }
        let Some(frame) = frame else { return Poll::Ready(None) };
        let frame = frame?;
        this.read += frame.data_ref().map_or(0, |data| data.len() as u64);
        if this.read > this.limit {
            return Poll::Ready(Some(Err(BodyFault::TooLarge(this.limit))));
        }
        Poll::Ready(Some(Ok(frame)))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
