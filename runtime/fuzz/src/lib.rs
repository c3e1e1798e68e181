//! What the targets share: the models that bodies are read for, and what must hold of a body that was read.

use pilotlight_runtime::{DataType, Dim, Signature, Tensor, TensorInfo};

fn info(name: &str, datatype: DataType, shape: Option<Vec<Dim>>) -> TensorInfo {
    TensorInfo { name: name.into(), datatype, shape, labels: None }
}

fn rows(rest: &[usize]) -> Option<Vec<Dim>> {
    let free = Dim::Symbol("N".into());
    Some(std::iter::once(free).chain(rest.iter().map(|&n| Dim::Fixed(n))).collect())
}

/// One of numbers, one of integers and texts, one of anything.
pub fn models() -> [Signature; 3] {
    let outputs = vec![info("y", DataType::F32, rows(&[2]))];
    [
        vec![info("x", DataType::F32, rows(&[2]))],
        vec![info("a", DataType::I8, rows(&[])), info("b", DataType::Bytes, rows(&[1]))],
        vec![info("x", DataType::F16, None)],
    ]
    .map(|inputs| Signature { inputs, outputs: outputs.clone() })
}

/// One tensor an input, of its type and rank, full.
pub fn check(signature: &Signature, inputs: &[Tensor]) {
    assert_eq!(inputs.len(), signature.inputs.len());
    for (tensor, info) in inputs.iter().zip(&signature.inputs) {
        assert_eq!(tensor.datatype(), info.datatype);
        assert_eq!(tensor.shape().iter().product::<usize>(), tensor.data().len());
        for (size, dim) in tensor.shape().iter().zip(info.shape.iter().flatten()) {
            assert!(!matches!(dim, Dim::Fixed(n) if n != size));
        }
        assert!(info.shape.as_ref().is_none_or(|shape| shape.len() == tensor.shape().len()));
    }
}
