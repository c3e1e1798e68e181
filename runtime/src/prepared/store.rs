//! Where preparations are kept.
//!
//! `<folder>/<model>/<program, device, driver, precision>.json` says what was prepared, `<folder>/kernels/<program, device,
//! driver>/` has the kernels, `<folder>/digests/` the digests of files, so that a wake reads none of them whole. Everything may be
//! deleted at any time.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Read as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use pilotlight_cuda::Choices;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::key::{Key, hex};

/// A lock of this age belongs to nobody: CubeCL holds one for milliseconds and waits for one 30 seconds at most.
const STALE: Duration = Duration::from_mins(1);

/// Folders below a folder of kernels that are looked at for locks.
const DEPTH: usize = 6;

/// What was prepared of one model.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Record {
    pub(crate) key: Key,
    /// For each size of a batch what its runs took.
    pub(crate) rungs: BTreeMap<usize, Rung>,
    /// The kernels that were the fastest.
    pub(crate) choices: Choices,
}

/// One size of a batch.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Rung {
    /// The first run, which compiles, in milliseconds.
    pub(crate) first_ms: f64,
    /// The median of the runs after it.
    pub(crate) then_ms: f64,
}

/// The store.
#[derive(Clone, Debug)]
pub(crate) struct Store {
    folder: PathBuf,
}

impl Store {
    pub(crate) fn new(folder: impl Into<PathBuf>) -> Self {
        Self { folder: folder.into() }
    }

    /// The kernels' folder, without the locks that killed processes left.
    ///
    /// # Errors
    /// Where it can't be made.
    pub(crate) fn kernels(&self, key: &Key, now: SystemTime) -> io::Result<PathBuf> {
        let folder = self.folder.join("kernels").join(key.kernels());
        fs::create_dir_all(&folder)?;
        let removed = remove_stale_locks(&folder, now, DEPTH)?;
        if removed > 0 {
            tracing::info!(folder = %folder.display(), removed, "removed locks that nobody holds");
        }
        Ok(folder)
    }

    /// What was prepared for exactly this; `None` for nothing, and for what can't be read.
    pub(crate) fn find(&self, key: &Key) -> Option<Record> {
        let text = fs::read(self.path(key)).ok()?;
        let record: Record = serde_json::from_slice(&text).ok()?;
        (record.key == *key).then_some(record)
    }

    /// Keeps a record, in one step, and removes those that it takes the place of.
    ///
    /// # Errors
    /// Where the folder can't be written to.
    pub(crate) fn keep(&self, record: &Record) -> io::Result<()> {
        write_whole(&self.path(&record.key), &serde_json::to_vec_pretty(record)?)?;
        for entry in fs::read_dir(self.folder.join(record.key.folder()))? {
            let path = entry?.path();
            let old = fs::read(&path)
                .ok()
                .and_then(|text| serde_json::from_slice::<Record>(&text).ok());
            if old.is_some_and(|old| record.key.supersedes(&old.key)) {
                fs::remove_file(path)?;
            }
        }
        Ok(())
    }

    /// The SHA-256 of a file in hex. Of one that has not changed since (place, size and time of change are the same) the digest that
    /// was computed then; a wake must not read it all.
    ///
    /// # Errors
    /// Where the file can't be read. Not being able to keep the digest is none.
    pub(crate) fn digest(&self, file: &Path) -> io::Result<String> {
        let meta = fs::metadata(file)?;
        let name = format!(
            "{:x}-{:x}-{:x}-{:x}-{:x}",
            meta.dev(),
            meta.ino(),
            meta.size(),
            meta.mtime(),
            meta.mtime_nsec()
        );
        let kept = self.folder.join("digests").join(name);
        if let Ok(text) = fs::read_to_string(&kept)
            && text.len() == 64
        {
            return Ok(text);
        }
        let digest = sha256(file)?;
        if let Err(error) = write_whole(&kept, digest.as_bytes()) {
            tracing::debug!(%error, "the digest is computed again next time");
        }
        Ok(digest)
    }

    fn path(&self, key: &Key) -> PathBuf {
        self.folder.join(key.folder()).join(key.file())
    }
}

fn sha256(file: &Path) -> io::Result<String> {
    let (mut file, mut hasher) = (File::open(file)?, Sha256::new());
    let mut buffer = vec![0; 1 << 20];
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok(hex(&hasher.finalize())),
            n => hasher.update(&buffer[..n]),
        }
    }
}

/// Readers see all of it or nothing.
fn write_whole(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let folder = path.parent().unwrap_or(Path::new("."));
    fs::create_dir_all(folder)?;
    let part = path.with_extension(format!("{}.part", std::process::id()));
    fs::write(&part, bytes)?;
    fs::rename(part, path)
}

/// Removes `*.lock` of an age that no holder has.
fn remove_stale_locks(folder: &Path, now: SystemTime, depth: usize) -> io::Result<usize> {
    let mut removed = 0;
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let (path, meta) = (entry.path(), entry.metadata()?);
        if meta.is_dir() && depth > 0 {
            removed += remove_stale_locks(&path, now, depth - 1)?;
        } else if path.extension().is_some_and(|e| e == "lock") && is_stale(meta.modified()?, now) {
            fs::remove_file(path)?;
            removed += 1;
        }
    }
    Ok(removed)
}

fn is_stale(modified: SystemTime, now: SystemTime) -> bool {
    now.duration_since(modified).is_ok_and(|age| age >= STALE)
}

#[cfg(test)]
mod tests {
    use super::super::key::sample;
    use super::*;

    fn record(key: Key) -> Record {
        let rung = Rung {
            first_ms: 900.0,
            then_ms: 1.5,
        };
        Record {
            key,
            rungs: BTreeMap::from([(1, rung), (2, rung)]),
            choices: Choices::default(),
        }
    }

    #[test]
    fn a_record_is_found_by_its_whole_key_and_by_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::new(folder.path());
        assert_eq!(store.find(&sample()), None);
        store.keep(&record(sample())).unwrap();
        assert_eq!(store.find(&sample()), Some(record(sample())));
        let other = Key {
            driver: "600".into(),
            ..sample()
        };
        assert_eq!(store.find(&other), None);
    }

    #[test]
    fn a_record_under_a_wrong_name_or_half_written_is_not_taken() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::new(folder.path());
        let mut other = record(sample());
        store.keep(&other).unwrap();
        other.key.build = "f".repeat(64);
        fs::write(store.path(&sample()), serde_json::to_vec(&other).unwrap()).unwrap();
        assert_eq!(store.find(&sample()), None);
        fs::write(store.path(&sample()), "{\"key\":").unwrap();
        assert_eq!(store.find(&sample()), None);
    }

    #[test]
    fn keeping_a_record_removes_those_of_older_programs_and_drivers() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::new(folder.path());
        let with = |change: &dyn Fn(&mut Key)| {
            let mut key = sample();
            change(&mut key);
            key
        };
        let (old, beside) = (
            with(&|k| k.build = "0".repeat(64)),
            with(&|k| k.precision = "f32".into()),
        );
        for key in [&old, &beside, &sample()] {
            store.keep(&record(key.clone())).unwrap();
        }
        assert!(store.find(&old).is_none());
        assert!(store.find(&beside).is_some() && store.find(&sample()).is_some());
    }

    #[test]
    fn locks_that_a_killed_process_left_are_removed_and_fresh_ones_stay() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::new(folder.path());
        let kernels = store.kernels(&sample(), SystemTime::now()).unwrap();
        let deep = kernels.join("cuda/0.10.0/ptx");
        fs::create_dir_all(&deep).unwrap();
        for name in ["toc.json.lock", "toc.json.log"] {
            fs::write(deep.join(name), "").unwrap();
        }
        store.kernels(&sample(), SystemTime::now()).unwrap();
        assert!(deep.join("toc.json.lock").exists(), "it may be held");
        store.kernels(&sample(), SystemTime::now() + 2 * STALE).unwrap();
        assert!(!deep.join("toc.json.lock").exists());
        assert!(deep.join("toc.json.log").exists());
    }

    #[test]
    fn a_digest_is_computed_once_and_again_when_the_file_changes() {
        let folder = tempfile::tempdir().unwrap();
        let (store, file) = (
            Store::new(folder.path().join("store")),
            folder.path().join("model.onnx"),
        );
        fs::write(&file, "abc").unwrap();
        let abc = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert_eq!(store.digest(&file).unwrap(), abc);
        let kept: Vec<_> = fs::read_dir(folder.path().join("store/digests")).unwrap().collect();
        assert_eq!(kept.len(), 1);
        fs::write(kept[0].as_ref().unwrap().path(), "0".repeat(64)).unwrap();
        assert_eq!(
            store.digest(&file).unwrap(),
            "0".repeat(64),
            "it was not computed again"
        );
        fs::write(&file, "abcd").unwrap();
        assert_ne!(store.digest(&file).unwrap(), "0".repeat(64));
    }
}
