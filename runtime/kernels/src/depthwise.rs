//! Convolutions of one channel: no sum over channels, so a matrix product would only copy.

use crate::gemm::{borrow, give_back};
use crate::planes::{Planes, Vector};
use crate::simd::{Isa, Last, Level, MAX_TILE, Tile, Work, dispatch};

/// Vectors that are summed up at a time.
const WIDE: usize = 8;

/// One channel's convolution.
pub(crate) struct Plane<'a> {
    pub(crate) x: &'a [f32],
    pub(crate) weights: &'a [f32],
    pub(crate) planes: &'a Planes,
    pub(crate) vectors: &'a [Vector],
    pub(crate) finish: Last,
}

/// Convolves one channel into `out`.
pub(crate) fn plane(level: Level, plane: &Plane<'_>, out: &mut [f32]) {
    dispatch(level, Rows { plane, out });
}

struct Rows<'a> {
    plane: &'a Plane<'a>,
    out: &'a mut [f32],
}

impl Work for Rows<'_> {
    #[inline(always)]
    unsafe fn run<I: Isa>(self) {
        let Self { plane, out } = self;
        let planes = plane.planes;
        // Always a copy: it stays in the cache, and whole groups of vectors may be read behind it.
        let mut buffer = borrow(planes.space(1));
        planes.write(plane.x, 0.0, &mut buffer);
        let taps: Vec<(usize, f32)> = planes.window.iter().copied().zip(plane.weights.iter().copied()).collect();
        let mut tile: Tile = [0.0; MAX_TILE];
        let mut rest = plane.vectors;
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
                unsafe { I::put(sums, v.keep, plane.finish, &mut out[v.to..]) };
            }
        }
        give_back(buffer);
    }
}
