//! What is wrong with a manifest, said so that it can be put right without reading the source.

use std::{fmt, path::PathBuf};

use serde::{Deserialize, Serialize};

/// One fault (or warning): where it is, what was found, what is allowed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fault {
    /// The file as the caller named it.
    pub file: PathBuf,
    /// Line of the offending key or value, from 1; within the file.
    pub line: usize,
    /// Path of the field, `spec.predictor.model.storageUri`; empty where the fault is the document's syntax.
    pub field: String,
    /// What was found, what is allowed and, where there is one, the remedy. One line.
    pub message: String,
}

impl fmt::Display for Fault {
    /// `file:line: field: message`, the form that editors and terminals turn into a link.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: ", self.file.display(), self.line)?;
        if !self.field.is_empty() {
            write!(f, "{}: ", self.field)?;
        }
        f.write_str(&self.message)
    }
}

impl std::error::Error for Fault {}

impl Fault {
    /// Text of the user's as a message shows it: in backticks, cut where it is long.
    pub(crate) fn quote(text: &str) -> String {
        const LONGEST: usize = 80;
        match text.char_indices().nth(LONGEST) {
            Some((end, _)) => format!("`{}...`", &text[..end]),
            None => format!("`{text}`"),
        }
    }
}
