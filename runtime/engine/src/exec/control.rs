//! Runs operators that have graphs of their own: branches, loops, maps.

use std::cell::Cell;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use burn_backend::Backend;

use super::{Executor, Run};
use crate::backend::{Accelerate, Place};
use crate::control::{Control, Kind, Scan};
use crate::fault::{Fault, OpResult, bail, ensure};
use crate::item::Held;
use crate::kernel::{Kernel, Range, View, tensor};
use crate::limits;
use crate::ops::sequence;
use crate::value::Value;
use crate::{Data, Tensor, host, shape};

/// Executors of a step's graphs, whose plans are taken out of it.
pub(super) fn bodies<A: Accelerate>(kernel: &mut Kernel, place: &Place<A::Backend>) -> OpResult<Vec<Executor<A>>> {
    let Kernel::Control(control) = kernel else {
        return Ok(Vec::new());
    };
    let plans = control.bodies.iter_mut().filter_map(|b| b.plan.take());
    plans.map(|plan| Executor::new(plan, place.clone())).collect()
}

/// Runs a control operator. `operands` are the node's, then what the bodies capture.
pub(super) fn run<A: Accelerate>(
    control: &Control,
    executors: &[Executor<A>],
    mut operands: Vec<Option<Value<A::Backend>>>,
    iterations: &Cell<u64>,
) -> OpResult<Vec<Value<A::Backend>>> {
    ensure!(
        operands.len() >= control.operands && executors.len() == control.bodies.len(),
        "internal: operands and graphs do not fit"
    );
    let captured = operands.split_off(control.operands);
    let mut captured = captured.into_iter();
    let mut graphs = Vec::with_capacity(executors.len());
    for (executor, body) in executors.iter().zip(&control.bodies) {
        let captures = captured.by_ref().take(body.captures).map(given);
        graphs.push(Graph {
            executor,
            captures: captures.collect::<OpResult<_>>()?,
            iterations,
        });
    }
    match &control.kind {
        Kind::If => branch(operands, &graphs),
        Kind::Loop => repeat(operands, first(&graphs)?),
        Kind::Scan(scan) if scan.batched => scan_batched(scan, operands, first(&graphs)?),
        Kind::Scan(scan) => {
            let operands = operands.into_iter().map(given).collect::<OpResult<_>>()?;
            scan_along(scan, operands, first(&graphs)?)
        }
        Kind::Map => map(operands, first(&graphs)?),
        Kind::FlexAttention {
            scale,
            score_mod,
            precision,
        } => {
            let operands = operands.into_iter().map(|o| given(o)?.into_host());
            let operands = operands.collect::<OpResult<Vec<_>>>()?;
            let modify = |stage: usize, t: Tensor| {
                // Stage 0 is the scores, 1 the probabilities; the graphs lie one behind the other where given.
                let graph = match (stage, score_mod) {
                    (0, true) => graphs.first(),
                    (0, false) => None,
                    _ => graphs.get(usize::from(*score_mod)),
                };
                match graph {
                    None => Ok(Arc::new(t)),
                    Some(graph) => only(graph.call(vec![Value::Host(Arc::new(t))])?)?.into_host(),
                }
            };
            let out = crate::ops::flex_attention::run(&operands, *scale, *precision, modify)?;
            // What it returns is on the host; the device takes it from there.
            Ok(vec![Value::Host(Arc::new(out))])
        }
    }
}

/// A graph with what it captures.
struct Graph<'a, A: Accelerate> {
    executor: &'a Executor<A>,
    captures: Vec<Value<A::Backend>>,
    iterations: &'a Cell<u64>,
}

impl<A: Accelerate> Graph<'_, A> {
    fn call(&self, mut inputs: Vec<Value<A::Backend>>) -> OpResult<Vec<Value<A::Backend>>> {
        inputs.extend(self.captures.iter().cloned());
        let at = AtomicUsize::new(usize::MAX);
        let run = Run {
            at: &at,
            iterations: self.iterations,
            by: Cell::new(""),
            trace: None,
            beside: 1,
        };
        self.executor.execute(inputs, &run).map_err(|fault| {
            match self.executor.plan.steps.get(at.load(Ordering::Relaxed)) {
                Some(step) => Fault(format!("in its graph, node {:?} ({}): {}", step.name, step.op, fault.0)),
                None => fault,
            }
        })
    }

    /// One pass of a loop's body, within the bound on all of them.
    fn pass(&self, inputs: Vec<Value<A::Backend>>) -> OpResult<Vec<Value<A::Backend>>> {
        let n = self.iterations.get() + 1;
        let most = limits::passes();
        ensure!(n <= most, "loops run more than {most} times");
        self.iterations.set(n);
        self.call(inputs)
    }

    /// What output `k` is where the body never ran: no elements, of the declared shape as far as it is known.
    fn nothing(&self, k: usize) -> OpResult<Arc<Tensor>> {
        let info = self.executor.plan.signature.outputs.get(k);
        let info = info.ok_or_else(|| Fault("internal: an output is missing".into()))?;
        let mut dims = vec![0];
        dims.extend(info.shape.iter().flatten().map(|d| match d {
            crate::Dim::Fixed(n) => *n,
            _ => 0,
        }));
        Ok(Arc::new(tensor(dims, Data::zeros(info.datatype, 0))?))
    }
}

fn first<'a, 'b, A: Accelerate>(graphs: &'a [Graph<'b, A>]) -> OpResult<&'a Graph<'b, A>> {
    graphs.first().ok_or_else(|| Fault("internal: it has no graph".into()))
}

fn given<B: Backend>(operand: Option<Value<B>>) -> OpResult<Value<B>> {
    operand.ok_or_else(|| Fault("an input is missing".into()))
}

fn only<B: Backend>(values: Vec<Value<B>>) -> OpResult<Value<B>> {
    values
        .into_iter()
        .next()
        .ok_or_else(|| Fault("its graph has no output".into()))
}

fn truth<B: Backend>(value: Value<B>) -> OpResult<bool> {
    let t = value.into_host()?;
    match t.data() {
        Data::Bool(v) if v.len() == 1 => Ok(v[0]),
        _ => bail!(
            "a condition of type {} and shape {:?} instead of one BOOL",
            t.datatype(),
            t.shape()
        ),
    }
}

fn branch<A: Accelerate>(
    operands: Vec<Option<Value<A::Backend>>>,
    graphs: &[Graph<'_, A>],
) -> OpResult<Vec<Value<A::Backend>>> {
    let condition = operands.into_iter().next().flatten();
    let taken = usize::from(!truth(given(condition)?)?);
    match graphs.get(taken) {
        Some(graph) => graph.call(Vec::new()),
        None => bail!("internal: a branch is missing"),
    }
}

fn repeat<A: Accelerate>(
    operands: Vec<Option<Value<A::Backend>>>,
    body: &Graph<'_, A>,
) -> OpResult<Vec<Value<A::Backend>>> {
    let mut operands = operands.into_iter();
    let limit = match operands.next().flatten() {
        Some(count) => match crate::kernel::i64s(&*count.into_host()?)?.as_slice() {
            [n] => Some(*n),
            other => bail!("a trip count of {} elements", other.len()),
        },
        None => None,
    };
    let mut condition = operands.next().flatten().map(truth).transpose()?.unwrap_or(true);
    let mut carried = operands.map(given).collect::<OpResult<Vec<_>>>()?;
    let kept = carried.len();
    let mut collected: Vec<Vec<Arc<Tensor>>> = Vec::new();
    let mut n = 0;
    while condition && limit.is_none_or(|l| n < l) {
        let scalar = |data| Ok(Value::<A::Backend>::Host(Arc::new(tensor(Vec::new(), data)?)));
        let mut inputs = vec![scalar(Data::I64(vec![n]))?, scalar(Data::Bool(vec![true]))?];
        inputs.append(&mut carried);
        let mut outputs = body.pass(inputs)?.into_iter();
        condition = truth(given(outputs.next())?)?;
        carried = outputs.by_ref().take(kept).collect();
        gather(&mut collected, outputs)?;
        n += 1;
    }
    let scans = body.executor.plan.outputs.len() - 1 - kept;
    for k in 0..scans {
        let stacked = match collected.get(k) {
            Some(parts) => Arc::new(sequence::stack(parts)?),
            None => body.nothing(1 + kept + k)?,
        };
        carried.push(Value::Host(stacked));
    }
    Ok(carried)
}

/// Adds one pass's values to those before. Their size is bounded as a tensor's is, since they become one.
fn gather<B: Backend>(collected: &mut Vec<Vec<Arc<Tensor>>>, values: impl Iterator<Item = Value<B>>) -> OpResult<()> {
    for (k, value) in values.enumerate() {
        let t = value.into_host()?;
        if collected.len() == k {
            collected.push(Vec::new());
        }
        shape::elements(&[collected[k].len() + 1, t.data().len().max(1)])?;
        collected[k].push(t);
    }
    Ok(())
}

/// The part of a tensor at a position of an axis, without that axis.
fn part(t: &Arc<Tensor>, axis: usize, at: usize) -> OpResult<Arc<Tensor>> {
    let dims = t.shape();
    let ranges = dims.iter().enumerate().map(|(d, &len)| Range {
        start: if d == axis { at } else { 0 },
        len: if d == axis { 1 } else { len },
        step: 1,
    });
    let mut kept = dims.to_vec();
    kept.remove(axis);
    host::apply(
        host::apply(t.clone(), &View::Slice(ranges.collect()))?,
        &View::Reshape(kept),
    )
}

/// Puts the first dimension where `axis` says.
fn moved(t: Tensor, axis: i64) -> OpResult<Arc<Tensor>> {
    let rank = t.shape().len();
    let axis = shape::axis(axis, rank)?;
    let mut perm: Vec<usize> = (1..rank).collect();
    perm.insert(axis, 0);
    host::apply(Arc::new(t), &View::Permute(perm))
}

fn scan_along<A: Accelerate>(
    scan: &Scan,
    operands: Vec<Value<A::Backend>>,
    body: &Graph<'_, A>,
) -> OpResult<Vec<Value<A::Backend>>> {
    let kept = operands.len() - scan.inputs;
    let mut states = operands;
    let walked = states.split_off(kept);
    let walked = walked.into_iter().map(Value::into_host).collect::<OpResult<Vec<_>>>()?;
    let mut axes = Vec::with_capacity(walked.len());
    let mut length = None;
    for (k, t) in walked.iter().enumerate() {
        let axis = shape::axis(scan.input_axes.get(k).copied().unwrap_or(0), t.shape().len())?;
        let len = *length.get_or_insert(t.shape()[axis]);
        ensure!(
            len == t.shape()[axis],
            "sequences of {len} and {} elements side by side",
            t.shape()[axis]
        );
        axes.push(axis);
    }
    let length = length.unwrap_or(0);
    let mut collected = Vec::new();
    for n in 0..length {
        let mut inputs = std::mem::take(&mut states);
        for (k, t) in walked.iter().enumerate() {
            let backwards = scan.input_directions.get(k) == Some(&true);
            let at = if backwards { length - 1 - n } else { n };
            inputs.push(Value::Host(part(t, axes[k], at)?));
        }
        let mut outputs = body.pass(inputs)?.into_iter();
        states = outputs.by_ref().take(kept).collect();
        gather(&mut collected, outputs)?;
    }
    let scans = body.executor.plan.outputs.len() - kept;
    for k in 0..scans {
        let Some(parts) = collected.get_mut(k) else {
            states.push(Value::Host(body.nothing(kept + k)?));
            continue;
        };
        if scan.output_directions.get(k) == Some(&true) {
            parts.reverse();
        }
        let axis = scan.output_axes.get(k).copied().unwrap_or(0);
        states.push(Value::Host(moved(sequence::stack(parts)?, axis)?));
    }
    Ok(states)
}

/// Opset 8: one walk for each element of the batch.
fn scan_batched<A: Accelerate>(
    scan: &Scan,
    operands: Vec<Option<Value<A::Backend>>>,
    body: &Graph<'_, A>,
) -> OpResult<Vec<Value<A::Backend>>> {
    let mut operands = operands.into_iter();
    let lengths = operands.next().flatten();
    let operands = operands.map(|o| given(o)?.into_host()).collect::<OpResult<Vec<_>>>()?;
    let batch = operands.first().and_then(|t| t.shape().first().copied()).unwrap_or(0);
    ensure!(
        batch > 0 && operands.iter().all(|t| t.shape().first() == Some(&batch)),
        "operands without a common batch"
    );
    if let Some(lengths) = lengths {
        let lengths = crate::kernel::i64s(&*lengths.into_host()?)?;
        let whole = operands.last().and_then(|t| t.shape().get(1)).map(|&n| n as i64);
        ensure!(
            lengths.iter().all(|&l| Some(l) == whole),
            "sequences that are shorter than their tensor are not supported"
        );
    }
    let mut collected = Vec::new();
    for b in 0..batch {
        let inputs = operands.iter().map(|t| Ok(Value::Host(part(t, 0, b)?)));
        let outputs = scan_along(scan, inputs.collect::<OpResult<_>>()?, body)?;
        gather(&mut collected, outputs.into_iter())?;
    }
    let stacked = collected
        .iter()
        .map(|parts| Ok(Value::Host(Arc::new(sequence::stack(parts)?))));
    stacked.collect()
}

fn map<A: Accelerate>(
    operands: Vec<Option<Value<A::Backend>>>,
    body: &Graph<'_, A>,
) -> OpResult<Vec<Value<A::Backend>>> {
    let operands = operands.into_iter().map(|o| given(o)?.into_held());
    let operands = operands.collect::<OpResult<Vec<_>>>()?;
    let length = match operands.first() {
        Some(list) => list.list()?.len(),
        None => bail!("input 0 is missing"),
    };
    let mut results: Vec<Vec<Arc<Tensor>>> = vec![Vec::new(); body.executor.plan.outputs.len()];
    for n in 0..length {
        let inputs = operands.iter().map(|o| match o {
            Held::List(list) => match list.get(n) {
                Some(t) => Ok(Value::Host(t.clone())),
                None => bail!("sequences of {length} and {} elements side by side", list.len()),
            },
            other => Ok(Value::from(other.clone())),
        });
        let outputs = body.pass(inputs.collect::<OpResult<_>>()?)?;
        for (list, value) in results.iter_mut().zip(outputs) {
            list.push(value.into_host()?);
        }
    }
    Ok(results.into_iter().map(|list| Value::List(Arc::new(list))).collect())
}
