//! What the documents say of the tree is true.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// Every Rust source of the tree as one text.
fn sources(folder: &Path, all: &mut String) {
    for entry in fs::read_dir(folder).expect("the tree is readable") {
        let path = entry.expect("the tree is readable").path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if path.is_dir() && !name.starts_with('.') && name != "target" {
            sources(&path, all);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            all.push_str(&fs::read_to_string(&path).expect("the tree is readable"));
        }
    }
}

/// Words in code style that look like test functions: lower case with at least two underscores.
fn named_tests(text: &str) -> BTreeSet<&str> {
    let quoted = text.split('`').skip(1).step_by(2);
    quoted
        .filter(|word| word.matches('_').count() >= 2)
        .filter(|word| {
            word.chars()
                .all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_')
        })
        .collect()
}

#[test]
fn every_test_that_a_document_names_exists() {
    let mut code = String::new();
    sources(&root(), &mut code);
    for document in ["SPECIFICATION.md", "ARCHITECTURE.md"] {
        let text = fs::read_to_string(root().join(document)).expect("the document is there");
        let missing: Vec<_> = named_tests(&text)
            .into_iter()
            .filter(|name| !code.contains(&format!("fn {name}(")))
            .collect();
        assert!(
            missing.is_empty(),
            "{document} names tests that do not exist: {missing:?}"
        );
    }
}

#[test]
fn no_document_holds_a_placeholder() {
    for document in [
        "README.md",
        "SPECIFICATION.md",
        "ARCHITECTURE.md",
        "CONTRIBUTING.md",
        "CHANGELOG.md",
    ] {
        let text = fs::read_to_string(root().join(document)).expect("the document is there");
        assert!(!text.contains("@@"), "{document} holds a placeholder");
    }
}

/// What a decision may not touch: clocks, sockets, files, processes, tasks.
const ADAPTERS: [&str; 8] = [
    "Instant::now",
    "SystemTime",
    ".elapsed()",
    "tokio::net",
    "tokio::spawn",
    "std::fs",
    "std::net::Tcp",
    "std::process",
];

#[test]
fn decisions_read_no_clock_and_do_no_io() {
    for folder in ["activator/src/core", "controller/src/autoscaler", "runtime/src/batch"] {
        for entry in fs::read_dir(root().join(folder)).expect("the folder is there") {
            let path = entry.expect("the tree is readable").path();
            if path
                .file_stem()
                .is_some_and(|stem| stem.to_string_lossy().ends_with("tests"))
            {
                continue;
            }
            let text = fs::read_to_string(&path).expect("the tree is readable");
            let found: Vec<_> = ADAPTERS.into_iter().filter(|word| text.contains(word)).collect();
            assert!(
                found.is_empty(),
                "{} is a decision and touches {found:?}",
                path.display()
            );
        }
    }
}

#[test]
fn every_crate_takes_the_lint_table_of_the_workspace() {
    for part in [
        "",
        "activator",
        "controller",
        "e2e",
        "manifests",
        "runtime",
        "runtime/engine",
    ] {
        let path = root().join(part).join("Cargo.toml");
        let text = fs::read_to_string(&path).expect("each part is a crate");
        assert!(text.contains("[lints]\nworkspace = true"), "{}", path.display());
    }
}
