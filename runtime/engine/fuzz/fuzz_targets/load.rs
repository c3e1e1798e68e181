//! Loads anything; what loads is run once on zeros. Seed the corpus with `tests/cases/*/model.onnx`.
#![no_main]

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use pilotlight_engine::{Data, DataType, Dim, LoadOptions, Tensor, load_bytes};

fuzz_target!(|data: &[u8]| {
    let Ok(model) = load_bytes(Bytes::copy_from_slice(data), &LoadOptions::default()) else { return };
    let inputs = model.signature().inputs.iter().map(|info| {
        let dims: Vec<usize> = info.shape.iter().flatten().map(|d| if let Dim::Fixed(n) = d { *n } else { 1 }).collect();
        let n = dims.iter().try_fold(1usize, |n, &d| n.checked_mul(d)).filter(|&n| n < 1 << 16)?;
        let data = match info.datatype {
            DataType::F32 => Data::F32(vec![0.0; n]),
            DataType::I64 => Data::I64(vec![0; n]),
            _ => return None,
        };
        Tensor::new(dims, data)
    });
    if let Some(inputs) = inputs.collect::<Option<Vec<_>>>() {
        let _ = model.run(inputs);
    }
});
