//! TLS to a collector: the files that the standard variables name, and clients that use them. gRPC brings a connector of its own,
//! so that tonic needs no TLS of its own beside the one that everything here speaks.

use std::{fs, io, sync::Arc, time::Duration};

use http::Uri;
use hyper_util::rt::TokioIo;
use rustls::{
    ClientConfig, RootCertStore,
    crypto::ring,
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject},
};
use tokio::net::TcpStream;
use tokio_rustls::{TlsConnector, client::TlsStream};
use tonic::transport::{Channel, Endpoint};

/// Of one connection with its handshake.
const CONNECT: Duration = Duration::from_secs(10);

/// PEM files that the variables name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Files {
    /// Authorities to trust besides the system's.
    pub(crate) certificate: Option<String>,
    /// Who we are, with the key beside it, where the collector asks.
    pub(crate) client: Option<(String, String)>,
}

/// What is wrong with a file, or with the client's two, of which one is missing.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Fault {
    #[error("{0}: {1}")]
    File(String, String),
    #[error(
        "a client's certificate and its key are given together: OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE, OTEL_EXPORTER_OTLP_CLIENT_KEY"
    )]
    Half,
    #[error("{0}")]
    Client(#[from] reqwest::Error),
    #[error("{0}")]
    Endpoint(#[from] tonic::transport::Error),
    #[error("{0}")]
    Tls(#[from] rustls::Error),
}

impl Files {
    /// Those of a signal, `TRACES` or `METRICS`; its own variables go before the common ones.
    pub(crate) fn of(signal: &str, variable: impl Fn(&str) -> Option<String>) -> Result<Self, Fault> {
        let get = |name: String| variable(&name).filter(|value| !value.is_empty());
        let either = |what: &str| {
            get(format!("OTEL_EXPORTER_OTLP_{signal}_{what}")).or_else(|| get(format!("OTEL_EXPORTER_OTLP_{what}")))
        };
        let client = match (either("CLIENT_CERTIFICATE"), either("CLIENT_KEY")) {
            (Some(certificate), Some(key)) => Some((certificate, key)),
            (None, None) => None,
            _ => return Err(Fault::Half),
        };
        Ok(Self {
            certificate: either("CERTIFICATE"),
            client,
        })
    }

    /// A client for OTLP over HTTP.
    pub(crate) fn http(&self) -> Result<reqwest::Client, Fault> {
        let mut http = reqwest::Client::builder();
        if let Some(path) = &self.certificate {
            let all = reqwest::Certificate::from_pem_bundle(&read(path)?).map_err(|error| wrong(path, &error))?;
            for certificate in all {
                http = http.add_root_certificate(certificate);
            }
        }
        if let Some((certificate, key)) = &self.client {
            let both = [read(certificate)?, b"\n".to_vec(), read(key)?].concat();
            http = http.identity(reqwest::Identity::from_pem(&both).map_err(|error| wrong(certificate, &error))?);
        }
        Ok(http.build()?)
    }

    /// A channel for OTLP over gRPC: with TLS for an `https` endpoint, in the clear for `http`. It connects with the first call.
    /// Needs a tokio runtime around it.
    pub(crate) fn channel(&self, endpoint: &str) -> Result<Channel, Fault> {
        let endpoint = Endpoint::from_shared(endpoint.to_owned())?;
        if endpoint.uri().scheme_str() != Some("https") {
            return Ok(endpoint.connect_lazy());
        }
        let connector = TlsConnector::from(Arc::new(self.config()?));
        let connect = tower::service_fn(move |uri: Uri| {
            let connector = connector.clone();
            async move {
                let connecting = tokio::time::timeout(CONNECT, connect(&connector, &uri));
                let stream = connecting.await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()));
                stream.map(TokioIo::new)
            }
        });
        Ok(endpoint.connect_with_connector_lazy(connect))
    }

    fn config(&self) -> Result<ClientConfig, Fault> {
        let mut roots = RootCertStore::empty();
        // A store of the system that can't be read trusts nobody; the handshake tells.
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        if let Some(path) = &self.certificate {
            for certificate in certificates(path)? {
                roots.add(certificate).map_err(|error| wrong(path, &error))?;
            }
        }
        let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots);
        let mut config = match &self.client {
            None => config.with_no_client_auth(),
            Some((certificate, key)) => {
                let private = PrivateKeyDer::from_pem_slice(&read(key)?).map_err(|error| wrong(key, &error))?;
                config.with_client_auth_cert(certificates(certificate)?, private)?
            }
        };
        config.alpn_protocols = vec![b"h2".to_vec()];
        Ok(config)
    }
}

async fn connect(connector: &TlsConnector, uri: &Uri) -> io::Result<TlsStream<TcpStream>> {
    // An address of IPv6 stands in brackets in a URI, and nowhere else.
    let host = uri.host().unwrap_or_default().trim_matches(['[', ']']);
    let name = ServerName::try_from(host.to_owned()).map_err(io::Error::other)?;
    let stream = TcpStream::connect((host, uri.port_u16().unwrap_or(443))).await?;
    stream.set_nodelay(true)?;
    connector.connect(name, stream).await
}

fn read(path: &str) -> Result<Vec<u8>, Fault> {
    fs::read(path).map_err(|error| wrong(path, &error))
}

fn certificates(path: &str) -> Result<Vec<CertificateDer<'static>>, Fault> {
    let all: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&read(path)?).collect();
    all.map_err(|error| wrong(path, &error))
}

fn wrong(path: &str, why: &dyn std::error::Error) -> Fault {
    Fault::File(path.to_owned(), why.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(signal: &str, all: &[(&str, &str)]) -> Result<Files, Fault> {
        Files::of(signal, |name| {
            let found = all.iter().find(|(known, _)| *known == name);
            found.map(|(_, value)| (*value).to_owned())
        })
    }

    #[test]
    fn a_signals_own_files_go_before_the_common_ones() {
        let all = [
            ("OTEL_EXPORTER_OTLP_CERTIFICATE", "all.pem"),
            ("OTEL_EXPORTER_OTLP_METRICS_CERTIFICATE", "metrics.pem"),
            ("OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE", "us.pem"),
            ("OTEL_EXPORTER_OTLP_CLIENT_KEY", "key.pem"),
        ];
        let client = Some(("us.pem".to_owned(), "key.pem".to_owned()));
        let certificate = |signal| of(signal, &all).unwrap().certificate.unwrap();
        assert_eq!(certificate("METRICS"), "metrics.pem");
        assert_eq!(certificate("TRACES"), "all.pem");
        assert_eq!(of("TRACES", &all).unwrap().client, client);
        assert_eq!(of("TRACES", &[]).unwrap(), Files::default());
    }

    #[test]
    fn half_of_a_clients_identity_is_refused() {
        let fault = of("TRACES", &[("OTEL_EXPORTER_OTLP_CLIENT_KEY", "key.pem")]).unwrap_err();
        assert!(fault.to_string().contains("together"), "{fault}");
    }

    #[test]
    fn a_file_that_is_not_there_is_named() {
        let files = Files {
            certificate: Some("/nowhere/ca.pem".to_owned()),
            client: None,
        };
        let said = files.http().unwrap_err().to_string();
        assert!(said.contains("/nowhere/ca.pem"), "{said}");
        let said = files.channel("https://collector:4317").unwrap_err().to_string();
        assert!(said.contains("/nowhere/ca.pem"), "{said}");
    }
}
