//! Products of integers over weights that are packed once, and the same with what quantised models do next: scale and bias.

use std::sync::{Arc, Mutex, PoisonError};

use pilotlight_kernels::{Eight, IntegerMatrix, IntegerOut};

use crate::fault::{OpResult, bail, ensure};
use crate::kernel::{Inputs, Kernel, tensor};
use crate::{Data, Tensor, buffers, shape};

/// Depth from which on sums of 32 bits may wrap, as they do in ONNX's `MatMulInteger`, but not in `QLinearMatMul`.
const DEEPEST: usize = 32_768;

/// The weights that were packed last. In nearly every model they are a constant.
#[derive(Default)]
pub(crate) struct Cache(Mutex<Option<Packed>>);

/// A matrix with what it was made of, which is held so that no other tensor can take its address.
type Packed = (Arc<Tensor>, Arc<IntegerMatrix>);

impl Cache {
    fn get(&self, weights: &Arc<Tensor>) -> Option<Arc<IntegerMatrix>> {
        let mut slot = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((source, matrix)) = &*slot
            && Arc::ptr_eq(source, weights)
        {
            return Some(matrix.clone());
        }
        let &[depth, columns] = weights.shape() else {
            return None;
        };
        let matrix = Arc::new(IntegerMatrix::new(eight(weights)?, depth, columns, false)?);
        *slot = Some((weights.clone(), matrix.clone()));
        Some(matrix)
    }

    /// The sums, or `None` where the operands are not of the usual kind: a matrix of weights on the right, bytes on both sides.
    /// Operands are given by their positions and those of their zero points.
    pub(super) fn product(&self, i: &Inputs<'_>, operands: [(usize, usize); 2]) -> OpResult<Option<Tensor>> {
        let Some(found) = self.operands(i, operands)? else {
            return Ok(None);
        };
        let mut out = vec![0; shape::elements(&found.dims)?];
        let (p, q) = (&found.zeros[0], &found.zeros[1]);
        found.matrix.run(found.x, p, q, IntegerOut::Sums(&mut out));
        Ok(Some(tensor(found.dims, Data::I32(out))?))
    }

    fn operands<'a>(&self, i: &Inputs<'a>, operands: [(usize, usize); 2]) -> OpResult<Option<Operands<'a>>> {
        let [(a, za), (b, zb)] = operands;
        let (Some(Some(x)), Some(Some(weights))) = (i.0.get(a), i.0.get(b)) else {
            return Ok(None);
        };
        let Some(eight) = eight(x) else { return Ok(None) };
        let [lead @ .., depth] = x.shape() else { return Ok(None) };
        // Rows of a vector, and products that may wrap, are left to the plain way.
        if lead.is_empty() || *depth > DEEPEST {
            return Ok(None);
        }
        let Some(matrix) = self.get(weights) else {
            return Ok(None);
        };
        ensure!(
            *depth == matrix.depth(),
            "shapes {:?} and {:?} can't be multiplied",
            x.shape(),
            weights.shape()
        );
        let zeros = |k: usize, many: usize| -> OpResult<Option<Vec<i32>>> {
            let Some(t) = i.opt(k) else { return Ok(Some(vec![0])) };
            let list: Vec<i32> = match t.data() {
                Data::U8(v) => v.iter().map(|&z| i32::from(z)).collect(),
                Data::I8(v) => v.iter().map(|&z| i32::from(z)).collect(),
                _ => return Ok(None),
            };
            let flat = t.shape().len() < 2 && t.small().is_none();
            Ok((flat && (list.len() == 1 || list.len() == many)).then_some(list))
        };
        // One zero point a row is one a row of each matrix: of several, the rows repeat.
        let rows = if lead.len() == 1 { lead[0] } else { 1 };
        let (Some(p), Some(q)) = (zeros(za, rows)?, zeros(zb, matrix.columns())?) else {
            return Ok(None);
        };
        let mut dims = lead.to_vec();
        dims.push(matrix.columns());
        Ok(Some(Operands {
            x: eight,
            matrix,
            zeros: [p, q],
            dims,
        }))
    }
}

struct Operands<'a> {
    x: Eight<'a>,
    matrix: Arc<IntegerMatrix>,
    zeros: [Vec<i32>; 2],
    dims: Vec<usize>,
}

fn eight(t: &Tensor) -> Option<Eight<'_>> {
    match (t.small(), t.data()) {
        (None, Data::U8(v)) => Some(Eight::U8(v)),
        (None, Data::I8(v)) => Some(Eight::I8(v)),
        _ => None,
    }
}

/// `MatMulInteger`, then as FP32 times a scale, plus a bias: what tools for quantisation make of a dense layer. Inputs: a, b, zero
/// point of a?, zero point of b?, scale, bias?
pub(crate) fn scaled() -> Kernel {
    let packed = Cache::default();
    Kernel::host(move |i| {
        let floats = |k: usize| match i.opt(k).map(Tensor::data) {
            None => Ok(None),
            Some(Data::F32(v)) => Ok(Some(v.as_slice())),
            Some(other) => bail!("input {k} has type {} instead of FP32", other.datatype()),
        };
        let (scale, bias) = (floats(4)?, floats(5)?);
        if let Some(found) = packed.operands(i, [(0, 2), (1, 3)])?
            && let Some(scale) = scale
            && i.get(4)?.shape().len() < 2
            && (scale.len() == 1 || scale.len() == found.matrix.columns())
            && bias.is_none_or(|b| b.len() == found.matrix.columns())
        {
            let mut out = buffers::take(shape::elements(&found.dims)?);
            let (p, q) = (&found.zeros[0], &found.zeros[1]);
            let to = IntegerOut::Scaled {
                out: &mut out,
                scale,
                bias,
            };
            found.matrix.run(found.x, p, q, to);
            return Ok(vec![tensor(found.dims, Data::F32(out))?]);
        }
        let sums = super::integer_product(i, [(0, 2), (1, 3)])?;
        let sums = super::super::cast::cast(&sums, crate::DataType::I32, true)?;
        let mut out = super::super::cast::cast(&sums, crate::DataType::F32, true)?;
        for (k, f) in [(4, (|x, y| x * y) as fn(f32, f32) -> f32), (5, |x, y| x + y)] {
            let (Some(other), Data::F32(v)) = (floats(k)?, out.data()) else {
                continue;
            };
            let (dims, v) = crate::host::zip((v.as_slice(), out.shape()), (other, i.get(k)?.shape()), f)?;
            out = tensor(dims, Data::F32(v))?;
        }
        Ok(vec![out])
    })
}
