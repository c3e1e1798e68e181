//! The one file of a kind in what was fetched.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

/// Folders within each other that are looked into.
const DEPTH: usize = 8;

/// Names of found files that a message shows.
const SHOWN: usize = 5;

/// There is not exactly one file of the kind.
#[derive(Debug, thiserror::Error)]
pub enum NotOne {
    /// None.
    #[error("no .{extension} file in it")]
    Nothing {
        /// Of the kind.
        extension: &'static str,
    },
    /// Several; the names of the first ones.
    #[error("it holds several .{extension} files ({}); name one of them", names.join(", "))]
    Several {
        /// Of the kind.
        extension: &'static str,
        /// Relative to the folder.
        names: Vec<String>,
    },
    /// It can't be read.
    #[error("it can't be read: {0}")]
    Unreadable(#[from] io::Error),
}

/// `path` itself where it is a file, else the one file with this extension (in any case) in it or in folders below. The
/// highest folder that has any decides.
pub fn one_file(path: &Path, extension: &'static str) -> Result<PathBuf, NotOne> {
    if !fs::metadata(path)?.is_dir() {
        return Ok(path.to_owned());
    }
    let mut level = vec![path.to_owned()];
    for _ in 0..DEPTH {
        let (mut found, mut below) = (Vec::new(), Vec::new());
        for folder in level {
            for entry in fs::read_dir(folder)? {
                let entry = entry?.path();
                if entry.is_dir() {
                    below.push(entry);
                } else if entry
                    .extension()
                    .is_some_and(|kind| kind.eq_ignore_ascii_case(extension))
                {
                    found.push(entry);
                }
            }
        }
        if found.len() == 1 {
            return Ok(found.remove(0));
        }
        if !found.is_empty() {
            found.sort();
            let name = |found: &PathBuf| found.strip_prefix(path).unwrap_or(found).display().to_string();
            let names = found.iter().map(name).take(SHOWN).collect();
            return Err(NotOne::Several { extension, names });
        }
        level = below;
    }
    Err(NotOne::Nothing { extension })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_highest_folder_with_a_model_decides() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path();
        assert!(matches!(one_file(root, "onnx"), Err(NotOne::Nothing { .. })));
        fs::create_dir_all(root.join("iris/1")).unwrap();
        fs::write(root.join("iris/readme.txt"), "").unwrap();
        fs::write(root.join("iris/1/model.ONNX"), "").unwrap();
        assert_eq!(one_file(root, "onnx").unwrap(), root.join("iris/1/model.ONNX"));
        fs::write(root.join("m.onnx"), "").unwrap();
        assert_eq!(one_file(root, "onnx").unwrap(), root.join("m.onnx"));
        fs::write(root.join("n.onnx"), "").unwrap();
        let error = one_file(root, "onnx").unwrap_err().to_string();
        assert!(error.contains("(m.onnx, n.onnx)"), "{error}");
        assert_eq!(one_file(&root.join("n.onnx"), "onnx").unwrap(), root.join("n.onnx"));
    }
}
