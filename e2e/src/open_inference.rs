//! Messages of `inference.GRPCInferenceService`, as much of them as the tests and benches need.

use tonic::codegen::http::uri::PathAndQuery;
use tonic_prost::ProstCodec;

/// `ModelInferRequest`.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct InferRequest {
    #[prost(string, tag = "1")]
    pub(crate) model_name: String,
    #[prost(message, repeated, tag = "5")]
    pub(crate) inputs: Vec<Tensor>,
    #[prost(bytes = "bytes", repeated, tag = "7")]
    pub(crate) raw_input_contents: Vec<bytes::Bytes>,
}

/// `ModelInferResponse`.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct InferResponse {
    #[prost(message, repeated, tag = "5")]
    pub(crate) outputs: Vec<Tensor>,
    #[prost(bytes = "bytes", repeated, tag = "6")]
    pub(crate) raw_output_contents: Vec<bytes::Bytes>,
}

/// `InferInputTensor` and `InferOutputTensor`, which are alike.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct Tensor {
    #[prost(string, tag = "1")]
    pub(crate) name: String,
    #[prost(string, tag = "2")]
    pub(crate) datatype: String,
    #[prost(int64, repeated, tag = "3")]
    pub(crate) shape: Vec<i64>,
    #[prost(message, optional, tag = "5")]
    pub(crate) contents: Option<Contents>,
}

/// `InferTensorContents`.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct Contents {
    #[prost(int64, repeated, tag = "3")]
    pub(crate) int64_contents: Vec<i64>,
    #[prost(float, repeated, tag = "6")]
    pub(crate) fp32_contents: Vec<f32>,
}

/// The call `ModelInfer`.
pub(crate) fn model_infer() -> (PathAndQuery, ProstCodec<InferRequest, InferResponse>) {
    let path = PathAndQuery::from_static("/inference.GRPCInferenceService/ModelInfer");
    (path, ProstCodec::default())
}
