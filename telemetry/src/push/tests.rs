use std::io::Read as _;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use axum::{Router, body::Bytes, extract::State, http::HeaderMap, routing::post};
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::conn::auto,
    service::TowerToHyperService,
};
use opentelemetry_proto::tonic::collector::metrics::v1::{
    ExportMetricsServiceResponse,
    metrics_service_server::{MetricsService, MetricsServiceServer},
};
use opentelemetry_proto::tonic::metrics::v1::{metric::Data, number_data_point::Value};
use prometheus::{IntCounter, Registry};
use tokio::{net::TcpListener, sync::mpsc};
use tokio_stream::wrappers::TcpListenerStream;

use super::*;

/// One export as it reached a collector.
struct Received {
    headers: HeaderMap,
    message: ExportMetricsServiceRequest,
}

impl Received {
    /// The one counter.
    fn count(&self) -> f64 {
        let metric = &self.message.resource_metrics[0].scope_metrics[0].metrics[0];
        assert_eq!(metric.name, "asked_total");
        match &metric.data {
            Some(Data::Sum(sum)) => match sum.data_points[0].value {
                Some(Value::AsDouble(value)) => value,
                other => panic!("{other:?}"),
            },
            other => panic!("{other:?}"),
        }
    }
}

fn destination(protocol: Protocol, endpoint: String) -> Destination {
    Destination {
        protocol,
        endpoint,
        headers: HeaderMap::from_iter([("x-key".parse().unwrap(), "secret".parse().unwrap())]),
        timeout: Duration::from_secs(10),
        interval: Duration::from_millis(20),
        gzip: protocol == Protocol::Http,
        files: tls::Files::default(),
    }
}

/// A registry with one counter, which counts how often it was asked.
fn counting() -> (Gather, Arc<AtomicU64>) {
    let registry = Registry::new();
    let counter = IntCounter::new("asked_total", "Asked.").unwrap();
    registry.register(Box::new(counter.clone())).unwrap();
    let asked = Arc::new(AtomicU64::new(0));
    let count = Arc::clone(&asked);
    let gather = Box::new(move || {
        counter.inc();
        count.fetch_add(1, Ordering::Relaxed);
        registry.gather()
    });
    (gather, asked)
}

async fn bound() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    (listener, address)
}

async fn http_collector() -> (SocketAddr, mpsc::UnboundedReceiver<Received>) {
    let (listener, address) = bound().await;
    let (sender, received) = mpsc::unbounded_channel();
    let take = async |State(sender): State<mpsc::UnboundedSender<Received>>, headers: HeaderMap, body: Bytes| {
        assert_eq!(headers["content-encoding"], "gzip");
        let mut unpacked = Vec::new();
        flate2::read::GzDecoder::new(&*body).read_to_end(&mut unpacked).unwrap();
        let message = ExportMetricsServiceRequest::decode(&*unpacked).unwrap();
        let _ = sender.send(Received { headers, message });
    };
    let router = Router::new().route("/v1/metrics", post(take)).with_state(sender);
    tokio::spawn(axum::serve(listener, router).into_future());
    (address, received)
}

struct Collector(mpsc::UnboundedSender<Received>);

#[tonic::async_trait]
impl MetricsService for Collector {
    async fn export(
        &self,
        request: tonic::Request<ExportMetricsServiceRequest>,
    ) -> Result<tonic::Response<ExportMetricsServiceResponse>, tonic::Status> {
        let headers = request.metadata().clone().into_headers();
        let message = request.into_inner();
        let _ = self.0.send(Received { headers, message });
        Ok(tonic::Response::new(ExportMetricsServiceResponse::default()))
    }
}

async fn grpc_collector() -> (SocketAddr, mpsc::UnboundedReceiver<Received>) {
    let (listener, address) = bound().await;
    let (sender, received) = mpsc::unbounded_channel();
    let server = tonic::transport::Server::builder()
        .add_service(MetricsServiceServer::new(Collector(sender)))
        .serve_with_incoming(TcpListenerStream::new(listener));
    tokio::spawn(server);
    (address, received)
}

/// A collector over TLS that answers nobody without a certificate of its authority, and the files to ask it with.
async fn secure_grpc_collector(
    folder: &std::path::Path,
) -> (SocketAddr, mpsc::UnboundedReceiver<Received>, tls::Files) {
    use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
    use rustls::{RootCertStore, ServerConfig, server::WebPkiClientVerifier};
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let key = KeyPair::generate().unwrap();
    let authority = params.self_signed(&key).unwrap();
    let issuer = Issuer::new(params, key);
    let signed = |name: &str| {
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        (params.signed_by(&key, &issuer).unwrap(), key)
    };
    let (server, server_key) = signed("127.0.0.1");
    let (client, client_key) = signed("client");

    let write = |name: &str, pem: String| {
        let path = folder.join(name);
        std::fs::write(&path, pem).unwrap();
        path.display().to_string()
    };
    let files = tls::Files {
        certificate: Some(write("ca.pem", authority.pem())),
        client: Some((
            write("client.pem", client.pem()),
            write("client.key", client_key.serialize_pem()),
        )),
    };

    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut roots = RootCertStore::empty();
    roots.add(authority.der().clone()).unwrap();
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone())
        .build()
        .unwrap();
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_client_cert_verifier(verifier)
        .with_single_cert(
            vec![server.der().clone()],
            server_key.serialize_der().try_into().unwrap(),
        )
        .unwrap();
    config.alpn_protocols = vec![b"h2".to_vec()];

    let (listener, address) = bound().await;
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
    let (sender, received) = mpsc::unbounded_channel();
    let routes = tonic::service::Routes::new(MetricsServiceServer::new(Collector(sender)));
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let (acceptor, routes) = (acceptor.clone(), TowerToHyperService::new(routes.clone()));
            tokio::spawn(async move {
                let Ok(stream) = acceptor.accept(stream).await else {
                    return;
                };
                let server = auto::Builder::new(TokioExecutor::new());
                let _ = server.serve_connection(TokioIo::new(stream), routes).await;
            });
        }
    });
    (address, received, files)
}

async fn is_sent(to: Destination, mut received: mpsc::UnboundedReceiver<Received>) {
    // Another test may have been first.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let (gather, asked) = counting();
    let resource = vec![KeyValue::new("service.name", "test")];
    let pushing = Pushing::start(to, resource, gather).unwrap();
    let first = received.recv().await.unwrap();
    assert_eq!(first.headers["x-key"], "secret");
    assert_eq!(first.count(), 1.0);
    let second = received.recv().await.unwrap();
    assert_eq!(second.count(), 2.0, "what is sent is as it stands");
    tokio::task::spawn_blocking(move || drop(pushing)).await.unwrap();
    received.close();
    let mut last = second.count();
    while let Some(received) = received.recv().await {
        last = received.count();
    }
    assert_eq!(last, asked.load(Ordering::Relaxed) as f64, "the end is sent too");
}

#[tokio::test]
async fn metrics_are_sent_at_each_interval_and_at_the_end_by_http() {
    let (address, received) = http_collector().await;
    is_sent(
        destination(Protocol::Http, format!("http://{address}/v1/metrics")),
        received,
    )
    .await;
}

#[tokio::test]
async fn metrics_are_sent_at_each_interval_and_at_the_end_by_grpc() {
    let (address, received) = grpc_collector().await;
    is_sent(destination(Protocol::Grpc, format!("http://{address}")), received).await;
}

#[tokio::test]
async fn metrics_are_sent_over_tls_to_a_collector_that_asks_for_a_certificate_by_grpc() {
    let folder = tempfile::tempdir().unwrap();
    let (address, received, files) = secure_grpc_collector(folder.path()).await;
    let to = destination(Protocol::Grpc, format!("https://{address}"));
    is_sent(Destination { files, ..to }, received).await;
}

#[tokio::test]
async fn a_collector_that_nobody_vouches_for_gets_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let (address, mut received, mut files) = secure_grpc_collector(folder.path()).await;
    files.certificate = None;
    let to = destination(Protocol::Grpc, format!("https://{address}"));
    let client = Client::new(&Destination { files, ..to }).unwrap();
    let fault = client.send(ExportMetricsServiceRequest::default()).await.unwrap_err();
    assert!(matches!(fault, Error::Grpc(_)), "{fault}");
    assert!(received.try_recv().is_err());
}

#[tokio::test]
async fn a_collector_that_comes_late_gets_everything_that_was_counted() {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let (listener, address) = bound().await;
    drop(listener);
    let (gather, asked) = counting();
    let to = destination(Protocol::Grpc, format!("http://{address}"));
    let _pushing = Pushing::start(to, Vec::new(), gather).unwrap();
    while asked.load(Ordering::Relaxed) < 2 {
        tokio::task::yield_now().await;
    }
    let (sender, mut received) = mpsc::unbounded_channel();
    let listener = TcpListener::bind(address).await.unwrap();
    let server = tonic::transport::Server::builder()
        .add_service(MetricsServiceServer::new(Collector(sender)))
        .serve_with_incoming(TcpListenerStream::new(listener));
    tokio::spawn(server);
    // The export that was under way when the collector came may be the one that gets through.
    assert!(received.recv().await.unwrap().count() >= 2.0);
}
