//! What every wrong manifest in `tests/faulty` is told, word for word, and the files that are made from the code.
//!
//! `PILOTLIGHT_UPDATE_GOLDEN=1 cargo test -p pilotlight-manifests` writes the expected files anew; read the difference.

use std::{
    fs,
    path::{Path, PathBuf},
};

use pilotlight_manifests as manifests;

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn assert_golden(path: &Path, actual: &str) {
    if std::env::var_os("PILOTLIGHT_UPDATE_GOLDEN").is_some() {
        fs::write(path, actual).expect("golden file is writable");
    }
    let expected = fs::read_to_string(path).unwrap_or_default();
    assert!(
        expected == actual,
        "{} is not current.\n--- expected\n{expected}\n--- actual\n{actual}",
        path.display()
    );
}

#[test]
fn every_fault_is_told_with_line_field_and_remedy() {
    let mut cases = 0;
    for entry in fs::read_dir(root().join("tests/faulty")).expect("directory of cases") {
        let path = entry.expect("entry").path();
        if path.extension().is_none_or(|extension| extension != "yaml") {
            continue;
        }
        cases += 1;
        let text = fs::read_to_string(&path).expect("case is readable");
        let name = PathBuf::from(path.file_name().expect("name"));
        let parsed = manifests::parse(&text, &name);
        let mut told: Vec<String> = Vec::new();
        for fault in &parsed.faults {
            told.push(format!("error: {fault}\n"));
        }
        for warning in &parsed.warnings {
            told.push(format!("warning: {warning}\n"));
        }
        for service in &parsed.services {
            told.push(format!("served: {} from line {}\n", service.key(), service.source.line));
        }
        assert_golden(&path.with_extension("expected"), &told.concat());
    }
    assert!(cases > 10, "{cases} cases found");
}

#[test]
fn the_crds_are_current() {
    for (file, make) in manifests::CRD_FILES {
        assert_golden(&root().join("crds").join(file), &manifests::document(&make()));
    }
}

#[test]
fn the_crds_of_keda_are_current() {
    for definition in manifests::keda::definitions() {
        assert_golden(
            &root().join(format!("crds/keda/{}.yaml", definition.name)),
            &definition.yaml(),
        );
    }
}

/// The tables of the reference stand between `<!-- begin NAME -->` and `<!-- end NAME -->`.
#[test]
fn the_reference_is_current() {
    let path = root().join("README.md");
    let mut text = fs::read_to_string(&path).expect("reference is readable");
    for (name, table) in [
        ("fields", manifests::fields_table()),
        ("annotations", manifests::annotations_table()),
        ("known", manifests::known_table()),
    ] {
        let (begin, end) = (format!("<!-- begin {name} -->\n"), format!("<!-- end {name} -->"));
        let from = text.find(&begin).expect("begin mark") + begin.len();
        let to = text.find(&end).expect("end mark");
        text.replace_range(from..to, &table);
    }
    assert_golden(&path, &text);
}
