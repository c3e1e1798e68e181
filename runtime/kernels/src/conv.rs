//! A convolution: its geometry, its weights in the kernels' layout, and how its work is cut into tasks.

use crate::crew;
use crate::depthwise::{self, Channels};
use crate::gemm::{self, Block};
use crate::planes::{self, Planes, Vector};
use crate::shared::Shared;
use crate::simd::{Last, Level};
use crate::tasks;

/// What copying a number costs in multiply-adds.
const COPY: usize = 8;

/// Pairs of vectors times taps that a block's windows have.
const BLOCK: usize = 4096;

/// Where a convolution's windows lie, for inputs of one size. Rows first, then columns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Geometry {
    /// Rows and columns of the input.
    pub input: [usize; 2],
    /// Rows and columns of the output. A window that would reach behind the padded input makes `run` panic.
    pub output: [usize; 2],
    /// From one window to the next.
    pub stride: [usize; 2],
    /// From one tap of a window to the next.
    pub dilation: [usize; 2],
    /// Zeros in front of the input.
    pub begin: [usize; 2],
    /// Zeros behind the input.
    pub end: [usize; 2],
}

impl Geometry {
    pub(crate) fn pixels(&self) -> usize {
        self.output[0] * self.output[1]
    }

    /// The padded input's size.
    pub(crate) fn padded(&self) -> [usize; 2] {
        [0, 1].map(|d| self.begin[d] + self.input[d] + self.end[d])
    }

    pub(crate) fn is_padded(&self) -> bool {
        self.begin != [0, 0] || self.end != [0, 0]
    }

    /// Without a window there are no rows: all pixels become one, which copies in longer runs.
    fn flattened(mut self, kernel: [usize; 2]) -> Self {
        if kernel == [1, 1] && self.stride == [1, 1] && !self.is_padded() && self.input == self.output {
            self.input = [1, self.pixels()];
            self.output = self.input;
        }
        self
    }
}

/// A two-dimensional convolution's weights, packed. Shared by threads.
pub struct Conv {
    level: Level,
    /// Output channels.
    filters: usize,
    /// Input channels of one group.
    depth: usize,
    kernel: [usize; 2],
    groups: usize,
    /// For each group its panels of `Level::rows` filters, each with the taps outermost; for depthwise convolutions as
    /// they came.
    weights: Vec<f32>,
}

/// Whether channels are convolved one by one: a few filters a channel leave a matrix product nothing to share.
fn by_plane(depth: usize, filters_per_group: usize) -> bool {
    depth == 1 && filters_per_group < 4
}

/// One run's constants.
struct Job<'a> {
    conv: &'a Conv,
    geometry: Geometry,
    planes: Planes,
    vectors: Vec<Vector>,
    by_plane: bool,
    bias: Option<&'a [f32]>,
    /// The bias is each filter's own.
    finish: Last,
}

impl Conv {
    /// Packs weights of shape `[filters, channels of one group, rows, columns]`. `None` where the numbers don't fit.
    pub fn new(weights: &[f32], shape: [usize; 4], groups: usize) -> Option<Self> {
        Self::at(Level::detect(), weights, shape, groups)
    }

    pub(crate) fn at(level: Level, weights: &[f32], shape: [usize; 4], groups: usize) -> Option<Self> {
        let [filters, depth, rows, columns] = shape;
        let elements = shape.iter().try_fold(1usize, |n, &d| n.checked_mul(d))?;
        if elements == 0 || elements != weights.len() || groups == 0 || !filters.is_multiple_of(groups) {
            return None;
        }
        let packed = if by_plane(depth, filters / groups) {
            weights.to_vec()
        } else {
            gemm::pack_rows(weights, filters / groups, groups, elements / filters, level.rows())
        };
        Some(Self {
            level,
            filters,
            depth,
            kernel: [rows, columns],
            groups,
            weights: packed,
        })
    }

    /// Output channels.
    pub fn filters(&self) -> usize {
        self.filters
    }

    /// Input channels.
    pub fn channels(&self) -> usize {
        self.depth * self.groups
    }

    /// Rows and columns of a window.
    pub fn kernel(&self) -> [usize; 2] {
        self.kernel
    }

    /// Convolves images `x` (batch, channels, rows, columns) into `out`, on the crew's threads.
    ///
    /// With `accumulate`, the result is added to what is in `out`; else that is overwritten. Then every channel's bias is
    /// added, and the sum kept within `clamp`; NaN stays NaN.
    ///
    /// # Panics
    /// Where a length is not what the geometry asks for, or a window reaches behind the padded input.
    pub fn run(
        &self,
        x: &[f32],
        bias: Option<&[f32]>,
        geometry: Geometry,
        clamp: Option<(f32, f32)>,
        accumulate: bool,
        out: &mut [f32],
    ) {
        let image = self.channels() * geometry.input[0] * geometry.input[1];
        let result = self.filters * geometry.pixels();
        if out.is_empty() {
            return;
        }
        assert!(image > 0 && x.len().is_multiple_of(image), "input length");
        let batch = x.len() / image;
        assert_eq!(out.len(), batch * result, "output length");
        assert!(bias.is_none_or(|b| b.len() == self.filters), "bias length");
        for (d, padded) in geometry.padded().into_iter().enumerate() {
            let window = (self.kernel[d] - 1) * geometry.dilation[d];
            let last = (geometry.output[d] - 1) * geometry.stride[d] + window;
            assert!(last < padded, "a window reaches behind the padded input");
        }
        let geometry = geometry.flattened(self.kernel);
        let lanes = self.level.columns() / 2;
        let by_plane = by_plane(self.depth, self.filters / self.groups);
        // Worth it where the copy is read often.
        let copies = self.depth >= 32 && self.filters / self.groups >= 48;
        let mut planes = Planes::new(&geometry, self.kernel, lanes, copies);
        planes.in_place &= !by_plane;
        let job = Job {
            conv: self,
            geometry,
            vectors: planes.vectors(lanes),
            planes,
            by_plane,
            bias,
            finish: Last {
                bias: 0.0,
                add: accumulate,
                clamp: clamp.unwrap_or((f32::NEG_INFINITY, f32::INFINITY)),
            },
        };
        // Writing a result costs about as much as so many sums.
        let work = result * (self.depth * self.kernel[0] * self.kernel[1] + 16);
        let threads = crew::threads();
        if threads > 1 && batch < threads && work * batch >= tasks::SERIAL {
            let pairs = x.chunks_exact(image).zip(out.chunks_exact_mut(result));
            job.images(pairs, threads);
            return;
        }
        tasks::chunks(out, result, work.div_ceil(result), |at, out| {
            let images = x[at / result * image..].chunks_exact(image);
            job.images(images.zip(out.chunks_exact_mut(result)), 1);
        });
    }
}

impl Job<'_> {
    /// Convolves images one after the other.
    fn images<'x>(&self, pairs: impl Iterator<Item = (&'x [f32], &'x mut [f32])>, threads: usize) {
        let mut buffer = None;
        for (x, out) in pairs {
            if self.by_plane {
                self.depthwise(x, out, threads);
            } else if self.planes.in_place {
                self.product(x, out, threads);
            } else {
                let laid = self.lay_out(x, buffer.take(), threads);
                self.product(&laid, out, threads);
                buffer = Some(laid);
            }
        }
        if let Some(buffer) = buffer {
            gemm::give_back(buffer);
        }
    }

    fn depthwise(&self, x: &[f32], out: &mut [f32], threads: usize) {
        let conv = self.conv;
        let taps = conv.kernel[0] * conv.kernel[1];
        let pixels = self.geometry.pixels();
        let some = |at: usize, out: &mut [f32]| {
            let channels = Channels {
                x,
                plane: self.geometry.input[0] * self.geometry.input[1],
                weights: &conv.weights,
                bias: self.bias,
                per_channel: conv.filters / conv.groups,
                first: at / pixels,
                geometry: &self.geometry,
                kernel: conv.kernel,
                planes: &self.planes,
                vectors: &self.vectors,
                finish: self.finish,
                pixels,
            };
            depthwise::run(conv.level, &channels, out);
        };
        if threads == 1 {
            some(0, out);
        } else {
            // A copy and one number at a tap take longer than sums in a tile.
            tasks::chunks(out, pixels, 5 * taps, some);
        }
    }

    /// The image's planes as the taps read them, in the memory of the image before.
    fn lay_out(&self, x: &[f32], buffer: Option<Vec<f32>>, threads: usize) -> Vec<f32> {
        let plane = self.geometry.input[0] * self.geometry.input[1];
        let pitch = self.planes.pitch;
        let fresh = buffer.is_none();
        let channels = self.conv.channels();
        let mut buffer = buffer.unwrap_or_else(|| gemm::borrow(self.planes.space(channels)));
        let lay = |at: usize, to: &mut [f32]| {
            let x = &x[at / pitch * plane..];
            planes::lay_out(self.conv.level, &self.planes, fresh, x, plane, to);
        };
        if threads == 1 {
            lay(0, &mut buffer[..channels * pitch]);
        } else {
            tasks::chunks(&mut buffer[..channels * pitch], pitch, COPY, lay);
        }
        buffer
    }

    /// Output = weights · windows, in blocks of windows and, where those are few, of filters.
    fn product(&self, x: &[f32], out: &mut [f32], threads: usize) {
        let conv = self.conv;
        let rows = conv.level.rows();
        let per_group = conv.filters / conv.groups;
        let depth = self.planes.window.len() * conv.depth;
        let cuts = Cuts::new(
            self.vectors.len().div_ceil(2),
            per_group.div_ceil(rows),
            depth,
            conv.groups,
            threads,
        );
        let weights = conv.weights.len() / conv.groups;
        let out = Shared::new(out);
        let block = |n: usize| {
            let (p, n) = (n % cuts.windows, n / cuts.windows);
            let (f, group) = (n % cuts.filters, n / cuts.filters);
            let [first, last] = cuts.filter_panels(f).map(|p| (p * rows).min(per_group));
            let [begin, end] = cuts.window_pairs(p).map(|p| (2 * p).min(self.vectors.len()));
            let block = Block {
                weights: &conv.weights[group * weights..][first * depth..],
                filters: (group * per_group + first, last - first),
                x: &x[group * conv.depth * self.planes.pitch..],
                channels: conv.depth,
                planes: &self.planes,
                vectors: &self.vectors[begin..end],
                bias: self.bias,
                finish: self.finish,
                pixels: self.geometry.pixels(),
                out,
            };
            gemm::run(conv.level, &block);
        };
        let blocks = conv.groups * cuts.filters * cuts.windows;
        if threads == 1 {
            (0..blocks).for_each(block);
        } else {
            let cost = self.conv.filters * self.geometry.pixels() * (depth + 16);
            crew::each(blocks, cost, block);
        }
    }
}

/// Into how many pieces windows and filters are cut.
struct Cuts {
    pairs: usize,
    panels: usize,
    windows: usize,
    filters: usize,
}

impl Cuts {
    /// `pairs` of vectors, `panels` of filters of this depth.
    fn new(pairs: usize, panels: usize, depth: usize, groups: usize, threads: usize) -> Self {
        // What a block's windows read is to stay in the second cache, and not so few of them that its filters are read too
        // often.
        let most = (BLOCK / depth.min(gemm::DEPTH)).max(8);
        let least = pairs.div_ceil(most);
        let wanted = |pieces: usize, by: usize| if threads == 1 { 1 } else { pieces.div_ceil(by) };
        let windows = least.max((pairs / 3).min(wanted(4 * threads, groups))).max(1);
        let filters = wanted(2 * threads, windows * groups).min(panels / 2).max(1);
        Self {
            pairs,
            panels,
            windows,
            filters,
        }
    }

    fn window_pairs(&self, piece: usize) -> [usize; 2] {
        [piece, piece + 1].map(|p| p * self.pairs / self.windows)
    }

    fn filter_panels(&self, piece: usize) -> [usize; 2] {
        [piece, piece + 1].map(|p| p * self.panels / self.filters)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{Conv, Geometry};
    use crate::simd::Level;

    /// A convolution's definition in loops, in double precision.
    fn naive(x: &[f32], w: &[f32], shape: [usize; 4], groups: usize, batch: usize, g: &Geometry) -> Vec<f64> {
        let [filters, depth, rows, columns] = shape;
        let [height, width] = g.input;
        let mut out = Vec::new();
        for image in x.chunks_exact(x.len() / batch) {
            for f in 0..filters {
                let first = f / (filters / groups) * depth;
                for r in 0..g.output[0] {
                    for c in 0..g.output[1] {
                        let mut sum = 0.0;
                        for d in 0..depth {
                            for i in 0..rows {
                                for j in 0..columns {
                                    let y = (r * g.stride[0] + i * g.dilation[0]).wrapping_sub(g.begin[0]);
                                    let z = (c * g.stride[1] + j * g.dilation[1]).wrapping_sub(g.begin[1]);
                                    if y < height && z < width {
                                        let x = image[((first + d) * height + y) * width + z];
                                        let w = w[((f * depth + d) * rows + i) * columns + j];
                                        sum += f64::from(x) * f64::from(w);
                                    }
                                }
                            }
                        }
                        out.push(sum);
                    }
                }
            }
        }
        out
    }

    /// Numbers between -1 and 1 without a pattern that padding or a wrong stride could hide in.
    fn noise(n: usize, seed: u32) -> Vec<f32> {
        let mut state = seed | 1;
        let mut next = || {
            state = state.wrapping_mul(747_796_405).wrapping_add(2_891_336_453);
            f32::from((state >> 16) as u16) / 32768.0 - 1.0
        };
        (0..n).map(|_| next()).collect()
    }

    fn geometry(input: [usize; 2], kernel: [usize; 2], per_axis: [[usize; 4]; 2]) -> Option<Geometry> {
        let mut g = Geometry {
            input,
            output: [0; 2],
            stride: per_axis.map(|a| a[0]),
            dilation: per_axis.map(|a| a[1]),
            begin: per_axis.map(|a| a[2]),
            end: per_axis.map(|a| a[3]),
        };
        for (d, kernel) in kernel.into_iter().enumerate() {
            let span = g.padded()[d].checked_sub((kernel - 1) * g.dilation[d] + 1)?;
            g.output[d] = span / g.stride[d] + 1;
        }
        Some(g)
    }

    fn axis() -> impl Strategy<Value = [usize; 4]> {
        [1..4usize, 1..3usize, 0..3usize, 0..3usize]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(200))]

        #[test]
        fn every_level_gives_what_the_definition_gives(
            (groups, per_group, depth, batch) in (1..4usize, 1..15usize, 1..20usize, 1..4usize),
            input in [1..24usize, 1..40usize],
            kernel in prop_oneof![2 => [1..4usize, 1..4usize], 1 => Just([3, 3]), 1 => Just([5, 5])],
            axes in [axis(), axis()],
            (biased, clamped, accumulate) in any::<(bool, bool, bool)>(),
            seed in any::<u32>(),
        ) {
            let Some(g) = geometry(input, kernel, axes) else { return Ok(()) };
            let shape = [groups * per_group, depth, kernel[0], kernel[1]];
            let x = noise(batch * groups * depth * input[0] * input[1], seed);
            let w = noise(shape.iter().product(), !seed);
            let bias = biased.then(|| noise(shape[0], seed.rotate_left(7)));
            let clamp = clamped.then_some((-0.5, 1.5));
            let sums = naive(&x, &w, shape, groups, batch, &g);
            let before = noise(sums.len(), seed.rotate_left(13));
            let wanted = sums.iter().zip(&before).enumerate().map(|(k, (&sum, &before))| {
                let bias = bias.as_ref().map_or(0.0, |b| b[k / g.pixels() % shape[0]]);
                let sum = sum + f64::from(bias) + if accumulate { f64::from(before) } else { 0.0 };
                clamp.map_or(sum, |(low, high)| sum.clamp(low, high))
            });
            let wanted: Vec<f64> = wanted.collect();
            for level in Level::all() {
                let conv = Conv::at(level, &w, shape, groups).expect("the shape fits");
                let mut out = before.clone();
                conv.run(&x, bias.as_deref(), g, clamp.map(|(l, h)| (l as f32, h as f32)), accumulate, &mut out);
                for (k, (&found, &wanted)) in out.iter().zip(&wanted).enumerate() {
                    let near = (f64::from(found) - wanted).abs() <= 1e-5 * wanted.abs().max(1.0) * (depth as f64).sqrt();
                    prop_assert!(near, "{level:?}, element {k}: {found} instead of {wanted}");
                }
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(150))]

        #[test]
        fn depthwise_windows_give_what_the_definition_gives_wherever_they_lie(
            (groups, per_group, batch) in (1..5usize, 1..4usize, 1..3usize),
            input in [1..40usize, 1..70usize],
            kernel in prop_oneof![Just([3, 3]), Just([5, 5]), Just([3, 5]), Just([1, 3])],
            stride in prop_oneof![Just([1, 1]), Just([2, 2]), Just([1, 2])],
            pads in [0..7usize, 0..7usize, 0..7usize, 0..7usize],
            accumulate in any::<bool>(),
            seed in any::<u32>(),
        ) {
            let axes = [0, 1].map(|d| [stride[d], 1, pads[d], pads[d + 2]]);
            let Some(g) = geometry(input, kernel, axes) else { return Ok(()) };
            let shape = [groups * per_group, 1, kernel[0], kernel[1]];
            let x = noise(batch * groups * input[0] * input[1], seed);
            let w = noise(shape.iter().product(), !seed);
            let bias = noise(shape[0], seed.rotate_left(7));
            let sums = naive(&x, &w, shape, groups, batch, &g);
            let before = noise(sums.len(), seed.rotate_left(13));
            for level in Level::all() {
                let conv = Conv::at(level, &w, shape, groups).expect("the shape fits");
                let mut out = before.clone();
                conv.run(&x, Some(&bias), g, Some((-0.5, 1.5)), accumulate, &mut out);
                for (k, (&found, &sum)) in out.iter().zip(&sums).enumerate() {
                    let there = if accumulate { f64::from(before[k]) } else { 0.0 };
                    let wanted = (sum + f64::from(bias[k / g.pixels() % shape[0]]) + there).clamp(-0.5, 1.5);
                    prop_assert!((f64::from(found) - wanted).abs() <= 1e-5, "{level:?}, {k}: {found} instead of {wanted}");
                }
            }
        }
    }

    /// Many taps, many filters, few pixels: several packings, and cuts through the filters.
    #[test]
    fn deep_and_wide_layers_agree_with_the_definition() {
        for (shape, input, batch) in [
            ([130, 150, 3, 3], [7, 7], 1),
            ([70, 64, 3, 3], [28, 28], 3),
            ([64, 500, 1, 1], [20, 33], 1),
            // Planes whose distance is a bad one.
            ([64, 40, 1, 1], [16, 16], 2),
            ([96, 70, 3, 3], [14, 14], 1),
            ([16, 3, 7, 7], [90, 90], 1),
        ] {
            let pad = shape[2] / 2;
            let g = geometry(input, [shape[2], shape[3]], [[1, 1, pad, pad]; 2]).expect("it fits");
            let x = noise(batch * shape[1] * input[0] * input[1], 1);
            let w = noise(shape.iter().product(), 2);
            let wanted = naive(&x, &w, shape, 1, batch, &g);
            for level in Level::all() {
                let mut out = vec![f32::NAN; wanted.len()];
                let conv = Conv::at(level, &w, shape, 1).expect("the shape fits");
                conv.run(&x, None, g, None, false, &mut out);
                let far = |(a, b): (&f32, &f64)| (f64::from(*a) - b).abs() > 1e-4;
                assert!(!out.iter().zip(&wanted).any(far), "{shape:?} at {level:?}");
            }
        }
    }

    #[test]
    fn a_clamp_keeps_nan() {
        let conv = Conv::new(&[1.0, 1.0], [1, 2, 1, 1], 1).expect("the shape fits");
        let g = geometry([1, 2], [1, 1], [[1, 1, 0, 0]; 2]).expect("it fits");
        let mut out = [0.0; 2];
        conv.run(
            &[f32::NAN, -1.0, 0.0, -1.0],
            None,
            g,
            Some((0.0, f32::INFINITY)),
            false,
            &mut out,
        );
        assert!(out[0].is_nan());
        assert_eq!(out[1].to_bits(), 0);
    }

    #[test]
    fn weights_that_do_not_fit_are_refused() {
        assert!(Conv::new(&[0.0; 3], [2, 2, 1, 1], 1).is_none());
        assert!(Conv::new(&[0.0; 3], [3, 1, 1, 1], 2).is_none());
        assert!(Conv::new(&[], [0, 1, 1, 1], 1).is_none());
        assert!(Conv::new(&[], [usize::MAX, usize::MAX, 1, 1], 1).is_none());
    }
}
