//! Lists of numbers, read straight into one vector of the model's type.
//!
//! This is the fast way for large tensors; serde's visitors are the other one. It knows lists and numbers alone and gives up on
//! everything else, faults included: the caller then reads the whole body the other way, which has the words for what is wrong.

use half::{bf16, f16};
use pilotlight_engine::Data;

use super::collector::MAX_RANK;
use super::holes::count;

/// What is known of the lists' shape, as in the collector.
pub(super) struct Shape<'s> {
    pub(super) dims: &'s mut Vec<Option<usize>>,
    pub(super) leaf: &'s mut Option<usize>,
}

/// Reads a list, at this depth of the tensor, that is the whole of `text`. `None`: it is not one of numbers that the type takes,
/// in one shape; the data is then of no use any more.
pub(super) fn list(text: &[u8], depth: usize, shape: &mut Shape<'_>, data: &mut Data) -> Option<()> {
    match data {
        Data::F32(out) => read(text, depth, shape, out),
        Data::F64(out) => read(text, depth, shape, out),
        Data::F16(out) => read(text, depth, shape, out),
        Data::BF16(out) => read(text, depth, shape, out),
        Data::U8(out) => read(text, depth, shape, out),
        Data::U16(out) => read(text, depth, shape, out),
        Data::U32(out) => read(text, depth, shape, out),
        Data::U64(out) => read(text, depth, shape, out),
        Data::I8(out) => read(text, depth, shape, out),
        Data::I16(out) => read(text, depth, shape, out),
        Data::I32(out) => read(text, depth, shape, out),
        Data::I64(out) => read(text, depth, shape, out),
        Data::Bool(_) | Data::Bytes(_) => None,
    }
}

fn read<T: Element>(text: &[u8], depth: usize, shape: &mut Shape<'_>, out: &mut Vec<T>) -> Option<()> {
    // One number more than commas, were the list flat; nested ones have about as many.
    out.reserve(count(text, b',') + 1);
    let mut text = Text { bytes: text, at: 0 };
    let mut lens = [0usize; MAX_RANK + 1];
    let mut level = depth;
    loop {
        let mut filled = true;
        match text.skip()? {
            b'[' => {
                if shape.leaf.is_some_and(|leaf| level >= leaf) || level >= MAX_RANK {
                    return None;
                }
                if shape.dims.len() <= level {
                    shape.dims.resize(level + 1, None);
                }
                lens[level] = 0;
                level += 1;
                text.at += 1;
                if text.skip()? != b']' {
                    continue;
                }
                filled = false;
            }
            b'-' | b'0'..=b'9' if level > depth => {
                if *shape.leaf.get_or_insert(level) != level || shape.dims.len() > level {
                    return None;
                }
                // The last of them is counted below, like a list.
                lens[level - 1] += numbers(&mut text, out)? - 1;
            }
            _ => return None,
        }
        loop {
            lens[level - 1] += usize::from(std::mem::replace(&mut filled, true));
            match text.skip()? {
                b',' => {
                    text.at += 1;
                    break;
                }
                b']' => {
                    text.at += 1;
                    level -= 1;
                    if *shape.dims[level].get_or_insert(lens[level]) != lens[level] {
                        return None;
                    }
                    if level == depth {
                        return text.skip().is_none().then_some(());
                    }
                }
                _ => return None,
            }
        }
    }
}

/// Numbers and the commas between them; at least one. Stops behind the last number of the list.
fn numbers<T: Element>(text: &mut Text<'_>, out: &mut Vec<T>) -> Option<usize> {
    let before = out.len();
    loop {
        out.push(T::of(&text.number()?)?);
        match text.skip()? {
            b',' => {
                text.at += 1;
                if !matches!(text.skip()?, b'-' | b'0'..=b'9') {
                    return None;
                }
            }
            _ => return Some(out.len() - before),
        }
    }
}

struct Text<'t> {
    bytes: &'t [u8],
    at: usize,
}

/// A number as it is written: `mantissa * 10^exponent`.
struct Number<'t> {
    negative: bool,
    /// Right only where there are at most 19 digits.
    mantissa: u64,
    digits: usize,
    exponent: i32,
    /// Written with neither point nor exponent.
    whole: bool,
    text: &'t [u8],
}

impl<'t> Text<'t> {
    /// The next byte that is no white space.
    fn skip(&mut self) -> Option<u8> {
        loop {
            match *self.bytes.get(self.at)? {
                b' ' | b'\n' | b'\r' | b'\t' => self.at += 1,
                byte => return Some(byte),
            }
        }
    }

    fn peek(&self) -> u8 {
        self.bytes.get(self.at).copied().unwrap_or(0)
    }

    /// Appends digits to the mantissa and gives their number.
    fn digits(&mut self, mantissa: &mut u64) -> usize {
        let start = self.at;
        while let Some(eight) = self.bytes.get(self.at..).and_then(eight_digits) {
            *mantissa = mantissa.wrapping_mul(100_000_000).wrapping_add(eight);
            self.at += 8;
        }
        while let digit @ 0..=9 = self.peek().wrapping_sub(b'0') {
            *mantissa = mantissa.wrapping_mul(10).wrapping_add(u64::from(digit));
            self.at += 1;
        }
        self.at - start
    }

    /// By JSON's grammar.
    fn number(&mut self) -> Option<Number<'t>> {
        let start = self.at;
        let negative = self.peek() == b'-';
        self.at += usize::from(negative);
        let zero = self.peek() == b'0';
        let mut mantissa = 0;
        let mut digits = self.digits(&mut mantissa);
        if digits == 0 || (zero && digits > 1) {
            return None;
        }
        let mut exponent = 0;
        let mut whole = true;
        if self.peek() == b'.' {
            self.at += 1;
            let fraction = self.digits(&mut mantissa);
            if fraction == 0 {
                return None;
            }
            digits += fraction;
            exponent = -i32::try_from(fraction).ok()?;
            whole = false;
        }
        if matches!(self.peek(), b'e' | b'E') {
            self.at += 1;
            let minus = self.peek() == b'-';
            self.at += usize::from(matches!(self.peek(), b'-' | b'+'));
            let mut power = 0;
            // More digits than these are far out of every range.
            if !(1..=4).contains(&self.digits(&mut power)) {
                return None;
            }
            exponent += if minus { -(power as i32) } else { power as i32 };
            whole = false;
        }
        Some(Number {
            negative,
            mantissa,
            digits,
            exponent,
            whole,
            text: &self.bytes[start..self.at],
        })
    }
}

/// The number that the first eight bytes write, if all are digits. All at once: neighbours are joined to pairs, pairs to fours,
/// fours to eight (Lemire's way, in `fast_float`).
fn eight_digits(bytes: &[u8]) -> Option<u64> {
    const HIGH: u64 = 0xf0f0_f0f0_f0f0_f0f0;
    const PAIRS: u64 = 0x0000_00ff_0000_00ff;
    let chunk = u64::from_le_bytes(*bytes.first_chunk()?);
    // A digit has 3 in its upper half, and keeps it when 6 is added, as only 0 to 9 do.
    let sixes = chunk.wrapping_add(0x0606_0606_0606_0606);
    if (chunk & HIGH) | ((sixes & HIGH) >> 4) != 0x3333_3333_3333_3333 {
        return None;
    }
    let digits = chunk & !HIGH;
    let pairs = digits.wrapping_mul(10).wrapping_add(digits >> 8);
    let low = (pairs & PAIRS).wrapping_mul(100 + (1_000_000 << 32));
    let high = ((pairs >> 16) & PAIRS).wrapping_mul(1 + (10_000 << 32));
    Some(low.wrapping_add(high) >> 32)
}

/// Powers of ten that a double holds exactly.
const POWERS: [f64; 23] = [
    1e0, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9, 1e10, 1e11, 1e12, 1e13, 1e14, 1e15, 1e16, 1e17, 1e18, 1e19, 1e20,
    1e21, 1e22,
];

impl Number<'_> {
    /// The nearest double. Where mantissa and power are exact, one operation rounds once and right (Clinger's fast path).
    fn double(&self) -> Option<f64> {
        let power = POWERS.get(self.exponent.unsigned_abs() as usize);
        if let Some(power) = power
            && self.digits <= 19
            && self.mantissa <= 1 << 53
        {
            let mantissa = self.mantissa as f64;
            let value = if self.exponent < 0 {
                mantissa / power
            } else {
                mantissa * power
            };
            return Some(if self.negative { -value } else { value });
        }
        std::str::from_utf8(self.text).ok()?.parse().ok()
    }

    /// A double beside the nearest at most, which is near enough for what is rounded to fewer digits anyway.
    fn near(&self) -> Option<f64> {
        match POWERS.get(self.exponent.unsigned_abs() as usize) {
            Some(power) if self.digits <= 19 => {
                let mantissa = self.mantissa as f64;
                let value = if self.exponent < 0 {
                    mantissa / power
                } else {
                    mantissa * power
                };
                Some(if self.negative { -value } else { value })
            }
            _ => self.double(),
        }
    }

    fn integer<T: TryFrom<i128>>(&self) -> Option<T> {
        if !self.whole || self.digits > 19 {
            return None;
        }
        let value = i128::from(self.mantissa);
        T::try_from(if self.negative { -value } else { value }).ok()
    }
}

/// A type of elements. `None`: the number is not one of its values; the other way says so or knows how.
trait Element: Sized {
    fn of(number: &Number<'_>) -> Option<Self>;
}

macro_rules! integers {
    ($($type:ty),*) => {
        $(impl Element for $type {
            #[inline]
            fn of(number: &Number<'_>) -> Option<Self> {
                number.integer()
            }
        })*
    };
}
integers!(u8, u16, u32, u64, i8, i16, i32, i64);

impl Element for f64 {
    #[inline]
    fn of(number: &Number<'_>) -> Option<Self> {
        number.double().filter(|value| value.is_finite())
    }
}

impl Element for f32 {
    #[inline]
    fn of(number: &Number<'_>) -> Option<Self> {
        Some(number.near()? as Self).filter(|value| value.is_finite())
    }
}

impl Element for f16 {
    fn of(number: &Number<'_>) -> Option<Self> {
        Some(Self::from_f64(number.near()?)).filter(|value| value.is_finite())
    }
}

impl Element for bf16 {
    fn of(number: &Number<'_>) -> Option<Self> {
        Some(Self::from_f32(f32::of(number)?)).filter(|value| value.is_finite())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn scanned(text: &str, mut data: Data) -> Option<Data> {
        let (mut dims, mut leaf) = (Vec::new(), None);
        let mut shape = Shape {
            dims: &mut dims,
            leaf: &mut leaf,
        };
        list(text.as_bytes(), 0, &mut shape, &mut data).map(|()| data)
    }

    proptest! {
        #[test]
        fn doubles_are_the_nearest(values in prop::collection::vec(any::<f64>().prop_filter("finite", |x| x.is_finite()), 1..9)) {
            let text: Vec<String> = values.iter().map(|x| format!("{x:e}")).collect();
            let read = scanned(&format!("[{}]", text.join(",")), Data::F64(Vec::new()));
            prop_assert_eq!(read, Some(Data::F64(values)));
        }

        #[test]
        fn integers_are_exact(values in prop::collection::vec(any::<i64>(), 1..9)) {
            let text: Vec<String> = values.iter().map(ToString::to_string).collect();
            let read = scanned(&format!("[ {} ]", text.join(" , ")), Data::I64(Vec::new()));
            prop_assert_eq!(read, Some(Data::I64(values)));
        }
    }

    #[test]
    fn eight_digits_are_eight_digits() {
        assert_eq!(eight_digits(b"12345678,"), Some(12_345_678));
        assert_eq!(eight_digits(b"00000009"), Some(9));
        for wrong in [&b"1234567"[..], b"1234567.", b"1234567:", b"1234567/", b"-1234567"] {
            assert_eq!(eight_digits(wrong), None);
        }
    }
}
