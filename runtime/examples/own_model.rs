//! A model of one's own: a perceptron on Burn's CPU backend, with weights from a safetensors file, behind the same batching,
//! protocols and metrics as an ONNX file.
//!
//! `cargo run -p pilotlight-runtime --example own_model -- --http-address 127.0.0.1:8080`
//!
//! `curl 127.0.0.1:8080/v1/models/perceptron:predict -d '{"instances": [[1, 0], [1, 1]]}'` answers which of the two
//! inputs are exclusive. The file is named by WEIGHTS; without one the example writes weights of its own to a temporary folder.
//!
//! Burn's backend is used as it is, which needs no crate that the runtime does not have already; a module of the crate `burn` fits
//! behind the same two functions, with `burn-store` for its weights.

use std::error::Error;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use burn_backend::ops::{ActivationOps, FloatTensorOps};
use burn_backend::{Shape, TensorData, TensorMetadata, read_sync};
use burn_flex::{Flex, FlexDevice, FlexTensor};
use clap::Parser as _;
use pilotlight_runtime::{Data, DataType, Dim, Model, RunError, Server, Signature, Tensor, TensorInfo};
use safetensors::SafeTensors;
use safetensors::tensor::{Dtype, TensorView};

#[derive(clap::Parser)]
struct Cli {
    #[command(flatten)]
    args: pilotlight_runtime::Args,
}

fn main() -> ExitCode {
    Server::new(Cli::parse().args)
        .model("perceptron", || Perceptron::load(&weights()?))
        .run()
}

/// `relu(x W1 + b1) W2`.
struct Perceptron {
    signature: Signature,
    hidden: FlexTensor,
    bias: FlexTensor,
    out: FlexTensor,
}

impl Perceptron {
    fn load(path: &Path) -> Result<Self, Box<dyn Error>> {
        let bytes = std::fs::read(path)?;
        let file = SafeTensors::deserialize(&bytes)?;
        let info = |name: &str, width| TensorInfo {
            name: name.to_owned(),
            datatype: DataType::F32,
            // The same symbol in every shape: rows of different requests may run together.
            shape: Some(vec![Dim::Symbol("N".to_owned()), Dim::Fixed(width)]),
            labels: None,
        };
        let hidden = tensor(&file, "hidden.weight")?;
        let (inputs, outputs) = (hidden.shape()[0], file.tensor("out.weight")?.shape()[1]);
        Ok(Self {
            signature: Signature {
                inputs: vec![info("x", inputs)],
                outputs: vec![info("y", outputs)],
            },
            hidden,
            bias: tensor(&file, "hidden.bias")?,
            out: tensor(&file, "out.weight")?,
        })
    }
}

impl Model for Perceptron {
    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn run(&self, mut inputs: Vec<Tensor>) -> Result<Vec<Tensor>, RunError> {
        let failed = |reason: String| RunError::Node {
            node: "perceptron".to_owned(),
            op: "Perceptron".to_owned(),
            reason,
        };
        // One input of FP32, as the signature says.
        let Some((shape, Data::F32(values))) = inputs.pop().map(Tensor::into_parts) else {
            return Err(failed("no input of FP32".to_owned()));
        };
        let rows = shape[0];
        let x = Flex::float_from_data(TensorData::new(values, Shape::from(shape)), &FlexDevice);
        let hidden = Flex::float_add(Flex::float_matmul(x, self.hidden.clone()), self.bias.clone());
        let y = Flex::float_matmul(Flex::relu(hidden), self.out.clone());
        let width = y.shape()[1];
        let data = read_sync(Flex::float_into_data(y)).map_err(|error| failed(format!("{error:?}")))?;
        let values = data.to_vec::<f32>().map_err(|error| failed(format!("{error:?}")))?;
        let y = Tensor::new(vec![rows, width], Data::F32(values));
        y.map(|y| vec![y])
            .ok_or_else(|| failed("an output of another size".to_owned()))
    }
}

/// A tensor of FP32 of the file, on the device.
fn tensor(file: &SafeTensors<'_>, name: &str) -> Result<FlexTensor, Box<dyn Error>> {
    let view = file.tensor(name)?;
    if view.dtype() != Dtype::F32 {
        return Err(format!("{name} is of {:?}, not F32", view.dtype()).into());
    }
    let (chunks, _) = view.data().as_chunks();
    let values: Vec<f32> = chunks.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect();
    let data = TensorData::new(values, Shape::from(view.shape().to_vec()));
    Ok(Flex::float_from_data(data, &FlexDevice))
}

/// The file of WEIGHTS, or one that is written here: weights that compute the exclusive or.
fn weights() -> Result<PathBuf, Box<dyn Error>> {
    if let Some(path) = std::env::var_os("WEIGHTS") {
        return Ok(path.into());
    }
    let path = std::env::temp_dir().join(format!("perceptron-{}.safetensors", std::process::id()));
    let bytes = |values: &[f32]| -> Vec<u8> { values.iter().flat_map(|value| value.to_le_bytes()).collect() };
    let (hidden, bias, out) = (bytes(&[1.0, 1.0, 1.0, 1.0]), bytes(&[0.0, -1.0]), bytes(&[1.0, -2.0]));
    let tensors = [
        ("hidden.weight", TensorView::new(Dtype::F32, vec![2, 2], &hidden)?),
        ("hidden.bias", TensorView::new(Dtype::F32, vec![1, 2], &bias)?),
        ("out.weight", TensorView::new(Dtype::F32, vec![2, 1], &out)?),
    ];
    safetensors::serialize_to_file(tensors, None, &path)?;
    Ok(path)
}
