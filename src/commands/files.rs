//! Manifests named on the command line.

use std::{
    fs,
    io::{self, Read as _},
    path::{Path, PathBuf},
};

use super::Failure;

/// A text of manifests and where it came from.
pub(crate) struct Manifests {
    /// As the user named it; `<stdin>` for `-`.
    pub(crate) file: PathBuf,
    /// The directory that relative paths are relative to, absolute.
    pub(crate) base: PathBuf,
    pub(crate) text: String,
}

/// Reads files, `-` (standard input), and the `*.yaml`, `*.yml` and `*.json` files of directories in the order of their names.
pub(crate) fn read(names: &[PathBuf]) -> Result<Vec<Manifests>, Failure> {
    let mut texts = Vec::new();
    for name in names {
        for file in expand(name)? {
            texts.push(read_one(&file)?);
        }
    }
    Ok(texts)
}

fn expand(name: &Path) -> Result<Vec<PathBuf>, Failure> {
    if !name.is_dir() {
        return Ok(vec![name.to_owned()]);
    }
    let entries: Result<Vec<_>, _> = fs::read_dir(name).and_then(Iterator::collect);
    let entries = entries.map_err(|error| failure(name, &error))?;
    let mut files: Vec<PathBuf> = entries
        .into_iter()
        .map(|entry| entry.path())
        .filter(|path| is_manifest(path))
        .collect();
    if files.is_empty() {
        return Err(Failure::Message(format!(
            "{} holds no *.yaml, *.yml or *.json file",
            name.display()
        )));
    }
    files.sort();
    Ok(files)
}

fn is_manifest(path: &Path) -> bool {
    path.extension()
        .is_some_and(|extension| ["yaml", "yml", "json"].iter().any(|known| extension == *known))
}

fn read_one(file: &Path) -> Result<Manifests, Failure> {
    if file == Path::new("-") {
        let mut text = String::new();
        let name = PathBuf::from("<stdin>");
        io::stdin()
            .read_to_string(&mut text)
            .map_err(|error| failure(&name, &error))?;
        let base = std::env::current_dir()?;
        return Ok(Manifests { file: name, base, text });
    }
    let text = fs::read_to_string(file).map_err(|error| failure(file, &error))?;
    let base = std::path::absolute(file)?.parent().unwrap_or(Path::new("/")).to_owned();
    Ok(Manifests {
        file: file.to_owned(),
        base,
        text,
    })
}

fn failure(file: &Path, error: &io::Error) -> Failure {
    Failure::Message(format!("{}: {error}", file.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_stands_for_its_manifests() {
        let directory = tempfile::tempdir().expect("directory");
        for name in ["b.yaml", "a.yml", "c.json", "model.onnx", "README.md"] {
            fs::write(directory.path().join(name), name).expect("file");
        }
        let texts = read(&[directory.path().to_owned()]).expect("texts");
        let names: Vec<&str> = texts.iter().map(|text| text.text.as_str()).collect();
        assert_eq!(names, ["a.yml", "b.yaml", "c.json"]);
        assert!(texts.iter().all(|text| text.base == directory.path()));
    }

    #[test]
    fn what_is_missing_is_named() {
        let error = read(&["/nowhere/iris.yaml".into()]).err().expect("error").to_string();
        assert!(error.starts_with("/nowhere/iris.yaml: No such file"), "{error}");
        let empty = tempfile::tempdir().expect("directory");
        let error = read(&[empty.path().to_owned()]).err().expect("error").to_string();
        assert!(error.ends_with("holds no *.yaml, *.yml or *.json file"), "{error}");
    }
}
