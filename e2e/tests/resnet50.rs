//! A model of the size that people expect a platform to carry: ResNet50, 100 MB of weights.

use std::{fs, path::Path};

use pilotlight_e2e::{
    Manifest, Up,
    client::{self, output},
    python,
};
use serde_json::Value;

#[tokio::test]
async fn resnet50_scores_an_image_as_onnxruntime_does() {
    let up = Up::with([]).await;
    python::script("resnet50.py", &[up.scratch()], b"");
    // Debug builds on two shared processors take their time over four GFLOP.
    up.save(&Manifest::new("resnet50", up.scratch().join("resnet50.onnx")).timeout(60));
    up.deployed("resnet50").await;

    let answer = client::post(&up.infer_url("resnet50"), &json(up.scratch(), "request.json")).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    let (answer, reference) = (answer.json(), json(up.scratch(), "response.json"));
    let expected = &reference["outputs"][0];
    let found = output(&answer, expected["name"].as_str().expect("a name"));
    assert_eq!(found["shape"], expected["shape"]);

    let (found, expected) = (scores(found), scores(expected));
    assert_eq!(found.len(), 1000);
    assert_eq!(order(&found)[..5], order(&expected)[..5]);
    for (class, (found, expected)) in found.iter().zip(&expected).enumerate() {
        let difference = (found - expected).abs();
        assert!(
            difference < 1e-3 * expected + 1e-6,
            "class {class}: {found}, onnxruntime says {expected}"
        );
    }
}

fn json(folder: &Path, name: &str) -> Value {
    let text = fs::read(folder.join(name)).expect("the script wrote it");
    serde_json::from_slice(&text).expect("the script writes JSON")
}

fn scores(tensor: &Value) -> Vec<f64> {
    tensor["data"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(Value::as_f64)
        .collect()
}

/// The classes, the best first.
fn order(scores: &[f64]) -> Vec<usize> {
    let mut classes: Vec<usize> = (0..scores.len()).collect();
    classes.sort_by(|a, b| scores[*b].total_cmp(&scores[*a]));
    classes
}
