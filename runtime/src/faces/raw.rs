//! Tensors as raw bytes: little-endian, row-major, no padding; each element of BYTES behind its length as 4 bytes.
//!
//! REST's binary tensors and gRPC's raw contents are both this.

use bytes::{Buf as _, Bytes};
use half::{bf16, f16};
use pilotlight_engine::{Data, DataType, Tensor, TensorInfo};

use super::json::check_shape;

/// BYTES elements that are at least this part of the body are slices of it; fewer are copied, so that a large body does not
/// outlive its use for the sake of a few bytes.
const SLICE_PART: usize = 2;

/// Bytes of one element; `None` for BYTES.
pub(crate) fn element_size(datatype: DataType) -> Option<usize> {
    match datatype {
        DataType::Bool | DataType::U8 | DataType::I8 => Some(1),
        DataType::U16 | DataType::I16 | DataType::F16 | DataType::BF16 => Some(2),
        DataType::U32 | DataType::I32 | DataType::F32 => Some(4),
        DataType::U64 | DataType::I64 | DataType::F64 => Some(8),
        DataType::Bytes => None,
    }
}

/// The input of this name and shape from its bytes, a part of a body of `whole` bytes.
///
/// # Errors
/// Name the input and what is wrong.
pub(crate) fn decode(info: &TensorInfo, shape: Vec<usize>, bytes: Bytes, whole: usize) -> Result<Tensor, String> {
    let name = &info.name;
    let count = count(info, &shape)?;
    check_shape(&shape, info)?;
    if let Some(size) = element_size(info.datatype) {
        let expected = count.checked_mul(size);
        if expected != Some(bytes.len()) {
            return Err(format!(
                "input {name:?}: {} bytes of binary data where shape {shape:?} of {} needs {}",
                bytes.len(),
                info.datatype,
                expected.map_or_else(|| "more than there can be".to_owned(), |n| n.to_string()),
            ));
        }
    }
    let slices = bytes.len() >= whole / SLICE_PART;
    let data = elements(info.datatype, count, bytes, slices).map_err(|reason| format!("input {name:?}: {reason}"))?;
    Tensor::new(shape, data).ok_or_else(|| format!("input {name:?}: the data does not fill the shape"))
}

/// The number of elements of a shape.
pub(crate) fn count(info: &TensorInfo, shape: &[usize]) -> Result<usize, String> {
    shape.iter().try_fold(1usize, |n, &d| n.checked_mul(d)).ok_or_else(|| {
        format!(
            "input {:?}: shape {shape:?} has more elements than there can be",
            info.name
        )
    })
}

fn elements(datatype: DataType, count: usize, mut bytes: Bytes, slices: bool) -> Result<Data, String> {
    macro_rules! numbers {
        ($variant:ident, $type:ty) => {{
            let (chunks, _) = bytes.as_chunks();
            Data::$variant(chunks.iter().map(|c| <$type>::from_le_bytes(*c)).collect())
        }};
    }
    Ok(match datatype {
        DataType::Bool => match bytes.iter().position(|&b| b > 1) {
            Some(at) => return Err(format!("element {at} is {}, not a BOOL of 0 or 1", bytes[at])),
            None => Data::Bool(bytes.iter().map(|&b| b == 1).collect()),
        },
        DataType::U8 => Data::U8(bytes.into()),
        DataType::U16 => numbers!(U16, u16),
        DataType::U32 => numbers!(U32, u32),
        DataType::U64 => numbers!(U64, u64),
        DataType::I8 => numbers!(I8, i8),
        DataType::I16 => numbers!(I16, i16),
        DataType::I32 => numbers!(I32, i32),
        DataType::I64 => numbers!(I64, i64),
        DataType::F16 => numbers!(F16, f16),
        DataType::BF16 => numbers!(BF16, bf16),
        DataType::F32 => numbers!(F32, f32),
        DataType::F64 => numbers!(F64, f64),
        DataType::Bytes => {
            // Every element takes 4 bytes at least, which bounds what a wrong shape can reserve.
            let mut items = Vec::with_capacity(count.min(bytes.len() / 4));
            for at in 0..count {
                let end = || format!("the binary data ends within element {at} of {count}");
                let len = bytes.try_get_u32_le().map_err(|_| end())? as usize;
                if len > bytes.len() {
                    return Err(end());
                }
                let item = bytes.split_to(len);
                items.push(if slices { item } else { Bytes::copy_from_slice(&item) });
            }
            if !bytes.is_empty() {
                return Err(format!(
                    "{} bytes of binary data behind element {count}, the last",
                    bytes.len()
                ));
            }
            Data::Bytes(items)
        }
    })
}

/// Appends the elements.
pub(crate) fn encode(data: &Data, out: &mut Vec<u8>) {
    out.reserve(encoded_len(data));
    macro_rules! numbers {
        ($items:expr) => {
            $items
                .iter()
                .for_each(|x| out.extend_from_slice(&x.to_le_bytes()))
        };
    }
    match data {
        Data::Bool(items) => out.extend(items.iter().map(|&b| u8::from(b))),
        Data::U8(items) => out.extend_from_slice(items),
        Data::U16(items) => numbers!(items),
        Data::U32(items) => numbers!(items),
        Data::U64(items) => numbers!(items),
        Data::I8(items) => numbers!(items),
        Data::I16(items) => numbers!(items),
        Data::I32(items) => numbers!(items),
        Data::I64(items) => numbers!(items),
        Data::F16(items) => numbers!(items),
        Data::BF16(items) => numbers!(items),
        Data::F32(items) => numbers!(items),
        Data::F64(items) => numbers!(items),
        Data::Bytes(items) => {
            for item in items {
                out.extend_from_slice(&(item.len() as u32).to_le_bytes());
                out.extend_from_slice(item);
            }
        }
    }
}

/// How many bytes `encode` appends.
pub(crate) fn encoded_len(data: &Data) -> usize {
    match data {
        Data::Bytes(items) => items.iter().map(|item| 4 + item.len()).sum(),
        data => data.len() * element_size(data.datatype()).unwrap_or(0),
    }
}

#[cfg(test)]
mod tests {
    use pilotlight_engine::Dim;
    use proptest::prelude::*;

    use super::*;
    use crate::testing::{info, n};

    fn data() -> impl Strategy<Value = Data> {
        use proptest::collection::vec;
        prop_oneof![
            vec(any::<bool>(), 0..9).prop_map(Data::Bool),
            vec(any::<u8>(), 0..9).prop_map(Data::U8),
            vec(any::<u16>(), 0..9).prop_map(Data::U16),
            vec(any::<u32>(), 0..9).prop_map(Data::U32),
            vec(any::<u64>(), 0..9).prop_map(Data::U64),
            vec(any::<i8>(), 0..9).prop_map(Data::I8),
            vec(any::<i16>(), 0..9).prop_map(Data::I16),
            vec(any::<i32>(), 0..9).prop_map(Data::I32),
            vec(any::<i64>(), 0..9).prop_map(Data::I64),
            vec((0u16..0x7c00).prop_map(f16::from_bits), 0..9).prop_map(Data::F16),
            vec((0u16..0x7f80).prop_map(bf16::from_bits), 0..9).prop_map(Data::BF16),
            vec(-1e30f32..1e30, 0..9).prop_map(Data::F32),
            vec(-1e300..1e300, 0..9).prop_map(Data::F64),
            vec(vec(any::<u8>(), 0..5).prop_map(Bytes::from), 0..9).prop_map(Data::Bytes),
        ]
    }

    proptest! {
        #[test]
        fn what_is_encoded_decodes_to_the_same(data in data(), slices in any::<bool>()) {
            let mut out = Vec::new();
            encode(&data, &mut out);
            prop_assert_eq!(out.len(), encoded_len(&data));
            let info = info("x", data.datatype(), vec![n()]);
            let whole = if slices { out.len() } else { out.len() * 3 };
            let back = decode(&info, vec![data.len()], out.into(), whole).unwrap();
            prop_assert_eq!(back.data(), &data);
        }

        #[test]
        fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..32), rows in 0usize..9) {
            for datatype in [DataType::Bytes, DataType::Bool, DataType::F32] {
                let _ = decode(&info("x", datatype, vec![n()]), vec![rows], bytes.clone().into(), 32);
            }
        }
    }

    #[test]
    fn numbers_are_little_endian() {
        let info = info("x", DataType::I32, vec![n(), Dim::Fixed(2)]);
        let bytes = Bytes::from_static(&[1, 0, 0, 0, 0xff, 0xff, 0xff, 0xff]);
        assert_eq!(
            decode(&info, vec![1, 2], bytes, 8).unwrap().data(),
            &Data::I32(vec![1, -1])
        );
    }

    #[test]
    fn faults_name_the_input_and_the_sizes() {
        let fault = |datatype, shape: &[usize], bytes: &'static [u8]| {
            decode(
                &info("x", datatype, vec![n()]),
                shape.to_vec(),
                Bytes::from_static(bytes),
                8,
            )
            .unwrap_err()
        };
        for (found, part) in [
            (
                fault(DataType::F32, &[2], &[0; 7]),
                "7 bytes of binary data where shape [2] of FP32 needs 8",
            ),
            (
                fault(DataType::F32, &[usize::MAX], &[0; 8]),
                "needs more than there can be",
            ),
            (fault(DataType::F32, &[1, 2], &[0; 8]), "shape [1, 2] does not fit [-1]"),
            (
                fault(DataType::F32, &[usize::MAX, 2], &[0; 8]),
                "more elements than there can be",
            ),
            (fault(DataType::Bool, &[2], &[1, 2]), "element 1 is 2, not a BOOL"),
            (
                fault(DataType::Bytes, &[1], &[2, 0, 0, 0, 1]),
                "ends within element 0 of 1",
            ),
            (
                fault(DataType::Bytes, &[2], &[0, 0, 0, 0, 1]),
                "ends within element 1 of 2",
            ),
            (
                fault(DataType::Bytes, &[1], &[0, 0, 0, 0, 1]),
                "1 bytes of binary data behind element 1",
            ),
            (fault(DataType::Bytes, &[usize::MAX], &[]), "ends within element 0"),
        ] {
            assert!(
                found.starts_with("input \"x\"") && found.contains(part),
                "{found} lacks {part}"
            );
        }
    }

    #[test]
    fn few_bytes_of_a_large_body_are_copied_out_of_it() {
        let info = info("x", DataType::Bytes, vec![n()]);
        let body = Bytes::from_static(&[1, 0, 0, 0, 7]);
        let slice = |whole| match decode(&info, vec![1], body.clone(), whole).unwrap().data() {
            Data::Bytes(items) => items[0].as_ptr() == body[4..].as_ptr(),
            _ => unreachable!("declared BYTES"),
        };
        assert!(slice(5) && !slice(100));
    }
}
