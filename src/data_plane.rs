//! The flags of whoever serves the data plane: TLS, tokens and bounds of the activator.

use std::{path::PathBuf, time::Duration};

use pilotlight_activator::{
    Config,
    secure::{CertificateFiles, SecureError, Tls, TlsFiles, Tokens},
};

/// TLS, tokens and bounds.
#[derive(Clone, Debug, clap::Args)]
#[command(next_help_heading = "Data plane")]
pub(crate) struct DataPlane {
    /// PEM file with a certificate chain: requests are then taken over TLS only. Several times for several host names; the
    /// first is shown where no other fits. Changed files are read again.
    #[arg(
        long,
        value_name = "FILE",
        env = "PILOTLIGHT_TLS_CERT",
        value_delimiter = ',',
        requires = "tls_key"
    )]
    pub(crate) tls_cert: Vec<PathBuf>,
    /// PEM file with the key of each --tls-cert, in their order.
    #[arg(
        long,
        value_name = "FILE",
        env = "PILOTLIGHT_TLS_KEY",
        value_delimiter = ',',
        requires = "tls_cert"
    )]
    pub(crate) tls_key: Vec<PathBuf>,
    /// PEM file with the authorities that clients' certificates must come from; clients without one are refused.
    #[arg(long, value_name = "FILE", env = "PILOTLIGHT_TLS_CLIENT_CA", requires = "tls_cert")]
    pub(crate) tls_client_ca: Option<PathBuf>,
    /// File with one bearer token a line: requests without one of them are answered 401. A changed file is read again.
    #[arg(long, value_name = "FILE", env = "PILOTLIGHT_TOKEN_FILE")]
    pub(crate) token_file: Option<PathBuf>,
    /// Longest body of a request; past it 413 body-too-large.
    #[arg(
        long,
        value_name = "BYTES",
        env = "PILOTLIGHT_MAX_BODY_BYTES",
        default_value = "1Gi",
        value_parser = pilotlight_storage::bytes_of
    )]
    pub(crate) max_body_bytes: u64,
    /// Longest head of a request; past it 431.
    #[arg(
        long,
        value_name = "BYTES",
        env = "PILOTLIGHT_MAX_HEADER_BYTES",
        default_value_t = 64 << 10,
        value_parser = clap::value_parser!(u32).range(8 << 10..)
    )]
    pub(crate) max_header_bytes: u32,
    /// Seconds that a request's body may pause; then 408 request-body-timeout.
    #[arg(
        long,
        value_name = "SECONDS",
        env = "PILOTLIGHT_BODY_TIMEOUT",
        default_value_t = 60,
        value_parser = clap::value_parser!(u64).range(1..)
    )]
    pub(crate) body_timeout: u64,
    /// Seconds that a client may take over the head of a request, idle time included; then the connection ends.
    #[arg(
        long,
        value_name = "SECONDS",
        env = "PILOTLIGHT_HEADER_TIMEOUT",
        default_value_t = 75,
        value_parser = clap::value_parser!(u64).range(1..)
    )]
    pub(crate) header_timeout: u64,
    /// Seconds that a client may leave its answer unread; then the connection ends.
    #[arg(
        long,
        value_name = "SECONDS",
        env = "PILOTLIGHT_WRITE_TIMEOUT",
        default_value_t = 60,
        value_parser = clap::value_parser!(u64).range(1..)
    )]
    pub(crate) write_timeout: u64,
    /// Connections of clients at once; more wait.
    #[arg(long, value_name = "N", env = "PILOTLIGHT_MAX_CONNECTIONS", default_value_t = 16_384)]
    pub(crate) max_connections: usize,
}

/// Why the flags can't be followed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// Certificates without keys, or the other way round.
    #[error("--tls-cert is given {0} times and --tls-key {1} times: give each certificate its key")]
    Pairs(usize, usize),
    /// A file.
    #[error("{flag}: {source}")]
    File {
        /// The flag that named it.
        flag: &'static str,
        /// What is wrong.
        source: SecureError,
    },
}

impl DataPlane {
    /// The scheme that clients use.
    pub(crate) fn scheme(&self) -> &'static str {
        if self.tls_cert.is_empty() { "http" } else { "https" }
    }

    /// The activator's settings with these flags in place. Reads the files.
    pub(crate) fn config(&self, base: Config) -> Result<Config, Error> {
        Ok(Config {
            tls: self.tls()?,
            tokens: self.tokens()?,
            max_body_bytes: self.max_body_bytes,
            max_header_bytes: self.max_header_bytes,
            body_idle_timeout: Duration::from_secs(self.body_timeout),
            header_read_timeout: Duration::from_secs(self.header_timeout),
            write_timeout: Duration::from_secs(self.write_timeout),
            max_connections: self.max_connections,
            ..base
        })
    }

    fn tls(&self) -> Result<Option<Tls>, Error> {
        let (certificates, keys) = (self.tls_cert.len(), self.tls_key.len());
        if certificates != keys {
            return Err(Error::Pairs(certificates, keys));
        }
        if certificates == 0 {
            return Ok(None);
        }
        let pairs = self.tls_cert.iter().cloned().zip(self.tls_key.iter().cloned());
        let files = TlsFiles {
            certificates: pairs
                .map(|(certificate, key)| CertificateFiles { certificate, key })
                .collect(),
            client_authorities: self.tls_client_ca.clone(),
            ..TlsFiles::default()
        };
        let file = |source| Error::File {
            flag: "--tls-cert, --tls-key, --tls-client-ca",
            source,
        };
        Tls::load(files).map(Some).map_err(file)
    }

    fn tokens(&self) -> Result<Option<Tokens>, Error> {
        let file = |source| Error::File {
            flag: "--token-file",
            source,
        };
        self.token_file.clone().map(Tokens::load).transpose().map_err(file)
    }
}
