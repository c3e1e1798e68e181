//! The bounds of a run, which are the process's: alone in a process of its own.

use bytes::Bytes;
use pilotlight_engine::onnx::{
    DimensionProto, GraphProto, ModelProto, NodeProto, OperatorSetIdProto, TensorShapeProto, TensorTypeProto,
    TypeProto, ValueInfoProto,
};
use pilotlight_engine::{Data, Limits, LoadOptions, RunError, Tensor, load_bytes, set_limits};
use prost::Message as _;

fn value(name: &str) -> ValueInfoProto {
    let dim = DimensionProto {
        dim_value: None,
        dim_param: Some("n".into()),
    };
    let tensor = TensorTypeProto {
        elem_type: Some(1),
        shape: Some(TensorShapeProto { dim: vec![dim; 2] }),
    };
    ValueInfoProto {
        name: Some(name.into()),
        r#type: Some(TypeProto {
            tensor_type: Some(tensor),
            ..TypeProto::default()
        }),
    }
}

#[test]
fn a_run_beyond_the_limits_that_were_set_fails_and_names_its_node() {
    let node = NodeProto {
        name: Some("product".into()),
        op_type: Some("MatMul".into()),
        input: vec!["x".into(), "y".into()],
        output: vec!["z".into()],
        ..NodeProto::default()
    };
    let model = ModelProto {
        ir_version: Some(8),
        opset_import: vec![OperatorSetIdProto {
            domain: None,
            version: Some(17),
        }],
        graph: Some(GraphProto {
            name: Some("g".into()),
            node: vec![node],
            input: vec![value("x"), value("y")],
            output: vec![value("z")],
            ..GraphProto::default()
        }),
        ..ModelProto::default()
    };
    let model = load_bytes(Bytes::from(model.encode_to_vec()), &LoadOptions::default()).expect("loads");
    let run = |limits: Limits| {
        set_limits(limits);
        let side = |dims: [usize; 2]| Tensor::new(dims.to_vec(), Data::F32(vec![1.0; 2000])).expect("fits");
        match model.run(vec![side([2000, 1]), side([1, 2000])]) {
            Ok(_) => None,
            Err(RunError::Node { node, reason, .. }) => Some(format!("{node}: {reason}")),
            Err(other) => panic!("{other}"),
        }
    };
    assert_eq!(run(Limits::default()), None);
    let few = Limits {
        elements: 3_999_999,
        ..Limits::default()
    };
    let said = run(few).expect("4,000,000 elements are too many");
    assert!(
        said.starts_with("product") && said.contains("3999999 elements"),
        "{said}"
    );
    let little = Limits {
        bytes: 15 << 20,
        ..Limits::default()
    };
    let said = run(little).expect("16 MB are too many");
    assert!(said.starts_with("product") && said.contains("15728640 bytes"), "{said}");
    assert_eq!(run(Limits::default()), None);
}
