//! Bodies to tensors and back, without serving anything: what benches measure and fuzz targets feed.

use bytes::Bytes;
use http::HeaderMap;
use pilotlight_engine::{Signature, Tensor};
use prost::Message as _;

use crate::error::ApiError;
use crate::faces::{Face, v1, v2};
use crate::grpc;

/// The tensors of a V1 body, in the signature's order.
///
/// # Errors
/// As the client would be told.
pub fn read_v1(body: &[u8], signature: &Signature) -> Result<Vec<Tensor>, ApiError> {
    v1::parse(body, signature)
}

/// The tensors of a V2 body, in the signature's order. `json` is the value of `Inference-Header-Content-Length`, where the client
/// sends it.
///
/// # Errors
/// As the client would be told.
pub fn read_v2(body: &Bytes, json: Option<usize>, signature: &Signature) -> Result<Vec<Tensor>, ApiError> {
    let mut headers = HeaderMap::new();
    if let Some(json) = json {
        headers.insert(v2::BINARY_HEADER, json.into());
    }
    let (inputs, _) = Face::V2.parse(&headers, body, "model", signature)?;
    Ok(inputs)
}

/// The tensors of a `ModelInferRequest`, in the signature's order.
///
/// # Errors
/// As the client would be told.
pub fn read_grpc(message: Bytes, signature: &Signature) -> Result<Vec<Tensor>, ApiError> {
    grpc::read(message, signature)
}

/// The V1 answer of these outputs.
pub fn write_v1(signature: &Signature, outputs: &[Tensor]) -> Vec<u8> {
    v1::answer(signature, outputs)
}

/// The V2 answer of these outputs, in JSON.
///
/// # Errors
/// Where an output has no form in JSON.
pub fn write_v2(signature: &Signature, outputs: &[Tensor]) -> Result<Vec<u8>, ApiError> {
    let head = v2::Head {
        model: "model",
        version: "1",
        id: None,
    };
    let requested: Vec<v2::Requested> = (0..outputs.len())
        .map(|index| v2::Requested {
            index,
            binary: false,
            classes: 0,
        })
        .collect();
    v2::check_requested(&requested, signature)?;
    v2::answer(&head, signature, &requested, outputs).map(|(body, _)| body)
}

/// A `ModelInferRequest` with these inputs in raw contents.
pub fn grpc_request(model: &str, signature: &Signature, inputs: &[Tensor]) -> Vec<u8> {
    grpc::request(model, signature, inputs).encode_to_vec()
}
