//! Nested JSON lists to one tensor.

use std::borrow::Cow;

use pilotlight_engine::{Data, DataType, Dim, Tensor, TensorInfo};
use serde::de::{DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor};

use super::element::{Value, decode_base64, empty, push};
use super::holes::Holes;
use super::scan;

/// Deeper lists are refused. ONNX has no bound, but no model comes near.
pub(super) const MAX_RANK: usize = 16;

/// Deepest nesting of data whose shape is given apart, which is Triton's bound.
const MAX_NESTING: usize = 100;

/// How a place in the tensor is called towards the client.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Label {
    /// `instances[0]`, the model having one input.
    Row(&'static str),
    /// `instances[0].name`.
    NamedRow(&'static str),
    /// `key`, itself the only row.
    OnlyRow(&'static str),
    /// `inputs.name[0]`.
    Column,
    /// `input "name" data[0]`.
    Data,
}

/// Gathers the elements of one input while the body is read.
#[derive(Debug)]
pub(crate) struct Collector<'a> {
    info: &'a TensorInfo,
    label: Label,
    holes: Holes<'a>,
    data: Data,
    /// Length of the lists at each depth, known when the first one has ended.
    dims: Vec<Option<usize>>,
    /// The depth at which elements stand, known with the first one.
    leaf: Option<usize>,
    /// Where the reader is: the index at each depth.
    path: Vec<usize>,
}

impl<'a> Collector<'a> {
    /// For an input of this type. `info` also gives the shape to fit.
    pub(crate) fn new(info: &'a TensorInfo, label: Label) -> Self {
        Self::over(info, label, Holes::default())
    }

    /// `new`, with the lists that were cut out of the body.
    pub(crate) fn over(info: &'a TensorInfo, label: Label, holes: Holes<'a>) -> Self {
        Self {
            info,
            label,
            holes,
            data: empty(info.datatype),
            dims: Vec::new(),
            leaf: None,
            path: Vec::new(),
        }
    }

    pub(crate) fn info(&self) -> &'a TensorInfo {
        self.info
    }

    /// Reads the list, at this depth, that the text marks. `None`: it marks none. The error says nothing; see [`super::holes`].
    pub(crate) fn hole(&mut self, depth: usize, text: &str) -> Option<Result<(), String>> {
        let list = self.holes.list(text)?;
        let mut shape = scan::Shape {
            dims: &mut self.dims,
            leaf: &mut self.leaf,
        };
        let read = scan::list(list, depth, &mut shape, &mut self.data).filter(|()| !self.data.is_empty());
        Some(read.ok_or_else(|| "a list of numbers that has to be read the slow way".to_owned()))
    }

    /// An empty one for the same input.
    pub(crate) fn anew(&self, label: Label) -> Self {
        Self::over(self.info, label, self.holes)
    }

    /// Row `index` comes next; what follows is read at depth 1.
    pub(crate) fn begin_row(&mut self, index: usize) {
        self.enter(0, index);
    }

    /// There were this many rows.
    pub(crate) fn end_rows(&mut self, rows: usize) {
        self.dims.resize(self.dims.len().max(1), None);
        self.dims[0] = Some(rows);
    }

    /// One element that the caller has read itself, at this depth.
    pub(crate) fn element(&mut self, depth: usize, value: Value<'_>) -> Result<(), String> {
        self.path.truncate(depth);
        if *self.leaf.get_or_insert(depth) != depth || self.dims.len() > depth {
            return Err(self.fault(
                depth,
                &format!("expected a list as in the places before, found {value}"),
            ));
        }
        push(&mut self.data, value).map_err(|reason| self.fault(depth, &reason))
    }

    fn enter(&mut self, depth: usize, index: usize) {
        self.path.truncate(depth);
        self.path.push(index);
    }

    fn begin_list(&mut self, depth: usize) -> Result<(), String> {
        if self.leaf.is_some_and(|leaf| depth >= leaf) {
            return Err(self.fault(depth, "expected a single value as in the places before, found a list"));
        }
        if depth >= MAX_NESTING {
            return Err(self.fault(depth, &format!("lists within lists may be {MAX_NESTING} deep")));
        }
        if self.dims.len() <= depth {
            self.dims.resize(depth + 1, None);
        }
        Ok(())
    }

    fn end_list(&mut self, depth: usize, len: usize) -> Result<(), String> {
        match self.dims[depth] {
            None => self.dims[depth] = Some(len),
            Some(known) if known == len => {}
            Some(known) => {
                let reason =
                    format!("a list of {len} where the ones before have {known}; all must have the same length");
                return Err(self.fault(depth, &reason));
            }
        }
        Ok(())
    }

    /// `reason` with the place in front.
    fn fault(&self, depth: usize, reason: &str) -> String {
        let path = &self.path[..depth.min(self.path.len())];
        let name = &self.info.name;
        let (mut place, rest) = match (self.label, path) {
            (Label::Row(key), rest) | (Label::OnlyRow(key), [_, rest @ ..]) => (key.to_owned(), rest),
            (Label::OnlyRow(key), []) => (key.to_owned(), path),
            (Label::NamedRow(key), [row, rest @ ..]) => (format!("{key}[{row}].{name}"), rest),
            (Label::NamedRow(key), []) => (format!("{key}[].{name}"), path),
            (Label::Column, rest) => (format!("inputs.{name}"), rest),
            (Label::Data, rest) => (format!("input {name:?} data"), rest),
        };
        for index in rest {
            place.push('[');
            place.push_str(&index.to_string());
            place.push(']');
        }
        format!("{place}: {reason}")
    }

    /// The tensor in the shape in which it was written, which must fit the declared one. Trailing dimensions of 1 may be left
    /// out, and a row may be flat where the declared shape says how to fold it.
    pub(crate) fn finish(self) -> Result<Tensor, String> {
        let shape: Vec<usize> = self.dims.iter().map(|d| d.unwrap_or(0)).collect();
        if shape.len() > MAX_RANK {
            return Err(self.fault(0, &format!("lists within lists may be {MAX_RANK} deep")));
        }
        let shape = fit(shape, self.info)?;
        self.build(shape)
    }

    /// The tensor in a shape that was given apart from the data, which may be nested that way, with more or fewer lists of one
    /// around it as Triton takes it, or flat.
    pub(crate) fn finish_as(self, shape: Vec<usize>) -> Result<Tensor, String> {
        let written: Vec<usize> = self.dims.iter().map(|d| d.unwrap_or(0)).collect();
        let count = shape.iter().try_fold(1usize, |n, &d| n.checked_mul(d));
        if count != Some(self.data.len()) {
            return Err(format!(
                "input {:?}: data has {} elements where shape {shape:?} needs {}",
                self.info.name,
                self.data.len(),
                count.map_or_else(|| "more than there can be".to_owned(), |n| n.to_string()),
            ));
        }
        if written.len() > 1 && inner(&written) != inner(&shape) {
            return Err(format!(
                "input {:?}: data is nested as {written:?}, shape says {shape:?}",
                self.info.name
            ));
        }
        check_shape(&shape, self.info)?;
        self.build(shape)
    }

    fn build(self, shape: Vec<usize>) -> Result<Tensor, String> {
        let name = &self.info.name;
        Tensor::new(shape, self.data).ok_or_else(|| format!("input {name:?}: the lists do not make up a full tensor"))
    }
}

/// The dimensions without the leading ones of 1.
fn inner(dims: &[usize]) -> &[usize] {
    let ones = dims.iter().take_while(|size| **size == 1).count();
    &dims[ones..]
}

/// The declared shape, -1 for a dimension of any size.
pub(crate) fn declared(info: &TensorInfo) -> Vec<i64> {
    let size = |dim: &Dim| match dim {
        Dim::Fixed(n) => *n as i64,
        Dim::Symbol(_) | Dim::Unknown => -1,
    };
    info.shape
        .as_ref()
        .map_or_else(|| vec![-1], |dims| dims.iter().map(size).collect())
}

/// # Errors
/// Where the shape contradicts the declared one.
pub(crate) fn check_shape(shape: &[usize], info: &TensorInfo) -> Result<(), String> {
    let Some(dims) = &info.shape else { return Ok(()) };
    let matches = |(&size, dim): (&usize, &Dim)| !matches!(dim, Dim::Fixed(n) if *n != size);
    if dims.len() == shape.len() && shape.iter().zip(dims).all(matches) {
        return Ok(());
    }
    Err(format!(
        "input {:?}: shape {shape:?} does not fit {:?} of the model",
        info.name,
        declared(info)
    ))
}

fn fit(mut shape: Vec<usize>, info: &TensorInfo) -> Result<Vec<usize>, String> {
    if let Some(dims) = &info.shape
        && shape.len() < dims.len()
        && !shape.is_empty()
    {
        let missing = &dims[shape.len()..];
        if missing.iter().all(|d| *d == Dim::Fixed(1)) {
            shape.resize(dims.len(), 1);
        } else if let ([rows, flat], Some(row)) = (&shape[..], fixed_row(dims))
            && row.iter().product::<usize>() == *flat
        {
            shape = std::iter::once(*rows).chain(row).collect();
        }
    }
    check_shape(&shape, info)?;
    Ok(shape)
}

/// The declared dimensions of a row, where all are fixed.
fn fixed_row(dims: &[Dim]) -> Option<Vec<usize>> {
    let size = |dim: &Dim| match dim {
        Dim::Fixed(n) => Some(*n),
        Dim::Symbol(_) | Dim::Unknown => None,
    };
    dims.get(1..)?.iter().map(size).collect()
}

/// What stands at a depth of the tensor: a list, an element, or `{"b64": ...}`.
pub(crate) struct Node<'c, 'a> {
    pub(crate) collector: &'c mut Collector<'a>,
    pub(crate) depth: usize,
}

impl Node<'_, '_> {
    fn element<E: Error>(self, value: Value<'_>) -> Result<(), E> {
        self.collector.element(self.depth, value).map_err(E::custom)
    }
}

impl<'de> DeserializeSeed<'de> for Node<'_, '_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Node<'_, '_> {
    type Value = ();

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "lists of {} values for input {:?}",
            self.collector.info.datatype, self.collector.info.name
        )
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<(), A::Error> {
        let Self { collector, depth } = self;
        collector.begin_list(depth).map_err(Error::custom)?;
        let mut len = 0;
        loop {
            collector.enter(depth, len);
            if list
                .next_element_seed(Node {
                    collector: &mut *collector,
                    depth: depth + 1,
                })?
                .is_none()
            {
                break;
            }
            len += 1;
        }
        collector.end_list(depth, len).map_err(Error::custom)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        if self.collector.info.datatype != DataType::Bytes {
            let reason = format!("expected {} values, found an object", self.collector.info.datatype);
            return Err(Error::custom(self.collector.fault(self.depth, &reason)));
        }
        let Some((key, text)) = map.next_entry::<Cow<'de, str>, Cow<'de, str>>()? else {
            return Err(Error::custom(
                self.collector
                    .fault(self.depth, "expected {\"b64\": \"...\"}, found {}"),
            ));
        };
        if key != "b64" || map.next_key::<Cow<'de, str>>()?.is_some() {
            return Err(Error::custom(
                self.collector.fault(self.depth, "an object must be {\"b64\": \"...\"}"),
            ));
        }
        let blob = decode_base64(&text).map_err(|reason| Error::custom(self.collector.fault(self.depth, &reason)))?;
        self.element(Value::Blob(&blob))
    }

    fn visit_f64<E: Error>(self, x: f64) -> Result<(), E> {
        self.element(Value::F64(x))
    }

    fn visit_u64<E: Error>(self, n: u64) -> Result<(), E> {
        self.element(Value::U64(n))
    }

    fn visit_i64<E: Error>(self, n: i64) -> Result<(), E> {
        self.element(Value::I64(n))
    }

    fn visit_bool<E: Error>(self, b: bool) -> Result<(), E> {
        self.element(Value::Bool(b))
    }

    fn visit_str<E: Error>(self, s: &str) -> Result<(), E> {
        match self.collector.hole(self.depth, s) {
            Some(read) => read.map_err(E::custom),
            None => self.element(Value::Str(s)),
        }
    }

    fn visit_unit<E: Error>(self) -> Result<(), E> {
        self.element(Value::Null)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{info, n};

    fn read(info: &TensorInfo, json: &str) -> Result<Tensor, String> {
        let mut collector = Collector::new(info, Label::Column);
        let mut reader = serde_json::Deserializer::from_str(json);
        Node {
            collector: &mut collector,
            depth: 0,
        }
        .deserialize(&mut reader)
        .map_err(|e| e.to_string())?;
        collector.finish()
    }

    #[test]
    fn nested_lists_become_a_tensor() {
        let info = info("x", DataType::F32, vec![n(), Dim::Fixed(2)]);
        let tensor = read(&info, "[[1, 2.5], [-3, 4e1]]").unwrap();
        assert_eq!(tensor.shape(), [2, 2]);
        assert_eq!(tensor.data(), &Data::F32(vec![1.0, 2.5, -3.0, 40.0]));
    }

    #[test]
    fn ragged_lists_name_the_place() {
        let info = info("x", DataType::F32, vec![n(), Dim::Fixed(2)]);
        for (json, place) in [
            ("[[1, 2], [3]]", "inputs.x[1]: a list of 1 where the ones before have 2"),
            ("[[1, 2], 3]", "inputs.x[1]: expected a list"),
            ("[1, [2]]", "inputs.x[1]: expected a single value"),
            (
                "[[1, \"a\"]]",
                "inputs.x[0][1]: expected a number for FP32, found \"a\"",
            ),
            ("[[1, {\"b64\": \"\"}]]", "inputs.x[0][1]: expected FP32 values"),
            ("[[], 1]", "inputs.x[1]: expected a list"),
        ] {
            let error = read(&info, json).unwrap_err();
            assert!(error.starts_with(place), "{json}: {error}");
        }
        let deep = "[".repeat(20) + &"]".repeat(20);
        assert!(read(&info, &deep).unwrap_err().contains("16 deep"));
    }

    #[test]
    fn shapes_must_fit_the_declared_one() {
        let info = info("x", DataType::I64, vec![n(), Dim::Fixed(4)]);
        assert_eq!(
            read(&info, "[[1, 2, 3]]").unwrap_err(),
            "input \"x\": shape [1, 3] does not fit [-1, 4] of the model"
        );
        assert!(read(&info, "[[[1]]]").is_err());
        assert!(read(&info, "[]").is_err());
    }

    #[test]
    fn trailing_ones_may_be_left_out_and_flat_rows_are_folded() {
        let column = info("x", DataType::I64, vec![n(), Dim::Fixed(1)]);
        assert_eq!(read(&column, "[1, 2]").unwrap().shape(), [2, 1]);
        let picture = info(
            "x",
            DataType::I64,
            vec![n(), Dim::Fixed(1), Dim::Fixed(2), Dim::Fixed(2)],
        );
        assert_eq!(read(&picture, "[[1, 2, 3, 4]]").unwrap().shape(), [1, 1, 2, 2]);
        assert!(read(&picture, "[[1, 2, 3]]").is_err());
    }

    #[test]
    fn bytes_come_as_text_or_base64() {
        let info = info("x", DataType::Bytes, vec![n()]);
        let tensor = read(&info, r#"["a\n", {"b64": "aGk="}]"#).unwrap();
        assert_eq!(tensor.data(), &Data::Bytes(vec!["a\n".into(), "hi".into()]));
        assert!(read(&info, r#"[{"b65": "aGk="}]"#).unwrap_err().contains("inputs.x[0]"));
    }

    #[test]
    fn undeclared_shapes_take_anything() {
        let mut info = info("x", DataType::I64, vec![]);
        info.shape = None;
        assert_eq!(read(&info, "[[[1, 2]]]").unwrap().shape(), [1, 1, 2]);
    }
}
