//! A call of the Open Inference Protocol over gRPC, for an authority of the caller's choice.

use std::{collections::HashMap, net::Ipv4Addr};

use tonic::{
    Request, Status,
    client::Grpc,
    transport::{Channel, Endpoint, Uri},
};

use crate::{
    client::FLOWERS,
    open_inference::{Contents, InferRequest, InferResponse, Tensor, model_infer},
};

/// Asks the iris model `model` about the two flowers at `address`, port 80, with `authority` as host; returns the labels.
pub async fn infer_flowers(address: Ipv4Addr, authority: &str, model: &str) -> Result<Vec<i64>, Status> {
    let unavailable = |error: tonic::transport::Error| Status::unavailable(format!("{error:?}"));
    let origin: Uri = format!("http://{authority}").parse().expect("a host makes a URI");
    let endpoint = Endpoint::from_shared(format!("http://{address}:80")).map_err(unavailable)?;
    let channel: Channel = endpoint.origin(origin).connect().await.map_err(unavailable)?;
    let mut client = Grpc::new(channel);
    client.ready().await.map_err(unavailable)?;
    let request = InferRequest {
        model_name: model.to_owned(),
        inputs: vec![Tensor {
            name: "input".to_owned(),
            datatype: "FP32".to_owned(),
            shape: vec![2, 4],
            contents: Some(Contents {
                fp32_contents: FLOWERS.iter().flatten().map(|x| *x as f32).collect(),
                ..Contents::default()
            }),
        }],
        raw_input_contents: Vec::new(),
    };
    let (path, codec) = model_infer();
    let answer = client.unary(Request::new(request), path, codec).await?.into_inner();
    Ok(labels(answer))
}

/// The values of the output `label`, wherever the server put them.
fn labels(answer: InferResponse) -> Vec<i64> {
    let raw = answer.raw_output_contents;
    let outputs = answer.outputs.into_iter().enumerate();
    let by_name: HashMap<String, (usize, Tensor)> = outputs
        .map(|(at, output)| (output.name.clone(), (at, output)))
        .collect();
    let Some((at, output)) = by_name.get("label") else {
        return Vec::new();
    };
    if let Some(bytes) = raw.get(*at) {
        let (words, _) = bytes.as_chunks::<8>();
        return words.iter().map(|word| i64::from_le_bytes(*word)).collect();
    }
    output
        .contents
        .as_ref()
        .map(|contents| contents.int64_contents.clone())
        .unwrap_or_default()
}
