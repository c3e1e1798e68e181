//! Clients of `inference.GRPCInferenceService` for the load generator: one row of FP32 a request, raw contents.

use std::net::SocketAddr;

use tonic::{
    client::Grpc,
    transport::{Channel, Endpoint},
};

use super::generator::Client;
use crate::open_inference::{InferRequest, Tensor, model_infer};

/// Calls share connections, as those of a client's channel do.
const CALLS_A_CONNECTION: usize = 16;

/// One call at a time.
#[derive(Debug)]
pub struct Calls {
    grpc: Grpc<Channel>,
    request: InferRequest,
}

/// As many clients, which ask the model `m` with this tensor of FP32.
pub async fn clients(address: SocketAddr, input: &str, shape: &[usize], tensor: &[u8], count: usize) -> Vec<Calls> {
    let request = InferRequest {
        model_name: "m".to_owned(),
        inputs: vec![Tensor {
            name: input.to_owned(),
            datatype: "FP32".to_owned(),
            shape: shape.iter().map(|&size| size as i64).collect(),
            contents: None,
        }],
        raw_input_contents: vec![tensor.to_vec().into()],
    };
    let endpoint = Endpoint::from_shared(format!("http://{address}")).expect("an address makes a URI");
    let mut channels = Vec::new();
    for _ in 0..count.div_ceil(CALLS_A_CONNECTION) {
        channels.push(endpoint.connect().await.expect("the server listens"));
    }
    let calls = |index: usize| Calls {
        grpc: Grpc::new(channels[index % channels.len()].clone()),
        request: request.clone(),
    };
    (0..count).map(calls).collect()
}

impl Client for Calls {
    async fn exchange(&mut self) {
        self.grpc.ready().await.expect("the connection stays open");
        let (path, codec) = model_infer();
        let request = tonic::Request::new(self.request.clone());
        let answer = self.grpc.unary(request, path, codec).await.expect("an answer");
        assert!(!answer.into_inner().raw_output_contents.is_empty(), "an output");
    }
}
