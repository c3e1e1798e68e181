//! Files that are no models, or lie: loading answers with an error that names the fault, never panics, never hangs.

use bytes::Bytes;
use pilotlight_engine::onnx::{
    AttributeProto, DimensionProto, GraphProto, ModelProto, NodeProto, OperatorSetIdProto, TensorProto,
    TensorShapeProto, TensorTypeProto, TypeProto, ValueInfoProto,
};
use pilotlight_engine::{Data, LoadError, LoadOptions, RunError, Tensor, load_bytes};
use proptest::prelude::*;
use prost::Message;

fn value(name: &str, dims: &[i64]) -> ValueInfoProto {
    let dim = dims
        .iter()
        .map(|&d| DimensionProto {
            dim_value: Some(d),
            dim_param: None,
        })
        .collect();
    let tensor = TensorTypeProto {
        elem_type: Some(1),
        shape: Some(TensorShapeProto { dim }),
    };
    let r#type = Some(TypeProto {
        tensor_type: Some(tensor),
        ..TypeProto::default()
    });
    ValueInfoProto {
        name: Some(name.into()),
        r#type,
    }
}

fn node(op: &str, inputs: &[&str], outputs: &[&str]) -> NodeProto {
    let own = |v: &[&str]| v.iter().map(|s| (*s).to_owned()).collect();
    NodeProto {
        name: Some(format!("the_{}", op.to_lowercase())),
        op_type: Some(op.into()),
        input: own(inputs),
        output: own(outputs),
        ..NodeProto::default()
    }
}

fn ints(name: &str, v: &[i64]) -> TensorProto {
    TensorProto {
        name: Some(name.into()),
        dims: vec![v.len() as i64],
        data_type: Some(7),
        int64_data: v.to_vec(),
        ..TensorProto::default()
    }
}

/// x, flattened, times a matrix, softmax.
fn model() -> ModelProto {
    let weights: Vec<u8> = (0..6).flat_map(|k| (k as f32).to_le_bytes()).collect();
    let matrix = TensorProto {
        name: Some("w".into()),
        dims: vec![2, 3],
        data_type: Some(1),
        raw_data: Some(weights.into()),
        ..TensorProto::default()
    };
    let graph = GraphProto {
        node: vec![
            node("Reshape", &["x", "shape"], &["flat"]),
            node("MatMul", &["flat", "w"], &["scores"]),
            node("Softmax", &["scores"], &["y"]),
        ],
        initializer: vec![matrix, ints("shape", &[-1, 2])],
        input: vec![value("x", &[1, 2])],
        output: vec![value("y", &[1, 3])],
        ..GraphProto::default()
    };
    ModelProto {
        ir_version: Some(8),
        opset_import: vec![OperatorSetIdProto {
            domain: None,
            version: Some(13),
        }],
        graph: Some(graph),
        ..ModelProto::default()
    }
}

fn load(model: &ModelProto) -> Result<Box<dyn pilotlight_engine::Model>, LoadError> {
    load_bytes(Bytes::from(model.encode_to_vec()), &LoadOptions::default())
}

fn error(change: impl FnOnce(&mut GraphProto)) -> String {
    let mut model = model();
    change(model.graph.as_mut().expect("the model has a graph"));
    match load(&model) {
        Ok(_) => panic!("it loaded"),
        Err(e) => e.to_string(),
    }
}

#[test]
fn the_model_itself_loads_and_runs() {
    let x = Tensor::new(vec![1, 2], Data::F32(vec![0.0, 0.0])).expect("fits");
    let y = load(&model()).expect("loads").run(vec![x]).expect("runs");
    let Data::F32(y) = y[0].data() else { panic!("no floats") };
    assert!(y.iter().all(|v| (v - 1.0 / 3.0).abs() < 1e-6));
}

#[test]
fn a_file_cut_at_any_byte_loads_or_fails_cleanly() {
    let whole = model().encode_to_vec();
    for n in 0..whole.len() {
        // A cut between fields leaves a smaller message that may be valid; what it must not do is panic.
        if let Ok(model) = load_bytes(Bytes::copy_from_slice(&whole[..n]), &LoadOptions::default()) {
            let x = Tensor::new(vec![1, 2], Data::F32(vec![0.0, 0.0])).expect("fits");
            let _ = model.run(vec![x]);
        }
    }
}

#[test]
fn a_cycle_or_a_wrong_order_names_both_nodes() {
    let e = error(|g| g.node[0].input[0] = "y".into());
    assert!(e.contains("the_reshape") && e.contains("the_softmax"), "{e}");
    let e = error(|g| g.node.swap(0, 1));
    assert!(e.contains("the_matmul") && e.contains("the_reshape"), "{e}");
    let e = error(|g| g.node[1].input[0] = "scores".into());
    assert!(e.contains("the_matmul"), "{e}");
}

#[test]
fn names_must_be_defined_once() {
    assert!(error(|g| g.node[2].input[0] = "nowhere".into()).contains("nowhere"));
    assert!(error(|g| g.output[0].name = Some("nowhere".into())).contains("nowhere"));
    assert!(error(|g| g.node[1].output[0] = "flat".into()).contains("twice"));
    assert!(error(|g| g.node[1].output[0] = "w".into()).contains("twice"));
    assert!(error(|g| g.initializer[1].name = Some("w".into())).contains("taken"));
    assert!(error(|g| g.input.push(value("x", &[1]))).contains("taken"));
}

#[test]
fn an_unknown_operator_is_named_with_domain_opset_and_node() {
    let e = error(|g| g.node[2].op_type = Some("Frobnicate".into()));
    for part in ["Frobnicate", "\"\"", "13", "the_softmax"] {
        assert!(e.contains(part), "{e} lacks {part}");
    }
    let e = error(|g| g.node[2].domain = Some("example.org".into()));
    assert!(e.contains("example.org"), "{e}");
}

#[test]
fn an_unknown_attribute_is_named_with_its_node() {
    let attribute = AttributeProto {
        name: Some("sharpness".into()),
        i: Some(1),
        r#type: Some(2),
        ..AttributeProto::default()
    };
    let e = error(|g| g.node[2].attribute.push(attribute));
    assert!(e.contains("sharpness") && e.contains("the_softmax"), "{e}");
}

#[test]
fn tensors_that_contradict_their_dimensions_are_refused() {
    assert!(error(|g| g.initializer[0].dims = vec![2, 4]).contains("\"w\""));
    let long = error(|g| g.initializer[0].dims = vec![i64::MAX, i64::MAX]);
    assert!(long.contains("longest") && long.contains("\"w\""), "{long}");
    let large = error(|g| g.initializer[0].dims = vec![1 << 40, 1 << 40]);
    assert!(large.contains("larger") && large.contains("\"w\""), "{large}");
    assert!(error(|g| g.initializer[0].dims = vec![-2, -3]).contains("negative"));
    assert!(error(|g| g.initializer[0].data_type = Some(77)).contains("77"));
    assert!(error(|g| g.initializer[0].data_location = Some(1)).contains("another file"));
}

#[test]
fn an_opset_from_the_future_or_the_past_is_refused() {
    for version in [0, -1, 1000] {
        let mut model = model();
        model.opset_import[0].version = Some(version);
        assert!(load(&model).is_err(), "opset {version}");
    }
    let mut model = model();
    model.opset_import.clear();
    assert!(load(&model).is_err());
}

#[test]
fn a_few_bytes_can_not_ask_for_all_memory() {
    // Neither at load nor in a run: 2^60 elements.
    let mut model = model();
    let graph = model.graph.as_mut().expect("the model has a graph");
    graph.initializer.push(ints("huge", &[1 << 30, 1 << 30]));
    graph.node.push(node("ConstantOfShape", &["huge"], &["zeros"]));
    graph.output.push(value("zeros", &[]));
    let x = || Tensor::new(vec![1, 2], Data::F32(vec![0.0, 0.0])).expect("fits");
    let loaded = load(&model).expect("loads");
    let Err(RunError::Node { node, reason, .. }) = loaded.run(vec![x()]) else {
        panic!("it ran")
    };
    assert!(node == "the_constantofshape" && reason.contains("larger"), "{reason}");
    // The model stays usable.
    assert!(loaded.run(vec![x()]).is_err());
}

#[test]
fn a_graph_of_too_many_nodes_is_refused() {
    let mut model = model();
    let graph = model.graph.as_mut().expect("the model has a graph");
    let one = NodeProto {
        op_type: Some("Identity".into()),
        input: vec!["x".into()],
        output: vec![String::new()],
        ..NodeProto::default()
    };
    graph.node.resize((1 << 20) + 1, one);
    let Err(e) = load(&model) else { panic!("it loaded") };
    assert!(e.to_string().contains("more than 1048576 nodes"), "{e}");
}

#[test]
fn dimensions_whose_product_overflows_are_refused() {
    let e = error(|g| g.initializer[0].dims = vec![1 << 62, 1 << 62, 2]);
    assert!(e.contains("\"w\""), "{e}");
    let e = error(|g| g.initializer[0].dims = vec![-1, 3]);
    assert!(e.contains("\"w\""), "{e}");
}

#[test]
fn inputs_that_do_not_fit_name_the_input() {
    let model = load(&model()).expect("loads");
    let run = |t: Tensor| match model.run(vec![t]) {
        Err(RunError::Input { name, .. }) => name,
        other => panic!("{other:?}"),
    };
    assert_eq!(
        run(Tensor::new(vec![1, 2], Data::F64(vec![0.0; 2])).expect("fits")),
        "x"
    );
    assert_eq!(run(Tensor::new(vec![2], Data::F32(vec![0.0; 2])).expect("fits")), "x");
    assert_eq!(
        run(Tensor::new(vec![1, 3], Data::F32(vec![0.0; 3])).expect("fits")),
        "x"
    );
    assert!(model.run(Vec::new()).is_err());
}

#[test]
fn nesting_without_end_is_refused() {
    let mut ty = TypeProto::default();
    for _ in 0..5000 {
        let sequence = pilotlight_engine::onnx::SequenceTypeProto {
            elem_type: Some(Box::new(ty)),
        };
        ty = TypeProto {
            sequence_type: Some(Box::new(sequence)),
            ..TypeProto::default()
        };
    }
    // Encoding and dropping recurse as well, so on a thread with room for that.
    let check = std::thread::Builder::new().stack_size(256 << 20).spawn(move || {
        let e = error(|g| g.input[0].r#type = Some(ty));
        assert!(e.contains("recursion"), "{e}");
    });
    check.expect("a thread starts").join().expect("the check passes");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn random_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..512)) {
        let _ = load_bytes(Bytes::from(bytes), &LoadOptions::default());
    }

    #[test]
    fn a_model_with_changed_bytes_never_panics(changes in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4)) {
        let mut bytes = model().encode_to_vec();
        for (at, byte) in changes {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        if let Ok(model) = load_bytes(Bytes::from(bytes), &LoadOptions::default()) {
            let x = Tensor::new(vec![1, 2], Data::F32(vec![0.5, 0.25])).expect("fits");
            let _ = model.run(vec![x]);
        }
    }
}
