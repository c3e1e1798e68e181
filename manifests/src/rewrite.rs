//! Makes the relative paths of a text of manifests absolute, and leaves every other byte as it is.

use std::{ops::Range, path::Path};

use crate::{
    storage,
    tree::{self, Node, Position},
};

/// `text` with every relative `storageUri` made absolute against the directory `base`; all else, comments and lines included,
/// stays as it is. What can't be read as YAML stays too: `parse` says what is wrong with it. A path written as a block scalar
/// (`|`, `>`) or that is no Unicode is left alone.
pub fn absolute(text: &str, base: &Path) -> String {
    let mut edits: Vec<(Range<usize>, String)> = tree::load(text)
        .iter()
        .filter_map(|document| document.root.as_ref())
        .flat_map(|root| ["model", "onnx"].map(|key| storage_uri(root, key)))
        .flatten()
        .filter(|node| node.inline)
        .filter_map(|node| {
            let path = storage::absolute_uri(node.as_str()?, base)?;
            // JSON's strings are YAML's double-quoted ones.
            Some((
                offset(text, node.start)?..offset(text, node.end)?,
                serde_json::Value::from(path).to_string(),
            ))
        })
        .collect();
    // From the end on, so that the offsets before stay right; an alias may lead to one place twice.
    edits.sort_by_key(|(range, _)| std::cmp::Reverse(range.start));
    edits.dedup_by_key(|(range, _)| range.start);
    let mut text = text.to_owned();
    for (range, path) in edits {
        text.replace_range(range, &path);
    }
    text
}

fn storage_uri<'a>(root: &'a Node, key: &str) -> Option<&'a Node> {
    ["spec", "predictor", key, "storageUri"]
        .iter()
        .try_fold(root, |node, key| node.get(key).map(|entry| &entry.value))
}

/// The byte at which a position of the parser is.
fn offset(text: &str, position: Position) -> Option<usize> {
    let line_start = match position.line.checked_sub(2) {
        Some(newlines) => text.match_indices('\n').nth(newlines)?.0 + 1,
        None => text.len() - text.strip_prefix('\u{feff}').unwrap_or(text).len(),
    };
    let line = &text[line_start..];
    let within = line
        .char_indices()
        .map(|(at, _)| at)
        .chain([line.len()])
        .nth(position.column)?;
    Some(line_start + within)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn manifest(uri: &str) -> String {
        format!("# Größe\nspec:\n  predictor:\n    model: {{storageUri: {uri}}} # ü\n")
    }

    #[test]
    fn relative_paths_become_absolute_and_nothing_else_changes() {
        let base = Path::new("/srv/möbel");
        for uri in [
            "iris.onnx",
            "'./iris.onnx'",
            "\"iris.onnx\"",
            "&here iris.onnx",
            "!!str iris.onnx",
        ] {
            let text = absolute(&manifest(uri), base);
            let written = text.lines().nth(3).unwrap_or_default();
            assert!(written.contains("\"/srv/möbel/iris.onnx\"}"), "{uri}: {text}");
            assert!(
                text.starts_with("# Größe\nspec:\n") && text.ends_with("} # ü\n"),
                "{uri}: {text}"
            );
        }
    }

    #[test]
    fn every_document_is_rewritten() {
        let text = format!("{}---\n{}", manifest("a.onnx"), manifest("b.onnx"));
        let text = absolute(&text, Path::new("/srv"));
        assert!(
            text.contains("\"/srv/a.onnx\"") && text.contains("\"/srv/b.onnx\""),
            "{text}"
        );
    }

    #[test]
    fn what_is_not_relative_stays() {
        for text in [
            manifest("/abs.onnx"),
            manifest("file:///x"),
            manifest("s3://b/x"),
            "a: [".to_owned(),
            String::new(),
        ] {
            assert_eq!(absolute(&text, Path::new("/srv")), text);
        }
    }

    #[test]
    fn an_alias_is_replaced_where_it_stands() {
        let text = "a: &uri x.onnx\nspec: {predictor: {model: {storageUri: *uri }}}\n";
        let expected = "a: &uri x.onnx\nspec: {predictor: {model: {storageUri: \"/srv/x.onnx\" }}}\n";
        assert_eq!(absolute(text, Path::new("/srv")), expected);
    }
}
