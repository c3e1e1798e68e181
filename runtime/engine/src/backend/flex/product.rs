//! Products of matrices, dense layers and attention.

use burn_flex::{Flex, FlexDevice};
use pilotlight_kernels::{self as kernels, Batch, Finish, Function, Heads, Mask, Matrix, Sizes};

use super::elementwise::function;
use super::operand::{at, dims, floats, made};
use super::{Operands, Outcome};
use crate::device::{After, Attention, Dense};
use crate::fault::{Fault, OpResult, ensure};
use crate::value::Value;
use crate::{Data, Tensor, buffers, shape};

/// Weights of two dimensions; `None` for others.
pub(super) fn pack(weights: &Tensor, transposed: bool) -> Option<Matrix> {
    let (Data::F32(values), &[rows, columns]) = (weights.data(), weights.shape()) else {
        return None;
    };
    let (depth, columns) = if transposed { (columns, rows) } else { (rows, columns) };
    Matrix::new(values, depth, columns, transposed)
}

/// Operands: x, nothing, b?, residual?
pub(super) fn dense(weights: &Matrix, dense: &Dense, operands: Operands<'_>) -> Outcome {
    let (Some(x), Some(value)) = (at(operands, 0), operands.first().and_then(Option::as_ref)) else {
        return Ok(None);
    };
    let mut out_dims = dims(value);
    ensure!(
        !dense.gemm || out_dims.len() == 2,
        "Gemm of rank {} instead of 2",
        out_dims.len()
    );
    let (depth, columns) = (weights.depth(), weights.columns());
    match out_dims.last_mut() {
        Some(last) if *last == depth => *last = columns,
        _ => {
            return Err(Fault(format!(
                "shapes {out_dims:?} and [{depth}, {columns}] can't be multiplied"
            )));
        }
    }
    let n = shape::elements(&out_dims)?;
    let bias = match operands.get(2).and_then(Option::as_ref) {
        Some(b) => match floats(b) {
            Some(b) if b.len() == columns => Some(b),
            _ => return Err(Fault(format!("a bias of shape {:?} for {columns} columns", dims(b)))),
        },
        None => None,
    };
    let residual = operands.get(3).and_then(Option::as_ref);
    let after = match dense.after {
        After::Nothing => Some(Function::Identity),
        After::Clamp(low, high) => Some(Function::Clamp(low, high)),
        After::Function(f) => function(f),
    };
    let fits = |r: &Value<Flex>| dims(r) == out_dims && floats(r).is_some();
    let mut out = buffers::take(n);
    if let (Some(function), true) = (after, residual.is_none_or(fits)) {
        let residual = residual.and_then(floats);
        weights.run(
            x,
            Finish {
                bias,
                residual,
                function,
            },
            &mut out,
        );
        return made(out_dims, out);
    }
    // A residual that is stretched, or stretches the result; a function that the kernels don't have.
    let finish = Finish {
        bias,
        ..Finish::default()
    };
    weights.run(x, finish, &mut out);
    let out = made(out_dims, out)?;
    let residual = operands.get_mut(3).and_then(Option::take);
    match (out, residual) {
        (Some(out), residual) => finished(dense, out, residual).map(Some),
        (None, _) => Ok(None),
    }
}

fn finished(dense: &Dense, out: Value<Flex>, residual: Option<Value<Flex>>) -> OpResult<Value<Flex>> {
    let mut out = out;
    if let Some(residual) = residual {
        out = crate::device::arith_or_scalar::<Flex>(crate::device::Arith::Add, out, residual, &FlexDevice)?;
    }
    Ok(Value::Float(dense.after.run::<Flex>(out.into_float(&FlexDevice)?)))
}

/// Operands: a, b
pub(super) fn matmul(operands: Operands<'_>) -> Outcome {
    let (Some(a), Some(b)) = (at(operands, 0), at(operands, 1)) else {
        return Ok(None);
    };
    let [Some(x), Some(y)] = &*operands else {
        return Ok(None);
    };
    let (sa, sb) = (dims(x), dims(y));
    // Vectors and empty sides are left to others.
    if sa.len() < 2 || sb.len() < 2 || a.is_empty() || b.is_empty() {
        return Ok(None);
    }
    let (la, [m, k]) = split(&sa);
    let (lb, [depth, n]) = split(&sb);
    ensure!(k == depth, "shapes {sa:?} and {sb:?} can't be multiplied");
    let mut out_dims = shape::broadcast(la, lb)?;
    let lead = out_dims.clone();
    out_dims.extend([m, n]);
    let size = shape::elements(&out_dims)?;
    let mut out = buffers::take(size);
    // One right matrix for all left ones is a single larger product.
    if lb.iter().all(|&d| d == 1) && lead == la {
        let rows = a.len() / k;
        let batch = Batch {
            a,
            b,
            size: [rows, k, n],
            transposed: false,
            offsets: &[(0, 0)],
            alpha: 1.0,
        };
        batch.run(&mut out);
        return made(out_dims, out);
    }
    let (ta, tb) = (shape::broadcast_strides(la, &lead), shape::broadcast_strides(lb, &lead));
    let mut index = vec![0; lead.len()];
    let mut offsets = Vec::with_capacity(size / (m * n));
    loop {
        let at = |strides: &[usize]| index.iter().zip(strides).map(|(i, s)| i * s).sum::<usize>();
        offsets.push((at(&ta) * m * k, at(&tb) * k * n));
        if !shape::step(&mut index, &lead) {
            break;
        }
    }
    let batch = Batch {
        a,
        b,
        size: [m, k, n],
        transposed: false,
        offsets: &offsets,
        alpha: 1.0,
    };
    batch.run(&mut out);
    made(out_dims, out)
}

fn split(dims: &[usize]) -> (&[usize], [usize; 2]) {
    let lead = dims.len() - 2;
    (&dims[..lead], [dims[lead], dims[lead + 1]])
}

/// Operands: query, key, value, mask?
pub(super) fn attention(attention: &Attention, operands: Operands<'_>) -> Outcome {
    let [Some(q), Some(k), Some(v)] = [0, 1, 2].map(|i| at(operands, i)) else {
        return Ok(None);
    };
    let [Some(query), Some(key), Some(value), rest @ ..] = &*operands else {
        return Ok(None);
    };
    let shapes = [query, key, value].map(dims);
    let [batch, heads, queries, keys, depth, values] = attention.sizes(&shapes[0], &shapes[1], &shapes[2])?;
    let orders = [attention.query, attention.key, attention.value];
    // The numbers of one head have to lie side by side.
    if orders.iter().any(|o| o[3] != 3) || [q, k, v].iter().any(|t| t.is_empty()) {
        return Ok(None);
    }
    let mask = match rest.first() {
        None | Some(None) => None,
        Some(Some(mask)) => match (floats(mask), mask_strides(&dims(mask), [batch, heads, queries, keys])) {
            (Some(data), Some([batch, head, query])) => Some(Mask {
                data,
                batch,
                head,
                query,
            }),
            _ => return Ok(None),
        },
    };
    let laid = |data, dims: &[usize], order: [usize; 4]| {
        let strides = shape::strides(dims);
        Heads {
            data,
            batch: strides[order[0]],
            head: strides[order[1]],
            position: strides[order[2]],
        }
    };
    let work = kernels::Attention {
        sizes: Sizes {
            batch,
            heads,
            queries,
            keys,
            depth,
            values,
        },
        query: laid(q, &shapes[0], orders[0]),
        key: laid(k, &shapes[1], orders[1]),
        value: laid(v, &shapes[2], orders[2]),
        scale: attention.scale,
        mask,
    };
    let out_dims = if attention.heads_first {
        vec![batch, heads, queries, values]
    } else {
        vec![batch, queries, heads, values]
    };
    let mut out = buffers::take(shape::elements(&out_dims)?);
    work.run(attention.heads_first, &mut out);
    made(out_dims, out)
}

/// How a mask is repeated over the scores; `None` where it would stretch them, or has one number for all keys.
fn mask_strides(mask: &[usize], scores: [usize; 4]) -> Option<[usize; 3]> {
    if mask.len() > 4 {
        return None;
    }
    let dims = shape::lead_ones(mask, 4);
    let fits = dims.iter().zip(&scores).all(|(&m, &s)| m == s || m == 1);
    if !fits || dims[3] != scores[3] {
        return None;
    }
    let strides = shape::broadcast_strides(&dims, &scores);
    Some([strides[0], strides[1], strides[2]])
}
