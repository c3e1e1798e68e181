//! Models whose outputs onnxruntime computed a moment ago: contributed operators of transformers.

use pilotlight_e2e::{conformance, python};

/// Makes cases with a script and runs them all; the engine loads and runs the models itself.
fn all_pass(script: &str, at_least: usize) {
    let folder = tempfile::tempdir().expect("a directory");
    python::script(script, &[folder.path()], b"");
    let cases = conformance::all(folder.path());
    assert!(cases.len() >= at_least, "{script} made {} cases", cases.len());
    let outcomes = cases.iter().map(|case| (case, case.run()));
    let faults: Vec<_> = outcomes
        .filter(|(_, outcome)| *outcome != conformance::Outcome::Passed)
        .map(|(case, outcome)| format!("{}: {outcome:?}", case.name))
        .collect();
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

#[test]
fn contributed_operators_of_transformers_give_what_onnxruntime_gives() {
    all_pass("contrib.py", 18);
}

#[test]
fn estimators_of_scikit_learn_and_boosted_trees_give_what_onnxruntime_gives() {
    all_pass("estimators.py", 20);
}
