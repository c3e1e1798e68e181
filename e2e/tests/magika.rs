//! A model that people use: magika's file-type classifier, on real files.

use std::{fs, path::PathBuf};

use pilotlight_e2e::{Manifest, Up, client, places, python};
use serde_json::{Value, json};

/// Files that every checkout has, with the label that anyone would give them.
fn files(up: &Up) -> Vec<(PathBuf, &'static str)> {
    let root = places::root();
    let python = fs::canonicalize(root.join("e2e/.venv/bin/python")).expect("the environment has a Python");
    let bytecode = up.scratch().join("module.pyc");
    let compile = "import py_compile, sys; py_compile.compile(sys.argv[1], cfile=sys.argv[2])";
    let source = root.join("manifests/examples/train/digits.py");
    let mut command = std::process::Command::new(&python);
    let compiled = command.args(["-c", compile]).arg(source).arg(&bytecode).status();
    assert!(compiled.expect("Python starts").success());
    vec![
        (root.join("e2e/src/processes.rs"), "rust"),
        (root.join("manifests/examples/train/digits.py"), "python"),
        (root.join("e2e/python/setup.sh"), "shell"),
        (root.join("manifests/examples/iris.yaml"), "yaml"),
        (root.join("manifests/examples/digits.onnx"), "onnx"),
        (root.join("Cargo.toml"), "toml"),
        (root.join("Makefile"), "makefile"),
        (root.join("ARCHITECTURE.md"), "markdown"),
        (python, "elf"),
        (bytecode, "pythonbytecode"),
    ]
}

#[tokio::test]
async fn magika_finds_the_types_of_real_files() {
    let up = Up::with([]).await;
    let files = files(&up);
    let paths: Vec<&PathBuf> = files.iter().map(|(path, _)| path).collect();
    let reference = python::script("magika_reference.py", &paths, b"");
    let reference: Value = serde_json::from_slice(&reference).expect("the script writes JSON");

    up.save(&Manifest::new("magika", reference["model"].as_str().expect("a path")));
    up.deployed("magika").await;

    // One file a request, then all of them in one.
    let seen = reference["files"].as_array().expect("a list");
    let mut features = Vec::new();
    for (file, (path, expected)) in seen.iter().zip(&files) {
        let (label, score) = classify(&up, &reference, std::slice::from_ref(&file["features"]))
            .await
            .remove(0);
        assert_eq!(label, file["label"], "{}: magika itself says", path.display());
        assert_eq!(label, *expected, "{}", path.display());
        let difference = (score - file["score"].as_f64().expect("a score")).abs();
        assert!(
            difference < 1e-3,
            "{}: {score}, magika says {}",
            path.display(),
            file["score"]
        );
        features.push(file["features"].clone());
    }
    let labels: Vec<Value> = classify(&up, &reference, &features)
        .await
        .into_iter()
        .map(|(label, _)| label)
        .collect();
    let expected: Vec<Value> = seen.iter().map(|file| file["label"].clone()).collect();
    assert_eq!(labels, expected);
}

/// The label and the score of each row of features.
async fn classify(up: &Up, reference: &Value, rows: &[Value]) -> Vec<(Value, f64)> {
    let request = json!({ "instances": rows });
    let reply = client::post(&up.predict_url("magika"), &request).await;
    assert_eq!(reply.status, 200, "{}", reply.text());
    let answer = reply.json();
    let predictions = answer["predictions"].as_array().expect("a row for each file");
    assert_eq!(predictions.len(), rows.len());
    predictions
        .iter()
        .map(|scores| {
            let scores: Vec<f64> = scores
                .as_array()
                .into_iter()
                .flatten()
                .filter_map(Value::as_f64)
                .collect();
            let best = (0..scores.len())
                .max_by(|a, b| scores[*a].total_cmp(&scores[*b]))
                .expect("scores");
            (reference["labels"][best].clone(), scores[best])
        })
        .collect()
}
