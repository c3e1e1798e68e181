//! ONNX's own cases: what passed once keeps passing, and the documents say what does not.

use std::path::PathBuf;

use pilotlight_e2e::conformance::{self, Report};
use pilotlight_e2e::{places, python};

/// `make conformance` sets this to write the report instead of comparing it.
const WRITE: &str = "PILOTLIGHT_WRITE_CONFORMANCE";

#[test]
fn onnxs_own_cases_pass_as_the_documents_say() {
    let inputs = tempfile::tempdir().expect("a directory");
    let cases = python::script("conformance.py", &[inputs.path()], b"");
    let cases = PathBuf::from(String::from_utf8(cases).expect("a path").trim());
    // A panic is the outcome of a case; its backtrace would drown the list.
    std::panic::set_hook(Box::new(|_| {}));
    let mut report = Report::default();
    for case in conformance::all(&cases) {
        report.add(&case, &case.run(), case.run_on(inputs.path()).as_ref());
    }
    let _ = std::panic::take_hook();
    let path = places::root().join("runtime/engine/CONFORMANCE.md");
    if std::env::var_os(WRITE).is_some() {
        std::fs::write(&path, report.markdown()).expect("the report can be written");
    }
    print!("{}", report.markdown());
    let written = std::fs::read_to_string(&path).expect("CONFORMANCE.md is there");
    let is_known = |name: &&str| written.contains(&format!("| {name} |"));
    let lost: Vec<_> = report.open().into_iter().filter(|n| !is_known(n)).collect();
    assert!(lost.is_empty(), "these passed and do not any more: {lost:?}");
    let lost: Vec<_> = report.different().into_iter().filter(|n| !is_known(n)).collect();
    assert!(
        lost.is_empty(),
        "these gave what onnxruntime gives and do not any more: {lost:?}"
    );
    assert_eq!(
        written,
        report.markdown(),
        "CONFORMANCE.md is not current: run make conformance"
    );
    assert!(report.percent() >= 95.0, "{:.1} %", report.percent());
}
