//! Loads anything; what loads is run once on zeros, within bounds that leave the fuzzer its memory and its speed.
#![no_main]

use std::sync::Once;

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use pilotlight_engine::{Data, Dim, Limits, LoadOptions, Tensor, load_bytes, set_limits};

static BOUNDS: Once = Once::new();

fuzz_target!(|data: &[u8]| {
    BOUNDS.call_once(|| {
        // A fault of an operator is caught and becomes the run's error; what is not caught ends the process all the same.
        std::panic::set_hook(Box::new(|_| ()));
        set_limits(Limits {
            elements: 1 << 20,
            bytes: 1 << 28,
            passes: 1 << 8,
        });
    });
    let options = LoadOptions {
        threads: Some(1),
        ..LoadOptions::default()
    };
    let Ok(model) = load_bytes(Bytes::copy_from_slice(data), &options) else {
        return;
    };
    let inputs = model.signature().inputs.iter().map(|info| {
        let open = |d: &Dim| if let Dim::Fixed(n) = d { *n } else { 2 };
        let dims: Vec<usize> = info.shape.iter().flatten().map(open).collect();
        let n = dims
            .iter()
            .try_fold(1usize, |n, &d| n.checked_mul(d))
            .filter(|&n| n < 1 << 16)?;
        Tensor::new(dims, Data::zeros(info.datatype, n))
    });
    if let Some(inputs) = inputs.collect::<Option<Vec<_>>>() {
        let _ = model.run(inputs);
    }
});
