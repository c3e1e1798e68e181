//! A real sentence transformer, from the weights that its package carries: the numbers of onnxruntime, however it is exported.

use std::path::Path;

use pilotlight_e2e::{
    Manifest, Up,
    client::{self, output},
    python,
};
use pilotlight_engine::{Data, LoadOptions, Tensor, load};
use serde_json::Value;

const TOLERANCE: f64 = 2e-5;

/// Makes the model, a request with three sentences, and onnxruntime's answer.
fn make(folder: &Path, options: &[&str]) {
    let mut arguments = vec![folder.to_str().expect("a path of text")];
    arguments.extend_from_slice(options);
    python::script("minilm.py", &arguments, b"");
}

fn json(folder: &Path, name: &str) -> Value {
    let bytes = std::fs::read(folder.join(name)).expect("the script wrote it");
    serde_json::from_slice(&bytes).expect("it is JSON")
}

fn assert_equal(found: &[f64], wanted: &Value, what: &str) {
    let wanted = wanted["data"].as_array().expect("data is a list");
    assert_eq!(found.len(), wanted.len(), "{what}");
    for (k, (a, b)) in found.iter().zip(wanted).enumerate() {
        let b = b.as_f64().expect("a number");
        assert!(
            (a - b).abs() <= TOLERANCE * b.abs().max(1.0),
            "{what}[{k}] is {a}, onnxruntime says {b}"
        );
    }
}

/// Loads a model file and compares its outputs on the folder's request.
fn compare(model: &Path, folder: &Path) {
    let (request, response) = (json(folder, "request.json"), json(folder, "response.json"));
    let model = load(model, &LoadOptions::default()).expect("loads");
    let inputs = model.signature().inputs.iter().map(|info| {
        let list = request["inputs"].as_array().expect("a list");
        let given = list
            .iter()
            .find(|i| i["name"] == info.name.as_str())
            .expect("it is given");
        let numbers = |v: &Value| -> Vec<i64> {
            v.as_array()
                .into_iter()
                .flatten()
                .map(|x| x.as_i64().expect("a whole number"))
                .collect()
        };
        let dims = numbers(&given["shape"]).iter().map(|&d| d as usize).collect();
        Tensor::new(dims, Data::I64(numbers(&given["data"]))).expect("it fits")
    });
    let outputs = model.run(inputs.collect()).expect("runs");
    for (tensor, info) in outputs.iter().zip(&model.signature().outputs) {
        let Data::F32(v) = tensor.data() else {
            panic!("{} is no float", info.name)
        };
        let wanted = response["outputs"]
            .as_array()
            .expect("a list")
            .iter()
            .find(|o| o["name"] == info.name.as_str());
        let v: Vec<f64> = v.iter().map(|&x| f64::from(x)).collect();
        assert_equal(&v, wanted.expect("it is there"), &info.name);
    }
}

#[tokio::test]
async fn a_sentence_transformer_answers_as_in_onnxruntime() {
    let folder = tempfile::tempdir().expect("a directory");
    make(folder.path(), &[]);
    let up = Up::with([Manifest::new("minilm", folder.path().join("minilm.onnx"))]).await;
    let answer = client::post(&up.infer_url("minilm"), &json(folder.path(), "request.json")).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    let response = json(folder.path(), "response.json");
    for wanted in response["outputs"].as_array().expect("a list") {
        let name = wanted["name"].as_str().expect("a name");
        let answer = answer.json();
        let found = output(&answer, name);
        assert_eq!(found["shape"], wanted["shape"], "{name}");
        let found = found["data"].as_array().expect("data is a list");
        let found: Vec<f64> = found.iter().filter_map(Value::as_f64).collect();
        assert_equal(&found, wanted, name);
    }
}

#[test]
fn every_way_to_export_it_gives_the_same_numbers() {
    for opset in ["14", "17", "20"] {
        for attention in ["divided", "scaled"] {
            let folder = tempfile::tempdir().expect("a directory");
            make(folder.path(), &["--opset", opset, "--attention", attention]);
            compare(&folder.path().join("minilm.onnx"), folder.path());
        }
    }
}

#[test]
fn its_weights_may_lie_in_a_file_of_their_own() {
    let folder = tempfile::tempdir().expect("a directory");
    make(folder.path(), &[]);
    let apart = folder.path().join("apart");
    std::fs::create_dir(&apart).expect("a directory");
    python::script("external.py", &[&folder.path().join("minilm.onnx"), &apart], b"");
    assert!(apart.join("weights.bin").metadata().expect("it is there").len() > 1 << 20);
    compare(&apart.join("model.onnx"), folder.path());
}
