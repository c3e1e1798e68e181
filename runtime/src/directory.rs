//! A model repository on disk, in Triton's layout: `<model>/<version>/model.onnx`, of which the highest version counts. Without
//! versions, `<model>/model.onnx` and `<model>.onnx` are version 1.

use std::fs;
use std::path::{Path, PathBuf};

use crate::config::check_name;

/// The file's name within a version.
const FILE: &str = "model.onnx";

/// A model repository.
#[derive(Clone, Debug)]
pub struct Directory(PathBuf);

/// A model in a repository.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// Its version, a number.
    pub version: String,
    /// Its file.
    pub path: PathBuf,
}

impl Directory {
    /// The repository at this path.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self(path.into())
    }

    /// Its path.
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// The model of this name. `None` also for a name that could lead out of the repository.
    pub fn find(&self, name: &str) -> Option<Found> {
        if check_name(name).is_err() || name.starts_with('.') {
            return None;
        }
        let folder = self.0.join(name);
        let numbered = || {
            let entries = fs::read_dir(&folder).ok()?.filter_map(Result::ok);
            let version = |entry: fs::DirEntry| entry.file_name().to_str()?.parse::<u64>().ok().filter(|v| *v > 0);
            let highest = entries
                .filter(|entry| entry.path().join(FILE).is_file())
                .filter_map(version)
                .max()?;
            Some(Found {
                path: folder.join(highest.to_string()).join(FILE),
                version: highest.to_string(),
            })
        };
        let bare = |path: PathBuf| {
            let version = "1".to_owned();
            path.is_file().then_some(Found { version, path })
        };
        numbered()
            .or_else(|| bare(folder.join(FILE)))
            .or_else(|| bare(self.0.join(format!("{name}.onnx"))))
    }

    /// The names of the models there are, sorted. Empty where the repository can't be read.
    pub fn names(&self) -> Vec<String> {
        let entries = fs::read_dir(&self.0).into_iter().flatten().filter_map(Result::ok);
        let name = |entry: fs::DirEntry| {
            let name = entry.file_name().into_string().ok()?;
            let name = name.strip_suffix(".onnx").unwrap_or(&name).to_owned();
            self.find(&name).map(|_| name)
        };
        let mut names: Vec<String> = entries.filter_map(name).collect();
        names.sort();
        names.dedup();
        names
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_highest_version_counts_and_nothing_outside_is_found() {
        let dir = tempfile::tempdir().unwrap();
        let file = |path: &str| {
            let path = dir.path().join("repository").join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, "").unwrap();
        };
        for path in [
            "a/2/model.onnx",
            "a/10/model.onnx",
            "a/11/other.onnx",
            "a/0/model.onnx",
            "a/x/model.onnx",
        ] {
            file(path);
        }
        file("b/model.onnx");
        file("c.onnx");
        file("d/config.pbtxt");
        file("../outside/model.onnx");
        let repository = Directory::new(dir.path().join("repository"));
        assert_eq!(repository.names(), ["a", "b", "c"]);
        let version = |name| repository.find(name).map(|found| found.version);
        assert_eq!(version("a").as_deref(), Some("10"));
        assert_eq!(
            (version("b").as_deref(), version("c").as_deref()),
            (Some("1"), Some("1"))
        );
        for name in ["d", "..", "../outside", ".", "", "a/2"] {
            assert_eq!(repository.find(name), None, "{name}");
        }
    }
}
