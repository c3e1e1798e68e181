//! Operators that only move or rename elements: they say how, and that is done where the data lies.

use crate::fault::{OpResult, bail, ensure};
use crate::kernel::{Kernel, Range, View};
use crate::registry::{Entry, entry};
use crate::shape;
use crate::spec::Spec;

pub(crate) const TABLE: &[Entry] = &[
    entry("DepthToSpace", 1, depth_to_space),
    entry("Dropout", 1, dropout),
    entry("Expand", 8, expand),
    entry("Flatten", 1, flatten),
    entry("Identity", 1, identity),
    entry("Reshape", 1, reshape_attribute),
    entry("Reshape", 5, reshape),
    entry("Slice", 1, slice_attributes),
    entry("Slice", 10, slice_operands),
    entry("SpaceToDepth", 1, space_to_depth),
    entry("Split", 2, split),
    entry("Squeeze", 1, |s| squeeze(s, s.ints("axes")?)),
    entry("Squeeze", 13, |s| squeeze(s, None)),
    entry("Transpose", 1, transpose),
    entry("Unsqueeze", 1, |s| unsqueeze(s, s.ints("axes")?)),
    entry("Unsqueeze", 13, |s| unsqueeze(s, None)),
];

fn one(view: View) -> OpResult<Vec<Vec<View>>> {
    Ok(vec![vec![view]])
}

fn identity(spec: &Spec<'_>) -> OpResult<Kernel> {
    spec.expect_inputs(1, 1)?;
    Ok(Kernel::view(|_, _| Ok(vec![Vec::new()])))
}

/// Inference drops nothing; the mask says so.
fn dropout(spec: &Spec<'_>) -> OpResult<Kernel> {
    use crate::kernel::tensor;
    spec.expect_inputs(1, 3)?;
    spec.ignore(&["ratio", "seed"]);
    if spec.has_output(1) || spec.has_input(2) {
        return Ok(Kernel::host(|i| {
            let x = i.get(0)?;
            let training = match i.opt(2) {
                Some(t) => crate::host::typed::<bool>(t)?.first().copied().unwrap_or(false),
                None => false,
            };
            let ratio = i.opt_f64(1)?.unwrap_or(0.5);
            ensure!(!training || ratio == 0.0, "training mode is not supported");
            let mask = tensor(x.shape().to_vec(), crate::Data::Bool(vec![true; x.data().len()]))?;
            Ok(vec![x.clone(), mask])
        }));
    }
    Ok(Kernel::view(|_, _| Ok(vec![Vec::new()])))
}

fn reshape(spec: &Spec<'_>) -> OpResult<Kernel> {
    spec.expect_inputs(2, 2)?;
    let keep_zero = spec.flag("allowzero", false)?;
    Ok(Kernel::view(move |from, rest| {
        one(View::Reshape(reshaped(from, &rest.i64s(0)?, keep_zero)?))
    }))
}

fn reshape_attribute(spec: &Spec<'_>) -> OpResult<Kernel> {
    spec.expect_inputs(1, 1)?;
    let wanted = spec.ints("shape")?.unwrap_or_default();
    Ok(Kernel::view(move |from, _| {
        one(View::Reshape(reshaped(from, &wanted, false)?))
    }))
}

/// 0 copies a dimension, one -1 takes what is left.
fn reshaped(from: &[usize], wanted: &[i64], keep_zero: bool) -> OpResult<Vec<usize>> {
    let total = shape::elements(from)?;
    let mut to = Vec::with_capacity(wanted.len());
    let mut open = None;
    for (d, &w) in wanted.iter().enumerate() {
        to.push(match w {
            -1 if open.is_none() => {
                open = Some(d);
                1
            }
            0 if !keep_zero => match from.get(d) {
                Some(&size) => size,
                None => bail!("shape {wanted:?} copies dimension {d} of {from:?}"),
            },
            w if w >= 0 => w as usize,
            _ => bail!("shape {wanted:?} has {w}"),
        });
    }
    if let Some(d) = open {
        let known = shape::elements(&to)?;
        ensure!(
            known > 0 && total.is_multiple_of(known),
            "{from:?} can't be reshaped to {wanted:?}"
        );
        to[d] = total / known;
    }
    ensure!(
        shape::elements(&to)? == total,
        "{from:?} can't be reshaped to {wanted:?}"
    );
    Ok(to)
}

fn flatten(spec: &Spec<'_>) -> OpResult<Kernel> {
    spec.expect_inputs(1, 1)?;
    let axis = spec.int("axis", 1)?;
    Ok(Kernel::view(move |from, _| {
        let axis = if axis == from.len() as i64 {
            from.len()
        } else {
            shape::axis(axis, from.len())?
        };
        one(View::Reshape(vec![
            from[..axis].iter().product(),
            from[axis..].iter().product(),
        ]))
    }))
}

fn squeeze(spec: &Spec<'_>, attribute: Option<Vec<i64>>) -> OpResult<Kernel> {
    spec.expect_inputs(1, 2)?;
    Ok(Kernel::view(move |from, rest| {
        let drop = match rest.opt_i64s(0)?.or_else(|| attribute.clone()) {
            Some(axes) => shape::axes(&axes, from.len())?,
            None => (0..from.len()).filter(|&d| from[d] == 1).collect(),
        };
        ensure!(
            drop.iter().all(|&d| from[d] == 1),
            "axes {drop:?} of {from:?} are not all 1"
        );
        one(View::Reshape(
            (0..from.len()).filter(|d| !drop.contains(d)).map(|d| from[d]).collect(),
        ))
    }))
}

fn unsqueeze(spec: &Spec<'_>, attribute: Option<Vec<i64>>) -> OpResult<Kernel> {
    spec.expect_inputs(1, 2)?;
    ensure!(attribute.is_some() || spec.has_input(1), "axes are missing");
    Ok(Kernel::view(move |from, rest| {
        let axes = rest.opt_i64s(0)?.or_else(|| attribute.clone()).unwrap_or_default();
        let rank = from.len() + axes.len();
        let axes = shape::axes(&axes, rank)?;
        let mut old = from.iter().copied();
        let to = (0..rank).map(|d| if axes.contains(&d) { 1 } else { old.next().unwrap_or(1) });
        one(View::Reshape(to.collect()))
    }))
}

fn transpose(spec: &Spec<'_>) -> OpResult<Kernel> {
    spec.expect_inputs(1, 1)?;
    let perm = spec.sizes("perm", 0)?;
    Ok(Kernel::view(move |from, _| {
        let perm = perm.clone().unwrap_or_else(|| (0..from.len()).rev().collect());
        let mut sorted = perm.clone();
        sorted.sort_unstable();
        ensure!(
            sorted.iter().copied().eq(0..from.len()),
            "perm {perm:?} for rank {}",
            from.len()
        );
        one(View::Permute(perm))
    }))
}

fn expand(spec: &Spec<'_>) -> OpResult<Kernel> {
    spec.expect_inputs(2, 2)?;
    Ok(Kernel::view(|from, rest| {
        let wanted = shape::from_i64s(&rest.i64s(0)?)?;
        one(View::Expand(shape::broadcast(from, &wanted)?))
    }))
}

/// The whole of every dimension.
fn whole(dims: &[usize]) -> Vec<Range> {
    dims.iter().map(|&len| Range { start: 0, len, step: 1 }).collect()
}

fn slice_attributes(spec: &Spec<'_>) -> OpResult<Kernel> {
    spec.expect_inputs(1, 1)?;
    let (starts, ends) = (
        spec.ints("starts")?.unwrap_or_default(),
        spec.ints("ends")?.unwrap_or_default(),
    );
    let axes = spec.ints("axes")?;
    Ok(Kernel::view(move |from, _| {
        one(View::Slice(sliced(from, &starts, &ends, axes.as_deref(), None)?))
    }))
}

fn slice_operands(spec: &Spec<'_>) -> OpResult<Kernel> {
    spec.expect_inputs(3, 5)?;
    Ok(Kernel::view(|from, rest| {
        let (axes, steps) = (rest.opt_i64s(2)?, rest.opt_i64s(3)?);
        one(View::Slice(sliced(
            from,
            &rest.i64s(0)?,
            &rest.i64s(1)?,
            axes.as_deref(),
            steps.as_deref(),
        )?))
    }))
}

fn sliced(
    from: &[usize],
    starts: &[i64],
    ends: &[i64],
    axes: Option<&[i64]>,
    steps: Option<&[i64]>,
) -> OpResult<Vec<Range>> {
    let n = starts.len();
    let all: Vec<i64> = (0..n as i64).collect();
    let axes = axes.unwrap_or(&all);
    let ones = vec![1; n];
    let steps = steps.unwrap_or(&ones);
    ensure!(
        ends.len() == n && axes.len() == n && steps.len() == n,
        "starts, ends, axes and steps differ in length"
    );
    let mut ranges = whole(from);
    for k in 0..n {
        let d = shape::axis(axes[k], from.len())?;
        ranges[d] = range(from[d] as i64, starts[k], ends[k], steps[k])?;
    }
    Ok(ranges)
}

/// Python's slice of one dimension.
fn range(size: i64, start: i64, end: i64, step: i64) -> OpResult<Range> {
    ensure!(step != 0, "a step is 0");
    let from_end = |v: i64| if v < 0 { v.saturating_add(size) } else { v };
    let (start, end) = (from_end(start), from_end(end));
    let (start, span) = if step > 0 {
        let start = start.clamp(0, size);
        (start, end.clamp(0, size) - start)
    } else {
        let start = start.clamp(-1, size - 1);
        (start, start - end.clamp(-1, size - 1))
    };
    let len = if span <= 0 {
        0
    } else {
        ((span as u64).div_ceil(step.unsigned_abs())) as usize
    };
    let step = if len <= 1 { step.signum() } else { step };
    Ok(Range {
        start: if len == 0 { 0 } else { start as usize },
        len,
        step: step as isize,
    })
}

fn split(spec: &Spec<'_>) -> OpResult<Kernel> {
    spec.expect_inputs(1, 2)?;
    let axis = spec.int("axis", 0)?;
    let attribute = spec.ints("split")?;
    let parts = match spec.opt_int("num_outputs")? {
        Some(n) => usize::try_from(n).unwrap_or(0),
        None => spec.outputs.len(),
    };
    ensure!(parts > 0 && parts <= 1 << 16, "{parts} outputs");
    Ok(Kernel::view(move |from, rest| {
        let axis = shape::axis(axis, from.len())?;
        let sizes = if let Some(sizes) = rest.opt_i64s(0)?.or_else(|| attribute.clone()) {
            shape::from_i64s(&sizes)?
        } else {
            let each = from[axis].div_ceil(parts);
            let left = |k: usize| from[axis].saturating_sub(k * each).min(each);
            (0..parts).map(left).collect()
        };
        let total = sizes.iter().try_fold(0usize, |n, &s| n.checked_add(s));
        ensure!(
            total == Some(from[axis]),
            "parts {sizes:?} of a dimension of {}",
            from[axis]
        );
        let mut start = 0;
        Ok(sizes
            .into_iter()
            .map(|len| {
                let mut ranges = whole(from);
                ranges[axis] = Range { start, len, step: 1 };
                start += len;
                vec![View::Slice(ranges)]
            })
            .collect())
    }))
}

fn blocks(spec: &Spec<'_>) -> OpResult<usize> {
    spec.expect_inputs(1, 1)?;
    let size = spec.int("blocksize", 0)?;
    ensure!(size > 0 && size <= 1 << 16, "attribute \"blocksize\" is {size}");
    Ok(size as usize)
}

fn depth_to_space(spec: &Spec<'_>) -> OpResult<Kernel> {
    let b = blocks(spec)?;
    let by_column = match spec.string("mode", "DCR")? {
        "DCR" => false,
        "CRD" => true,
        other => bail!("attribute \"mode\" is {other:?} instead of DCR or CRD"),
    };
    Ok(Kernel::view(move |from, _| {
        let &[n, c, h, w] = from else {
            bail!("input of rank {} instead of 4", from.len())
        };
        ensure!(c.is_multiple_of(b * b), "{c} channels in blocks of {b}");
        let depth = c / (b * b);
        let (split, perm) = if by_column {
            (vec![n, depth, b, b, h, w], vec![0, 1, 4, 2, 5, 3])
        } else {
            (vec![n, b, b, depth, h, w], vec![0, 3, 4, 1, 5, 2])
        };
        Ok(vec![vec![
            View::Reshape(split),
            View::Permute(perm),
            View::Reshape(vec![n, depth, h * b, w * b]),
        ]])
    }))
}

fn space_to_depth(spec: &Spec<'_>) -> OpResult<Kernel> {
    let b = blocks(spec)?;
    Ok(Kernel::view(move |from, _| {
        let &[n, c, h, w] = from else {
            bail!("input of rank {} instead of 4", from.len())
        };
        ensure!(
            h.is_multiple_of(b) && w.is_multiple_of(b),
            "{h} by {w} in blocks of {b}"
        );
        let split = View::Reshape(vec![n, c, h / b, b, w / b, b]);
        let joined = View::Reshape(vec![n, c * b * b, h / b, w / b]);
        Ok(vec![vec![split, View::Permute(vec![0, 3, 5, 1, 2, 4]), joined]])
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    use crate::testing::{Attributes, eval, eval_at, f32s, ints};

    #[test]
    fn slices_go_backwards_on_host_and_device() {
        let back = [
            ints(&[1], &[-1]),
            ints(&[1], &[i64::MIN]),
            ints(&[1], &[0]),
            ints(&[1], &[-2]),
        ];
        let run = |x: &crate::Tensor| {
            let [s, e, a, t] = back.clone();
            eval("Slice", |_| {}, &[x.clone(), s, e, a, t])
        };
        assert_eq!(run(&ints(&[4], &[1, 2, 3, 4])), ints(&[2], &[4, 2]));
        // Behind a multiplication of this size the data lies on the device.
        let v: Vec<f32> = (0..2000).map(|k| k as f32).collect();
        let graph = crate::testing::Graphs::new(18)
            .input("x", 1, &[Some(2000)])
            .constant("one", crate::testing::f32_tensor(&[1], &[1.0]))
            .constant("s", crate::testing::i64_tensor(&[1], &[-1]))
            .constant("e", crate::testing::i64_tensor(&[1], &[i64::MIN]))
            .constant("a", crate::testing::i64_tensor(&[1], &[0]))
            .constant("t", crate::testing::i64_tensor(&[1], &[-3]))
            .node("Mul", &["x", "one"], &["m"])
            .node("Slice", &["m", "s", "e", "a", "t"], &["y"])
            .output("y");
        let out = graph.run(vec![f32s(&[2000], &v)]);
        let wanted: Vec<f32> = (0..2000).rev().step_by(3).map(|k| k as f32).collect();
        assert_eq!(out[0], f32s(&[wanted.len()], &wanted));
    }

    #[test]
    fn parts_and_axes() {
        let x = ints(&[1, 3], &[1, 2, 3]);
        let out = eval_at(13, "Split", |a| a.int("axis", 1), &[x.clone(), ints(&[2], &[1, 2])], 2).unwrap();
        assert_eq!(out, [ints(&[1, 1], &[1]), ints(&[1, 2], &[2, 3])]);
        assert_eq!(
            eval("Unsqueeze", |_| {}, &[x.clone(), ints(&[1], &[-1])]).shape(),
            [1, 3, 1]
        );
        assert_eq!(eval("Squeeze", |_| {}, &[x.clone(), ints(&[1], &[0])]).shape(), [3]);
        assert_eq!(eval("Transpose", |_| {}, &[x.clone()]), ints(&[3, 1], &[1, 2, 3]));
        assert_eq!(
            eval("Expand", |_| {}, &[x, ints(&[2], &[2, 1])]),
            ints(&[2, 3], &[1, 2, 3, 1, 2, 3])
        );
        let perm = |a: &mut Attributes| a.ints("perm", &[0, 7]);
        assert!(
            eval_at(18, "Transpose", perm, &[ints(&[1, 1], &[1])], 1)
                .unwrap_err()
                .contains("perm")
        );
    }

    #[test]
    fn blocks_move_between_depth_and_space() {
        let x = ints(&[1, 4, 1, 1], &[1, 2, 3, 4]);
        let out = eval("DepthToSpace", |a| a.int("blocksize", 2), &[x.clone()]);
        assert_eq!(out, ints(&[1, 1, 2, 2], &[1, 2, 3, 4]));
        assert_eq!(eval("SpaceToDepth", |a| a.int("blocksize", 2), &[out]), x);
    }

    #[test]
    fn ranges_follow_python() {
        let r = |size, start, end, step| {
            let r = range(size, start, end, step).unwrap();
            (r.start, r.len, r.step)
        };
        assert_eq!(r(5, 1, 4, 2), (1, 2, 2));
        assert_eq!(r(5, -2, i64::MAX, 1), (3, 2, 1));
        assert_eq!(r(5, -1, i64::MIN, -1), (4, 5, -1));
        assert_eq!(r(5, 10, -10, -2), (4, 3, -2));
        assert_eq!(r(5, 4, 2, 1).1, 0);
        assert_eq!(r(0, 0, 5, 1).1, 0);
        assert!(range(5, 0, 5, 0).is_err());
    }

    #[test]
    fn reshape_copies_and_infers() {
        assert_eq!(reshaped(&[2, 3, 4], &[0, -1], false).unwrap(), [2, 12]);
        assert_eq!(reshaped(&[0, 3], &[3, 0], true).unwrap(), [3, 0]);
        assert!(reshaped(&[2, 3], &[-1, -1], false).is_err());
        assert!(reshaped(&[2, 3], &[4], false).is_err());
        assert!(reshaped(&[6], &[-2, 3], false).is_err());
    }
}
