//! Element types of less than eight bits, and floats of eight: stored types that models keep weights in.
//!
//! No backend and no protocol computes with them. A tensor of such a type holds one element per byte, as its bits, with
//! the type beside it (`Tensor::small`); casts and quantisation read and write them, moves of elements carry them along,
//! every other operator refuses them.

use crate::fault::{OpResult, bail};

/// The types, named as ONNX names them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Small {
    /// 1 sign, 4 exponent, 3 mantissa bits; no infinities.
    Float8E4M3Fn,
    /// As `Float8E4M3Fn` with another bias, one zero and one NaN.
    Float8E4M3FnUz,
    /// 1 sign, 5 exponent, 2 mantissa bits; as IEEE has them.
    Float8E5M2,
    /// As `Float8E5M2` with another bias, one zero, one NaN and no infinities.
    Float8E5M2FnUz,
    /// 0 to 15.
    Uint4,
    /// -8 to 7.
    Int4,
    /// 1 sign, 2 exponent, 1 mantissa bit; neither infinities nor NaN.
    Float4E2M1,
    /// 8 exponent bits: powers of two, and NaN.
    Float8E8M0,
    /// 0 to 3.
    Uint2,
    /// -2 to 1.
    Int2,
}

/// How a number between two powers of two becomes one (`round_mode` of `Cast`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Rounding {
    #[default]
    Up,
    Down,
    Nearest,
}

/// What a float format consists of.
struct Format {
    mantissa: u32,
    bias: i32,
    /// The largest finite code without its sign.
    largest: u8,
    nan: Option<u8>,
    infinity: Option<u8>,
    sign: u8,
    /// There is no negative zero; its code is NaN.
    unsigned_zero: bool,
}

impl Small {
    /// The type with this number in ONNX's `TensorProto`.
    pub fn from_onnx(number: i32) -> Option<Self> {
        Some(match number {
            17 => Self::Float8E4M3Fn,
            18 => Self::Float8E4M3FnUz,
            19 => Self::Float8E5M2,
            20 => Self::Float8E5M2FnUz,
            21 => Self::Uint4,
            22 => Self::Int4,
            23 => Self::Float4E2M1,
            24 => Self::Float8E8M0,
            25 => Self::Uint2,
            26 => Self::Int2,
            _ => return None,
        })
    }

    /// ONNX's name.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Float8E4M3Fn => "FLOAT8E4M3FN",
            Self::Float8E4M3FnUz => "FLOAT8E4M3FNUZ",
            Self::Float8E5M2 => "FLOAT8E5M2",
            Self::Float8E5M2FnUz => "FLOAT8E5M2FNUZ",
            Self::Uint4 => "UINT4",
            Self::Int4 => "INT4",
            Self::Float4E2M1 => "FLOAT4E2M1",
            Self::Float8E8M0 => "FLOAT8E8M0",
            Self::Uint2 => "UINT2",
            Self::Int2 => "INT2",
        }
    }

    /// Bits of one element in a file.
    pub(crate) fn bits(self) -> usize {
        match self {
            Self::Uint4 | Self::Int4 | Self::Float4E2M1 => 4,
            Self::Uint2 | Self::Int2 => 2,
            _ => 8,
        }
    }

    /// Elements of a file's bytes, the first in the lowest bits of the first byte.
    pub(crate) fn unpack(self, raw: &[u8], count: usize) -> OpResult<Vec<u8>> {
        let (bits, per) = (self.bits(), 8 / self.bits());
        if raw.len() != count.div_ceil(per) {
            bail!("it has {} bytes for {count} elements of {bits} bits", raw.len());
        }
        let mask = u8::MAX >> (8 - bits);
        Ok((0..count).map(|k| raw[k / per] >> (k % per * bits) & mask).collect())
    }

    /// The lowest and the highest number of an integer type.
    pub(crate) fn range(self) -> Option<(i8, i8)> {
        match self {
            Self::Uint4 => Some((0, 15)),
            Self::Int4 => Some((-8, 7)),
            Self::Uint2 => Some((0, 3)),
            Self::Int2 => Some((-2, 1)),
            _ => None,
        }
    }

    fn format(self) -> Option<Format> {
        let format = |mantissa, bias, largest, nan, infinity| Format {
            mantissa,
            bias,
            largest,
            nan,
            infinity,
            sign: 0x80,
            unsigned_zero: nan == Some(0x80),
        };
        Some(match self {
            Self::Float8E4M3Fn => format(3, 7, 0x7e, Some(0x7f), None),
            Self::Float8E4M3FnUz => format(3, 8, 0x7f, Some(0x80), None),
            Self::Float8E5M2 => format(2, 15, 0x7b, Some(0x7e), Some(0x7c)),
            Self::Float8E5M2FnUz => format(2, 16, 0x7f, Some(0x80), None),
            Self::Float4E2M1 => Format {
                sign: 0x08,
                ..format(1, 1, 0x07, None, None)
            },
            _ => return None,
        })
    }

    /// The number that an element's bits mean.
    pub(crate) fn decode(self, bits: u8) -> f32 {
        match self {
            Self::Uint4 | Self::Uint2 => f32::from(bits),
            Self::Int4 => f32::from(((bits << 4) as i8) >> 4),
            Self::Int2 => f32::from(((bits << 6) as i8) >> 6),
            Self::Float8E8M0 if bits == 0xff => f32::NAN,
            Self::Float8E8M0 => (f64::from(bits) - 127.0).exp2() as f32,
            _ => self.format().map_or(f32::NAN, |f| f.decode(bits)),
        }
    }

    /// The bits of the nearest element. Integers lose their fraction and wrap around; floats past the largest become it
    /// where they `saturate`, infinity or NaN otherwise.
    pub(crate) fn encode(self, x: f32, saturate: bool, rounding: Rounding) -> u8 {
        match self {
            Self::Float8E8M0 => power_of_two(x, saturate, rounding),
            _ => match self.format() {
                Some(f) => f.encode(x, saturate),
                None => (x as i64) as u8 & (u8::MAX >> (8 - self.bits())),
            },
        }
    }

    /// As `encode`, of a number that is already whole, cut to the type's range.
    pub(crate) fn saturated(self, x: f64) -> u8 {
        match self.range() {
            Some((low, high)) => self.encode(x.clamp(f64::from(low), f64::from(high)) as f32, true, Rounding::Up),
            None => self.encode(x as f32, true, Rounding::Up),
        }
    }
}

impl Format {
    fn decode(&self, bits: u8) -> f32 {
        let (sign, code) = (if bits & self.sign == 0 { 1.0 } else { -1.0 }, bits & (self.sign - 1));
        if self.nan == Some(bits)
            || (self.nan.is_some() && !self.unsigned_zero && code > self.infinity.unwrap_or(self.largest))
        {
            return f32::NAN;
        }
        if self.infinity == Some(code) {
            return sign * f32::INFINITY;
        }
        sign * self.magnitude(code)
    }

    /// The number of a finite code without a sign.
    fn magnitude(&self, code: u8) -> f32 {
        let scale = 1 << self.mantissa;
        let (exponent, fraction) = (
            i32::from(code) >> self.mantissa,
            f32::from(code & (scale - 1)) / f32::from(scale),
        );
        if exponent == 0 {
            fraction * 2f32.powi(1 - self.bias)
        } else {
            (1.0 + fraction) * 2f32.powi(exponent - self.bias)
        }
    }

    fn encode(&self, x: f32, saturate: bool) -> u8 {
        let sign = if x.is_sign_negative() { self.sign } else { 0 };
        if x.is_nan() {
            // The type without a NaN has zero in its place.
            return self.nan.map_or(self.sign, |nan| nan);
        }
        let size = x.abs();
        // Codes grow with the numbers, so the first one that is too large ends the search.
        let above = (0..=self.largest).find(|&c| self.magnitude(c) >= size);
        let code = match above {
            Some(0) => 0,
            Some(c) => {
                let (low, high) = (f64::from(self.magnitude(c - 1)), f64::from(self.magnitude(c)));
                let middle = f64::midpoint(low, high);
                let down = f64::from(size) < middle || (f64::from(size) == middle && c % 2 == 1);
                if down { c - 1 } else { c }
            }
            None => {
                let step = self.magnitude(self.largest) - self.magnitude(self.largest - 1);
                let limit = self.magnitude(self.largest) + step / 2.0;
                // Just past the largest is nearer to it than to what would come next.
                let near = size < limit || (size == limit && self.largest.is_multiple_of(2));
                match (saturate || near, self.infinity, self.nan) {
                    (true, ..) | (_, None, None) => self.largest,
                    (_, Some(infinity), _) => infinity,
                    (_, None, Some(nan)) => return nan | if self.unsigned_zero { 0 } else { sign },
                }
            }
        };
        if code == 0 && self.unsigned_zero {
            0
        } else {
            code | sign
        }
    }
}

/// The exponent alone, of the number's size.
fn power_of_two(x: f32, saturate: bool, rounding: Rounding) -> u8 {
    let bits = x.to_bits();
    let exponent = (bits >> 23 & 0xff) as u8;
    if exponent == 0xff {
        return 0xff;
    }
    let fraction = bits & 0x7f_ffff;
    let up = match rounding {
        Rounding::Up => fraction > 0,
        Rounding::Down => false,
        Rounding::Nearest => fraction > 0x40_0000 || (fraction == 0x40_0000 && exponent > 0),
    };
    exponent + u8::from(up && !(saturate && exponent == 0xfe))
}

impl std::fmt::Display for Small {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: [Small; 10] = [
        Small::Float8E4M3Fn,
        Small::Float8E4M3FnUz,
        Small::Float8E5M2,
        Small::Float8E5M2FnUz,
        Small::Uint4,
        Small::Int4,
        Small::Float4E2M1,
        Small::Float8E8M0,
        Small::Uint2,
        Small::Int2,
    ];

    #[test]
    fn every_code_survives_the_way_to_a_float_and_back() {
        for small in ALL {
            for bits in 0..=u8::MAX >> (8 - small.bits()) {
                let x = small.decode(bits);
                let back = small.encode(x, true, Rounding::Nearest);
                // Saturation takes infinity's place; NaN has several codes.
                if x.is_nan() {
                    assert!(small.decode(back).is_nan(), "{small} {bits:#x}");
                } else if x.is_finite() {
                    assert_eq!(back, bits, "{small} {bits:#x} is {x}");
                }
            }
        }
    }

    #[test]
    fn the_largest_numbers_are_those_of_the_formats() {
        let largest = |s: Small| s.decode(s.encode(f32::MAX, true, Rounding::Down));
        assert_eq!(largest(Small::Float8E4M3Fn), 448.0);
        assert_eq!(largest(Small::Float8E4M3FnUz), 240.0);
        assert_eq!(largest(Small::Float8E5M2), 57344.0);
        assert_eq!(largest(Small::Float8E5M2FnUz), 57344.0);
        assert_eq!(largest(Small::Float4E2M1), 6.0);
        assert!(
            Small::Float8E5M2
                .decode(Small::Float8E5M2.encode(1e9, false, Rounding::Up))
                .is_infinite()
        );
        assert!(
            Small::Float8E4M3Fn
                .decode(Small::Float8E4M3Fn.encode(1e9, false, Rounding::Up))
                .is_nan()
        );
    }

    #[test]
    fn small_integers_lie_in_one_byte_from_the_lowest_bits_on() {
        assert_eq!(Small::Int4.unpack(&[0x21, 0x0f], 3).unwrap(), [1, 2, 15]);
        assert_eq!(Small::Int4.decode(15), -1.0);
        assert_eq!(Small::Uint2.unpack(&[0b1110_0100], 4).unwrap(), [0, 1, 2, 3]);
        assert!(Small::Int4.unpack(&[0], 3).is_err());
    }
}
