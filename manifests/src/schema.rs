//! The schema of an `InferenceService`, made from the types of [`v1beta1`](crate::v1beta1), in the form that Kubernetes calls
//! structural: no references, one type a value, enumerations as `enum`.

use std::sync::LazyLock;

use schemars::{JsonSchema, generate::SchemaSettings};
use serde_json::{Map, Value};

use crate::v1beta1::InferenceService;

static SCHEMA: LazyLock<Value> = LazyLock::new(structural::<InferenceService>);

/// The schema of a type in structural form.
pub(crate) fn structural<T: JsonSchema>() -> Value {
    let settings = SchemaSettings::draft07().with(|settings| {
        settings.inline_subschemas = true;
        settings.meta_schema = None;
    });
    let mut schema = settings.into_generator().into_root_schema_for::<T>().to_value();
    simplify(&mut schema);
    schema
}

/// The schema of the whole document.
pub(crate) fn inference_service() -> &'static Value {
    &SCHEMA
}

/// The schema's properties; empty where it is no object.
pub(crate) fn properties(schema: &Value) -> impl Iterator<Item = (&String, &Value)> {
    schema
        .get("properties")
        .and_then(Value::as_object)
        .into_iter()
        .flatten()
}

/// Whether `name` has to be given.
pub(crate) fn is_required(schema: &Value, name: &str) -> bool {
    let required = schema.get("required").and_then(Value::as_array);
    required.is_some_and(|names| names.iter().any(|required| required == name))
}

/// Every field of the schema with its path (indices left out), parents first.
pub(crate) fn fields() -> Vec<(String, &'static Value)> {
    let mut fields = Vec::new();
    collect(inference_service(), "", &mut fields);
    fields
}

fn collect(schema: &'static Value, path: &str, fields: &mut Vec<(String, &'static Value)>) {
    for (name, field) in properties(schema) {
        let path = crate::path::child(path, name);
        fields.push((path.clone(), field));
        collect(field, &path, fields);
        if let Some(items) = field.get("items") {
            collect(items, &format!("{path}[]"), fields);
        }
    }
}

/// Brings what the generator makes of `Option`, integers and documented enumerations into structural form.
pub(crate) fn simplify(schema: &mut Value) {
    let Value::Object(object) = schema else { return };
    for key in ["title", "default", "format", "$schema", "nullable"] {
        object.remove(key);
    }
    drop_null(object);
    if let Some(Value::String(text)) = object.get_mut("description") {
        *text = text.split_whitespace().collect::<Vec<_>>().join(" ");
    }
    for key in ["properties"] {
        if let Some(Value::Object(children)) = object.get_mut(key) {
            children.values_mut().for_each(simplify);
        }
    }
    for key in ["items", "additionalProperties"] {
        object.get_mut(key).into_iter().for_each(simplify);
    }
}

/// `T or null` becomes `T`: Kubernetes reads a null as "not given".
fn drop_null(object: &mut Map<String, Value>) {
    if let Some(Value::Array(types)) = object.get_mut("type") {
        types.retain(|name| name != "null");
        if let [one] = types.as_slice() {
            let one = one.clone();
            object.insert("type".to_owned(), one);
        }
    }
    if let Some(Value::Array(values)) = object.get_mut("enum") {
        values.retain(|value| !value.is_null());
    }
    let Some(Value::Array(mut options)) = object.remove("anyOf") else {
        return;
    };
    options.retain(|option| option.get("type") != Some(&Value::from("null")));
    match (options.len(), options.pop()) {
        (1, Some(Value::Object(only))) => {
            for (key, value) in only {
                object.entry(key).or_insert(value);
            }
            drop_null(object);
        }
        (_, Some(last)) => {
            options.push(last);
            object.insert("anyOf".to_owned(), Value::Array(options));
        }
        (_, None) => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_schema_is_structural() {
        fn check(path: &str, schema: &Value) {
            let object = schema.as_object().expect(path);
            let int_or_string = object.contains_key("x-kubernetes-int-or-string");
            assert!(int_or_string || object["type"].is_string(), "{path}: {schema}");
            for key in ["$ref", "oneOf", "allOf", "$defs", "definitions", "not"] {
                assert!(!object.contains_key(key), "{path} has {key}");
            }
            for (name, field) in properties(schema) {
                check(&format!("{path}.{name}"), field);
            }
            for key in ["items", "additionalProperties"] {
                if let Some(inner) = object.get(key).filter(|inner| inner.is_object()) {
                    check(&format!("{path}.{key}"), inner);
                }
            }
        }
        check("", inference_service());
    }

    #[test]
    fn every_field_says_what_it_is_for() {
        for (path, field) in fields() {
            assert!(field.get("description").is_some(), "{path} has no description");
        }
    }

    #[test]
    fn optional_enumerations_keep_their_values() {
        let (_, metric) = fields()
            .into_iter()
            .find(|(path, _)| path == "spec.predictor.scaleMetric")
            .expect("field");
        assert_eq!(
            metric["enum"],
            serde_json::json!(["concurrency", "rps", "cpu", "memory"])
        );
    }
}
