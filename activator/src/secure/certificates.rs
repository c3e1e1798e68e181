//! Which certificate a client is shown: the one for the name that it asks for, else the first that was given by itself.

use std::{collections::HashMap, path::Path, sync::Arc};

use rustls::{
    crypto::ring,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
    server::{ClientHello, ResolvesServerCert},
    sign::CertifiedKey,
};

use super::{CertificateFiles, SecureError};

/// Certificates by the names in them.
#[derive(Debug)]
pub(super) struct Certificates {
    /// For all other names; `None` ends their handshake.
    first: Option<Arc<CertifiedKey>>,
    /// Every one, in the order of the files.
    all: Vec<Arc<CertifiedKey>>,
    /// In lower case; `*.example.com` is under `example.com` in the second.
    exact: HashMap<String, Arc<CertifiedKey>>,
    wild: HashMap<String, Arc<CertifiedKey>>,
}

impl Certificates {
    /// Reads all files; an error names the one at fault. Without any, none. Those of `stores` are shown for their names only.
    pub(super) fn read(all: &[CertificateFiles], stores: &[CertificateFiles]) -> Result<Option<Self>, SecureError> {
        let mut read = Self {
            first: None,
            all: Vec::new(),
            exact: HashMap::new(),
            wild: HashMap::new(),
        };
        for (index, files) in all.iter().chain(stores).enumerate() {
            let (key, names) = certified(files)?;
            if index < all.len() {
                read.first.get_or_insert_with(|| Arc::clone(&key));
            }
            for name in names {
                let (map, name) = match name.strip_prefix("*.") {
                    Some(parent) => (&mut read.wild, parent.to_owned()),
                    None => (&mut read.exact, name),
                };
                // The first one given for a name stands.
                map.entry(name).or_insert_with(|| Arc::clone(&key));
            }
            read.all.push(key);
        }
        Ok((!read.all.is_empty()).then_some(read))
    }

    /// Every one, in the order of the files.
    pub(super) fn all(&self) -> &[Arc<CertifiedKey>] {
        &self.all
    }

    fn of(&self, name: Option<&str>) -> Option<Arc<CertifiedKey>> {
        let found = name.map(str::to_ascii_lowercase).and_then(|name| {
            let wild = || self.wild.get(name.split_once('.')?.1);
            self.exact.get(&name).or_else(wild).cloned()
        });
        found.or_else(|| self.first.clone())
    }
}

impl ResolvesServerCert for Certificates {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.of(hello.server_name())
    }
}

/// A certificate with its key, and the DNS names in it.
fn certified(files: &CertificateFiles) -> Result<(Arc<CertifiedKey>, Vec<String>), SecureError> {
    let chain = read_certificates(&files.certificate)?;
    let key = PrivateKeyDer::from_pem_file(&files.key).map_err(|error| pem_error(&files.key, error, "private key"))?;
    let content = |reason: String| SecureError::Content {
        path: files.certificate.clone(),
        reason,
    };
    let names = {
        let leaf = webpki::EndEntityCert::try_from(&chain[0]).map_err(|error| content(error.to_string()))?;
        leaf.valid_dns_names().map(str::to_ascii_lowercase).collect()
    };
    let key = CertifiedKey::from_der(chain, key, &ring::default_provider()).map_err(|error| {
        content(match error {
            rustls::Error::InconsistentKeys(_) => format!("its key is not the one in {}", files.key.display()),
            error => error.to_string(),
        })
    })?;
    Ok((Arc::new(key), names))
}

/// All certificates of a PEM file; at least one.
pub(super) fn read_certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, SecureError> {
    let read = CertificateDer::pem_file_iter(path).map_err(|error| pem_error(path, error, "certificate"))?;
    let all: Result<Vec<_>, _> = read.collect();
    let all = all.map_err(|error| pem_error(path, error, "certificate"))?;
    if all.is_empty() {
        return Err(pem_error(
            path,
            rustls::pki_types::pem::Error::NoItemsFound,
            "certificate",
        ));
    }
    Ok(all)
}

fn pem_error(path: &Path, error: rustls::pki_types::pem::Error, what: &str) -> SecureError {
    use rustls::pki_types::pem::Error as Pem;
    let path = path.to_owned();
    match error {
        Pem::Io(source) => SecureError::File { path, source },
        Pem::NoItemsFound => SecureError::Content {
            path,
            reason: format!("it holds no {what} in PEM"),
        },
        error => SecureError::Content {
            path,
            reason: error.to_string(),
        },
    }
}
