//! Builds small models for tests, as bytes would bring them.

use bytes::Bytes;
use prost::Message;

use crate::onnx::{
    AttributeProto, DimensionProto, GraphProto, ModelProto, NodeProto, OperatorSetIdProto, TensorProto,
    TensorShapeProto, TensorTypeProto, TypeProto, ValueInfoProto,
};
use crate::plan::Plan;
use crate::{Data, LoadError, LoadOptions, Model, Tensor, load_bytes};

pub(crate) fn f32_tensor(dims: &[i64], v: &[f32]) -> TensorProto {
    TensorProto {
        dims: dims.to_vec(),
        data_type: Some(1),
        float_data: v.to_vec(),
        ..TensorProto::default()
    }
}

pub(crate) fn i64_tensor(dims: &[i64], v: &[i64]) -> TensorProto {
    TensorProto {
        dims: dims.to_vec(),
        data_type: Some(7),
        int64_data: v.to_vec(),
        ..TensorProto::default()
    }
}

/// A node's attributes.
#[derive(Default)]
pub(crate) struct Attributes(Vec<AttributeProto>);

impl Attributes {
    fn push(&mut self, name: &str, ty: i32, set: impl FnOnce(&mut AttributeProto)) {
        let mut a = AttributeProto {
            name: Some(name.into()),
            r#type: Some(ty),
            ..AttributeProto::default()
        };
        set(&mut a);
        self.0.push(a);
    }

    pub(crate) fn float(&mut self, name: &str, v: f32) {
        self.push(name, 1, |a| a.f = Some(v));
    }

    pub(crate) fn int(&mut self, name: &str, v: i64) {
        self.push(name, 2, |a| a.i = Some(v));
    }

    pub(crate) fn string(&mut self, name: &str, v: &str) {
        self.push(name, 3, |a| a.s = Some(Bytes::copy_from_slice(v.as_bytes())));
    }

    pub(crate) fn floats(&mut self, name: &str, v: &[f32]) {
        self.push(name, 6, |a| a.floats = v.to_vec());
    }

    pub(crate) fn ints(&mut self, name: &str, v: &[i64]) {
        self.push(name, 7, |a| a.ints = v.to_vec());
    }

    pub(crate) fn strings(&mut self, name: &str, v: &[&str]) {
        self.push(name, 8, |a| {
            a.strings = v.iter().map(|s| Bytes::copy_from_slice(s.as_bytes())).collect();
        });
    }
}

/// A model under construction.
pub(crate) struct Graphs(pub(crate) ModelProto);

impl Graphs {
    pub(crate) fn new(opset: i64) -> Self {
        let import = |domain: &str, version| OperatorSetIdProto {
            domain: Some(domain.into()),
            version: Some(version),
        };
        Self(ModelProto {
            ir_version: Some(8),
            graph: Some(GraphProto::default()),
            opset_import: vec![import("", opset), import("ai.onnx.ml", 3)],
            ..ModelProto::default()
        })
    }

    fn graph(&mut self) -> &mut GraphProto {
        self.0.graph.get_or_insert_default()
    }

    pub(crate) fn input(mut self, name: &str, elem_type: i32, dims: &[Option<i64>]) -> Self {
        let dim = dims
            .iter()
            .map(|d| DimensionProto {
                dim_value: *d,
                dim_param: d.is_none().then(|| "N".into()),
            })
            .collect();
        let tensor = TensorTypeProto {
            elem_type: Some(elem_type),
            shape: Some(TensorShapeProto { dim }),
        };
        let ty = TypeProto {
            tensor_type: Some(tensor),
            ..TypeProto::default()
        };
        self.graph().input.push(ValueInfoProto {
            name: Some(name.into()),
            r#type: Some(ty),
        });
        self
    }

    pub(crate) fn output(mut self, name: &str) -> Self {
        self.graph().output.push(ValueInfoProto {
            name: Some(name.into()),
            r#type: None,
        });
        self
    }

    pub(crate) fn constant(mut self, name: &str, mut tensor: TensorProto) -> Self {
        tensor.name = Some(name.into());
        self.graph().initializer.push(tensor);
        self
    }

    pub(crate) fn node(self, op: &str, inputs: &[&str], outputs: &[&str]) -> Self {
        self.node_with(op, inputs, outputs, |_| {})
    }

    pub(crate) fn node_with(
        mut self,
        op: &str,
        inputs: &[&str],
        outputs: &[&str],
        attributes: impl FnOnce(&mut Attributes),
    ) -> Self {
        let mut list = Attributes::default();
        attributes(&mut list);
        // Names that only this domain has.
        let ml = crate::registry::lookup(crate::registry::ML, op, 3).is_some();
        self.graph().node.push(NodeProto {
            op_type: Some(op.into()),
            input: inputs.iter().map(|s| (*s).to_owned()).collect(),
            output: outputs.iter().map(|s| (*s).to_owned()).collect(),
            attribute: list.0,
            domain: ml.then(|| "ai.onnx.ml".into()),
            name: None,
            overload: None,
        });
        self
    }

    pub(crate) fn bytes(&self) -> Bytes {
        Bytes::from(self.0.encode_to_vec())
    }

    pub(crate) fn plan(self) -> Result<Plan, LoadError> {
        crate::load::compile(self.bytes())
    }

    pub(crate) fn load(&self) -> Result<Box<dyn Model>, LoadError> {
        load_bytes(self.bytes(), &LoadOptions::default())
    }

    pub(crate) fn run(&self, inputs: Vec<Tensor>) -> Vec<Tensor> {
        self.load()
            .expect("the model loads")
            .run(inputs)
            .expect("the model runs")
    }
}

/// Runs one node on these inputs, at the given opset.
pub(crate) fn eval_at(
    opset: i64,
    op: &str,
    attributes: impl FnOnce(&mut Attributes),
    inputs: &[Tensor],
    outputs: usize,
) -> Result<Vec<Tensor>, String> {
    let names: Vec<String> = (0..inputs.len()).map(|k| format!("x{k}")).collect();
    let results: Vec<String> = (0..outputs).map(|k| format!("y{k}")).collect();
    let mut graph = Graphs::new(opset);
    for (name, tensor) in names.iter().zip(inputs) {
        let dims: Vec<Option<i64>> = tensor.shape().iter().map(|&d| Some(d as i64)).collect();
        graph = graph.input(name, onnx_type(tensor), &dims);
    }
    let inputs_by_name: Vec<&str> = names.iter().map(String::as_str).collect();
    let outputs_by_name: Vec<&str> = results.iter().map(String::as_str).collect();
    graph = graph.node_with(op, &inputs_by_name, &outputs_by_name, attributes);
    for name in &results {
        graph = graph.output(name);
    }
    graph
        .load()
        .map_err(|e| e.to_string())?
        .run(inputs.to_vec())
        .map_err(|e| e.to_string())
}

/// Runs one node at a recent opset and returns its first output.
pub(crate) fn eval(op: &str, attributes: impl FnOnce(&mut Attributes), inputs: &[Tensor]) -> Tensor {
    eval_at(18, op, attributes, inputs, 1)
        .expect("the node runs")
        .swap_remove(0)
}

fn onnx_type(t: &Tensor) -> i32 {
    use crate::DataType as D;
    match t.datatype() {
        D::F32 => 1,
        D::U8 => 2,
        D::I8 => 3,
        D::U16 => 4,
        D::I16 => 5,
        D::I32 => 6,
        D::I64 => 7,
        D::Bytes => 8,
        D::Bool => 9,
        D::F16 => 10,
        D::F64 => 11,
        D::U32 => 12,
        D::U64 => 13,
        D::BF16 => 16,
    }
}

/// A float tensor.
pub(crate) fn f32s(dims: &[usize], v: &[f32]) -> Tensor {
    Tensor::new(dims.to_vec(), Data::F32(v.to_vec())).expect("fits")
}

/// An integer tensor.
pub(crate) fn ints(dims: &[usize], v: &[i64]) -> Tensor {
    Tensor::new(dims.to_vec(), Data::I64(v.to_vec())).expect("fits")
}

/// A list of strings.
pub(crate) fn texts(dims: &[usize], v: &[&str]) -> Tensor {
    let v = v.iter().map(|s| Bytes::copy_from_slice(s.as_bytes())).collect();
    Tensor::new(dims.to_vec(), Data::Bytes(v)).expect("fits")
}

/// Fails unless the tensors agree to within rounding.
pub(crate) fn assert_close(found: &Tensor, wanted: &Tensor) {
    assert_eq!(found.shape(), wanted.shape());
    let (Data::F32(a), Data::F32(b)) = (found.data(), wanted.data()) else {
        panic!("{found:?} is no float")
    };
    let close = a.iter().zip(b).all(|(a, b)| (a - b).abs() <= 1e-5 * b.abs().max(1.0));
    assert!(close, "{a:?} instead of {b:?}");
}

/// Runs a model of float tensors.
pub(crate) fn run_f32(model: &Graphs, dims: &[&[usize]], values: &[&[f32]]) -> Vec<Vec<f32>> {
    let inputs = dims
        .iter()
        .zip(values)
        .map(|(d, v)| Tensor::new(d.to_vec(), Data::F32(v.to_vec())).expect("fits"));
    let outputs = model.run(inputs.collect());
    outputs
        .into_iter()
        .map(|t| match t.into_parts().1 {
            Data::F32(v) => v,
            other => panic!("an output of type {}", other.datatype()),
        })
        .collect()
}
