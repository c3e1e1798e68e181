//! Operands as our kernels read them, and results as they leave them.

use std::sync::Arc;

use burn_backend::DType;
use burn_flex::Flex;

use super::Outcome;
use crate::buffers;
use crate::fault::{Fault, OpResult};
use crate::kernel::tensor;
use crate::value::Value;
use crate::{Data, Tensor};

/// The elements where they are FP32 and lie in order.
pub(super) fn floats(value: &Value<Flex>) -> Option<&[f32]> {
    match value {
        Value::Host(t) => host_floats(t),
        Value::Float(t) if t.dtype() == DType::F32 => t.as_slice::<f32>(),
        _ => None,
    }
}

/// The same of a tensor on the host.
pub(super) fn host_floats(t: &Tensor) -> Option<&[f32]> {
    match t.data() {
        Data::F32(v) => Some(v),
        _ => None,
    }
}

/// An operand's elements, or `None` where it is missing or another type.
pub(super) fn at(operands: &[Option<Value<Flex>>], i: usize) -> Option<&[f32]> {
    floats(operands.get(i)?.as_ref()?)
}

/// The dimensions.
pub(super) fn dims(value: &Value<Flex>) -> Vec<usize> {
    value.shape()
}

/// The elements to write on: the operand's own memory where nobody else reads it, else a copy. Only for what `floats` reads.
pub(super) fn own(value: Value<Flex>) -> OpResult<Vec<f32>> {
    let copy = |v: &[f32]| {
        let mut out = buffers::take(v.len());
        out.copy_from_slice(v);
        out
    };
    match value {
        Value::Host(t) => match Arc::try_unwrap(t) {
            Ok(t) => match t.into_parts().1 {
                Data::F32(v) => Ok(v),
                other => Err(Fault(format!("internal: {} where FP32 is", other.datatype()))),
            },
            Err(shared) => host_floats(&shared).map(copy).ok_or_else(unread),
        },
        value => floats(&value).map(copy).ok_or_else(unread),
    }
}

fn unread() -> Fault {
    Fault("internal: an operand that no kernel reads".into())
}

/// A kernel's result.
pub(super) fn made(dims: Vec<usize>, v: Vec<f32>) -> Outcome {
    Ok(Some(Value::Host(Arc::new(tensor(dims, Data::F32(v))?))))
}

/// How a smaller tensor is spread over a larger one without being copied: partner of element `k` is `k / inner % n`. `None`
/// where the smaller has to be repeated in another way, or does not fit within the larger one.
pub(super) fn spread(large: &[usize], small: &[usize]) -> Option<usize> {
    let small: &[usize] = {
        let ones = small.iter().take_while(|&&d| d == 1).count();
        &small[ones.min(small.len().saturating_sub(large.len()))..]
    };
    if small.len() > large.len() {
        return None;
    }
    let aligned = &large[large.len() - small.len()..];
    let Some(first) = small.iter().position(|&d| d != 1) else {
        return Some(large.iter().product::<usize>().max(1));
    };
    let last = small.iter().rposition(|&d| d != 1).unwrap_or(first);
    if small[first..=last] != aligned[first..=last] {
        return None;
    }
    Some(aligned[last + 1..].iter().product())
}

#[cfg(test)]
mod tests {
    use super::spread;

    #[test]
    fn a_block_of_dimensions_is_spread_and_nothing_else() {
        assert_eq!(spread(&[2, 3, 4], &[2, 3, 4]), Some(1));
        assert_eq!(spread(&[2, 3, 4], &[4]), Some(1));
        assert_eq!(spread(&[2, 3, 4], &[1, 4]), Some(1));
        assert_eq!(spread(&[2, 3, 4], &[3, 1]), Some(4));
        assert_eq!(spread(&[2, 3, 4], &[2, 3, 1]), Some(4));
        assert_eq!(spread(&[2, 3, 4], &[1]), Some(24));
        assert_eq!(spread(&[2, 3, 4], &[]), Some(24));
        assert_eq!(spread(&[4], &[1, 1, 4]), Some(1));
        assert_eq!(spread(&[2, 3, 4], &[2, 1, 4]), None);
        assert_eq!(spread(&[4], &[2, 4]), None);
        assert_eq!(spread(&[2, 1, 4], &[3, 1]), None);
    }
}
