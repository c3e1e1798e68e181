//! The table that goes into the documents.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use super::{Case, Outcome};

/// Counts of one operator or data type.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Row {
    /// Cases whose outputs are right.
    pub passed: usize,
    /// Cases with a wrong output or a failed run.
    pub failed: usize,
    /// Cases that the engine says it can't do.
    pub unsupported: usize,
    /// Cases that onnxruntime could run on other inputs.
    pub compared: usize,
    /// Those of them with the same outputs.
    pub equal: usize,
}

/// What came of all cases.
#[derive(Default)]
pub struct Report {
    operators: BTreeMap<String, Row>,
    datatypes: BTreeMap<&'static str, Row>,
    total: Row,
    open: Vec<(String, String)>,
    different: Vec<(String, String)>,
}

impl Report {
    /// Counts a case; `other` is what came of it on other inputs, where onnxruntime could be asked.
    pub fn add(&mut self, case: &Case, outcome: &Outcome, other: Option<&Outcome>) {
        let rows = [
            self.operators.entry(case.operator.clone()).or_default(),
            self.datatypes.entry(case.datatype).or_default(),
            &mut self.total,
        ];
        for row in rows {
            match outcome {
                Outcome::Passed => row.passed += 1,
                Outcome::Failed(_) => row.failed += 1,
                Outcome::Unsupported(_) => row.unsupported += 1,
            }
            row.compared += usize::from(other.is_some());
            row.equal += usize::from(other == Some(&Outcome::Passed));
        }
        match outcome {
            Outcome::Passed => {}
            Outcome::Failed(why) | Outcome::Unsupported(why) => self.open.push((case.name.clone(), reason(case, why))),
        }
        match other {
            Some(Outcome::Failed(why) | Outcome::Unsupported(why)) => {
                self.different.push((case.name.clone(), why.clone()));
            }
            _ => {}
        }
    }

    /// Share of all cases that pass, in percent.
    pub fn percent(&self) -> f64 {
        let all = self.total.passed + self.total.failed + self.total.unsupported;
        100.0 * self.total.passed as f64 / all.max(1) as f64
    }

    /// Counts over all cases.
    pub fn total(&self) -> Row {
        self.total
    }

    /// Names of the cases that do not pass.
    pub fn open(&self) -> Vec<&str> {
        self.open.iter().map(|(name, _)| name.as_str()).collect()
    }

    /// Names of the cases that differ from onnxruntime on other inputs.
    pub fn different(&self) -> Vec<&str> {
        self.different.iter().map(|(name, _)| name.as_str()).collect()
    }

    /// The whole report as Markdown, the same on every run.
    pub fn markdown(&self) -> String {
        let all = self.total.passed + self.total.failed + self.total.unsupported;
        let mut out = format!(
            "# Conformance\n\n\
             ONNX's own cases of its operators (`onnx` 1.22, {all} cases), run by the engine's CPU backend. `make conformance`\n\
             writes this file; the tests fail where it is not current, so that no case that passes stops passing unnoticed.\n\n\
             *compared* are the cases that onnxruntime could run on other inputs than the case's, *equal* those of them on\n\
             which the engine gives the same.\n\n"
        );
        table(
            &mut out,
            "operator",
            self.operators.iter().map(|(k, v)| (k.as_str(), v)),
            &self.total,
        );
        table(
            &mut out,
            "type of the first input",
            self.datatypes.iter().map(|(k, v)| (*k, v)),
            &self.total,
        );
        list(&mut out, "Cases that do not pass", &self.open);
        list(
            &mut out,
            "Cases that differ from onnxruntime on other inputs",
            &self.different,
        );
        let _ = writeln!(out, "conformance: {:.1} %", self.percent());
        out
    }
}

fn table<'a>(out: &mut String, what: &str, rows: impl Iterator<Item = (&'a str, &'a Row)>, total: &'a Row) {
    let _ = writeln!(
        out,
        "| {what} | passed | failed | unsupported | compared | equal |\n|---|--:|--:|--:|--:|--:|"
    );
    for (name, row) in rows.chain([("**all**", total)]) {
        let _ = writeln!(
            out,
            "| {name} | {} | {} | {} | {} | {} |",
            row.passed, row.failed, row.unsupported, row.compared, row.equal
        );
    }
    out.push('\n');
}

fn list(out: &mut String, title: &str, cases: &[(String, String)]) {
    let _ = writeln!(out, "## {title}\n\n| case | reason |\n|---|---|");
    for (name, why) in cases {
        let _ = writeln!(out, "| {name} | {} |", why.replace('|', "\\|").replace('\n', " "));
    }
    out.push('\n');
}

/// The engine's words, or what lies behind them where a whole family has one reason.
fn reason(case: &Case, why: &str) -> String {
    match case.operator.as_str() {
        "Bernoulli" | "Dropout" if !why.contains("shape") => {
            "the expected numbers are those of NumPy's random generator".into()
        }
        "ImageDecoder" => "pictures are decoded before they reach a model; no decoder is linked".into(),
        _ => why.into(),
    }
}
