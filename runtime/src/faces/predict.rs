//! `/predict`: one row of features in, one prediction with its confidence out.
//!
//! For a model of one input that gives either labels and scores, or one list of scores a row. The prediction is the label, or
//! the class of the highest score: its name where the model has names, else its index. The confidence is the probability of
//! that class: the score itself where the row is a probability distribution already, else its softmax. Any other model gets a
//! 400 that points to V2.

use std::borrow::Cow;

use pilotlight_engine::{Data, DataType, Labels, Signature, Tensor};
use serde::de::{DeserializeSeed, Deserializer, Error, IgnoredAny, MapAccess, Visitor};
use serde::ser::{Serialize, SerializeStruct as _, Serializer};

use super::classifier::{classifier, roles};
use super::json::{Collector, Label, Nested, Node};
use crate::error::ApiError;

/// A parsed request.
#[derive(Debug, PartialEq)]
pub(crate) struct PredictRequest {
    /// Given back in the header `x-request-id`.
    pub(crate) request_id: Option<String>,
    /// One row.
    pub(crate) input: Tensor,
}

/// What `/predict` says about a row.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Prediction<'a> {
    class: Class<'a>,
    confidence: f64,
}

#[derive(Clone, Copy, Debug)]
enum Class<'a> {
    /// The only element of the row of labels.
    Label(&'a Tensor),
    Int(i64),
    Name(&'a str),
}

fn does_not_fit(model: &str, why: &str) -> ApiError {
    ApiError::invalid(format!(
        "model {model:?} does not fit /predict: {why}; use V2, POST /v2/models/{model}/infer, which serves every model"
    ))
}

/// Reads a request.
pub(crate) fn parse(body: &[u8], model: &str, signature: &Signature) -> Result<PredictRequest, ApiError> {
    let [input] = &signature.inputs[..] else {
        return Err(does_not_fit(model, "it has several inputs"));
    };
    check_outputs(model, signature)?;
    let mut collector = Collector::new(input, Label::OnlyRow("features"));
    let mut reader = serde_json::Deserializer::from_slice(body);
    let request_id = Body {
        collector: &mut collector,
    }
    .deserialize(&mut reader)
    .and_then(|id| reader.end().map(|()| id))
    .map_err(|error| ApiError::invalid(error.to_string()))?;
    Ok(PredictRequest {
        request_id,
        input: collector.finish().map_err(ApiError::invalid)?,
    })
}

fn check_outputs(model: &str, signature: &Signature) -> Result<(), ApiError> {
    if roles(signature).is_some() {
        return Ok(());
    }
    let [output] = &signature.outputs[..] else {
        return Err(does_not_fit(model, "its outputs are not labels and scores"));
    };
    let float = matches!(
        output.datatype,
        DataType::F16 | DataType::BF16 | DataType::F32 | DataType::F64
    );
    if !float || output.shape.as_ref().is_some_and(|shape| shape.len() != 2) {
        return Err(does_not_fit(model, "its output is not a list of scores a row"));
    }
    Ok(())
}

/// Makes a prediction of the outputs of one row.
pub(crate) fn predict<'a>(
    model: &str,
    signature: &'a Signature,
    outputs: &'a [Tensor],
) -> Result<Prediction<'a>, ApiError> {
    let misfit = || does_not_fit(model, "it did not give one list of two or more scores");
    if let Some(found) = classifier(signature, outputs) {
        let scores = one_row(found.scores).ok_or_else(misfit)?;
        let best = position_of(found.labels, found.info.labels.as_ref()).unwrap_or_else(|| argmax(&scores));
        return Ok(Prediction {
            class: Class::Label(found.labels),
            confidence: probability(&scores, best),
        });
    }
    let [output] = outputs else { return Err(misfit()) };
    let scores = one_row(output).filter(|scores| scores.len() > 1).ok_or_else(misfit)?;
    let best = argmax(&scores);
    let class = match &signature.outputs[0].labels {
        Some(Labels::Ints(names)) => names.get(best).map(|&n| Class::Int(n)),
        Some(Labels::Strings(names)) => names.get(best).map(|n| Class::Name(n)),
        None => None,
    };
    let class = class.unwrap_or(Class::Int(best as i64));
    Ok(Prediction {
        class,
        confidence: probability(&scores, best),
    })
}

/// The scores of a tensor of exactly one row.
fn one_row(tensor: &Tensor) -> Option<Vec<f64>> {
    if tensor.shape().len() != 2 || tensor.shape()[0] != 1 || tensor.data().is_empty() {
        return None;
    }
    match tensor.data() {
        Data::F16(v) => Some(v.iter().map(|x| x.to_f64()).collect()),
        Data::BF16(v) => Some(v.iter().map(|x| x.to_f64()).collect()),
        Data::F32(v) => Some(v.iter().map(|&x| f64::from(x)).collect()),
        Data::F64(v) => Some(v.clone()),
        _ => None,
    }
}

/// Where the label stands among the class names.
fn position_of(label: &Tensor, names: Option<&Labels>) -> Option<usize> {
    match (label.data(), names?) {
        (Data::I64(label), Labels::Ints(names)) => names.iter().position(|n| Some(n) == label.first()),
        (Data::Bytes(label), Labels::Strings(names)) => names
            .iter()
            .position(|n| label.first().is_some_and(|l| l[..] == *n.as_bytes())),
        _ => None,
    }
}

/// The first of the highest scores.
fn argmax(scores: &[f64]) -> usize {
    (1..scores.len()).fold(0, |best, i| if scores[i] > scores[best] { i } else { best })
}

/// The probability of class `at`, which is 0 where there is no such class.
fn probability(scores: &[f64], at: usize) -> f64 {
    let Some(&score) = scores.get(at) else { return 0.0 };
    let sum: f64 = scores.iter().sum();
    if (sum - 1.0).abs() < 1e-3 && scores.iter().all(|s| (-1e-6..=1.0 + 1e-6).contains(s)) {
        return score.clamp(0.0, 1.0);
    }
    let highest = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    (score - highest).exp() / scores.iter().map(|s| (s - highest).exp()).sum::<f64>()
}

/// The answer's body.
pub(crate) fn answer(prediction: &Prediction<'_>, latency_ms: f64, batch_size: usize) -> Vec<u8> {
    serde_json::to_vec(&Answer {
        prediction,
        latency_ms,
        batch_size,
    })
    .unwrap_or_default()
}

struct Answer<'a> {
    prediction: &'a Prediction<'a>,
    latency_ms: f64,
    batch_size: usize,
}

impl Serialize for Answer<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut answer = serializer.serialize_struct("Answer", 4)?;
        match self.prediction.class {
            Class::Label(labels) => answer.serialize_field("prediction", &Nested::first(labels))?,
            Class::Int(n) => answer.serialize_field("prediction", &n)?,
            Class::Name(name) => answer.serialize_field("prediction", name)?,
        }
        answer.serialize_field("confidence", &self.prediction.confidence)?;
        answer.serialize_field("latency_ms", &self.latency_ms)?;
        answer.serialize_field("batch_size", &self.batch_size)?;
        answer.end()
    }
}

struct Body<'c, 'a> {
    collector: &'c mut Collector<'a>,
}

impl<'de> DeserializeSeed<'de> for Body<'_, '_> {
    type Value = Option<String>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Body<'_, '_> {
    type Value = Option<String>;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("an object with \"features\"")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let Self { collector } = self;
        let mut seen = false;
        let mut request_id = None;
        while let Some(key) = map.next_key::<Cow<'de, str>>()? {
            match &*key {
                "features" if seen => return Err(Error::custom("\"features\" is there twice")),
                "features" => {
                    // The features are one row, so their first list stands at depth 1.
                    collector.begin_row(0);
                    map.next_value_seed(Node {
                        collector: &mut *collector,
                        depth: 1,
                    })?;
                    collector.end_rows(1);
                    seen = true;
                }
                "request_id" => request_id = map.next_value::<Option<String>>()?,
                _ => {
                    map.next_value::<IgnoredAny>()?;
                }
            }
        }
        if !seen {
            return Err(Error::custom("\"features\" is missing"));
        }
        Ok(request_id)
    }
}

#[cfg(test)]
mod tests {
    use pilotlight_engine::{Dim, TensorInfo};

    use super::*;
    use crate::testing::{info, n, signature};

    fn scores(labels: Option<Labels>) -> TensorInfo {
        TensorInfo {
            labels,
            ..info("logits", DataType::F32, vec![n(), Dim::Fixed(3)])
        }
    }

    fn model(labels: Option<Labels>) -> Signature {
        let input = info(
            "x",
            DataType::F32,
            vec![n(), Dim::Fixed(1), Dim::Fixed(2), Dim::Fixed(2)],
        );
        signature(vec![input], vec![scores(labels)])
    }

    fn row(scores: Vec<f32>) -> Vec<Tensor> {
        vec![Tensor::new(vec![1, scores.len()], Data::F32(scores)).unwrap()]
    }

    fn body(signature: &Signature, outputs: &[Tensor]) -> String {
        String::from_utf8(answer(&predict("m", signature, outputs).unwrap(), 1.5, 4)).unwrap()
    }

    #[test]
    fn features_are_one_row_nested_or_flat() {
        let expected = Tensor::new(vec![1, 1, 2, 2], Data::F32(vec![1.0, 2.0, 3.0, 4.0])).unwrap();
        for features in ["[1, 2, 3, 4]", "[[[1, 2], [3, 4]]]"] {
            let text = format!(r#"{{"features": {features}, "request_id": "a"}}"#);
            let request = parse(text.as_bytes(), "m", &model(None)).unwrap();
            assert_eq!(
                request,
                PredictRequest {
                    request_id: Some("a".into()),
                    input: expected.clone()
                }
            );
        }
    }

    #[test]
    fn logits_are_softmaxed_and_probabilities_are_not() {
        let logits = row(vec![0.0, 2.0_f32.ln(), 0.0]);
        let signature = model(None);
        let prediction = predict("m", &signature, &logits).unwrap();
        assert!(matches!(prediction.class, Class::Int(1)));
        assert!((prediction.confidence - 0.5).abs() < 1e-6, "{prediction:?}");
        let probabilities = row(vec![0.25, 0.25, 0.5]);
        assert_eq!(
            body(&model(None), &probabilities),
            r#"{"prediction":2,"confidence":0.5,"latency_ms":1.5,"batch_size":4}"#
        );
    }

    #[test]
    fn classes_have_their_names() {
        let named = model(Some(Labels::Strings(vec!["a".into(), "b".into(), "c".into()])));
        assert!(body(&named, &row(vec![0.0, 9.0, 0.0])).starts_with(r#"{"prediction":"b""#));
        let numbered = model(Some(Labels::Ints(vec![10, 20, 30])));
        assert!(body(&numbered, &row(vec![0.0, 0.0, 9.0])).starts_with(r#"{"prediction":30"#));
    }

    #[test]
    fn a_label_comes_with_its_own_probability() {
        let label = info("label", DataType::Bytes, vec![n()]);
        let named = scores(Some(Labels::Strings(vec!["a".into(), "b".into(), "c".into()])));
        let signature = signature(
            vec![info("x", DataType::F32, vec![n(), Dim::Fixed(1)])],
            vec![label, named],
        );
        let outputs = vec![
            Tensor::new(vec![1], Data::Bytes(vec!["b".into()])).unwrap(),
            Tensor::new(vec![1, 3], Data::F32(vec![0.5, 0.25, 0.25])).unwrap(),
        ];
        assert_eq!(
            body(&signature, &outputs),
            r#"{"prediction":"b","confidence":0.25,"latency_ms":1.5,"batch_size":4}"#
        );
    }

    #[test]
    fn a_model_that_does_not_fit_is_pointed_to_v2() {
        let x = || info("x", DataType::F32, vec![n(), Dim::Fixed(1)]);
        let image = info("y", DataType::F32, vec![n(), n(), n()]);
        for (inputs, outputs) in [
            (vec![x(), x()], vec![scores(None)]),
            (vec![x()], vec![image.clone()]),
            (vec![x()], vec![image, scores(None)]),
            (vec![x()], vec![info("y", DataType::I64, vec![n(), n()])]),
        ] {
            let error = parse(br#"{"features": [1]}"#, "m", &signature(inputs, outputs)).unwrap_err();
            assert!(error.message.contains("/v2/models/m/infer"), "{error}");
        }
        let error = predict("m", &model(None), &row(vec![3.5])).unwrap_err();
        assert!(error.message.contains("/v2/models/m/infer"), "{error}");
    }

    #[test]
    fn faults_name_the_place() {
        for (body, part) in [
            (r#"{"features": [1, 2, "x", 4]}"#, "features[2]: expected a number"),
            (r#"{"features": [1, 2, 3]}"#, "shape [1, 3] does not fit [-1, 1, 2, 2]"),
            (r#"{"feature": [1, 2, 3]}"#, "\"features\" is missing"),
            (r#"{"features": [1], "features": [1]}"#, "twice"),
        ] {
            let message = parse(body.as_bytes(), "m", &model(None)).unwrap_err().message;
            assert!(message.contains(part), "{message}");
        }
    }
}
