//! Files whose changes are noticed by a look at them.

use std::{
    fs,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

/// What changes when a file is written or replaced, also where a link on the way to it is.
type Stamp = Option<(u64, u64, u64, i64, i64)>;

/// Some files, and how they were at the last look.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Watched {
    files: Vec<(PathBuf, Stamp)>,
}

impl Watched {
    pub(super) fn new<'a>(paths: impl IntoIterator<Item = &'a Path>) -> Self {
        let files = paths.into_iter().map(|path| (path.to_owned(), stamp(path))).collect();
        Self { files }
    }

    /// Whether any is another than at the last look.
    pub(super) fn changed(&mut self) -> bool {
        let mut changed = false;
        for (path, before) in &mut self.files {
            let now = stamp(path);
            changed |= now != *before;
            *before = now;
        }
        changed
    }
}

fn stamp(path: &Path) -> Stamp {
    let meta = fs::metadata(path).ok()?;
    Some((meta.dev(), meta.ino(), meta.len(), meta.mtime(), meta.mtime_nsec()))
}
