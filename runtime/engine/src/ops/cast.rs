//! Changes of element type.

use bytes::Bytes;
use half::{bf16, f16};

use crate::device::DeviceOp;
use crate::fault::{OpResult, bail, ensure};
use crate::host::{self, Number, numbers};
use crate::kernel::{Inputs, Kernel, is_float, tensor};
use crate::registry::{Entry, entry};
use crate::small::Rounding;
use crate::spec::Spec;
use crate::{Data, DataType, Small, Tensor};

pub(crate) const TABLE: &[Entry] = &[
    entry("BitCast", 26, bit_cast),
    entry("Cast", 6, build),
    entry("CastLike", 15, like),
];

/// What a cast makes of a tensor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Target {
    Plain(DataType),
    Small(Small),
}

impl Target {
    /// The type with this number in ONNX's `TensorProto`.
    pub(crate) fn from_onnx(number: i64) -> OpResult<Self> {
        let number = i32::try_from(number).unwrap_or(-1);
        Ok(match Small::from_onnx(number) {
            Some(small) => Self::Small(small),
            None => Self::Plain(crate::decode::data_type(number)?),
        })
    }

    /// That of a tensor.
    pub(crate) fn of(t: &Tensor) -> Self {
        t.small().map_or(Self::Plain(t.datatype()), Self::Small)
    }
}

/// How values that do not fit become ones that do; of concern to the types in `Small` only.
fn manner(spec: &Spec<'_>) -> OpResult<(bool, Rounding)> {
    let rounding = match spec.string("round_mode", "up")? {
        "up" => Rounding::Up,
        "down" => Rounding::Down,
        "nearest" => Rounding::Nearest,
        other => bail!("round_mode {other:?}; up, down and nearest are known"),
    };
    Ok((spec.flag("saturate", true)?, rounding))
}

fn build(spec: &Spec<'_>) -> OpResult<Kernel> {
    spec.expect_inputs(1, 1)?;
    let manner = manner(spec)?;
    let Some(to) = spec.opt_int("to")? else {
        bail!("attribute \"to\" is missing")
    };
    let to = Target::from_onnx(to)?;
    let host = move |i: &Inputs<'_>| Ok(vec![cast_to(i.get(0)?, to, manner)?]);
    Ok(match to {
        Target::Plain(to) if is_float(to) => Kernel::dual_stored(DeviceOp::Cast(to), host),
        _ => Kernel::stored(host),
    })
}

fn like(spec: &Spec<'_>) -> OpResult<Kernel> {
    spec.expect_inputs(2, 2)?;
    let manner = manner(spec)?;
    Ok(Kernel::stored(move |i| {
        Ok(vec![cast_to(i.get(0)?, Target::of(i.get(1)?), manner)?])
    }))
}

/// The same bits as a type of the same size.
fn bit_cast(spec: &Spec<'_>) -> OpResult<Kernel> {
    spec.expect_inputs(1, 1)?;
    let Some(to) = spec.data_type("to")? else {
        bail!("attribute \"to\" is missing")
    };
    Ok(Kernel::host(move |i| {
        let x = i.get(0)?;
        let bytes = crate::decode::to_raw(x.data())?;
        let n = x.data().len();
        let data = crate::decode::from_raw(to, &bytes, n)?;
        Ok(vec![tensor(x.shape().to_vec(), data)?])
    }))
}

/// The same values as another type.
pub(crate) fn cast(t: &Tensor, to: DataType, saturate: bool) -> OpResult<Tensor> {
    cast_to(t, Target::Plain(to), (saturate, Rounding::Up))
}

/// The values of a tensor of numbers or truth values.
pub(crate) fn doubles(t: &Tensor) -> OpResult<Vec<f64>> {
    match cast(t, DataType::F64, true)?.into_parts().1 {
        Data::F64(v) => Ok(v),
        other => bail!("internal: a cast made {}", other.datatype()),
    }
}

/// The same values as any type.
pub(crate) fn cast_to(t: &Tensor, to: Target, (saturate, rounding): (bool, Rounding)) -> OpResult<Tensor> {
    if Target::of(t) == to {
        return Ok(t.clone());
    }
    let wide;
    let t = match (t.small(), t.data()) {
        (Some(small), Data::U8(bits)) => {
            let v = bits.iter().map(|&b| small.decode(b)).collect();
            wide = tensor(t.shape().to_vec(), Data::F32(v))?;
            &wide
        }
        _ => t,
    };
    match to {
        Target::Plain(to) => plain(t, to),
        Target::Small(small) => {
            let bits = doubles(t)?;
            let bits = bits
                .into_iter()
                .map(|x| small.encode(x as f32, saturate, rounding))
                .collect();
            Ok(tensor(t.shape().to_vec(), Data::U8(bits))?.marked(Some(small)))
        }
    }
}

fn plain(t: &Tensor, to: DataType) -> OpResult<Tensor> {
    let data = match t.data() {
        _ if t.datatype() == to => t.data().clone(),
        Data::Bool(v) if to == DataType::F32 => host::map(v, |b| f32::from(u8::from(b))),
        Data::Bool(v) => numbers_to(&v.iter().map(|&b| u8::from(b)).collect::<Vec<_>>(), to)?,
        Data::F16(v) => numbers_to(&v.iter().map(|x| x.to_f32()).collect::<Vec<_>>(), to)?,
        Data::BF16(v) => numbers_to(&v.iter().map(|x| x.to_f32()).collect::<Vec<_>>(), to)?,
        Data::Bytes(v) => from_text(v, to)?,
        data => numbers!(data, v => numbers_to(v, to)?),
    };
    tensor(t.shape().to_vec(), data)
}

fn numbers_to<T: Number + ToText>(v: &[T], to: DataType) -> OpResult<Data> {
    /// Floats are cut towards zero; integers keep their low bits.
    fn int<T: Number, U: Number>(v: &[T]) -> Data {
        host::map(v, |x| {
            if T::FLOAT {
                U::from_i64(float_to_i64(x.to_f64()))
            } else {
                U::from_i64(x.to_i64())
            }
        })
    }
    Ok(match to {
        DataType::Bool => host::map(v, |x| x.to_f64() != 0.0),
        DataType::U8 => int::<T, u8>(v),
        DataType::U16 => int::<T, u16>(v),
        DataType::U32 => int::<T, u32>(v),
        DataType::U64 if T::FLOAT => host::map(v, |x| x.to_f64() as u64),
        DataType::U64 => int::<T, u64>(v),
        DataType::I8 => int::<T, i8>(v),
        DataType::I16 => int::<T, i16>(v),
        DataType::I32 => int::<T, i32>(v),
        DataType::I64 => int::<T, i64>(v),
        DataType::F16 => host::map(v, |x| f16::from_f64(x.to_f64())),
        DataType::BF16 => host::map(v, |x| bf16::from_f32(x.to_f64() as f32)),
        DataType::F32 => host::map(v, |x| x.to_f64() as f32),
        DataType::F64 => host::map(v, Number::to_f64),
        DataType::Bytes => Data::Bytes(v.iter().map(|x| Bytes::from(x.to_text())).collect()),
    })
}

fn float_to_i64(x: f64) -> i64 {
    x as i64
}

/// A number as ONNX writes it in a string tensor.
trait ToText {
    fn to_text(&self) -> String;
}

macro_rules! text {
    ($($t:ty),*) => {
        $(impl ToText for $t {
            fn to_text(&self) -> String {
                self.to_string()
            }
        })*
    };
}
text!(u8, u16, u32, u64, i8, i16, i32, i64);

impl ToText for f32 {
    fn to_text(&self) -> String {
        float_text(self.to_string(), self.is_nan(), self.is_infinite())
    }
}

impl ToText for f64 {
    fn to_text(&self) -> String {
        float_text(self.to_string(), self.is_nan(), self.is_infinite())
    }
}

fn float_text(text: String, nan: bool, infinite: bool) -> String {
    match text.as_str() {
        _ if nan => "NaN".into(),
        "inf" if infinite => "INF".into(),
        "-inf" if infinite => "-INF".into(),
        _ => text,
    }
}

fn from_text(v: &[Bytes], to: DataType) -> OpResult<Data> {
    fn parse<T: std::str::FromStr>(v: &[Bytes]) -> OpResult<Vec<T>> {
        v.iter()
            .map(|b| match std::str::from_utf8(b).map(|s| s.trim().parse()) {
                Ok(Ok(x)) => Ok(x),
                _ => bail!("{:?} is no {}", String::from_utf8_lossy(b), std::any::type_name::<T>()),
            })
            .collect()
    }
    if matches!(to, DataType::F32 | DataType::F64 | DataType::F16 | DataType::BF16) {
        let wide = parse::<f64>(v)?;
        return numbers_to(&wide, to);
    }
    ensure!(!matches!(to, DataType::Bool), "strings can't become BOOL");
    numbers_to(&parse::<i64>(v)?, to)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cast_f32(v: &[f32], to: DataType) -> Data {
        cast(&Tensor::new(vec![v.len()], Data::F32(v.to_vec())).unwrap(), to, true)
            .unwrap()
            .into_parts()
            .1
    }

    #[test]
    fn floats_are_cut_towards_zero() {
        assert_eq!(cast_f32(&[1.9, -1.9], DataType::I64), Data::I64(vec![1, -1]));
        assert_eq!(cast_f32(&[0.0, -0.5], DataType::Bool), Data::Bool(vec![false, true]));
    }

    #[test]
    fn wide_integers_survive_exactly() {
        let t = Tensor::new(vec![1], Data::I64(vec![i64::MAX - 1])).unwrap();
        assert_eq!(
            cast(&t, DataType::U64, true).unwrap().data(),
            &Data::U64(vec![i64::MAX as u64 - 1])
        );
        assert_eq!(cast(&t, DataType::I8, true).unwrap().data(), &Data::I8(vec![-2]));
    }

    #[test]
    fn text_goes_both_ways() {
        let t = Tensor::new(vec![2], Data::Bytes(vec![Bytes::from("2.5"), Bytes::from("-1e2")])).unwrap();
        assert_eq!(
            cast(&t, DataType::F32, true).unwrap().data(),
            &Data::F32(vec![2.5, -100.0])
        );
        assert_eq!(
            cast_f32(&[f32::NAN, 1.0], DataType::Bytes),
            Data::Bytes(vec!["NaN".into(), "1".into()])
        );
    }
}
