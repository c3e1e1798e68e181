//! Graphs inside graphs and functions as a hostile or careless file brings them: bounded, and refused by name.

use bytes::Bytes;
use pilotlight_engine::onnx::{
    AttributeProto, FunctionProto, GraphProto, ModelProto, NodeProto, OperatorSetIdProto, StringStringEntryProto,
    TensorProto, TensorShapeProto, TensorTypeProto, TypeProto, ValueInfoProto,
};
use pilotlight_engine::{Data, LoadOptions, Model, RunError, Tensor, load, load_bytes};
use prost::Message;

const FLOAT: i32 = 1;
const INT64: i32 = 7;
const BOOL: i32 = 9;

fn value(name: &str, elem_type: i32) -> ValueInfoProto {
    let tensor = TensorTypeProto {
        elem_type: Some(elem_type),
        shape: None::<TensorShapeProto>,
    };
    ValueInfoProto {
        name: Some(name.into()),
        r#type: Some(TypeProto {
            tensor_type: Some(tensor),
            ..TypeProto::default()
        }),
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

fn with_graph(mut node: NodeProto, name: &str, graph: GraphProto) -> NodeProto {
    node.attribute.push(AttributeProto {
        name: Some(name.into()),
        r#type: Some(5),
        g: Some(Box::new(graph)),
        ..AttributeProto::default()
    });
    node
}

fn tensor(name: &str, dims: &[i64], data_type: i32, v: &[i64]) -> TensorProto {
    TensorProto {
        name: Some(name.into()),
        dims: dims.to_vec(),
        data_type: Some(data_type),
        int64_data: if data_type == INT64 { v.to_vec() } else { Vec::new() },
        int32_data: if data_type == BOOL {
            v.iter().map(|&x| x as i32).collect()
        } else {
            Vec::new()
        },
        float_data: if data_type == FLOAT {
            v.iter().map(|&x| x as f32).collect()
        } else {
            Vec::new()
        },
        ..TensorProto::default()
    }
}

fn graph(inputs: &[(&str, i32)], nodes: Vec<NodeProto>, outputs: &[(&str, i32)]) -> GraphProto {
    GraphProto {
        node: nodes,
        input: inputs.iter().map(|(n, t)| value(n, *t)).collect(),
        output: outputs.iter().map(|(n, t)| value(n, *t)).collect(),
        ..GraphProto::default()
    }
}

fn model(graph: GraphProto) -> ModelProto {
    let import = |domain: &str, version| OperatorSetIdProto {
        domain: Some(domain.into()),
        version: Some(version),
    };
    ModelProto {
        ir_version: Some(9),
        opset_import: vec![import("", 20), import("local", 1)],
        graph: Some(graph),
        ..ModelProto::default()
    }
}

fn loaded(model: &ModelProto) -> Result<Box<dyn Model>, String> {
    load_bytes(Bytes::from(model.encode_to_vec()), &LoadOptions::default()).map_err(|e| e.to_string())
}

fn floats(v: &[f32]) -> Tensor {
    Tensor::new(vec![v.len()], Data::F32(v.to_vec())).expect("fits")
}

/// Doubles `x` as often as `n` says, and gives all values on the way.
fn doubling(limit: i64) -> ModelProto {
    let body = graph(
        &[("i", INT64), ("more", BOOL), ("v", FLOAT)],
        vec![node("Add", &["v", "v"], &["w"]), node("Mul", &["w", "factor"], &["z"])],
        &[("more", BOOL), ("z", FLOAT), ("z", FLOAT)],
    );
    let mut outer = graph(
        &[("x", FLOAT)],
        vec![with_graph(
            node("Loop", &["n", "", "x"], &["last", "all"]),
            "body",
            body,
        )],
        &[("last", FLOAT), ("all", FLOAT)],
    );
    outer.initializer = vec![tensor("n", &[], INT64, &[limit]), tensor("factor", &[], FLOAT, &[1])];
    model(outer)
}

#[test]
fn a_loop_carries_values_captures_others_and_stacks_what_it_makes() {
    let run = |n| {
        loaded(&doubling(n))
            .expect("loads")
            .run(vec![floats(&[1.0, 3.0])])
            .expect("runs")
    };
    let out = run(3);
    assert_eq!(out[0], floats(&[8.0, 24.0]));
    assert_eq!(out[1].shape(), [3, 2]);
    assert_eq!(out[1].data(), &Data::F32(vec![2.0, 6.0, 4.0, 12.0, 8.0, 24.0]));
    let none = run(0);
    assert_eq!(none[0], floats(&[1.0, 3.0]));
    assert_eq!(none[1].shape()[0], 0);
}

#[test]
fn a_loop_without_end_fails_and_names_its_node() {
    // No values are collected, so that memory is not what ends it.
    let mut endless = doubling(i64::MAX);
    let graph = endless.graph.as_mut().expect("a graph");
    graph.output.truncate(1);
    graph.node[0].output.truncate(1);
    let body = graph.node[0].attribute[0].g.as_mut().expect("a body");
    body.output.truncate(2);
    let Err(RunError::Node { node, reason, .. }) = loaded(&endless).expect("loads").run(vec![floats(&[1.0])]) else {
        panic!("it ended")
    };
    assert!(
        node == "the_loop" && reason.contains("loops run more than"),
        "{node}: {reason}"
    );
}

#[test]
fn a_fault_in_a_body_names_both_nodes() {
    let mut faulty = doubling(2);
    let graph = faulty.graph.as_mut().expect("a graph");
    graph.initializer[1] = tensor("factor", &[3], FLOAT, &[1, 2, 3]);
    let Err(RunError::Node { node, reason, .. }) = loaded(&faulty).expect("loads").run(vec![floats(&[1.0, 2.0])])
    else {
        panic!("it ran")
    };
    assert!(node == "the_loop" && reason.contains("the_mul"), "{node}: {reason}");
}

#[test]
fn only_the_branch_that_is_taken_runs() {
    let branch = |op: &str| graph(&[], vec![node(op, &["x"], &["b"])], &[("b", FLOAT)]);
    let both = with_graph(node("If", &["c"], &["y"]), "then_branch", branch("Neg"));
    let both = with_graph(both, "else_branch", branch("Abs"));
    let outer = graph(&[("c", BOOL), ("x", FLOAT)], vec![both], &[("y", FLOAT)]);
    let model = loaded(&model(outer)).expect("loads");
    let run = |c| {
        let c = Tensor::new(Vec::new(), Data::Bool(vec![c])).expect("fits");
        model.run(vec![c, floats(&[-2.0])]).expect("runs").swap_remove(0)
    };
    assert_eq!(run(true), floats(&[2.0]));
    assert_eq!(run(false), floats(&[2.0]));
    let two = Tensor::new(vec![2], Data::Bool(vec![true, false])).expect("fits");
    assert!(model.run(vec![two, floats(&[1.0])]).is_err());
}

#[test]
fn graphs_that_nest_too_deep_are_refused() {
    let mut inner = graph(&[], vec![node("Neg", &["x"], &["b"])], &[("b", FLOAT)]);
    for _ in 0..40 {
        let both = with_graph(node("If", &["c"], &["b"]), "then_branch", inner.clone());
        let small = graph(&[], vec![node("Neg", &["x"], &["b"])], &[("b", FLOAT)]);
        inner = graph(&[], vec![with_graph(both, "else_branch", small)], &[("b", FLOAT)]);
    }
    inner.input = vec![value("c", BOOL), value("x", FLOAT)];
    let Err(e) = loaded(&model(inner)) else {
        panic!("it loaded")
    };
    assert!(e.contains("recursion") || e.contains("deeper"), "{e}");
}

fn function(name: &str, nodes: Vec<NodeProto>) -> FunctionProto {
    FunctionProto {
        name: Some(name.into()),
        domain: Some("local".into()),
        input: vec!["a".into()],
        output: vec!["b".into()],
        node: nodes,
        opset_import: vec![
            OperatorSetIdProto {
                domain: None,
                version: Some(20),
            },
            OperatorSetIdProto {
                domain: Some("local".into()),
                version: Some(1),
            },
        ],
        ..FunctionProto::default()
    }
}

fn call(name: &str, from: &str, to: &str) -> NodeProto {
    NodeProto {
        domain: Some("local".into()),
        ..node(name, &[from], &[to])
    }
}

#[test]
fn functions_are_read_in_place_with_the_attributes_of_the_call() {
    let mut leaky = node("LeakyRelu", &["a"], &["b"]);
    leaky.attribute.push(AttributeProto {
        name: Some("alpha".into()),
        ref_attr_name: Some("slope".into()),
        r#type: Some(1),
        ..AttributeProto::default()
    });
    let slope = |v| AttributeProto {
        name: Some("slope".into()),
        f: Some(v),
        r#type: Some(1),
        ..AttributeProto::default()
    };
    let mut steep = call("Leaky", "x", "y");
    steep.attribute.push(slope(0.5));
    let mut model = model(graph(
        &[("x", FLOAT)],
        vec![steep, call("Leaky", "x", "z")],
        &[("y", FLOAT), ("z", FLOAT)],
    ));
    let mut leak = function("Leaky", vec![leaky]);
    leak.attribute_proto.push(slope(0.25));
    model.functions = vec![leak];
    let out = loaded(&model)
        .expect("loads")
        .run(vec![floats(&[-4.0, 1.0])])
        .expect("runs");
    assert_eq!(out, [floats(&[-2.0, 1.0]), floats(&[-1.0, 1.0])]);
}

#[test]
fn functions_that_call_themselves_or_grow_without_end_are_refused() {
    let mut cyclic = model(graph(&[("x", FLOAT)], vec![call("F", "x", "y")], &[("y", FLOAT)]));
    cyclic.functions = vec![
        function("F", vec![call("G", "a", "b")]),
        function("G", vec![call("F", "a", "b")]),
    ];
    let Err(e) = loaded(&cyclic) else { panic!("it loaded") };
    assert!(e.contains("calls itself"), "{e}");
    // Each calls the next ten times: 10^12 nodes from a file of a few kilobytes.
    let mut wide = model(graph(&[("x", FLOAT)], vec![call("F0", "x", "y")], &[("y", FLOAT)]));
    for k in 0..12 {
        let mut nodes: Vec<_> = (0..9)
            .map(|n| call(&format!("F{}", k + 1), "a", &format!("t{n}")))
            .collect();
        nodes.push(call(&format!("F{}", k + 1), "a", "b"));
        wide.functions.push(function(&format!("F{k}"), nodes));
    }
    wide.functions.push(function("F12", vec![node("Neg", &["a"], &["b"])]));
    let Err(e) = loaded(&wide) else { panic!("it loaded") };
    assert!(e.contains("more than"), "{e}");
}

#[test]
fn a_few_bytes_in_any_operator_can_not_ask_for_all_memory() {
    let huge = [1i64 << 20, 1 << 20];
    let bombs: [(&str, &[&str]); 5] = [
        ("ConstantOfShape", &["dims"]),
        ("Expand", &["one", "dims"]),
        ("Tile", &["square", "dims"]),
        ("Range", &["from", "to", "step"]),
        ("HannWindow", &["to"]),
    ];
    for (op, inputs) in bombs {
        let mut outer = graph(&[], vec![node(op, inputs, &["y"])], &[("y", FLOAT)]);
        outer.initializer = vec![
            tensor("dims", &[2], INT64, &huge),
            tensor("one", &[1], FLOAT, &[1]),
            tensor("square", &[1, 1], FLOAT, &[1]),
            tensor("from", &[], INT64, &[0]),
            tensor("to", &[], INT64, &[1 << 40]),
            tensor("step", &[], INT64, &[1]),
        ];
        let Err(RunError::Node { node, reason, .. }) = loaded(&model(outer)).expect("loads").run(Vec::new()) else {
            panic!("{op} ran")
        };
        assert!(
            node == format!("the_{}", op.to_lowercase()) && reason.contains("larger"),
            "{op}: {reason}"
        );
    }
}

#[test]
fn many_large_tensors_at_a_time_are_refused() {
    // Each is allowed; all of them together would be far more than any machine has.
    let names: Vec<String> = (0..4096).map(|k| format!("z{k}")).collect();
    let mut nodes: Vec<_> = names
        .iter()
        .map(|n| node("ConstantOfShape", &["dims"], &[n.as_str()]))
        .collect();
    let all: Vec<&str> = names.iter().map(String::as_str).collect();
    nodes.push(node("Sum", &all, &["y"]));
    let mut outer = graph(&[("dims", INT64)], nodes, &[("y", FLOAT)]);
    outer.name = Some("g".into());
    let model = loaded(&model(outer)).expect("loads");
    let dims = Tensor::new(vec![1], Data::I64(vec![1 << 28])).expect("fits");
    let Err(RunError::Node { node, reason, .. }) = model.run(vec![dims]) else {
        panic!("it ran")
    };
    assert!(
        node == "the_constantofshape" && reason.contains("bytes"),
        "{node}: {reason}"
    );
}

fn external(location: &str, offset: u64, length: u64) -> TensorProto {
    let entry = |key: &str, value: String| StringStringEntryProto {
        key: Some(key.into()),
        value: Some(value),
    };
    TensorProto {
        external_data: vec![
            entry("location", location.into()),
            entry("offset", offset.to_string()),
            entry("length", length.to_string()),
        ],
        data_location: Some(1),
        name: Some("w".into()),
        dims: vec![2],
        data_type: Some(FLOAT),
        ..TensorProto::default()
    }
}

#[test]
fn weights_in_other_files_are_found_beside_the_model_and_nowhere_else() {
    let folder = tempfile::tempdir().expect("a directory");
    let bytes: Vec<u8> = [9.0f32, 1.0, 2.0].iter().flat_map(|v| v.to_le_bytes()).collect();
    std::fs::write(folder.path().join("weights.bin"), bytes).expect("it can be written");
    let path = folder.path().join("model.onnx");
    let loaded = |w: TensorProto| {
        let mut outer = graph(&[("x", FLOAT)], vec![node("Add", &["x", "w"], &["y"])], &[("y", FLOAT)]);
        outer.initializer = vec![w];
        std::fs::write(&path, model(outer).encode_to_vec()).expect("it can be written");
        load(&path, &LoadOptions::default()).map_err(|e| e.to_string())
    };
    let good = loaded(external("weights.bin", 4, 8)).expect("loads");
    assert_eq!(
        good.run(vec![floats(&[0.5, 0.5])]).expect("runs")[0],
        floats(&[1.5, 2.5])
    );
    for (location, offset, length) in [
        ("weights.bin", 8, 8),
        ("weights.bin", 4, 4),
        ("weights.bin", u64::MAX, 8),
        ("../weights.bin", 4, 8),
        ("/etc/hostname", 0, 8),
        ("absent.bin", 0, 8),
    ] {
        let Err(e) = loaded(external(location, offset, length)) else {
            panic!("{location} {offset} {length} loaded")
        };
        assert!(e.contains("\"w\""), "{e}");
    }
}
