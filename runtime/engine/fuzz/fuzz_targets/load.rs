//! Loads anything; what loads is run once on zeros. `run` beside the manifest seeds the corpus.
#![no_main]

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use pilotlight_engine::{Data, Dim, LoadOptions, Tensor, load_bytes};

fuzz_target!(|data: &[u8]| {
    let Ok(model) = load_bytes(Bytes::copy_from_slice(data), &LoadOptions::default()) else {
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
