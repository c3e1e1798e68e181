//! What runs on GPUs, over Vulkan on the processor: the code that CUDA gets, of another runtime of CubeCL. Needs Mesa's lavapipe
//! (Debian: mesa-vulkan-drivers): `make cuda` runs these.

#![cfg(feature = "twin")]

use std::path::{Path, PathBuf};
use std::sync::Once;
use std::time::Duration;

use pilotlight_cuda::{Choices, Gpu, Precision, find, load, tune};
use pilotlight_engine::{Data, DataType, Dim, LoadOptions, Model, Tensor, TensorInfo};

fn path(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").join(name)
}

fn models() -> [PathBuf; 5] {
    [
        "manifests/examples/iris.onnx",
        "manifests/examples/digits.onnx",
        "runtime/engine/tests/cases/convolutional/model.onnx",
        "runtime/engine/tests/cases/transformer/model.onnx",
        "runtime/engine/tests/cases/network/model.onnx",
    ]
    .map(path)
}

fn gpu() -> Gpu {
    static SAID: Once = Once::new();
    SAID.call_once(|| {
        // Nothing else in this process reads or writes the environment yet.
        let twin = std::env::var_os("PILOTLIGHT_GPU_TWIN");
        assert!(twin.is_some(), "run it with PILOTLIGHT_GPU_TWIN=1, as `make cuda` does");
    });
    find(0).expect("the twin is there")
}

/// Rows of numbers between 0 and 1, other ones in each row; whole numbers small enough for any vocabulary.
fn inputs(model: &dyn Model, rows: usize) -> Vec<Tensor> {
    let one = |info: &TensorInfo| {
        let dims = info.shape.as_ref().expect("the models declare shapes");
        let size = |(i, d): (usize, &Dim)| match d {
            Dim::Fixed(n) => *n,
            _ if i == 0 => rows,
            _ => 7,
        };
        let shape: Vec<usize> = dims.iter().enumerate().map(size).collect();
        let n: usize = shape.iter().product();
        let data = match info.datatype {
            DataType::I64 => Data::I64((0..n).map(|i| (i * 37 % 5) as i64).collect()),
            _ => Data::F32((0..n).map(|i| ((i * 37 + i / 11) % 101) as f32 / 101.0).collect()),
        };
        Tensor::new(shape, data).expect("it fits")
    };
    model.signature().inputs.iter().map(one).collect()
}

fn numbers(tensor: &Tensor) -> Vec<f64> {
    match tensor.data() {
        Data::F32(v) => v.iter().map(|&x| f64::from(x)).collect(),
        Data::I64(v) => v.iter().map(|&x| x as f64).collect(),
        other => panic!("unexpected outputs: {other:?}"),
    }
}

fn assert_close(found: &[Tensor], wanted: &[Tensor], tolerance: f64, what: &str) {
    assert_eq!(found.len(), wanted.len(), "{what}");
    for (f, w) in found.iter().zip(wanted) {
        assert_eq!((f.shape(), f.datatype()), (w.shape(), w.datatype()), "{what}");
        let (f, w) = (numbers(f), numbers(w));
        let scale = w.iter().fold(1e-6f64, |m, x| m.max(x.abs()));
        for (f, w) in f.iter().zip(&w) {
            assert!((f - w).abs() <= tolerance * scale, "{what}: {f} instead of {w}");
        }
    }
}

#[test]
fn every_model_answers_as_on_the_cpu_in_every_f32_and_at_every_size() {
    let gpu = gpu();
    for file in models() {
        let what = file.display().to_string();
        let here = pilotlight_engine::load(&file, &LoadOptions::default()).expect("loads on the CPU");
        for precision in [Precision::F32, Precision::Tf32] {
            let there = load(&file, &gpu, precision, Choices::default()).unwrap_or_else(|e| panic!("{what}: {e}"));
            for rows in [1, 2, 5] {
                let wanted = here.run(inputs(&*here, rows)).expect("runs on the CPU");
                let found = there
                    .run(inputs(&*there, rows))
                    .unwrap_or_else(|e| panic!("{what}: {e}"));
                assert_close(&found, &wanted, 1e-4, &what);
            }
        }
    }
}

#[test]
fn tuned_kernels_answer_as_the_standing_ones_and_a_later_load_takes_them() {
    let gpu = gpu();
    for name in [
        "manifests/examples/digits.onnx",
        "runtime/engine/tests/cases/convolutional/model.onnx",
    ] {
        let file = path(name);
        let here = pilotlight_engine::load(&file, &LoadOptions::default()).unwrap();
        let (model, tuned) = tune(&file, &gpu, Precision::F32, Duration::from_mins(10)).unwrap();
        for rows in [1, 4] {
            let wanted = here.run(inputs(&*here, rows)).unwrap();
            assert_close(&model.run(inputs(&*model, rows)).unwrap(), &wanted, 1e-4, name);
            let met = tuned.choices();
            assert_close(&model.run(inputs(&*model, rows)).unwrap(), &wanted, 1e-4, name);
            assert_eq!(tuned.choices(), met, "{name}: a size that was met is not tuned again");
        }
        let choices = tuned.choices();
        assert!(!choices.is_empty(), "{name} has convolutions or products");
        let text = serde_json::to_string(&choices).unwrap();
        eprintln!("{name}: {text}");
        let later = load(&file, &gpu, Precision::F32, serde_json::from_str(&text).unwrap()).unwrap();
        let wanted = here.run(inputs(&*here, 4)).unwrap();
        assert_close(&later.run(inputs(&*later, 4)).unwrap(), &wanted, 1e-4, name);
    }
}

#[test]
fn without_time_nothing_is_tuned() {
    let file = path("manifests/examples/digits.onnx");
    let (model, tuned) = tune(&file, &gpu(), Precision::F32, Duration::ZERO).unwrap();
    model.run(inputs(&*model, 1)).unwrap();
    assert!(tuned.choices().is_empty());
}

#[test]
fn batches_staged_ahead_give_each_its_own_answer() {
    let file = path("manifests/examples/digits.onnx");
    let here = pilotlight_engine::load(&file, &LoadOptions::default()).unwrap();
    let there = load(&file, &gpu(), Precision::F32, Choices::default()).unwrap();
    // The next one is on the device before this one runs, copied by another thread.
    let mut staged = Some(there.stage(inputs(&*there, 1)).unwrap());
    for rows in 1..6 {
        let (now, next) = std::thread::scope(|scope| {
            let next = scope.spawn(|| there.stage(inputs(&*there, rows + 1)).unwrap());
            (there.run_staged(staged.take().unwrap()).unwrap(), next.join().unwrap())
        });
        assert_close(&now, &here.run(inputs(&*here, rows)).unwrap(), 1e-4, "staged");
        staged = Some(next);
    }
}
