//! The TLS side of the listener.

use std::{fmt, path::PathBuf, sync::Arc};

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use rustls::{RootCertStore, ServerConfig, server::WebPkiClientVerifier};
use tokio_rustls::TlsAcceptor;

use super::{
    SecureError,
    certificates::{Certificates, read_certificates},
    files::Watched,
    profile::TlsProfile,
    stores,
    upstream::{Upstream, UpstreamTrust},
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
    /// Folders with more: `X.crt` beside `X.key`, or `X.pem` beside `X-key.pem`. Shown for their DNS names only: without
    /// [`Self::certificates`] the handshake of any other name fails.
    pub stores: Vec<PathBuf>,
    /// What of TLS is spoken.
    pub profile: TlsProfile,
    /// Requests over this TLS go on to their endpoints over TLS too, and what those endpoints have to be. `None` (the default):
    /// TLS ends here.
    pub upstream: Option<UpstreamTrust>,
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
    made: ArcSwap<Made>,
    watched: Mutex<Watched>,
}

/// What follows from the files.
struct Made {
    server: Arc<ServerConfig>,
    upstream: Option<Upstream>,
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
        let watched = watched(&files);
        let made = ArcSwap::from_pointee(make(&files)?);
        Ok(Self {
            inner: Arc::new(Inner {
                made,
                watched: Mutex::new(watched),
                files,
            }),
        })
    }

    /// For the next connection.
    pub(crate) fn acceptor(&self) -> TlsAcceptor {
        TlsAcceptor::from(Arc::clone(&self.inner.made.load().server))
    }

    /// How requests of the next connection go on to their endpoints; `None` without TLS.
    pub(crate) fn upstream(&self) -> Option<Upstream> {
        self.inner.made.load().upstream.clone()
    }

    /// Takes changed files up. Blocks for as long as reading them takes.
    pub(super) fn refresh(&self) {
        let files = &self.inner.files;
        let mut known = self.inner.watched.lock();
        // Files may have come into a folder or gone from it.
        let now = (!files.stores.is_empty()).then(|| watched(files));
        let changed = match now {
            Some(now) => {
                let changed = now != *known;
                *known = now;
                changed
            }
            None => known.changed(),
        };
        drop(known);
        if !changed {
            return;
        }
        match make(files) {
            Ok(made) => {
                self.inner.made.store(Arc::new(made));
                tracing::info!("the certificates were read again");
            }
            // Certificate and key are often written one after the other: the second change follows.
            Err(error) => tracing::warn!(%error, "the certificates changed and can't be used; the former ones stay"),
        }
    }
}

/// All files as they are now. A folder that can't be read has none; reading it for use says why.
fn watched(files: &TlsFiles) -> Watched {
    let stored = stores::pairs(&files.stores).unwrap_or_default();
    let pairs = files.certificates.iter().chain(&stored);
    let paths = pairs
        .flat_map(|pair| [&pair.certificate, &pair.key])
        .chain(&files.client_authorities);
    Watched::new(paths.map(PathBuf::as_path))
}

fn make(files: &TlsFiles) -> Result<Made, SecureError> {
    let stored = stores::pairs(&files.stores)?;
    let certificates = Certificates::read(&files.certificates, &stored)?.ok_or_else(|| SecureError::Content {
        path: files.stores.first().cloned().unwrap_or_default(),
        reason: "TLS needs a certificate and its key".to_owned(),
    })?;
    let content = |path: &PathBuf, reason: String| SecureError::Content {
        path: path.clone(),
        reason,
    };
    let pair = files.certificates.first().or(stored.first());
    let first = pair.map(|pair| pair.certificate.clone()).unwrap_or_default();
    let wrong = |error: rustls::Error| content(&first, error.to_string());
    let upstream = files
        .upstream
        .map(|trust| Upstream::new(certificates.all(), trust, &files.profile));
    let upstream = upstream.transpose().map_err(wrong)?;

    let provider = Arc::new(files.profile.provider());
    let builder = ServerConfig::builder_with_provider(Arc::clone(&provider));
    let builder = builder
        .with_protocol_versions(&files.profile.versions())
        .map_err(wrong)?;
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
    Ok(Made {
        server: Arc::new(config),
        upstream,
    })
}
