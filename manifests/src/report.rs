//! Collects the faults and warnings of one document.

use std::path::Path;

use crate::Fault;

/// Faults and warnings of one document so far.
pub(crate) struct Report<'a> {
    file: &'a Path,
    pub(crate) faults: Vec<Fault>,
    pub(crate) warnings: Vec<Fault>,
}

impl<'a> Report<'a> {
    pub(crate) fn new(file: &'a Path) -> Self {
        Self {
            file,
            faults: Vec::new(),
            warnings: Vec::new(),
        }
    }

    /// Notes a fault: the document becomes no service.
    pub(crate) fn fault(&mut self, line: usize, field: impl Into<String>, message: impl Into<String>) {
        self.faults.push(self.note(line, field.into(), message.into()));
    }

    /// Notes something that hinders nothing.
    pub(crate) fn warning(&mut self, line: usize, field: impl Into<String>, message: impl Into<String>) {
        self.warnings.push(self.note(line, field.into(), message.into()));
    }

    /// One line whatever the manifest holds, so that a message stays a line of a log or a terminal.
    fn note(&self, line: usize, field: String, message: String) -> Fault {
        let one_line = |text: String| text.replace(char::is_control, " ");
        Fault {
            file: self.file.to_owned(),
            line,
            field: one_line(field),
            message: one_line(message),
        }
    }
}
