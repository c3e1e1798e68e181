//! What differs between instruction sets: the innermost loops of matrix products and convolutions, and how code gets
//! compiled for them.

use crate::finish::within;

/// The largest tile of any kernel.
pub(crate) const MAX_TILE: usize = 12 * 32;

/// A tile of results, rows of `NR` behind each other. One instruction set fills the first `MR * NR` of it.
pub(crate) type Tile = [f32; MAX_TILE];

/// An instruction set's kernel.
pub(crate) trait Isa {
    /// Rows of a tile.
    const MR: usize;
    /// Columns of a tile.
    const NR: usize;

    /// Whether `a * b + c` in one rounding is one instruction.
    const FMA: bool;

    /// Numbers in a vector; a tile's row has two.
    const LANES: usize = Self::NR / 2;

    /// The product of `R` rows that lie anywhere and `NR` columns.
    ///
    /// # Safety
    /// The CPU has the instructions, and every element that `p` names lies within memory that may be read.
    unsafe fn strided<const R: usize>(p: Strided, tile: &mut Tile);

    /// The sums of `R` filters at `C` vectors of windows, `C` being 1 or 2; row `r` begins at `r * NR` in either case.
    ///
    /// # Safety
    /// The CPU has the instructions, and every element that `p` names lies within memory that may be read.
    unsafe fn windows<const R: usize, const C: usize>(p: Windows<'_>, tile: &mut Tile);

    /// One filter of one channel at `U` vectors of windows that follow each other: each tap's place and weight.
    ///
    /// # Safety
    /// The CPU has the instructions, and from every tap on `U` vectors behind `x` may be read.
    unsafe fn plane<const U: usize>(x: *const f32, taps: &[(usize, f32)], tile: &mut Tile);

    /// The largest numbers of `U` vectors of windows that follow each other: each tap's place. NaN where one is.
    ///
    /// # Safety
    /// The CPU has the instructions, and from every tap on `U` vectors behind `x` may be read.
    unsafe fn maxima<const U: usize>(x: *const f32, window: &[usize], tile: &mut Tile);

    /// Fills `to` with numbers that lie `step` apart.
    ///
    /// # Safety
    /// The CPU has the instructions.
    unsafe fn copy(from: &[f32], step: usize, to: &mut [f32]);

    /// Writes the numbers of one vector that `keep` has bits for side by side into `out`, finished.
    ///
    /// # Safety
    /// The CPU has the instructions.
    unsafe fn put(sums: &[f32], keep: u32, finish: Last, out: &mut [f32]);
}

/// Where the operands of windows' sums lie. Element `(r, k)` of the filters is at `a + k * step + r`; the neighbours for
/// tap `t` of channel `c` begin at `x + c * pitch + window[t]`, and `k` counts the taps of all channels.
#[derive(Clone, Copy)]
pub(crate) struct Windows<'a> {
    pub(crate) a: *const f32,
    pub(crate) step: usize,
    pub(crate) x: [*const f32; 2],
    pub(crate) window: &'a [usize],
    pub(crate) channels: usize,
    pub(crate) pitch: usize,
}

/// `Isa::copy` in plain code.
#[inline(always)]
fn copy(from: &[f32], step: usize, to: &mut [f32]) {
    // Constant steps become shuffles of whole vectors.
    match step {
        1 => to.copy_from_slice(&from[..to.len()]),
        2 => to.iter_mut().zip(from.iter().step_by(2)).for_each(|(to, x)| *to = *x),
        s => to.iter_mut().zip(from.iter().step_by(s)).for_each(|(to, x)| *to = *x),
    }
}

/// What is done to a convolution's sums when they are written.
#[derive(Clone, Copy)]
pub(crate) struct Last {
    /// Added to every one.
    pub(crate) bias: f32,
    /// Whether what is there already is added.
    pub(crate) add: bool,
    /// Bounds; NaN stays NaN.
    pub(crate) clamp: (f32, f32),
}

impl Last {
    /// The sums as they are.
    pub(crate) const NOTHING: Self = Self {
        bias: 0.0,
        add: false,
        clamp: (f32::NEG_INFINITY, f32::INFINITY),
    };

    #[inline(always)]
    fn of(self, sum: f32, there: f32) -> f32 {
        let y = sum + self.bias;
        within(if self.add { y + there } else { y }, self.clamp)
    }

    /// `Isa::put` in plain code.
    #[inline(always)]
    fn put(self, sums: &[f32], keep: u32, out: &mut [f32]) {
        let n = keep.count_ones() as usize;
        let out = &mut out[..n];
        if n == sums.len() {
            for (y, &s) in out.iter_mut().zip(sums) {
                *y = self.of(s, *y);
            }
            return;
        }
        let mut left = keep;
        for y in out {
            let s = sums[left.trailing_zeros() as usize];
            *y = self.of(s, *y);
            left &= left - 1;
        }
    }
}

/// Where the operands of a strided product lie. Element `(r, k)` of the rows is at `a + r * row + k * step`, the columns'
/// `NR` neighbours at depth `k` begin at `b + k * pitch`.
#[derive(Clone, Copy)]
pub(crate) struct Strided {
    pub(crate) a: *const f32,
    pub(crate) row: usize,
    pub(crate) step: usize,
    pub(crate) b: *const f32,
    pub(crate) pitch: usize,
    pub(crate) depth: usize,
}

/// The strided product of 1 to `MR` rows, once everything it reads is known to be there.
///
/// # Safety
/// The CPU has the instructions of `I`.
#[inline(always)]
#[allow(
    clippy::too_many_arguments,
    reason = "two operands with their strides; a struct of them would be made at one place"
)]
pub(crate) unsafe fn product<I: Isa>(
    rows: usize,
    a: &[f32],
    row: usize,
    step: usize,
    b: &[f32],
    pitch: usize,
    depth: usize,
    tile: &mut Tile,
) {
    if rows == 0 || depth == 0 {
        return tile.fill(0.0);
    }
    assert!(
        (rows - 1) * row + (depth - 1) * step < a.len(),
        "rows reach behind their slice"
    );
    assert!(
        (depth - 1) * pitch + I::NR <= b.len(),
        "columns reach behind their slice"
    );
    let p = Strided {
        a: a.as_ptr(),
        row,
        step,
        b: b.as_ptr(),
        pitch,
        depth,
    };
    macro_rules! by_rows {
        ($($n:literal)*) => {
            match rows {
                // SAFETY: the caller vouches for the instructions, the assertions for the memory.
                $($n => unsafe { I::strided::<$n>(p, tile) },)*
                _ => unreachable!("a tile has at most 12 rows"),
            }
        };
    }
    by_rows!(1 2 3 4 5 6 7 8 9 10 11 12);
}

/// The sums of 1 to `MR` filters at one or two vectors of windows, which begin at `from` in `x`, once everything that is
/// read is known to be there. `reach` is the largest place in `window`.
///
/// # Safety
/// The CPU has the instructions of `I`.
#[inline(always)]
#[allow(
    clippy::too_many_arguments,
    reason = "two operands with their strides; a struct of them would be made at one place"
)]
pub(crate) unsafe fn windows<I: Isa>(
    rows: usize,
    a: &[f32],
    x: &[f32],
    from: [usize; 2],
    vectors: usize,
    (window, reach): (&[usize], usize),
    (channels, pitch): (usize, usize),
    tile: &mut Tile,
) {
    let depth = window.len() * channels;
    assert!(
        depth > 0 && depth * I::MR <= a.len(),
        "filters reach behind their slice"
    );
    let far = from[0].max(from[1]) + (channels - 1) * pitch + reach + I::LANES;
    assert!(far <= x.len(), "windows reach behind the image");
    let p = Windows {
        a: a.as_ptr(),
        step: I::MR,
        x: from.map(|from| x[from..].as_ptr()),
        window,
        channels,
        pitch,
    };
    macro_rules! by_rows {
        ($($n:literal)*) => {
            match (rows, vectors) {
                // SAFETY: the caller vouches for the instructions, the assertions for the memory.
                $(($n, 1) => unsafe { I::windows::<$n, 1>(p, tile) },
                // SAFETY: as above.
                ($n, _) => unsafe { I::windows::<$n, 2>(p, tile) },)*
                _ => unreachable!("a tile has 1 to 12 rows"),
            }
        };
    }
    by_rows!(1 2 3 4 5 6 7 8 9 10 11 12);
}

/// Which instructions the CPU has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Level {
    /// What every CPU of the architecture has.
    Portable,
    #[cfg(target_arch = "x86_64")]
    Avx2,
    #[cfg(target_arch = "x86_64")]
    Avx512,
}

impl Level {
    /// The best that this CPU has.
    pub(crate) fn detect() -> Self {
        #[cfg(target_arch = "x86_64")]
        {
            if is_x86_feature_detected!("avx512f")
                && is_x86_feature_detected!("avx512vl")
                && is_x86_feature_detected!("avx512dq")
                && is_x86_feature_detected!("avx2")
                && is_x86_feature_detected!("fma")
            {
                return Self::Avx512;
            }
            if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
                return Self::Avx2;
            }
        }
        Self::Portable
    }

    /// All that this CPU has, for tests.
    #[cfg(test)]
    pub(crate) fn all() -> Vec<Self> {
        let mut all = vec![Self::Portable];
        #[cfg(target_arch = "x86_64")]
        match Self::detect() {
            Self::Avx512 => all.extend([Self::Avx2, Self::Avx512]),
            Self::Avx2 => all.push(Self::Avx2),
            Self::Portable => {}
        }
        all
    }

    pub(crate) fn rows(self) -> usize {
        match self {
            Self::Portable => Portable::MR,
            #[cfg(target_arch = "x86_64")]
            Self::Avx2 => Avx2::MR,
            #[cfg(target_arch = "x86_64")]
            Self::Avx512 => Avx512::MR,
        }
    }

    pub(crate) fn columns(self) -> usize {
        match self {
            Self::Portable => Portable::NR,
            #[cfg(target_arch = "x86_64")]
            Self::Avx2 => Avx2::NR,
            #[cfg(target_arch = "x86_64")]
            Self::Avx512 => Avx512::NR,
        }
    }
}

/// A piece of work that is compiled once per instruction set.
pub(crate) trait Work {
    /// Must be `inline(always)`, so that it takes on its caller's instructions.
    ///
    /// # Safety
    /// The CPU has the instructions of `I`.
    unsafe fn run<I: Isa>(self);
}

/// Runs the work with a level's instructions. `level` comes from `detect`, or is less than that.
pub(crate) fn dispatch(level: Level, work: impl Work) {
    match level {
        // SAFETY: the portable level needs nothing.
        Level::Portable => unsafe { work.run::<Portable>() },
        // SAFETY: a value of this level exists only where `detect` found its instructions.
        #[cfg(target_arch = "x86_64")]
        Level::Avx2 => unsafe { x86::with_avx2(work) },
        // SAFETY: as above.
        #[cfg(target_arch = "x86_64")]
        Level::Avx512 => unsafe { x86::with_avx512(work) },
    }
}

/// No instructions beyond the architecture's; the compiler vectorises the loop with what there is.
pub(crate) struct Portable;

impl Isa for Portable {
    const MR: usize = 4;
    const NR: usize = 8;
    const FMA: bool = cfg!(target_arch = "aarch64");

    #[inline(always)]
    unsafe fn strided<const R: usize>(p: Strided, tile: &mut Tile) {
        let mut sums = [[0.0f32; Self::NR]; R];
        for k in 0..p.depth {
            // SAFETY: the caller vouches for all elements; the array needs no more alignment than its floats.
            let b = unsafe { &*p.b.add(k * p.pitch).cast::<[f32; Self::NR]>() };
            for (r, sums) in sums.iter_mut().enumerate() {
                // SAFETY: as above.
                let a = unsafe { *p.a.add(r * p.row + k * p.step) };
                for (sum, &b) in sums.iter_mut().zip(b) {
                    *sum = if Self::FMA { a.mul_add(b, *sum) } else { a * b + *sum };
                }
            }
        }
        for (row, sums) in tile.chunks_exact_mut(Self::NR).zip(&sums) {
            row.copy_from_slice(sums);
        }
    }

    #[inline(always)]
    unsafe fn windows<const R: usize, const C: usize>(p: Windows<'_>, tile: &mut Tile) {
        let mut sums = [[[0.0f32; Self::LANES]; C]; R];
        let mut k = 0;
        for channel in 0..p.channels {
            for &tap in p.window {
                for c in 0..C {
                    // SAFETY: the caller vouches for all elements; the array needs no more alignment than its floats.
                    let x = unsafe { &*p.x[c].add(channel * p.pitch + tap).cast::<[f32; Self::LANES]>() };
                    for (r, sums) in sums.iter_mut().enumerate() {
                        // SAFETY: as above.
                        let a = unsafe { *p.a.add(k * p.step + r) };
                        for (sum, &x) in sums[c].iter_mut().zip(x) {
                            *sum = if Self::FMA { a.mul_add(x, *sum) } else { a * x + *sum };
                        }
                    }
                }
                k += 1;
            }
        }
        for (row, sums) in tile.chunks_exact_mut(Self::NR).zip(&sums) {
            row[..C * Self::LANES].copy_from_slice(sums.as_flattened());
        }
    }

    #[inline(always)]
    unsafe fn plane<const U: usize>(x: *const f32, taps: &[(usize, f32)], tile: &mut Tile) {
        let mut sums = [[0.0f32; Self::LANES]; U];
        for &(tap, w) in taps {
            // SAFETY: the caller vouches for all elements; the array needs no more alignment than its floats.
            let x = unsafe { &*x.add(tap).cast::<[[f32; Self::LANES]; U]>() };
            for (sum, &x) in sums.as_flattened_mut().iter_mut().zip(x.as_flattened()) {
                *sum = if Self::FMA { w.mul_add(x, *sum) } else { w * x + *sum };
            }
        }
        tile[..U * Self::LANES].copy_from_slice(sums.as_flattened());
    }

    #[inline(always)]
    unsafe fn maxima<const U: usize>(x: *const f32, window: &[usize], tile: &mut Tile) {
        let mut top = [[f32::NEG_INFINITY; Self::LANES]; U];
        for &tap in window {
            // SAFETY: the caller vouches for all elements; the array needs no more alignment than its floats.
            let x = unsafe { &*x.add(tap).cast::<[[f32; Self::LANES]; U]>() };
            for (top, &x) in top.as_flattened_mut().iter_mut().zip(x.as_flattened()) {
                *top = if x > *top || x.is_nan() { x } else { *top };
            }
        }
        tile[..U * Self::LANES].copy_from_slice(top.as_flattened());
    }

    #[inline(always)]
    unsafe fn copy(from: &[f32], step: usize, to: &mut [f32]) {
        copy(from, step, to);
    }

    #[inline(always)]
    unsafe fn put(sums: &[f32], keep: u32, finish: Last, out: &mut [f32]) {
        finish.put(sums, keep, out);
    }
}

#[cfg(target_arch = "x86_64")]
pub(crate) use x86::{Avx2, Avx512, max512};

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::{
        __m256, __m512, _CMP_UNORD_Q, _MM_HINT_T0, _mm_prefetch, _mm256_add_ps, _mm256_blendv_ps, _mm256_cmp_ps,
        _mm256_fmadd_ps, _mm256_loadu_ps, _mm256_max_ps, _mm256_set1_ps, _mm256_setzero_ps, _mm256_storeu_ps,
        _mm512_add_ps, _mm512_cmp_ps_mask, _mm512_fmadd_ps, _mm512_loadu_ps, _mm512_mask_mov_ps, _mm512_mask_storeu_ps,
        _mm512_maskz_compress_ps, _mm512_maskz_loadu_ps, _mm512_max_ps, _mm512_min_ps, _mm512_permutex2var_ps,
        _mm512_set1_ps, _mm512_setr_epi32, _mm512_setzero_ps, _mm512_storeu_ps,
    };

    use super::{Isa, Last, Strided, Tile, Windows, Work};

    /// Steps that the loads of rows are announced ahead.
    const AHEAD: usize = 64;

    /// The same for columns, which are wider.
    const AHEAD_COLUMNS: usize = 24;

    /// # Safety
    /// The CPU has these instructions.
    #[target_feature(enable = "avx2,fma")]
    pub(super) unsafe fn with_avx2(work: impl Work) {
        // SAFETY: this function's own condition.
        unsafe { work.run::<Avx2>() }
    }

    /// # Safety
    /// The CPU has these instructions.
    #[target_feature(enable = "avx512f,avx512vl,avx512dq,avx2,fma")]
    pub(super) unsafe fn with_avx512(work: impl Work) {
        // SAFETY: this function's own condition.
        unsafe { work.run::<Avx512>() }
    }

    macro_rules! isa {
        ($name:ident, $doc:literal, $rows:literal, $lanes:literal, $features:literal,
         $zero:ident, $load:ident, $store:ident, $splat:ident, $fma:ident, $add:ident, $max:ident, $copy:expr, $put:expr) => {
            #[doc = $doc]
            pub(crate) struct $name;

            impl $name {
                /// # Safety
                /// Every element that `p` names may be read.
                #[target_feature(enable = $features)]
                unsafe fn windows_kernel<const R: usize, const C: usize>(p: Windows<'_>, tile: &mut Tile) {
                    let mut sums = [[$zero(); C]; R];
                    let mut a = p.a;
                    let mut x = p.x;
                    for _ in 0..p.channels {
                        for &tap in p.window {
                            // The weights come from far away, and the next page of them is not guessed by the CPU. A
                            // prefetch of any address is harmless.
                            _mm_prefetch::<_MM_HINT_T0>(a.wrapping_add(AHEAD * p.step).cast());
                            let mut columns = [$zero(); C];
                            for c in 0..C {
                                // SAFETY: the caller vouches for the elements; the loads need no alignment.
                                columns[c] = unsafe { $load(x[c].add(tap)) };
                            }
                            for r in 0..R {
                                // SAFETY: as above.
                                let w = $splat(unsafe { *a.add(r) });
                                for c in 0..C {
                                    sums[r][c] = $fma(w, columns[c], sums[r][c]);
                                }
                            }
                            a = a.wrapping_add(p.step);
                        }
                        x = x.map(|x| x.wrapping_add(p.pitch));
                    }
                    let rows = tile.as_chunks_mut::<{ 2 * $lanes }>().0;
                    for (row, sums) in rows.iter_mut().zip(sums) {
                        for c in 0..C {
                            // SAFETY: `row` is an array of two vectors' length; the stores need no alignment.
                            unsafe { $store(row.as_mut_ptr().add(c * $lanes), sums[c]) };
                        }
                    }
                }

                /// # Safety
                /// From every tap on `U` vectors behind `x` may be read.
                #[target_feature(enable = $features)]
                unsafe fn plane_kernel<const U: usize>(x: *const f32, taps: &[(usize, f32)], tile: &mut Tile) {
                    let mut sums = [$zero(); U];
                    for &(tap, w) in taps {
                        let w = $splat(w);
                        for u in 0..U {
                            // SAFETY: the caller vouches for the elements; the loads need no alignment.
                            sums[u] = $fma(w, unsafe { $load(x.add(tap + u * $lanes)) }, sums[u]);
                        }
                    }
                    let vectors = tile.as_chunks_mut::<$lanes>().0;
                    for (to, sums) in vectors.iter_mut().zip(sums) {
                        // SAFETY: `to` is an array of a vector's length; the stores need no alignment.
                        unsafe { $store(to.as_mut_ptr(), sums) };
                    }
                }

                /// # Safety
                /// From every tap on `U` vectors behind `x` may be read.
                #[target_feature(enable = $features)]
                unsafe fn maxima_kernel<const U: usize>(x: *const f32, window: &[usize], tile: &mut Tile) {
                    let mut top = [$splat(f32::NEG_INFINITY); U];
                    for &tap in window {
                        for u in 0..U {
                            // SAFETY: the caller vouches for the elements; the loads need no alignment.
                            let x = unsafe { $load(x.add(tap + u * $lanes)) };
                            top[u] = $max(top[u], x);
                        }
                    }
                    let vectors = tile.as_chunks_mut::<$lanes>().0;
                    for (to, top) in vectors.iter_mut().zip(top) {
                        // SAFETY: `to` is an array of a vector's length; the stores need no alignment.
                        unsafe { $store(to.as_mut_ptr(), top) };
                    }
                }
            }

            impl $name {
                /// `U` steps at a time into sums of their own, where few rows leave the adders idle.
                ///
                /// # Safety
                /// Every element that `p` names may be read.
                #[target_feature(enable = $features)]
                unsafe fn strided_kernel<const R: usize, const U: usize>(p: Strided, tile: &mut Tile) {
                    let mut sums = [[[$zero(); 2]; R]; U];
                    // Groups of three rows share a pointer, so that all of them stay in registers.
                    let mut a: [*const f32; 4] = std::array::from_fn(|g| p.a.wrapping_add(3 * g * p.row));
                    let mut b = p.b;
                    let mut left = p.depth;
                    while left > 0 {
                        let steps = if left >= U { U } else { 1 };
                        for u in 0..U {
                            if u >= steps {
                                break;
                            }
                            // A prefetch of any address is harmless.
                            let ahead = b.wrapping_add(AHEAD_COLUMNS * p.pitch);
                            _mm_prefetch::<_MM_HINT_T0>(ahead.cast());
                            _mm_prefetch::<_MM_HINT_T0>(ahead.wrapping_add($lanes).cast());
                            // SAFETY: the caller vouches for the elements; the loads need no alignment.
                            let columns = unsafe { [$load(b), $load(b.add($lanes))] };
                            for r in 0..R {
                                // SAFETY: as above.
                                let x = $splat(unsafe { *a[r / 3].add(r % 3 * p.row) });
                                sums[u][r][0] = $fma(x, columns[0], sums[u][r][0]);
                                sums[u][r][1] = $fma(x, columns[1], sums[u][r][1]);
                            }
                            a = a.map(|a| a.wrapping_add(p.step));
                            b = b.wrapping_add(p.pitch);
                        }
                        left -= steps;
                    }
                    let rows = tile.as_chunks_mut::<{ 2 * $lanes }>().0;
                    for (r, row) in rows.iter_mut().enumerate().take(R) {
                        let mut total = sums[0][r];
                        for more in &sums[1..] {
                            total = [$add(total[0], more[r][0]), $add(total[1], more[r][1])];
                        }
                        // SAFETY: `row` is an array of two vectors' length; the stores need no alignment.
                        unsafe {
                            $store(row.as_mut_ptr(), total[0]);
                            $store(row.as_mut_ptr().add($lanes), total[1]);
                        }
                    }
                }
            }

            impl Isa for $name {
                const MR: usize = $rows;
                const NR: usize = 2 * $lanes;
                const FMA: bool = true;

                #[inline(always)]
                unsafe fn windows<const R: usize, const C: usize>(p: Windows<'_>, tile: &mut Tile) {
                    const { assert!(R <= 12 && C <= 2 && $rows * 2 * $lanes <= super::MAX_TILE) };
                    // SAFETY: the caller vouches for the instructions and the elements.
                    unsafe { Self::windows_kernel::<R, C>(p, tile) }
                }

                #[inline(always)]
                unsafe fn plane<const U: usize>(x: *const f32, taps: &[(usize, f32)], tile: &mut Tile) {
                    const { assert!(U * $lanes <= super::MAX_TILE) };
                    // SAFETY: the caller vouches for the instructions and the elements.
                    unsafe { Self::plane_kernel::<U>(x, taps, tile) }
                }

                #[inline(always)]
                unsafe fn maxima<const U: usize>(x: *const f32, window: &[usize], tile: &mut Tile) {
                    const { assert!(U * $lanes <= super::MAX_TILE) };
                    // SAFETY: the caller vouches for the instructions and the elements.
                    unsafe { Self::maxima_kernel::<U>(x, window, tile) }
                }

                #[inline(always)]
                unsafe fn copy(from: &[f32], step: usize, to: &mut [f32]) {
                    $copy(from, step, to);
                }

                #[inline(always)]
                unsafe fn put(sums: &[f32], keep: u32, finish: Last, out: &mut [f32]) {
                    $put(sums, keep, finish, out);
                }

                #[inline(always)]
                unsafe fn strided<const R: usize>(p: Strided, tile: &mut Tile) {
                    const { assert!(R <= 12) };
                    // SAFETY: the caller vouches for the instructions and the elements.
                    unsafe {
                        match R {
                            1 => Self::strided_kernel::<R, 4>(p, tile),
                            2 | 3 => Self::strided_kernel::<R, 2>(p, tile),
                            _ => Self::strided_kernel::<R, 1>(p, tile),
                        }
                    }
                }
            }
        };
    }

    isa!(
        Avx2,
        "16 vector registers of 8 floats: 12 for sums.",
        6,
        8,
        "avx2,fma",
        _mm256_setzero_ps,
        _mm256_loadu_ps,
        _mm256_storeu_ps,
        _mm256_set1_ps,
        _mm256_fmadd_ps,
        _mm256_add_ps,
        max256,
        super::copy,
        |sums: &[f32], keep, finish: Last, out: &mut [f32]| finish.put(sums, keep, out)
    );
    isa!(
        Avx512,
        "32 vector registers of 16 floats: 24 for sums.",
        12,
        16,
        "avx512f",
        _mm512_setzero_ps,
        _mm512_loadu_ps,
        _mm512_storeu_ps,
        _mm512_set1_ps,
        _mm512_fmadd_ps,
        _mm512_add_ps,
        max512,
        // SAFETY: the caller of `copy` vouches for the instructions.
        |from: &[f32], step: usize, to: &mut [f32]| unsafe { copy_masked(from, step, to) },
        // SAFETY: the caller of `put` vouches for the instructions.
        |sums: &[f32], keep: u32, finish: Last, out: &mut [f32]| unsafe { put_compressed(sums, keep, finish, out) }
    );

    /// The larger of two numbers; NaN where one is. The instruction alone gives the second where one of the two is NaN.
    #[target_feature(enable = "avx2,fma")]
    fn max256(top: __m256, x: __m256) -> __m256 {
        _mm256_blendv_ps(_mm256_max_ps(x, top), x, _mm256_cmp_ps::<_CMP_UNORD_Q>(x, x))
    }

    /// The same of longer vectors.
    #[target_feature(enable = "avx512f")]
    pub(crate) fn max512(top: __m512, x: __m512) -> __m512 {
        _mm512_mask_mov_ps(_mm512_max_ps(x, top), _mm512_cmp_ps_mask::<_CMP_UNORD_Q>(x, x), x)
    }

    /// `super::copy` without a loop for the rest of a row.
    #[target_feature(enable = "avx512f")]
    fn copy_masked(from: &[f32], step: usize, to: &mut [f32]) {
        if step > 2 || to.is_empty() {
            return super::copy(from, step, to);
        }
        let n = to.len();
        assert!((n - 1) * step < from.len(), "a row's length");
        let first = |n: usize| if n >= 16 { 0xffff } else { (1u16 << n) - 1 };
        let even = _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30);
        for at in (0..n).step_by(16) {
            let left = n - at;
            // SAFETY: only numbers up to the last that is wanted are read, and no more than `to` has are written.
            unsafe {
                let source = from.as_ptr().add(at * step);
                let v = if step == 1 {
                    _mm512_maskz_loadu_ps(first(left), source)
                } else {
                    let last = 2 * left - 1;
                    let low = _mm512_maskz_loadu_ps(first(last), source);
                    let high = _mm512_maskz_loadu_ps(first(last.saturating_sub(16)), source.wrapping_add(16));
                    _mm512_permutex2var_ps(low, even, high)
                };
                _mm512_mask_storeu_ps(to.as_mut_ptr().add(at), first(left), v);
            }
        }
    }

    /// `Last::put` with the kept numbers moved together in a register.
    #[target_feature(enable = "avx512f")]
    fn put_compressed(sums: &[f32], keep: u32, finish: Last, out: &mut [f32]) {
        let n = keep.count_ones();
        assert!(
            sums.len() == 16 && n as usize <= out.len() && n <= 16,
            "a vector's length"
        );
        let first = ((1u32 << n) - 1) as u16;
        // SAFETY: there are 16 numbers; the load needs no alignment.
        let mut sums = unsafe { _mm512_loadu_ps(sums.as_ptr()) };
        if n < 16 {
            sums = _mm512_maskz_compress_ps(keep as u16, sums);
        }
        let mut y = _mm512_add_ps(sums, _mm512_set1_ps(finish.bias));
        if finish.add {
            // SAFETY: only the first `n` numbers are read, and `out` has them.
            y = _mm512_add_ps(y, unsafe { _mm512_maskz_loadu_ps(first, out.as_ptr()) });
        }
        // Where one of the two is NaN, the second is taken.
        y = _mm512_max_ps(_mm512_set1_ps(finish.clamp.0), y);
        y = _mm512_min_ps(_mm512_set1_ps(finish.clamp.1), y);
        // SAFETY: only the first `n` numbers are written, and `out` has them.
        unsafe { _mm512_mask_storeu_ps(out.as_mut_ptr(), first, y) };
    }
}
