//! The HTTP faces: what each protocol reads and writes. Nothing here waits, runs or counts.

mod body;
mod classifier;
mod coding;
mod json;
mod path;
mod predict;
pub(crate) mod raw;
mod triton;
pub(crate) mod v1;
pub(crate) mod v2;

use std::time::Duration;

use bytes::Bytes;
use http::HeaderMap;
use http::header::CONTENT_TYPE;
use pilotlight_engine::{Signature, Tensor};
use tokio::time::Instant;

pub(crate) use body::{Budget, Share, read as read_body, too_large};
pub(crate) use coding::Coding;
pub(crate) use json::{check_shape, declared};
pub(crate) use path::{Of, Target, target};
pub(crate) use triton::{Management, ModelConfig, index, statistics};
pub(crate) use v2::metadata;

use crate::error::ApiError;
use crate::scheduler::Answer;
use crate::served::Served;

/// A protocol for inference.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Face {
    V1,
    V2,
    Predict,
}

/// What a face remembers of a request until its answer.
#[derive(Debug)]
pub(crate) enum Call {
    V1,
    V2 {
        id: Option<String>,
        outputs: Vec<v2::Requested>,
        timeout: Option<Duration>,
        priority: u32,
    },
    Predict {
        request_id: Option<String>,
    },
}

impl Face {
    /// Body to inputs in the signature's order.
    pub(crate) fn parse(
        self,
        headers: &HeaderMap,
        body: &Bytes,
        model: &str,
        signature: &Signature,
    ) -> Result<(Vec<Tensor>, Call), ApiError> {
        let json = json_length(headers)?;
        if json.is_some() && self != Self::V2 {
            return Err(ApiError::invalid(format!(
                "{} is a header of V2; POST /v2/models/{{name}}/infer takes binary tensors",
                v2::BINARY_HEADER
            )));
        }
        match self {
            Self::V1 => Ok((v1::parse(body, signature)?, Call::V1)),
            Self::V2 => {
                let request = v2::parse(body, json, signature).map_err(|error| explain(error, headers, json))?;
                Ok((
                    request.inputs,
                    Call::V2 {
                        id: request.id,
                        outputs: request.outputs,
                        timeout: request.timeout,
                        priority: request.priority,
                    },
                ))
            }
            Self::Predict => {
                let request = predict::parse(body, model, signature)?;
                Ok((
                    vec![request.input],
                    Call::Predict {
                        request_id: request.request_id,
                    },
                ))
            }
        }
    }
}

/// What the client says about where the JSON of its body ends.
fn json_length(headers: &HeaderMap) -> Result<Option<usize>, ApiError> {
    let Some(value) = headers.get(v2::BINARY_HEADER) else {
        return Ok(None);
    };
    let len = value.to_str().ok().and_then(|text| text.trim().parse().ok());
    len.map(Some).ok_or_else(|| {
        let name = v2::BINARY_HEADER;
        ApiError::invalid(format!("{name} is {value:?}, not the length of the JSON in bytes"))
    })
}

/// A binary body without the header that says so fails as JSON; this names the likely reason.
fn explain(mut error: ApiError, headers: &HeaderMap, json: Option<usize>) -> ApiError {
    if json.is_none()
        && headers
            .get(CONTENT_TYPE)
            .is_some_and(|t| t == "application/octet-stream")
    {
        let hint = format!("; a binary body needs the header {}", v2::BINARY_HEADER);
        error.message.push_str(&hint);
    }
    error
}

impl Call {
    /// Outputs to body and, where binary tensors follow its JSON, the length of that.
    pub(crate) fn answer(
        &self,
        served: &Served,
        answer: &Answer,
        arrived: Instant,
    ) -> Result<(Vec<u8>, Option<usize>), ApiError> {
        let signature = served.signature();
        match self {
            Self::V1 => Ok((v1::answer(signature, &answer.outputs), None)),
            Self::V2 { id, outputs, .. } => {
                let head = v2::Head {
                    model: served.name(),
                    version: served.version(),
                    id: id.as_deref(),
                };
                v2::answer(&head, signature, outputs, &answer.outputs)
            }
            Self::Predict { .. } => {
                let prediction = predict::predict(served.name(), signature, &answer.outputs)?;
                let latency_ms = arrived.elapsed().as_secs_f64() * 1000.0;
                Ok((predict::answer(&prediction, latency_ms, answer.batch_rows), None))
            }
        }
    }

    /// To be given back in a header.
    pub(crate) fn request_id(&self) -> Option<&str> {
        match self {
            Self::Predict { request_id } => request_id.as_deref(),
            Self::V1 | Self::V2 { .. } => None,
        }
    }

    /// How important it is to the client; 0: it does not say.
    pub(crate) fn priority(&self) -> u32 {
        match self {
            Self::V2 { priority, .. } => *priority,
            Self::V1 | Self::Predict { .. } => 0,
        }
    }

    /// How long the client gives it.
    pub(crate) fn timeout(&self) -> Option<Duration> {
        match self {
            Self::V2 { timeout, .. } => *timeout,
            Self::V1 | Self::Predict { .. } => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use pilotlight_engine::{DataType, Dim};
    use proptest::prelude::*;

    use super::*;
    use crate::testing::{info, n, signature};

    /// Bodies that are right, or right but for a few bytes.
    fn bodies() -> impl Strategy<Value = Vec<u8>> {
        let right = prop::sample::select(vec![
            r#"{"instances":[{"a":[1,2],"b":"x"},{"b":{"b64":"eQ=="},"a":[3.5,-4e2]}]}"#,
            r#"{"inputs":{"a":[[1,2],[3,4]],"b":[["x"],["y"]]},"more":[{}]}"#,
            r#"{"id":"1","inputs":[{"name":"a","shape":[1,2],"datatype":"FP32","data":[[1,2]]},{"data":["x"],"name":"b","shape":[1,1],"datatype":"BYTES"}],"outputs":[{"name":"y"}]}"#,
            r#"{"inputs":[{"name":"a","shape":[1,2],"datatype":"FP32","parameters":{"binary_data_size":8}}]}abcdefgh"#,
            r#"{"features":[1,2],"request_id":"r"}"#,
        ]);
        let patches = prop::collection::vec(
            (
                any::<prop::sample::Index>(),
                prop::sample::select(b"[]{},:\"0-e.x\\n".to_vec()),
            ),
            0..4,
        );
        (right, patches).prop_map(|(right, patches)| {
            let mut body = right.as_bytes().to_vec();
            for (at, byte) in patches {
                let at = at.index(body.len());
                body[at] = byte;
            }
            body
        })
    }

    /// Lists of numbers as clients write them, and broken ones.
    fn numbers() -> impl Strategy<Value = String> {
        let number = prop_oneof![
            6 => any::<f32>().prop_filter("finite", |x| x.is_finite()).prop_map(|x| format!("{x:?}")),
            3 => any::<i16>().prop_map(|n| n.to_string()),
            2 => (-1e9f64..1e9).prop_map(|x| x.to_string()),
            2 => (0u64..1 << 60, -30i32..30).prop_map(|(m, e)| format!("{m}.5e{e}")),
        ];
        let rare = prop::option::weighted(
            0.3,
            prop::sample::select(vec![
                "1e999", "null", "01", "1.", ".5", "+1", "-", "1e", "\"x\"", "[1]", "", "1/2", "true",
            ]),
        );
        let spaces = prop::sample::select(vec!["", " ", "\n\t "]);
        (
            prop::collection::vec(number, 40..120).prop_map(|mut n| {
                if n.len() % 3 > 0 {
                    n.truncate(n.len() / 2 * 2);
                }
                n
            }),
            rare,
            any::<prop::sample::Index>(),
            spaces,
        )
            .prop_map(|(numbers, rare, at, space)| {
                let mut rows: Vec<String> = numbers.chunks(2).map(|pair| pair.join(&format!("{space},"))).collect();
                if let Some(rare) = rare {
                    let at = at.index(rows.len());
                    rows[at] = format!("{},{rare}", numbers[at]);
                }
                format!("[{space}[{}]{space}]", rows.join(&format!("]{space},{space}[")))
            })
    }

    proptest! {
        #[test]
        fn long_lists_read_the_fast_way_and_the_slow_way_are_the_same(list in numbers(), first in any::<bool>()) {
            let a = info("a", DataType::F32, vec![n(), Dim::Fixed(2)]);
            let signature = signature(vec![a.clone()], vec![a]);
            let rows = list.matches("],").count() + list.matches("] ,").count() + list.matches("]\n\t ,").count() + 1;
            let v1 = format!(r#"{{"instances": {list}}}"#);
            let tensor = if first {
                format!(r#""data": {list}, "name": "a""#)
            } else {
                format!(r#""name": "a", "data": {list}"#)
            };
            let v2 = format!(r#"{{"inputs": [{{{tensor}, "shape": [{rows}, 2], "datatype": "FP32"}}]}}"#);
            // One byte that no list has makes the fast way give up.
            let slow = |body: &str| body.replacen('{', r#"{"x": "\u0001pilotlight:", "#, 1);
            for (face, body) in [(Face::V1, v1), (Face::V2, v2)] {
                let read = |body: String| face.parse(&HeaderMap::new(), &Bytes::from(body), "m", &signature).map(|(inputs, _)| inputs);
                let (fast, slow) = (read(body.clone()), read(slow(&body)));
                match (&fast, &slow) {
                    // As text, since NaN, which null is, is not itself.
                    (Ok(fast), Ok(slow)) => prop_assert_eq!(format!("{fast:?}"), format!("{slow:?}")),
                    (Err(_), Err(_)) => {}
                    _ => prop_assert!(false, "{body}: {fast:?}, {slow:?}"),
                }
            }
        }

        #[test]
        fn no_body_panics_and_what_parses_fits_the_signature(
            body in prop_oneof![bodies(), prop::collection::vec(any::<u8>(), 0..64)],
            json in prop::option::of(0usize..200),
        ) {
            let body = Bytes::from(body);
            let mut headers = HeaderMap::new();
            if let Some(len) = json {
                headers.insert(v2::BINARY_HEADER, len.into());
            }
            let a = info("a", DataType::F32, vec![n(), Dim::Fixed(2)]);
            let b = info("b", DataType::Bytes, vec![n(), Dim::Fixed(1)]);
            let y = info("y", DataType::F32, vec![n(), Dim::Fixed(2)]);
            let two = signature(vec![a.clone(), b], vec![y.clone()]);
            let one = signature(vec![a], vec![y]);
            for signature in [&two, &one] {
                for face in [Face::V1, Face::V2, Face::Predict] {
                    if let Ok((inputs, _)) = face.parse(&headers, &body, "m", signature) {
                        prop_assert_eq!(inputs.len(), signature.inputs.len());
                        for (tensor, info) in inputs.iter().zip(&signature.inputs) {
                            prop_assert_eq!(tensor.datatype(), info.datatype);
                            prop_assert_eq!(tensor.shape().len(), 2);
                            prop_assert_eq!(Some(&Dim::Fixed(tensor.shape()[1])), info.shape.as_ref().map(|s| &s[1]));
                        }
                    }
                }
            }
        }
    }
}
