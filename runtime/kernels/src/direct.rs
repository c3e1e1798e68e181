//! Depthwise convolutions and maxima over small windows with AVX-512: planes are read where they lie. What a window reaches outside of its
//! plane is masked out of the loads, and several rows of results share what is read, so nothing is copied.

#![allow(
    clippy::cast_possible_wrap,
    clippy::cast_sign_loss,
    reason = "places in a slice, or in front of it, fit both; a negative row becomes one behind every plane"
)]

use std::arch::x86_64::{
    __m512, _mm512_add_ps, _mm512_fmadd_ps, _mm512_mask_loadu_ps, _mm512_mask_storeu_ps, _mm512_maskz_loadu_ps,
    _mm512_max_ps, _mm512_min_ps, _mm512_permutex2var_ps, _mm512_set1_ps, _mm512_setr_epi32, _mm512_setzero_ps,
};

use crate::conv::Geometry;
use crate::simd::{Last, max512 as larger};

/// Numbers in a vector.
const LANES: usize = 16;

/// Rows of results that are summed up at a time.
const ROWS: usize = 4;

/// Whether there is a kernel for such windows.
pub(crate) fn fits(g: &Geometry, kernel: [usize; 2]) -> bool {
    matches!(kernel, [3, 3] | [5, 5]) && matches!(g.stride, [1, 1] | [2, 2]) && g.dilation == [1, 1]
}

/// Convolves one plane into `out`; the geometry and the kernel are such that `fits` says so.
///
/// # Safety
/// The CPU has AVX-512.
pub(crate) unsafe fn plane(g: &Geometry, kernel: usize, x: &[f32], weights: &[f32], finish: Last, out: &mut [f32]) {
    assert!(
        x.len() == g.input[0] * g.input[1] && out.len() == g.pixels(),
        "a plane's length"
    );
    assert_eq!(weights.len(), kernel * kernel, "a filter's length");
    // SAFETY: this function's own condition.
    unsafe {
        match (kernel, g.stride[0]) {
            (3, 1) => tiles::<3, 1>(g, x, weights, finish, out),
            (3, _) => tiles::<3, 2>(g, x, weights, finish, out),
            (_, 1) => tiles::<5, 1>(g, x, weights, finish, out),
            _ => tiles::<5, 2>(g, x, weights, finish, out),
        }
    }
}

/// Some columns of the results, and where what they read begins.
struct Columns {
    /// The first of them.
    first: usize,
    /// A bit for each that is one.
    keep: u16,
    /// The first tap's place in a row of the input, which may be in front of it.
    from: isize,
    /// Columns of the input.
    width: usize,
}

#[target_feature(enable = "avx512f")]
fn tiles<const K: usize, const S: usize>(g: &Geometry, x: &[f32], weights: &[f32], finish: Last, out: &mut [f32]) {
    let [rows, columns] = g.output;
    for first in (0..columns).step_by(LANES) {
        let left = (columns - first).min(LANES);
        let at = Columns {
            first,
            keep: (((1u32 << left) - 1) & 0xffff) as u16,
            from: (first * S) as isize - g.begin[1] as isize,
            width: g.input[1],
        };
        let mut done = 0;
        while done < rows {
            if rows < ROWS {
                tile::<K, S, 1>(g, &at, [done, done], x, weights, finish, out);
                done += 1;
            } else {
                // The last tile begins within the one before it.
                let begin = done.min(rows - ROWS);
                tile::<K, S, ROWS>(g, &at, [begin, done], x, weights, finish, out);
                done = begin + ROWS;
            }
        }
    }
}

/// `R` rows of results from `begin` on; those before `fresh` are there already.
#[target_feature(enable = "avx512f")]
#[inline]
fn tile<const K: usize, const S: usize, const R: usize>(
    g: &Geometry,
    at: &Columns,
    [begin, fresh]: [usize; 2],
    x: &[f32],
    weights: &[f32],
    finish: Last,
    out: &mut [f32],
) {
    let mut sums = [_mm512_setzero_ps(); R];
    let top = (begin * S) as isize - g.begin[0] as isize;
    for row in 0..(R - 1) * S + K {
        let line = (top + row as isize) as usize;
        // One in front of the plane is a very large number.
        if line >= g.input[0] {
            continue;
        }
        let line = &x[line * at.width..][..at.width];
        let taps = taps::<K, S>(line, at.from, 0.0);
        for (r, sum) in sums.iter_mut().enumerate() {
            let tap = row.wrapping_sub(r * S);
            if tap < K {
                let weights = &weights[tap * K..][..K];
                for k in 0..K {
                    *sum = _mm512_fmadd_ps(_mm512_set1_ps(weights[k]), taps[k], *sum);
                }
            }
        }
    }
    for (r, sum) in sums.into_iter().enumerate() {
        if begin + r >= fresh {
            let to = &mut out[(begin + r) * g.output[1] + at.first..][..at.keep.count_ones() as usize];
            write(sum, at.keep, finish, to);
        }
    }
}

/// What each tap of a row of windows reads, `fill` outside of the row.
#[target_feature(enable = "avx512f")]
#[inline]
fn taps<const K: usize, const S: usize>(line: &[f32], from: isize, fill: f32) -> [__m512; K] {
    let fill = _mm512_set1_ps(fill);
    let mut taps = [_mm512_setzero_ps(); K];
    if S == 1 {
        for (k, tap) in taps.iter_mut().enumerate() {
            *tap = load(line, from + k as isize, fill);
        }
        return taps;
    }
    let even = _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30);
    let odd = _mm512_setr_epi32(1, 3, 5, 7, 9, 11, 13, 15, 17, 19, 21, 23, 25, 27, 29, 31);
    for (pair, taps) in taps.chunks_mut(2).enumerate() {
        let from = from + 2 * pair as isize;
        let (low, high) = (load(line, from, fill), load(line, from + LANES as isize, fill));
        taps[0] = _mm512_permutex2var_ps(low, even, high);
        if let Some(tap) = taps.get_mut(1) {
            *tap = _mm512_permutex2var_ps(low, odd, high);
        }
    }
    taps
}

/// Neighbours of a row from `from` on, `fill` outside of it.
#[target_feature(enable = "avx512f")]
#[inline]
fn load(line: &[f32], from: isize, fill: __m512) -> __m512 {
    let lanes = LANES as isize;
    let front = (-from).clamp(0, lanes) as u32;
    let back = (line.len() as isize - from).clamp(0, lanes) as u32;
    let inside = ((1u32 << back) - 1) & !((1u32 << front) - 1);
    // SAFETY: only numbers whose bit is set are read, and those are the ones within the row.
    unsafe { _mm512_mask_loadu_ps(fill, inside as u16, line.as_ptr().wrapping_offset(from)) }
}

/// Writes the sums finished; `to` has one place for each bit of `keep`, which are the lowest ones.
#[target_feature(enable = "avx512f")]
#[inline]
fn write(sum: __m512, keep: u16, finish: Last, to: &mut [f32]) {
    debug_assert_eq!(keep.count_ones() as usize, to.len());
    let mut y = _mm512_add_ps(sum, _mm512_set1_ps(finish.bias));
    if finish.add {
        // SAFETY: only as many numbers are read as `to` has.
        y = _mm512_add_ps(y, unsafe { _mm512_maskz_loadu_ps(keep, to.as_ptr()) });
    }
    // Where one of the two is NaN, the second is taken.
    y = _mm512_max_ps(_mm512_set1_ps(finish.clamp.0), y);
    y = _mm512_min_ps(_mm512_set1_ps(finish.clamp.1), y);
    // SAFETY: only as many numbers are written as `to` has.
    unsafe { _mm512_mask_storeu_ps(to.as_mut_ptr(), keep, y) };
}

/// Whether there is a kernel for the maxima of such windows.
pub(crate) fn pools(g: &Geometry, kernel: [usize; 2]) -> bool {
    matches!(kernel, [2, 2] | [3, 3]) && matches!(g.stride, [1, 1] | [2, 2]) && g.dilation == [1, 1]
}

/// The largest number of every window of a plane; NaN where one is. The geometry and the kernel are such that `pools` says so.
///
/// # Safety
/// The CPU has AVX-512.
pub(crate) unsafe fn maxima(g: &Geometry, kernel: usize, x: &[f32], out: &mut [f32]) {
    assert!(
        x.len() == g.input[0] * g.input[1] && out.len() == g.pixels(),
        "a plane's length"
    );
    // SAFETY: this function's own condition.
    unsafe {
        match (kernel, g.stride[0]) {
            (2, 1) => tops::<2, 1>(g, x, out),
            (2, _) => tops::<2, 2>(g, x, out),
            (_, 1) => tops::<3, 1>(g, x, out),
            _ => tops::<3, 2>(g, x, out),
        }
    }
}

#[target_feature(enable = "avx512f")]
fn tops<const K: usize, const S: usize>(g: &Geometry, x: &[f32], out: &mut [f32]) {
    let [rows, columns] = g.output;
    let width = g.input[1];
    for first in (0..columns).step_by(LANES) {
        let left = (columns - first).min(LANES);
        let keep = (((1u32 << left) - 1) & 0xffff) as u16;
        let from = (first * S) as isize - g.begin[1] as isize;
        for row in 0..rows {
            let mut top = _mm512_set1_ps(f32::NEG_INFINITY);
            for tap in 0..K {
                let line = (row * S + tap).wrapping_sub(g.begin[0]);
                if line >= g.input[0] {
                    continue;
                }
                let line = &x[line * width..][..width];
                for tap in taps::<K, S>(line, from, f32::NEG_INFINITY) {
                    top = larger(top, tap);
                }
            }
            let to = &mut out[row * columns + first..][..left];
            // SAFETY: only as many numbers are written as `to` has.
            unsafe { _mm512_mask_storeu_ps(to.as_mut_ptr(), keep, top) };
        }
    }
}
