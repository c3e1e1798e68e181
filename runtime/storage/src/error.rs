//! Why nothing was fetched. No message holds a credential, a query of a URI or a server's body.

use std::path::PathBuf;

/// Why a fetch failed; what was there before is still there.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The URI says nothing that can be fetched.
    #[error("{uri}: {reason}")]
    Uri {
        /// As given, without secrets.
        uri: String,
        /// What is wrong, and the remedy.
        reason: String,
    },
    /// The store answers that there is nothing.
    #[error("{uri}: there is no such object, and nothing below it; check the address")]
    NotFound {
        /// The URI.
        uri: String,
    },
    /// The store refuses us.
    #[error("{uri}: access denied ({detail}); {remedy}")]
    Denied {
        /// The URI.
        uri: String,
        /// Status and code of the store's answer.
        detail: String,
        /// The variables that help.
        remedy: &'static str,
    },
    /// The store could not be reached, or kept failing, over all tries.
    #[error("{uri}: not reachable: {detail}; tried {tries} times")]
    Unreachable {
        /// The URI.
        uri: String,
        /// The last failure.
        detail: String,
        /// Tries in all.
        tries: u32,
    },
    /// The store's answer can't be used, and asking again would not change that.
    #[error("{uri}: {detail}")]
    Refused {
        /// The URI.
        uri: String,
        /// What it answered.
        detail: String,
    },
    /// The object was replaced while it was being fetched, several times over.
    #[error("{uri}: it changes while it is being fetched; try again when it is written")]
    Changed {
        /// The URI.
        uri: String,
    },
    /// The content is not what the URI demands.
    #[error("{uri}: the content's SHA-256 is {found}, and the URI demands {expected}; nothing was kept")]
    Checksum {
        /// The URI.
        uri: String,
        /// As in the URI.
        expected: String,
        /// As fetched.
        found: String,
    },
    /// An archive that can't be unpacked or must not be.
    #[error("{uri}: the archive was refused: {detail}")]
    Archive {
        /// The URI.
        uri: String,
        /// Which entry, and why.
        detail: String,
    },
    /// More than the cache may ever hold.
    #[error("{uri}: {bytes} bytes or more, and the cache may hold {limit}; give it more with --cache-size")]
    TooLarge {
        /// The URI.
        uri: String,
        /// What it has, at least.
        bytes: u64,
        /// The cache's limit.
        limit: u64,
    },
    /// All that is in the cache is in use.
    #[error(
        "{uri}: {bytes} bytes don't fit into the cache beside {in_use} bytes in use (limit {limit}); give it more with \
         --cache-size"
    )]
    NoRoom {
        /// The URI.
        uri: String,
        /// What it has.
        bytes: u64,
        /// What can't be evicted.
        in_use: u64,
        /// The cache's limit.
        limit: u64,
    },
    /// More objects than a model has.
    #[error("{uri}: more than {limit} objects below it; name the model's own folder")]
    TooMany {
        /// The URI.
        uri: String,
        /// Objects that are fetched at most.
        limit: usize,
    },
    /// The cache's folder can't be used.
    #[error("the cache {}: {detail}; give another folder with --cache-dir", path.display())]
    Cache {
        /// The folder or the file in it.
        path: PathBuf,
        /// What the system said.
        detail: String,
    },
}

impl Error {
    /// A stable word for the kind of failure.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Uri { .. } => "invalid-uri",
            Self::NotFound { .. } => "not-found",
            Self::Denied { .. } => "access-denied",
            Self::Unreachable { .. } => "unreachable",
            Self::Refused { .. } => "refused",
            Self::Changed { .. } => "changed",
            Self::Checksum { .. } => "checksum-mismatch",
            Self::Archive { .. } => "bad-archive",
            Self::TooLarge { .. } | Self::NoRoom { .. } => "no-room",
            Self::TooMany { .. } => "too-many-objects",
            Self::Cache { .. } => "cache-unusable",
        }
    }
}
