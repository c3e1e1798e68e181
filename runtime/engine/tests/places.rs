//! A backend of another crate: the same plan through its primitives, at full width and at half, and what becomes of its panics.
//! The backend is the CPU's without our kernels, the twin of what a GPU gets.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use burn_backend::ops::{ConvOptions, ModuleOps as _};
use burn_backend::tensor::FloatTensor;
use burn_flex::{Flex, FlexDevice};
use pilotlight_engine::backend::{Place, Primitives, Width, load_on};
use pilotlight_engine::{Data, Dim, LoadOptions, Model, RunError, Tensor, load};

fn example(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../../manifests/examples")
        .join(name)
}

/// Rows of numbers between 0 and 1, other ones in each row.
fn inputs(model: &dyn Model, rows: usize) -> Vec<Tensor> {
    let one = |info: &pilotlight_engine::TensorInfo| {
        let dims = info.shape.as_ref().expect("the examples declare shapes");
        let size = |(i, d): (usize, &Dim)| match d {
            Dim::Fixed(n) => *n,
            _ if i == 0 => rows,
            _ => 1,
        };
        let shape: Vec<usize> = dims.iter().enumerate().map(size).collect();
        let n: usize = shape.iter().product();
        let v = (0..n).map(|i| ((i * 37 + i / 11) % 101) as f32 / 101.0).collect();
        Tensor::new(shape, Data::F32(v)).expect("it fits")
    };
    model.signature().inputs.iter().map(one).collect()
}

fn floats(tensor: &Tensor) -> Option<&[f32]> {
    match tensor.data() {
        Data::F32(v) => Some(v),
        _ => None,
    }
}

fn assert_close(found: &[Tensor], wanted: &[Tensor], tolerance: f32) {
    assert_eq!(found.len(), wanted.len());
    for (f, w) in found.iter().zip(wanted) {
        assert_eq!((f.shape(), f.datatype()), (w.shape(), w.datatype()));
        let Some((f, w)) = floats(f).zip(floats(w)) else {
            continue;
        };
        for (f, w) in f.iter().zip(w) {
            assert!((f - w).abs() <= tolerance * w.abs().max(1.0), "{f} instead of {w}");
        }
    }
}

fn place(width: Width) -> Place<Flex> {
    Place {
        width,
        ..Place::plain(FlexDevice)
    }
}

#[test]
fn the_same_plan_gives_the_same_answers_through_another_place() {
    for name in ["digits.onnx", "iris.onnx"] {
        let here = load(&example(name), &LoadOptions::default()).unwrap();
        let there = load_on(&example(name), &place(Width::Full)).unwrap();
        for rows in [1, 5] {
            let wanted = here.run(inputs(&*here, rows)).unwrap();
            assert_close(&there.run(inputs(&*there, rows)).unwrap(), &wanted, 1e-5);
        }
    }
}

#[test]
fn half_the_width_gives_nearly_the_same_answers_in_the_declared_types() {
    let here = load(&example("digits.onnx"), &LoadOptions::default()).unwrap();
    let wanted = here.run(inputs(&*here, 3)).unwrap();
    for (width, tolerance) in [(Width::F16, 5e-3), (Width::Bf16, 5e-2)] {
        let there = load_on(&example("digits.onnx"), &place(width)).unwrap();
        let found = there.run(inputs(&*there, 3)).unwrap();
        assert_close(&found, &wanted, tolerance);
        assert_ne!(found, wanted, "it is not computed at full width");
    }
}

#[test]
fn inputs_staged_ahead_give_what_a_plain_run_gives() {
    let there = load_on(&example("digits.onnx"), &place(Width::F16)).unwrap();
    let wanted = there.run(inputs(&*there, 64)).unwrap();
    let staged = there.stage(inputs(&*there, 64)).unwrap();
    let next = there.stage(inputs(&*there, 1)).unwrap();
    assert_eq!(there.run_staged(staged).unwrap(), wanted);
    assert_eq!(there.run_staged(next).unwrap().len(), wanted.len());
}

/// A device that has no memory left whenever the switch says so.
struct Failing(Arc<AtomicBool>);

impl Failing {
    fn check(&self) {
        assert!(!self.0.load(Ordering::SeqCst), "out of memory: 1073741824 bytes");
    }
}

impl Primitives<Flex> for Failing {
    fn conv2d(
        &self,
        x: FloatTensor<Flex>,
        weight: FloatTensor<Flex>,
        bias: Option<FloatTensor<Flex>>,
        options: ConvOptions<2>,
    ) -> FloatTensor<Flex> {
        self.check();
        Flex::conv2d(x, weight, bias, options)
    }

    fn lay_out(&self, weight: FloatTensor<Flex>) -> FloatTensor<Flex> {
        self.check();
        weight
    }
}

#[test]
fn a_device_without_memory_fails_the_load_or_the_run_and_works_again_after() {
    let full = Arc::new(AtomicBool::new(true));
    let place = Place::<Flex> {
        primitives: Arc::new(Failing(Arc::clone(&full))),
        ..place(Width::Full)
    };
    let model = example("digits.onnx");
    let error = load_on(&model, &place)
        .err()
        .expect("the weights do not fit")
        .to_string();
    assert!(error.contains("out of memory"), "{error}");
    full.store(false, Ordering::SeqCst);
    let model = load_on(&model, &place).unwrap();
    full.store(true, Ordering::SeqCst);
    let error = model.run(inputs(&*model, 2)).unwrap_err();
    assert!(
        matches!(&error, RunError::Node { op, reason, .. } if op == "Conv" && reason.contains("out of memory")),
        "{error}"
    );
    full.store(false, Ordering::SeqCst);
    assert!(model.run(inputs(&*model, 2)).is_ok());
}
