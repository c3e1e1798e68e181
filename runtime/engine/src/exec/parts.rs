//! A batch run in parts, each on a thread of its own (`plan::rows` says of which plans that may be done).

use std::cell::Cell;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use super::{Executor, Run};
use crate::backend::Accelerate;
use crate::fault::{Fault, OpResult, caught};
use crate::kernel::tensor;
use crate::plan::Cut;
use crate::value::Value;
use crate::{Data, Tensor, buffers, each_data};

/// What became of a part; nothing yet.
type Slot<B> = Mutex<Option<OpResult<Vec<Value<B>>>>>;

impl<A: Accelerate> Executor<A> {
    /// How these inputs are cut, where they are.
    pub(super) fn cut(&self, inputs: &[Value<A::Backend>]) -> Option<Cut> {
        let rows = self.rows.as_ref()?;
        let shapes = inputs.iter().map(|v| match v {
            Value::Host(t) if t.small().is_none() => Some(t.shape()),
            _ => None,
        });
        rows.cut(
            &self.plan.steps,
            &shapes.collect::<Option<Vec<_>>>()?,
            pilotlight_kernels::threads(),
        )
    }

    /// Runs the parts, and what is left of the batch after them. `at` is the step of the first fault.
    pub(super) fn in_parts(
        &self,
        cut: Cut,
        inputs: &[Value<A::Backend>],
        at: &AtomicUsize,
    ) -> OpResult<Vec<Value<A::Backend>>> {
        let batch = inputs.first().and_then(|v| v.shape().first().copied()).unwrap_or(0);
        let bounds: Vec<usize> = (0..=cut.parts).map(|p| p * cut.images / cut.parts).collect();
        let part = |first: usize, last: usize, threads: usize| {
            let own = AtomicUsize::new(usize::MAX);
            let result = caught(|| {
                let run = Run {
                    at: &own,
                    iterations: &Cell::new(0),
                    by: Cell::new(""),
                    trace: None,
                    beside: threads,
                };
                let inputs = inputs.iter().map(|v| rows(v, first, last)).collect::<OpResult<_>>()?;
                self.execute(inputs, &run)
            });
            if result.is_err() {
                let (own, first) = (own.load(Ordering::Relaxed), usize::MAX);
                // Who comes later failed for the same reason, or for one that is as good.
                let _ = at.compare_exchange(first, own, Ordering::Relaxed, Ordering::Relaxed);
            }
            result
        };
        let slots: Vec<Slot<A::Backend>> = (0..cut.parts).map(|_| Mutex::new(None)).collect();
        let threads = pilotlight_kernels::threads();
        pilotlight_kernels::each(cut.parts, cut.work, |p| {
            let result = part(bounds[p], bounds[p + 1], threads);
            *slots[p].lock().unwrap_or_else(PoisonError::into_inner) = Some(result);
        });
        let mut results = Vec::with_capacity(cut.parts + 1);
        for slot in slots {
            let result = slot.into_inner().unwrap_or_else(PoisonError::into_inner);
            results.push(result.ok_or_else(|| Fault("internal: a part was not run".into()))??);
        }
        if cut.images < batch {
            results.push(part(cut.images, batch, 1)?);
        }
        let mut outputs: Vec<_> = results.into_iter().map(Vec::into_iter).collect();
        let joined = (0..self.plan.outputs.len()).map(|_| {
            let parts = outputs.iter_mut().map(Iterator::next).collect::<Option<Vec<_>>>();
            join(parts.ok_or_else(|| Fault("internal: an output is missing".into()))?)
        });
        joined.collect()
    }
}

/// Some rows of a tensor on the host, in memory of their own.
fn rows<B: burn_backend::Backend>(value: &Value<B>, first: usize, last: usize) -> OpResult<Value<B>> {
    let Value::Host(t) = value else {
        return Err(Fault("internal: an input that is not on the host".into()));
    };
    let mut shape = t.shape().to_vec();
    let row = shape.iter().skip(1).product::<usize>();
    let range = first * row..last * row;
    shape[0] = last - first;
    let data = match t.data() {
        Data::F32(v) => {
            let mut out = buffers::take(range.len());
            out.copy_from_slice(&v[range]);
            Data::F32(out)
        }
        other => some(other, range),
    };
    Ok(Value::Host(Arc::new(tensor(shape, data)?)))
}

fn some(data: &Data, range: std::ops::Range<usize>) -> Data {
    let mut out = Data::zeros(data.datatype(), 0);
    append(&mut out, data, range);
    out
}

/// Appends elements of the same type.
fn append(to: &mut Data, from: &Data, range: std::ops::Range<usize>) {
    macro_rules! same {
        ($($name:ident)*) => {
            match (to, from) {
                $((Data::$name(to), Data::$name(from)) => to.extend_from_slice(&from[range]),)*
                _ => {}
            }
        };
    }
    same!(Bool U8 U16 U32 U64 I8 I16 I32 I64 F16 BF16 F32 F64 Bytes);
}

/// The parts' results behind each other.
fn join<B: burn_backend::Backend>(parts: Vec<Value<B>>) -> OpResult<Value<B>> {
    let parts = parts
        .into_iter()
        .map(Value::into_host)
        .collect::<OpResult<Vec<Arc<Tensor>>>>()?;
    let first = parts.first().ok_or_else(|| Fault("internal: no part".into()))?;
    let mut shape = first.shape().to_vec();
    shape[0] = parts.iter().map(|t| t.shape()[0]).sum();
    let mut data = Data::zeros(first.datatype(), 0);
    each_data!(&mut data, v => v.reserve_exact(shape.iter().product()));
    for part in &parts {
        append(&mut data, part.data(), 0..part.data().len());
    }
    let joined = tensor(shape, data)?;
    for part in parts {
        Value::<B>::Host(part).recycle();
    }
    Ok(Value::Host(Arc::new(joined)))
}

#[cfg(test)]
mod tests {
    use crate::testing::{Graphs, f32_tensor, run_f32};

    #[test]
    fn a_batch_in_parts_gives_what_its_images_give_alone() {
        let graph = Graphs::new(13)
            .input("x", 1, &[None, Some(1), Some(3), Some(3)])
            .constant(
                "w",
                f32_tensor(&[2, 1, 2, 2], &[1.0, -2.0, 0.5, 3.0, -1.0, 0.25, 2.0, 0.125]),
            )
            .constant("d", f32_tensor(&[8, 2], &[0.5, -1.0, 2.0, 0.25].repeat(4)))
            .node("Conv", &["x", "w"], &["c"])
            .node("Relu", &["c"], &["r"])
            .node("Flatten", &["r"], &["f"])
            .node("Gemm", &["f", "d"], &["y"])
            .output("y")
            .output("r");
        for batch in [2, 3, 8, 13] {
            let x: Vec<f32> = (0..9 * batch).map(|k| (k * 37 % 23) as f32 - 11.0).collect();
            let together = run_f32(&graph, &[&[batch, 1, 3, 3]], &[&x]);
            let mut alone = vec![Vec::new(); 2];
            for image in x.chunks(9) {
                for (all, one) in alone.iter_mut().zip(run_f32(&graph, &[&[1, 1, 3, 3]], &[image])) {
                    all.extend(one);
                }
            }
            assert_eq!(together, alone, "a batch of {batch}");
        }
    }
}
