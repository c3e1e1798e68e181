//! From a manifest's storage to a file and the digest of its content.

use std::{
    collections::HashMap,
    fs::{self, File},
    io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use parking_lot::Mutex;
use pilotlight_manifests::Storage;
use pilotlight_storage::{Fetcher, NotOne, Uri, Watch, one_file, sha256_of};

use crate::{platform::Hold, status::reason};

/// Stands for the path of what is on no disk of this machine.
const REMOTE: &str = "/nonexistent/remote";

/// What is said of a claim.
const NEEDS_KUBERNETES: &str = "pvc:// needs Kubernetes: on one machine give the model's path, or file:///PATH";

/// A model file as it is now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Model {
    /// The file to load.
    pub(crate) path: PathBuf,
    /// Hexadecimal SHA-256 of its content, or of all that was fetched with it.
    pub(crate) digest: String,
    /// Keeps it in the cache, where it was fetched.
    pub(crate) hold: Hold,
}

/// Why there is no model file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum ModelError {
    /// Nothing at this path.
    Missing(PathBuf),
    /// A directory without a model file, or with several (their names).
    NotOne(PathBuf, Vec<String>),
    /// It can't be read.
    Unreadable(PathBuf, String),
    /// A kind of storage that this platform has not; what to do instead.
    Unsupported(&'static str),
    /// It can't be fetched.
    Fetch(pilotlight_storage::Error),
    /// What was fetched from this URI is no model: why.
    Fetched(String, String),
}

impl ModelError {
    /// One of [`reason`].
    pub(crate) fn reason(&self) -> &'static str {
        match self {
            Self::Missing(_) | Self::NotOne(..) | Self::Unreadable(..) | Self::Fetched(..) => reason::MODEL_NOT_FOUND,
            Self::Fetch(pilotlight_storage::Error::NotFound { .. }) => reason::MODEL_NOT_FOUND,
            Self::Fetch(_) => reason::FETCH_FAILED,
            Self::Unsupported(_) => reason::STORAGE_UNSUPPORTED,
        }
    }

    /// The file or directory at fault; empty where there is none.
    pub(crate) fn path(&self) -> &Path {
        match self {
            Self::Missing(path) | Self::NotOne(path, _) | Self::Unreadable(path, _) => path,
            Self::Unsupported(_) => Path::new(""),
            // No file of this machine: what was fetched before is as good as it was.
            Self::Fetch(_) | Self::Fetched(..) => Path::new(REMOTE),
        }
    }

    /// For the owner of the machine: with the whole path.
    pub(crate) fn message(&self) -> String {
        match self {
            Self::Fetch(error) => error.to_string(),
            Self::Fetched(uri, error) => format!("{uri}: {error}"),
            _ => self.words(|path| path.display().to_string()),
        }
    }

    /// For clients: with the file's name only.
    pub(crate) fn public(&self) -> String {
        self.words(|path| {
            path.file_name()
                .unwrap_or(path.as_os_str())
                .to_string_lossy()
                .into_owned()
        })
    }

    fn words(&self, name: impl Fn(&Path) -> String) -> String {
        match self {
            Self::Missing(path) => format!("the model file {} does not exist", name(path)),
            Self::NotOne(path, found) if found.is_empty() => format!("no .onnx file in {}", name(path)),
            Self::NotOne(path, found) => {
                format!(
                    "{} holds several .onnx files ({}); name one of them",
                    name(path),
                    found.join(", ")
                )
            }
            Self::Unreadable(path, error) => format!("{} can't be read: {error}", name(path)),
            Self::Unsupported(why) => (*why).to_owned(),
            Self::Fetch(error) => format!("the model can't be fetched ({})", error.code()),
            Self::Fetched(_, error) => format!("what was fetched is no model: {error}"),
        }
    }
}

/// Finds model files and remembers digests of files that did not change, one per file that is asked for.
#[derive(Debug, Default)]
pub(crate) struct Models {
    known: Mutex<HashMap<PathBuf, (Stamp, String)>>,
}

/// What changes when a file's content does: device, inode, length, and the time of the last change.
type Stamp = (u64, u64, u64, i64, i64);

/// The stamps of a model's file, or of all files of its directory.
pub(crate) type FileStamp = Vec<(PathBuf, Stamp)>;

/// The path of a storage and what changes when its content does; `None` while nothing is there. Cheap: reads no content.
pub(crate) fn stamp(storage: &Storage) -> (PathBuf, Option<FileStamp>) {
    let Storage::Local(path) = storage else {
        return (PathBuf::new(), None);
    };
    let stamps = fs::metadata(path).ok().map(|meta| {
        if !meta.is_dir() {
            return vec![(path.clone(), stamp_of(&meta))];
        }
        let entries = fs::read_dir(path).into_iter().flatten().filter_map(Result::ok);
        let mut all: FileStamp = entries
            .filter_map(|entry| Some((entry.path(), stamp_of(&entry.metadata().ok()?))))
            .collect();
        all.sort();
        all
    });
    (path.clone(), stamps)
}

fn stamp_of(meta: &fs::Metadata) -> Stamp {
    (meta.dev(), meta.ino(), meta.len(), meta.mtime(), meta.mtime_nsec())
}

impl Models {
    /// The file and its digest. Blocks for as long as reading a changed file takes.
    pub(crate) fn resolve(&self, storage: &Storage) -> Result<Model, ModelError> {
        let path = locate(storage)?;
        let digest = self.digest(&path).map_err(|error| unreadable(&path, &error))?;
        let hold = Hold::default();
        Ok(Model { path, digest, hold })
    }

    /// Forgets files that nobody declares any more.
    pub(crate) fn retain(&self, declared: &[&Storage]) {
        let holds = |storage: &Storage, path: &Path| match storage {
            Storage::Local(local) => path == local || path.parent() == Some(local),
            _ => false,
        };
        self.known
            .lock()
            .retain(|path, _| declared.iter().any(|storage| holds(storage, path)));
    }

    fn digest(&self, path: &Path) -> io::Result<String> {
        let mut file = File::open(path)?;
        let stamp = stamp_of(&file.metadata()?);
        if let Some((_, digest)) = self.known.lock().get(path).filter(|(known, _)| *known == stamp) {
            return Ok(digest.clone());
        }
        let digest = sha256_of(&mut file)?;
        self.known.lock().insert(path.to_owned(), (stamp, digest.clone()));
        Ok(digest)
    }
}

fn unreadable(path: &Path, error: &io::Error) -> ModelError {
    match error.kind() {
        io::ErrorKind::NotFound => ModelError::Missing(path.to_owned()),
        _ => ModelError::Unreadable(path.to_owned(), error.to_string()),
    }
}

/// The file itself, or the one `.onnx` file of a directory.
fn locate(storage: &Storage) -> Result<PathBuf, ModelError> {
    let Storage::Local(path) = storage else {
        return Err(ModelError::Unsupported(match storage {
            Storage::Claim { .. } => NEEDS_KUBERNETES,
            _ => "remote storage needs a cache, and none was set up",
        }));
    };
    let meta = fs::metadata(path).map_err(|error| unreadable(path, &error))?;
    if !meta.is_dir() {
        return Ok(path.clone());
    }
    let entries = fs::read_dir(path).map_err(|error| unreadable(path, &error))?;
    let mut found: Vec<PathBuf> = entries
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| is_onnx(path))
        .collect();
    found.sort();
    match found.len() {
        1 => Ok(found.remove(0)),
        _ => Err(ModelError::NotOne(
            path.clone(),
            found.iter().filter_map(|path| file_name(path)).take(5).collect(),
        )),
    }
}

fn is_onnx(path: &Path) -> bool {
    path.extension()
        .is_some_and(|extension| extension.eq_ignore_ascii_case("onnx"))
        && path.is_file()
}

fn file_name(path: &Path) -> Option<String> {
    Some(path.file_name()?.to_string_lossy().into_owned())
}

/// The model at a URI, fetched where the cache has not got it.
pub(crate) async fn fetch(fetcher: &Fetcher, uri: &str, watch: Watch) -> Result<Model, ModelError> {
    let uri: Uri = uri.parse().map_err(ModelError::Fetch)?;
    let fetched = fetcher.fetch(&uri, Some(watch)).await.map_err(ModelError::Fetch)?;
    let held = fetched.clone();
    let found = tokio::task::spawn_blocking(move || one_file(held.path(), "onnx")).await;
    let found = found.unwrap_or_else(|error| Err(NotOne::Unreadable(io::Error::other(error))));
    Ok(Model {
        path: found.map_err(|error| ModelError::Fetched(uri.to_string(), error.to_string()))?,
        digest: fetched.digest().to_owned(),
        hold: Hold(Some(fetched)),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn local(path: &Path) -> Storage {
        Storage::Local(path.to_owned())
    }

    #[test]
    fn a_changed_content_changes_the_digest() {
        let directory = tempfile::tempdir().unwrap();
        let (path, models) = (directory.path().join("m.onnx"), Models::default());
        fs::write(&path, "one").unwrap();
        let first = models.resolve(&local(&path)).unwrap();
        assert_eq!(first, models.resolve(&local(&path)).unwrap());
        fs::write(&path, "other").unwrap();
        assert_ne!(first.digest, models.resolve(&local(&path)).unwrap().digest);
    }

    #[test]
    fn a_directory_stands_for_its_one_model_file() {
        let directory = tempfile::tempdir().unwrap();
        let models = Models::default();
        let none = models.resolve(&local(directory.path())).unwrap_err();
        assert!(none.public().starts_with("no .onnx file in "), "{none:?}");
        fs::write(directory.path().join("a.onnx"), "a").unwrap();
        fs::write(directory.path().join("readme.txt"), "a").unwrap();
        assert_eq!(
            models.resolve(&local(directory.path())).unwrap().path,
            directory.path().join("a.onnx")
        );
        fs::write(directory.path().join("b.onnx"), "b").unwrap();
        let several = models.resolve(&local(directory.path())).unwrap_err();
        assert!(several.message().contains("(a.onnx, b.onnx)"), "{several:?}");
    }

    #[test]
    fn clients_see_no_path_of_the_host() {
        let missing = Models::default()
            .resolve(&local(Path::new("/secret/place/m.onnx")))
            .unwrap_err();
        assert_eq!(missing.public(), "the model file m.onnx does not exist");
        assert_eq!(missing.message(), "the model file /secret/place/m.onnx does not exist");
    }
}
