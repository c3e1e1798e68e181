//! Softmax and its relatives.

use crate::Tensor;
use crate::device::DeviceOp;
use crate::fault::{OpResult, ensure};
use crate::host::{Number, floats};
use crate::kernel::{Inputs, Kernel, tensor};
use crate::registry::{Entry, entry};
use crate::shape;
use crate::spec::Spec;

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
        _ => Kernel::dual(
            DeviceOp::Softmax {
                axis,
                log: kind == Kind::Log,
                flat,
            },
            host,
        ),
    })
}

fn run<T: Number>(v: &[T], dims: &[usize], axis: i64, kind: Kind, flat: bool) -> OpResult<Vec<Tensor>> {
    ensure!(!dims.is_empty(), "softmax of a scalar");
    let axis = if flat && axis == dims.len() as i64 {
        dims.len()
    } else {
        shape::axis(axis, dims.len())?
    };
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

#[cfg(test)]
mod tests {
    use crate::testing::{assert_close, eval, eval_at, f32s};

    #[test]
    fn large_scores_do_not_overflow_and_rows_sum_to_one() {
        let out = eval("Softmax", |_| {}, &[f32s(&[1, 2], &[1000.0, 1000.0])]);
        assert_close(&out, &f32s(&[1, 2], &[0.5, 0.5]));
        let log = eval("LogSoftmax", |_| {}, &[f32s(&[1, 2], &[0.0, 0.0])]);
        assert_close(&log, &f32s(&[1, 2], &[-2f32.ln(), -2f32.ln()]));
    }

    #[test]
    fn before_opset_13_the_trailing_dimensions_count_together() {
        let x = f32s(&[1, 2, 2], &[0.0; 4]);
        let old = eval_at(11, "Softmax", |_| {}, &[x.clone()], 1).unwrap();
        assert_close(&old[0], &f32s(&[1, 2, 2], &[0.25; 4]));
        assert_close(&eval("Softmax", |_| {}, &[x]), &f32s(&[1, 2, 2], &[0.5; 4]));
    }

    #[test]
    fn hardmax_marks_the_first_largest() {
        let out = eval("Hardmax", |_| {}, &[f32s(&[3], &[1.0, 7.0, 7.0])]);
        assert_close(&out, &f32s(&[3], &[0.0, 1.0, 0.0]));
    }
}
