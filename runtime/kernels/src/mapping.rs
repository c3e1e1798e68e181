//! Files in memory without a copy.

use std::fs::File;
use std::io;
use std::path::Path;

use std::sync::Arc;

use bytes::Bytes;
use memmap2::{Mmap, UncheckedAdvice};

/// The file's bytes. They are mapped, so that pages come in as they are read and the system can drop them again; the
/// mapping lives as long as the last slice of it. A file of no bytes is empty, a file that can't be mapped is read.
///
/// A model's files must not be changed in place while they are loaded: what is read then is undefined, and reading behind
/// the new end of a file that was cut ends the process. Whoever replaces a model writes a new file and renames it.
///
/// # Errors
/// What the system says: no such file, no permission, a directory.
pub fn map(path: &Path) -> io::Result<Bytes> {
    Mapping::new(path).map(|m| m.bytes)
}

/// A mapping that lets pages go which were read: they count as the process's memory no longer, and come back from the system's
/// cache where they are read again.
#[derive(Clone, Debug, Default)]
pub struct Mapping {
    bytes: Bytes,
    /// `None` where the file was read instead.
    pages: Option<Arc<Mmap>>,
}

/// A mapping as the owner of bytes.
struct Owner(Arc<Mmap>);

impl AsRef<[u8]> for Owner {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl Mapping {
    /// Maps a file as [`map`] does.
    ///
    /// # Errors
    /// As [`map`].
    pub fn new(path: &Path) -> io::Result<Self> {
        open(path)
    }

    /// All of the file's bytes.
    pub fn bytes(&self) -> Bytes {
        self.bytes.clone()
    }

    /// Lets the pages go that lie within `part` as a whole. Nothing happens where `part` is not a part of this mapping.
    pub fn release(&self, part: &[u8]) {
        const PAGE: usize = 1 << 16;
        let Some(pages) = &self.pages else { return };
        let (start, from) = (pages.as_ptr().addr(), part.as_ptr().addr());
        let Some(offset) = from.checked_sub(start) else { return };
        let (first, last) = (
            offset.next_multiple_of(PAGE),
            offset.saturating_add(part.len()) / PAGE * PAGE,
        );
        if offset.saturating_add(part.len()) <= pages.len() && first < last {
            // SAFETY: the mapping is of a file and never written, so that what is read again is what was read before; the
            // range lies within it, and begins at a page of any size that systems have.
            let _ = unsafe { pages.unchecked_advise_range(UncheckedAdvice::DontNeed, first, last - first) };
        }
    }
}

fn open(path: &Path) -> io::Result<Mapping> {
    let read = |path| {
        let bytes = std::fs::read(path).map(Bytes::from)?;
        Ok(Mapping { bytes, pages: None })
    };
    let file = File::open(path)?;
    let metadata = file.metadata()?;
    if metadata.is_dir() {
        return Err(io::Error::new(io::ErrorKind::IsADirectory, "it is a directory"));
    }
    // Pipes and the like have no length that could be mapped.
    if !metadata.is_file() || metadata.len() == 0 {
        return read(path);
    }
    // SAFETY: the mapping is private and only read. That nobody changes the file is the caller's promise, as documented.
    match unsafe { Mmap::map(&file) } {
        Ok(mapping) => {
            let pages = Arc::new(mapping);
            Ok(Mapping {
                bytes: Bytes::from_owner(Owner(pages.clone())),
                pages: Some(pages),
            })
        }
        Err(_) => read(path),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_that_were_let_go_are_read_again() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("weights");
        let wanted: Vec<u8> = (0..1u32 << 20).map(|k| (k % 251) as u8).collect();
        std::fs::write(&path, &wanted).unwrap();
        let mapping = Mapping::new(&path).unwrap();
        let bytes = mapping.bytes();
        mapping.release(&bytes[3..900_000]);
        // What is no part of it stays as it is.
        mapping.release(&wanted);
        assert!(bytes == wanted);
    }

    #[test]
    fn a_mapping_holds_the_files_bytes_and_outlives_its_name() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("weights");
        std::fs::write(&path, [1, 2, 3]).unwrap();
        let part = map(&path).unwrap().slice(1..);
        std::fs::remove_file(&path).unwrap();
        assert_eq!(part, [2, 3].as_slice());
        assert!(map(&path).is_err());
        assert!(map(directory.path()).is_err());
        std::fs::write(&path, []).unwrap();
        assert!(map(&path).unwrap().is_empty());
    }
}
