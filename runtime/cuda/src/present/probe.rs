//! Looks for what CUDA needs, before Burn touches any of it: with a library missing, its threads would panic.

use std::path::{Path, PathBuf};

use pilotlight_kernels::library;

use super::nvml;
use crate::found::{Findings, HEADERS, verdict};
use crate::{Gpu, Unavailable};

/// Names under which CubeCL opens them.
const DRIVER: &[&str] = &["libcuda.so", "libcuda.so.1"];
const NVRTC: &[&str] = &["libnvrtc.so", "libnvrtc.so.13", "libnvrtc.so.12", "libnvrtc.so.11"];

/// The GPU of this number, with all that is needed to run on it. Opens libraries and looks at files; takes some milliseconds.
///
/// # Errors
/// What is missing.
pub fn find(index: u32) -> Result<Gpu, Unavailable> {
    let findings = Findings {
        driver: nvml::driver(index),
        library: library::open(DRIVER),
        nvrtc: library::open(NVRTC),
        headers: headers(&roots(std::env::var_os("CUDA_PATH").map(PathBuf::from))),
    };
    verdict(index, findings)
}

/// Where CubeCL looks for a toolkit; the first that is there is the one.
fn roots(variable: Option<PathBuf>) -> Vec<PathBuf> {
    match variable {
        Some(path) => vec![path],
        None => vec!["/usr/local/cuda".into(), "/opt/cuda".into()],
    }
}

fn headers(roots: &[PathBuf]) -> Option<(PathBuf, Vec<&'static str>)> {
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

    #[test]
    fn asking_here_gives_a_gpu_or_says_what_is_missing() {
        if let Err(error) = find(0) {
            assert!(!error.0.is_empty(), "{error}");
        }
    }
}
