//! Reductions along axes, and the positions of extremes.

use crate::device::{DeviceOp, Reduce};
use crate::fault::{OpResult, ensure};
use crate::host::{self, Number, numbers};
use crate::kernel::{Inputs, Kernel, tensor};
use crate::registry::{Entry, entry};
use crate::spec::Spec;
use crate::{Data, Tensor, shape};

pub(crate) const TABLE: &[Entry] = &[
    entry("ArgMax", 1, |s| arg(s, true)),
    entry("ArgMin", 1, |s| arg(s, false)),
    entry("ReduceL1", 1, |s| build(s, Kind::L1)),
    entry("ReduceL2", 1, |s| build(s, Kind::L2)),
    entry("ReduceLogSum", 1, |s| build(s, Kind::LogSum)),
    entry("ReduceLogSumExp", 1, |s| build(s, Kind::LogSumExp)),
    entry("ReduceMax", 1, |s| build(s, Kind::Max)),
    entry("ReduceMean", 1, |s| build(s, Kind::Mean)),
    entry("ReduceMin", 1, |s| build(s, Kind::Min)),
    entry("ReduceProd", 1, |s| build(s, Kind::Prod)),
    entry("ReduceSum", 1, |s| build(s, Kind::Sum)),
    entry("ReduceSumSquare", 1, |s| build(s, Kind::SumSquare)),
];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    L1,
    L2,
    LogSum,
    LogSumExp,
    Max,
    Mean,
    Min,
    Prod,
    Sum,
    SumSquare,
}

impl Kind {
    fn on_device(self) -> Option<Reduce> {
        Some(match self {
            Self::L1 => Reduce::L1,
            Self::L2 => Reduce::L2,
            Self::Max => Reduce::Max,
            Self::Mean => Reduce::Mean,
            Self::Min => Reduce::Min,
            Self::Sum => Reduce::Sum,
            Self::SumSquare => Reduce::SumSquare,
            Self::LogSum | Self::LogSumExp | Self::Prod => return None,
        })
    }
}

/// Axes come as an attribute, in later opsets as an operand.
fn build(spec: &Spec<'_>, kind: Kind) -> OpResult<Kernel> {
    spec.expect_inputs(1, 2)?;
    let axes = spec.ints("axes")?;
    let (keep, noop) = (spec.flag("keepdims", true)?, spec.flag("noop_with_empty_axes", false)?);
    let attribute = axes.clone();
    let host = move |i: &Inputs<'_>| {
        let given = i.opt_i64s(1)?.or_else(|| attribute.clone());
        run(i.get(0)?, kind, given, keep, noop)
    };
    Ok(match kind.on_device() {
        Some(kind) => Kernel::dual(DeviceOp::Reduce { kind, axes, keep, noop }, host),
        None => Kernel::host(host),
    })
}

/// For each result the elements that go into it, in order.
fn groups(dims: &[usize], axes: &[usize]) -> (Vec<usize>, Vec<usize>, Vec<usize>) {
    let strides = shape::strides(dims);
    let offsets = |keep: &dyn Fn(usize) -> bool| {
        let picked: Vec<usize> = (0..dims.len()).filter(|&d| keep(d)).collect();
        let mut out = vec![0];
        for d in picked {
            let (size, stride) = (dims[d], strides[d]);
            out = out
                .iter()
                .flat_map(|o| (0..size).map(move |k| o + k * stride))
                .collect();
        }
        out
    };
    let outer = offsets(&|d| !axes.contains(&d));
    let inner = offsets(&|d| axes.contains(&d));
    let kept = (0..dims.len())
        .map(|d| if axes.contains(&d) { 1 } else { dims[d] })
        .collect();
    (kept, outer, inner)
}

fn drop_axes(mut kept: Vec<usize>, axes: &[usize], keep: bool) -> Vec<usize> {
    if !keep {
        for &a in axes.iter().rev() {
            kept.remove(a);
        }
    }
    kept
}

fn run(x: &Tensor, kind: Kind, axes: Option<Vec<i64>>, keep: bool, noop: bool) -> OpResult<Vec<Tensor>> {
    let dims = x.shape();
    let axes = match axes.filter(|a| !a.is_empty()) {
        Some(axes) => shape::axes(&axes, dims.len())?,
        None if noop => Vec::new(),
        None => (0..dims.len()).collect(),
    };
    let (kept, outer, inner) = groups(dims, &axes);
    let data = match x.data() {
        Data::Bool(v) if matches!(kind, Kind::Max | Kind::Min) => {
            let any = kind == Kind::Max;
            let each = |&o: &usize| {
                if any {
                    inner.iter().any(|i| v[o + i])
                } else {
                    inner.iter().all(|i| v[o + i])
                }
            };
            Data::Bool(outer.iter().map(each).collect())
        }
        data => numbers!(data, v => reduce(v, kind, &outer, &inner)),
    };
    Ok(vec![tensor(drop_axes(kept, &axes, keep), data)?])
}

fn reduce<T: Number>(v: &[T], kind: Kind, outer: &[usize], inner: &[usize]) -> Data {
    T::wrap(
        outer
            .iter()
            .map(|&o| one(inner.iter().map(move |i| v[o + i]), kind))
            .collect(),
    )
}

fn one<T: Number>(v: impl ExactSizeIterator<Item = T> + Clone, kind: Kind) -> T {
    let zero = T::from_i64(0);
    let n = v.len();
    if T::FLOAT {
        let f = v.map(Number::to_f64);
        return T::from_f64(match kind {
            Kind::Sum => f.sum(),
            Kind::Mean => f.sum::<f64>() / n as f64,
            Kind::Prod => f.product(),
            Kind::L1 => f.map(f64::abs).sum(),
            Kind::L2 => f.map(|x| x * x).sum::<f64>().sqrt(),
            Kind::SumSquare => f.map(|x| x * x).sum(),
            Kind::LogSum => f.sum::<f64>().ln(),
            Kind::LogSumExp => {
                let max = f.clone().fold(f64::NEG_INFINITY, f64::max);
                let shift = if max.is_finite() { max } else { 0.0 };
                f.map(|x| (x - shift).exp()).sum::<f64>().ln() + shift
            }
            Kind::Max => f.fold(f64::NEG_INFINITY, |a, b| if a.is_nan() || a > b { a } else { b }),
            Kind::Min => f.fold(f64::INFINITY, |a, b| if a.is_nan() || a < b { a } else { b }),
        });
    }
    // Integers stay exact, and wrap as everywhere.
    let abs = |x: T| if x < zero { zero.sub(x) } else { x };
    match kind {
        Kind::Sum => v.fold(zero, T::add),
        Kind::Mean if n == 0 => zero,
        Kind::Mean => v.fold(zero, T::add).div(T::from_i64(n as i64)),
        Kind::Prod => v.fold(T::from_i64(1), T::mul),
        Kind::L1 => v.map(abs).fold(zero, T::add),
        Kind::SumSquare => v.map(|x| x.mul(x)).fold(zero, T::add),
        Kind::L2 => T::from_f64(v.map(|x| x.to_f64() * x.to_f64()).sum::<f64>().sqrt()),
        Kind::LogSum => T::from_f64(v.map(Number::to_f64).sum::<f64>().ln()),
        Kind::LogSumExp => T::from_f64(v.map(|x| x.to_f64().exp()).sum::<f64>().ln()),
        Kind::Max => v.fold(T::lowest(), |a, b| if b > a { b } else { a }),
        Kind::Min => v.fold(T::highest(), |a, b| if b < a { b } else { a }),
    }
}

fn arg(spec: &Spec<'_>, max: bool) -> OpResult<Kernel> {
    spec.expect_inputs(1, 1)?;
    let (axis, keep) = (spec.int("axis", 0)?, spec.flag("keepdims", true)?);
    let last = spec.flag("select_last_index", false)?;
    fn positions<T: Number>(
        v: &[T],
        dims: &[usize],
        axis: i64,
        keep: bool,
        better: impl Fn(T, T) -> bool,
    ) -> OpResult<Vec<Tensor>> {
        let axis = shape::axis(axis, dims.len())?;
        ensure!(dims[axis] > 0, "no elements along axis {axis}");
        let (kept, outer, inner) = groups(dims, &[axis]);
        let best =
            |&o: &usize| (1..inner.len()).fold(0, |b, k| if better(v[o + inner[k]], v[o + inner[b]]) { k } else { b });
        let data = host::map(&outer.iter().map(best).collect::<Vec<_>>(), |k| k as i64);
        Ok(vec![tensor(drop_axes(kept, &[axis], keep), data)?])
    }
    Ok(Kernel::host(move |i| {
        let x = i.get(0)?;
        numbers!(x.data(), v => positions(v, x.shape(), axis, keep, |new, best| {
            let strictly = if max { new > best } else { new < best };
            strictly || (last && new == best)
        }))
    }))
}

#[cfg(test)]
mod tests {
    use crate::testing::{assert_close, eval, eval_at, f32s, ints};

    #[test]
    fn axes_come_as_attribute_or_operand() {
        let x = f32s(&[2, 2], &[1.0, 2.0, 3.0, 4.0]);
        let old = eval_at(11, "ReduceSum", |a| a.ints("axes", &[0]), &[x.clone()], 1).unwrap();
        let new = eval("ReduceSum", |_| {}, &[x.clone(), ints(&[1], &[0])]);
        assert_close(&old[0], &f32s(&[1, 2], &[4.0, 6.0]));
        assert_eq!(old[0], new);
        assert_close(&eval("ReduceMean", |a| a.int("keepdims", 0), &[x]), &f32s(&[], &[2.5]));
    }

    #[test]
    fn integers_reduce_exactly_and_floats_carefully() {
        let big = 1i64 << 60;
        assert_eq!(
            eval("ReduceSum", |_| {}, &[ints(&[3], &[big, 1, -big])]),
            ints(&[1], &[1])
        );
        let out = eval("ReduceLogSumExp", |_| {}, &[f32s(&[2], &[1000.0, 1000.0])]);
        assert_close(&out, &f32s(&[1], &[1000.0 + 2f32.ln()]));
    }

    #[test]
    fn the_device_reduces_as_the_host_does() {
        let v: Vec<f32> = (0..4000).map(|k| (k % 10) as f32).collect();
        let out = eval(
            "ReduceMax",
            |a| a.int("keepdims", 0),
            &[f32s(&[400, 10], &v), ints(&[1], &[1])],
        );
        assert_close(&out, &f32s(&[400], &[9.0; 400]));
    }

    #[test]
    fn the_first_of_equal_extremes_wins_unless_the_last_is_asked_for() {
        let x = f32s(&[1, 3], &[5.0, 1.0, 5.0]);
        assert_eq!(eval("ArgMax", |a| a.int("axis", 1), &[x.clone()]), ints(&[1, 1], &[0]));
        let last = |a: &mut crate::testing::Attributes| {
            a.int("axis", 1);
            a.int("select_last_index", 1);
            a.int("keepdims", 0);
        };
        assert_eq!(eval("ArgMax", last, &[x]), ints(&[1], &[2]));
    }
}
