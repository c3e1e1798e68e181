//! Folders of certificates, as KEDA's interceptor has them: `X.crt` with `X.key`, `X.pem` with `X-key.pem`, at any depth.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use super::{CertificateFiles, SecureError};

/// Folders in folders that are looked at.
const DEPTH: usize = 8;

/// The pairs in these folders, in the order of their names.
pub(super) fn pairs(folders: &[PathBuf]) -> Result<Vec<CertificateFiles>, SecureError> {
    let (mut certificates, mut keys) = (BTreeMap::new(), BTreeMap::new());
    for folder in folders {
        walk(folder, DEPTH, &mut |path| {
            let Some(text) = path.to_str() else { return };
            if let Some(stem) = text.strip_suffix("-key.pem").or_else(|| text.strip_suffix(".key")) {
                keys.insert(stem.to_owned(), path.to_owned());
            } else if let Some(stem) = text.strip_suffix(".pem").or_else(|| text.strip_suffix(".crt")) {
                certificates.insert(stem.to_owned(), path.to_owned());
            }
        })?;
    }
    let pair = |(stem, certificate): (String, PathBuf)| match keys.remove(&stem) {
        Some(key) => Ok(CertificateFiles { certificate, key }),
        None => Err(SecureError::Content {
            path: certificate,
            reason: "its key is not beside it".to_owned(),
        }),
    };
    certificates.into_iter().map(pair).collect()
}

/// All files below a folder. A volume of Kubernetes keeps its files in folders whose names begin with two dots, and links to them:
/// the links are enough.
fn walk(folder: &Path, depth: usize, found: &mut impl FnMut(&Path)) -> Result<(), SecureError> {
    let error = |source| SecureError::File {
        path: folder.to_owned(),
        source,
    };
    for entry in fs::read_dir(folder).map_err(error)? {
        let entry = entry.map_err(error)?;
        if entry.file_name().as_encoded_bytes().starts_with(b"..") {
            continue;
        }
        let path = entry.path();
        if !entry.file_type().map_err(error)?.is_dir() {
            found(&path);
        } else if depth > 0 {
            walk(&path, depth - 1, found)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Add-on unit tests `TestBuildTLSConfig_CertStorePaths` and `_MultipleCertStorePaths`, and a Secret's volume.
    #[test]
    fn add_on_stores_hold_pairs_of_both_namings_at_any_depth() {
        let folder = tempfile::tempdir().unwrap();
        let deep = folder.path().join("a/b");
        let hidden = folder.path().join("..data");
        for made in [&deep, &hidden] {
            fs::create_dir_all(made).unwrap();
        }
        for name in [
            "one.crt",
            "one.key",
            "note.txt",
            "a/two.pem",
            "a/two-key.pem",
            "a/b/x.crt",
            "a/b/x.key",
            "..data/y.crt",
        ] {
            fs::write(folder.path().join(name), "").unwrap();
        }
        let names = |folders: &[PathBuf]| -> Vec<(String, String)> {
            let name = |path: &Path| path.file_name().unwrap().to_str().unwrap().to_owned();
            let pairs = pairs(folders).unwrap();
            pairs
                .iter()
                .map(|pair| (name(&pair.certificate), name(&pair.key)))
                .collect()
        };
        let of = |certificate: &str, key: &str| (certificate.to_owned(), key.to_owned());
        let expected = [
            of("x.crt", "x.key"),
            of("two.pem", "two-key.pem"),
            of("one.crt", "one.key"),
        ];
        assert_eq!(names(&[folder.path().to_owned()]), expected);
        assert_eq!(names(&[deep.clone(), folder.path().join("a")]).len(), 2);
        fs::remove_file(deep.join("x.key")).unwrap();
        assert!(
            pairs(std::slice::from_ref(&deep))
                .unwrap_err()
                .to_string()
                .contains("x.crt")
        );
        assert!(pairs(&[folder.path().join("nowhere")]).is_err());
    }
}
