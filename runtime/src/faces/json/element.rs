//! One JSON value to one element of a typed vector.
//!
//! The model's element type decides, not the way a number is written: `1`, `1.0` and `1e0` are all the integer 1, and what
//! does not fit without loss of meaning is refused (a fraction for an integer, a number out of range). Floating-point types
//! take any number in range, rounded, and `null` as NaN, which is how NaN is written in answers. Booleans take `0` and `1` too.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use half::{bf16, f16};
use pilotlight_engine::{Data, DataType};

/// A JSON value that can be an element.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Value<'v> {
    Null,
    Bool(bool),
    U64(u64),
    I64(i64),
    F64(f64),
    Str(&'v str),
    /// From `{"b64": "..."}`, decoded.
    Blob(&'v [u8]),
}

impl std::fmt::Display for Value<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Null => f.write_str("null"),
            Self::Bool(b) => b.fmt(f),
            Self::U64(n) => n.fmt(f),
            Self::I64(n) => n.fmt(f),
            Self::F64(x) => x.fmt(f),
            Self::Str(s) if s.chars().count() > 40 => write!(f, "{:?}...", s.chars().take(40).collect::<String>()),
            Self::Str(s) => write!(f, "{s:?}"),
            Self::Blob(b) => write!(f, "{} bytes of base64", b.len()),
        }
    }
}

/// An empty vector of the type.
pub(super) fn empty(datatype: DataType) -> Data {
    match datatype {
        DataType::Bool => Data::Bool(Vec::new()),
        DataType::U8 => Data::U8(Vec::new()),
        DataType::U16 => Data::U16(Vec::new()),
        DataType::U32 => Data::U32(Vec::new()),
        DataType::U64 => Data::U64(Vec::new()),
        DataType::I8 => Data::I8(Vec::new()),
        DataType::I16 => Data::I16(Vec::new()),
        DataType::I32 => Data::I32(Vec::new()),
        DataType::I64 => Data::I64(Vec::new()),
        DataType::F16 => Data::F16(Vec::new()),
        DataType::BF16 => Data::BF16(Vec::new()),
        DataType::F32 => Data::F32(Vec::new()),
        DataType::F64 => Data::F64(Vec::new()),
        DataType::Bytes => Data::Bytes(Vec::new()),
    }
}

/// Appends the value, converted.
///
/// # Errors
/// What was found and what the type takes.
pub(super) fn push(data: &mut Data, value: Value<'_>) -> Result<(), String> {
    match data {
        // The most common one first; the others are as quick, the order is for the reader.
        Data::F32(v) => v.push(float32(value)?),
        Data::F64(v) => v.push(number(value, "FP64")?),
        Data::F16(v) => v.push(half(value)?),
        Data::BF16(v) => v.push(bf16::from_f32(float32(value)?)),
        Data::U8(v) => v.push(integer(value, "UINT8")?),
        Data::U16(v) => v.push(integer(value, "UINT16")?),
        Data::U32(v) => v.push(integer(value, "UINT32")?),
        Data::U64(v) => v.push(integer(value, "UINT64")?),
        Data::I8(v) => v.push(integer(value, "INT8")?),
        Data::I16(v) => v.push(integer(value, "INT16")?),
        Data::I32(v) => v.push(integer(value, "INT32")?),
        Data::I64(v) => v.push(integer(value, "INT64")?),
        Data::Bool(v) => v.push(boolean(value)?),
        Data::Bytes(v) => v.push(blob(value)?),
    }
    Ok(())
}

fn number(value: Value<'_>, datatype: &str) -> Result<f64, String> {
    match value {
        Value::F64(x) => Ok(x),
        Value::U64(n) => Ok(n as f64),
        Value::I64(n) => Ok(n as f64),
        Value::Null => Ok(f64::NAN),
        other => Err(format!("expected a number for {datatype}, found {other}")),
    }
}

fn float32(value: Value<'_>) -> Result<f32, String> {
    let wide = number(value, "FP32")?;
    let narrow = wide as f32;
    if narrow.is_infinite() {
        return Err(format!("{value} is out of the range of FP32"));
    }
    Ok(narrow)
}

fn half(value: Value<'_>) -> Result<f16, String> {
    let narrow = f16::from_f64(number(value, "FP16")?);
    if narrow.is_infinite() {
        return Err(format!("{value} is out of the range of FP16"));
    }
    Ok(narrow)
}

fn integer<T: TryFrom<i128>>(value: Value<'_>, datatype: &str) -> Result<T, String> {
    let wide = match value {
        Value::U64(n) => i128::from(n),
        Value::I64(n) => i128::from(n),
        // Every integral double of this size converts exactly; larger ones are out of every range.
        Value::F64(x) if x.fract() == 0.0 && x.abs() < 2e19 => x as i128,
        Value::F64(x) if x.fract() == 0.0 => return Err(format!("{x} is out of the range of {datatype}")),
        other => return Err(format!("expected a whole number for {datatype}, found {other}")),
    };
    T::try_from(wide).map_err(|_| format!("{wide} is out of the range of {datatype}"))
}

fn boolean(value: Value<'_>) -> Result<bool, String> {
    match value {
        Value::Bool(b) => Ok(b),
        Value::U64(0) => Ok(false),
        Value::U64(1) => Ok(true),
        other => Err(format!("expected true or false for BOOL, found {other}")),
    }
}

fn blob(value: Value<'_>) -> Result<Bytes, String> {
    match value {
        Value::Str(s) => Ok(Bytes::copy_from_slice(s.as_bytes())),
        Value::Blob(b) => Ok(Bytes::copy_from_slice(b)),
        other => Err(format!(
            "expected a string or {{\"b64\": \"...\"}} for BYTES, found {other}"
        )),
    }
}

/// The bytes of `{"b64": text}`.
pub(crate) fn decode_base64(text: &str) -> Result<Vec<u8>, String> {
    STANDARD
        .decode(text)
        .map_err(|error| format!("b64 is not valid base64: {error}"))
}

pub(super) fn encode_base64(bytes: &[u8]) -> String {
    STANDARD.encode(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pushed(datatype: DataType, value: Value<'_>) -> Result<Data, String> {
        let mut data = empty(datatype);
        push(&mut data, value).map(|()| data)
    }

    #[test]
    fn integers_take_integral_floats_and_refuse_fractions_and_overflow() {
        assert_eq!(pushed(DataType::I64, Value::F64(3.0)), Ok(Data::I64(vec![3])));
        assert_eq!(
            pushed(DataType::U64, Value::U64(u64::MAX)),
            Ok(Data::U64(vec![u64::MAX]))
        );
        assert_eq!(pushed(DataType::I8, Value::I64(-128)), Ok(Data::I8(vec![-128])));
        assert_eq!(
            pushed(DataType::I8, Value::U64(128)).unwrap_err(),
            "128 is out of the range of INT8"
        );
        assert_eq!(
            pushed(DataType::U8, Value::I64(-1)).unwrap_err(),
            "-1 is out of the range of UINT8"
        );
        assert!(
            pushed(DataType::I32, Value::F64(1.5))
                .unwrap_err()
                .contains("whole number")
        );
        assert!(
            pushed(DataType::I64, Value::F64(1e300))
                .unwrap_err()
                .contains("out of the range")
        );
        assert!(
            pushed(DataType::I64, Value::Str("1"))
                .unwrap_err()
                .contains("found \"1\"")
        );
    }

    #[test]
    fn floats_take_any_number_in_range_and_null() {
        assert_eq!(pushed(DataType::F32, Value::I64(-2)), Ok(Data::F32(vec![-2.0])));
        assert!(pushed(DataType::F32, Value::F64(1e39)).unwrap_err().contains("FP32"));
        assert!(
            pushed(DataType::F16, Value::F64(70_000.0))
                .unwrap_err()
                .contains("FP16")
        );
        let Ok(Data::F64(nan)) = pushed(DataType::F64, Value::Null) else {
            panic!("null is NaN")
        };
        assert!(nan[0].is_nan());
    }

    #[test]
    fn bytes_take_strings_and_base64() {
        assert_eq!(
            pushed(DataType::Bytes, Value::Str("é")),
            Ok(Data::Bytes(vec![Bytes::from("é")]))
        );
        assert_eq!(decode_base64("aGk=").as_deref(), Ok(&b"hi"[..]));
        assert!(decode_base64("*").unwrap_err().contains("base64"));
        assert!(pushed(DataType::Bytes, Value::U64(1)).unwrap_err().contains("b64"));
    }
}
