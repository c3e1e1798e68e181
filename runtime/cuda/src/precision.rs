//! With how many bits a GPU computes.

use std::fmt;
use std::str::FromStr;

/// How a GPU computes what a model declares as FP32.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Precision {
    /// FP32 throughout, as on the CPU: no tensor cores.
    #[default]
    F32,
    /// Values are FP32; factors of products and convolutions are rounded to 11 bits on the tensor cores, sums are FP32. About
    /// three decimal digits.
    Tf32,
    /// Weights and values are IEEE half precision; sums in products are FP32. Past 65,504 it is infinity.
    F16,
    /// Weights and values are bfloat16, FP32's range with 8 bits of precision; sums in products are FP32.
    Bf16,
}

impl Precision {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::F32, Self::Tf32, Self::F16, Self::Bf16];

    /// Its name in flags and manifests.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::Tf32 => "tf32",
            Self::F16 => "f16",
            Self::Bf16 => "bf16",
        }
    }
}

impl fmt::Display for Precision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Precision {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let found = Self::ALL.into_iter().find(|p| p.as_str() == text);
        found.ok_or_else(|| "use f32, tf32, f16 or bf16".to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_is_read_back_and_others_are_refused() {
        for precision in Precision::ALL {
            assert_eq!(precision.to_string().parse(), Ok(precision));
        }
        let error = "fp16".parse::<Precision>().unwrap_err();
        assert!(error.contains("f16"), "{error}");
    }
}
