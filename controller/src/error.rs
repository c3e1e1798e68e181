//! What can go wrong, in words for the person who has to mend it.

use std::{
    io,
    path::{Path, PathBuf},
};

/// Why the controller can't start or an order can't be carried out.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The directory of manifests isn't there.
    #[error("{}: no such directory; give the directory that holds the manifests", .0.display())]
    MissingDirectory(PathBuf),
    /// The path given for the directory of manifests is something else.
    #[error("{}: not a directory; give the directory that holds the manifests", .0.display())]
    NotADirectory(PathBuf),
    /// The disk is full.
    #[error("{}: no space left on the device; nothing was changed", .0.display())]
    DiskFull(PathBuf),
    /// The state directory can't be written.
    #[error("{}: {source}; the state directory must be writable (choose another one with --state-dir)", path.display())]
    State {
        /// Which file or directory.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A directory or file can't be read.
    #[error("{}: {source}", path.display())]
    Read {
        /// Which one.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The platform can't be set up.
    #[error("{what}: {source}")]
    Platform {
        /// What was tried.
        what: String,
        /// What the system said.
        source: io::Error,
    },
    /// A metric could not be registered, as its name is taken.
    #[error("metrics: {0}")]
    Metrics(#[from] prometheus::Error),
}

impl Error {
    /// Names what failed in the state directory; a full disk is told apart.
    pub(crate) fn state(path: &Path, source: io::Error) -> Self {
        if source.kind() == io::ErrorKind::StorageFull {
            return Self::DiskFull(path.to_owned());
        }
        Self::State {
            path: path.to_owned(),
            source,
        }
    }
}
