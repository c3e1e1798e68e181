//! Bearer tokens (RFC 6750) out of a file.

use std::{
    fmt, fs,
    path::{Path, PathBuf},
    sync::Arc,
};

use arc_swap::ArcSwap;
use http::{HeaderMap, header};
use parking_lot::Mutex;
use sha2::{Digest, Sha256};

use super::{SecureError, files::Watched};

/// Shorter ones could be guessed.
const SHORTEST: usize = 16;

type Hash = [u8; 32];

/// The tokens that are let in. Clones share them. Only their hashes are in memory.
#[derive(Clone)]
pub struct Tokens {
    inner: Arc<Inner>,
}

struct Inner {
    path: PathBuf,
    hashes: ArcSwap<Vec<Hash>>,
    watched: Mutex<Watched>,
}

impl fmt::Debug for Tokens {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tokens")
            .field("path", &self.inner.path)
            .finish_non_exhaustive()
    }
}

/// Why a request is not let in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Denied {
    /// It brings no token.
    Missing,
    /// It brings another one.
    Wrong,
}

impl Tokens {
    /// Reads a file with one token a line; empty lines and lines that begin with `#` don't count. Fails where there is none,
    /// or one is shorter than 16 characters or no visible ASCII.
    pub fn load(path: impl Into<PathBuf>) -> Result<Self, SecureError> {
        let path = path.into();
        let watched = Watched::new([path.as_path()]);
        let hashes = ArcSwap::from_pointee(read(&path)?);
        Ok(Self {
            inner: Arc::new(Inner {
                hashes,
                watched: Mutex::new(watched),
                path,
            }),
        })
    }

    /// Takes a changed file up. Blocks for as long as reading it takes.
    pub(super) fn refresh(&self) {
        if !self.inner.watched.lock().changed() {
            return;
        }
        match read(&self.inner.path) {
            Ok(hashes) => {
                self.inner.hashes.store(Arc::new(hashes));
                tracing::info!("the tokens were read again");
            }
            Err(error) => tracing::warn!(%error, "the tokens changed and can't be used; the former ones stay"),
        }
    }

    /// Whether `Authorization: Bearer TOKEN` names one of them. Takes as long whichever it is, and however much of it is
    /// right.
    pub(crate) fn check(&self, headers: &HeaderMap) -> Result<(), Denied> {
        let value = headers.get(header::AUTHORIZATION).ok_or(Denied::Missing)?;
        let (scheme, token) = value
            .to_str()
            .ok()
            .and_then(|text| text.split_once(' '))
            .ok_or(Denied::Wrong)?;
        if !scheme.eq_ignore_ascii_case("bearer") {
            return Err(Denied::Wrong);
        }
        let hash = hash(token.trim());
        let known = self.inner.hashes.load();
        let found = known.iter().fold(false, |found, known| found | same(known, &hash));
        if found { Ok(()) } else { Err(Denied::Wrong) }
    }
}

/// Looks at every byte, whatever the first ones are.
fn same(a: &Hash, b: &Hash) -> bool {
    std::hint::black_box(a.iter().zip(b).fold(0, |all, (a, b)| all | (a ^ b))) == 0
}

fn hash(token: &str) -> Hash {
    Sha256::digest(token.as_bytes()).into()
}

fn read(path: &Path) -> Result<Vec<Hash>, SecureError> {
    let text = fs::read_to_string(path).map_err(|source| SecureError::File {
        path: path.to_owned(),
        source,
    })?;
    let wrong = |reason: String| SecureError::Content {
        path: path.to_owned(),
        reason,
    };
    let mut hashes = Vec::new();
    for (index, line) in text.lines().enumerate() {
        let token = line.trim();
        if token.is_empty() || token.starts_with('#') {
            continue;
        }
        if token.len() < SHORTEST || !token.bytes().all(|byte| byte.is_ascii_graphic()) {
            let line = index + 1;
            return Err(wrong(format!(
                "line {line}: a token is at least {SHORTEST} visible ASCII characters"
            )));
        }
        hashes.push(hash(token));
    }
    if hashes.is_empty() {
        return Err(wrong("it holds no token: write one a line".to_owned()));
    }
    Ok(hashes)
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn headers(value: &'static str) -> HeaderMap {
        HeaderMap::from_iter([(header::AUTHORIZATION, HeaderValue::from_static(value))])
    }

    #[test]
    fn one_of_the_tokens_of_the_file_is_let_in() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("tokens");
        fs::write(&path, "# alice\nalice-0123456789\n\n  bob-0123456789ab  \n").unwrap();
        let tokens = Tokens::load(&path).unwrap();
        for good in [
            "Bearer alice-0123456789",
            "bearer bob-0123456789ab",
            "BEARER  alice-0123456789 ",
        ] {
            assert_eq!(tokens.check(&headers(good)), Ok(()), "{good}");
        }
        for bad in [
            "Bearer alice-012345678",
            "Bearer alice-01234567890",
            "Bearer # alice",
            "Bearer ",
            "Basic alice-0123456789",
            "alice-0123456789",
        ] {
            assert_eq!(tokens.check(&headers(bad)), Err(Denied::Wrong), "{bad}");
        }
        assert_eq!(tokens.check(&HeaderMap::new()), Err(Denied::Missing));
        assert!(!format!("{tokens:?}").contains("0123"));
    }

    #[test]
    fn a_changed_file_counts_and_a_broken_one_does_not() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("tokens");
        fs::write(&path, "first-0123456789\n").unwrap();
        let tokens = Tokens::load(&path).unwrap();
        fs::write(&path, "the-second-0123456789\n").unwrap();
        tokens.refresh();
        assert_eq!(tokens.check(&headers("Bearer first-0123456789")), Err(Denied::Wrong));
        assert_eq!(tokens.check(&headers("Bearer the-second-0123456789")), Ok(()));
        fs::write(&path, "short\n").unwrap();
        tokens.refresh();
        assert_eq!(tokens.check(&headers("Bearer the-second-0123456789")), Ok(()));
    }

    #[test]
    fn a_file_that_lets_anybody_in_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("tokens");
        for (content, part) in [
            ("", "no token"),
            ("# only\n", "no token"),
            ("x\n", "line 1"),
            ("a b c d e f g h i j\n", "line 1"),
        ] {
            fs::write(&path, content).unwrap();
            let error = Tokens::load(&path).unwrap_err().to_string();
            assert!(error.contains(part), "{content:?}: {error}");
        }
        assert!(Tokens::load("/nonexistent/tokens").is_err());
    }
}
