//! Accepts connections, speaks HTTP/1.1 and HTTP/2 on one port, and ends in an orderly way.

use std::{convert::Infallible, io, net::SocketAddr, pin::pin, sync::Arc, time::Duration};

use futures_util::{StreamExt, stream::FuturesUnordered};
use http::{HeaderValue, StatusCode, header};
use hyper::service::service_fn;
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::conn::auto,
};
use k8s_openapi::jiff::Timestamp;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream},
    sync::Semaphore,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    access,
    activator::Inner,
    error::{Code, Failure},
    secure::{self, Tls, stall::Patient, upstream::Upstream},
    service,
};

/// After a failed accept, such as too many open files: long enough for some to be closed.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// After the drain time: for the 503s of waiting requests to be written.
const LAST_WORDS: Duration = Duration::from_millis(500);

/// The next request is to come over another connection, to another activator.
const CLOSE: HeaderValue = HeaderValue::from_static("close");

/// What requests of one connection share.
pub(crate) struct Client {
    pub(crate) inner: Arc<Inner>,
    /// The peer's address as it goes into `X-Forwarded-For`.
    pub(crate) address: HeaderValue,
    secure: bool,
    /// Over what its requests go on to endpoints, where that is TLS.
    pub(crate) upstream: Option<Upstream>,
}

impl Client {
    /// As it goes into `X-Forwarded-Proto`.
    pub(crate) fn scheme(&self) -> HeaderValue {
        HeaderValue::from_static(if self.secure { "https" } else { "http" })
    }

    fn new(inner: Arc<Inner>, peer: SocketAddr, tls: Option<&Tls>) -> Arc<Self> {
        // Text of an IP address is always a valid header value.
        let address = HeaderValue::try_from(peer.ip().to_canonical().to_string());
        Arc::new(Self {
            secure: tls.is_some(),
            upstream: tls.and_then(Tls::upstream),
            inner,
            address: address.unwrap_or(HeaderValue::from_static("unknown")),
        })
    }
}

/// Serves until `shutdown`, then drains.
pub(crate) async fn serve(
    inner: Arc<Inner>,
    listener: TcpListener,
    tls: Option<Tls>,
    shutdown: CancellationToken,
) -> io::Result<()> {
    listener.local_addr()?;
    let config = &inner.shared.config;
    let tokens = config.tokens.clone();
    tokio::spawn(secure::watch(
        tls.clone(),
        tokens,
        config.reload_interval,
        shutdown.clone(),
    ));
    let connections = TaskTracker::new();
    let cut = CancellationToken::new();
    accept(&inner, &listener, tls.as_ref(), &shutdown, &connections, &cut).await;
    inner.draining.cancel();
    // New connections are refused from here on.
    drop(listener);
    connections.close();
    if tokio::time::timeout(inner.shared.config.drain_timeout, connections.wait())
        .await
        .is_err()
    {
        inner.dismiss_all(&Failure::new(Code::ShuttingDown, "the activator is shutting down"));
        tokio::time::timeout(LAST_WORDS, connections.wait()).await.ok();
        cut.cancel();
        connections.wait().await;
    }
    Ok(())
}

async fn accept(
    inner: &Arc<Inner>,
    listener: &TcpListener,
    tls: Option<&Tls>,
    shutdown: &CancellationToken,
    connections: &TaskTracker,
    cut: &CancellationToken,
) {
    let limit = Arc::new(Semaphore::new(
        inner.shared.config.max_connections.min(Semaphore::MAX_PERMITS),
    ));
    loop {
        let next = async {
            let permit = Arc::clone(&limit).acquire_owned().await;
            (permit, listener.accept().await)
        };
        let (permit, accepted) = tokio::select! {
            () = shutdown.cancelled() => return,
            next = next => next,
        };
        match accepted {
            Ok((stream, peer)) => {
                let client = Client::new(Arc::clone(inner), peer, tls);
                let tls = tls.cloned();
                let shutdown = shutdown.clone();
                let cut = cut.clone();
                connections.spawn(async move {
                    let _permit = permit;
                    open(client, stream, tls, shutdown, cut).await;
                });
            }
            Err(error) => {
                tracing::warn!(%error, "accepting a connection failed");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// One connection, from its handshake to its end.
async fn open(
    client: Arc<Client>,
    stream: TcpStream,
    tls: Option<Tls>,
    shutdown: CancellationToken,
    cut: CancellationToken,
) {
    // Without it small answers wait for the peer's delayed acknowledgement; the connection works all the same.
    stream.set_nodelay(true).ok();
    let config = &client.inner.shared.config;
    let Some(tls) = tls else {
        return connection(client, stream, shutdown, cut).await;
    };
    let handshake = tokio::time::timeout(config.handshake_timeout, tls.acceptor().accept(stream));
    let accepted = tokio::select! {
        accepted = handshake => accepted,
        () = shutdown.cancelled() => return,
    };
    match accepted {
        // Boxed: connections in plain text should not pay for its size.
        Ok(Ok(stream)) => Box::pin(connection(client, stream, shutdown, cut)).await,
        Ok(Err(error)) => tracing::debug!(%error, "a TLS handshake failed"),
        Err(_) => tracing::debug!("a TLS handshake took too long"),
    }
}

async fn connection<S>(client: Arc<Client>, stream: S, shutdown: CancellationToken, cut: CancellationToken)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let config = &client.inner.shared.config;
    let stream = Patient::new(stream, config.write_timeout);
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(config.header_read_timeout)
        .max_headers(config.max_headers)
        .max_buf_size((config.max_header_bytes as usize).max(8 << 10));
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(config.max_streams)
        .max_header_list_size(config.max_header_bytes)
        .keep_alive_interval(config.http2_ping_interval)
        .keep_alive_timeout(config.http2_ping_interval)
        .adaptive_window(true);
    let service = service_fn(move |request| {
        let client = Arc::clone(&client);
        async move {
            let last = client.inner.is_ending() && request.version() < http::Version::HTTP_2;
            let log = client.inner.shared.config.log_requests;
            let line = log.then(|| Box::new(access::Line::new(&client, &request, Timestamp::now())));
            let mut response = service::handle(client, request).await;
            if last && response.status() != StatusCode::SWITCHING_PROTOCOLS {
                response.headers_mut().insert(header::CONNECTION, CLOSE);
            }
            Ok::<_, Infallible>(match line {
                Some(line) => line.follow(response),
                None => response,
            })
        }
    });
    let mut connection = pin!(builder.serve_connection_with_upgrades(TokioIo::new(stream), service));
    // The set polls its one future only when that was woken: polled directly, each wake-up of each connection would
    // take the one lock behind the token.
    let mut ending: FuturesUnordered<_> = std::iter::once(shutdown.cancelled_owned()).collect();
    let result = tokio::select! {
        biased;
        result = connection.as_mut() => result,
        _ = ending.next() => {
            connection.as_mut().graceful_shutdown();
            tokio::select! {
                result = connection => result,
                () = cut.cancelled() => return,
            }
        }
    };
    if let Err(error) = result {
        // A client that goes away is daily business.
        tracing::debug!(%error, "client connection ended");
    }
}
