//! Models of scikit-learn and small networks give what ONNX Runtime gave when `generate_cases.py` made the cases.

use std::path::{Path, PathBuf};

use bytes::Bytes;
use pilotlight_engine::{Data, Labels, LoadOptions, Tensor, load, read_tensor};

fn cases() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/cases")
}

fn tensors(set: &Path, kind: &str, n: usize) -> Vec<Tensor> {
    (0..n)
        .map(|k| {
            let path = set.join(format!("{kind}_{k}.pb"));
            let bytes = std::fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
            read_tensor(Bytes::from(bytes)).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
        })
        .collect()
}

fn difference(found: &Tensor, wanted: &Tensor) -> Option<String> {
    if found.shape() != wanted.shape() || found.datatype() != wanted.datatype() {
        return Some(format!(
            "{:?} {} instead of {:?} {}",
            found.shape(),
            found.datatype(),
            wanted.shape(),
            wanted.datatype()
        ));
    }
    match (found.data(), wanted.data()) {
        (Data::F32(a), Data::F32(b)) => {
            let far = |(a, b): &(&f32, &f32)| (*a - *b).abs() > 1e-5 * b.abs().max(1.0);
            a.iter().zip(b).find(far).map(|(a, b)| format!("{a} instead of {b}"))
        }
        (a, b) => (a != b).then(|| format!("{a:?} instead of {b:?}")),
    }
}

#[test]
fn every_case_gives_onnx_runtimes_outputs() {
    let mut faults = Vec::new();
    let mut count = 0;
    for entry in std::fs::read_dir(cases()).expect("the cases are there") {
        let case = entry.expect("the cases can be listed").path();
        let name = case.file_name().unwrap_or_default().to_string_lossy().into_owned();
        count += 1;
        let model = match load(&case.join("model.onnx"), &LoadOptions::default()) {
            Ok(model) => model,
            Err(e) => {
                faults.push(format!("{name}: {e}"));
                continue;
            }
        };
        let set = case.join("test_data_set_0");
        let inputs = tensors(&set, "input", model.signature().inputs.len());
        let outputs = match model.run(inputs.clone()) {
            Ok(outputs) => outputs,
            Err(e) => {
                faults.push(format!("{name}: {e}"));
                continue;
            }
        };
        for (k, (found, wanted)) in outputs.iter().zip(tensors(&set, "output", outputs.len())).enumerate() {
            if let Some(difference) = difference(found, &wanted) {
                faults.push(format!("{name}, output {k}: {difference}"));
            }
        }
        // A second run on the same model gives the same.
        assert_eq!(model.run(inputs).expect("it ran before"), outputs, "{name}");
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
    assert!(count >= 25, "only {count} cases");
}

#[test]
fn class_names_stand_in_the_signature_and_scores_come_as_a_tensor() {
    let names = load(&cases().join("logistic_names/model.onnx"), &LoadOptions::default()).expect("loads");
    let outputs = &names.signature().outputs;
    assert_eq!(outputs[0].labels, None);
    let wanted = ["setosa", "versicolor", "virginica"].map(str::to_owned).to_vec();
    assert_eq!(outputs[1].labels, Some(Labels::Strings(wanted)));
    let numbers = load(&cases().join("logistic/model.onnx"), &LoadOptions::default()).expect("loads");
    assert_eq!(numbers.signature().outputs[1].labels, Some(Labels::Ints(vec![0, 1, 2])));
}

#[test]
fn threads_share_a_model_and_get_equal_results() {
    let case = cases().join("convolutional");
    let model = load(&case.join("model.onnx"), &LoadOptions::default()).expect("loads");
    let inputs = tensors(&case.join("test_data_set_0"), "input", 1);
    let wanted = model.run(inputs.clone()).expect("runs");
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for _ in 0..8 {
                    assert_eq!(model.run(inputs.clone()).expect("runs"), wanted);
                }
            });
        }
    });
}
