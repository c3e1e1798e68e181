//! Data that lies in files beside the model ("external data"): found, bounded and mapped.
//!
//! A model names such files, and a model is hostile input: a name may not lead out of the model's directory, by no `..`,
//! no absolute path and no link; what is read must lie within the file. A file is mapped once and its tensors share the
//! mapping until they are decoded.

use std::cell::RefCell;
use std::collections::HashMap;
use std::path::{Component, Path, PathBuf};

use bytes::Bytes;
use pilotlight_kernels::mapping::Mapping;

use crate::fault::{OpResult, bail, ensure};
use crate::onnx::StringStringEntryProto;

/// The files that a model may read.
#[derive(Default)]
pub(crate) struct Files {
    /// The model's directory; `None` where the model came as bytes.
    directory: Option<PathBuf>,
    open: RefCell<HashMap<PathBuf, Mapping>>,
    /// The model itself.
    model: Option<Mapping>,
}

impl Files {
    /// Those in the directory of a model's file.
    pub(crate) fn beside(model: &Path) -> Self {
        let directory = model
            .parent()
            .map(|d| if d.as_os_str().is_empty() { Path::new(".") } else { d });
        Self {
            directory: directory.and_then(|d| d.canonicalize().ok()),
            open: RefCell::default(),
            model: None,
        }
    }

    /// The same where the model is mapped.
    pub(crate) fn with(mut self, model: Mapping) -> Self {
        self.model = Some(model);
        self
    }

    /// Lets pages of these files go that were read into tensors: they would count as the process's memory until all is loaded.
    pub(crate) fn release(&self, part: &[u8]) {
        let open = self.open.borrow();
        for mapping in open.values().chain(&self.model) {
            mapping.release(part);
        }
    }

    /// The bytes that an initialiser's entries point to.
    pub(crate) fn read(&self, entries: &[StringStringEntryProto]) -> OpResult<Bytes> {
        let entry = |key: &str| {
            let mut found = entries.iter().filter(|e| e.key.as_deref() == Some(key));
            found.next().and_then(|e| e.value.as_deref())
        };
        let number = |key: &str| -> OpResult<Option<usize>> {
            match entry(key).map(str::parse) {
                None => Ok(None),
                Some(Ok(n)) => Ok(Some(n)),
                Some(Err(_)) => bail!("its external data has a {key} that is no number"),
            }
        };
        let Some(location) = entry("location") else {
            bail!("its data lies in another file, and it does not say in which")
        };
        let bytes = self.file(location)?;
        let offset = number("offset")?.unwrap_or(0);
        ensure!(
            offset <= bytes.len(),
            "its external data starts at byte {offset} of {location:?}, which has {}",
            bytes.len()
        );
        let length = number("length")?.unwrap_or(bytes.len() - offset);
        ensure!(
            length <= bytes.len() - offset,
            "its external data ends {length} bytes behind byte {offset} of {location:?}, which has {}",
            bytes.len()
        );
        Ok(bytes.slice(offset..offset + length))
    }

    fn file(&self, location: &str) -> OpResult<Bytes> {
        let Some(directory) = &self.directory else {
            bail!("its data lies in another file, {location:?}, and the model came without a directory")
        };
        let name = Path::new(location);
        ensure!(
            name.components()
                .all(|c| matches!(c, Component::Normal(_) | Component::CurDir)),
            "its data lies in {location:?}, which leads out of the model's directory"
        );
        // Links are followed first, so that none leads out.
        let path = match directory.join(name).canonicalize() {
            Ok(path) => path,
            Err(e) => bail!("can't read its data in {location:?}: {e}"),
        };
        ensure!(
            path.starts_with(directory) && path.is_file(),
            "its data lies in {location:?}, which is no file in the model's directory"
        );
        if let Some(bytes) = self.open.borrow().get(&path) {
            return Ok(bytes.bytes());
        }
        match Mapping::new(&path) {
            Ok(mapping) => {
                let bytes = mapping.bytes();
                self.open.borrow_mut().insert(path, mapping);
                Ok(bytes)
            }
            Err(e) => bail!("can't read its data in {location:?}: {e}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entries(location: &str, offset: Option<&str>, length: Option<&str>) -> Vec<StringStringEntryProto> {
        let entry = |key: &str, value: &str| StringStringEntryProto {
            key: Some(key.into()),
            value: Some(value.into()),
        };
        let mut out = vec![entry("location", location)];
        out.extend(offset.map(|o| entry("offset", o)));
        out.extend(length.map(|l| entry("length", l)));
        out
    }

    #[test]
    fn ranges_within_the_file_are_read_and_others_refused() {
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("w.bin"), [1, 2, 3, 4]).unwrap();
        let files = Files::beside(&directory.path().join("model.onnx"));
        let read = |offset, length| files.read(&entries("w.bin", offset, length)).map(|b| b.to_vec());
        assert_eq!(read(None, None).unwrap(), [1, 2, 3, 4]);
        assert_eq!(read(Some("1"), Some("2")).unwrap(), [2, 3]);
        assert_eq!(read(Some("4"), None).unwrap(), []);
        for (offset, length) in [("5", "0"), ("1", "4"), ("1", "18446744073709551615"), ("-1", "1")] {
            assert!(read(Some(offset), Some(length)).is_err(), "{offset} {length}");
        }
    }

    #[test]
    fn no_name_leads_out_of_the_models_directory() {
        let outer = tempfile::tempdir().unwrap();
        let directory = outer.path().join("model");
        std::fs::create_dir(&directory).unwrap();
        std::fs::write(outer.path().join("secret"), [7]).unwrap();
        std::os::unix::fs::symlink(outer.path().join("secret"), directory.join("link")).unwrap();
        let files = Files::beside(&directory.join("model.onnx"));
        let absolute = outer.path().join("secret");
        for location in ["../secret", "link", "./../secret", "", ".", absolute.to_str().unwrap()] {
            assert!(files.read(&entries(location, None, None)).is_err(), "{location:?}");
        }
        assert!(Files::default().read(&entries("w.bin", None, None)).is_err());
    }
}
