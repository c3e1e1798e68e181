//! Softmax and its relatives.

use crate::device::DeviceOp;
use crate::fault::{OpResult, ensure};
use crate::host::{Number, floats};
use crate::kernel::{Inputs, Kernel, tensor};
use crate::registry::{Entry, entry};
use crate::shape;
use crate::spec::Spec;
use crate::Tensor;

pub(crate) const TABLE: &[Entry] = &[
    entry("Hardmax", 1, |s| build(s, Kind::Hard, true)),
    entry("Hardmax", 13, |s| build(s, Kind::Hard, false)),
    entry("LogSoftmax", 1, |s| build(s, Kind::Log, true)),
    entry("LogSoftmax", 13, |s| build(s, Kind::Log, false)),
    entry("Softmax", 1, |s| build(s, Kind::Soft, true)),
    entry("Softmax", 13, |s| build(s, Kind::Soft, false)),
];

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Soft,
    Log,
    Hard,
}

/// Before opset 13 all dimensions from the axis on counted together.
fn build(spec: &Spec<'_>, kind: Kind, flat: bool) -> OpResult<Kernel> {
    spec.expect_inputs(1, 1)?;
    let axis = spec.int("axis", if flat { 1 } else { -1 })?;
    let host = move |i: &Inputs<'_>| {
        let x = i.get(0)?;
        floats!(x.data(), v => run(v, x.shape(), axis, kind, flat))
    };
    Ok(match kind {
        Kind::Hard => Kernel::host(host),
        _ => Kernel::dual(DeviceOp::Softmax { axis, log: kind == Kind::Log, flat }, host),
    })
}

fn run<T: Number>(v: &[T], dims: &[usize], axis: i64, kind: Kind, flat: bool) -> OpResult<Vec<Tensor>> {
    ensure!(!dims.is_empty(), "softmax of a scalar");
    let axis = if flat && axis == dims.len() as i64 { dims.len() } else { shape::axis(axis, dims.len())? };
    let (size, inner) = if flat {
        (dims[axis..].iter().product(), 1)
    } else {
        (dims[axis], dims[axis + 1..].iter().product::<usize>())
    };
    let mut out = v.to_vec();
    if size > 0 && !out.is_empty() {
        for block in 0..out.len() / (size * inner) {
            for k in 0..inner {
                lane(&mut out, block * size * inner + k, inner, size, kind);
            }
        }
    }
    Ok(vec![tensor(dims.to_vec(), T::wrap(out))?])
}

fn lane<T: Number>(v: &mut [T], start: usize, step: usize, size: usize, kind: Kind) {
    let at = |k: usize| start + k * step;
    let mut best = 0;
    for k in 1..size {
        if v[at(k)] > v[at(best)] {
            best = k;
        }
    }
    if kind == Kind::Hard {
        (0..size).for_each(|k| v[at(k)] = T::from_i64(i64::from(k == best)));
        return;
    }
    // The maximum taken off, so that no exponential overflows.
    let max = v[at(best)].to_f64();
    let sum: f64 = (0..size).map(|k| (v[at(k)].to_f64() - max).exp()).sum();
    for k in 0..size {
        let x = v[at(k)].to_f64() - max;
        v[at(k)] = T::from_f64(if kind == Kind::Log { x - sum.ln() } else { x.exp() / sum });
    }
}
