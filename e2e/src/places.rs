//! Where things are: the binary under test, the examples, the fixtures, the Python environment.

use std::{
    env, fs,
    path::{Path, PathBuf},
};

/// The root of the repository.
pub fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("the crate lies in the repository")
}

/// The binary under test: `PILOTLIGHT_BIN`, or `pilotlight` of the same profile as the running test or bench.
pub fn binary() -> PathBuf {
    if let Some(path) = env::var_os("PILOTLIGHT_BIN") {
        return PathBuf::from(path);
    }
    let here = env::current_exe().expect("a process has an executable");
    // target/<profile>/deps/<test> or target/<profile>/<bench>
    let found = here
        .ancestors()
        .skip(1)
        .take(2)
        .map(|dir| dir.join("pilotlight"))
        .find(|path| path.is_file());
    found.unwrap_or_else(|| panic!("no pilotlight beside {}: run `cargo build` first", here.display()))
}

/// A file of `manifests/examples`.
pub fn example(name: &str) -> PathBuf {
    existing(root().join("manifests/examples").join(name))
}

/// A file of `e2e/fixtures`.
pub fn fixture(name: &str) -> PathBuf {
    existing(root().join("e2e/fixtures").join(name))
}

/// Copies every file (no folder) of `manifests/examples` into `target`.
pub fn copy_examples(target: &Path) {
    let entries = fs::read_dir(root().join("manifests/examples")).expect("the examples are in the repository");
    for path in entries.map(|entry| entry.expect("a readable folder").path()) {
        if let (true, Some(name)) = (path.is_file(), path.file_name()) {
            fs::copy(&path, target.join(name)).expect("the temporary folder takes a copy");
        }
    }
}

fn existing(path: PathBuf) -> PathBuf {
    assert!(path.is_file(), "{} is missing", path.display());
    path
}
