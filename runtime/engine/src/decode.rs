//! Tensors of a model file as tensors on the host.

use bytes::Bytes;
use half::{bf16, f16};

use crate::fault::{OpResult, bail, ensure};
use crate::files::Files;
use crate::onnx::TensorProto;
use crate::shape;
use crate::{Data, DataType, Small, Tensor};

/// The engine's name for an ONNX element type.
pub(crate) fn data_type(onnx: i32) -> OpResult<DataType> {
    Ok(match onnx {
        1 => DataType::F32,
        2 => DataType::U8,
        3 => DataType::I8,
        4 => DataType::U16,
        5 => DataType::I16,
        6 => DataType::I32,
        7 => DataType::I64,
        8 => DataType::Bytes,
        9 => DataType::Bool,
        10 => DataType::F16,
        11 => DataType::F64,
        12 => DataType::U32,
        13 => DataType::U64,
        16 => DataType::BF16,
        other => bail!("element type {other} is not supported"),
    })
}

/// Reads a tensor that carries its data; the element count must be exactly what its dimensions say.
pub(crate) fn tensor(proto: &TensorProto) -> OpResult<Tensor> {
    tensor_in(proto, &Files::default())
}

/// Reads a tensor whose data may lie in another file.
pub(crate) fn tensor_in(proto: &TensorProto, files: &Files) -> OpResult<Tensor> {
    if proto.data_location.unwrap_or(0) != 0 || !proto.external_data.is_empty() {
        let inside = TensorProto {
            raw_data: Some(files.read(&proto.external_data)?),
            dims: proto.dims.clone(),
            data_type: proto.data_type,
            ..TensorProto::default()
        };
        return tensor_in(&inside, files);
    }
    let dims = shape::from_i64s(&proto.dims)?;
    shape::bounded(&dims)?;
    // No more than the data has, which is compared with it below.
    let Some(count) = (if dims.contains(&0) {
        Some(0)
    } else {
        dims.iter().try_fold(1usize, |n, &d| n.checked_mul(d))
    }) else {
        bail!("a tensor of shape {dims:?} is larger than any file")
    };
    if let Some(small) = Small::from_onnx(proto.data_type.unwrap_or(0)) {
        let bits = match &proto.raw_data {
            Some(raw) if !raw.is_empty() || count == 0 => small.unpack(raw, count)?,
            // Each field carries one byte, however many elements lie in it.
            _ => small.unpack(&proto.int32_data.iter().map(|&v| v as u8).collect::<Vec<_>>(), count)?,
        };
        return match Tensor::of_small(dims, small, bits) {
            Some(tensor) => Ok(tensor),
            None => bail!("it does not fit its dimensions {:?}", proto.dims),
        };
    }
    let data = match &proto.raw_data {
        // Writers leave an empty raw_data beside typed fields.
        Some(raw) if !raw.is_empty() || count == 0 => {
            let data = from_raw(data_type(proto.data_type.unwrap_or(0))?, raw, count)?;
            files.release(raw);
            data
        }
        _ => from_fields(proto)?,
    };
    let found = data.len();
    match Tensor::new(dims, data) {
        Some(tensor) => Ok(tensor),
        None => bail!("it has {found} elements for dimensions {:?}", proto.dims),
    }
}

/// Elements of little-endian bytes.
pub(crate) fn from_raw(datatype: DataType, raw: &[u8], count: usize) -> OpResult<Data> {
    fn chunks<const N: usize, T>(raw: &[u8], count: usize, read: fn([u8; N]) -> T) -> OpResult<Vec<T>> {
        ensure!(
            count.checked_mul(N) == Some(raw.len()),
            "it has {} bytes for {count} elements of {N}",
            raw.len()
        );
        Ok(raw.as_chunks::<N>().0.iter().map(|c| read(*c)).collect())
    }
    Ok(match datatype {
        DataType::Bool => Data::Bool(chunks(raw, count, |[b]| b != 0)?),
        DataType::U8 => Data::U8(chunks(raw, count, u8::from_le_bytes)?),
        DataType::U16 => Data::U16(chunks(raw, count, u16::from_le_bytes)?),
        DataType::U32 => Data::U32(chunks(raw, count, u32::from_le_bytes)?),
        DataType::U64 => Data::U64(chunks(raw, count, u64::from_le_bytes)?),
        DataType::I8 => Data::I8(chunks(raw, count, i8::from_le_bytes)?),
        DataType::I16 => Data::I16(chunks(raw, count, i16::from_le_bytes)?),
        DataType::I32 => Data::I32(chunks(raw, count, i32::from_le_bytes)?),
        DataType::I64 => Data::I64(chunks(raw, count, i64::from_le_bytes)?),
        DataType::F16 => Data::F16(chunks(raw, count, f16::from_le_bytes)?),
        DataType::BF16 => Data::BF16(chunks(raw, count, bf16::from_le_bytes)?),
        DataType::F32 => Data::F32(chunks(raw, count, f32::from_le_bytes)?),
        DataType::F64 => Data::F64(chunks(raw, count, f64::from_le_bytes)?),
        DataType::Bytes => bail!("strings can't be raw data"),
    })
}

/// The reverse of `from_raw`.
pub(crate) fn to_raw(data: &Data) -> OpResult<Vec<u8>> {
    Ok(match data {
        Data::Bool(v) => v.iter().map(|&b| u8::from(b)).collect(),
        Data::U8(v) => v.clone(),
        Data::U16(v) => v.iter().flat_map(|x| x.to_le_bytes()).collect(),
        Data::U32(v) => v.iter().flat_map(|x| x.to_le_bytes()).collect(),
        Data::U64(v) => v.iter().flat_map(|x| x.to_le_bytes()).collect(),
        Data::I8(v) => v.iter().flat_map(|x| x.to_le_bytes()).collect(),
        Data::I16(v) => v.iter().flat_map(|x| x.to_le_bytes()).collect(),
        Data::I32(v) => v.iter().flat_map(|x| x.to_le_bytes()).collect(),
        Data::I64(v) => v.iter().flat_map(|x| x.to_le_bytes()).collect(),
        Data::F16(v) => v.iter().flat_map(|x| x.to_le_bytes()).collect(),
        Data::BF16(v) => v.iter().flat_map(|x| x.to_le_bytes()).collect(),
        Data::F32(v) => v.iter().flat_map(|x| x.to_le_bytes()).collect(),
        Data::F64(v) => v.iter().flat_map(|x| x.to_le_bytes()).collect(),
        Data::Bytes(_) => bail!("strings have no bits"),
    })
}

/// Small types are stored in `int32_data`, one element each.
fn from_fields(proto: &TensorProto) -> OpResult<Data> {
    let ints = &proto.int32_data;
    Ok(match data_type(proto.data_type.unwrap_or(0))? {
        DataType::Bool => Data::Bool(ints.iter().map(|&v| v != 0).collect()),
        DataType::U8 => Data::U8(ints.iter().map(|&v| v as u8).collect()),
        DataType::U16 => Data::U16(ints.iter().map(|&v| v as u16).collect()),
        DataType::U32 => Data::U32(proto.uint64_data.iter().map(|&v| v as u32).collect()),
        DataType::U64 => Data::U64(proto.uint64_data.clone()),
        DataType::I8 => Data::I8(ints.iter().map(|&v| v as i8).collect()),
        DataType::I16 => Data::I16(ints.iter().map(|&v| v as i16).collect()),
        DataType::I32 => Data::I32(ints.clone()),
        DataType::I64 => Data::I64(proto.int64_data.clone()),
        DataType::F16 => Data::F16(ints.iter().map(|&v| f16::from_bits(v as u16)).collect()),
        DataType::BF16 => Data::BF16(ints.iter().map(|&v| bf16::from_bits(v as u16)).collect()),
        DataType::F32 => Data::F32(proto.float_data.clone()),
        DataType::F64 => Data::F64(proto.double_data.clone()),
        DataType::Bytes => Data::Bytes(proto.string_data.iter().map(own).collect()),
    })
}

/// A copy that does not keep the whole file alive.
fn own(bytes: &Bytes) -> Bytes {
    Bytes::copy_from_slice(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn proto(data_type: i32, dims: &[i64]) -> TensorProto {
        TensorProto {
            data_type: Some(data_type),
            dims: dims.to_vec(),
            ..TensorProto::default()
        }
    }

    #[test]
    fn raw_and_typed_fields_give_the_same_tensor() {
        let mut raw = proto(7, &[2]);
        raw.raw_data = Some([1i64, -2].iter().flat_map(|v| v.to_le_bytes()).collect());
        let mut typed = proto(7, &[2]);
        typed.int64_data = vec![1, -2];
        assert_eq!(tensor(&raw), tensor(&typed));
        assert_eq!(tensor(&raw).unwrap().data(), &Data::I64(vec![1, -2]));
    }

    #[test]
    fn half_floats_come_as_bits_in_int32_data() {
        let mut p = proto(10, &[]);
        p.int32_data = vec![0x3c00];
        assert_eq!(tensor(&p).unwrap().data(), &Data::F16(vec![f16::ONE]));
    }

    #[test]
    fn a_count_that_contradicts_the_dimensions_is_refused() {
        let mut p = proto(1, &[3]);
        p.float_data = vec![1.0; 2];
        assert!(tensor(&p).is_err());
        p.float_data.clear();
        p.raw_data = Some(Bytes::from_static(&[0; 11]));
        assert!(tensor(&p).is_err());
        assert!(tensor(&proto(1, &[i64::MAX, i64::MAX])).is_err());
        assert!(tensor(&proto(1, &[-1])).is_err());
        assert!(tensor(&proto(99, &[0])).is_err());
    }

    #[test]
    fn external_data_is_an_error_that_says_so() {
        let mut p = proto(1, &[1]);
        p.data_location = Some(1);
        assert!(tensor(&p).unwrap_err().0.contains("another file"));
    }
}
