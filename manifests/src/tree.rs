//! YAML text as a tree whose every key and value knows its line.
//!
//! Built from the parser's events and not from a loader, for four things a loader does not give: duplicate keys are faults, an
//! alias can't blow a small text up (nodes and depth are bounded), a broken document does not hide its neighbours, and the
//! place of each scalar is known, so that one can be replaced in the text.

use std::collections::{HashMap, HashSet};

use saphyr_parser::{Event, Marker, Parser, ScalarStyle, Span, Tag};
use serde_json::Value;

use crate::{documents, path, scalar::Scalar};

/// Nodes of one document, aliases counted as often as they are used.
const MAX_NODES: usize = 50_000;
/// Collections within each other.
const MAX_DEPTH: usize = 64;

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
    height: usize,
    size: usize,
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
    if let Some(at) = text.find('\0') {
        let line = text[..at].matches('\n').count() + 1;
        let message = "the text holds a NUL byte: is this a binary file?".to_owned();
        return vec![Document {
            root: None,
            problems: vec![Problem {
                line,
                field: String::new(),
                message,
            }],
        }];
    }
    documents::split(text)
        .into_iter()
        .filter_map(|chunk| load_one(chunk.text, chunk.lines_before))
        .collect()
}

fn load_one(text: &str, lines_before: usize) -> Option<Document> {
    let mut builder = Builder {
        lines_before,
        last_line: lines_before + text.lines().count().max(1),
        ..Builder::default()
    };
    let outcome = builder.read(text);
    let mut problems = builder.problems;
    match outcome {
        Ok(()) if builder.root.as_ref().is_none_or(Node::is_null) && problems.is_empty() => None,
        Ok(()) => Some(Document {
            root: builder.root,
            problems,
        }),
        Err(problem) => {
            problems.push(problem);
            Some(Document { root: None, problems })
        }
    }
}

/// A collection that is still open.
struct Open {
    start: Position,
    anchor: usize,
    kind: OpenKind,
    height: usize,
    size: usize,
}

enum OpenKind {
    Seq(Vec<Node>),
    Map {
        entries: Vec<Entry>,
        seen: HashMap<String, usize>,
        key: Option<Key>,
        merges: Vec<Node>,
    },
}

/// A key that waits for its value.
struct Key {
    text: String,
    line: usize,
    role: Role,
}

#[derive(Clone, Copy, PartialEq)]
enum Role {
    Plain,
    /// The first of the name counts; this one is noted as a problem and its value dropped.
    Duplicate,
    /// `<<`
    Merge,
}

#[derive(Default)]
struct Builder {
    lines_before: usize,
    last_line: usize,
    open: Vec<Open>,
    anchors: HashMap<usize, Node>,
    nodes: usize,
    root: Option<Node>,
    problems: Vec<Problem>,
}

impl Builder {
    fn read(&mut self, text: &str) -> Result<(), Problem> {
        for event in Parser::new_from_str(text) {
            let (event, span) = event.map_err(|error| {
                let at = self.position(*error.marker());
                self.problem(at.line, format!("not valid YAML: {}", error.info()))
            })?;
            self.event(event, span)?;
        }
        Ok(())
    }

    fn event(&mut self, event: Event<'_>, span: Span) -> Result<(), Problem> {
        let (start, end) = (self.position(span.start), self.position(span.end));
        match event {
            Event::Scalar(text, style, anchor, tag) => {
                let scalar = self.scalar(&text, style, tag.as_deref(), start)?;
                let inline = !matches!(style, ScalarStyle::Literal | ScalarStyle::Folded) && start < end;
                self.count(1, start.line)?;
                if self.awaits_key() {
                    return self.key(&text, style == ScalarStyle::Plain, start);
                }
                let node = Node {
                    start,
                    end,
                    kind: Kind::Scalar(scalar),
                    inline,
                    height: 0,
                    size: 1,
                };
                self.value(node, anchor)
            }
            Event::Alias(anchor) => {
                let Some(node) = self.anchors.get(&anchor).cloned() else {
                    return Err(self.problem(start.line, "an alias can't stand within the value it names".to_owned()));
                };
                if self.awaits_key() {
                    return Err(self.problem(start.line, "an alias can't be a key: write the key out".to_owned()));
                }
                self.count(node.size, start.line)?;
                self.value(
                    Node {
                        start,
                        end,
                        inline: start < end,
                        ..node
                    },
                    0,
                )
            }
            Event::SequenceStart(anchor, tag) => self.begin(start, anchor, tag.as_deref(), OpenKind::Seq(Vec::new())),
            Event::MappingStart(anchor, tag) => {
                let kind = OpenKind::Map {
                    entries: Vec::new(),
                    seen: HashMap::new(),
                    key: None,
                    merges: Vec::new(),
                };
                self.begin(start, anchor, tag.as_deref(), kind)
            }
            Event::SequenceEnd | Event::MappingEnd => self.finish(end),
            Event::Nothing | Event::StreamStart | Event::StreamEnd | Event::DocumentStart(_) | Event::DocumentEnd => {
                Ok(())
            }
        }
    }

    fn scalar(&self, text: &str, style: ScalarStyle, tag: Option<&Tag>, at: Position) -> Result<Scalar, Problem> {
        match tag {
            None if style == ScalarStyle::Plain => Ok(Scalar::plain(text)),
            None => Ok(Scalar::Str(text.to_owned())),
            Some(tag) if tag.is_yaml_core_schema() => Scalar::tagged(&tag.suffix, text)
                .ok_or_else(|| self.problem(at.line, format!("`{text}` is not of the type !!{}", tag.suffix))),
            Some(tag) => Err(self.foreign_tag(tag, at)),
        }
    }

    fn begin(&mut self, start: Position, anchor: usize, tag: Option<&Tag>, kind: OpenKind) -> Result<(), Problem> {
        if let Some(tag) = tag.filter(|tag| !tag.is_yaml_core_schema()) {
            return Err(self.foreign_tag(tag, start));
        }
        if self.awaits_key() {
            return Err(self.problem(
                start.line,
                "a list or mapping can't be a key: keys are strings".to_owned(),
            ));
        }
        if self.open.len() >= MAX_DEPTH {
            return Err(self.too_deep(start.line));
        }
        self.count(1, start.line)?;
        self.open.push(Open {
            start,
            anchor,
            kind,
            height: 0,
            size: 1,
        });
        Ok(())
    }

    /// Takes a key, and notes it where it is a duplicate; the first one counts.
    fn key(&mut self, text: &str, plain: bool, start: Position) -> Result<(), Problem> {
        let parent = self.path();
        let Some(Open {
            kind: OpenKind::Map { seen, key, .. },
            ..
        }) = self.open.last_mut()
        else {
            return Ok(());
        };
        let role = match seen.get(text) {
            _ if plain && text == "<<" => Role::Merge,
            Some(_) => Role::Duplicate,
            None => Role::Plain,
        };
        *key = Some(Key {
            text: text.to_owned(),
            line: start.line,
            role,
        });
        if let Some(first) = seen.get(text) {
            self.problems.push(Problem {
                line: start.line,
                field: path::child(&parent, text),
                message: format!("given twice, first on line {first}: keep one of the two"),
            });
        } else if role == Role::Plain {
            seen.insert(text.to_owned(), start.line);
        }
        Ok(())
    }

    fn finish(&mut self, end: Position) -> Result<(), Problem> {
        let Some(open) = self.open.pop() else { return Ok(()) };
        let kind = match open.kind {
            OpenKind::Seq(items) => Kind::Seq(items),
            OpenKind::Map {
                mut entries, merges, ..
            } => {
                for merged in merges {
                    merge(&mut entries, merged);
                }
                Kind::Map(entries)
            }
        };
        let node = Node {
            start: open.start,
            end,
            kind,
            inline: false,
            height: open.height + 1,
            size: open.size,
        };
        self.value(node, open.anchor)
    }

    /// Puts a complete value where it belongs.
    fn value(&mut self, node: Node, anchor: usize) -> Result<(), Problem> {
        if self.open.len() + node.height > MAX_DEPTH {
            return Err(self.too_deep(node.start.line));
        }
        if anchor > 0 {
            self.anchors.insert(anchor, node.clone());
        }
        let Some(open) = self.open.last_mut() else {
            if self.root.is_some() {
                return Err(self.problem(
                    node.start.line,
                    "a second document begins here: part it with `---`".to_owned(),
                ));
            }
            self.root = Some(node);
            return Ok(());
        };
        open.height = open.height.max(node.height);
        open.size += node.size;
        match &mut open.kind {
            OpenKind::Seq(items) => items.push(node),
            OpenKind::Map {
                entries, key, merges, ..
            } => match key.take() {
                Some(Key { role: Role::Merge, .. }) => merges.push(node),
                Some(Key {
                    text: key,
                    line,
                    role: Role::Plain,
                }) => entries.push(Entry { key, line, value: node }),
                Some(Key {
                    role: Role::Duplicate, ..
                })
                | None => {}
            },
        }
        Ok(())
    }

    fn awaits_key(&self) -> bool {
        matches!(
            self.open.last(),
            Some(Open {
                kind: OpenKind::Map { key: None, .. },
                ..
            })
        )
    }

    /// The path of the innermost open collection.
    fn path(&self) -> String {
        let mut path = String::new();
        for open in &self.open {
            match &open.kind {
                OpenKind::Seq(items) => path = path::element(&path, items.len()),
                OpenKind::Map { key: Some(key), .. } => path = path::child(&path, &key.text),
                OpenKind::Map { key: None, .. } => {}
            }
        }
        path
    }

    fn count(&mut self, nodes: usize, line: usize) -> Result<(), Problem> {
        self.nodes += nodes;
        if self.nodes > MAX_NODES {
            return Err(self.problem(
                line,
                format!("the document has more than {MAX_NODES} values, aliases included"),
            ));
        }
        Ok(())
    }

    fn too_deep(&self, line: usize) -> Problem {
        self.problem(
            line,
            format!("more than {MAX_DEPTH} lists and mappings within each other"),
        )
    }

    fn foreign_tag(&self, tag: &Tag, at: Position) -> Problem {
        self.problem(
            at.line,
            format!("the tag {}{} means nothing here: remove it", tag.handle, tag.suffix),
        )
    }

    fn problem(&self, line: usize, message: String) -> Problem {
        Problem {
            line,
            field: String::new(),
            message,
        }
    }

    /// The parser may place an error at the line after the last.
    fn position(&self, marker: Marker) -> Position {
        let line = (self.lines_before + marker.line()).clamp(self.lines_before + 1, self.last_line);
        Position {
            line,
            column: marker.col(),
        }
    }
}

/// YAML's merge key: what `merged` (a mapping, or a list of them) has and `entries` has not.
fn merge(entries: &mut Vec<Entry>, merged: Node) {
    match merged.kind {
        Kind::Map(more) => {
            let known: HashSet<String> = entries.iter().map(|entry| entry.key.clone()).collect();
            entries.extend(more.into_iter().filter(|entry| !known.contains(&entry.key)));
        }
        Kind::Seq(items) => items.into_iter().for_each(|item| merge(entries, item)),
        Kind::Scalar(_) => {}
    }
}
