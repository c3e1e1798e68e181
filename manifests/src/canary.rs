//! The canaries of an InferenceService: a share of requests for the predictor as it stands (`canaryTrafficPercent`), or KServe's
//! newer `spec.canary[]`, each entry a predictor of its own.
//!
//! Rules between the entries are KServe's: names of their own, 100 % at most in all, no bounds and targets of scaling of their own,
//! no more replicas promised than the stable one promises. The scaling that an entry may not set is the stable predictor's.

use std::collections::BTreeSet;

use serde_json::{Map, Value};

use crate::{
    Canary, Fault, Parsed, Service,
    cluster::fault,
    kubernetes::{CANARY, canary_name_limit, is_name},
};

/// What an entry of `canary[]` may not say; it goes by what the stable predictor says.
const INHERITED: [&str; 5] = ["maxReplicas", "scaleTarget", "scaleMetric", "autoScaling", "workerSpec"];

/// The canaries of an object. `parse` reads a document without canaries; what is wrong goes to `faults`.
pub(crate) fn canaries(object: &Value, parse: impl Fn(&Value) -> Parsed, faults: &mut Vec<Fault>) -> Vec<Canary> {
    let entries = object.pointer("/spec/canary").and_then(Value::as_array);
    let percent = traffic_percent(object, faults);
    match (entries.filter(|entries| !entries.is_empty()), percent) {
        (Some(entries), _) => from_entries(object, entries, parse, faults),
        (None, Some(percent)) if percent < 100 => vec![Canary {
            name: CANARY.to_owned(),
            percent,
            service: None,
        }],
        (None, _) => Vec::new(),
    }
}

/// No canary promises more replicas than the stable predictor.
pub(crate) fn check(stable: &Service, canaries: &[Canary], faults: &mut Vec<Fault>) {
    for (at, canary) in canaries.iter().enumerate() {
        let promised = canary
            .service
            .as_ref()
            .map_or(0, |service| service.scaling.min_replicas);
        if promised > stable.scaling.min_replicas {
            let allowed = stable.scaling.min_replicas;
            let message = format!("found {promised}, allowed is at most spec.predictor.minReplicas, {allowed}");
            faults.push(fault(&format!("spec.canary[{at}].predictor.minReplicas"), message));
        }
    }
}

/// The share of `canaryTrafficPercent`.
fn traffic_percent(object: &Value, faults: &mut Vec<Fault>) -> Option<u8> {
    let value = object
        .pointer("/spec/predictor/canaryTrafficPercent")
        .filter(|value| !value.is_null())?;
    percent(value).or_else(|| {
        faults.push(fault(
            "spec.predictor.canaryTrafficPercent",
            format!("found {value}, allowed is 0 to 100"),
        ));
        None
    })
}

fn percent(value: &Value) -> Option<u8> {
    let percent = value.as_u64().filter(|percent| *percent <= 100)?;
    u8::try_from(percent).ok()
}

fn from_entries(
    object: &Value,
    entries: &[Value],
    parse: impl Fn(&Value) -> Parsed,
    faults: &mut Vec<Fault>,
) -> Vec<Canary> {
    let text = |pointer: &str| object.pointer(pointer).and_then(Value::as_str);
    let (service, stable) = (text("/metadata/name").unwrap_or_default(), text("/spec/predictor/name"));
    let mut names: BTreeSet<&str> = stable.into_iter().collect();
    let mut canaries = Vec::new();
    for (at, entry) in entries.iter().enumerate() {
        let field = |name: &str| format!("spec.canary[{at}].{name}");
        let name = match name_of(entry, service) {
            Ok(name) if names.insert(name) => name.to_owned(),
            Ok(name) => {
                let message = format!("found {name}, which is another predictor's name");
                faults.push(fault(&field("predictor.name"), message));
                continue;
            }
            Err(message) => {
                faults.push(fault(&field("predictor.name"), message));
                continue;
            }
        };
        let Some(percent) = entry.get("trafficPercent").and_then(percent) else {
            faults.push(fault(&field("trafficPercent"), "missing or no integer of 0 to 100"));
            continue;
        };
        let before = faults.len();
        for key in INHERITED.iter().filter(|key| entry["predictor"].get(**key).is_some()) {
            let message = "a canary goes by what the stable predictor says: remove it";
            faults.push(fault(&field(&format!("predictor.{key}")), message));
        }
        let mut parsed = parse(&document(object, entry));
        for fault in &mut parsed.faults {
            let own = format!("spec.canary[{at}].predictor");
            fault.field = fault.field.replacen("spec.predictor", &own, 1);
        }
        faults.append(&mut parsed.faults);
        if let (Some(service), true) = (parsed.services.pop(), faults.len() == before) {
            canaries.push(Canary {
                name,
                percent,
                service: Some(Box::new(service)),
            });
        }
    }
    let sum: u32 = canaries.iter().map(|canary| u32::from(canary.percent)).sum();
    if sum > 100 {
        let message = format!("the shares are {sum} % in all, allowed is at most 100");
        faults.push(fault("spec.canary", message));
    }
    canaries
}

/// The name of an entry, or what is wrong with it.
fn name_of<'a>(entry: &'a Value, service: &str) -> Result<&'a str, String> {
    let name = entry.pointer("/predictor/name").and_then(Value::as_str);
    let name = name.ok_or("missing: every canary has a name")?;
    if !is_name(name) {
        return Err(format!(
            "found {name}, allowed is a-z, 0-9 and -, beginning and ending with a letter or digit"
        ));
    }
    let limit = canary_name_limit(service);
    if name.len() > limit {
        return Err(format!(
            "found {} characters, allowed beside {service} are {limit}",
            name.len()
        ));
    }
    Ok(name)
}

/// The object with the entry in the place of its predictor, and with the scaling that the entry goes by.
fn document(object: &Value, entry: &Value) -> Value {
    let mut document = object.clone();
    let mut predictor: Map<String, Value> = entry["predictor"].as_object().cloned().unwrap_or_default();
    predictor.remove("name");
    for key in INHERITED {
        let stable = object.pointer(&format!("/spec/predictor/{key}"));
        predictor.extend(stable.map(|value| (key.to_owned(), value.clone())));
    }
    // KServe's default for the stable predictor must not make a canary promise more than it.
    if let (None, Some(stable)) = (
        predictor.get("minReplicas"),
        object.pointer("/spec/predictor/minReplicas"),
    ) {
        predictor.insert("minReplicas".to_owned(), stable.clone());
    }
    if let Some(spec) = document.get_mut("spec").and_then(Value::as_object_mut) {
        spec.insert("predictor".to_owned(), predictor.into());
        spec.remove("canary");
    }
    document
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use crate::{Parsed, Storage, parse_object};

    use super::*;

    fn object(predictor: Value, canaries: Value) -> Value {
        json!({
            "apiVersion": "serving.kserve.io/v1beta1", "kind": "InferenceService",
            "metadata": { "name": "iris", "namespace": "shop" },
            "spec": { "predictor": predictor, "canary": canaries },
        })
    }

    fn predictor(name: &str, file: &str) -> Value {
        json!({
            "name": name, "minReplicas": 1,
            "model": { "modelFormat": { "name": "onnx" }, "storageUri": format!("pvc://models/{file}") },
        })
    }

    fn parsed(canaries: Value) -> Parsed {
        let mut stable = predictor("first", "iris.onnx");
        stable["maxReplicas"] = 7.into();
        parse_object(&object(stable, canaries))
    }

    fn entry(name: &str, percent: u32) -> Value {
        json!({ "trafficPercent": percent, "predictor": predictor(name, "next.onnx") })
    }

    fn faults(canaries: Value) -> Vec<String> {
        let parsed = parsed(canaries);
        assert!(parsed.services.is_empty());
        let faults = parsed.faults.iter();
        faults
            .map(|fault| format!("{}: {}", fault.field, fault.message))
            .collect()
    }

    #[test]
    fn several_canaries_have_names_shares_and_models_of_their_own_and_the_scaling_of_the_stable_one() {
        let mut next = entry("next", 20);
        next["predictor"]["minReplicas"] = 0.into();
        let parsed = parsed(json!([next, entry("dark", 0)]));
        assert_eq!(parsed.faults, []);
        let canaries = &parsed.services[0].cluster.canaries;
        let told: Vec<_> = canaries.iter().map(|one| (one.name.as_str(), one.percent)).collect();
        assert_eq!(told, [("next", 20), ("dark", 0)]);
        let service = canaries[0].service.as_ref().unwrap();
        assert_eq!(
            (service.scaling.min_replicas, service.scaling.max_replicas),
            (0, Some(7))
        );
        let claim = Storage::Claim {
            claim: "models".into(),
            path: "next.onnx".into(),
        };
        assert_eq!(service.storage, claim);
    }

    #[test]
    fn shares_past_the_whole_names_met_twice_and_scaling_of_their_own_are_faults() {
        assert_eq!(
            faults(json!([entry("a", 60), entry("b", 41)])),
            ["spec.canary: the shares are 101 % in all, allowed is at most 100"]
        );
        let twice = "which is another predictor's name";
        for (one, other) in [("a", "a"), ("a", "first")] {
            let told = faults(json!([entry(one, 1), entry(other, 1)]));
            assert_eq!(told, [format!("spec.canary[1].predictor.name: found {other}, {twice}")]);
        }
        let mut bounded = entry("a", 1);
        bounded["predictor"]["maxReplicas"] = 2.into();
        assert!(faults(json!([bounded]))[0].starts_with("spec.canary[0].predictor.maxReplicas: a canary goes by"));
        let mut promising = entry("a", 1);
        promising["predictor"]["minReplicas"] = 2.into();
        assert_eq!(
            faults(json!([promising])),
            ["spec.canary[0].predictor.minReplicas: found 2, allowed is at most spec.predictor.minReplicas, 1"]
        );
    }

    #[test]
    fn a_canary_without_a_name_that_makes_a_label_is_a_fault() {
        let mut nameless = entry("a", 1);
        nameless["predictor"].as_object_mut().unwrap().remove("name");
        assert!(faults(json!([nameless]))[0].contains("missing: every canary has a name"));
        assert!(faults(json!([entry("A.b", 1)]))[0].contains("found A.b"));
        assert!(faults(json!([entry(&"a".repeat(59), 1)]))[0].contains("found 59 characters"));
    }
}
