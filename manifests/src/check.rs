//! Checks a document's tree against the schema: unknown and missing fields, types, bounds, patterns, enumerations. What is
//! wrong is reported with line and field and left out of the result, so that the rules between fields can still be checked
//! on what is left.

use serde_json::{Map, Value};

use crate::{
    Fault,
    known::{self, Severity},
    path,
    report::Report,
    scalar::Scalar,
    schema, suggest,
    tree::{Kind, Node},
};

/// The document's good parts as JSON; faults and warnings go to `report`.
pub(crate) fn check(root: &Node, report: &mut Report<'_>) -> Value {
    let mut walk = Walk { report };
    walk.value(root, schema::inference_service(), "", root.line_of(&[]))
        .unwrap_or_default()
}

struct Walk<'a, 'b> {
    report: &'a mut Report<'b>,
}

impl Walk<'_, '_> {
    /// `line` is that of the key that leads here.
    fn value(&mut self, node: &Node, schema: &Value, path: &str, line: usize) -> Option<Value> {
        if schema.get("x-kubernetes-int-or-string").is_some() {
            return self.quantity(node, path, line);
        }
        match (schema.get("type").and_then(Value::as_str), &node.kind) {
            (Some("object"), Kind::Map(_)) if schema.get("additionalProperties").is_some_and(Value::is_object) => {
                self.dictionary(node, &schema["additionalProperties"], path)
            }
            (Some("object"), Kind::Map(_)) => self.object(node, schema, path, line),
            (Some("array"), Kind::Seq(items)) => {
                let items = items.iter().enumerate().filter_map(|(index, item)| {
                    self.value(item, &schema["items"], &path::element(path, index), item.start.line)
                });
                Some(items.collect())
            }
            (Some("string"), Kind::Scalar(Scalar::Str(text))) => self.string(text, schema, path, line),
            (Some("integer"), Kind::Scalar(Scalar::Int(value))) => self.integer(*value, schema, path, line),
            _ => {
                self.wrong_type(node, schema, path, line);
                None
            }
        }
    }

    fn object(&mut self, node: &Node, schema: &Value, path: &str, line: usize) -> Option<Value> {
        let Kind::Map(entries) = &node.kind else { return None };
        let mut object = Map::new();
        for entry in entries {
            let field = path::child(path, &entry.key);
            let Some(inner) = schema.pointer(&format!("/properties/{}", pointer(&entry.key))) else {
                self.unknown(&entry.key, schema, path, entry.line);
                continue;
            };
            if entry.value.is_null() {
                continue;
            }
            if let Some(value) = self.value(&entry.value, inner, &field, entry.line) {
                object.insert(entry.key.clone(), value);
            }
        }
        for (name, inner) in schema::properties(schema) {
            let given = node.get(name).is_some_and(|entry| !entry.value.is_null());
            if schema::is_required(schema, name) && !given {
                let line = node.get(name).map_or(line, |entry| entry.line);
                self.report
                    .fault(line, path::child(path, name), format!("missing: {}", purpose(inner)));
            }
        }
        Some(Value::Object(object))
    }

    /// A mapping with free keys.
    fn dictionary(&mut self, node: &Node, schema: &Value, path: &str) -> Option<Value> {
        let Kind::Map(entries) = &node.kind else { return None };
        let mut object = Map::new();
        for entry in entries {
            if let Some(value) = self.value(&entry.value, schema, &path::child(path, &entry.key), entry.line) {
                object.insert(entry.key.clone(), value);
            }
        }
        Some(Value::Object(object))
    }

    fn string(&mut self, text: &str, schema: &Value, path: &str, line: usize) -> Option<Value> {
        if let Some(allowed) = schema.get("enum").and_then(Value::as_array)
            && !allowed.iter().any(|allowed| allowed == text)
        {
            let names: Vec<&str> = allowed.iter().filter_map(Value::as_str).collect();
            let hint = suggest::nearest(text, names.iter().copied())
                .map_or(String::new(), |meant| format!("; did you mean `{meant}`?"));
            let message = format!("found `{text}`, allowed are {}{hint}", suggest::list(names));
            self.report.fault(line, path, message);
            return None;
        }
        Some(text.into())
    }

    fn integer(&mut self, value: i64, schema: &Value, path: &str, line: usize) -> Option<Value> {
        let (min, max) = bounds(schema);
        if min.is_some_and(|min| value < min) || max.is_some_and(|max| value > max) {
            self.report
                .fault(line, path, format!("found {value}, allowed is {}", range(schema)));
            return None;
        }
        Some(value.into())
    }

    fn quantity(&mut self, node: &Node, path: &str, line: usize) -> Option<Value> {
        let text = match &node.kind {
            Kind::Scalar(Scalar::Str(text)) => text.clone(),
            Kind::Scalar(Scalar::Int(value)) => value.to_string(),
            Kind::Scalar(Scalar::Float(value)) => value.to_string(),
            _ => String::new(),
        };
        if crate::quantity::parse(&text).is_ok() {
            Some(node.to_json())
        } else {
            let message = format!(
                "found {}, expected a quantity of 0 or more such as `2`, `500m` or `2Gi`",
                found(node)
            );
            self.report.fault(line, path, message);
            None
        }
    }

    fn unknown(&mut self, key: &str, schema: &Value, path: &str, line: usize) {
        let field = path::child(path, key);
        let shape = path::shape(path);
        if let Some(group) = known::find(&shape, key) {
            match group.severity {
                Severity::Warning => self.report.warning(line, field, group.message),
                Severity::Fault => self.report.fault(line, field, group.message),
            }
            return;
        }
        let supported: Vec<&str> = schema::properties(schema).map(|(name, _)| name.as_str()).collect();
        let mut candidates = supported.clone();
        for name in known::names(&shape) {
            candidates.push(name);
        }
        let remedy = match elsewhere(key).or_else(|| suggest::nearest(key, candidates).map(str::to_owned)) {
            Some(meant) => format!("did you mean `{meant}`?"),
            None => format!("known here are {}", suggest::list(supported)),
        };
        self.report.fault(line, field, format!("unknown field; {remedy}"));
    }

    fn wrong_type(&mut self, node: &Node, schema: &Value, path: &str, line: usize) {
        let remedy = match (&node.kind, schema.get("type").and_then(Value::as_str)) {
            (Kind::Scalar(Scalar::Int(value)), Some("string")) => format!(": write \"{value}\""),
            (Kind::Scalar(Scalar::Float(value)), Some("string")) => format!(": write \"{value}\""),
            (Kind::Scalar(Scalar::Bool(value)), Some("string")) => format!(": write \"{value}\""),
            (Kind::Scalar(Scalar::Str(text)), Some("integer")) if text.parse::<i64>().is_ok() => {
                format!(": write {text} without quotes")
            }
            _ => String::new(),
        };
        let message = format!("found {}, expected {}{remedy}", found(node), expected(schema));
        self.report.fault(line, path, message);
    }
}

/// Where in the document a field of this name belongs, if there is one such place.
fn elsewhere(key: &str) -> Option<String> {
    let places: Vec<String> = schema::fields()
        .into_iter()
        .map(|(path, _)| path)
        .filter(|path| path.rsplit('.').next() == Some(key) && !path.starts_with("spec.predictor.onnx"))
        .collect();
    match places.as_slice() {
        [one] => Some(one.clone()),
        _ => None,
    }
}

/// The first sentence of the field's description.
fn purpose(schema: &Value) -> String {
    let text = schema
        .get("description")
        .and_then(Value::as_str)
        .unwrap_or("this field is required");
    let end = text.find(". ").unwrap_or(text.len());
    format!(
        "expected {}, {}",
        expected(schema),
        lower_first(text[..end].trim_end_matches('.'))
    )
}

fn lower_first(text: &str) -> String {
    let mut chars = text.chars();
    chars
        .next()
        .map_or(String::new(), |first| first.to_lowercase().chain(chars).collect())
}

/// What was found, as a noun.
fn found(node: &Node) -> String {
    match &node.kind {
        Kind::Scalar(Scalar::Null) => "nothing".to_owned(),
        Kind::Scalar(Scalar::Bool(value)) => format!("the boolean {value}"),
        Kind::Scalar(Scalar::Int(value)) => format!("the integer {value}"),
        Kind::Scalar(Scalar::Float(value)) => format!("the number {value}"),
        Kind::Scalar(Scalar::Str(text)) => format!("the string {}", Fault::quote(text)),
        Kind::Seq(_) => "a list".to_owned(),
        Kind::Map(_) => "a mapping".to_owned(),
    }
}

/// What the schema wants, as a noun.
fn expected(schema: &Value) -> String {
    match schema.get("type").and_then(Value::as_str) {
        Some("object") if schema.get("properties").is_none() => "a mapping with free keys".to_owned(),
        Some("object") => {
            format!(
                "a mapping with {}",
                suggest::list(schema::properties(schema).map(|(name, _)| name.as_str()))
            )
        }
        Some("array") => "a list".to_owned(),
        Some("integer") => format!("an integer, {}", range(schema)),
        Some("string") => schema
            .get("enum")
            .and_then(Value::as_array)
            .map_or("a string".to_owned(), |allowed| {
                format!("one of {}", suggest::list(allowed.iter().filter_map(Value::as_str)))
            }),
        _ => "a value".to_owned(),
    }
}

fn bounds(schema: &Value) -> (Option<i64>, Option<i64>) {
    let bound = |key| schema.get(key).and_then(Value::as_f64).map(|bound| bound as i64);
    (bound("minimum"), bound("maximum"))
}

/// The bounds of an integer in words.
fn range(schema: &Value) -> String {
    match bounds(schema) {
        (Some(min), Some(max)) => format!("{min} to {max}"),
        (Some(min), None) => format!("{min} or more"),
        (None, Some(max)) => format!("{max} or less"),
        (None, None) => "any".to_owned(),
    }
}

/// A key as a JSON pointer's token.
fn pointer(key: &str) -> String {
    key.replace('~', "~0").replace('/', "~1")
}
