//! Files in memory without a copy.

use std::fs::File;
use std::io;
use std::path::Path;

use bytes::Bytes;
use memmap2::Mmap;

/// The file's bytes. They are mapped, so that pages come in as they are read and the system can drop them again; the
/// mapping lives as long as the last slice of it. A file of no bytes is empty, a file that can't be mapped is read.
///
/// A model's files must not be changed in place while they are loaded: what is read then is undefined, and reading behind
/// the new end of a file that was cut ends the process. Whoever replaces a model writes a new file and renames it.
///
/// # Errors
/// What the system says: no such file, no permission, a directory.
pub fn map(path: &Path) -> io::Result<Bytes> {
    let file = File::open(path)?;
    let metadata = file.metadata()?;
    if metadata.is_dir() {
        return Err(io::Error::new(io::ErrorKind::IsADirectory, "it is a directory"));
    }
    // Pipes and the like have no length that could be mapped.
    if !metadata.is_file() || metadata.len() == 0 {
        return std::fs::read(path).map(Bytes::from);
    }
    // SAFETY: the mapping is private and only read. That nobody changes the file is the caller's promise, as documented.
    match unsafe { Mmap::map(&file) } {
        Ok(mapping) => Ok(Bytes::from_owner(mapping)),
        Err(_) => std::fs::read(path).map(Bytes::from),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
