//! Connections to one endpoint.
//!
//! HTTP/1.1 connections are kept un-spawned: whoever uses one drives it from its own task, so a request and its answer
//! cross no task boundary on their way through. An idle connection is not driven at all; whether it is still open is
//! looked at when it is taken. HTTP/2 connections are shared and run in a task of their own.

use std::{
    future::{Future, poll_fn},
    io,
    net::SocketAddr,
    pin::{Pin, pin},
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use futures_util::{
    FutureExt, TryFutureExt,
    future::{BoxFuture, Shared},
};
use http::{Request, Response};
use http_body::{Body, Frame, SizeHint};
use hyper::{
    body::Incoming,
    client::conn::{TrySendError, http1, http2},
};
use hyper_util::rt::{TokioExecutor, TokioIo};
use parking_lot::Mutex;
use tokio::{net::TcpStream, time::Instant};
use tokio_rustls::client::TlsStream;
use tokio_util::either::Either;

use crate::{
    backend::{Permit, Replica},
    body::Outgoing,
    core::{retry::Cause, state::Outcome},
    endpoint::Protocol,
    secure::upstream::Upstream,
};

/// A connection, in plain text or over TLS.
pub(crate) type Stream = Either<TcpStream, Box<TlsStream<TcpStream>>>;

type H1Connection = http1::Connection<TokioIo<Stream>, Outgoing>;

/// One HTTP/1.1 connection with the future that drives it.
struct Link {
    sender: http1::SendRequest<Outgoing>,
    /// `None` once it ended.
    connection: Option<H1Connection>,
}

struct Idle {
    link: Box<Link>,
    since: Instant,
}

/// An HTTP/2 connection that is open or being opened: one attempt for all who need it at once.
type Opening = Shared<BoxFuture<'static, Result<http2::SendRequest<Outgoing>, Arc<io::Error>>>>;

/// Connections to one endpoint: HTTP/1.1 ones that carry no request, and the one of HTTP/2.
#[derive(Default)]
pub(crate) struct Pool {
    idle: Mutex<Vec<Idle>>,
    shared: Mutex<Option<Opening>>,
}

/// Bounds of a pool and of connecting.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PoolLimits {
    pub(crate) max_idle: usize,
    pub(crate) idle_timeout: Duration,
    pub(crate) connect_timeout: Duration,
}

/// How a request goes to an endpoint.
#[derive(Clone, Copy)]
pub(crate) struct Line<'a> {
    /// Whatever the endpoint is declared with.
    pub(crate) protocol: Protocol,
    /// Over TLS.
    pub(crate) tls: Option<&'a Upstream>,
    pub(crate) limits: PoolLimits,
}

impl Line<'_> {
    fn pool(self, replica: &Replica) -> &Pool {
        if self.tls.is_some() {
            &replica.secure
        } else {
            &replica.pool
        }
    }
}

/// An attempt that brought no answer.
pub(crate) struct Broken {
    pub(crate) cause: Cause,
    pub(crate) error: String,
    /// The request, where it was not sent.
    pub(crate) unsent: Option<Box<Request<Outgoing>>>,
}

impl Pool {
    /// Closes what is idle.
    pub(crate) fn clear(&self) {
        let idle = std::mem::take(&mut *self.idle.lock());
        drop(idle);
        *self.shared.lock() = None;
    }

    /// The HTTP/2 connection, which is opened if there is none.
    fn shared(&self, replica: &Arc<Replica>, line: Line<'_>) -> Opening {
        let mut shared = self.shared.lock();
        if let Some(opening) = &*shared {
            match opening.peek() {
                None => return opening.clone(),
                Some(Ok(sender)) if !sender.is_closed() => return opening.clone(),
                Some(_) => {}
            }
        }
        let opening = open_h2(Arc::clone(replica), line.tls.cloned(), line.limits);
        let opening = opening.map_err(Arc::new).boxed().shared();
        shared.insert(opening).clone()
    }

    /// Closes connections that have been idle for too long.
    pub(crate) fn sweep(&self, limits: PoolLimits) {
        let now = Instant::now();
        self.idle.lock().retain(|idle| now - idle.since < limits.idle_timeout);
    }

    fn put(&self, link: Box<Link>, limits: PoolLimits) {
        let mut idle = self.idle.lock();
        if idle.len() < limits.max_idle {
            idle.push(Idle {
                link,
                since: Instant::now(),
            });
        }
    }

    /// An idle connection that is still open: the one used last, whose buffers are warm.
    fn take(&self, limits: PoolLimits, cx: &mut Context<'_>) -> Option<Box<Link>> {
        loop {
            let Idle { mut link, since } = self.idle.lock().pop()?;
            if since.elapsed() < limits.idle_timeout && link.is_open(cx) {
                return Some(link);
            }
        }
    }
}

impl Link {
    /// Drives the connection; afterwards it is `None` if it ended.
    fn drive(&mut self, cx: &mut Context<'_>) {
        if let Some(connection) = &mut self.connection
            && Pin::new(connection).poll(cx).is_ready()
        {
            self.connection = None;
        }
    }

    fn is_open(&mut self, cx: &mut Context<'_>) -> bool {
        self.drive(cx);
        self.connection.is_some() && matches!(self.sender.poll_ready(cx), Poll::Ready(Ok(())))
    }

    async fn send(
        &mut self,
        request: Request<Outgoing>,
    ) -> Result<Response<Incoming>, TrySendError<Request<Outgoing>>> {
        let mut answer = pin!(self.sender.try_send_request(request));
        let connection = &mut self.connection;
        poll_fn(|cx| {
            if let Some(driver) = connection
                && Pin::new(driver).poll(cx).is_ready()
            {
                // The end of the connection resolves the answer, one way or the other.
                *connection = None;
            }
            answer.as_mut().poll(cx)
        })
        .await
    }
}

/// Opens a TCP connection within the limit.
pub(crate) async fn connect(address: SocketAddr, limit: Duration) -> io::Result<TcpStream> {
    let stream = tokio::time::timeout(limit, TcpStream::connect(address))
        .await
        .map_err(|_| io::Error::new(io::ErrorKind::TimedOut, "connecting took too long"))??;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// Whether connecting failed for want of something on this side.
fn is_ours(error: &io::Error) -> bool {
    const OURS: [i32; 5] = [
        libc::EMFILE,
        libc::ENFILE,
        libc::ENOBUFS,
        libc::ENOMEM,
        libc::EADDRNOTAVAIL,
    ];
    error.raw_os_error().is_some_and(|code| OURS.contains(&code))
}

/// Opens a connection to an endpoint, with its TLS where that is asked for; each within the limit of connecting.
pub(crate) async fn reach(
    replica: &Replica,
    tls: Option<&Upstream>,
    protocol: Protocol,
    limits: PoolLimits,
) -> io::Result<Stream> {
    let stream = connect(replica.address, limits.connect_timeout).await?;
    let Some(tls) = tls else {
        return Ok(Either::Left(stream));
    };
    let shaken = tls.connect(stream, replica.tls_name(), protocol == Protocol::H2c);
    let shaken = tokio::time::timeout(limits.connect_timeout, shaken).await;
    let stream = shaken.map_err(|_| io::Error::new(io::ErrorKind::TimedOut, "the TLS handshake took too long"))??;
    Ok(Either::Right(Box::new(stream)))
}

async fn open(replica: &Replica, line: Line<'_>) -> io::Result<Box<Link>> {
    let stream = reach(replica, line.tls, Protocol::H1, line.limits).await?;
    let (sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(io::Error::other)?;
    Ok(Box::new(Link {
        sender,
        connection: Some(connection),
    }))
}

/// Sends one request to an endpoint and gives the answer's head with the wire that its body comes from.
pub(crate) async fn send(
    replica: &Arc<Replica>,
    line: Line<'_>,
    request: Request<Outgoing>,
) -> Result<Response<Wire>, Broken> {
    match line.protocol {
        Protocol::H1 => send_h1(replica, line, request).await,
        Protocol::H2c => send_h2(replica, line, request).await,
    }
}

async fn send_h1(replica: &Arc<Replica>, line: Line<'_>, request: Request<Outgoing>) -> Result<Response<Wire>, Broken> {
    let pooled = poll_fn(|cx| Poll::Ready(line.pool(replica).take(line.limits, cx))).await;
    let mut link = match pooled {
        Some(link) => link,
        None => match open(replica, line).await {
            Ok(link) => link,
            Err(error) => return Err(connect_failed(&error, request)),
        },
    };
    match link.send(request).await {
        Ok(response) => Ok(response.map(|incoming| Wire {
            incoming,
            link: Some(link),
            replica: Arc::clone(replica),
            secure: line.tls.is_some(),
            limits: line.limits,
            permit: None,
        })),
        Err(error) => Err(broken(error)),
    }
}

async fn send_h2(replica: &Arc<Replica>, line: Line<'_>, request: Request<Outgoing>) -> Result<Response<Wire>, Broken> {
    let mut sender = match line.pool(replica).shared(replica, line).await {
        Ok(sender) => sender,
        Err(error) => return Err(connect_failed(&error, request)),
    };
    if let Err(error) = sender.ready().await {
        return Err(connect_failed(&io::Error::other(error), request));
    }
    match sender.try_send_request(request).await {
        Ok(response) => Ok(response.map(|incoming| Wire {
            incoming,
            link: None,
            replica: Arc::clone(replica),
            secure: line.tls.is_some(),
            limits: line.limits,
            permit: None,
        })),
        Err(error) => Err(broken(error)),
    }
}

async fn open_h2(
    replica: Arc<Replica>,
    tls: Option<Upstream>,
    limits: PoolLimits,
) -> io::Result<http2::SendRequest<Outgoing>> {
    let stream = reach(&replica, tls.as_ref(), Protocol::H2c, limits).await?;
    // The connection may outlive the endpoint's declaration, and should not keep it.
    drop(replica);
    let (sender, connection) = http2::Builder::new(TokioExecutor::new())
        .adaptive_window(true)
        .handshake(TokioIo::new(stream))
        .await
        .map_err(io::Error::other)?;
    // Ends when the connection does or the last sender is dropped; its error reaches each request by itself.
    tokio::spawn(async move { connection.await.ok() });
    Ok(sender)
}

fn connect_failed(error: &io::Error, request: Request<Outgoing>) -> Broken {
    Broken {
        cause: if is_ours(error) {
            Cause::NoResources
        } else {
            Cause::ConnectFailed
        },
        error: error.to_string(),
        unsent: Some(Box::new(request)),
    }
}

fn broken(mut error: TrySendError<Request<Outgoing>>) -> Broken {
    let unsent = error.take_message().map(Box::new);
    Broken {
        cause: if unsent.is_some() { Cause::Unsent } else { Cause::Reset },
        error: error.error().to_string(),
        unsent,
    }
}

/// The body of an endpoint's answer. Drives its connection while it is read and hands it back to the pool at the end;
/// dropped before, it closes the connection, which tells the endpoint that nobody waits any more.
pub(crate) struct Wire {
    incoming: Incoming,
    link: Option<Box<Link>>,
    replica: Arc<Replica>,
    /// Which of its pools the connection is from.
    secure: bool,
    limits: PoolLimits,
    permit: Option<Permit>,
}

impl Wire {
    /// The place on the endpoint is given back when the body ends.
    pub(crate) fn holding(mut self, permit: Permit) -> Self {
        self.permit = Some(permit);
        self
    }

    pub(crate) fn size_hint(&self) -> SizeHint {
        self.incoming.size_hint()
    }

    pub(crate) fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let mut polled = Pin::new(&mut self.incoming).poll_frame(cx);
        if polled.is_pending() {
            let Some(link) = &mut self.link else {
                return Poll::Pending;
            };
            link.drive(cx);
            polled = Pin::new(&mut self.incoming).poll_frame(cx);
        }
        let frame = ready!(polled);
        match &frame {
            None => self.finish(),
            Some(Ok(_)) if self.incoming.is_end_stream() => self.finish(),
            Some(Ok(_)) => {}
            Some(Err(_)) => self.fail(),
        }
        Poll::Ready(frame)
    }

    /// The next frame.
    pub(crate) async fn frame(&mut self) -> Option<Result<Frame<Bytes>, hyper::Error>> {
        poll_fn(|cx| self.poll_frame(cx)).await
    }

    /// Whether there is nothing to read (any more).
    pub(crate) fn is_end_stream(&self) -> bool {
        self.incoming.is_end_stream()
    }

    /// Hands the connection back. Called at the end of the body; an answer without one needs it called.
    pub(crate) fn finish(&mut self) {
        if let Some(link) = self.link.take()
            && link.connection.is_some()
        {
            let pool = if self.secure {
                &self.replica.secure
            } else {
                &self.replica.pool
            };
            pool.put(link, self.limits);
        }
        if let Some(permit) = self.permit.take() {
            permit.release(Outcome::Answered);
        }
    }

    fn fail(&mut self) {
        self.link = None;
        self.permit = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn want_of_descriptors_is_not_blamed_on_the_endpoint() {
        for (code, ours) in [
            (libc::EMFILE, true),
            (libc::EADDRNOTAVAIL, true),
            (libc::ECONNREFUSED, false),
        ] {
            assert_eq!(is_ours(&io::Error::from_raw_os_error(code)), ours);
        }
    }
}
