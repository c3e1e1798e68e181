//! A client that doesn't read its answers: writing to it may stall for so long and no longer.

use std::{
    future::Future,
    io,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use pin_project_lite::pin_project;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::{Instant, Sleep, sleep},
};

pin_project! {
    /// A connection whose writes fail when they stall.
    pub(crate) struct Patient<S> {
        #[pin]
        inner: S,
        limit: Duration,
        // Made at the first stall: most connections never have one.
        timer: Option<Pin<Box<Sleep>>>,
        stalled: bool,
    }
}

impl<S> Patient<S> {
    pub(crate) fn new(inner: S, limit: Duration) -> Self {
        Self {
            inner,
            limit,
            timer: None,
            stalled: false,
        }
    }
}

impl<S: AsyncWrite> Patient<S> {
    fn write<T>(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        write: impl FnOnce(Pin<&mut S>, &mut Context<'_>) -> Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        let this = self.project();
        let written = write(this.inner, cx);
        if written.is_ready() {
            *this.stalled = false;
            return written;
        }
        let until = Instant::now() + *this.limit;
        let timer = match this.timer {
            Some(timer) if *this.stalled => timer,
            Some(timer) => {
                timer.as_mut().reset(until);
                timer
            }
            none => none.insert(Box::pin(sleep(*this.limit))),
        };
        *this.stalled = true;
        match timer.as_mut().poll(cx) {
            Poll::Ready(()) => Poll::Ready(Err(io::Error::new(
                io::ErrorKind::TimedOut,
                "the client does not read its answer",
            ))),
            Poll::Pending => Poll::Pending,
        }
    }
}

impl<S: AsyncRead> AsyncRead for Patient<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        self.project().inner.poll_read(cx, buffer)
    }
}

impl<S: AsyncRead + AsyncWrite> AsyncWrite for Patient<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.write(cx, |inner, cx| inner.poll_write(cx, bytes))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        pieces: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.write(cx, |inner, cx| inner.poll_write_vectored(cx, pieces))
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.write(cx, AsyncWrite::poll_flush)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.write(cx, AsyncWrite::poll_shutdown)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    const LIMIT: Duration = Duration::from_secs(10);

    #[tokio::test(start_paused = true)]
    async fn a_write_that_nobody_reads_fails_in_its_time() {
        let (ours, _theirs) = tokio::io::duplex(4);
        let mut ours = Patient::new(ours, LIMIT);
        let began = Instant::now();
        let error = ours.write_all(b"longer than it holds").await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        assert_eq!(began.elapsed(), LIMIT);
    }

    #[tokio::test(start_paused = true)]
    async fn one_that_reads_slowly_is_waited_for() {
        let (ours, mut theirs) = tokio::io::duplex(4);
        let mut ours = Patient::new(ours, LIMIT);
        let reader = tokio::spawn(async move {
            let mut all = [0; 20];
            for piece in all.chunks_mut(4) {
                sleep(LIMIT / 2).await;
                theirs.read_exact(piece).await.unwrap();
            }
            all
        });
        ours.write_all(b"longer than it holds").await.unwrap();
        assert_eq!(&reader.await.unwrap(), b"longer than it holds");
    }
}
