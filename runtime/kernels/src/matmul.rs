//! Products of matrices: with constant columns that are packed once, and with columns that come with the call.

use std::ops::Range;

use rayon::prelude::*;

use crate::crew;
use crate::finish::Function;
use crate::gemm::{borrow, give_back};
use crate::shared::Shared;
use crate::simd::{self, Isa, Level, MAX_TILE, Tile, Work, dispatch};
use crate::tasks;

/// Depth that is worked on at a time: a panel's block then fits the first cache.
const DEPTH: usize = 256;

/// Rows that are worked on at a time: a block of them then fits the second cache.
const ROWS: usize = 192;

/// What is done to a product's results: `function(product + bias + residual)`.
#[derive(Clone, Copy, Debug, Default)]
pub struct Finish<'a> {
    /// One number a column.
    pub bias: Option<&'a [f32]>,
    /// As many numbers as results.
    pub residual: Option<&'a [f32]>,
    /// Applied last.
    pub function: Function,
}

/// The right side of a product, packed. Shared by threads.
pub struct Matrix {
    level: Level,
    depth: usize,
    columns: usize,
    /// Panels of `Level::columns` columns, each with the depth outermost; missing columns are 0.
    panels: Vec<f32>,
}

impl Matrix {
    /// Packs `depth` rows of `columns` numbers; with `transposed`, `columns` rows of `depth` numbers. `None` where the
    /// length is another or a side is empty.
    pub fn new(values: &[f32], depth: usize, columns: usize, transposed: bool) -> Option<Self> {
        Self::at(Level::detect(), values, depth, columns, transposed)
    }

    pub(crate) fn at(level: Level, values: &[f32], depth: usize, columns: usize, transposed: bool) -> Option<Self> {
        if values.is_empty() || depth.checked_mul(columns) != Some(values.len()) {
            return None;
        }
        let width = level.columns();
        let mut panels = vec![0.0; columns.div_ceil(width) * width * depth];
        panels
            .par_chunks_exact_mut(width * depth)
            .enumerate()
            .with_min_len((1 << 14) / (width * depth) + 1)
            .for_each(|(p, panel)| pack(values, [depth, columns], transposed, p * width, width, panel));
        Some(Self {
            level,
            depth,
            columns,
            panels,
        })
    }

    /// Numbers in a row of the left side.
    pub fn depth(&self) -> usize {
        self.depth
    }

    /// Numbers in a row of the result.
    pub fn columns(&self) -> usize {
        self.columns
    }

    /// Memory of the packed form.
    pub fn bytes(&self) -> usize {
        size_of_val(self.panels.as_slice())
    }

    /// `out = function(x · self + bias + residual)`, for any number of rows, on the crew's threads.
    ///
    /// # Panics
    /// Where a length does not fit.
    pub fn run(&self, x: &[f32], finish: Finish<'_>, out: &mut [f32]) {
        assert!(x.len().is_multiple_of(self.depth), "rows of another length");
        let rows = x.len() / self.depth;
        self.run_strided(x, self.depth, rows, finish, out);
    }

    /// As `run`, with rows that lie `pitch` numbers apart.
    ///
    /// # Panics
    /// Where a length does not fit.
    pub fn run_strided(&self, x: &[f32], pitch: usize, rows: usize, finish: Finish<'_>, out: &mut [f32]) {
        if rows == 0 {
            return;
        }
        assert!((rows - 1) * pitch + self.depth <= x.len(), "input length");
        assert_eq!(out.len(), rows * self.columns, "output length");
        assert!(finish.bias.is_none_or(|b| b.len() == self.columns), "bias length");
        assert!(finish.residual.is_none_or(|r| r.len() == out.len()), "residual length");
        let width = self.level.columns();
        let panels = self.columns.div_ceil(width);
        let out = Shared::new(out);
        let product = |rows: Range<usize>, panels: Range<usize>| {
            dispatch(
                self.level,
                Product {
                    matrix: self,
                    x,
                    pitch,
                    finish: &finish,
                    rows,
                    panels,
                    out,
                },
            );
        };
        let threads = crew::threads();
        let work = rows * self.depth * self.columns;
        if threads == 1 || work < tasks::SERIAL {
            return product(0..rows, 0..panels);
        }
        let pieces = (4 * threads).min((2 * work).div_ceil(tasks::SERIAL));
        // Cuts through the columns share the packed side out, so that each thread's part stays in its cache.
        let by_panels = if rows >= 4 * ROWS { 1 } else { pieces.min(panels) };
        let by_rows = pieces.div_ceil(by_panels).min(rows.div_ceil(self.level.rows())).max(1);
        let unit = self.level.rows();
        let blocks = rows.div_ceil(unit);
        crew::each(by_rows * by_panels, work, |piece| {
            let (r, p) = (piece % by_rows, piece / by_rows);
            let rows = (r * blocks / by_rows * unit).min(rows)..((r + 1) * blocks / by_rows * unit).min(rows);
            product(rows, p * panels / by_panels..(p + 1) * panels / by_panels);
        });
    }
}

/// Copies columns from `first` on into a panel.
#[inline(always)]
fn pack(values: &[f32], [depth, columns]: [usize; 2], transposed: bool, first: usize, width: usize, panel: &mut [f32]) {
    let n = width.min(columns - first);
    if transposed {
        // A few steps of depth at a time, so that what is written stays in the first cache.
        for from in (0..depth).step_by(64) {
            let to = depth.min(from + 64);
            for c in 0..n {
                let column = &values[(first + c) * depth + from..(first + c) * depth + to];
                for (k, &v) in column.iter().enumerate() {
                    panel[(from + k) * width + c] = v;
                }
            }
        }
        if n < width {
            for row in panel.chunks_exact_mut(width).take(depth) {
                row[n..].fill(0.0);
            }
        }
    } else {
        for (to, from) in panel.chunks_exact_mut(width).zip(values.chunks_exact(columns)) {
            to[..n].copy_from_slice(&from[first..first + n]);
            to[n..].fill(0.0);
        }
    }
}

struct Product<'a> {
    matrix: &'a Matrix,
    x: &'a [f32],
    pitch: usize,
    finish: &'a Finish<'a>,
    rows: Range<usize>,
    panels: Range<usize>,
    out: Shared<'a>,
}

impl Work for Product<'_> {
    #[inline(always)]
    unsafe fn run<I: Isa>(self) {
        let Matrix {
            depth, columns, panels, ..
        } = self.matrix;
        let (depth, columns) = (*depth, *columns);
        let mut tile: Tile = [0.0; MAX_TILE];
        for begin in self.rows.clone().step_by(ROWS) {
            let end = self.rows.end.min(begin + ROWS);
            for from in (0..depth).step_by(DEPTH) {
                let steps = DEPTH.min(depth - from);
                for p in self.panels.clone() {
                    let panel = &panels[(p * depth + from) * I::NR..][..steps * I::NR];
                    let width = I::NR.min(columns - p * I::NR);
                    for r in (begin..end).step_by(I::MR) {
                        let n = I::MR.min(end - r);
                        let x = &self.x[r * self.pitch + from..];
                        // SAFETY: `dispatch` runs this with the instructions of `I` only where they are.
                        unsafe { simd::product::<I>(n, x, self.pitch, 1, panel, I::NR, steps, &mut tile) };
                        for k in 0..n {
                            let at = (r + k) * columns + p * I::NR;
                            // SAFETY: no two tasks have a row and a panel in common, and this one's borrow ends here.
                            let out = unsafe { self.out.part(at, width) };
                            let sums = &tile[k * I::NR..][..width];
                            if from == 0 {
                                out.copy_from_slice(sums);
                            } else {
                                add(out, sums);
                            }
                            if from + steps == depth {
                                complete::<I>(out, at, p * I::NR, self.finish);
                            }
                        }
                    }
                }
            }
        }
    }
}

#[inline(always)]
fn add(out: &mut [f32], more: &[f32]) {
    for (o, &m) in out.iter_mut().zip(more) {
        *o += m;
    }
}

#[inline(always)]
fn complete<I: Isa>(out: &mut [f32], at: usize, column: usize, finish: &Finish<'_>) {
    if let Some(bias) = finish.bias {
        add(out, &bias[column..column + out.len()]);
    }
    if let Some(residual) = finish.residual {
        add(out, &residual[at..at + out.len()]);
    }
    finish.function.apply::<I>(out);
}

/// A product of matrices that are both new: `out = a · b` for each pair of offsets, `[m, k] · [k, n]`, or `[n, k]` where
/// `b` is transposed.
pub struct Batch<'a> {
    /// Left matrices, and their rows' distance.
    pub a: &'a [f32],
    /// Right matrices.
    pub b: &'a [f32],
    /// Rows, depth, columns.
    pub size: [usize; 3],
    /// Whether the right matrices come as `[n, k]`.
    pub transposed: bool,
    /// For each result where its two matrices begin.
    pub offsets: &'a [(usize, usize)],
    /// A factor of all results.
    pub alpha: f32,
}

impl Batch<'_> {
    /// Computes all products, on the crew's threads.
    ///
    /// # Panics
    /// Where a length does not fit.
    pub fn run(&self, out: &mut [f32]) {
        self.run_at(Level::detect(), out);
    }

    pub(crate) fn run_at(&self, level: Level, out: &mut [f32]) {
        let [m, k, n] = self.size;
        assert_eq!(out.len(), self.offsets.len() * m * n, "output length");
        if out.is_empty() {
            return;
        }
        if k == 0 {
            return out.fill(0.0);
        }
        for &(a, b) in self.offsets {
            assert!(
                a + m * k <= self.a.len() && b + k * n <= self.b.len(),
                "an operand's length"
            );
        }
        let function = if self.alpha == 1.0 {
            Function::Identity
        } else {
            Function::Affine(self.alpha, 0.0)
        };
        let threads = crew::threads();
        let width = level.columns();
        let panels = n.div_ceil(width);
        // Enough pieces for all threads, from the products themselves and, where those are few, from their columns.
        let cuts = if self.offsets.len() >= threads {
            1
        } else {
            (4 * threads).div_ceil(self.offsets.len()).min(panels)
        };
        let shared = Shared::new(out);
        tasks::ranges(self.offsets.len() * cuts, (m * k * n).div_ceil(cuts), |pieces| {
            for piece in pieces {
                let (o, cut) = (piece / cuts, piece % cuts);
                let (a, b) = self.offsets[o];
                let work = Single {
                    a: &self.a[a..a + m * k],
                    b: &self.b[b..b + k * n],
                    size: self.size,
                    transposed: self.transposed,
                    panels: cut * panels / cuts..(cut + 1) * panels / cuts,
                    function,
                    at: o * m * n,
                    out: shared,
                };
                dispatch(level, work);
            }
        });
    }
}

struct Single<'a> {
    a: &'a [f32],
    b: &'a [f32],
    size: [usize; 3],
    transposed: bool,
    panels: Range<usize>,
    function: Function,
    at: usize,
    out: Shared<'a>,
}

impl Work for Single<'_> {
    #[inline(always)]
    unsafe fn run<I: Isa>(self) {
        let [m, k, n] = self.size;
        let mut panel = borrow(I::NR * k);
        let mut tile: Tile = [0.0; MAX_TILE];
        for p in self.panels.clone() {
            let first = p * I::NR;
            let width = I::NR.min(n - first);
            pack(self.b, [k, n], self.transposed, first, I::NR, &mut panel);
            for from in (0..k).step_by(DEPTH) {
                let steps = DEPTH.min(k - from);
                for r in (0..m).step_by(I::MR) {
                    let rows = I::MR.min(m - r);
                    let (a, b) = (&self.a[r * k + from..], &panel[from * I::NR..][..steps * I::NR]);
                    // SAFETY: `dispatch` runs this with the instructions of `I` only where they are.
                    unsafe { simd::product::<I>(rows, a, k, 1, b, I::NR, steps, &mut tile) };
                    for i in 0..rows {
                        // SAFETY: no two tasks have a product and a panel in common, and this borrow ends here.
                        let out = unsafe { self.out.part(self.at + (r + i) * n + first, width) };
                        let sums = &tile[i * I::NR..][..width];
                        if from == 0 {
                            out.copy_from_slice(sums);
                        } else {
                            add(out, sums);
                        }
                        if from + steps == k {
                            self.function.apply::<I>(out);
                        }
                    }
                }
            }
        }
        give_back(panel);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{Batch, Finish, Matrix};
    use crate::finish::Function;
    use crate::simd::Level;
    use crate::testing::{near, noise};

    fn naive(a: &[f32], b: &[f32], [m, k, n]: [usize; 3], transposed: bool) -> Vec<f64> {
        let at = |i: usize, j: usize| if transposed { b[j * k + i] } else { b[i * n + j] };
        let one = |r: usize, c: usize| (0..k).map(|i| f64::from(a[r * k + i]) * f64::from(at(i, c))).sum();
        (0..m)
            .flat_map(|r| (0..n).map(move |c| (r, c)))
            .map(|(r, c)| one(r, c))
            .collect()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(150))]

        #[test]
        fn packed_products_are_the_definition_at_every_level(
            (m, k, n) in (1..40usize, 1..600usize, 1..80usize),
            (transposed, biased, residual, relu) in any::<(bool, bool, bool, bool)>(),
            seed in any::<u32>(),
        ) {
            let (a, b) = (noise(m * k, seed), noise(k * n, !seed));
            let bias = biased.then(|| noise(n, seed.rotate_left(5)));
            let before = residual.then(|| noise(m * n, seed.rotate_left(9)));
            let function = if relu { Function::Clamp(0.0, f32::INFINITY) } else { Function::Identity };
            let wanted: Vec<f64> = naive(&a, &b, [m, k, n], transposed).into_iter().enumerate().map(|(at, v)| {
                let v = v + bias.as_ref().map_or(0.0, |b| f64::from(b[at % n])) + before.as_ref().map_or(0.0, |r| f64::from(r[at]));
                if relu { v.max(0.0) } else { v }
            }).collect();
            for level in Level::all() {
                let matrix = Matrix::at(level, &b, k, n, transposed).expect("it fits");
                let mut out = vec![f32::NAN; m * n];
                matrix.run(&a, Finish { bias: bias.as_deref(), residual: before.as_deref(), function }, &mut out);
                prop_assert!(near(&out, &wanted, 1e-4), "{level:?}");
            }
        }

        #[test]
        fn batched_products_are_the_definition_at_every_level(
            (m, k, n, count) in (1..30usize, 1..300usize, 1..70usize, 1..4usize),
            transposed in any::<bool>(),
            seed in any::<u32>(),
        ) {
            let (a, b) = (noise(count * m * k, seed), noise(k * n, !seed));
            let offsets: Vec<_> = (0..count).map(|o| (o * m * k, 0)).collect();
            let wanted: Vec<f64> = a.chunks(m * k).flat_map(|a| naive(a, &b, [m, k, n], transposed)).map(|v| 0.5 * v).collect();
            for level in Level::all() {
                let mut out = vec![f32::NAN; count * m * n];
                let batch = Batch { a: &a, b: &b, size: [m, k, n], transposed, offsets: &offsets, alpha: 0.5 };
                batch.run_at(level, &mut out);
                prop_assert!(near(&out, &wanted, 1e-4), "{level:?}");
            }
        }
    }

    #[test]
    fn many_rows_and_columns_are_cut_between_threads() {
        let [m, k, n] = [900, 70, 130];
        let (a, b) = (noise(m * k, 3), noise(k * n, 4));
        let mut out = vec![f32::NAN; m * n];
        let matrix = Matrix::new(&b, k, n, false).expect("it fits");
        matrix.run(&a, Finish::default(), &mut out);
        assert!(near(&out, &naive(&a, &b, [m, k, n], false), 1e-4));
    }
}
