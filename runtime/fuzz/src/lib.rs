//! What must hold of any body: for each kind a function that the fuzz target of its name feeds, and the tests feed with the seeds.

use bytes::Bytes;
use pilotlight_runtime::protocol::{grpc_request, read_grpc, read_v1, read_v2, write_v1, write_v2};
use pilotlight_runtime::{DataType, Dim, Signature, Tensor, TensorInfo};

/// A V1 body. What is read is written as an answer too.
pub fn v1(body: &[u8]) {
    for signature in models() {
        if let Ok(inputs) = read_v1(body, &signature) {
            check(&signature, &inputs);
            assert!(!write_v1(&echo(signature), &inputs).is_empty());
        }
    }
}

/// A V2 body in JSON. What is read is written as an answer too, which is JSON.
pub fn v2_json(body: &[u8]) {
    let body = Bytes::copy_from_slice(body);
    for signature in models() {
        if let Ok(inputs) = read_v2(&body, None, &signature) {
            check(&signature, &inputs);
            // Opaque bytes have no form in JSON.
            let _ = write_v2(&echo(signature), &inputs);
        }
    }
}

/// A V2 body with binary tensors behind the JSON, whose length are the first two bytes, little-endian.
pub fn v2_binary(data: &[u8]) {
    let Some((len, body)) = data.split_first_chunk() else {
        return;
    };
    let body = Bytes::copy_from_slice(body);
    for signature in models() {
        if let Ok(inputs) = read_v2(&body, Some(u16::from_le_bytes(*len).into()), &signature) {
            check(&signature, &inputs);
        }
    }
}

/// A message of `ModelInfer`. What is read is sent again and has to be read as the same.
///
/// # Panics
/// Where it is not.
pub fn grpc(message: &[u8]) {
    for signature in models() {
        if let Ok(inputs) = read_grpc(Bytes::copy_from_slice(message), &signature) {
            check(&signature, &inputs);
            let again = grpc_request("m", &signature, &inputs);
            let again = read_grpc(again.into(), &signature).expect("our own message");
            // NaN is not itself.
            assert_eq!(format!("{inputs:?}"), format!("{again:?}"));
        }
    }
}

fn info(name: &str, datatype: DataType, shape: Option<Vec<Dim>>) -> TensorInfo {
    TensorInfo {
        name: name.into(),
        datatype,
        shape,
        labels: None,
    }
}

fn rows(rest: &[usize]) -> Option<Vec<Dim>> {
    let free = Dim::Symbol("N".into());
    Some(
        std::iter::once(free)
            .chain(rest.iter().map(|&n| Dim::Fixed(n)))
            .collect(),
    )
}

/// One of numbers, one of integers and texts, one of anything.
fn models() -> [Signature; 3] {
    let outputs = vec![info("y", DataType::F32, rows(&[2]))];
    [
        vec![info("x", DataType::F32, rows(&[2]))],
        vec![
            info("a", DataType::I8, rows(&[])),
            info("b", DataType::Bytes, rows(&[1])),
        ],
        vec![info("x", DataType::F16, None)],
    ]
    .map(|inputs| Signature {
        inputs,
        outputs: outputs.clone(),
    })
}

fn echo(signature: Signature) -> Signature {
    Signature {
        outputs: signature.inputs.clone(),
        inputs: signature.inputs,
    }
}

/// One tensor an input, of its type and rank, full.
fn check(signature: &Signature, inputs: &[Tensor]) {
    assert_eq!(inputs.len(), signature.inputs.len());
    for (tensor, info) in inputs.iter().zip(&signature.inputs) {
        assert_eq!(tensor.datatype(), info.datatype);
        assert_eq!(tensor.shape().iter().product::<usize>(), tensor.data().len());
        for (size, dim) in tensor.shape().iter().zip(info.shape.iter().flatten()) {
            assert!(!matches!(dim, Dim::Fixed(n) if n != size));
        }
        assert!(
            info.shape
                .as_ref()
                .is_none_or(|shape| shape.len() == tensor.shape().len())
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The seeds of a target, and what it once stumbled over.
    fn each(target: &str, feed: fn(&[u8])) {
        let folder = format!("{}/seeds/{target}", env!("CARGO_MANIFEST_DIR"));
        let mut seen = 0;
        for entry in std::fs::read_dir(folder).expect("every target has seeds") {
            feed(&std::fs::read(entry.expect("a folder lists").path()).expect("a seed is readable"));
            seen += 1;
        }
        assert!(seen > 0);
    }

    #[test]
    fn every_seed_is_read_or_refused() {
        each("v1", v1);
        each("v2_json", v2_json);
        each("v2_binary", v2_binary);
        each("grpc", grpc);
    }
}
