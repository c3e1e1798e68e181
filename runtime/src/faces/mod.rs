//! The HTTP faces: what each protocol reads and writes. Nothing here waits, runs or counts.

mod body;
mod classifier;
mod json;
mod path;
mod predict;
mod v1;
mod v2;

use pilotlight_engine::{Signature, Tensor};
use tokio::time::Instant;

pub(crate) use body::read as read_body;
pub(crate) use json::declared;
pub(crate) use path::{Target, target};
pub(crate) use v2::{VERSION, metadata};

use crate::error::ApiError;
use crate::scheduler::Answer;

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
    V2 { id: Option<String>, outputs: Vec<usize> },
    Predict { request_id: Option<String> },
}

impl Face {
    /// Body to inputs in the signature's order.
    pub(crate) fn parse(
        self,
        body: &[u8],
        model: &str,
        signature: &Signature,
    ) -> Result<(Vec<Tensor>, Call), ApiError> {
        match self {
            Self::V1 => Ok((v1::parse(body, signature)?, Call::V1)),
            Self::V2 => {
                let request = v2::parse(body, signature)?;
                Ok((
                    request.inputs,
                    Call::V2 {
                        id: request.id,
                        outputs: request.outputs,
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

impl Call {
    /// Outputs to body.
    pub(crate) fn answer(
        &self,
        model: &str,
        signature: &Signature,
        answer: &Answer,
        arrived: Instant,
    ) -> Result<Vec<u8>, ApiError> {
        match self {
            Self::V1 => Ok(v1::answer(signature, &answer.outputs)),
            Self::V2 { id, outputs } => v2::answer(model, id.as_deref(), signature, outputs, &answer.outputs),
            Self::Predict { .. } => {
                let prediction = predict::predict(model, signature, &answer.outputs)?;
                let latency_ms = arrived.elapsed().as_secs_f64() * 1000.0;
                Ok(predict::answer(&prediction, latency_ms, answer.batch_rows))
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
}
