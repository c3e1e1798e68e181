//! Builds a document's tree from the parser's events.

use std::collections::{HashMap, HashSet};

use saphyr_parser::{Event, Marker, Parser, ScalarStyle, Span, Tag};

use crate::{
    path,
    scalar::Scalar,
    tree::{Entry, Kind, Node, Position, Problem, problem},
};

/// Nodes of one document, aliases counted as often as they are used.
const MAX_NODES: usize = 50_000;
/// Collections within each other.
const MAX_DEPTH: usize = 64;

/// Reads one document that begins after `lines_before` lines of the whole text: its tree, what is wrong with the tree, and
/// whether the syntax is broken, in which case there is no tree.
pub(crate) fn build(text: &str, lines_before: usize) -> (Option<Node>, Vec<Problem>, Result<(), Problem>) {
    let last_line = lines_before + text.lines().count().max(1);
    let mut builder = Builder {
        lines_before,
        last_line,
        ..Builder::default()
    };
    let outcome = builder.read(text);
    (builder.root, builder.problems, outcome)
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
                problem(at.line, format!("not valid YAML: {}", error.info()))
            })?;
            self.event(event, span)?;
        }
        Ok(())
    }

    fn event(&mut self, event: Event<'_>, span: Span) -> Result<(), Problem> {
        let (start, end) = (self.position(span.start), self.position(span.end));
        match event {
            Event::Scalar(text, style, anchor, tag) => {
                let scalar = Self::scalar(&text, style, tag.as_deref(), start)?;
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
                    return Err(problem(
                        start.line,
                        "an alias can't stand within the value it names".to_owned(),
                    ));
                };
                if self.awaits_key() {
                    return Err(problem(
                        start.line,
                        "an alias can't be a key: write the key out".to_owned(),
                    ));
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

    fn scalar(text: &str, style: ScalarStyle, tag: Option<&Tag>, at: Position) -> Result<Scalar, Problem> {
        match tag {
            None if style == ScalarStyle::Plain => Ok(Scalar::plain(text)),
            None => Ok(Scalar::Str(text.to_owned())),
            Some(tag) if tag.is_yaml_core_schema() => Scalar::tagged(&tag.suffix, text)
                .ok_or_else(|| problem(at.line, format!("`{text}` is not of the type !!{}", tag.suffix))),
            Some(tag) => Err(foreign_tag(tag, at)),
        }
    }

    fn begin(&mut self, start: Position, anchor: usize, tag: Option<&Tag>, kind: OpenKind) -> Result<(), Problem> {
        if let Some(tag) = tag.filter(|tag| !tag.is_yaml_core_schema()) {
            return Err(foreign_tag(tag, start));
        }
        if self.awaits_key() {
            return Err(problem(
                start.line,
                "a list or mapping can't be a key: keys are strings".to_owned(),
            ));
        }
        if self.open.len() >= MAX_DEPTH {
            return Err(too_deep(start.line));
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
            return Err(too_deep(node.start.line));
        }
        if anchor > 0 {
            self.anchors.insert(anchor, node.clone());
        }
        let Some(open) = self.open.last_mut() else {
            if self.root.is_some() {
                return Err(problem(
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
            return Err(problem(
                line,
                format!("the document has more than {MAX_NODES} values, aliases included"),
            ));
        }
        Ok(())
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

fn too_deep(line: usize) -> Problem {
    problem(
        line,
        format!("more than {MAX_DEPTH} lists and mappings within each other"),
    )
}

fn foreign_tag(tag: &Tag, at: Position) -> Problem {
    problem(
        at.line,
        format!("the tag {}{} means nothing here: remove it", tag.handle, tag.suffix),
    )
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
