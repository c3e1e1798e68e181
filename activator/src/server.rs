//! Accepts connections, speaks HTTP/1.1 and HTTP/2 on one port, and ends in an orderly way.

use std::{convert::Infallible, io, net::SocketAddr, pin::pin, sync::Arc, time::Duration};

use futures_util::{StreamExt, stream::FuturesUnordered};
use http::{HeaderValue, StatusCode, header};
use hyper::service::service_fn;
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::conn::auto,
};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::Semaphore,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    activator::Inner,
    error::{Code, Failure},
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
}

impl Client {
    fn new(inner: Arc<Inner>, peer: SocketAddr) -> Arc<Self> {
        // Text of an IP address is always a valid header value.
        let address = HeaderValue::try_from(peer.ip().to_canonical().to_string());
        Arc::new(Self {
            inner,
            address: address.unwrap_or(HeaderValue::from_static("unknown")),
        })
    }
}

/// Serves until `shutdown`, then drains.
pub(crate) async fn serve(inner: Arc<Inner>, listener: TcpListener, shutdown: CancellationToken) -> io::Result<()> {
    listener.local_addr()?;
    let connections = TaskTracker::new();
    let cut = CancellationToken::new();
    accept(&inner, &listener, &shutdown, &connections, &cut).await;
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
                let client = Client::new(Arc::clone(inner), peer);
                let shutdown = shutdown.clone();
                let cut = cut.clone();
                connections.spawn(async move {
                    let _permit = permit;
                    connection(client, stream, shutdown, cut).await;
                });
            }
            Err(error) => {
                tracing::warn!(%error, "accepting a connection failed");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

async fn connection(client: Arc<Client>, stream: TcpStream, shutdown: CancellationToken, cut: CancellationToken) {
    // Without it small answers wait for the peer's delayed acknowledgement; the connection works all the same.
    stream.set_nodelay(true).ok();
    let config = &client.inner.shared.config;
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(config.header_read_timeout);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(config.max_streams)
        .adaptive_window(true);
    let service = service_fn(move |request| {
        let client = Arc::clone(&client);
        async move {
            let last = client.inner.is_ending() && request.version() < http::Version::HTTP_2;
            let mut response = service::handle(client, request).await;
            if last && response.status() != StatusCode::SWITCHING_PROTOCOLS {
                response.headers_mut().insert(header::CONNECTION, CLOSE);
            }
            Ok::<_, Infallible>(response)
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
