//! Recurrent layers of FP32 with the usual activations, over packed weights: the product with all inputs first, in one,
//! then step by step the one with the states.

use std::sync::{Arc, Mutex, PoisonError};

use pilotlight_kernels::{self as kernels, Finish, Function, Matrix, Pair};

use super::{Activation, Cell, Layer, Sizes};
use crate::fault::OpResult;
use crate::kernel::{Inputs, tensor};
use crate::{Data, Tensor, buffers};

/// One direction's weights, packed, and its bias: that of the input with all of the state's that is added to the same sum.
struct Packed {
    w: Matrix,
    r: Matrix,
    /// The candidate's part of `r`, where it has to be multiplied by itself.
    candidate: Option<Matrix>,
    bias: Vec<f32>,
    /// What is added to the candidate's state before the gate.
    inner: Vec<f32>,
}

/// The weights that were packed last, with what came of them. In nearly every model they are constants.
#[derive(Default)]
pub(super) struct Cache(Mutex<Option<Arc<Entry>>>);

struct Entry {
    sources: [Option<Arc<Tensor>>; 3],
    directions: Vec<Packed>,
}

impl Cache {
    fn get(&self, sources: [Option<Arc<Tensor>>; 3], pack: impl FnOnce() -> Option<Vec<Packed>>) -> Option<Arc<Entry>> {
        let mut slot = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let same = |a: &Option<Arc<Tensor>>, b: &Option<Arc<Tensor>>| match (a, b) {
            (Some(a), Some(b)) => Arc::ptr_eq(a, b),
            (None, None) => true,
            _ => false,
        };
        // The entry holds its sources, so that no other tensor can take their address.
        if let Some(entry) = &*slot
            && entry.sources.iter().zip(&sources).all(|(a, b)| same(a, b))
        {
            return Some(entry.clone());
        }
        let entry = Arc::new(Entry {
            sources,
            directions: pack()?,
        });
        *slot = Some(entry.clone());
        Some(entry)
    }
}

fn floats(t: Option<&Tensor>) -> Option<&[f32]> {
    match t?.data() {
        Data::F32(v) => Some(v),
        _ => None,
    }
}

impl Layer {
    /// `None` where the layer is not of the usual kind. Its shapes are known to fit.
    pub(super) fn run_fast(&self, i: &Inputs<'_>, sizes: &Sizes, lens: &[usize]) -> Option<OpResult<Vec<Tensor>>> {
        let usual: &[Activation] = match self.cell {
            Cell::Lstm => &[Activation::Sigmoid, Activation::Tanh, Activation::Tanh],
            Cell::Gru => &[Activation::Sigmoid, Activation::Tanh],
            Cell::Rnn => return None,
        };
        let plain = self.clip.is_none() && !self.input_forget && self.activations.iter().all(|a| a == usual);
        let full = lens.iter().all(|&l| l == sizes.steps);
        let states = !self.batch_first || (i.opt(5).is_none() && i.opt(6).is_none());
        if !plain || !full || !states || i.opt(7).is_some() || sizes.steps == 0 || sizes.batch == 0 {
            return None;
        }
        let (x, w, r) = (floats(i.opt(0))?, floats(i.opt(1))?, floats(i.opt(2))?);
        let input = *i.opt(0)?.shape().last()?;
        let bias = match i.opt(3) {
            None => None,
            some => Some(floats(some)?),
        };
        let source = |k: usize| i.0.get(k).cloned().flatten();
        let entry = self.weights.get([source(1), source(2), source(3)], || {
            (0..self.backwards.len())
                .map(|d| self.pack(d, w, r, bias, input))
                .collect()
        })?;
        let first = |k: usize| match i.opt(k) {
            None => Some(None),
            some => floats(some).map(Some),
        };
        Some(self.walk(&entry.directions, x, [first(5)?, first(6)?], sizes))
    }

    fn pack(&self, d: usize, w: &[f32], r: &[f32], bias: Option<&[f32]>, input: usize) -> Option<Packed> {
        let (h, gates) = (self.hidden, self.cell.gates());
        let rows = gates * h;
        let (w, r) = (&w[d * rows * input..][..rows * input], &r[d * rows * h..][..rows * h]);
        let (from_x, from_h) = match bias {
            Some(b) => {
                let b = &b[d * 2 * rows..][..2 * rows];
                (b[..rows].to_vec(), b[rows..].to_vec())
            }
            None => (vec![0.0; rows], vec![0.0; rows]),
        };
        // The state's bias of a GRU's candidate stays behind the gate.
        let own = if self.cell == Cell::Gru { 2 * h } else { rows };
        let sum = |k: usize| if k < own { from_x[k] + from_h[k] } else { from_x[k] };
        let apart = self.cell == Cell::Gru && !self.linear_before_reset;
        Some(Packed {
            w: Matrix::new(w, input, rows, true)?,
            r: if apart {
                Matrix::new(&r[..2 * h * h], h, 2 * h, true)?
            } else {
                Matrix::new(r, h, rows, true)?
            },
            candidate: if apart {
                Some(Matrix::new(&r[2 * h * h..], h, h, true)?)
            } else {
                None
            },
            bias: (0..rows).map(sum).collect(),
            inner: from_h[own..].to_vec(),
        })
    }

    fn walk(
        &self,
        directions: &[Packed],
        x: &[f32],
        first: [Option<&[f32]>; 2],
        sizes: &Sizes,
    ) -> OpResult<Vec<Tensor>> {
        let (h, count) = (self.hidden, directions.len());
        let Sizes { steps, batch } = *sizes;
        let own = batch * h;
        let state =
            |v: Option<&[f32]>, d: usize| v.map_or_else(|| vec![0.0; own], |v| v[d * own..(d + 1) * own].to_vec());
        let walks: Vec<_> = (0..count)
            .map(|d| {
                Mutex::new(Walk::new(
                    buffers::take(steps * own),
                    state(first[0], d),
                    state(first[1], d),
                ))
            })
            .collect();
        // A step has to wait for the one before, but the directions do not wait for each other.
        let cost = steps * batch * (packed_size(directions) / count);
        kernels::ranges(count, cost, |range| {
            for d in range {
                let mut walk = walks[d].lock().unwrap_or_else(PoisonError::into_inner);
                self.walk_one(&directions[d], self.backwards[d], x, sizes, &mut walk);
            }
        });
        let mut y = buffers::take(steps * count * own);
        let (mut hs, mut cs) = (Vec::with_capacity(count * own), Vec::with_capacity(count * own));
        for (d, walk) in walks.into_iter().enumerate() {
            let walk = walk.into_inner().unwrap_or_else(PoisonError::into_inner);
            if self.batch_first {
                for (at, row) in walk.y.chunks_exact(h).enumerate() {
                    let (t, n) = (at / batch, at % batch);
                    y[((n * steps + t) * count + d) * h..][..h].copy_from_slice(row);
                }
            } else {
                for (t, rows) in walk.y.chunks_exact(own).enumerate() {
                    y[(t * count + d) * own..][..own].copy_from_slice(rows);
                }
            }
            buffers::give(walk.y);
            hs.extend(walk.hs);
            cs.extend(walk.cs);
        }
        self.finished(y, hs, cs, sizes)
    }

    /// All steps of one direction.
    fn walk_one(&self, packed: &Packed, backwards: bool, x: &[f32], sizes: &Sizes, walk: &mut Walk) {
        let h = self.hidden;
        let Sizes { steps, batch } = *sizes;
        let rows = packed.w.columns();
        let mut from_x = buffers::take(steps * batch * rows);
        let finish = Finish {
            bias: Some(&packed.bias),
            ..Finish::default()
        };
        packed.w.run(x, finish, &mut from_x);
        let mut sums = vec![0.0; batch * rows];
        let mut scratch = vec![0.0; batch * rows];
        for k in 0..steps {
            let t = if backwards { steps - 1 - k } else { k };
            // Rows of the input lie as [steps, batch] or [batch, steps].
            let own = if self.batch_first {
                for (n, sums) in sums.chunks_exact_mut(rows).enumerate() {
                    sums.copy_from_slice(&from_x[(n * steps + t) * rows..][..rows]);
                }
                &mut sums[..]
            } else {
                &mut from_x[t * batch * rows..(t + 1) * batch * rows]
            };
            match self.cell {
                Cell::Gru => gru(packed, h, own, &mut scratch, &mut walk.hs),
                _ => lstm(packed, h, own, &mut scratch, &mut walk.hs, &mut walk.cs),
            }
            walk.y[t * batch * h..(t + 1) * batch * h].copy_from_slice(&walk.hs);
        }
        buffers::give(from_x);
    }

    fn finished(&self, y: Vec<f32>, hs: Vec<f32>, cs: Vec<f32>, sizes: &Sizes) -> OpResult<Vec<Tensor>> {
        let (d, h, batch, steps) = (self.backwards.len(), self.hidden, sizes.batch, sizes.steps);
        let state = |v: Vec<f32>| {
            if !self.batch_first {
                return tensor(vec![d, batch, h], Data::F32(v));
            }
            let mut out = vec![0.0; v.len()];
            kernels::permute(&v, &[d, batch, h], &[1, 0, 2], &mut out);
            tensor(vec![batch, d, h], Data::F32(out))
        };
        let dims = if self.batch_first {
            vec![batch, steps, d, h]
        } else {
            vec![steps, d, batch, h]
        };
        let mut outputs = vec![tensor(dims, Data::F32(y))?, state(hs)?];
        if self.cell == Cell::Lstm {
            outputs.push(state(cs)?);
        }
        Ok(outputs)
    }
}

/// One direction under way: the states after each step as `[steps, batch, hidden]`, and the last ones.
struct Walk {
    y: Vec<f32>,
    hs: Vec<f32>,
    cs: Vec<f32>,
}

impl Walk {
    fn new(y: Vec<f32>, hs: Vec<f32>, cs: Vec<f32>) -> Self {
        Self { y, hs, cs }
    }
}

/// Multiply-adds of a step of one sample, in all directions.
fn packed_size(directions: &[Packed]) -> usize {
    let one = |m: &Matrix| m.depth() * m.columns();
    directions
        .iter()
        .map(|p| one(&p.w) + one(&p.r) + p.candidate.as_ref().map_or(0, one))
        .sum()
}

/// One step of all samples. `sums` come with the inputs' part: input, output, forget, cell.
fn lstm(packed: &Packed, h: usize, sums: &[f32], gates: &mut [f32], hs: &mut [f32], cs: &mut [f32]) {
    let finish = Finish {
        residual: Some(sums),
        ..Finish::default()
    };
    packed.r.run(hs, finish, gates);
    kernels::lstm_cell(gates, h, hs, cs);
}

/// One step of all samples. `sums` come with the inputs' part: update, reset, candidate.
fn gru(packed: &Packed, h: usize, sums: &mut [f32], scratch: &mut [f32], hs: &mut [f32]) {
    let batch = hs.len() / h;
    let from_h = &mut scratch[..batch * packed.r.columns()];
    packed.r.run(hs, Finish::default(), from_h);
    let width = packed.r.columns();
    for (sums, from_h) in sums.chunks_exact_mut(3 * h).zip(from_h.chunks_exact(width)) {
        let (gates, _) = sums.split_at_mut(2 * h);
        kernels::pair(Pair::Add, gates, &from_h[..2 * h], 1);
        kernels::map(Function::Sigmoid, gates);
    }
    if let Some(candidate) = &packed.candidate {
        // The gate goes before the product.
        let mut gated = vec![0.0; hs.len()];
        for ((gated, sums), hs) in gated
            .chunks_exact_mut(h)
            .zip(sums.chunks_exact(3 * h))
            .zip(hs.chunks_exact(h))
        {
            gated
                .iter_mut()
                .zip(&sums[h..2 * h])
                .zip(hs)
                .for_each(|((g, r), h)| *g = r * h);
        }
        let product = &mut scratch[..batch * h];
        let finish = Finish {
            bias: Some(&packed.inner),
            ..Finish::default()
        };
        candidate.run(&gated, finish, product);
        for (sums, product) in sums.chunks_exact_mut(3 * h).zip(product.chunks_exact(h)) {
            kernels::pair(Pair::Add, &mut sums[2 * h..], product, 1);
        }
    } else {
        for (sums, from_h) in sums.chunks_exact_mut(3 * h).zip(scratch.chunks_exact(width)) {
            for k in 0..h {
                sums[2 * h + k] += sums[h + k] * (from_h[2 * h + k] + packed.inner[k]);
            }
        }
    }
    for (sums, hs) in sums.chunks_exact_mut(3 * h).zip(hs.chunks_exact_mut(h)) {
        let (gates, new) = sums.split_at_mut(2 * h);
        kernels::map(Function::Tanh, new);
        for k in 0..h {
            hs[k] = (1.0 - gates[k]) * new[k] + gates[k] * hs[k];
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use crate::testing::{Attributes, eval_at, f32s};
    use crate::{Data, Tensor};

    fn noise(dims: &[usize], seed: u32) -> Tensor {
        let mut state = seed | 1;
        let mut next = || {
            state = state.wrapping_mul(747_796_405).wrapping_add(2_891_336_453);
            f32::from((state >> 16) as u16) / 32768.0 - 1.0
        };
        let v: Vec<f32> = (0..dims.iter().product()).map(|_| next()).collect();
        f32s(dims, &v)
    }

    fn floats(t: &Tensor) -> &[f32] {
        match t.data() {
            Data::F32(v) => v,
            other => panic!("{}", other.datatype()),
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]

        /// A bound that no number reaches sends the layer the slow way, in double precision.
        #[test]
        fn packed_weights_give_what_the_steps_in_double_precision_give(
            (steps, batch, input, hidden) in (1..5usize, 1..4usize, 1..6usize, 1..40usize),
            (is_lstm, biased, states, linear) in any::<(bool, bool, bool, bool)>(),
            direction in 0..3usize,
            seed in any::<u32>(),
        ) {
            let (op, gates) = if is_lstm { ("LSTM", 4) } else { ("GRU", 3) };
            let d = if direction == 2 { 2 } else { 1 };
            let name = ["forward", "reverse", "bidirectional"][direction];
            let mut inputs = vec![
                noise(&[steps, batch, input], seed),
                noise(&[d, gates * hidden, input], !seed),
                noise(&[d, gates * hidden, hidden], seed.rotate_left(3)),
            ];
            if biased || states {
                inputs.push(noise(&[d, 2 * gates * hidden], seed.rotate_left(5)));
            }
            if states {
                inputs.push(Tensor::new(vec![batch], Data::I32(vec![steps as i32; batch])).expect("fits"));
                inputs.push(noise(&[d, batch, hidden], seed.rotate_left(7)));
                if is_lstm {
                    inputs.push(noise(&[d, batch, hidden], seed.rotate_left(9)));
                }
            }
            let run = |clip: bool| {
                let attributes = |a: &mut Attributes| {
                    a.int("hidden_size", hidden as i64);
                    a.string("direction", name);
                    if !is_lstm {
                        a.int("linear_before_reset", i64::from(linear));
                    }
                    if clip {
                        a.float("clip", 1e9);
                    }
                };
                eval_at(14, op, attributes, &inputs, if is_lstm { 3 } else { 2 }).expect("it runs")
            };
            for (fast, slow) in run(false).iter().zip(&run(true)) {
                prop_assert_eq!(fast.shape(), slow.shape());
                for (a, b) in floats(fast).iter().zip(floats(slow)) {
                    prop_assert!((a - b).abs() < 2e-5, "{a} instead of {b}");
                }
            }
        }
    }
}
