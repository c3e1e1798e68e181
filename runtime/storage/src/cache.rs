//! What was fetched, by the digest of its content.
//!
//! ```text
//! lock                  held while anything here changes, for moments
//! models/DIGEST/        the content
//! models/DIGEST.json    its size and kind; content without it is none
//! models/DIGEST.lock    locked (shared) by whoever uses it; its time says when that was last
//! sources/KEY.json      which digest the URI of this key had, and the store's word for that version
//! sources/KEY.lock      held while the URI of this key is fetched
//! scratch/ID/           a download on its way
//! scratch/ID.lock       held by whoever downloads; its content is the room that it reserved
//! ```
//!
//! Everything appears by a rename, so what is there is whole. All of it blocks.

use std::{
    fs::{self, File, TryLockError},
    io::{self, Write},
    path::{Path, PathBuf},
    sync::atomic::{AtomicU64, Ordering},
    time::SystemTime,
};

use serde::{Deserialize, Serialize, de::DeserializeOwned};

/// Numbers the scratch folders of this process.
static SCRATCH: AtomicU64 = AtomicU64::new(0);

/// The folder and its limit.
#[derive(Debug)]
pub(crate) struct Cache {
    directory: PathBuf,
    limit: u64,
}

/// What is known of one content.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Entry {
    /// Bytes of all its files.
    pub(crate) bytes: u64,
    /// The file's name where it is a single file; `None` for a folder.
    pub(crate) file: Option<String>,
}

/// What a URI had when it was fetched last.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Origin {
    /// Without secrets.
    pub(crate) uri: String,
    /// The store's word for the version; `None` where it has none.
    pub(crate) version: Option<String>,
    /// The content.
    pub(crate) digest: String,
    /// SHA-256 of the one object as it was sent; `None` for several.
    pub(crate) checksum: Option<String>,
}

/// A content in use: it is not evicted while this lives, by any process.
#[derive(Debug)]
pub(crate) struct Held {
    /// The file or folder.
    pub(crate) path: PathBuf,
    /// The content's digest.
    pub(crate) digest: String,
    _lock: File,
}

/// A folder for one download, gone with this.
#[derive(Debug)]
pub(crate) struct Scratch {
    /// Where the content goes.
    pub(crate) content: PathBuf,
    folder: PathBuf,
    lock_path: PathBuf,
    _lock: File,
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // What is left over the next process sweeps away.
        let _ = fs::remove_dir_all(&self.folder);
        let _ = fs::remove_file(&self.lock_path);
    }
}

/// Why there is no room.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RoomError {
    #[error("larger than the limit")]
    TooLarge,
    #[error("{in_use} bytes are in use")]
    InUse { in_use: u64 },
    #[error(transparent)]
    Io(#[from] io::Error),
}

impl Cache {
    /// Makes the folders where they are missing and sweeps away what dead processes left.
    pub(crate) fn open(directory: &Path, limit: u64) -> io::Result<Self> {
        for part in ["models", "sources", "scratch"] {
            fs::create_dir_all(directory.join(part))?;
        }
        let cache = Self {
            directory: directory.to_owned(),
            limit,
        };
        let _lock = cache.lock()?;
        cache.sweep()?;
        Ok(cache)
    }

    fn lock(&self) -> io::Result<File> {
        let file = open_lock(&self.directory.join("lock"))?;
        file.lock()?;
        Ok(file)
    }

    fn models(&self) -> PathBuf {
        self.directory.join("models")
    }

    /// Removes scratch folders without a process, and content without its description. The lock is held.
    fn sweep(&self) -> io::Result<()> {
        let scratch = self.directory.join("scratch");
        for path in entries(&scratch)? {
            if path.extension().is_some_and(|kind| kind == "lock") && is_free(&path)? {
                remove_all(&path.with_extension(""))?;
                remove(&path)?;
            }
        }
        for path in entries(&scratch)? {
            if path.is_dir() && !path.with_extension("lock").exists() {
                remove_all(&path)?;
            }
        }
        for path in entries(&self.models())? {
            if path.is_dir() && !path.with_extension("json").exists() {
                remove_all(&path)?;
            }
        }
        Ok(())
    }

    /// The lock of a URI's fetch, not yet locked.
    pub(crate) fn turn(&self, key: &str) -> io::Result<File> {
        open_lock(&self.directory.join("sources").join(format!("{key}.lock")))
    }

    /// What the URI of this key had.
    pub(crate) fn origin(&self, key: &str) -> Option<Origin> {
        read_json(&self.directory.join("sources").join(format!("{key}.json")))
    }

    /// Notes it.
    pub(crate) fn set_origin(&self, key: &str, origin: &Origin) -> io::Result<()> {
        write_json(&self.directory.join("sources").join(format!("{key}.json")), origin)
    }

    /// Takes a content into use; `None` where it is not there (any more).
    pub(crate) fn take(&self, digest: &str) -> io::Result<Option<Held>> {
        let _lock = self.lock()?;
        self.take_locked(digest)
    }

    fn take_locked(&self, digest: &str) -> io::Result<Option<Held>> {
        let folder = self.models().join(digest);
        let Some(entry) = read_json::<Entry>(&folder.with_extension("json")) else {
            return Ok(None);
        };
        let path = match &entry.file {
            Some(name) => folder.join(name),
            None => folder.clone(),
        };
        if !path.exists() {
            return Ok(None);
        }
        let lock = open_lock(&folder.with_extension("lock"))?;
        // Evictions hold the cache's lock, which is ours.
        lock.lock_shared()?;
        lock.set_modified(SystemTime::now())?;
        Ok(Some(Held {
            path,
            digest: digest.to_owned(),
            _lock: lock,
        }))
    }

    /// A folder for a download of `bytes`, with room made and reserved for it.
    pub(crate) fn scratch(&self, bytes: u64) -> Result<Scratch, RoomError> {
        let (id, parent) = (SCRATCH.fetch_add(1, Ordering::Relaxed), self.directory.join("scratch"));
        let evicted = {
            let _lock = self.lock()?;
            self.make_room(bytes)?
        };
        // Without the lock: this takes its time.
        remove_evicted(&evicted);
        let _lock = self.lock()?;
        let started = SystemTime::now()
            .duration_since(SystemTime::UNIX_EPOCH)
            .unwrap_or_default();
        let name = format!("{}-{}-{id}", std::process::id(), started.as_nanos());
        let (folder, lock_path) = (parent.join(&name), parent.join(format!("{name}.lock")));
        let mut lock = open_lock(&lock_path)?;
        lock.lock()?;
        lock.write_all(bytes.to_string().as_bytes())?;
        let content = folder.join("content");
        let scratch = Scratch {
            content: content.clone(),
            folder,
            lock_path,
            _lock: lock,
        };
        fs::create_dir_all(content)?;
        Ok(scratch)
    }

    /// Puts a download into the cache and into use.
    pub(crate) fn keep(&self, scratch: &Scratch, digest: &str, entry: &Entry) -> Result<Held, RoomError> {
        let lock = self.lock()?;
        if let Some(held) = self.take_locked(digest)? {
            return Ok(held);
        }
        // What it reserved is what it takes, or less; an unpacked archive may take more.
        let evicted = self.make_room_beside(entry.bytes, Some(&scratch.lock_path))?;
        let folder = self.models().join(digest);
        remove_all(&folder)?;
        fs::rename(&scratch.content, &folder)?;
        write_json(&folder.with_extension("json"), entry)?;
        let held = self.take_locked(digest)?;
        drop(lock);
        remove_evicted(&evicted);
        held.ok_or_else(|| io::Error::other("the content is gone").into())
    }

    fn make_room(&self, bytes: u64) -> Result<Vec<PathBuf>, RoomError> {
        self.make_room_beside(bytes, None)
    }

    /// Evicts what was not used for longest until `bytes` fit. The lock is held. Answers folders to be removed, which are
    /// out of the way already.
    fn make_room_beside(&self, bytes: u64, own: Option<&Path>) -> Result<Vec<PathBuf>, RoomError> {
        if bytes > self.limit {
            return Err(RoomError::TooLarge);
        }
        let mut total = self.reserved(own)?;
        let mut contents = Vec::new();
        for path in entries(&self.models())? {
            if path.extension().is_some_and(|kind| kind == "json")
                && let Some(entry) = read_json::<Entry>(&path)
            {
                let used = fs::metadata(path.with_extension("lock")).and_then(|meta| meta.modified());
                total += entry.bytes;
                contents.push((used.unwrap_or(SystemTime::UNIX_EPOCH), path, entry.bytes));
            }
        }
        contents.sort();
        let mut evicted = Vec::new();
        for (_, path, size) in contents {
            if total.saturating_add(bytes) <= self.limit {
                break;
            }
            if let Some(folder) = self.evict(&path)? {
                total -= size;
                evicted.push(folder);
            }
        }
        if total.saturating_add(bytes) > self.limit {
            remove_evicted(&evicted);
            return Err(RoomError::InUse { in_use: total });
        }
        Ok(evicted)
    }

    /// What downloads on their way have reserved.
    fn reserved(&self, own: Option<&Path>) -> io::Result<u64> {
        let mut total = 0;
        for path in entries(&self.directory.join("scratch"))? {
            if path.extension().is_some_and(|kind| kind == "lock") && Some(path.as_path()) != own {
                let text = fs::read_to_string(&path).unwrap_or_default();
                total += text.parse::<u64>().unwrap_or(0);
            }
        }
        Ok(total)
    }

    /// Moves a content out of the way, if nobody uses it.
    fn evict(&self, description: &Path) -> io::Result<Option<PathBuf>> {
        let lock_path = description.with_extension("lock");
        if lock_path.exists() && !is_free(&lock_path)? {
            return Ok(None);
        }
        let name = format!(
            "evicted-{}-{}",
            std::process::id(),
            SCRATCH.fetch_add(1, Ordering::Relaxed)
        );
        let away = self.directory.join("scratch").join(name);
        remove(description)?;
        match fs::rename(description.with_extension(""), &away) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        remove(&lock_path)?;
        tracing::info!(digest = ?description.file_stem(), "evicted from the cache");
        Ok(Some(away))
    }
}

fn open_lock(path: &Path) -> io::Result<File> {
    File::options()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .open(path)
}

/// Whether nobody holds this lock.
fn is_free(path: &Path) -> io::Result<bool> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(true),
        Err(error) => return Err(error),
    };
    match file.try_lock() {
        Ok(()) => Ok(true),
        Err(TryLockError::WouldBlock) => Ok(false),
        Err(TryLockError::Error(error)) => Err(error),
    }
}

fn entries(folder: &Path) -> io::Result<Vec<PathBuf>> {
    fs::read_dir(folder)?.map(|entry| Ok(entry?.path())).collect()
}

fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

fn remove_all(path: &Path) -> io::Result<()> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Best effort: a later sweep takes what is left.
fn remove_evicted(folders: &[PathBuf]) {
    for folder in folders {
        let _ = remove_all(folder);
    }
}

fn read_json<T: DeserializeOwned>(path: &Path) -> Option<T> {
    serde_json::from_slice(&fs::read(path).ok()?).ok()
}

fn write_json(path: &Path, value: &impl Serialize) -> io::Result<()> {
    let folder = path.parent().unwrap_or(path);
    let mut file = tempfile::NamedTempFile::new_in(folder)?;
    serde_json::to_writer(&mut file, value)?;
    file.as_file().sync_all()?;
    file.persist(path).map_err(|error| error.error)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cache(limit: u64) -> (tempfile::TempDir, Cache) {
        let folder = tempfile::tempdir().unwrap();
        let cache = Cache::open(folder.path(), limit).unwrap();
        (folder, cache)
    }

    fn put(cache: &Cache, digest: &str, bytes: u64) -> Result<Held, RoomError> {
        let scratch = cache.scratch(bytes)?;
        fs::write(scratch.content.join("m.onnx"), vec![0; bytes as usize]).unwrap();
        let entry = Entry {
            bytes,
            file: Some("m.onnx".to_owned()),
        };
        cache.keep(&scratch, digest, &entry)
    }

    /// Times of use that differ, whatever the file system's clock does.
    fn used_at(cache: &Cache, digest: &str, seconds: u64) {
        let lock = open_lock(&cache.models().join(digest).with_extension("lock")).unwrap();
        lock.set_modified(SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(seconds))
            .unwrap();
    }

    #[test]
    fn what_was_not_used_for_longest_makes_room() {
        let (_folder, cache) = cache(100);
        for (digest, used) in [("a", 2), ("b", 1), ("c", 3)] {
            drop(put(&cache, digest, 30).unwrap());
            used_at(&cache, digest, used);
        }
        let held = put(&cache, "d", 30).unwrap();
        assert!(held.path.is_file());
        assert!(cache.take("b").unwrap().is_none(), "b was used before the others");
        for stays in ["a", "c", "d"] {
            assert!(cache.take(stays).unwrap().is_some(), "{stays}");
        }
        assert_eq!(entries(&cache.directory.join("scratch")).unwrap(), [] as [PathBuf; 0]);
    }

    #[test]
    fn what_is_in_use_stays_whoever_uses_it() {
        let (folder, cache) = cache(100);
        let held = put(&cache, "a", 60).unwrap();
        let other = Cache::open(folder.path(), 100).unwrap();
        assert!(matches!(put(&other, "b", 60), Err(RoomError::InUse { in_use: 60 })));
        assert!(held.path.is_file());
        drop(held);
        assert!(put(&other, "b", 60).is_ok());
        assert!(cache.take("a").unwrap().is_none());
    }

    #[test]
    fn downloads_on_their_way_count() {
        let (_folder, cache) = cache(100);
        let first = cache.scratch(60).unwrap();
        assert!(matches!(cache.scratch(60), Err(RoomError::InUse { in_use: 60 })));
        drop(first);
        assert!(cache.scratch(60).is_ok());
        assert!(matches!(cache.scratch(101), Err(RoomError::TooLarge)));
    }

    #[test]
    fn what_a_dead_process_left_is_swept_away() {
        let (folder, cache) = cache(100);
        let scratch = cache.scratch(60).unwrap();
        // Another look while it lives leaves it alone.
        drop(Cache::open(folder.path(), 100).unwrap());
        assert!(scratch.content.is_dir());
        let dead = folder.path().join("scratch/1-1-1");
        fs::create_dir_all(dead.join("content")).unwrap();
        fs::write(dead.with_extension("lock"), "60").unwrap();
        fs::create_dir_all(cache.models().join("half")).unwrap();
        drop(Cache::open(folder.path(), 100).unwrap());
        assert!(!dead.exists() && !dead.with_extension("lock").exists() && !cache.models().join("half").exists());
        assert!(scratch.content.is_dir());
    }

    #[test]
    fn the_same_content_is_kept_once() {
        let (_folder, cache) = cache(100);
        let (first, second) = (put(&cache, "a", 40).unwrap(), put(&cache, "a", 40).unwrap());
        assert_eq!(first.path, second.path);
    }
}
