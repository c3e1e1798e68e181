//! The `CustomResourceDefinition`s of KEDA's kinds, made from the types, for clusters that have none of their own.

use schemars::{JsonSchema, generate::SchemaSettings};
use serde_json::{Value, json};

use super::{
    ClusterTriggerAuthenticationSpec, HttpScaledObjectSpec, InterceptorRouteSpec, ScaledObjectSpec, Spec,
    TriggerAuthenticationSpec,
};
use crate::{schema, yaml};

/// A `CustomResourceDefinition`.
#[derive(Clone, Debug, PartialEq)]
pub struct Definition {
    /// Its name, `interceptorroutes.http.keda.sh`.
    pub name: String,
    /// The object itself.
    pub object: Value,
}

impl Definition {
    /// As YAML, ending in a newline.
    pub fn yaml(&self) -> String {
        format!(
            "# Made by `pilotlight crds --keda`; do not edit.\n{}",
            yaml::write(&self.object)
        )
    }
}

/// The definitions of `HTTPScaledObject`, `InterceptorRoute`, `ScaledObject` and the two of authentication, with the add-on's and
/// KEDA's names, columns and status. Fields of KEDA's objects that have no effect here are kept by the API server, so that a KEDA
/// installed later finds them.
pub fn definitions() -> Vec<Definition> {
    vec![
        definition::<HttpScaledObjectSpec>(&json!(["httpso"]), &http_scaled_object_columns(), HTTP_DEFAULTS, &[]),
        definition::<InterceptorRouteSpec>(&json!([]), &interceptor_route_columns(), ROUTE_DEFAULTS, &[]),
        definition::<ScaledObjectSpec>(&json!(["so"]), &scaled_object_columns(), &[], OPEN),
        definition::<TriggerAuthenticationSpec>(&json!(["ta", "triggerauth"]), &secrets(), &[], &[""]),
        definition::<ClusterTriggerAuthenticationSpec>(&json!(["cta", "clustertriggerauth"]), &secrets(), &[], &[""]),
    ]
}

/// Defaults that the API server writes into objects, by JSON pointer below `spec` without `/properties`.
type Defaults = &'static [(&'static str, &'static str)];

const HTTP_DEFAULTS: Defaults = &[
    ("coldStartTimeoutFailoverRef/timeoutSeconds", "30"),
    ("scalingMetric/concurrency/targetValue", "100"),
    ("scalingMetric/requestRate/targetValue", "100"),
    ("scalingMetric/requestRate/window", "\"1m\""),
    ("scalingMetric/requestRate/granularity", "\"1s\""),
];

const ROUTE_DEFAULTS: Defaults = &[
    ("scalingMetric/requestRate/window", "\"1m\""),
    ("scalingMetric/requestRate/granularity", "\"1s\""),
    ("staticRoutes/*/responseMode", "\"WhenUnavailable\""),
];

/// Objects whose unknown fields are kept.
const OPEN: &[&str] = &[
    "",
    "scaleTargetRef",
    "fallback",
    "advanced",
    "advanced/horizontalPodAutoscalerConfig",
    "triggers/*",
    "triggers/*/authenticationRef",
];

fn definition<S: Spec + JsonSchema>(short: &Value, columns: &Value, defaults: Defaults, open: &[&str]) -> Definition {
    let mut spec = spec_schema::<S>();
    for (path, value) in defaults {
        if let (Some(Value::Object(field)), Ok(value)) = (spec.pointer_mut(&pointer(path)), serde_json::from_str(value))
        {
            field.insert("default".to_owned(), value);
        }
    }
    for path in open {
        if let Some(Value::Object(field)) = spec.pointer_mut(&pointer(path)) {
            field.insert("x-kubernetes-preserve-unknown-fields".to_owned(), true.into());
        }
    }
    let name = format!("{}.{}", S::PLURAL, S::GROUP);
    let kind = S::KIND;
    let object = json!({
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": { "name": name },
        "spec": {
            "group": S::GROUP,
            "names": {
                "kind": kind,
                "listKind": format!("{kind}List"),
                "plural": S::PLURAL,
                "shortNames": short,
                "singular": kind.to_ascii_lowercase(),
            },
            "scope": if S::CLUSTER { "Cluster" } else { "Namespaced" },
            "versions": [{
                "name": S::VERSION,
                "served": true,
                "storage": true,
                "subresources": { "status": {} },
                "additionalPrinterColumns": columns,
                "schema": { "openAPIV3Schema": {
                    "type": "object",
                    "required": ["spec"],
                    "properties": {
                        "apiVersion": { "type": "string" },
                        "kind": { "type": "string" },
                        "metadata": { "type": "object" },
                        "spec": spec,
                        "status": status(),
                    },
                } },
            }],
        },
    });
    Definition { name, object }
}

fn spec_schema<S: JsonSchema>() -> Value {
    let settings = SchemaSettings::draft07().with(|settings| {
        settings.inline_subschemas = true;
        settings.meta_schema = None;
    });
    let mut schema = settings.into_generator().into_root_schema_for::<S>().to_value();
    schema::simplify(&mut schema);
    flatten_enumerations(&mut schema);
    schema
}

/// Documented enumerations come as `oneOf` with a constant each; the API server wants one `enum`.
fn flatten_enumerations(schema: &mut Value) {
    match schema {
        Value::Object(object) => {
            if let Some(Value::Array(options)) = object.get("oneOf") {
                let values: Vec<Value> = options.iter().filter_map(constant).collect();
                object.remove("oneOf");
                object.insert("type".to_owned(), "string".into());
                object.insert("enum".to_owned(), values.into());
            }
            object.values_mut().for_each(flatten_enumerations);
        }
        Value::Array(items) => items.iter_mut().for_each(flatten_enumerations),
        _ => {}
    }
}

fn constant(option: &Value) -> Option<Value> {
    let single = || option.get("enum")?.get(0);
    option.get("const").or_else(single).cloned()
}

/// `a/*/b` as the pointer of the schema of field `b` in the items of list `a`.
fn pointer(path: &str) -> String {
    path.split('/')
        .filter(|part| !part.is_empty())
        .map(|part| match part {
            "*" => "/items".to_owned(),
            field => format!("/properties/{field}"),
        })
        .collect()
}

fn status() -> Value {
    json!({ "type": "object", "x-kubernetes-preserve-unknown-fields": true })
}

fn column(name: &str, kind: &str, path: &str) -> Value {
    json!({ "name": name, "type": kind, "jsonPath": path })
}

fn ready() -> Value {
    column("Ready", "string", ".status.conditions[?(@.type==\"Ready\")].status")
}

fn age() -> Value {
    column("Age", "date", ".metadata.creationTimestamp")
}

fn secrets() -> Value {
    json!([column("Secret", "string", ".spec.secretTargetRef[*].name"), age()])
}

fn http_scaled_object_columns() -> Value {
    json!([
        column("TargetWorkload", "string", ".status.targetWorkload"),
        column("TargetService", "string", ".status.targetService"),
        column("MinReplicas", "integer", ".spec.replicas.min"),
        column("MaxReplicas", "integer", ".spec.replicas.max"),
        age(),
        ready(),
    ])
}

fn interceptor_route_columns() -> Value {
    json!([
        column("TargetService", "string", ".spec.target.service"),
        ready(),
        age()
    ])
}

fn scaled_object_columns() -> Value {
    json!([
        column("ScaleTargetKind", "string", ".status.scaleTargetKind"),
        column("ScaleTargetName", "string", ".spec.scaleTargetRef.name"),
        column("Min", "integer", ".spec.minReplicaCount"),
        column("Max", "integer", ".spec.maxReplicaCount"),
        ready(),
        column("Active", "string", ".status.conditions[?(@.type==\"Active\")].status"),
        column(
            "Fallback",
            "string",
            ".status.conditions[?(@.type==\"Fallback\")].status"
        ),
        column("Paused", "string", ".status.conditions[?(@.type==\"Paused\")].status"),
        age(),
    ])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_schemas_are_structural() {
        fn check(path: &str, schema: &Value) {
            let object = schema.as_object().expect(path);
            assert!(object.get("type").is_some_and(Value::is_string), "{path}: {schema}");
            for key in [
                "$ref",
                "oneOf",
                "anyOf",
                "allOf",
                "$defs",
                "definitions",
                "not",
                "const",
            ] {
                assert!(!object.contains_key(key), "{path} has {key}");
            }
            for (name, field) in schema::properties(schema) {
                check(&format!("{path}.{name}"), field);
            }
            for key in ["items", "additionalProperties"] {
                if let Some(inner) = object.get(key).filter(|inner| inner.is_object()) {
                    check(&format!("{path}.{key}"), inner);
                }
            }
        }
        for Definition { name, object } in definitions() {
            check(&name, &object["spec"]["versions"][0]["schema"]["openAPIV3Schema"]);
        }
    }

    #[test]
    fn defaults_are_those_of_the_add_on() {
        let definitions = definitions();
        for (index, defaults) in [(0, HTTP_DEFAULTS), (1, ROUTE_DEFAULTS)] {
            let schema = &definitions[index].object["spec"]["versions"][0]["schema"]["openAPIV3Schema"];
            for (path, value) in defaults {
                let field = schema
                    .pointer(&format!("/properties/spec{}", pointer(path)))
                    .expect(path);
                assert_eq!(
                    field["default"],
                    serde_json::from_str::<Value>(value).unwrap(),
                    "{path}"
                );
            }
        }
    }
}
