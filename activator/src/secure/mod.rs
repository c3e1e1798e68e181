//! Who may speak to the data plane, and how: TLS with certificates that are read again when their files change, client
//! certificates, bearer tokens, and bounds on what a client sends. All of it is off until it is configured, but the bounds.
//!
//! | bound | what the client sees past it |
//! |---|---|
//! | [`Config::max_header_bytes`], [`Config::max_headers`] | 431 and the end of the connection; HTTP/2: the stream is refused |
//! | [`Config::header_read_timeout`] | the end of the connection |
//! | [`Config::max_body_bytes`] | 413 `body-too-large` (gRPC RESOURCE_EXHAUSTED); not for streaming calls |
//! | [`Config::body_idle_timeout`] | 408 `request-body-timeout`; not for gRPC, whose calls have deadlines |
//! | [`Config::write_timeout`] | the end of the connection |
//! | [`Config::handshake_timeout`] | the end of the connection |
//! | [`Config::max_connections`], [`Config::max_streams`] | it waits |
//!
//! [`Config::max_header_bytes`]: crate::Config::max_header_bytes
//! [`Config::max_headers`]: crate::Config::max_headers
//! [`Config::header_read_timeout`]: crate::Config::header_read_timeout
//! [`Config::max_body_bytes`]: crate::Config::max_body_bytes
//! [`Config::body_idle_timeout`]: crate::Config::body_idle_timeout
//! [`Config::write_timeout`]: crate::Config::write_timeout
//! [`Config::handshake_timeout`]: crate::Config::handshake_timeout
//! [`Config::max_connections`]: crate::Config::max_connections
//! [`Config::max_streams`]: crate::Config::max_streams

mod certificates;
mod files;
pub(crate) mod guard;
pub(crate) mod incoming;
mod profile;
pub(crate) mod stall;
mod stores;
mod tls;
mod tokens;
pub(crate) mod upstream;

pub use self::{
    profile::{ProfileError, TlsProfile, TlsVersion},
    tls::{CertificateFiles, Tls, TlsFiles},
    tokens::Tokens,
    upstream::{ClientTls, UpstreamTrust},
};

use std::{io, path::PathBuf, time::Duration};

use tokio_util::sync::CancellationToken;

/// Why the security of the data plane can't be set up as it is configured.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SecureError {
    /// A file can't be read.
    #[error("{}: {source}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A file holds something else than it should.
    #[error("{}: {reason}", path.display())]
    Content {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
}

/// Reads changed files again, every `interval`, until `shutdown`. What is wrong leaves the former in force and is logged.
pub(crate) async fn watch(tls: Option<Tls>, tokens: Option<Tokens>, interval: Duration, shutdown: CancellationToken) {
    if tls.is_none() && tokens.is_none() {
        return;
    }
    loop {
        tokio::select! {
            () = shutdown.cancelled() => return,
            () = tokio::time::sleep(interval) => {}
        }
        let (tls, tokens) = (tls.clone(), tokens.clone());
        // Disks are slow at times.
        let looked = tokio::task::spawn_blocking(move || {
            if let Some(tls) = tls {
                tls.refresh();
            }
            if let Some(tokens) = tokens {
                tokens.refresh();
            }
        });
        looked.await.ok();
    }
}
