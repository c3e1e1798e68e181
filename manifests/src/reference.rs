//! The tables of `manifests/README.md`, made from the code, so that the reference can't fall behind it.

use std::fmt::Write as _;

use serde_json::Value;

use crate::{annotations, known, known::Severity, schema};

/// Every supported field with its type, bounds and meaning, as a Markdown table.
pub fn fields_table() -> String {
    let mut text = String::from("| field | type | meaning |\n|---|---|---|\n");
    for (path, field) in schema::fields() {
        let description = field.get("description").and_then(Value::as_str).unwrap_or_default();
        let (parent, name) = path.rsplit_once('.').unwrap_or(("", &path));
        let required = schema_at(parent).is_some_and(|parent| schema::is_required(parent, name));
        let required = if required { ", required" } else { "" };
        let _ = writeln!(text, "| `{path}` | {}{required} | {description} |", kind(field));
    }
    text
}

/// Every annotation with what is allowed, its default and effect, as Markdown.
pub fn annotations_table() -> String {
    annotations::markdown()
}

/// Every field of KServe that is known and has no effect, as a Markdown list.
pub fn known_table() -> String {
    let mut text = String::new();
    for group in known::GROUPS {
        let severity = if group.severity == Severity::Fault {
            "fault"
        } else {
            "warning"
        };
        let parent = if group.parent.is_empty() {
            "the document"
        } else {
            group.parent
        };
        let fields = group
            .fields
            .iter()
            .map(|field| format!("`{field}`"))
            .collect::<Vec<_>>()
            .join(", ");
        let _ = writeln!(text, "- in `{parent}`, {severity}: {fields} ({})", group.message);
    }
    text
}

fn schema_at(path: &str) -> Option<&'static Value> {
    if path.is_empty() {
        return Some(schema::inference_service());
    }
    let (_, found) = schema::fields()
        .into_iter()
        .find(|(field, _)| field == path.trim_end_matches("[]"))?;
    if path.ends_with("[]") {
        found.get("items")
    } else {
        Some(found)
    }
}

/// The type in a word, with the bounds of integers and the names of enumerations.
fn kind(field: &Value) -> String {
    if field.get("x-kubernetes-int-or-string").is_some() {
        return "quantity".to_owned();
    }
    let bound = |key| field.get(key).and_then(Value::as_f64);
    let name = field.get("type").and_then(Value::as_str).unwrap_or_default();
    match (
        name,
        bound("minimum"),
        bound("maximum"),
        field.get("enum").and_then(Value::as_array),
    ) {
        (_, Some(min), Some(max), _) => format!("{name}, {min} to {max}"),
        (_, _, _, Some(names)) => names
            .iter()
            .filter_map(Value::as_str)
            .map(|name| format!("`{name}`"))
            .collect::<Vec<_>>()
            .join(", "),
        ("object", ..) if field.get("properties").is_none() => "map".to_owned(),
        ("array", ..) => "list".to_owned(),
        _ => name.to_owned(),
    }
}
