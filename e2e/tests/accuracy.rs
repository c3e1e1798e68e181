//! The same numbers as onnxruntime, for the examples and for the classifiers that scikit-learn users export.

use std::path::{Path, PathBuf};

use pilotlight_e2e::{
    Manifest, Up,
    client::{self, output},
    places, python,
};
use serde_json::{Value, json};

const TOLERANCE: f64 = 1e-4;

/// Numbers in `low..high` that are the same on every run.
fn numbers(count: usize, low: f64, high: f64) -> Vec<f64> {
    let mut state = 0x2545_F491_4F6C_DD1D_u64;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        // Two decimals, so that both sides read the same FP32 from the text.
        let share = (state >> 11) as f64 / (1_u64 << 53) as f64;
        ((low + share * (high - low)) * 100.0).round() / 100.0
    };
    (0..count).map(|_| next()).collect()
}

fn request(input: &str, shape: &[usize], low: f64, high: f64) -> Value {
    let data = numbers(shape.iter().product(), low, high);
    json!({ "inputs": [{ "name": input, "shape": shape, "datatype": "FP32", "data": data }] })
}

/// Asserts that each output that onnxruntime gave came from the platform as well, equal but for rounding.
fn assert_equal(answer: &Value, reference: &Value, what: &str) {
    for expected in reference["outputs"].as_array().expect("outputs") {
        let name = expected["name"].as_str().expect("a name");
        let found = output(answer, name);
        assert_eq!(found["shape"], expected["shape"], "{what}: shape of {name}");
        let (found, expected) = (values(found), values(expected));
        assert_eq!(found.len(), expected.len(), "{what}: {name}");
        for (index, (found, expected)) in found.iter().zip(expected).enumerate() {
            let equal = match (found.as_f64(), expected.as_f64()) {
                (Some(a), Some(b)) => (a - b).abs() <= TOLERANCE * b.abs().max(1.0),
                _ => found == expected,
            };
            assert!(equal, "{what}: {name}[{index}] is {found}, onnxruntime says {expected}");
        }
    }
}

fn values(tensor: &Value) -> &Vec<Value> {
    tensor["data"].as_array().expect("data is a list")
}

async fn compare(up: &Up, name: &str, model: &Path, request: &Value) {
    let answer = client::post(&up.infer_url(name), request).await;
    assert_eq!(answer.status, 200, "{name}: {}", answer.text());
    assert_equal(&answer.json(), &python::onnxruntime(model, request), name);
}

#[tokio::test]
async fn digits_are_read_as_onnxruntime_reads_them_whatever_the_batch() {
    let model = places::example("digits.onnx");
    let up = Up::with([Manifest::new("digits", &model)]).await;
    for rows in [1, 3, 32] {
        compare(&up, "digits", &model, &request("image", &[rows, 1, 8, 8], 0.0, 16.0)).await;
    }
}

#[tokio::test]
async fn classifiers_of_scikit_learn_answer_as_in_onnxruntime() {
    let models: [(&str, PathBuf); 5] = [
        ("iris", places::example("iris.onnx")),
        ("iris-forest", places::example("iris-forest.onnx")),
        ("boosting", places::fixture("boosting.onnx")),
        ("vectors", places::fixture("vectors.onnx")),
        ("perceptron", places::fixture("perceptron.onnx")),
    ];
    let up = Up::with(models.iter().map(|(name, path)| Manifest::new(name, path))).await;
    for (name, path) in &models {
        for rows in [1, 32] {
            compare(&up, name, path, &request("input", &[rows, 4], 0.1, 8.0)).await;
        }
    }
}

#[tokio::test]
async fn labels_that_are_words_come_back_as_words() {
    let up = Up::with([Manifest::new("flowers", places::fixture("flowers.onnx"))]).await;
    let answer = client::post(&up.predict_url("flowers"), &client::flowers_v1())
        .await
        .json();
    assert_eq!(answer, json!({ "predictions": ["versicolor", "versicolor"] }));
}
