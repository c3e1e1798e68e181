//! Convolutions of one channel: no sum over channels, so a matrix product would only copy.

use crate::conv::Geometry;
#[cfg(target_arch = "x86_64")]
use crate::direct;
use crate::gemm::{borrow, give_back};
use crate::planes::{Planes, Vector};
use crate::simd::{Isa, Last, Level, MAX_TILE, Tile, Work, dispatch};

/// Vectors that are summed up at a time.
const WIDE: usize = 8;

/// Channels that are convolved one by one.
pub(crate) struct Channels<'a> {
    /// The image.
    pub(crate) x: &'a [f32],
    /// Numbers of one of its channels.
    pub(crate) plane: usize,
    /// All filters' taps, and one number for each.
    pub(crate) weights: &'a [f32],
    pub(crate) bias: Option<&'a [f32]>,
    /// Filters that share a channel.
    pub(crate) per_channel: usize,
    /// The first filter that `out` has a plane for.
    pub(crate) first: usize,
    pub(crate) geometry: &'a Geometry,
    pub(crate) kernel: [usize; 2],
    pub(crate) planes: &'a Planes,
    pub(crate) vectors: &'a [Vector],
    pub(crate) finish: Last,
    /// Numbers of a plane of the output.
    pub(crate) pixels: usize,
}

/// Convolves channels into `out`.
pub(crate) fn run(level: Level, channels: &Channels<'_>, out: &mut [f32]) {
    #[cfg(target_arch = "x86_64")]
    if level == Level::Avx512 && direct::fits(channels.geometry, channels.kernel) {
        return in_place(channels, out);
    }
    dispatch(level, Rows { channels, out });
}

/// Convolves channels without a copy. Only at the level of AVX-512, for windows that `direct::fits`.
#[cfg(target_arch = "x86_64")]
fn in_place(c: &Channels<'_>, out: &mut [f32]) {
    let taps = c.kernel[0] * c.kernel[1];
    for (m, out) in (c.first..).zip(out.chunks_exact_mut(c.pixels)) {
        let x = &c.x[m / c.per_channel * c.plane..][..c.plane];
        let finish = c.finish(m);
        // SAFETY: a value of the level exists only where its instructions were found.
        unsafe { direct::plane(c.geometry, c.kernel[0], x, &c.weights[m * taps..][..taps], finish, out) };
    }
}

impl Channels<'_> {
    /// What is done to a filter's sums.
    fn finish(&self, filter: usize) -> Last {
        Last {
            bias: self.bias.map_or(0.0, |b| b[filter]),
            ..self.finish
        }
    }
}

struct Rows<'a> {
    channels: &'a Channels<'a>,
    out: &'a mut [f32],
}

impl Work for Rows<'_> {
    #[inline(always)]
    unsafe fn run<I: Isa>(self) {
        let Self { channels: c, out } = self;
        let planes = c.planes;
        // Always a copy: it stays in the cache, and whole groups of vectors may be read behind it.
        let mut buffer = borrow(planes.space(1));
        planes.write_padding(0.0, &mut buffer);
        let mut taps: Vec<(usize, f32)> = planes.window.iter().map(|&tap| (tap, 0.0)).collect();
        let mut tile: Tile = [0.0; MAX_TILE];
        let mut laid = None;
        for (m, out) in (c.first..).zip(out.chunks_exact_mut(c.pixels)) {
            let channel = m / c.per_channel;
            if laid.replace(channel) != Some(channel) {
                let x = &c.x[channel * c.plane..(channel + 1) * c.plane];
                // SAFETY: the caller of `run` vouches for the instructions of `I`.
                unsafe { planes.write::<I>(x, &mut buffer) };
            }
            let weights = &c.weights[m * taps.len()..];
            taps.iter_mut().zip(weights).for_each(|(tap, &w)| tap.1 = w);
            let finish = c.finish(m);
            let mut rest = c.vectors;
            while let Some(first) = rest.first() {
                // Vectors without a window are left out of the list, so only neighbours go together.
                let near = rest.iter().take(WIDE).enumerate();
                let n = near.take_while(|(k, v)| v.from == first.from + k * I::LANES).count();
                let reach = first.from + planes.reach + WIDE * I::LANES;
                assert!(reach <= buffer.len(), "windows reach behind their plane");
                let x = buffer[first.from..].as_ptr();
                // SAFETY: the caller of `run` vouches for the instructions of `I`, the assertion for the memory.
                unsafe {
                    match n {
                        1 => I::plane::<1>(x, &taps, &mut tile),
                        2..=4 => I::plane::<4>(x, &taps, &mut tile),
                        _ => I::plane::<WIDE>(x, &taps, &mut tile),
                    }
                }
                let (group, others) = rest.split_at(n);
                rest = others;
                for (v, sums) in group.iter().zip(tile.chunks_exact(I::LANES)) {
                    // SAFETY: the caller of `run` vouches for the instructions of `I`.
                    unsafe { I::put(sums, v.keep, finish, &mut out[v.to..]) };
                }
            }
        }
        give_back(buffer);
    }
}
