//! `storageUri`: what is supported, and the path that it stands for.

use std::path::{Component, Path, PathBuf};

use crate::{Fault, Storage};

/// Schemes that KServe takes and we do not.
const OTHER_SCHEMES: [&str; 7] = ["hdfs", "webhdfs", "oci", "oci+native", "oci+fetch", "hf", "modelscope"];
const ALLOWED: &str = "allowed are a path, relative to the manifest's file, and `file://`, `pvc://`, `s3://`, `gs://`, \
                       `https://`, `http://`, `az://` and `abfs://`";

/// Where `uri` points, relative paths being relative to `base`. The error is the message of the fault.
pub(crate) fn resolve(uri: &str, base: &Path) -> Result<Storage, String> {
    if uri.trim().is_empty() {
        return Err(format!("found {}, {ALLOWED}", quote(uri)));
    }
    let Some((scheme, rest)) = uri.split_once("://") else {
        return Ok(Storage::Local(absolute(&base.join(uri))));
    };
    let found = quote(uri);
    match scheme {
        "file" if rest.starts_with('/') => Ok(Storage::Local(absolute(Path::new(rest)))),
        "file" => Err(format!(
            "found {found}, and `file://` needs an absolute path, three slashes in all: write `file:///{rest}`, or \
             `{rest}` for a path relative to the manifest's file"
        )),
        "pvc" => claim(rest).map_err(|why| format!("found {found}, and {why}")),
        "s3" | "gs" | "http" | "https" | "az" | "azure" | "adl" | "abfs" | "abfss" => remote(uri, scheme, rest)
            .map(|()| Storage::Remote(uri.to_owned()))
            .map_err(|why| format!("found {found}, and {why}")),
        _ if OTHER_SCHEMES.contains(&scheme) => Err(format!(
            "found {found}, and {scheme}:// is not supported yet: {ALLOWED}"
        )),
        _ => Err(format!("found {found}, and there is no scheme {scheme}://: {ALLOWED}")),
    }
}

/// The URI as a message shows it: without user name, password and query, which may be secrets.
fn quote(uri: &str) -> String {
    let Some((scheme, rest)) = uri.split_once("://") else {
        return Fault::quote(uri);
    };
    let shown = rest.split_once('?').map_or(rest, |(shown, _)| shown);
    let (host, path) = shown.find('/').map_or((shown, ""), |at| shown.split_at(at));
    // Of abfs://CONTAINER@ACCOUNT/PATH both sides are part of the address.
    let host = match host.rsplit_once('@') {
        Some((_, host)) if !scheme.starts_with("abfs") => host,
        _ => host,
    };
    Fault::quote(&format!("{scheme}://{host}{path}"))
}

fn claim(rest: &str) -> Result<Storage, String> {
    let (name, path) = rest.split_once('/').unwrap_or((rest, ""));
    let good = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-' || c == '.';
    let ends = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    if name.len() > 253 || !name.chars().all(good) || !name.starts_with(ends) || !name.ends_with(ends) {
        return Err(
            "a claim's name is lower-case letters, digits, `-` and `.`: write `pvc://CLAIM/PATH` with the name of a \
             PersistentVolumeClaim"
                .to_owned(),
        );
    }
    let path = path.trim_matches('/');
    if path.split('/').any(|part| part == "..") {
        return Err("a path within a claim has no `..`".to_owned());
    }
    Ok(Storage::Claim {
        claim: name.to_owned(),
        path: path.to_owned(),
    })
}

fn remote(uri: &str, scheme: &str, rest: &str) -> Result<(), String> {
    if uri.chars().any(|c| c.is_whitespace() || c.is_control()) {
        return Err("a URI has no spaces: write them as `%20`".to_owned());
    }
    let (place, fragment) = rest.split_once('#').unwrap_or((rest, ""));
    if !fragment.is_empty() || rest.contains('#') {
        checksum(fragment)?;
    }
    let place = place.split_once('?').map_or(place, |(place, _)| place);
    let (host, path) = place.split_once('/').unwrap_or((place, ""));
    let (host_word, path_word) = match scheme {
        "http" | "https" => ("HOST", "PATH"),
        "s3" | "gs" => ("BUCKET", "KEY"),
        "abfs" | "abfss" if host.contains('@') => ("CONTAINER@ACCOUNT.dfs.core.windows.net", "PATH"),
        _ => ("CONTAINER", "PATH"),
    };
    if host.contains('@') && !scheme.starts_with("abfs") {
        return Err(format!(
            "a URI must not hold a user name or password: write `{scheme}://{host_word}/{path_word}` and give credentials in \
             the environment"
        ));
    }
    if host.is_empty() || path.trim_matches('/').is_empty() {
        return Err(format!(
            "the model's place is not complete: write `{scheme}://{host_word}/{path_word}`"
        ));
    }
    if path.split('/').any(|part| part == "..") {
        return Err("a path of remote storage has no `..`".to_owned());
    }
    let extension = path
        .trim_end_matches('/')
        .rsplit_once('.')
        .map(|(_, extension)| extension);
    if scheme.starts_with("http") && extension == Some("git") {
        return Err("Git repositories are not supported yet: give the address of a file".to_owned());
    }
    Ok(())
}

/// `sha256=` and 64 hexadecimal digits.
fn checksum(fragment: &str) -> Result<(), String> {
    let digits = fragment.strip_prefix("sha256=").unwrap_or_default();
    if digits.len() == 64 && digits.chars().all(|c| c.is_ascii_hexdigit()) {
        return Ok(());
    }
    Err("after `#` comes the checksum of what is fetched: `#sha256=` and 64 hexadecimal digits".to_owned())
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
    fn what_is_fetched_is_kept_as_it_is_written() {
        let base = Path::new("/srv");
        let digest = format!("s3://bucket/models/m.onnx#sha256={}", "a1".repeat(32));
        for uri in [
            "s3://bucket/models/m.onnx",
            "s3://bucket/models/",
            digest.as_str(),
            "gs://kfserving-examples/models/iris",
            "https://models.example.com/m.onnx?X-Amz-Signature=secret",
            "http://127.0.0.1:9000/m.tar.gz",
            "https://account.blob.core.windows.net/container/m.onnx",
            "az://container/m.onnx",
            "abfs://container@account.dfs.core.windows.net/m.onnx",
        ] {
            assert_eq!(resolve(uri, base), Ok(Storage::Remote(uri.to_owned())), "{uri}");
        }
    }

    #[test]
    fn a_claim_has_a_name_and_a_path() {
        let claim = |uri: &str| resolve(uri, Path::new("/srv"));
        for (uri, name, path) in [
            ("pvc://models/mnist/1", "models", "mnist/1"),
            ("pvc://models/mnist/", "models", "mnist"),
            ("pvc://models", "models", ""),
        ] {
            let (claim_name, path) = (name.to_owned(), path.to_owned());
            let expected = Storage::Claim {
                claim: claim_name,
                path,
            };
            assert_eq!(claim(uri), Ok(expected), "{uri}");
        }
        for uri in ["pvc:///x", "pvc://Models/x", "pvc://-a/x", "pvc://a/../x"] {
            assert!(claim(uri).is_err(), "{uri}");
        }
    }

    #[test]
    fn no_fault_shows_a_password_or_a_signature() {
        for uri in [
            "https://me:hidden@example.com/m.onnx",
            "https://me:hidden@example.com?sig=hidden",
            "ftp://me:hidden@example.com/m.onnx?sig=hidden",
            "s3://hidden@bucket/m.onnx",
            "https://example.com/?sig=hidden#no",
        ] {
            let fault = resolve(uri, Path::new("/srv")).expect_err("a fault");
            assert!(!fault.contains("hidden"), "{fault}");
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
