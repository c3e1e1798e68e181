//! Fetches models from where their manifests say that they are, into a cache on this machine.
//!
//! [`Fetcher::fetch`] takes a [`Uri`] (s3, gs, Azure's, http, https) and gives a path that stays there for as long as the
//! [`Fetched`] lives. `source` talks to the stores, `download` brings bytes, `archive` unpacks, `cache` keeps what was
//! fetched by the digest of its content, `retry` decides about another try. Knows nothing of models, but that
//! [`one_file`] finds the one file of a kind in what came.
//!
//! Several processes may share a cache: downloads of one URI take turns, what is in use is not evicted, and a process that
//! dies leaves nothing but a folder that the next one sweeps away.

mod archive;
mod cache;
mod config;
mod digest;
mod download;
mod error;
mod fetch;
mod find;
mod retry;
mod source;
mod uri;

pub use config::{Config, Environment, bytes_of, default_directory};
pub use digest::{sha256, sha256_of};
pub use error::Error;
pub use fetch::{Fetched, Fetcher, Progress, Watch};
pub use find::{NotOne, one_file};
pub use uri::Uri;

/// Makes ring the process's provider of TLS, which HTTP clients ask for. Where another one was installed, that one stays.
pub fn install_tls_provider() {
    // An error says that there is one already.
    let _ = rustls::crypto::ring::default_provider().install_default();
}
