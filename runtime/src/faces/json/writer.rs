//! Tensors to JSON.
//!
//! Numbers are written in the shortest form that reads back as the same value of the tensor's own type; NaN and infinities,
//! which JSON has not, as `null`. BYTES that are UTF-8 are strings, others `{"b64": "..."}`.

use half::{bf16, f16};
use pilotlight_engine::{Data, Tensor, TensorInfo, each_data};
use serde::ser::{Serialize, SerializeMap, SerializeSeq, Serializer};

use super::element::encode_base64;

/// A part of a tensor as lists within lists, or as one value where nothing of the shape is left.
pub(crate) struct Nested<'a> {
    data: &'a Data,
    shape: &'a [usize],
    from: usize,
}

impl<'a> Nested<'a> {
    /// The whole tensor in its shape.
    pub(crate) fn of(tensor: &'a Tensor) -> Self {
        Self {
            data: tensor.data(),
            shape: tensor.shape(),
            from: 0,
        }
    }

    /// The elements in a flat list of `len`, which is all of them.
    pub(crate) fn flat(tensor: &'a Tensor, len: &'a [usize; 1]) -> Self {
        Self {
            data: tensor.data(),
            shape: len,
            from: 0,
        }
    }

    /// The first element alone; the tensor has one.
    pub(crate) fn first(tensor: &'a Tensor) -> Self {
        Self {
            data: tensor.data(),
            shape: &[],
            from: 0,
        }
    }

    /// Row `index` of the first dimension, which the tensor has.
    pub(crate) fn row(tensor: &'a Tensor, index: usize) -> Self {
        let shape = &tensor.shape()[1..];
        Self {
            data: tensor.data(),
            shape,
            from: index * shape.iter().product::<usize>(),
        }
    }
}

impl Serialize for Nested<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.shape {
            [] => each_data!(self.data, v => Scalar(&v[self.from]).serialize(serializer)),
            [len] => {
                each_data!(self.data, v => serializer.collect_seq(v[self.from..self.from + len].iter().map(Scalar)))
            }
            [len, rest @ ..] => {
                let width: usize = rest.iter().product();
                let mut list = serializer.serialize_seq(Some(*len))?;
                for i in 0..*len {
                    list.serialize_element(&Nested {
                        data: self.data,
                        shape: rest,
                        from: self.from + i * width,
                    })?;
                }
                list.end()
            }
        }
    }
}

struct Scalar<'a, T>(&'a T);

macro_rules! plain {
    ($($t:ty),*) => {
        $(impl Serialize for Scalar<'_, $t> {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                self.0.serialize(serializer)
            }
        })*
    };
}
plain!(bool, u8, u16, u32, u64, i8, i16, i32, i64, f32, f64);

impl Serialize for Scalar<'_, f16> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_f32(self.0.to_f32())
    }
}

impl Serialize for Scalar<'_, bf16> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_f32(self.0.to_f32())
    }
}

impl Serialize for Scalar<'_, bytes::Bytes> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if let Ok(text) = std::str::from_utf8(self.0) {
            return serializer.serialize_str(text);
        }
        let mut map = serializer.serialize_map(Some(1))?;
        map.serialize_entry("b64", &encode_base64(self.0))?;
        map.end()
    }
}

/// Whether every element can stand in JSON as text. The first one that can't is named by its index.
pub(crate) fn check_text(tensor: &Tensor) -> Result<(), usize> {
    let Data::Bytes(items) = tensor.data() else {
        return Ok(());
    };
    items
        .iter()
        .position(|item| std::str::from_utf8(item).is_err())
        .map_or(Ok(()), Err)
}

/// `[{"a": ..., "b": ...}, ...]`, one object a row. Every output has `rows` rows.
pub(crate) fn rows_of_objects<'a>(
    infos: &'a [TensorInfo],
    outputs: &'a [Tensor],
    rows: usize,
) -> impl Serialize + use<'a> {
    struct Row<'a>(&'a [TensorInfo], &'a [Tensor], usize);
    impl Serialize for Row<'_> {
        fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
            serializer.collect_map(
                self.0
                    .iter()
                    .zip(self.1)
                    .map(|(i, t)| (&i.name, Nested::row(t, self.2))),
            )
        }
    }
    struct Rows<'a>(&'a [TensorInfo], &'a [Tensor], usize);
    impl Serialize for Rows<'_> {
        fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
            serializer.collect_seq((0..self.2).map(|i| Row(self.0, self.1, i)))
        }
    }
    Rows(infos, outputs, rows)
}

/// `{"a": [...], "b": [...]}`.
pub(crate) fn columns<'a>(infos: &'a [TensorInfo], outputs: &'a [Tensor]) -> impl Serialize + use<'a> {
    struct Columns<'a>(&'a [TensorInfo], &'a [Tensor]);
    impl Serialize for Columns<'_> {
        fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
            serializer.collect_map(self.0.iter().zip(self.1).map(|(i, t)| (&i.name, Nested::of(t))))
        }
    }
    Columns(infos, outputs)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn json(shape: Vec<usize>, data: Data) -> String {
        serde_json::to_string(&Nested::of(&Tensor::new(shape, data).unwrap())).unwrap()
    }

    #[test]
    fn tensors_are_nested_by_their_shape() {
        assert_eq!(json(vec![], Data::I64(vec![7])), "7");
        assert_eq!(json(vec![2, 2], Data::I64(vec![1, 2, 3, 4])), "[[1,2],[3,4]]");
        assert_eq!(json(vec![2, 0], Data::I64(vec![])), "[[],[]]");
        assert_eq!(json(vec![1, 2, 1], Data::Bool(vec![true, false])), "[[[true],[false]]]");
    }

    #[test]
    fn numbers_are_the_shortest_that_read_back() {
        assert_eq!(
            json(vec![3], Data::F32(vec![0.1, 1.0, 16_777_216.0])),
            "[0.1,1.0,16777216.0]"
        );
        assert_eq!(json(vec![1], Data::F64(vec![0.1])), "[0.1]");
        assert_eq!(json(vec![2], Data::F32(vec![f32::NAN, f32::INFINITY])), "[null,null]");
        assert_eq!(json(vec![1], Data::F16(vec![f16::from_f32(0.5)])), "[0.5]");
    }

    #[test]
    fn bytes_are_text_or_base64() {
        let data = Data::Bytes(vec!["é".into(), bytes::Bytes::from_static(&[0xff])]);
        assert_eq!(json(vec![2], data), r#"["é",{"b64":"/w=="}]"#);
    }
}
