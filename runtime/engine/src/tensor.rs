//! Tensors on the host, as they go into and come out of a model.

use bytes::Bytes;
use half::{bf16, f16};

use crate::small::Small;

/// Element types, named as the Open Inference Protocol names them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DataType {
    /// `BOOL`
    Bool,
    /// `UINT8`
    U8,
    /// `UINT16`
    U16,
    /// `UINT32`
    U32,
    /// `UINT64`
    U64,
    /// `INT8`
    I8,
    /// `INT16`
    I16,
    /// `INT32`
    I32,
    /// `INT64`
    I64,
    /// `FP16`
    F16,
    /// `BF16`
    BF16,
    /// `FP32`
    F32,
    /// `FP64`
    F64,
    /// `BYTES`: strings or opaque bytes of any length each.
    Bytes,
}

/// Elements in row-major order.
#[derive(Clone, Debug, PartialEq)]
pub enum Data {
    /// `BOOL`
    Bool(Vec<bool>),
    /// `UINT8`
    U8(Vec<u8>),
    /// `UINT16`
    U16(Vec<u16>),
    /// `UINT32`
    U32(Vec<u32>),
    /// `UINT64`
    U64(Vec<u64>),
    /// `INT8`
    I8(Vec<i8>),
    /// `INT16`
    I16(Vec<i16>),
    /// `INT32`
    I32(Vec<i32>),
    /// `INT64`
    I64(Vec<i64>),
    /// `FP16`
    F16(Vec<f16>),
    /// `BF16`
    BF16(Vec<bf16>),
    /// `FP32`
    F32(Vec<f32>),
    /// `FP64`
    F64(Vec<f64>),
    /// `BYTES`
    Bytes(Vec<Bytes>),
}

/// A tensor on the host. `data` always holds as many elements as `shape` says.
#[derive(Clone, Debug, PartialEq)]
pub struct Tensor {
    shape: Vec<usize>,
    data: Data,
    small: Option<Small>,
}

/// Applies `$body` to the vector inside any `Data` variant.
#[macro_export]
macro_rules! each_data {
    ($data:expr, $v:ident => $body:expr) => {
        match $data {
            $crate::Data::Bool($v) => $body,
            $crate::Data::U8($v) => $body,
            $crate::Data::U16($v) => $body,
            $crate::Data::U32($v) => $body,
            $crate::Data::U64($v) => $body,
            $crate::Data::I8($v) => $body,
            $crate::Data::I16($v) => $body,
            $crate::Data::I32($v) => $body,
            $crate::Data::I64($v) => $body,
            $crate::Data::F16($v) => $body,
            $crate::Data::BF16($v) => $body,
            $crate::Data::F32($v) => $body,
            $crate::Data::F64($v) => $body,
            $crate::Data::Bytes($v) => $body,
        }
    };
}

impl Data {
    /// `n` zeros (false, empty strings).
    pub fn zeros(datatype: DataType, n: usize) -> Self {
        match datatype {
            DataType::Bool => Self::Bool(vec![false; n]),
            DataType::U8 => Self::U8(vec![0; n]),
            DataType::U16 => Self::U16(vec![0; n]),
            DataType::U32 => Self::U32(vec![0; n]),
            DataType::U64 => Self::U64(vec![0; n]),
            DataType::I8 => Self::I8(vec![0; n]),
            DataType::I16 => Self::I16(vec![0; n]),
            DataType::I32 => Self::I32(vec![0; n]),
            DataType::I64 => Self::I64(vec![0; n]),
            DataType::F16 => Self::F16(vec![f16::ZERO; n]),
            DataType::BF16 => Self::BF16(vec![bf16::ZERO; n]),
            DataType::F32 => Self::F32(vec![0.0; n]),
            DataType::F64 => Self::F64(vec![0.0; n]),
            DataType::Bytes => Self::Bytes(vec![Bytes::new(); n]),
        }
    }

    /// Number of elements.
    pub fn len(&self) -> usize {
        each_data!(self, v => v.len())
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Their type.
    pub fn datatype(&self) -> DataType {
        match self {
            Self::Bool(_) => DataType::Bool,
            Self::U8(_) => DataType::U8,
            Self::U16(_) => DataType::U16,
            Self::U32(_) => DataType::U32,
            Self::U64(_) => DataType::U64,
            Self::I8(_) => DataType::I8,
            Self::I16(_) => DataType::I16,
            Self::I32(_) => DataType::I32,
            Self::I64(_) => DataType::I64,
            Self::F16(_) => DataType::F16,
            Self::BF16(_) => DataType::BF16,
            Self::F32(_) => DataType::F32,
            Self::F64(_) => DataType::F64,
            Self::Bytes(_) => DataType::Bytes,
        }
    }
}

impl Tensor {
    /// `None` where `data` does not hold exactly the product of `shape` (which must not overflow).
    pub fn new(shape: Vec<usize>, data: Data) -> Option<Self> {
        let count = shape.iter().try_fold(1usize, |n, &d| n.checked_mul(d))?;
        (count == data.len()).then_some(Self {
            shape,
            data,
            small: None,
        })
    }

    /// A tensor of a type that has no `DataType`: one element per byte, as its bits. `None` as for `new`.
    pub fn of_small(shape: Vec<usize>, small: Small, bits: Vec<u8>) -> Option<Self> {
        let mut tensor = Self::new(shape, Data::U8(bits))?;
        tensor.small = Some(small);
        Some(tensor)
    }

    /// The element type, where it is one that has no `DataType`; `data` then holds each element's bits in a byte.
    pub fn small(&self) -> Option<Small> {
        self.small
    }

    /// The same elements taken as another type of the same representation.
    pub(crate) fn marked(mut self, small: Option<Small>) -> Self {
        self.small = small;
        self
    }

    /// The dimensions; empty for a scalar.
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// The elements.
    pub fn data(&self) -> &Data {
        &self.data
    }

    /// Shape and elements.
    pub fn into_parts(self) -> (Vec<usize>, Data) {
        (self.shape, self.data)
    }

    /// The element type.
    pub fn datatype(&self) -> DataType {
        self.data.datatype()
    }
}

impl DataType {
    /// The Open Inference Protocol's name.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Bool => "BOOL",
            Self::U8 => "UINT8",
            Self::U16 => "UINT16",
            Self::U32 => "UINT32",
            Self::U64 => "UINT64",
            Self::I8 => "INT8",
            Self::I16 => "INT16",
            Self::I32 => "INT32",
            Self::I64 => "INT64",
            Self::F16 => "FP16",
            Self::BF16 => "BF16",
            Self::F32 => "FP32",
            Self::F64 => "FP64",
            Self::Bytes => "BYTES",
        }
    }
}

impl std::str::FromStr for DataType {
    type Err = ();

    fn from_str(name: &str) -> Result<Self, ()> {
        const ALL: [DataType; 14] = [
            DataType::Bool,
            DataType::U8,
            DataType::U16,
            DataType::U32,
            DataType::U64,
            DataType::I8,
            DataType::I16,
            DataType::I32,
            DataType::I64,
            DataType::F16,
            DataType::BF16,
            DataType::F32,
            DataType::F64,
            DataType::Bytes,
        ];
        ALL.into_iter()
            .find(|d| d.as_str().eq_ignore_ascii_case(name))
            .ok_or(())
    }
}

impl std::fmt::Display for DataType {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}
