//! Where CUDA's headers are.

use std::path::{Path, PathBuf};

/// What kernels include; the first that is missing is named.
const HEADERS: [&str; 4] = ["cuda_runtime.h", "cuda_fp16.h", "cuda_bf16.h", "mma.h"];

/// Where CubeCL looks for a toolkit; the first that is there is the one.
pub(crate) fn roots(variable: Option<PathBuf>) -> Vec<PathBuf> {
    match variable {
        Some(path) => vec![path],
        None => vec!["/usr/local/cuda".into(), "/opt/cuda".into()],
    }
}

/// The folder of headers of the first toolkit that is there, and those that are missing in it.
pub(crate) fn headers(roots: &[PathBuf]) -> Option<(PathBuf, Vec<&'static str>)> {
    let folder = roots.iter().find(|root| root.exists())?.join("include");
    let there = |header: &str| Path::new(&folder).join(header).is_file();
    let missing = HEADERS.into_iter().filter(|header| !there(header)).collect();
    Some((folder, missing))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_are_looked_for_in_the_first_toolkit_that_is_there() {
        let folder = tempfile::tempdir().unwrap();
        let nowhere = folder.path().join("nowhere");
        assert_eq!(headers(std::slice::from_ref(&nowhere)), None);
        let include = folder.path().join("include");
        std::fs::create_dir(&include).unwrap();
        for header in &HEADERS[1..] {
            std::fs::write(include.join(header), "").unwrap();
        }
        let found = headers(&[nowhere, folder.path().to_owned()]);
        assert_eq!(found, Some((include, vec![HEADERS[0]])));
    }

    #[test]
    fn the_variable_alone_counts_where_it_is_set() {
        assert_eq!(roots(Some("/opt/x".into())), [PathBuf::from("/opt/x")]);
        assert!(roots(None).contains(&PathBuf::from("/usr/local/cuda")));
    }
}
