//! Who is let in: TLS with certificates that change, client certificates, tokens, and bounds on what a client sends.

use std::{fs, net::SocketAddr, path::PathBuf, sync::Arc, time::Duration};

use bytes::Bytes;
use futures_util::{StreamExt, stream};
use http::{Method, Request, StatusCode, header};
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Frame;
use hyper_util::rt::{TokioExecutor, TokioIo};
use pilotlight_activator::{
    Config, RoutePolicy,
    secure::{CertificateFiles, Tls, TlsFiles, Tokens},
};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};
use tokio_rustls::{TlsConnector, client::TlsStream};

use crate::support::*;

/// An authority and a folder for what it signs.
pub struct Authority {
    folder: tempfile::TempDir,
    issuer: CertifiedIssuer<'static, KeyPair>,
}

impl Authority {
    pub fn new() -> Self {
        let mut params = CertificateParams::new(Vec::<String>::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("ca.pem"), issuer.pem()).unwrap();
        Self { folder, issuer }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Writes a certificate for a DNS name and its key, over the ones of this file before.
    pub fn sign(&self, file: &str, name: &str) -> CertificateFiles {
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        let files = CertificateFiles {
            certificate: self.path(&format!("{file}.pem")),
            key: self.path(&format!("{file}.key")),
        };
        fs::write(&files.certificate, certificate.pem()).unwrap();
        fs::write(&files.key, key.serialize_pem()).unwrap();
        files
    }

    /// A client that trusts this authority, with a certificate of its own or none.
    pub fn client(&self, own: Option<&CertificateFiles>, protocol: &str) -> TlsConnector {
        let mut roots = RootCertStore::empty();
        roots.add(self.issuer.der().clone()).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots);
        let mut config = match own {
            None => builder.with_no_client_auth(),
            Some(files) => {
                let chain = CertificateDer::pem_file_iter(&files.certificate).unwrap();
                let key = PrivateKeyDer::from_pem_file(&files.key).unwrap();
                builder
                    .with_client_auth_cert(chain.map(Result::unwrap).collect(), key)
                    .unwrap()
            }
        };
        config.alpn_protocols = vec![protocol.as_bytes().to_vec()];
        TlsConnector::from(Arc::new(config))
    }
}

pub async fn connect(address: SocketAddr, client: &TlsConnector, name: &str) -> std::io::Result<TlsStream<TcpStream>> {
    let stream = TcpStream::connect(address).await?;
    let name = ServerName::try_from(name.to_owned()).unwrap();
    client.connect(name, stream).await
}

/// The DNS name in the certificate that the server shows to a client that asks for `name`.
async fn shown(address: SocketAddr, authority: &Authority, name: &str, expected: &str) -> bool {
    let client = authority.client(None, "http/1.1");
    // The client accepts only what is for the name that it asks for, so asking is the test.
    match connect(address, &client, name).await {
        Ok(stream) => {
            let (_, session) = stream.get_ref();
            let leaf = session.peer_certificates().unwrap()[0].clone();
            let leaf = webpki::EndEntityCert::try_from(&leaf).unwrap();
            leaf.valid_dns_names().any(|found| found == expected)
        }
        Err(_) => false,
    }
}

/// A stage with an echoing runtime behind it.
async fn stage(change: impl FnOnce(&mut Config)) -> (Stage, Runtime) {
    let mut config = Config {
        reload_interval: Duration::from_millis(10),
        ..Config::default()
    };
    change(&mut config);
    let stage = Stage::with_waker(RoutePolicy::default(), config, Box::new(|_| Box::pin(async { Ok(()) }))).await;
    let runtime = Runtime::start(handler(|request| async move {
        let headers = request.headers().clone();
        let body = request
            .into_body()
            .collect()
            .await
            .map(http_body_util::Collected::to_bytes);
        let Ok(body) = body else { return Reply::Reset };
        let mut response = http::Response::new(full(body));
        for name in ["x-forwarded-proto", "authorization"] {
            if let Some(value) = headers.get(name) {
                response.headers_mut().insert(
                    format!("seen-{name}").parse::<http::HeaderName>().unwrap(),
                    value.clone(),
                );
            }
        }
        Reply::Answer(response)
    }))
    .await;
    stage.set(&[&runtime]);
    stage
        .until("an endpoint is ready", |stage| {
            stage.metric("activator_endpoints", "ready") >= 1.0
        })
        .await;
    (stage, runtime)
}

fn predict(body: impl Into<Bytes>) -> Request<Body> {
    Request::post("https://iris.ns.example.com/v1/models/iris:predict")
        .body(full(body))
        .unwrap()
}

#[tokio::test]
async fn tls_is_spoken_with_both_versions_of_http() {
    let authority = Authority::new();
    let tls = Tls::load(TlsFiles {
        certificates: vec![authority.sign("server", "localhost")],
        ..TlsFiles::default()
    })
    .unwrap();
    let (stage, _runtime) = stage(|config| config.tls = Some(tls)).await;

    let stream = connect(stage.address, &authority.client(None, "http/1.1"), "localhost")
        .await
        .unwrap();
    assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"http/1.1"[..]));
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
        .await
        .unwrap();
    tokio::spawn(connection);
    let answer = sender.send_request(predict("one")).await.unwrap();
    assert_eq!(answer.headers()["seen-x-forwarded-proto"], "https");
    assert_eq!(answer.into_body().collect().await.unwrap().to_bytes(), "one");

    let stream = connect(stage.address, &authority.client(None, "h2"), "localhost")
        .await
        .unwrap();
    assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
    let (mut sender, connection) = hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream))
        .await
        .unwrap();
    tokio::spawn(connection);
    let answer = sender.send_request(predict("two")).await.unwrap();
    assert_eq!(answer.into_body().collect().await.unwrap().to_bytes(), "two");
}

#[tokio::test]
async fn a_client_in_plain_text_gets_no_answer_from_tls() {
    let authority = Authority::new();
    let tls = Tls::load(TlsFiles {
        certificates: vec![authority.sign("server", "localhost")],
        ..TlsFiles::default()
    })
    .unwrap();
    let (stage, _runtime) = stage(|config| config.tls = Some(tls)).await;
    assert!(stage.infer("x").await.unwrap().is_err());
}

#[tokio::test]
async fn each_name_gets_its_certificate_and_others_the_first() {
    let authority = Authority::new();
    let certificates = vec![
        authority.sign("a", "a.example.com"),
        authority.sign("b", "b.example.com"),
        authority.sign("wild", "*.models.example.com"),
    ];
    let tls = Tls::load(TlsFiles {
        certificates,
        ..TlsFiles::default()
    })
    .unwrap();
    let (stage, _runtime) = stage(|config| config.tls = Some(tls)).await;
    for (asked, expected) in [
        ("a.example.com", "a.example.com"),
        ("b.example.com", "b.example.com"),
        ("B.EXAMPLE.COM", "b.example.com"),
        ("iris.models.example.com", "*.models.example.com"),
    ] {
        assert!(shown(stage.address, &authority, asked, expected).await, "{asked}");
    }
    // The first one is shown, which is for another name, and the client refuses it.
    assert!(!shown(stage.address, &authority, "c.example.com", "c.example.com").await);
}

#[tokio::test]
async fn changed_certificates_are_taken_up_and_broken_ones_are_not() {
    let authority = Authority::new();
    let files = authority.sign("server", "before.example.com");
    let tls = Tls::load(TlsFiles {
        certificates: vec![files.clone()],
        ..TlsFiles::default()
    })
    .unwrap();
    let (stage, _runtime) = stage(|config| config.tls = Some(tls)).await;
    assert!(shown(stage.address, &authority, "before.example.com", "before.example.com").await);
    // A key that is not the certificate's: as in the middle of an exchange.
    fs::write(&files.key, KeyPair::generate().unwrap().serialize_pem()).unwrap();
    authority.sign("other", "x");
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert!(shown(stage.address, &authority, "before.example.com", "before.example.com").await);
    authority.sign("server", "after.example.com");
    let taken_up = async {
        while !shown(stage.address, &authority, "after.example.com", "after.example.com").await {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), taken_up).await.unwrap();
}

#[tokio::test]
async fn with_client_authorities_only_their_certificates_are_let_in() {
    let (authority, foreign) = (Authority::new(), Authority::new());
    let tls = Tls::load(TlsFiles {
        certificates: vec![authority.sign("server", "localhost")],
        client_authorities: Some(authority.path("ca.pem")),
        ..TlsFiles::default()
    })
    .unwrap();
    let (stage, _runtime) = stage(|config| config.tls = Some(tls)).await;
    let own = authority.sign("client", "client");
    // With TLS 1.3 a client learns of its refusal from its first read.
    let answered = async |client: TlsConnector| {
        let mut stream = connect(stage.address, &client, "localhost").await?;
        stream.write_all(b"GET /v2/health/live HTTP/1.0\r\n\r\n").await?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await?;
        Ok::<String, std::io::Error>(answer)
    };
    let answer = answered(authority.client(Some(&own), "http/1.1")).await.unwrap();
    assert!(answer.contains("200 OK"), "{answer}");
    assert!(answered(authority.client(None, "http/1.1")).await.is_err());
    let strangers = foreign.sign("client", "client");
    assert!(answered(authority.client(Some(&strangers), "http/1.1")).await.is_err());
}

#[test]
fn faulty_files_are_named() {
    let authority = Authority::new();
    let (one, other) = (authority.sign("one", "one"), authority.sign("other", "other"));
    let load = |certificate: &PathBuf, key: &PathBuf| {
        let pair = CertificateFiles {
            certificate: certificate.clone(),
            key: key.clone(),
        };
        Tls::load(TlsFiles {
            certificates: vec![pair],
            ..TlsFiles::default()
        })
        .unwrap_err()
        .to_string()
    };
    assert!(load(&one.certificate, &other.key).contains("its key is not the one in"));
    assert!(load(&one.key, &one.key).contains("no certificate"));
    assert!(load(&one.certificate, &one.certificate).contains("no private key"));
    assert!(load(&"/nonexistent/x.pem".into(), &one.key).contains("/nonexistent/x.pem"));
    assert!(Tls::load(TlsFiles::default()).is_err());
}

#[tokio::test]
async fn without_a_right_token_nobody_is_let_in() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tokens");
    fs::write(&path, "sesame-0123456789\n").unwrap();
    let tokens = Tokens::load(&path).unwrap();
    let (stage, runtime) = stage(|config| config.tokens = Some(tokens)).await;
    for path in ["/v1/models/iris:predict", "/v2/health/live", "/nothing"] {
        let answer = stage
            .send(stage.request(Method::POST, path, "x"))
            .await
            .unwrap()
            .unwrap();
        assert_eq!(
            (answer.status, answer.reason()),
            (StatusCode::UNAUTHORIZED, "unauthenticated"),
            "{path}"
        );
        assert_eq!(answer.headers[header::WWW_AUTHENTICATE], "Bearer realm=\"pilotlight\"");
    }
    let with = |token: &str| {
        let mut request = stage.request(Method::POST, "/v1/models/iris:predict", "x");
        request
            .headers_mut()
            .insert(header::AUTHORIZATION, token.parse().unwrap());
        stage.send(request)
    };
    let answer = with("Bearer sesame-012345678").await.unwrap().unwrap();
    assert_eq!(answer.status, StatusCode::UNAUTHORIZED);
    assert_eq!(runtime.requests(), 0);
    let answer = with("Bearer sesame-0123456789").await.unwrap().unwrap();
    assert_eq!((answer.status, &answer.body[..]), (StatusCode::OK, &b"x"[..]));
    assert!(
        !answer.headers.contains_key("seen-authorization"),
        "the model must not see the token"
    );
}

#[tokio::test]
async fn a_grpc_call_without_a_token_is_unauthenticated() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tokens");
    fs::write(&path, "sesame-0123456789\n").unwrap();
    let tokens = Tokens::load(&path).unwrap();
    let (stage, _runtime) = stage(|config| config.tokens = Some(tokens)).await;
    let stream = TcpStream::connect(stage.address).await.unwrap();
    let (mut sender, connection) = hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream))
        .await
        .unwrap();
    tokio::spawn(connection);
    let request = Request::post("http://localhost/inference.GRPCInferenceService/ServerLive")
        .header(header::CONTENT_TYPE, "application/grpc")
        .body(full(&b"\0\0\0\0\0"[..]))
        .unwrap();
    let answer = sender.send_request(request).await.unwrap();
    assert_eq!(answer.headers()["grpc-status"], "16");
    assert_eq!(answer.headers()["x-pilotlight-reason"], "unauthenticated");
}

#[tokio::test]
async fn a_body_longer_than_allowed_is_refused_however_it_comes() {
    let (stage, runtime) = stage(|config| config.max_body_bytes = 1000).await;
    let answer = stage.infer(vec![b'x'; 1000]).await.unwrap().unwrap();
    assert_eq!(answer.status, StatusCode::OK);
    let answer = stage.infer(vec![b'x'; 1001]).await.unwrap().unwrap();
    assert_eq!(
        (answer.status, answer.reason()),
        (StatusCode::PAYLOAD_TOO_LARGE, "body-too-large")
    );
    // Without a length it is counted.
    let mut request = stage.request(Method::POST, "/v1/models/iris:predict", "");
    let pieces = stream::iter((0..11).map(|_| Ok(Frame::data(Bytes::from(vec![b'x'; 100])))));
    *request.body_mut() = BodyExt::boxed(StreamBody::new(pieces));
    let answer = stage.send(request).await.unwrap().unwrap();
    assert_eq!(answer.reason(), "body-too-large");
    assert_eq!(runtime.requests(), 1);
}

#[tokio::test]
async fn a_body_that_pauses_too_long_is_a_408() {
    let (stage, _runtime) = stage(|config| config.body_idle_timeout = Duration::from_millis(50)).await;
    let mut request = stage.request(Method::POST, "/v1/models/iris:predict", "");
    let pieces = stream::iter([Ok(Frame::data(Bytes::from("begins")))]).chain(stream::pending());
    *request.body_mut() = BodyExt::boxed(StreamBody::new(pieces));
    let answer = stage.send(request).await.unwrap().unwrap();
    assert_eq!(
        (answer.status, answer.reason()),
        (StatusCode::REQUEST_TIMEOUT, "request-body-timeout")
    );
}

#[tokio::test]
async fn a_head_that_is_too_large_is_a_431() {
    let (stage, _runtime) = stage(|config| config.max_header_bytes = 8 << 10).await;
    let mut request = stage.request(Method::GET, "/v2/health/live", "");
    request
        .headers_mut()
        .insert("x-large", "x".repeat(9 << 10).parse().unwrap());
    let answer = stage.send(request).await.unwrap().unwrap();
    assert_eq!(answer.status, StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE);
    let mut request = stage.request(Method::GET, "/v2/health/live", "");
    for index in 0..200 {
        let name: http::HeaderName = format!("x-{index}").parse().unwrap();
        request.headers_mut().insert(name, "x".parse().unwrap());
    }
    let answer = stage.send(request).await.unwrap().unwrap();
    assert_eq!(answer.status, StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE);
}

#[tokio::test]
async fn a_client_that_stalls_in_its_handshake_is_dropped() {
    let authority = Authority::new();
    let tls = Tls::load(TlsFiles {
        certificates: vec![authority.sign("server", "localhost")],
        ..TlsFiles::default()
    })
    .unwrap();
    let (stage, _runtime) = stage(|config| {
        config.tls = Some(tls);
        config.handshake_timeout = Duration::from_millis(50);
    })
    .await;
    let mut silent = TcpStream::connect(stage.address).await.unwrap();
    let read = tokio::time::timeout(Duration::from_secs(10), silent.read(&mut [0]))
        .await
        .unwrap();
    assert!(matches!(read, Ok(0) | Err(_)), "{read:?}");
}
