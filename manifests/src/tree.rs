//! YAML text as a tree whose every key and value knows its line.
//!
//! Built from the parser's events and not from a loader, for four things a loader does not give: duplicate keys are faults, an
//! alias can't blow a small text up (nodes and depth are bounded), a broken document does not hide its neighbours, and the
//! place of each scalar is known, so that one can be replaced in the text.

use serde_json::Value;

use crate::{builder, documents, scalar::Scalar};

/// A position in the text: the line from 1, the column from 0 and in characters.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Position {
    pub(crate) line: usize,
    pub(crate) column: usize,
}

/// A value with its place.
#[derive(Clone, Debug)]
pub(crate) struct Node {
    pub(crate) start: Position,
    pub(crate) end: Position,
    pub(crate) kind: Kind,
    /// Whether `start..end` is the value's own text on one or more lines, which is not so for block scalars (`|`, `>`).
    pub(crate) inline: bool,
    /// Collections within it, and itself where it is one.
    pub(crate) height: usize,
    /// Nodes within it, and itself.
    pub(crate) size: usize,
}

/// What a node is.
#[derive(Clone, Debug)]
pub(crate) enum Kind {
    Scalar(Scalar),
    Seq(Vec<Node>),
    Map(Vec<Entry>),
}

/// A key of a mapping with its value.
#[derive(Clone, Debug)]
pub(crate) struct Entry {
    pub(crate) key: String,
    pub(crate) line: usize,
    pub(crate) value: Node,
}

/// Something wrong with the tree itself.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Problem {
    pub(crate) line: usize,
    pub(crate) field: String,
    pub(crate) message: String,
}

/// One YAML document: its tree, unless its syntax is broken, and what is wrong with it so far.
#[derive(Debug)]
pub(crate) struct Document {
    pub(crate) root: Option<Node>,
    pub(crate) problems: Vec<Problem>,
}

impl Node {
    /// The value below `key`; `None` where there is none or this is no mapping.
    pub(crate) fn get(&self, key: &str) -> Option<&Entry> {
        match &self.kind {
            Kind::Map(entries) => entries.iter().find(|entry| entry.key == key),
            _ => None,
        }
    }

    /// The line of the key at the end of `path`, or of the deepest part of it that exists.
    pub(crate) fn line_of(&self, path: &[&str]) -> usize {
        let mut line = match &self.kind {
            Kind::Map(entries) => entries.first().map_or(self.start.line, |entry| entry.line),
            _ => self.start.line,
        };
        let mut node = self;
        for key in path {
            let Some(entry) = node.get(key) else { break };
            line = entry.line;
            node = &entry.value;
        }
        line
    }

    /// The text of a string; `None` for everything else.
    pub(crate) fn as_str(&self) -> Option<&str> {
        match &self.kind {
            Kind::Scalar(Scalar::Str(text)) => Some(text),
            _ => None,
        }
    }

    /// Whether it is `null`, which stands for "not given", as in Kubernetes.
    pub(crate) fn is_null(&self) -> bool {
        matches!(self.kind, Kind::Scalar(Scalar::Null))
    }

    /// The value as JSON, as the user wrote it.
    pub(crate) fn to_json(&self) -> Value {
        match &self.kind {
            Kind::Scalar(Scalar::Null) => Value::Null,
            Kind::Scalar(Scalar::Bool(value)) => (*value).into(),
            Kind::Scalar(Scalar::Int(value)) => (*value).into(),
            Kind::Scalar(Scalar::Float(value)) => (*value).into(),
            Kind::Scalar(Scalar::Str(value)) => value.as_str().into(),
            Kind::Seq(items) => items.iter().map(Self::to_json).collect(),
            Kind::Map(entries) => Value::Object(
                entries
                    .iter()
                    .map(|entry| (entry.key.clone(), entry.value.to_json()))
                    .collect(),
            ),
        }
    }
}

/// Every document of `text`, empty ones left out. Lines are those of the whole text.
pub(crate) fn load(text: &str) -> Vec<Document> {
    if let Some((at, message)) = unreadable(text) {
        let line = text[..at].matches('\n').count() + 1;
        return vec![Document {
            root: None,
            problems: vec![problem(line, message.to_owned())],
        }];
    }
    documents::split(text)
        .into_iter()
        .filter_map(|chunk| load_one(chunk.text, chunk.lines_before))
        .collect()
}

/// The first byte that makes lines or the text itself mean something else to YAML than to an editor.
fn unreadable(text: &str) -> Option<(usize, &'static str)> {
    let lone_return = || {
        let returns = text.match_indices('\r').map(|(at, _)| at);
        let at = returns.into_iter().find(|at| !text[at + 1..].starts_with('\n'))?;
        Some((
            at,
            "a carriage return without a line feed: save the file with line ends of one kind, LF or CRLF",
        ))
    };
    let nul = text
        .find('\0')
        .map(|at| (at, "the text holds a NUL byte: is this a binary file?"));
    nul.or_else(lone_return)
}

fn load_one(text: &str, lines_before: usize) -> Option<Document> {
    let (root, mut problems, outcome) = builder::build(text, lines_before);
    match outcome {
        Ok(()) if root.as_ref().is_none_or(Node::is_null) && problems.is_empty() => None,
        Ok(()) => Some(Document { root, problems }),
        Err(problem) => {
            problems.push(problem);
            Some(Document { root: None, problems })
        }
    }
}

/// Something wrong with the document as a whole.
pub(crate) fn problem(line: usize, message: String) -> Problem {
    Problem {
        line,
        field: String::new(),
        message,
    }
}
