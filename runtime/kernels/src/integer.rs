//! Products of matrices of eight-bit integers, exactly, with a constant right side that is packed once.
//!
//! Kernels multiply unsigned numbers on the left by signed ones on the right. Other kinds are moved there by flipping the
//! highest bit, which adds or subtracts 128, and their zero points with them. With zero points `p` and `q`,
//! `Σ(a-p)(b-q) = Σab - pΣb - qΣa + kpq`: the kernels only know `Σab`. Sums are of 32 bits and wrap, as ONNX has them.

use std::ops::Range;

use crate::crew;
use crate::shared::Shared;
use crate::tasks;

/// Rows that are packed and multiplied at a time.
const ROWS: usize = 96;

/// Numbers along the depth that are multiplied at once.
const GROUP: usize = 4;

/// The largest tile of any kernel.
const MAX_TILE: usize = 12 * 32;

/// Eight-bit integers of either kind.
#[derive(Clone, Copy, Debug)]
pub enum Eight<'a> {
    /// 0 to 255
    U8(&'a [u8]),
    /// -128 to 127
    I8(&'a [i8]),
}

impl Eight<'_> {
    fn len(&self) -> usize {
        match self {
            Self::U8(v) => v.len(),
            Self::I8(v) => v.len(),
        }
    }
}

/// Where the results of a product of integers go.
#[derive(Debug)]
pub enum IntegerOut<'a> {
    /// The sums themselves.
    Sums(&'a mut [i32]),
    /// As FP32, times a scale of one number or one a column, then plus a bias of one number a column; each step rounded.
    Scaled {
        /// As many numbers as results.
        out: &'a mut [f32],
        /// One number, or one a column.
        scale: &'a [f32],
        /// One number a column.
        bias: Option<&'a [f32]>,
    },
}

/// Which instructions multiply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Portable,
    /// 16 products of 16-bit numbers at once: nothing saturates, as it would in products of eight bits without VNNI.
    #[cfg(target_arch = "x86_64")]
    Avx2,
    /// 64 products of eight-bit numbers at once.
    #[cfg(target_arch = "x86_64")]
    Vnni,
}

impl Kind {
    fn detect() -> Self {
        #[cfg(target_arch = "x86_64")]
        {
            if is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("avx512vnni") {
                return Self::Vnni;
            }
            if is_x86_feature_detected!("avx2") {
                return Self::Avx2;
            }
        }
        Self::Portable
    }

    #[cfg(test)]
    fn all() -> Vec<Self> {
        let mut all = vec![Self::Portable];
        #[cfg(target_arch = "x86_64")]
        match Self::detect() {
            Self::Vnni => all.extend([Self::Avx2, Self::Vnni]),
            Self::Avx2 => all.push(Self::Avx2),
            Self::Portable => {}
        }
        all
    }

    /// Rows and columns of a tile.
    fn tile(self) -> (usize, usize) {
        match self {
            Self::Portable => (4, 8),
            #[cfg(target_arch = "x86_64")]
            Self::Avx2 => (3, 16),
            #[cfg(target_arch = "x86_64")]
            Self::Vnni => (12, 32),
        }
    }

    /// The sums of 1 to as many rows as a tile has, `pitch` apart, with a panel of `groups` groups.
    fn multiply(self, rows: usize, a: &[u8], pitch: usize, panel: &[i8], groups: usize, tile: &mut [i32; MAX_TILE]) {
        let (most, columns) = self.tile();
        assert!(
            0 < rows && rows <= most && (rows - 1) * pitch + groups * GROUP <= a.len(),
            "rows reach behind their slice"
        );
        assert!(
            groups * GROUP * columns <= panel.len(),
            "columns reach behind their slice"
        );
        match self {
            Self::Portable => portable(rows, a, pitch, panel, groups, tile),
            // SAFETY: values of these kinds exist only where `detect` found the instructions; the assertions are above.
            #[cfg(target_arch = "x86_64")]
            Self::Avx2 => unsafe { x86::avx2(rows, a.as_ptr(), pitch, panel.as_ptr(), groups, tile) },
            // SAFETY: as above.
            #[cfg(target_arch = "x86_64")]
            Self::Vnni => unsafe { x86::vnni(rows, a.as_ptr(), pitch, panel.as_ptr(), groups, tile) },
        }
    }
}

/// The right side of a product, packed. Shared by threads.
#[derive(Debug)]
pub struct IntegerMatrix {
    kind: Kind,
    depth: usize,
    columns: usize,
    /// Panels of a tile's columns; each has groups of the depth outermost, in them columns, in those the group's numbers.
    /// What is missing is 0.
    panels: Vec<i8>,
    /// For each column the sum of what is packed.
    sums: Vec<i32>,
    /// What was subtracted from each number.
    moved: i32,
}

impl IntegerMatrix {
    /// Packs `depth` rows of `columns` numbers; with `transposed`, `columns` rows of `depth` numbers. `None` where the length
    /// is another or a side is empty.
    pub fn new(values: Eight<'_>, depth: usize, columns: usize, transposed: bool) -> Option<Self> {
        Self::at(Kind::detect(), values, depth, columns, transposed)
    }

    fn at(kind: Kind, values: Eight<'_>, depth: usize, columns: usize, transposed: bool) -> Option<Self> {
        if values.len() == 0 || depth.checked_mul(columns) != Some(values.len()) {
            return None;
        }
        let (_, width) = kind.tile();
        let size = depth.div_ceil(GROUP) * GROUP * width;
        let mut panels = vec![0i8; columns.div_ceil(width) * size];
        let mut sums = vec![0i32; columns];
        let place = |k: usize, c: usize| c / width * size + (k / GROUP * width + c % width) * GROUP + k % GROUP;
        let mut put = |at: usize, value: i8| {
            let (k, c) = if transposed {
                (at % depth, at / depth)
            } else {
                (at / columns, at % columns)
            };
            panels[place(k, c)] = value;
            sums[c] = sums[c].wrapping_add(i32::from(value));
        };
        let moved = match values {
            Eight::U8(v) => {
                v.iter()
                    .enumerate()
                    .for_each(|(at, &x)| put(at, (x ^ 0x80).cast_signed()));
                128
            }
            Eight::I8(v) => {
                v.iter().enumerate().for_each(|(at, &x)| put(at, x));
                0
            }
        };
        Some(Self {
            kind,
            depth,
            columns,
            panels,
            sums,
            moved,
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
        self.panels.len() + size_of_val(self.sums.as_slice())
    }

    /// The product of `x` less its zero point with this matrix less its own, on the crew's threads. `x_zero` is one number, or
    /// one a row; `zero` one, or one a column.
    ///
    /// # Panics
    /// Where a length does not fit.
    pub fn run(&self, x: Eight<'_>, x_zero: &[i32], zero: &[i32], out: IntegerOut<'_>) {
        assert!(x.len().is_multiple_of(self.depth), "rows of another length");
        let rows = x.len() / self.depth;
        assert!(x_zero.len() == 1 || x_zero.len() == rows, "zero points of the rows");
        assert!(
            zero.len() == 1 || zero.len() == self.columns,
            "zero points of the columns"
        );
        let results = rows * self.columns;
        let out = match out {
            IntegerOut::Sums(out) => {
                assert_eq!(out.len(), results, "output length");
                To::Sums(Shared::new(out))
            }
            IntegerOut::Scaled { out, scale, bias } => {
                assert_eq!(out.len(), results, "output length");
                assert!(scale.len() == 1 || scale.len() == self.columns, "scales");
                assert!(bias.is_none_or(|b| b.len() == self.columns), "bias length");
                To::Scaled(Shared::new(out), scale, bias)
            }
        };
        if rows == 0 {
            return;
        }
        let (unit, width) = self.kind.tile();
        let product = Product {
            matrix: self,
            x,
            x_zero,
            zero,
            out,
        };
        let panels = self.columns.div_ceil(width);
        // A product of eight bits takes about a quarter of one of 32.
        let work = rows * self.depth * self.columns / 4;
        let threads = crew::threads();
        if threads == 1 || work < tasks::SERIAL {
            return product.run(0..rows, 0..panels);
        }
        let pieces = (4 * threads).min((2 * work).div_ceil(tasks::SERIAL));
        let by_rows = pieces.min(rows.div_ceil(4 * unit)).max(1);
        let by_panels = pieces.div_ceil(by_rows).min(panels);
        let blocks = rows.div_ceil(unit);
        crew::each(by_rows * by_panels, work, |piece| {
            let (r, p) = (piece % by_rows, piece / by_rows);
            let rows = (r * blocks / by_rows * unit).min(rows)..((r + 1) * blocks / by_rows * unit).min(rows);
            product.run(rows, p * panels / by_panels..(p + 1) * panels / by_panels);
        });
    }
}

#[derive(Clone, Copy)]
enum To<'a> {
    Sums(Shared<'a, i32>),
    Scaled(Shared<'a>, &'a [f32], Option<&'a [f32]>),
}

struct Product<'a> {
    matrix: &'a IntegerMatrix,
    x: Eight<'a>,
    x_zero: &'a [i32],
    zero: &'a [i32],
    out: To<'a>,
}

impl Product<'_> {
    fn run(&self, rows: Range<usize>, panels: Range<usize>) {
        let IntegerMatrix { kind, depth, .. } = *self.matrix;
        let (unit, width) = kind.tile();
        let pitch = depth.div_ceil(GROUP) * GROUP;
        let mut packed = vec![0u8; ROWS.min(rows.len()).next_multiple_of(unit) * pitch];
        let mut sums = [0i32; ROWS];
        let mut tile = [0i32; MAX_TILE];
        for begin in rows.clone().step_by(ROWS) {
            let end = rows.end.min(begin + ROWS);
            for (r, to) in (begin..end).zip(packed.chunks_exact_mut(pitch)) {
                sums[r - begin] = self.row(r, &mut to[..depth]);
            }
            for p in panels.clone() {
                let panel = &self.matrix.panels[p * pitch * width..][..pitch * width];
                for r in (begin..end).step_by(unit) {
                    let n = unit.min(end - r);
                    kind.multiply(
                        n,
                        &packed[(r - begin) * pitch..],
                        pitch,
                        panel,
                        pitch / GROUP,
                        &mut tile,
                    );
                    for k in 0..n {
                        let row = &mut tile[k * width..(k + 1) * width];
                        self.finish(r + k, p * width, sums[r + k - begin], row);
                    }
                }
            }
        }
    }

    /// Copies a row as unsigned numbers, and adds them up.
    fn row(&self, r: usize, to: &mut [u8]) -> i32 {
        let at = r * to.len();
        match self.x {
            Eight::U8(v) => to.copy_from_slice(&v[at..at + to.len()]),
            Eight::I8(v) => {
                for (to, x) in to.iter_mut().zip(&v[at..]) {
                    *to = x.cast_unsigned() ^ 0x80;
                }
            }
        }
        to.iter().map(|&x| i32::from(x)).fold(0, i32::wrapping_add)
    }

    /// Takes the zero points out of a row of a tile, and writes it.
    #[inline]
    fn finish(&self, r: usize, column: usize, row_sum: i32, tile: &mut [i32]) {
        let m = self.matrix;
        let width = tile.len().min(m.columns - column);
        let tile = &mut tile[..width];
        let left = self.x_zero[if self.x_zero.len() == 1 { 0 } else { r }];
        let left = left.wrapping_add(if matches!(self.x, Eight::I8(_)) { 128 } else { 0 });
        // What a column's own zero point is multiplied by.
        let factor = (m.depth as u32).cast_signed().wrapping_mul(left).wrapping_sub(row_sum);
        let sums = &m.sums[column..column + width];
        if let [one] = self.zero {
            let all = one.wrapping_sub(m.moved).wrapping_mul(factor);
            for (y, s) in tile.iter_mut().zip(sums) {
                *y = y.wrapping_sub(left.wrapping_mul(*s)).wrapping_add(all);
            }
        } else {
            for ((y, s), zero) in tile.iter_mut().zip(sums).zip(&self.zero[column..]) {
                let own = zero.wrapping_sub(m.moved).wrapping_mul(factor);
                *y = y.wrapping_sub(left.wrapping_mul(*s)).wrapping_add(own);
            }
        }
        let at = r * m.columns + column;
        match self.out {
            // SAFETY: no two tasks have a row and a panel in common, and this borrow ends here.
            To::Sums(out) => unsafe { out.part(at, width) }.copy_from_slice(tile),
            To::Scaled(out, scale, bias) => {
                // SAFETY: as above.
                let out = unsafe { out.part(at, width) };
                if let [one] = scale {
                    out.iter_mut().zip(&*tile).for_each(|(o, &y)| *o = y as f32 * one);
                } else {
                    for ((o, &y), s) in out.iter_mut().zip(&*tile).zip(&scale[column..]) {
                        *o = y as f32 * s;
                    }
                }
                if let Some(bias) = bias {
                    out.iter_mut().zip(&bias[column..]).for_each(|(o, b)| *o += b);
                }
            }
        }
    }
}

fn portable(rows: usize, a: &[u8], pitch: usize, panel: &[i8], groups: usize, tile: &mut [i32; MAX_TILE]) {
    const WIDTH: usize = 8;
    for r in 0..rows {
        let mut sums = [0i32; WIDTH];
        let row = a[r * pitch..][..groups * GROUP].as_chunks::<GROUP>().0;
        for (x, columns) in row.iter().zip(panel.as_chunks::<{ WIDTH * GROUP }>().0) {
            for (sum, b) in sums.iter_mut().zip(columns.as_chunks::<GROUP>().0) {
                let products = x.iter().zip(b).map(|(&a, &b)| i32::from(a) * i32::from(b));
                *sum = sum.wrapping_add(products.sum());
            }
        }
        tile[r * WIDTH..(r + 1) * WIDTH].copy_from_slice(&sums);
    }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::{
        __m128i, _mm_cvtepu8_epi16, _mm_cvtsi32_si128, _mm_loadu_si128, _mm256_add_epi32, _mm256_broadcastq_epi64,
        _mm256_cvtepi8_epi16, _mm256_hadd_epi32, _mm256_madd_epi16, _mm256_permute4x64_epi64, _mm256_setzero_si256,
        _mm256_storeu_si256, _mm512_dpbusd_epi32, _mm512_loadu_si512, _mm512_set1_epi32, _mm512_setzero_si512,
        _mm512_storeu_si512,
    };

    use super::{GROUP, MAX_TILE};

    /// # Safety
    /// The CPU has the instructions; 1 to 12 rows and the panel have as many groups.
    #[target_feature(enable = "avx512f,avx512vnni")]
    pub(super) unsafe fn vnni(
        rows: usize,
        a: *const u8,
        pitch: usize,
        b: *const i8,
        groups: usize,
        tile: &mut [i32; MAX_TILE],
    ) {
        macro_rules! by_rows {
            ($($n:literal)*) => {
                match rows {
                    // SAFETY: the caller's promises.
                    $($n => unsafe { vnni_rows::<$n>(a, pitch, b, groups, tile) },)*
                    _ => unreachable!("a tile has 1 to 12 rows"),
                }
            };
        }
        by_rows!(1 2 3 4 5 6 7 8 9 10 11 12);
    }

    #[target_feature(enable = "avx512f,avx512vnni")]
    unsafe fn vnni_rows<const R: usize>(
        a: *const u8,
        pitch: usize,
        b: *const i8,
        groups: usize,
        tile: &mut [i32; MAX_TILE],
    ) {
        let mut sums = [[_mm512_setzero_si512(); 2]; R];
        for g in 0..groups {
            // SAFETY: the caller vouches for the elements; the loads need no alignment.
            let (low, high) = unsafe {
                let b = b.add(g * 128);
                (_mm512_loadu_si512(b.cast()), _mm512_loadu_si512(b.add(64).cast()))
            };
            for (r, sums) in sums.iter_mut().enumerate() {
                // SAFETY: as above.
                let x = _mm512_set1_epi32(unsafe { a.add(r * pitch + g * GROUP).cast::<i32>().read_unaligned() });
                sums[0] = _mm512_dpbusd_epi32(sums[0], x, low);
                sums[1] = _mm512_dpbusd_epi32(sums[1], x, high);
            }
        }
        for (row, sums) in tile.as_chunks_mut::<32>().0.iter_mut().zip(sums) {
            // SAFETY: `row` is an array of two vectors' length; the stores need no alignment.
            unsafe {
                _mm512_storeu_si512(row.as_mut_ptr().cast(), sums[0]);
                _mm512_storeu_si512(row.as_mut_ptr().add(16).cast(), sums[1]);
            }
        }
    }

    /// # Safety
    /// The CPU has the instructions; 1 to 3 rows and the panel have as many groups.
    #[target_feature(enable = "avx2")]
    pub(super) unsafe fn avx2(
        rows: usize,
        a: *const u8,
        pitch: usize,
        b: *const i8,
        groups: usize,
        tile: &mut [i32; MAX_TILE],
    ) {
        // SAFETY: the caller's promises.
        unsafe {
            match rows {
                1 => avx2_rows::<1>(a, pitch, b, groups, tile),
                2 => avx2_rows::<2>(a, pitch, b, groups, tile),
                _ => avx2_rows::<3>(a, pitch, b, groups, tile),
            }
        }
    }

    #[target_feature(enable = "avx2")]
    unsafe fn avx2_rows<const R: usize>(
        a: *const u8,
        pitch: usize,
        b: *const i8,
        groups: usize,
        tile: &mut [i32; MAX_TILE],
    ) {
        // Each column has two sums, of two products each.
        let mut sums = [[_mm256_setzero_si256(); 4]; R];
        for g in 0..groups {
            let mut x = [_mm256_setzero_si256(); R];
            for (r, x) in x.iter_mut().enumerate() {
                // SAFETY: the caller vouches for the elements.
                let four = unsafe { a.add(r * pitch + g * GROUP).cast::<i32>().read_unaligned() };
                *x = _mm256_broadcastq_epi64(_mm_cvtepu8_epi16(_mm_cvtsi32_si128(four)));
            }
            for j in 0..4 {
                #[allow(clippy::cast_ptr_alignment, reason = "this load wants none")]
                // SAFETY: as above.
                let four = unsafe { _mm_loadu_si128(b.add(g * 64 + j * 16).cast::<__m128i>()) };
                let columns = _mm256_cvtepi8_epi16(four);
                for (sums, x) in sums.iter_mut().zip(&x) {
                    sums[j] = _mm256_add_epi32(sums[j], _mm256_madd_epi16(columns, *x));
                }
            }
        }
        for (row, sums) in tile.as_chunks_mut::<16>().0.iter_mut().zip(sums) {
            for half in 0..2 {
                let pairs = _mm256_hadd_epi32(sums[2 * half], sums[2 * half + 1]);
                let ordered = _mm256_permute4x64_epi64::<0b11_01_10_00>(pairs);
                // SAFETY: `row` is an array of two vectors' length; the store needs no alignment.
                unsafe { _mm256_storeu_si256(row.as_mut_ptr().add(8 * half).cast(), ordered) };
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{Eight, IntegerMatrix, IntegerOut, Kind};

    fn noise(n: usize, seed: u32) -> Vec<u8> {
        let mut state = seed | 1;
        let mut next = || {
            state = state.wrapping_mul(747_796_405).wrapping_add(2_891_336_453);
            // The ends of the range come often: it is there that narrow sums would saturate.
            match state >> 30 {
                0 => 0,
                1 => 255,
                _ => (state >> 16) as u8,
            }
        };
        (0..n).map(|_| next()).collect()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(120))]

        #[test]
        fn products_of_integers_are_exact_with_every_kind_of_instructions(
            (m, k, n) in (1..120usize, 1..300usize, 1..80usize),
            (left_signed, right_signed, transposed) in any::<(bool, bool, bool)>(),
            (by_row, by_column, biased) in any::<(bool, bool, bool)>(),
            seed in any::<u32>(),
        ) {
            let (a, b) = (noise(m * k, seed), noise(k * n, !seed));
            let signed = |v: &[u8]| v.iter().map(|x| x.cast_signed()).collect::<Vec<i8>>();
            let (sa, sb) = (signed(&a), signed(&b));
            let wide = |u: u8, s: bool| if s { i64::from(u.cast_signed()) } else { i64::from(u) };
            let zeros = |count: usize, seed: u32, s: bool| -> Vec<i32> {
                noise(count, seed).into_iter().map(|z| wide(z, s) as i32).collect()
            };
            let p = zeros(if by_row { m } else { 1 }, seed.rotate_left(3), left_signed);
            let q = zeros(if by_column { n } else { 1 }, seed.rotate_left(7), right_signed);
            let mut wanted = vec![0i64; m * n];
            for r in 0..m {
                for c in 0..n {
                    wanted[r * n + c] = (0..k).map(|i| {
                        let x = wide(a[r * k + i], left_signed) - i64::from(p[r % p.len()]);
                        let y = wide(b[if transposed { c * k + i } else { i * n + c }], right_signed) - i64::from(q[c % q.len()]);
                        x * y
                    }).sum();
                }
            }
            let x = if left_signed { Eight::I8(&sa) } else { Eight::U8(&a) };
            let y = if right_signed { Eight::I8(&sb) } else { Eight::U8(&b) };
            for kind in Kind::all() {
                let matrix = IntegerMatrix::at(kind, y, k, n, transposed).expect("it fits");
                let mut sums = vec![i32::MIN; m * n];
                matrix.run(x, &p, &q, IntegerOut::Sums(&mut sums));
                prop_assert!(sums.iter().zip(&wanted).all(|(f, w)| i64::from(*f) == *w), "{kind:?}");
                let scale: Vec<f32> = (0..if by_column { n } else { 1 }).map(|c| 0.01 + c as f32).collect();
                let bias: Option<Vec<f32>> = biased.then(|| (0..n).map(|c| c as f32 - 5.5).collect());
                let mut out = vec![f32::NAN; m * n];
                matrix.run(x, &p, &q, IntegerOut::Scaled { out: &mut out, scale: &scale, bias: bias.as_deref() });
                for (at, (f, w)) in out.iter().zip(&wanted).enumerate() {
                    let scaled = *w as f32 * scale[at % n % scale.len()];
                    prop_assert_eq!(*f, bias.as_ref().map_or(scaled, |b| scaled + b[at % n]));
                }
            }
        }
    }

    #[test]
    fn sizes_that_do_not_fit_are_refused() {
        assert!(IntegerMatrix::new(Eight::U8(&[1, 2, 3]), 2, 2, false).is_none());
        assert!(IntegerMatrix::new(Eight::I8(&[]), 0, 2, false).is_none());
    }
}
