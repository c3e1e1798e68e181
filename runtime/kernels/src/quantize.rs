//! Numbers to integers of eight bits and their range.

use crate::simd::{Isa, Level, Work, dispatch};

/// Independent extremes, so that the loop becomes vector code.
const LANES: usize = 32;

/// The smallest and the largest number of all and 0; NaN counts for nothing.
pub fn range_with_zero(x: &[f32]) -> (f32, f32) {
    let mut found = (0.0, 0.0);
    dispatch(Level::detect(), Range { x, found: &mut found });
    found
}

struct Range<'a> {
    x: &'a [f32],
    found: &'a mut (f32, f32),
}

impl Work for Range<'_> {
    #[inline(always)]
    unsafe fn run<I: Isa>(self) {
        let mut lanes = [0.0f32; LANES];
        let mut tops = lanes;
        let (chunks, rest) = self.x.as_chunks::<LANES>();
        for chunk in chunks {
            for ((low, high), &x) in lanes.iter_mut().zip(&mut tops).zip(chunk) {
                *low = if x < *low { x } else { *low };
                *high = if x > *high { x } else { *high };
            }
        }
        let all = lanes.iter().chain(&tops).chain(rest);
        *self.found = all.fold((0.0, 0.0), |(low, high), &x| {
            (if x < low { x } else { low }, if x > high { x } else { high })
        });
    }
}

/// `x / scale` rounded to the nearest integer, ties to the even one, plus `zero`, kept within 0 to 255; NaN becomes 0.
///
/// # Panics
/// Where the lengths differ.
pub fn quantize_u8(x: &[f32], scale: f32, zero: f32, out: &mut [u8]) {
    assert_eq!(x.len(), out.len(), "output length");
    pieces(out, |at, out| {
        let x = &x[at..at + out.len()];
        dispatch(Level::detect(), Quantize { x, scale, zero, out });
    });
}

/// The same within -128 to 127.
///
/// # Panics
/// Where the lengths differ.
pub fn quantize_i8(x: &[f32], scale: f32, zero: f32, out: &mut [i8]) {
    assert_eq!(x.len(), out.len(), "output length");
    pieces(out, |at, out| {
        let x = &x[at..at + out.len()];
        dispatch(Level::detect(), Quantize { x, scale, zero, out });
    });
}

/// `(x - zero) · scale` of every number.
///
/// # Panics
/// Where the lengths differ.
pub fn dequantize<T: Copy + Sync + Into<i32>>(x: &[T], scale: f32, zero: i32, out: &mut [f32]) {
    assert_eq!(x.len(), out.len(), "output length");
    pieces(out, |at, out| {
        let x = &x[at..at + out.len()];
        dispatch(Level::detect(), Dequantize { x, scale, zero, out });
    });
}

fn pieces<T: Send>(out: &mut [T], f: impl Fn(usize, &mut [T]) + Sync) {
    /// What one task works on.
    const PIECE: usize = 1 << 16;
    let len = out.len();
    let shared = crate::shared::Shared::new(out);
    crate::crew::each(len.div_ceil(PIECE), 4 * len, |p| {
        let at = p * PIECE;
        // SAFETY: every piece has a part of its own.
        f(at, unsafe { shared.part(at, PIECE.min(len - at)) });
    });
}

/// An integer of eight bits.
trait Narrow: Copy {
    const LOW: f32;
    const HIGH: f32;
    fn of(x: f32) -> Self;
}

impl Narrow for u8 {
    const LOW: f32 = 0.0;
    const HIGH: f32 = 255.0;
    #[inline(always)]
    fn of(x: f32) -> Self {
        (x as i32).cast_unsigned() as u8
    }
}

impl Narrow for i8 {
    const LOW: f32 = -128.0;
    const HIGH: f32 = 127.0;
    #[inline(always)]
    fn of(x: f32) -> Self {
        x as i32 as i8
    }
}

struct Quantize<'a, T> {
    x: &'a [f32],
    scale: f32,
    zero: f32,
    out: &'a mut [T],
}

impl<T: Narrow> Work for Quantize<'_, T> {
    #[inline(always)]
    unsafe fn run<I: Isa>(self) {
        for (out, &x) in self.out.iter_mut().zip(self.x) {
            let y = (x / self.scale).round_ties_even() + self.zero;
            let y = if y > T::LOW { y } else { T::LOW };
            let y = if x.is_nan() { 0.0 } else { y };
            *out = T::of(if y < T::HIGH { y } else { T::HIGH });
        }
    }
}

struct Dequantize<'a, T> {
    x: &'a [T],
    scale: f32,
    zero: i32,
    out: &'a mut [f32],
}

impl<T: Copy + Into<i32>> Work for Dequantize<'_, T> {
    #[inline(always)]
    unsafe fn run<I: Isa>(self) {
        for (out, &x) in self.out.iter_mut().zip(self.x) {
            *out = (x.into() - self.zero) as f32 * self.scale;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{dequantize, quantize_i8, quantize_u8, range_with_zero};
    use crate::testing::noise;

    #[test]
    #[allow(
        clippy::cast_sign_loss,
        reason = "a cast keeps within the range, which is what is tested"
    )]
    fn numbers_become_integers_and_come_back_as_defined() {
        for n in [0, 1, 31, 1000, 200_000] {
            let mut x: Vec<f32> = noise(n, 5).iter().map(|v| 400.0 * v).collect();
            if n > 3 {
                (x[0], x[1], x[2]) = (f32::NAN, f32::INFINITY, f32::NEG_INFINITY);
            }
            let (scale, zero) = (1.5f32, 7.0f32);
            let value = |x: &f32| f64::from((x / scale).round_ties_even() + zero);
            let (mut a, mut b) = (vec![9u8; n], vec![9i8; n]);
            quantize_u8(&x, scale, zero, &mut a);
            quantize_i8(&x, scale, zero, &mut b);
            assert!(x.iter().zip(&a).all(|(x, y)| value(x) as u8 == *y), "{n}");
            assert!(x.iter().zip(&b).all(|(x, y)| value(x) as i8 == *y), "{n}");
            let mut back = vec![0.0; n];
            dequantize(&a, scale, 7, &mut back);
            assert!(a.iter().zip(&back).all(|(a, y)| (f32::from(*a) - 7.0) * scale == *y));
        }
    }

    #[test]
    fn the_range_holds_zero_and_no_nan() {
        assert_eq!(range_with_zero(&[]), (0.0, 0.0));
        assert_eq!(range_with_zero(&[3.0, f32::NAN, 5.0]), (0.0, 5.0));
        let mut x = noise(1000, 3);
        (x[40], x[999]) = (-8.0, 9.0);
        assert_eq!(range_with_zero(&x), (-8.0, 9.0));
    }
}
