//! Requests that came over TLS and go on to their endpoints over TLS, as with KEDA's interceptor.

use std::{convert::Infallible, fs, net::SocketAddr, sync::Arc};

use http::{Request, Response, StatusCode, header};
use http_body_util::BodyExt;
use hyper::{body::Incoming, service::service_fn};
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::conn::auto,
};
use pilotlight_activator::{
    Endpoint, EndpointState, Probe, Protocol, Purity, RoutePolicy,
    secure::{CertificateFiles, Tls, TlsFiles, UpstreamTrust},
};
use rustls::{
    ServerConfig,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

use crate::{
    secure::{Authority, connect},
    support::*,
};

/// An application that speaks TLS only, under this certificate. Says which version of HTTP it was asked by ALPN, and the path.
async fn application(files: &CertificateFiles) -> SocketAddr {
    let chain = CertificateDer::pem_file_iter(&files.certificate).unwrap();
    let key = PrivateKeyDer::from_pem_file(&files.key).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ServerConfig::builder_with_provider(provider);
    let builder = builder
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth();
    let mut config = builder
        .with_single_cert(chain.map(Result::unwrap).collect(), key)
        .unwrap();
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                let Ok(stream) = acceptor.accept(stream).await else {
                    return;
                };
                let protocol = stream.get_ref().1.alpn_protocol().unwrap_or_default().to_vec();
                let service = service_fn(move |request: Request<Incoming>| {
                    let protocol = String::from_utf8_lossy(&protocol).into_owned();
                    async move {
                        let scheme = request.headers()["x-forwarded-proto"].to_str().unwrap().to_owned();
                        let mut response = Response::new(full(format!("{protocol} {scheme} {}", request.uri().path())));
                        if request.headers().get(header::CONTENT_TYPE).is_some() {
                            response.headers_mut().insert("grpc-status", "0".parse().unwrap());
                        }
                        Ok::<_, Infallible>(response)
                    }
                });
                let server = auto::Builder::new(TokioExecutor::new());
                server.serve_connection(TokioIo::new(stream), service).await.ok();
            });
        }
    });
    address
}

/// The listener's own pair with the authority behind it, which makes that one trusted.
fn own(authority: &Authority) -> CertificateFiles {
    let files = authority.sign("own", "localhost");
    let chain =
        fs::read_to_string(&files.certificate).unwrap() + &fs::read_to_string(authority.path("ca.pem")).unwrap();
    fs::write(&files.certificate, chain).unwrap();
    files
}

/// A stage that serves TLS beside plain text; the address of its TLS.
async fn stage(authority: &Authority, trust: UpstreamTrust) -> (Stage, SocketAddr) {
    let policy = RoutePolicy {
        purity: Purity::Opaque,
        ..RoutePolicy::default()
    };
    let stage = Stage::new(policy).await;
    let files = TlsFiles {
        certificates: vec![own(authority)],
        upstream: Some(trust),
        ..TlsFiles::default()
    };
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (activator, tls) = (stage.activator.clone(), Tls::load(files).unwrap());
    tokio::spawn(async move { activator.serve_tls(listener, tls, CancellationToken::new()).await });
    (stage, address)
}

fn speaking(address: SocketAddr, name: &str, protocol: Protocol) -> Endpoint {
    Endpoint {
        state: EndpointState::Ready,
        probe: Probe::Declared,
        protocol,
        server_name: Some(name.into()),
        ..endpoint(address)
    }
}

/// Asks over TLS, by HTTP/1.1.
async fn ask(authority: &Authority, address: SocketAddr, grpc: bool) -> (StatusCode, String) {
    let protocol = if grpc { "h2" } else { "http/1.1" };
    let client = authority.client(None, protocol);
    let stream = TokioIo::new(connect(address, &client, "localhost").await.unwrap());
    let mut request = Request::post("https://x/serving/ns/iris/any").body(full("")).unwrap();
    let answer = if grpc {
        request
            .headers_mut()
            .insert(header::CONTENT_TYPE, "application/grpc".parse().unwrap());
        let (mut sender, driver) = hyper::client::conn::http2::handshake(TokioExecutor::new(), stream)
            .await
            .unwrap();
        tokio::spawn(driver);
        sender.send_request(request).await.unwrap()
    } else {
        *request.uri_mut() = "/serving/ns/iris/any".parse().unwrap();
        request.headers_mut().insert(header::HOST, "x".parse().unwrap());
        let (mut sender, driver) = hyper::client::conn::http1::handshake(stream).await.unwrap();
        tokio::spawn(driver);
        sender.send_request(request).await.unwrap()
    };
    let status = answer.status();
    let body = answer.into_body().collect().await.unwrap().to_bytes();
    (status, String::from_utf8_lossy(&body).into_owned())
}

/// Add-on e2e `TestTLSTermination` and `TestGRPCOverTLS`: TLS on both sides, HTTP/2 where the application or the call wants it.
#[tokio::test]
async fn add_on_a_request_over_tls_goes_on_over_tls() {
    let authority = Authority::new();
    let app = application(&authority.sign("app", "app.shop")).await;
    let (stage, address) = stage(&authority, UpstreamTrust::Verify).await;
    stage
        .activator
        .set_endpoints(&backend(), vec![speaking(app, "app.shop", Protocol::H1)]);
    for _ in 0..2 {
        let (status, body) = ask(&authority, address, false).await;
        assert_eq!((status, body.as_str()), (StatusCode::OK, "http/1.1 https /any"));
    }
    let (status, body) = ask(&authority, address, true).await;
    assert_eq!((status, body.as_str()), (StatusCode::OK, "h2 https /any"));
    stage
        .activator
        .set_endpoints(&backend(), vec![speaking(app, "app.shop", Protocol::H2c)]);
    assert_eq!(ask(&authority, address, false).await.1, "h2 https /any");
    // What came in plain text goes on in plain text, which this application does not speak.
    let answer = stage.get("/serving/ns/iris/any").await;
    assert_eq!(answer.status, StatusCode::BAD_GATEWAY);
}

/// Add-on `KEDA_HTTP_PROXY_TLS_SKIP_VERIFY`.
#[tokio::test]
async fn add_on_an_applications_certificate_is_checked_unless_that_is_off() {
    let (authority, foreign) = (Authority::new(), Authority::new());
    let named_otherwise = application(&authority.sign("app", "other.shop")).await;
    let stranger = application(&foreign.sign("app", "app.shop")).await;
    for (trust, expected) in [
        (UpstreamTrust::Verify, StatusCode::BAD_GATEWAY),
        (UpstreamTrust::Anything, StatusCode::OK),
    ] {
        let (stage, address) = stage(&authority, trust).await;
        for app in [named_otherwise, stranger] {
            stage
                .activator
                .set_endpoints(&backend(), vec![speaking(app, "app.shop", Protocol::H1)]);
            assert_eq!(ask(&authority, address, false).await.0, expected, "{trust:?}");
        }
    }
}

/// Add-on unit test `TestBuildTLSConfig_CertStorePaths`: without a certificate of its own an unknown name is not let in.
#[tokio::test]
async fn add_on_stores_are_for_their_names_only() {
    let authority = Authority::new();
    authority.sign("a", "a.example.com");
    let mut files = TlsFiles {
        stores: vec![authority.path("")],
        ..TlsFiles::default()
    };
    // The authority has no key beside it.
    assert!(Tls::load(files.clone()).is_err());
    let folder = authority.path("store");
    fs::create_dir(&folder).unwrap();
    for (from, to) in [("a.pem", "a.crt"), ("a.key", "a.key")] {
        fs::rename(authority.path(from), folder.join(to)).unwrap();
    }
    files.stores = vec![folder];
    let stage = Stage::new(RoutePolicy::default()).await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (activator, tls) = (stage.activator.clone(), Tls::load(files).unwrap());
    tokio::spawn(async move { activator.serve_tls(listener, tls, CancellationToken::new()).await });
    let client = authority.client(None, "http/1.1");
    assert!(connect(address, &client, "a.example.com").await.is_ok());
    let refused = connect(address, &client, "b.example.com").await.unwrap_err();
    assert!(refused.to_string().contains("alert"), "{refused}");
}
