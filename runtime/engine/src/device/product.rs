//! Products of matrices through a backend's primitives.

use burn_backend::tensor::FloatTensor;
use burn_backend::{Backend, TensorMetadata};

use super::{align, reshape, scalar};
use crate::backend::Place;
use crate::fault::{OpResult, ensure};
use crate::shape;

pub(super) fn matmul<B: Backend>(a: FloatTensor<B>, b: FloatTensor<B>, place: &Place<B>) -> OpResult<FloatTensor<B>> {
    let (sa, sb) = (a.shape().to_vec(), b.shape().to_vec());
    ensure!(!sa.is_empty() && !sb.is_empty(), "MatMul of a scalar");
    // A vector becomes a row on the left, a column on the right, and that dimension is dropped afterwards.
    let ma = if sa.len() == 1 { vec![1, sa[0]] } else { sa.clone() };
    let mb = if sb.len() == 1 { vec![sb[0], 1] } else { sb.clone() };
    ensure!(
        ma[ma.len() - 1] == mb[mb.len() - 2],
        "shapes {sa:?} and {sb:?} can't be multiplied"
    );
    let mut out = shape::broadcast(&ma[..ma.len() - 2], &mb[..mb.len() - 2])?;
    let rank = ma.len().max(mb.len());
    // One matrix on the right for a whole batch on the left is a single larger product.
    let (rows, columns) = (ma[ma.len() - 2], mb[mb.len() - 1]);
    let product = if mb.len() == 2 && ma.len() > 2 {
        let flat = ma[..ma.len() - 1].iter().product();
        place
            .primitives
            .matmul(reshape::<B>(a, vec![flat, ma[ma.len() - 1]]), reshape::<B>(b, mb))
    } else {
        place.primitives.matmul(
            reshape::<B>(a, shape::lead_ones(&ma, rank)),
            reshape::<B>(b, shape::lead_ones(&mb, rank)),
        )
    };
    if sa.len() > 1 {
        out.push(rows);
    }
    if sb.len() > 1 {
        out.push(columns);
    }
    Ok(reshape::<B>(product, out))
}

pub(super) fn gemm<B: Backend>(
    a: FloatTensor<B>,
    b: FloatTensor<B>,
    c: Option<FloatTensor<B>>,
    (alpha, beta): (f32, f32),
    (trans_a, trans_b): (bool, bool),
    place: &Place<B>,
) -> OpResult<FloatTensor<B>> {
    ensure!(
        a.rank() == 2 && b.rank() == 2,
        "Gemm of ranks {} and {} instead of 2",
        a.rank(),
        b.rank()
    );
    let a = if trans_a { B::float_swap_dims(a, 0, 1) } else { a };
    let b = if trans_b { B::float_swap_dims(b, 0, 1) } else { b };
    let mut out = matmul::<B>(a, b, place)?;
    if alpha != 1.0 {
        out = B::float_mul_scalar(out, scalar(alpha));
    }
    let Some(c) = c else { return Ok(out) };
    let c = if beta == 1.0 {
        c
    } else {
        B::float_mul_scalar(c, scalar(beta))
    };
    let dims = out.shape().to_vec();
    ensure!(
        shape::broadcast(&dims, &c.shape())? == dims,
        "C does not broadcast to {dims:?}"
    );
    let (out, c) = align::<B>(out, c)?;
    Ok(B::float_add(out, c))
}
