//! Attention in one pass: for each head scores, mask, softmax and the weighted sum, with queries, keys and values read
//! where they lie and the result written where it belongs. Nothing is transposed in memory but one head's keys.

use crate::gemm::{borrow, give_back};
use crate::norm::softmax_row;
use crate::shared::Shared;
use crate::simd::{self, Isa, Level, MAX_TILE, Tile, Work, dispatch};
use crate::tasks;

/// Queries that are worked on at a time: their scores then stay in the second cache.
const QUERIES: usize = 96;

/// A tensor of batch, heads and positions, each of these with its distance; a head's numbers lie side by side.
#[derive(Clone, Copy, Debug)]
pub struct Heads<'a> {
    /// The numbers.
    pub data: &'a [f32],
    /// From one sample to the next.
    pub batch: usize,
    /// From one head to the next.
    pub head: usize,
    /// From one position to the next.
    pub position: usize,
}

/// What is added to the scores: for each sample, head and query a row of as many numbers as there are keys. A distance
/// of 0 repeats.
#[derive(Clone, Copy, Debug)]
pub struct Mask<'a> {
    /// The numbers.
    pub data: &'a [f32],
    /// From one sample to the next.
    pub batch: usize,
    /// From one head to the next.
    pub head: usize,
    /// From one query to the next.
    pub query: usize,
}

/// Sizes of an attention.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sizes {
    /// Samples.
    pub batch: usize,
    /// Heads of the queries.
    pub heads: usize,
    /// Positions that ask.
    pub queries: usize,
    /// Positions that answer.
    pub keys: usize,
    /// Numbers of one head's query or key.
    pub depth: usize,
    /// Numbers of one head's value.
    pub values: usize,
}

/// One attention's operands.
#[derive(Clone, Copy, Debug)]
pub struct Attention<'a> {
    /// How much there is.
    pub sizes: Sizes,
    /// What asks.
    pub query: Heads<'a>,
    /// What answers.
    pub key: Heads<'a>,
    /// The answers.
    pub value: Heads<'a>,
    /// A factor of the scores, before the mask.
    pub scale: f32,
    /// Added to the scores.
    pub mask: Option<Mask<'a>>,
}

impl Attention<'_> {
    /// `out = softmax(scale · query · keyᵗ + mask) · value`, as `[batch, queries, heads, values]`; with `heads_first` as
    /// `[batch, heads, queries, values]`.
    ///
    /// # Panics
    /// Where a tensor is too short for the sizes.
    pub fn run(&self, heads_first: bool, out: &mut [f32]) {
        self.run_at(Level::detect(), heads_first, out);
    }

    pub(crate) fn run_at(&self, level: Level, heads_first: bool, out: &mut [f32]) {
        let s = self.sizes;
        assert_eq!(out.len(), s.batch * s.heads * s.queries * s.values, "output length");
        if out.is_empty() {
            return;
        }
        if s.keys == 0 || s.depth == 0 {
            return out.fill(0.0);
        }
        let cuts = s.queries.div_ceil(QUERIES);
        let each = QUERIES.min(s.queries);
        let out = Shared::new(out);
        let cost = each * s.keys * (s.depth + s.values + 16);
        tasks::ranges(s.batch * s.heads * cuts, cost, |pieces| {
            let mut packed = None;
            let mut keys = borrow(0);
            for piece in pieces {
                let (pair, cut) = (piece / cuts, piece % cuts);
                let first = cut * QUERIES;
                let head = Head {
                    attention: self,
                    batch: pair / s.heads,
                    number: pair % s.heads,
                    queries: first..s.queries.min(first + QUERIES),
                    // The same head's keys are packed once for all of its cuts.
                    fresh: packed.replace(pair) != Some(pair),
                    keys: &mut keys,
                    heads_first,
                    out,
                };
                dispatch(level, head);
            }
            give_back(keys);
        });
    }
}

struct Head<'a> {
    attention: &'a Attention<'a>,
    batch: usize,
    number: usize,
    queries: std::ops::Range<usize>,
    fresh: bool,
    /// Panels of `NR` keys, the depth outermost, then panels of `NR` values with the keys outermost.
    keys: &'a mut Vec<f32>,
    heads_first: bool,
    out: Shared<'a>,
}

impl Work for Head<'_> {
    #[inline(always)]
    unsafe fn run<I: Isa>(self) {
        let Sizes {
            heads,
            queries,
            keys,
            depth,
            values,
            ..
        } = self.attention.sizes;
        let at = |h: &Heads<'_>| self.batch * h.batch + self.number * h.head;
        let (query, key, value) = (self.attention.query, self.attention.key, self.attention.value);
        let wide = keys.next_multiple_of(I::NR);
        let value_panels = values.div_ceil(I::NR);
        if self.fresh {
            self.keys.resize(wide * depth + value_panels * I::NR * keys, 0.0);
            let (k, v) = self.keys.split_at_mut(wide * depth);
            for (p, panel) in k.chunks_exact_mut(I::NR * depth).enumerate() {
                for c in 0..I::NR {
                    let position = p * I::NR + c;
                    if position < keys {
                        let row = &key.data[at(&key) + position * key.position..][..depth];
                        for (to, &x) in panel[c..].iter_mut().step_by(I::NR).zip(row) {
                            *to = x;
                        }
                    } else {
                        panel[c..].iter_mut().step_by(I::NR).for_each(|x| *x = 0.0);
                    }
                }
            }
            for (p, panel) in v.chunks_exact_mut(I::NR * keys).enumerate() {
                let width = I::NR.min(values - p * I::NR);
                for (position, to) in panel.chunks_exact_mut(I::NR).enumerate() {
                    let from = at(&value) + position * value.position + p * I::NR;
                    to[..width].copy_from_slice(&value.data[from..from + width]);
                    to[width..].fill(0.0);
                }
            }
        }
        let (k, v) = self.keys.split_at(wide * depth);
        let rows = self.queries.len();
        let mut scores = borrow(rows * wide);
        let mut tile: Tile = [0.0; MAX_TILE];
        let asked = &query.data[at(&query) + self.queries.start * query.position..];
        for (p, panel) in k.chunks_exact(I::NR * depth).enumerate() {
            for r in (0..rows).step_by(I::MR) {
                let n = I::MR.min(rows - r);
                // SAFETY: `dispatch` runs this with the instructions of `I` only where they are.
                unsafe {
                    simd::product::<I>(
                        n,
                        &asked[r * query.position..],
                        query.position,
                        1,
                        panel,
                        I::NR,
                        depth,
                        &mut tile,
                    );
                }
                for i in 0..n {
                    let to = &mut scores[(r + i) * wide + p * I::NR..][..I::NR];
                    for (to, &x) in to.iter_mut().zip(&tile[i * I::NR..(i + 1) * I::NR]) {
                        *to = self.attention.scale * x;
                    }
                }
            }
        }
        for (r, row) in scores.chunks_exact_mut(wide).take(rows).enumerate() {
            let row = &mut row[..keys];
            if let Some(mask) = &self.attention.mask {
                let query = self.queries.start + r;
                let from = self.batch * mask.batch + self.number * mask.head + query * mask.query;
                for (x, m) in row.iter_mut().zip(&mask.data[from..from + keys]) {
                    *x += m;
                }
            }
            softmax_row::<I>(row);
        }
        for (p, panel) in v.chunks_exact(I::NR * keys).enumerate() {
            let width = I::NR.min(values - p * I::NR);
            for r in (0..rows).step_by(I::MR) {
                let n = I::MR.min(rows - r);
                // SAFETY: as above.
                unsafe { simd::product::<I>(n, &scores[r * wide..], wide, 1, panel, I::NR, keys, &mut tile) };
                for i in 0..n {
                    let q = self.queries.start + r + i;
                    let row = if self.heads_first {
                        (self.batch * heads + self.number) * queries + q
                    } else {
                        (self.batch * queries + q) * heads + self.number
                    };
                    // SAFETY: no two tasks have a head and a query in common, and this borrow ends here.
                    let out = unsafe { self.out.part(row * values + p * I::NR, width) };
                    out.copy_from_slice(&tile[i * I::NR..][..width]);
                }
            }
        }
        give_back(scores);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{Attention, Heads, Mask, Sizes};
    use crate::simd::Level;
    use crate::testing::{near, noise};

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(60))]

        #[test]
        fn one_pass_gives_what_the_steps_give(
            (batch, heads, queries, keys) in (1..3usize, 1..4usize, 1..130usize, 1..70usize),
            (depth, values) in (1..40usize, 1..70usize),
            (masked, heads_first) in any::<(bool, bool)>(),
            seed in any::<u32>(),
        ) {
            let sizes = Sizes { batch, heads, queries, keys, depth, values };
            let q = noise(batch * queries * heads * depth, seed);
            let k = noise(batch * keys * heads * depth, !seed);
            let v = noise(batch * keys * heads * values, seed.rotate_left(7));
            let mask = noise(batch * queries * keys, seed.rotate_left(11));
            let of = |data, positions, size| Heads { data, batch: positions * heads * size, head: size, position: heads * size };
            let attention = Attention {
                sizes,
                query: of(&q, queries, depth),
                key: of(&k, keys, depth),
                value: of(&v, keys, values),
                scale: 0.7,
                mask: masked.then_some(Mask { data: &mask, batch: queries * keys, head: 0, query: keys }),
            };
            let mut wanted = vec![0.0; batch * queries * heads * values];
            for b in 0..batch {
                for h in 0..heads {
                    for i in 0..queries {
                        let dot = |j: usize| -> f64 {
                            (0..depth).map(|d| f64::from(q[((b * queries + i) * heads + h) * depth + d])
                                * f64::from(k[((b * keys + j) * heads + h) * depth + d])).sum()
                        };
                        let m = |j: usize| if masked { f64::from(mask[(b * queries + i) * keys + j]) } else { 0.0 };
                        let powers: Vec<f64> = (0..keys).map(|j| (0.7 * dot(j) + m(j)).exp()).collect();
                        let total: f64 = powers.iter().sum();
                        for e in 0..values {
                            let sum: f64 = (0..keys).map(|j| powers[j] * f64::from(v[((b * keys + j) * heads + h) * values + e])).sum();
                            let row = if heads_first { (b * heads + h) * queries + i } else { (b * queries + i) * heads + h };
                            wanted[row * values + e] = sum / total;
                        }
                    }
                }
            }
            for level in Level::all() {
                let mut out = vec![f32::NAN; wanted.len()];
                attention.run_at(level, heads_first, &mut out);
                prop_assert!(near(&out, &wanted, 1e-5), "{level:?}");
            }
        }
    }
}
