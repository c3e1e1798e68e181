//! V1: `{"instances": [...]}` or `{"inputs": ...}` in, `{"predictions": [...]}` out.
//!
//! `instances` has one entry a row: a nested list, or an object by input name (a must where the model has several inputs).
//! `inputs` is either the same list, or an object that gives each input as a whole. `{"b64": "..."}` stands for bytes.
//!
//! A classifier that gives labels and scores is answered by its labels; a single output as it is; several outputs as one
//! object a row, or as one object of whole outputs where an output does not have a row per row of the others.

use std::borrow::Cow;

use pilotlight_engine::{DataType, Signature, Tensor};
use serde::de::{DeserializeSeed, Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Unexpected, Visitor};
use serde::ser::{Serialize, SerializeMap as _, Serializer};

use super::classifier::classifier;
use super::json::{Collector, Holes, Label, Nested, Node, Value, columns, cut, decode_base64, rows_of_objects};
use crate::error::ApiError;

/// The inputs in the signature's order.
pub(crate) fn parse(body: &[u8], signature: &Signature) -> Result<Vec<Tensor>, ApiError> {
    if let Some(cut) = cut(body)
        && let Ok(inputs) = read(cut.rest(), signature, cut.holes())
    {
        return Ok(inputs);
    }
    read(body, signature, Holes::default())
}

fn read(body: &[u8], signature: &Signature, holes: Holes<'_>) -> Result<Vec<Tensor>, ApiError> {
    let mut reader = serde_json::Deserializer::from_slice(body);
    let collectors = Body { signature, holes }
        .deserialize(&mut reader)
        .and_then(|collectors| reader.end().map(|()| collectors))
        .map_err(|error| ApiError::invalid(error.to_string()))?;
    collectors
        .into_iter()
        .map(|c| c.finish().map_err(ApiError::invalid))
        .collect()
}

/// The answer's body.
pub(crate) fn answer(signature: &Signature, outputs: &[Tensor]) -> Vec<u8> {
    let mut body = Vec::new();
    let written = if let Some(classifier) = classifier(signature, outputs) {
        write(&mut body, &Labels(classifier.labels))
    } else if let [output] = outputs {
        write(&mut body, &Nested::of(output))
    } else if let Some(rows) = common_rows(outputs) {
        write(&mut body, &rows_of_objects(&signature.outputs, outputs, rows))
    } else {
        write(&mut body, &columns(&signature.outputs, outputs))
    };
    debug_assert!(written.is_ok(), "writing to memory");
    body
}

fn write(body: &mut Vec<u8>, predictions: &impl Serialize) -> serde_json::Result<()> {
    struct Answer<'a, P>(&'a P);
    impl<P: Serialize> Serialize for Answer<'_, P> {
        fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
            let mut map = serializer.serialize_map(Some(1))?;
            map.serialize_entry("predictions", self.0)?;
            map.end()
        }
    }
    serde_json::to_writer(body, &Answer(predictions))
}

/// `[N]` and `[N, 1]` alike as one list.
struct Labels<'a>(&'a Tensor);

impl Serialize for Labels<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        Nested::flat(self.0, &[self.0.data().len()]).serialize(serializer)
    }
}

fn common_rows(outputs: &[Tensor]) -> Option<usize> {
    let rows = *outputs.first()?.shape().first()?;
    outputs.iter().all(|t| t.shape().first() == Some(&rows)).then_some(rows)
}

struct Body<'a> {
    signature: &'a Signature,
    holes: Holes<'a>,
}

impl<'a> Body<'a> {
    fn collectors(&self, label: Label) -> Vec<Collector<'a>> {
        self.signature
            .inputs
            .iter()
            .map(|info| Collector::over(info, label, self.holes))
            .collect()
    }

    /// What to call a place in a list of rows.
    fn row_label(&self, key: &'static str) -> Label {
        if self.signature.inputs.len() == 1 {
            Label::Row(key)
        } else {
            Label::NamedRow(key)
        }
    }
}

impl<'de, 'a> DeserializeSeed<'de> for Body<'a> {
    type Value = Vec<Collector<'a>>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de, 'a> Visitor<'de> for Body<'a> {
    type Value = Vec<Collector<'a>>;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("an object with \"instances\" or \"inputs\"")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut found: Option<Vec<Collector<'a>>> = None;
        while let Some(key) = map.next_key::<Cow<'de, str>>()? {
            let key = match &*key {
                "instances" => "instances",
                "inputs" => "inputs",
                // Such as TensorFlow Serving's "signature_name".
                _ => {
                    map.next_value::<IgnoredAny>()?;
                    continue;
                }
            };
            if found.is_some() {
                return Err(Error::custom("give \"instances\" or \"inputs\", and give it once"));
            }
            let mut collectors = self.collectors(self.row_label(key));
            map.next_value_seed(Rows {
                collectors: &mut collectors,
                key,
            })?;
            found = Some(collectors);
        }
        found.ok_or_else(|| Error::custom("neither \"instances\" nor \"inputs\" is there"))
    }
}

/// The list of rows, or for `inputs` the object of columns.
struct Rows<'c, 'a> {
    collectors: &'c mut [Collector<'a>],
    key: &'static str,
}

impl<'de> DeserializeSeed<'de> for Rows<'_, '_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Rows<'_, '_> {
    type Value = ();

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.key {
            "inputs" => f.write_str("a list of rows or an object of inputs by name for \"inputs\""),
            _ => f.write_str("a list of rows for \"instances\""),
        }
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<(), A::Error> {
        let Self { collectors, key } = self;
        let mut rows = 0;
        loop {
            for collector in collectors.iter_mut() {
                collector.begin_row(rows);
            }
            let place = Place { key, row: Some(rows) };
            if list
                .next_element_seed(Named {
                    collectors: &mut *collectors,
                    place,
                    depth: 1,
                })?
                .is_none()
            {
                break;
            }
            rows += 1;
        }
        if rows == 0 {
            return Err(Error::custom(format!(
                "{key}: the list is empty; give at least one row"
            )));
        }
        for collector in collectors.iter_mut() {
            collector.end_rows(rows);
        }
        Ok(())
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<(), E> {
        let hole = match &mut *self.collectors {
            [collector] => collector.hole(0, text),
            _ => None,
        };
        match hole {
            Some(read) => read.map_err(E::custom),
            None => Err(E::invalid_type(Unexpected::Str(text), &self)),
        }
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<(), A::Error> {
        if self.key != "inputs" {
            return Err(Error::custom(
                "instances: expected a list of rows, found an object; whole inputs go under \"inputs\"",
            ));
        }
        for collector in self.collectors.iter_mut() {
            *collector = collector.anew(Label::Column);
        }
        Named {
            collectors: self.collectors,
            place: Place {
                key: "inputs",
                row: None,
            },
            depth: 0,
        }
        .visit_map(map)
    }
}

/// Where an object of inputs stands.
#[derive(Clone, Copy)]
struct Place {
    key: &'static str,
    row: Option<usize>,
}

impl std::fmt::Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.row {
            Some(row) => write!(f, "{}[{row}]", self.key),
            None => f.write_str(self.key),
        }
    }
}

/// Values by input name, or the bare value of the only input.
struct Named<'c, 'a> {
    collectors: &'c mut [Collector<'a>],
    place: Place,
    depth: usize,
}

impl<'c, 'a> Named<'c, 'a> {
    /// The place of the only input.
    fn only<E: Error>(self) -> Result<Node<'c, 'a>, E> {
        match self.collectors {
            [collector] => Ok(Node {
                collector,
                depth: self.depth,
            }),
            many => {
                let names = names(many);
                Err(E::custom(format!(
                    "{}: the model has the inputs {names}; give an object of them",
                    self.place
                )))
            }
        }
    }
}

/// For an error.
fn names(collectors: &[Collector<'_>]) -> String {
    collectors
        .iter()
        .map(|c| format!("{:?}", c.info().name))
        .collect::<Vec<_>>()
        .join(", ")
}

impl<'de> DeserializeSeed<'de> for Named<'_, '_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Named<'_, '_> {
    type Value = ();

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "a nested list or an object of inputs by name at {}", self.place)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let Self {
            collectors,
            place,
            depth,
        } = self;
        let mut seen = vec![false; collectors.len()];
        while let Some(key) = map.next_key::<Cow<'de, str>>()? {
            let Some(at) = collectors.iter().position(|c| c.info().name == key) else {
                if key == "b64" && seen == [false] && collectors[0].info().datatype == DataType::Bytes {
                    return bare_blob(&mut collectors[0], depth, map);
                }
                let names = names(collectors);
                return Err(Error::custom(format!(
                    "{place}: the model has no input {key:?}; it has {names}"
                )));
            };
            if std::mem::replace(&mut seen[at], true) {
                return Err(Error::custom(format!("{place}: input {key:?} is there twice")));
            }
            map.next_value_seed(Node {
                collector: &mut collectors[at],
                depth,
            })?;
        }
        match seen.iter().position(|seen| !seen) {
            Some(missing) => Err(Error::custom(format!(
                "{place}: input {:?} is missing",
                collectors[missing].info().name
            ))),
            None => Ok(()),
        }
    }

    fn visit_seq<A: SeqAccess<'de>>(self, list: A) -> Result<(), A::Error> {
        self.only()?.visit_seq(list)
    }

    fn visit_f64<E: Error>(self, x: f64) -> Result<(), E> {
        self.only()?.visit_f64(x)
    }

    fn visit_u64<E: Error>(self, n: u64) -> Result<(), E> {
        self.only()?.visit_u64(n)
    }

    fn visit_i64<E: Error>(self, n: i64) -> Result<(), E> {
        self.only()?.visit_i64(n)
    }

    fn visit_bool<E: Error>(self, b: bool) -> Result<(), E> {
        self.only()?.visit_bool(b)
    }

    fn visit_str<E: Error>(self, s: &str) -> Result<(), E> {
        self.only()?.visit_str(s)
    }

    fn visit_unit<E: Error>(self) -> Result<(), E> {
        self.only()?.visit_unit()
    }
}

/// `{"b64": "..."}` in the place of a row, its key being read already.
fn bare_blob<'de, A: MapAccess<'de>>(collector: &mut Collector<'_>, depth: usize, mut map: A) -> Result<(), A::Error> {
    let text = map.next_value::<Cow<'de, str>>()?;
    let blob = decode_base64(&text).map_err(Error::custom)?;
    if let Some(key) = map.next_key::<Cow<'de, str>>()? {
        return Err(Error::custom(format!(
            "{key:?} stands beside \"b64\"; an object of bytes has nothing else"
        )));
    }
    collector.element(depth, Value::Blob(&blob)).map_err(Error::custom)
}

#[cfg(test)]
mod tests {
    use pilotlight_engine::{Data, Dim, TensorInfo};

    use super::*;
    use crate::testing::{info, n, signature};

    fn one(datatype: DataType, width: usize) -> Signature {
        signature(vec![info("x", datatype, vec![n(), Dim::Fixed(width)])], vec![])
    }

    fn two() -> Signature {
        let a = info("a", DataType::F32, vec![n(), Dim::Fixed(2)]);
        let b = info("b", DataType::Bytes, vec![n(), Dim::Fixed(1)]);
        signature(vec![a, b], vec![])
    }

    fn fault(body: &str, signature: &Signature) -> String {
        parse(body.as_bytes(), signature).unwrap_err().message
    }

    #[test]
    fn rows_are_stacked() {
        let body = br#"{"signature_name": "serving", "instances": [[1, 2], [3.5, 4]]}"#;
        let inputs = parse(body, &one(DataType::F32, 2)).unwrap();
        assert_eq!(
            inputs,
            [Tensor::new(vec![2, 2], Data::F32(vec![1.0, 2.0, 3.5, 4.0])).unwrap()]
        );
    }

    #[test]
    fn rows_may_be_objects_in_any_order_of_names() {
        let body = br#"{"instances": [{"a": [1, 2], "b": "x"}, {"b": {"b64": "eQ=="}, "a": [3, 4]}]}"#;
        let inputs = parse(body, &two()).unwrap();
        assert_eq!(
            inputs[0],
            Tensor::new(vec![2, 2], Data::F32(vec![1.0, 2.0, 3.0, 4.0])).unwrap()
        );
        assert_eq!(
            inputs[1],
            Tensor::new(vec![2, 1], Data::Bytes(vec!["x".into(), "y".into()])).unwrap()
        );
        let inputs = parse(br#"{"instances": [{"x": [7]}]}"#, &one(DataType::I64, 1)).unwrap();
        assert_eq!(inputs[0].data(), &Data::I64(vec![7]));
    }

    #[test]
    fn columns_give_whole_inputs() {
        let body = br#"{"inputs": {"a": [[1, 2], [3, 4]], "b": [["x"], ["y"]]}}"#;
        let inputs = parse(body, &two()).unwrap();
        assert_eq!(inputs[0].shape(), [2, 2]);
        assert_eq!(inputs[1].shape(), [2, 1]);
        let inputs = parse(br#"{"inputs": [[1], [2]]}"#, &one(DataType::I64, 1)).unwrap();
        assert_eq!(inputs[0].data(), &Data::I64(vec![1, 2]));
    }

    #[test]
    fn bare_bytes_may_be_base64() {
        let text = signature(vec![info("x", DataType::Bytes, vec![n()])], vec![]);
        let inputs = parse(br#"{"instances": ["a", {"b64": "Yg=="}]}"#, &text).unwrap();
        assert_eq!(
            inputs[0],
            Tensor::new(vec![2], Data::Bytes(vec!["a".into(), "b".into()])).unwrap()
        );
    }

    #[test]
    fn a_fixed_batch_takes_exactly_its_rows() {
        let fixed = signature(
            vec![info("x", DataType::F32, vec![Dim::Fixed(1), Dim::Fixed(2)])],
            vec![],
        );
        assert!(parse(br#"{"instances": [[1, 2]]}"#, &fixed).is_ok());
        assert!(fault(r#"{"instances": [[1, 2], [3, 4]]}"#, &fixed).contains("[2, 2] does not fit [1, 2]"));
    }

    #[test]
    fn faults_name_the_instance_or_the_input() {
        let f = one(DataType::F32, 2);
        for (body, signature, part) in [
            (
                r#"{"instances": [[1, 2], [3, "x"]]}"#,
                &f,
                "instances[1][1]: expected a number for FP32, found \"x\"",
            ),
            (r#"{"instances": [[1, 2], [3]]}"#, &f, "instances[1]: a list of 1"),
            (
                r#"{"instances": [[1, 2], {"y": 1}]}"#,
                &f,
                "instances[1]: the model has no input \"y\"; it has \"x\"",
            ),
            (
                r#"{"instances": [[1, 2, 3]]}"#,
                &f,
                "input \"x\": shape [1, 3] does not fit [-1, 2]",
            ),
            (r#"{"instances": []}"#, &f, "instances: the list is empty"),
            (r#"{"instances": {"x": [1]}}"#, &f, "whole inputs go under \"inputs\""),
            (r#"{"instances": 5}"#, &f, "a list of rows"),
            (r#"{"data": [[1, 2]]}"#, &f, "neither \"instances\" nor \"inputs\""),
            (r#"{"instances": [[1, 2]], "inputs": [[1, 2]]}"#, &f, "give it once"),
            (r#"{"instances": [[1, 2]]} x"#, &f, "trailing characters"),
            (r#"{"instances": [[1, 2"#, &f, "EOF"),
            ("", &f, "EOF"),
            ("[]", &f, "an object with \"instances\""),
            (
                r#"{"instances": [[1, 2]]}"#,
                &two(),
                "instances[0]: the model has the inputs \"a\", \"b\"",
            ),
            (
                r#"{"instances": [{"a": [1, 2]}]}"#,
                &two(),
                "instances[0]: input \"b\" is missing",
            ),
            (
                r#"{"instances": [{"a": [1, 2], "a": [1, 2]}]}"#,
                &two(),
                "instances[0]: input \"a\" is there twice",
            ),
            (
                r#"{"instances": [{"b": "", "a": [1, "q"]}]}"#,
                &two(),
                "instances[0].a[1]: expected a number",
            ),
            (
                r#"{"inputs": {"a": [[1, 2]], "b": [[3]]}}"#,
                &two(),
                "inputs.b[0][0]: expected a string",
            ),
        ] {
            let message = fault(body, signature);
            assert!(message.contains(part), "{body}: {message}");
        }
    }

    fn answered(outputs: Vec<(TensorInfo, Tensor)>) -> String {
        let (infos, tensors): (Vec<_>, Vec<_>) = outputs.into_iter().unzip();
        String::from_utf8(answer(&signature(vec![], infos), &tensors)).unwrap()
    }

    fn tensor(shape: &[usize], data: Data) -> Tensor {
        Tensor::new(shape.to_vec(), data).unwrap()
    }

    #[test]
    fn one_output_is_given_as_it_is() {
        let y = info("y", DataType::F32, vec![n(), Dim::Fixed(2)]);
        let y = (y, tensor(&[2, 2], Data::F32(vec![0.5, 1.0, 2.0, 0.25])));
        assert_eq!(answered(vec![y]), r#"{"predictions":[[0.5,1.0],[2.0,0.25]]}"#);
    }

    #[test]
    fn several_outputs_are_rows_of_objects() {
        let a = (
            info("boxes", DataType::F32, vec![n(), n()]),
            tensor(&[2, 1], Data::F32(vec![0.5, 1.0])),
        );
        let b = (
            info("kinds", DataType::Bytes, vec![n()]),
            tensor(&[2], Data::Bytes(vec!["x".into(), "y".into()])),
        );
        assert_eq!(
            answered(vec![a, b]),
            r#"{"predictions":[{"boxes":[0.5],"kinds":"x"},{"boxes":[1.0],"kinds":"y"}]}"#
        );
    }

    #[test]
    fn outputs_of_different_rows_are_columns() {
        let a = (info("a", DataType::I64, vec![n()]), tensor(&[2], Data::I64(vec![1, 2])));
        let b = (info("b", DataType::I64, vec![]), tensor(&[], Data::I64(vec![3])));
        assert_eq!(answered(vec![a, b]), r#"{"predictions":{"a":[1,2],"b":3}}"#);
    }

    #[test]
    fn a_classifier_answers_its_labels() {
        let label = info("output_label", DataType::I64, vec![n()]);
        let scores = info("output_probability", DataType::F32, vec![n(), Dim::Fixed(2)]);
        let outputs = vec![
            (label, tensor(&[2], Data::I64(vec![1, 1]))),
            (scores, tensor(&[2, 2], Data::F32(vec![0.5; 4]))),
        ];
        assert_eq!(answered(outputs), r#"{"predictions":[1,1]}"#);
    }
}
