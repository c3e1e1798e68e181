//! TLS towards endpoints, for requests that came over it: as KEDA's interceptor does, with its own certificates as those of a
//! client and among the authorities that are trusted.

use std::sync::Arc;

use rustls::{
    ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme,
    client::{
        ResolvesClientCert,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    },
    crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature},
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime, pem::PemObject},
    sign::CertifiedKey,
};
use tokio::net::TcpStream;
use tokio_rustls::{TlsConnector, client::TlsStream};

use super::{SecureError, profile::TlsProfile};

/// What an endpoint's certificate has to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UpstreamTrust {
    /// For the endpoint's name, from an authority of the system or from what is in the listener's own certificate files.
    Verify,
    /// Anything.
    Anything,
}

/// Opens TLS to endpoints. A cheap handle.
#[derive(Clone)]
pub(crate) struct Upstream {
    h1: Arc<ClientConfig>,
    h2: Arc<ClientConfig>,
}

impl Upstream {
    /// `own` are the certificates of the listener.
    pub(super) fn new(
        own: &[Arc<CertifiedKey>],
        trust: UpstreamTrust,
        profile: &TlsProfile,
    ) -> Result<Self, rustls::Error> {
        let provider = Arc::new(profile.provider());
        let builder = ClientConfig::builder_with_provider(Arc::clone(&provider));
        let builder = builder.with_protocol_versions(&profile.versions())?;
        let builder = match trust {
            UpstreamTrust::Verify => builder.with_root_certificates(roots(own)),
            UpstreamTrust::Anything => builder
                .dangerous()
                .with_custom_certificate_verifier(Arc::new(Anything(provider))),
        };
        let mut h1 = builder.with_client_cert_resolver(Arc::new(Own(own.to_vec())));
        let mut h2 = h1.clone();
        h1.alpn_protocols = vec![b"http/1.1".to_vec()];
        h2.alpn_protocols = vec![b"h2".to_vec()];
        Ok(Self {
            h1: Arc::new(h1),
            h2: Arc::new(h2),
        })
    }

    /// Makes TLS of a connection, for HTTP/2 or HTTP/1.1.
    pub(crate) async fn connect(
        &self,
        stream: TcpStream,
        name: ServerName<'static>,
        http2: bool,
    ) -> std::io::Result<TlsStream<TcpStream>> {
        let config = if http2 { &self.h2 } else { &self.h1 };
        TlsConnector::from(Arc::clone(config)).connect(name, stream).await
    }
}

/// TLS of a client of another kind: authorities and a certificate as texts in PEM.
#[derive(Clone, Copy, Default)]
pub struct ClientTls<'a> {
    /// Authorities of the server's certificate. `None`: the system's.
    pub authorities: Option<&'a str>,
    /// A certificate chain of the client's own, and its key.
    pub identity: Option<(&'a str, &'a str)>,
    /// Any certificate of the server will do.
    pub anything: bool,
}

impl ClientTls<'_> {
    /// What rustls makes of it; without protocols by ALPN.
    ///
    /// # Errors
    /// Where a text is not what it should be, or the key is not the certificate's.
    pub fn config(&self) -> Result<ClientConfig, SecureError> {
        let provider = Arc::new(ring::default_provider());
        let content = |what: &str, reason: String| SecureError::Content {
            path: what.into(),
            reason,
        };
        let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .map_err(|error| content("TLS", error.to_string()))?;
        let builder = if self.anything {
            builder
                .dangerous()
                .with_custom_certificate_verifier(Arc::new(Anything(provider)))
        } else {
            builder.with_root_certificates(self.roots()?)
        };
        let Some((certificate, key)) = self.identity else {
            return Ok(builder.with_no_client_auth());
        };
        let wrong = |error: &dyn std::fmt::Display| content("the client's certificate", error.to_string());
        let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(certificate.as_bytes()).collect();
        let chain = chain.map_err(|error| wrong(&error))?;
        let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).map_err(|error| wrong(&error))?;
        builder.with_client_auth_cert(chain, key).map_err(|error| wrong(&error))
    }

    fn roots(&self) -> Result<RootCertStore, SecureError> {
        let Some(text) = self.authorities else {
            return Ok(roots(&[]));
        };
        let mut roots = RootCertStore::empty();
        let authorities = CertificateDer::pem_slice_iter(text.as_bytes()).filter_map(Result::ok);
        let (added, _) = roots.add_parsable_certificates(authorities);
        if added == 0 {
            return Err(SecureError::Content {
                path: "the authorities".into(),
                reason: "there is no certificate in PEM".to_owned(),
            });
        }
        Ok(roots)
    }
}

/// The system's authorities and the own certificates. What can't be used is passed over: without any nobody is trusted.
fn roots(own: &[Arc<CertifiedKey>]) -> RootCertStore {
    let mut roots = RootCertStore::empty();
    let system = rustls_native_certs::load_native_certs();
    if let Some(error) = system.errors.first() {
        tracing::debug!(%error, "not all authorities of the system can be read");
    }
    roots.add_parsable_certificates(system.certs);
    let own = own.iter().flat_map(|key| &key.cert).cloned();
    roots.add_parsable_certificates(own);
    roots
}

/// The own certificates as a client's: the first whose key can sign as the endpoint wants it.
#[derive(Debug)]
struct Own(Vec<Arc<CertifiedKey>>);

impl ResolvesClientCert for Own {
    fn resolve(&self, _: &[&[u8]], schemes: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        let fits = |key: &&Arc<CertifiedKey>| key.key.choose_scheme(schemes).is_some();
        self.0.iter().find(fits).cloned()
    }

    fn has_certs(&self) -> bool {
        !self.0.is_empty()
    }
}

/// Takes every certificate; that the other side has its key is still checked.
#[derive(Debug)]
struct Anything(Arc<CryptoProvider>);

impl ServerCertVerifier for Anything {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, certificate, signed, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signed, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
