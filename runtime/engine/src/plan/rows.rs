//! Whether a plan treats the rows of its inputs' first dimension, the images of a batch, one by one: then a batch may be run in
//! parts, each on a thread of its own, whose results stand behind each other. A part's values stay in the cache from one step
//! to the next, and its thread waits for nobody.
//!
//! Every step is asked with the shapes that its operands would have, so that nothing is guessed: a plan with one step that
//! might mix rows, or that nothing is known of, is run as a whole.

use std::sync::{Arc, Mutex, PoisonError};

use super::{Plan, Step};
use crate::Tensor;
use crate::device::{Conv, Dense, DeviceOp, Fused};
use crate::graph::ValueId;
use crate::kernel::{Inputs, Kernel, View};
use crate::shape;
use crate::window::{Axis, Window};

/// Elements of a part's largest value up to which further images join it. More of them share what is read of the weights.
const LARGEST: usize = 1 << 20;

/// The plan's steps as far as they keep rows apart.
pub(crate) struct Rows {
    steps: Vec<(Rule, Vec<Option<Term>>, ValueId)>,
    inputs: Vec<ValueId>,
    outputs: Vec<ValueId>,
    values: usize,
    /// What was asked last: the inputs' shapes and the number of parts that wait for nobody.
    last: Mutex<Option<Asked>>,
}

struct Asked {
    shapes: Vec<Vec<usize>>,
    threads: usize,
    answer: Option<Cut>,
}

/// How a batch is cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Cut {
    /// Images that are run in parts; what is left of the batch is run as a whole.
    pub(crate) images: usize,
    /// Parts of them, as long as each other but for one image.
    pub(crate) parts: usize,
    /// Multiply-adds of all of them.
    pub(crate) work: usize,
}

/// What a step does to shapes.
enum Rule {
    /// The operands stretched to each other.
    Stretch,
    /// One function of every row's numbers, from this axis on.
    Along(i64),
    /// The first operand's shape; the others are constants.
    First,
    Conv(Conv),
    Pool(Window, Vec<usize>),
    Global,
    Dense(Dense),
    Concat(i64),
    /// The step's place in the plan, and its other operands.
    View(usize, Vec<Option<Arc<Tensor>>>),
}

/// An operand: a constant's shape, or a value.
enum Term {
    Constant(Vec<usize>),
    Value(ValueId),
}

/// The shape of an operand, and whether it has a row for every image.
#[derive(Clone, Copy)]
struct Given<'a> {
    shape: &'a [usize],
    rows: bool,
}

impl Rows {
    /// `None` where a step is of a kind that nothing is known of, or where no convolution is among them: other plans gain less
    /// from the cache than they lose by smaller products.
    pub(crate) fn of(plan: &Plan) -> Option<Self> {
        let steps = plan.steps.iter().enumerate().map(|(n, step)| {
            let [Some(output)] = step.outputs[..] else { return None };
            let term = |o: &Option<super::Operand>| {
                o.map(|o| match &plan.constants[o.value] {
                    Some(t) => Term::Constant(t.shape().to_vec()),
                    None => Term::Value(o.value),
                })
            };
            Some((rule(plan, n, step)?, step.inputs.iter().map(term).collect(), output))
        });
        let steps = steps.collect::<Option<Vec<_>>>()?;
        let convolves = steps.iter().any(|(rule, ..)| matches!(rule, Rule::Conv(_)));
        (convolves && !plan.inputs.is_empty()).then(|| Self {
            steps,
            inputs: plan.inputs.clone(),
            outputs: plan.outputs.clone(),
            values: plan.constants.len(),
            last: Mutex::new(None),
        })
    }

    /// How inputs of these shapes are cut for so many threads; `None` where they are run as a whole.
    pub(crate) fn cut(&self, steps: &[Step], shapes: &[&[usize]], threads: usize) -> Option<Cut> {
        let batch = *shapes.first()?.first()?;
        if threads < 2 || batch < threads || shapes.iter().any(|s| s.first() != Some(&batch)) {
            return None;
        }
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(asked) = &*last
            && asked.threads == threads
            && asked.shapes.iter().zip(shapes).all(|(a, b)| a == b)
        {
            return asked.answer;
        }
        let answer = self.find(steps, shapes, batch, threads);
        *last = Some(Asked {
            shapes: shapes.iter().map(|s| s.to_vec()).collect(),
            threads,
            answer,
        });
        answer
    }

    /// The same for a batch that has rows for every thread.
    fn find(&self, steps: &[Step], shapes: &[&[usize]], batch: usize, threads: usize) -> Option<Cut> {
        // One and two tell a row from a number that happens to be as large.
        let (largest, work) = self.sizes(steps, shapes, 1)?;
        self.sizes(steps, shapes, 2)?;
        self.sizes(steps, shapes, batch)?;
        let each = batch / threads;
        let together = (LARGEST / largest.max(1)).clamp(1, each);
        let images = each * threads;
        Some(Cut {
            images,
            parts: threads * each.div_ceil(together),
            work: work.saturating_mul(images),
        })
    }

    /// Elements of the largest value of a run on so many images, and its multiply-adds. `None` where a value would not have a
    /// row for each of them.
    fn sizes(&self, steps: &[Step], shapes: &[&[usize]], images: usize) -> Option<(usize, usize)> {
        let mut values: Vec<Option<Vec<usize>>> = vec![None; self.values];
        let (mut largest, mut work) = (0, 0usize);
        for (&id, shape) in self.inputs.iter().zip(shapes) {
            let mut shape = shape.to_vec();
            *shape.first_mut()? = images;
            largest = largest.max(shape::elements(&shape).ok()?);
            values[id] = Some(shape);
        }
        for (rule, terms, output) in &self.steps {
            let given = terms.iter().map(|term| match term {
                None => Some(None),
                Some(Term::Constant(shape)) => Some(Some(Given { shape, rows: false })),
                Some(Term::Value(id)) => values[*id].as_deref().map(|shape| Some(Given { shape, rows: true })),
            });
            let given = given.collect::<Option<Vec<_>>>()?;
            let shape = rule.shape(&given, steps, images)?;
            let elements = shape::elements(&shape).ok()?;
            largest = largest.max(elements);
            work = work.saturating_add(elements.saturating_mul(rule.depth(&given)));
            if shape.first() != Some(&images) {
                return None;
            }
            values[*output] = Some(shape);
        }
        let computed = self.outputs.iter().all(|&id| values[id].is_some());
        computed.then_some((largest, work))
    }
}

fn rule(plan: &Plan, n: usize, step: &Step) -> Option<Rule> {
    let constant = |i: usize| {
        let operand = step.inputs.get(i).copied().flatten();
        operand.is_none_or(|o| plan.constants[o.value].is_some())
    };
    let op = match &step.kernel {
        Kernel::Device { op, .. } => op,
        Kernel::View(_) if (1..step.inputs.len()).all(constant) => {
            let rest = step.inputs[1..].iter();
            let rest = rest.map(|o| o.and_then(|o| plan.constants[o.value].clone())).collect();
            return Some(Rule::View(n, rest));
        }
        _ => return None,
    };
    let others = (1..step.inputs.len()).all(constant);
    Some(match op {
        DeviceOp::Unary(_) | DeviceOp::Arith(_) => Rule::Stretch,
        DeviceOp::Clip { .. } | DeviceOp::BatchNorm { .. } if others => Rule::First,
        DeviceOp::Softmax { axis, .. } => Rule::Along(*axis),
        DeviceOp::Conv(conv) if constant(1) && constant(2) => Rule::Conv(conv.clone()),
        DeviceOp::MaxPool { window, kernel } | DeviceOp::AveragePool { window, kernel, .. } => {
            Rule::Pool(window.clone(), kernel.clone())
        }
        DeviceOp::GlobalPool(_) => Rule::Global,
        DeviceOp::Fused(Fused::Dense(dense)) if constant(1) && constant(2) => Rule::Dense(*dense),
        DeviceOp::Concat { axis } => Rule::Concat(*axis),
        _ => return None,
    })
}

impl Rule {
    /// The result's shape, `None` where its rows are not those of the operands.
    fn shape(&self, given: &[Option<Given<'_>>], steps: &[Step], images: usize) -> Option<Vec<usize>> {
        let first = (*given.first()?)?;
        if !first.rows && !matches!(self, Self::Stretch) {
            return None;
        }
        let x = first.shape;
        match self {
            Self::First => (x.len() > 1).then(|| x.to_vec()),
            Self::Along(axis) => (shape::axis(*axis, x.len()).ok()? > 0).then(|| x.to_vec()),
            Self::Stretch => stretched(given),
            Self::Conv(conv) => {
                let weights = (*given.get(1)?)?.shape;
                let axes = conv.resolve(x, weights).ok()?;
                let out = windowed(x[0], weights[0], &axes);
                kept(out, given.get(3))
            }
            Self::Pool(window, kernel) => {
                let axes = window.resolve(x.get(2..)?, kernel).ok()?;
                Some(windowed(x[0], x[1], &axes))
            }
            Self::Global => {
                let mut out = x.get(..2)?.to_vec();
                out.resize(x.len(), 1);
                Some(out)
            }
            Self::Dense(dense) => {
                let [rows, columns] = *(*given.get(1)?)?.shape else {
                    return None;
                };
                let mut out = x.to_vec();
                *out.last_mut()? = if dense.transposed { rows } else { columns };
                (x.len() > 1).then_some(())?;
                kept(out, given.get(3))
            }
            Self::Concat(axis) => {
                let axis = shape::axis(*axis, x.len()).ok().filter(|&a| a > 0)?;
                let mut out = x.to_vec();
                out[axis] = 0;
                for g in given.iter().flatten() {
                    let same = g.shape.len() == x.len() && (0..x.len()).all(|d| d == axis || g.shape[d] == x[d]);
                    (g.rows && same).then_some(())?;
                    out[axis] += g.shape[axis];
                }
                Some(out)
            }
            Self::View(n, rest) => {
                let Kernel::View(op) = &steps.get(*n)?.kernel else {
                    return None;
                };
                let views = op.views(x, &Inputs(rest)).ok()?;
                let [moves] = views.as_slice() else { return None };
                moves.iter().try_fold(x.to_vec(), |x, view| moved(&x, view, images))
            }
        }
    }

    /// Multiply-adds of a number of the result.
    fn depth(&self, given: &[Option<Given<'_>>]) -> usize {
        let weights = given.get(1).copied().flatten().map_or(&[][..], |g| g.shape);
        match self {
            Self::Conv(_) => weights.iter().skip(1).product(),
            Self::Dense(dense) => weights.get(usize::from(dense.transposed)).copied().unwrap_or(1),
            _ => 1,
        }
    }
}

fn windowed(images: usize, channels: usize, axes: &[Axis]) -> Vec<usize> {
    [images, channels]
        .into_iter()
        .chain(axes.iter().map(|a| a.output))
        .collect()
}

/// The result with a residual, which has to be of its shape.
fn kept(out: Vec<usize>, residual: Option<&Option<Given<'_>>>) -> Option<Vec<usize>> {
    let fits = residual.copied().flatten().is_none_or(|r| r.rows && r.shape == out);
    fits.then_some(out)
}

/// Values have all dimensions, constants none along the rows.
fn stretched(given: &[Option<Given<'_>>]) -> Option<Vec<usize>> {
    let rank = given.iter().flatten().find(|g| g.rows)?.shape.len();
    let mut out = Vec::new();
    for g in given.iter().flatten() {
        let apart = if g.rows {
            g.shape.len() == rank
        } else {
            g.shape.len() < rank || (g.shape.len() == rank && g.shape[0] == 1)
        };
        apart.then_some(())?;
        out = shape::broadcast(&out, g.shape).ok()?;
    }
    Some(out)
}

fn moved(x: &[usize], view: &View, images: usize) -> Option<Vec<usize>> {
    match view {
        View::Reshape(to) => (x.first() == Some(&images) && to.first() == Some(&images)).then(|| to.clone()),
        View::Permute(order) => (order.first() == Some(&0)).then(|| order.iter().map(|&d| x[d]).collect()),
        View::Slice(_) | View::Expand(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::{Cut, Rows};
    use crate::testing::{Graphs, f32_tensor, i64_tensor};

    /// A convolution of one channel and what follows it, up to `last`.
    fn graph() -> Graphs {
        Graphs::new(13)
            .input("x", 1, &[None, Some(1), Some(4), Some(4)])
            .constant("w", f32_tensor(&[2, 1, 1, 1], &[2.0, 3.0]))
            .constant("scale", f32_tensor(&[], &[0.5]))
            .node("Mul", &["x", "scale"], &["m"])
            .node("Conv", &["m", "w"], &["c"])
    }

    fn cut(graph: Graphs, shapes: &[&[usize]], threads: usize) -> Option<Cut> {
        let plan = graph.plan().unwrap();
        Rows::of(&plan)?.cut(&plan.steps, shapes, threads)
    }

    #[test]
    fn images_are_shared_out_and_the_rest_is_left() {
        let relu = || graph().node("Relu", &["c"], &["y"]).output("y");
        let parts = |batch, threads| cut(relu(), &[&[batch, 1, 4, 4]], threads).map(|c| (c.images, c.parts));
        assert_eq!(parts(8, 2), Some((8, 2)));
        assert_eq!(parts(9, 2), Some((8, 2)));
        assert_eq!(parts(3, 3), Some((3, 3)));
        assert_eq!(parts(3, 4), None);
        assert_eq!(parts(8, 1), None);
    }

    #[test]
    fn large_images_are_run_one_by_one() {
        let size = 1 << 10;
        let relu = Graphs::new(13)
            .input("x", 1, &[None, None, None, None])
            .constant("w", f32_tensor(&[1, 1, 1, 1], &[2.0]))
            .node("Conv", &["x", "w"], &["y"])
            .output("y");
        let cut = cut(relu, &[&[12, 1, size, size]], 2).expect("its rows are apart");
        assert_eq!((cut.images, cut.parts), (12, 12));
    }

    #[test]
    fn steps_that_keep_rows_apart_are_known() {
        let dense = || graph().constant("d", f32_tensor(&[32, 3], &[0.1; 96]));
        let apart = [
            graph().node("Flatten", &["c"], &["f"]).node("Softmax", &["f"], &["y"]),
            graph()
                .node("GlobalAveragePool", &["c"], &["g"])
                .node("Flatten", &["g"], &["y"]),
            graph().node_with("MaxPool", &["c"], &["y"], |a| a.ints("kernel_shape", &[2, 2])),
            graph().node("Mul", &["c", "m"], &["s"]).node("Sigmoid", &["s"], &["y"]),
            dense()
                .node("Flatten", &["c"], &["f"])
                .node("MatMul", &["f", "d"], &["y"]),
            graph()
                .constant("to", i64_tensor(&[2], &[-1, 32]))
                .node("Reshape", &["c", "to"], &["y"]),
            graph().node_with("Transpose", &["c"], &["y"], |a| a.ints("perm", &[0, 2, 3, 1])),
            graph().node_with("Concat", &["c", "m"], &["y"], |a| a.int("axis", 1)),
        ];
        for (n, graph) in apart.into_iter().enumerate() {
            assert!(cut(graph.output("y"), &[&[4, 1, 4, 4]], 2).is_some(), "graph {n}");
        }
    }

    #[test]
    fn steps_that_may_mix_rows_are_not_cut() {
        let mixed = [
            graph().node_with("Transpose", &["c"], &["y"], |a| a.ints("perm", &[1, 0, 2, 3])),
            graph().node_with("Concat", &["c", "c"], &["y"], |a| a.int("axis", 0)),
            graph().node_with("Softmax", &["c"], &["y"], |a| a.int("axis", 0)),
            graph().node_with("ReduceMean", &["c"], &["y"], |a| a.ints("axes", &[0])),
            graph()
                .constant("to", i64_tensor(&[3], &[-1, 4, 4]))
                .node("Reshape", &["c", "to"], &["y"]),
            graph()
                .constant("to", i64_tensor(&[2], &[4, 32]))
                .node("Reshape", &["c", "to"], &["y"]),
            graph()
                .constant("each", f32_tensor(&[4, 1, 1, 1], &[1.0, 2.0, 3.0, 4.0]))
                .node("Add", &["c", "each"], &["y"]),
            graph().node("Relu", &["c"], &["y"]).output("w"),
        ];
        for (n, graph) in mixed.into_iter().enumerate() {
            assert_eq!(cut(graph.output("y"), &[&[4, 1, 4, 4]], 2), None, "graph {n}");
        }
        let without = Graphs::new(13)
            .input("x", 1, &[None, Some(1)])
            .node("Relu", &["x"], &["y"]);
        assert_eq!(cut(without.output("y"), &[&[4, 1]], 2), None);
    }
}
