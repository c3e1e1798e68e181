//! The TLS side of the listener.

use std::{fmt, path::PathBuf, sync::Arc};

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use rustls::{RootCertStore, ServerConfig, crypto::ring, server::WebPkiClientVerifier};
use tokio_rustls::TlsAcceptor;

use super::{
    SecureError,
    certificates::{Certificates, read_certificates},
    files::Watched,
};

/// A certificate chain and its key, both PEM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CertificateFiles {
    /// The chain, the server's own certificate first.
    pub certificate: PathBuf,
    /// The private key.
    pub key: PathBuf,
}

/// What TLS is made of.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TlsFiles {
    /// The first is shown to clients that name no host, or one that no certificate is for; the others by their DNS names,
    /// wildcards included.
    pub certificates: Vec<CertificateFiles>,
    /// PEM file of the authorities that clients' certificates have to come from. With it a client without one is refused in
    /// the handshake.
    pub client_authorities: Option<PathBuf>,
}

/// TLS for a listener, HTTP/2 and HTTP/1.1 by ALPN. Clones share it; connections made before a change of files keep theirs.
#[derive(Clone)]
pub struct Tls {
    inner: Arc<Inner>,
}

struct Inner {
    files: TlsFiles,
    config: ArcSwap<ServerConfig>,
    watched: Mutex<Watched>,
}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tls").field("files", &self.inner.files).finish()
    }
}

impl Tls {
    /// Reads the files. Fails where one is missing, where a key is not its certificate's, or where none is given.
    pub fn load(files: TlsFiles) -> Result<Self, SecureError> {
        // Before reading: a change in between is then seen as one.
        let paths = files
            .certificates
            .iter()
            .flat_map(|pair| [&pair.certificate, &pair.key])
            .chain(&files.client_authorities);
        let watched = Watched::new(paths.map(PathBuf::as_path));
        let config = ArcSwap::from(server_config(&files)?);
        Ok(Self {
            inner: Arc::new(Inner {
                config,
                watched: Mutex::new(watched),
                files,
            }),
        })
    }

    /// For the next connection.
    pub(crate) fn acceptor(&self) -> TlsAcceptor {
        TlsAcceptor::from(self.inner.config.load_full())
    }

    /// Takes changed files up. Blocks for as long as reading them takes.
    pub(super) fn refresh(&self) {
        if !self.inner.watched.lock().changed() {
            return;
        }
        match server_config(&self.inner.files) {
            Ok(config) => {
                self.inner.config.store(config);
                tracing::info!("the certificates were read again");
            }
            // Certificate and key are often written one after the other: the second change follows.
            Err(error) => tracing::warn!(%error, "the certificates changed and can't be used; the former ones stay"),
        }
    }
}

fn server_config(files: &TlsFiles) -> Result<Arc<ServerConfig>, SecureError> {
    let certificates = Certificates::read(&files.certificates)?.ok_or_else(|| SecureError::Content {
        path: PathBuf::new(),
        reason: "TLS needs a certificate and its key".to_owned(),
    })?;
    let provider = Arc::new(ring::default_provider());
    let builder = ServerConfig::builder_with_provider(Arc::clone(&provider)).with_safe_default_protocol_versions();
    let content = |path: &PathBuf, reason: String| SecureError::Content {
        path: path.clone(),
        reason,
    };
    let first = &files.certificates[0].certificate;
    let builder = builder.map_err(|error| content(first, error.to_string()))?;
    let builder = match &files.client_authorities {
        None => builder.with_no_client_auth(),
        Some(path) => {
            let mut roots = RootCertStore::empty();
            for authority in read_certificates(path)? {
                roots.add(authority).map_err(|error| content(path, error.to_string()))?;
            }
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).build();
            builder.with_client_cert_verifier(verifier.map_err(|error| content(path, error.to_string()))?)
        }
    };
    let mut config = builder.with_cert_resolver(Arc::new(certificates));
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}
