//! What differs between instruction sets: the innermost loop of a matrix product, and how code gets compiled for it.

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

    /// The product of a panel of `MR` rows and one of `NR` columns, both `k` deep with `k` outermost.
    ///
    /// # Safety
    /// The CPU has the instructions (`Level::detect`).
    unsafe fn product(a: &[f32], b: &[f32], tile: &mut Tile);
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
    unsafe fn product(a: &[f32], b: &[f32], tile: &mut Tile) {
        let mut sums = [[0.0f32; Self::NR]; Self::MR];
        for (a, b) in a
            .as_chunks::<{ Self::MR }>()
            .0
            .iter()
            .zip(b.as_chunks::<{ Self::NR }>().0)
        {
            for (sums, &a) in sums.iter_mut().zip(a) {
                for (sum, &b) in sums.iter_mut().zip(b) {
                    *sum = if Self::FMA { a.mul_add(b, *sum) } else { a * b + *sum };
                }
            }
        }
        for (row, sums) in tile.chunks_exact_mut(Self::NR).zip(&sums) {
            row.copy_from_slice(sums);
        }
    }
}

#[cfg(target_arch = "x86_64")]
pub(crate) use x86::{Avx2, Avx512};

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::{
        _MM_HINT_T0, _mm_prefetch, _mm256_fmadd_ps, _mm256_loadu_ps, _mm256_set1_ps, _mm256_setzero_ps,
        _mm256_storeu_ps, _mm512_fmadd_ps, _mm512_loadu_ps, _mm512_set1_ps, _mm512_setzero_ps, _mm512_storeu_ps,
    };

    use super::{Isa, Tile, Work};

    /// Steps that the loads of rows are announced ahead.
    const AHEAD: usize = 64;

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
         $zero:ident, $load:ident, $store:ident, $splat:ident, $fma:ident) => {
            #[doc = $doc]
            pub(crate) struct $name;

            impl $name {
                #[target_feature(enable = $features)]
                fn kernel(a: &[f32], b: &[f32], tile: &mut Tile) {
                    const { assert!($rows * 2 * $lanes <= super::MAX_TILE) };
                    let mut sums = [[$zero(); 2]; $rows];
                    let (a, b) = (a.as_chunks::<$rows>().0, b.as_chunks::<{ 2 * $lanes }>().0);
                    for (a, b) in a.iter().zip(b) {
                        // The rows come from far away, and the next page of them is not guessed by the CPU. A prefetch
                        // of any address is harmless.
                        _mm_prefetch::<_MM_HINT_T0>(a.as_ptr().wrapping_add(AHEAD * $rows).cast());
                        // SAFETY: `b` is an array of two vectors' length; the loads need no alignment.
                        let b = unsafe { [$load(b.as_ptr()), $load(b.as_ptr().add($lanes))] };
                        for (sums, &a) in sums.iter_mut().zip(a) {
                            let a = $splat(a);
                            sums[0] = $fma(a, b[0], sums[0]);
                            sums[1] = $fma(a, b[1], sums[1]);
                        }
                    }
                    let rows = tile.as_chunks_mut::<{ 2 * $lanes }>().0;
                    for (row, sums) in rows.iter_mut().zip(sums) {
                        // SAFETY: `row` is an array of two vectors' length; the stores need no alignment.
                        unsafe {
                            $store(row.as_mut_ptr(), sums[0]);
                            $store(row.as_mut_ptr().add($lanes), sums[1]);
                        }
                    }
                }
            }

            impl Isa for $name {
                const MR: usize = $rows;
                const NR: usize = 2 * $lanes;
                const FMA: bool = true;

                #[inline(always)]
                unsafe fn product(a: &[f32], b: &[f32], tile: &mut Tile) {
                    // SAFETY: the caller vouches for the instructions.
                    unsafe { Self::kernel(a, b, tile) }
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
        _mm256_fmadd_ps
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
        _mm512_fmadd_ps
    );
}
