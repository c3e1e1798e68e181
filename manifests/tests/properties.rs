//! Promises of the parser for any text, and for every service that it makes.

use std::path::Path;

use pilotlight_manifests::{Parsed, Storage, absolute, check_set, parse};
use proptest::prelude::*;

const FILE: &str = "/srv/models.yaml";

/// What holds of any outcome.
fn check(text: &str, parsed: &Parsed) -> Result<(), TestCaseError> {
    let lines = text.lines().count().max(1);
    for fault in parsed.faults.iter().chain(&parsed.warnings) {
        prop_assert!((1..=lines).contains(&fault.line), "{fault} in {lines} lines");
        prop_assert!(!fault.to_string().contains('\n'), "{fault}");
    }
    for service in &parsed.services {
        prop_assert!((1..=lines).contains(&service.source.line));
        let Storage::Local(path) = &service.storage else {
            continue;
        };
        prop_assert!(path.is_absolute());
    }
    check_set(&parsed.services, "example.com");
    Ok(())
}

/// Fragments of manifests in any order and depth: reaches the checks far more often than arbitrary text does.
fn fragments() -> impl Strategy<Value = String> {
    let line = prop_oneof![
        Just("apiVersion: serving.kserve.io/v1beta1".to_owned()),
        Just("kind: InferenceService".to_owned()),
        Just("metadata:".to_owned()),
        Just("name: iris".to_owned()),
        Just("annotations: {autoscaling.knative.dev/window: 10s, pilotlight.dev/pure: maybe}".to_owned()),
        Just("spec:".to_owned()),
        Just("predictor:".to_owned()),
        Just("minReplicas: 0".to_owned()),
        Just("batcher: {maxBatchSize: \"8\", timeout: 3}".to_owned()),
        Just("model: &m {modelFormat: {name: onnx}, storageUri: m.onnx, env: [{name: A, value: 1}]}".to_owned()),
        Just("onnx: *m".to_owned()),
        Just("<<: *m".to_owned()),
        Just("---".to_owned()),
        Just("- x: |".to_owned()),
        "[ -~]{0,20}",
    ];
    let indented = (0usize..4, line).prop_map(|(depth, line)| {
        if line == "---" {
            line
        } else {
            format!("{}{line}", "  ".repeat(depth))
        }
    });
    prop::collection::vec(indented, 0..16).prop_map(|lines| lines.join("\n"))
}

/// A right manifest with one of its characters replaced.
fn mutations() -> impl Strategy<Value = String> {
    let good = include_str!("good.yaml");
    (0..good.chars().count(), any::<char>()).prop_map(move |(at, new)| {
        good.chars()
            .enumerate()
            .map(|(index, old)| if index == at { new } else { old })
            .collect()
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn any_text_is_survived(text in "\\PC{0,200}|[ -~\n\t]{0,200}|[-{}\\[\\]:,&*!|>'\"%@`#? \n\ta-c]{0,80}") {
        check(&text, &parse(&text, Path::new(FILE)))?;
        absolute(&text, Path::new("/base"));
    }

    #[test]
    fn any_bytes_are_survived(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let text = String::from_utf8_lossy(&bytes);
        check(&text, &parse(&text, Path::new(FILE)))?;
    }

    #[test]
    fn fragments_of_manifests_are_survived(text in fragments()) {
        check(&text, &parse(&text, Path::new(FILE)))?;
    }

    #[test]
    fn a_damaged_manifest_is_a_service_or_a_fault(text in mutations()) {
        let parsed = parse(&text, Path::new(FILE));
        check(&text, &parsed)?;
        prop_assert!(!parsed.services.is_empty() || !parsed.faults.is_empty() || !parsed.warnings.is_empty());
    }

    #[test]
    fn making_paths_absolute_changes_no_service(text in prop_oneof![fragments(), mutations()]) {
        let here = parse(&text, Path::new(FILE));
        let there = parse(&absolute(&text, Path::new("/srv")), Path::new("/elsewhere/models.yaml"));
        let storages = |parsed: &Parsed| parsed.services.iter().map(|service| service.storage.clone()).collect::<Vec<_>>();
        prop_assert_eq!(storages(&here), storages(&there));
    }

    #[test]
    fn the_object_of_a_service_is_a_manifest_of_the_same_service(text in prop_oneof![fragments(), mutations()]) {
        for service in parse(&text, Path::new(FILE)).services {
            let again = parse(&service.object.to_string(), Path::new(FILE)).services.pop();
            prop_assert_eq!(again.map(|mut again| { again.source = service.source.clone(); again }), Some(service));
        }
    }
}

#[test]
fn small_texts_that_unfold_into_large_ones_are_refused() {
    let mut bomb = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n".to_owned();
    for level in 1..9 {
        let alias = format!("*a{}", level - 1);
        bomb = format!("{bomb}a{level}: &a{level} [{}]\n", vec![alias; 10].join(", "));
    }
    let parsed = parse(&bomb, Path::new(FILE));
    assert!(parsed.faults[0].message.contains("50000 values"), "{:?}", parsed.faults);

    let deep = "[".repeat(100);
    let parsed = parse(&deep, Path::new(FILE));
    assert!(
        parsed.faults[0].message.contains("within each other"),
        "{:?}",
        parsed.faults
    );
}
