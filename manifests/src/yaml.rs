//! Writes a JSON value as block-style YAML.

use std::fmt::Write as _;

use serde_json::Value;

/// The value as YAML, ending in a newline.
pub(crate) fn write(value: &Value) -> String {
    let mut text = String::new();
    block(value, 0, &mut text);
    text
}

fn block(value: &Value, indent: usize, text: &mut String) {
    match value {
        Value::Object(object) if !object.is_empty() => {
            for (index, (key, value)) in object.iter().enumerate() {
                if index > 0 {
                    pad(indent, text);
                }
                text.push_str(&scalar(key));
                text.push(':');
                nested(value, indent + 2, text);
            }
        }
        Value::Array(items) if !items.is_empty() => {
            for (index, item) in items.iter().enumerate() {
                if index > 0 {
                    pad(indent, text);
                }
                text.push_str("- ");
                block(item, indent + 2, text);
            }
        }
        Value::String(string) => {
            let _ = writeln!(text, "{}", scalar(string));
        }
        other => {
            let _ = writeln!(text, "{other}");
        }
    }
}

/// A mapping's value: collections begin on the next line.
fn nested(value: &Value, indent: usize, text: &mut String) {
    let deeper = match value {
        Value::Object(object) => !object.is_empty(),
        Value::Array(items) => !items.is_empty(),
        _ => false,
    };
    if deeper {
        text.push('\n');
        pad(indent, text);
    } else {
        text.push(' ');
    }
    block(value, indent, text);
}

fn pad(indent: usize, text: &mut String) {
    text.extend(std::iter::repeat_n(' ', indent));
}

/// A string plain where no reader of YAML, 1.1 or 1.2, could take it for anything else, and quoted otherwise.
fn scalar(string: &str) -> String {
    let inner = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | '/');
    let reserved = ["true", "false", "null", "yes", "no", "on", "off", "y", "n"];
    let plain = string.starts_with(|c: char| c.is_ascii_alphabetic())
        && string.chars().all(inner)
        && !reserved.contains(&string.to_ascii_lowercase().as_str());
    if plain {
        string.to_owned()
    } else {
        Value::from(string).to_string()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;
    use crate::tree;

    #[test]
    fn reads_like_hand_written() {
        let value = json!({"a": {"b": [1, {"c": "x y", "d": []}], "e": {}}, "yes": "no"});
        assert_eq!(
            write(&value),
            "a:\n  b:\n    - 1\n    - c: \"x y\"\n      d: []\n  e: {}\n\"yes\": \"no\"\n"
        );
    }

    fn values() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            "[ -~äß]{0,12}".prop_map(Value::from),
        ];
        leaf.prop_recursive(4, 24, 4, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                prop::collection::btree_map("[a-zA-Z.:# -]{0,8}", inner, 0..4)
                    .prop_map(|object| object.into_iter().collect::<Value>()),
            ]
        })
    }

    proptest! {
        #[test]
        fn what_is_written_reads_back(value in values()) {
            let value = json!({ "value": value });
            let text = write(&value);
            let documents = tree::load(&text);
            prop_assert_eq!(documents.len(), 1, "{}", text);
            let root = documents[0].root.as_ref();
            prop_assert_eq!(root.map(tree::Node::to_json), Some(value), "{}", text);
        }
    }
}
