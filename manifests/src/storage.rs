//! `storageUri`: what is supported, and the path that it stands for.

use std::path::{Component, Path, PathBuf};

use crate::{Fault, Storage};

/// Schemes that KServe takes and we do not yet.
const KSERVE_SCHEMES: [&str; 12] = [
    "gs",
    "s3",
    "pvc",
    "https",
    "http",
    "hdfs",
    "webhdfs",
    "oci",
    "oci+native",
    "oci+fetch",
    "hf",
    "modelscope",
];
const ALLOWED: &str = "allowed are `file:///absolute/path` and a path, relative to the manifest's file";

/// Where `uri` points, relative paths being relative to `base`. The error is the message of the fault.
pub(crate) fn resolve(uri: &str, base: &Path) -> Result<Storage, String> {
    let found = Fault::quote(uri);
    if uri.trim().is_empty() {
        return Err(format!("found {found}, {ALLOWED}"));
    }
    let Some((scheme, rest)) = uri.split_once("://") else {
        return Ok(Storage::Local(absolute(&base.join(uri))));
    };
    match scheme {
        "file" if rest.starts_with('/') => Ok(Storage::Local(absolute(Path::new(rest)))),
        "file" => Err(format!(
            "found {found}, and `file://` needs an absolute path, three slashes in all: write `file:///{rest}`, or \
             `{rest}` for a path relative to the manifest's file"
        )),
        _ if KSERVE_SCHEMES.contains(&scheme) => Err(format!(
            "found {found}, and {scheme}:// is not supported yet: {ALLOWED}"
        )),
        _ => Err(format!("found {found}, and there is no scheme {scheme}://: {ALLOWED}")),
    }
}

/// `uri` made absolute against `base` where it is a relative path; `None` where it is to stay.
pub(crate) fn absolute_uri(uri: &str, base: &Path) -> Option<String> {
    if uri.trim().is_empty() || uri.contains("://") || Path::new(uri).is_absolute() {
        return None;
    }
    Some(absolute(&base.join(uri)).to_str()?.to_owned())
}

/// The path from the root, `.` and `..` resolved in its text alone: links are not followed, nothing is read but the
/// process's working directory, and that only for a relative path.
fn absolute(path: &Path) -> PathBuf {
    let path = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    let mut clean = PathBuf::new();
    for component in path.components() {
        match component {
            Component::ParentDir => {
                clean.pop();
            }
            Component::CurDir => {}
            other => clean.push(other),
        }
    }
    clean
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_become_absolute_and_clean() {
        let base = Path::new("/srv/models");
        for (uri, path) in [
            ("iris.onnx", "/srv/models/iris.onnx"),
            ("./a/../iris.onnx", "/srv/models/iris.onnx"),
            ("../other/x.onnx", "/srv/other/x.onnx"),
            ("/abs/x.onnx", "/abs/x.onnx"),
            ("file:///abs/x.onnx", "/abs/x.onnx"),
        ] {
            assert_eq!(resolve(uri, base), Ok(Storage::Local(path.into())), "{uri}");
        }
    }

    #[test]
    fn only_relative_paths_are_rewritten() {
        let base = Path::new("/srv");
        assert_eq!(absolute_uri("m.onnx", base).as_deref(), Some("/srv/m.onnx"));
        assert_eq!(absolute_uri("/m.onnx", base), None);
        assert_eq!(absolute_uri("s3://bucket/m.onnx", base), None);
        assert_eq!(absolute_uri("", base), None);
    }
}
