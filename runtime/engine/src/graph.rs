//! A model's graph, checked as hostile input: every name is defined once and before it is read, every operator is known.
//!
//! Values are numbers from here on. What is refused: duplicate names, unknown or later-defined inputs (which includes
//! cycles), unknown operators and attributes, tensors that contradict their dimensions, types that are no tensors.

use std::collections::HashMap;
use std::sync::Arc;

use crate::kernel::Kernel;
use crate::onnx::{GraphProto, ModelProto, NodeProto, TypeProto, ValueInfoProto};
use crate::registry::{self, ML};
use crate::spec::Spec;
use crate::{DataType, Dim, LoadError, Tensor, TensorInfo, decode};

/// The number of a value: an index into the graph's tables.
pub(crate) type ValueId = usize;

/// A node with its kernel.
pub(crate) struct Node {
    /// Its name, or its first output where it has none.
    pub(crate) name: String,
    pub(crate) op: String,
    pub(crate) inputs: Vec<Option<ValueId>>,
    /// `None` where nobody can read the output.
    pub(crate) outputs: Vec<Option<ValueId>>,
    pub(crate) kernel: Kernel,
    /// What passes rewrite; `None` for all other nodes.
    pub(crate) role: Role,
}

/// Nodes that passes over the graph look for.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Role {
    Plain,
    /// Passes its first input on.
    Identity,
    Conv,
    BatchNorm {
        epsilon: f32,
    },
    /// Names the columns of its input.
    ZipMap(crate::Labels),
}

/// Nodes in an order in which they can run, and what goes in and out.
pub(crate) struct Graph {
    pub(crate) nodes: Vec<Node>,
    /// For each value its constant, where it has one.
    pub(crate) constants: Vec<Option<Arc<Tensor>>>,
    pub(crate) inputs: Vec<(ValueId, TensorInfo)>,
    pub(crate) outputs: Vec<(ValueId, TensorInfo)>,
}

fn invalid(reason: impl Into<String>) -> LoadError {
    LoadError::Invalid(reason.into())
}

/// Reads and checks the graph of a model.
pub(crate) fn read(model: &ModelProto) -> Result<Graph, LoadError> {
    let graph = model.graph.as_ref().ok_or_else(|| invalid("it has no graph"))?;
    let opsets = opsets(model)?;
    let mut names: HashMap<&str, ValueId> = HashMap::new();
    let mut constants = Vec::new();
    let mut define = |name, constants: &mut Vec<Option<Arc<Tensor>>>, constant| {
        let id = constants.len();
        constants.push(constant);
        names.insert(name, id).is_none().then_some(id)
    };
    for t in &graph.initializer {
        let name = t.name.as_deref().unwrap_or_default();
        let tensor = decode::tensor(t).map_err(|e| invalid(format!("initialiser {name:?}: {e}")))?;
        if name.is_empty() || define(name, &mut constants, Some(Arc::new(tensor))).is_none() {
            return Err(invalid(format!(
                "initialiser {name:?} has no name or one that is taken"
            )));
        }
    }
    let initialisers: std::collections::HashSet<_> = graph
        .initializer
        .iter()
        .map(|t| t.name.as_deref().unwrap_or_default())
        .collect();
    let mut inputs = Vec::new();
    for i in &graph.input {
        let name = i.name.as_deref().unwrap_or_default();
        // An input with an initialiser is a constant that callers could override; we never do.
        if initialisers.contains(name) {
            continue;
        }
        match define(name, &mut constants, None) {
            Some(id) if !name.is_empty() => inputs.push((id, input_info(i)?)),
            _ => return Err(invalid(format!("input {name:?} has no name or one that is taken"))),
        }
    }
    let mut nodes = Vec::with_capacity(graph.node.len());
    let produced = producers(graph);
    for n in &graph.node {
        let reads = resolve_inputs(n, &names, &produced)?;
        let (kernel, role) = build(n, &opsets)?;
        let mut outputs = Vec::with_capacity(n.output.len());
        for o in &n.output {
            if o.is_empty() {
                outputs.push(None);
                continue;
            }
            let id = constants.len();
            constants.push(None);
            if names.insert(o, id).is_some() {
                return Err(fault(n, format!("output {o:?} is defined twice")));
            }
            outputs.push(Some(id));
        }
        let op = n.op_type.clone().unwrap_or_default();
        nodes.push(Node {
            name: label(n).to_owned(),
            op,
            inputs: reads,
            outputs,
            kernel,
            role,
        });
    }
    let outputs = graph
        .output
        .iter()
        .map(|o| output(o, &names))
        .collect::<Result<Vec<_>, _>>()?;
    if outputs.is_empty() {
        return Err(invalid("its graph has no outputs"));
    }
    Ok(Graph {
        nodes,
        constants,
        inputs,
        outputs,
    })
}

/// A node's name, or its first output where it has none.
fn label(n: &NodeProto) -> &str {
    match n.name.as_deref() {
        Some(name) if !name.is_empty() => name,
        _ => n.output.first().map_or("", String::as_str),
    }
}

fn fault(n: &NodeProto, reason: impl Into<String>) -> LoadError {
    LoadError::Node {
        node: label(n).to_owned(),
        op: n.op_type.clone().unwrap_or_default(),
        reason: reason.into(),
    }
}

fn opsets(model: &ModelProto) -> Result<HashMap<&str, i64>, LoadError> {
    let mut out = HashMap::new();
    for o in &model.opset_import {
        let domain = registry::domain(o.domain.as_deref().unwrap_or_default());
        let version = o.version.unwrap_or(0);
        let newest = match domain {
            registry::ONNX => registry::NEWEST_ONNX,
            ML => registry::NEWEST_ML,
            _ => i64::MAX,
        };
        if version < 1 || version > newest {
            return Err(invalid(format!(
                "opset {version} of domain {domain:?} is not known; 1 to {newest} are"
            )));
        }
        if out.insert(domain, version).is_some_and(|v| v != version) {
            return Err(invalid(format!("domain {domain:?} is imported in two versions")));
        }
    }
    Ok(out)
}

/// For each value the node that makes it, to tell a cycle or a wrong order from an unknown name.
fn producers(graph: &GraphProto) -> HashMap<&str, &str> {
    graph
        .node
        .iter()
        .flat_map(|n| n.output.iter().map(move |o| (o.as_str(), label(n))))
        .collect()
}

fn resolve_inputs(
    n: &NodeProto,
    names: &HashMap<&str, ValueId>,
    produced: &HashMap<&str, &str>,
) -> Result<Vec<Option<ValueId>>, LoadError> {
    n.input
        .iter()
        .map(|i| match (names.get(i.as_str()), produced.get(i.as_str())) {
            _ if i.is_empty() => Ok(None),
            (Some(&id), _) => Ok(Some(id)),
            (None, Some(by)) => Err(fault(
                n,
                format!("input {i:?} is made by {by:?}, which does not come before (a cycle, or nodes out of order)"),
            )),
            (None, None) => Err(fault(n, format!("input {i:?} is defined nowhere"))),
        })
        .collect()
}

/// The kernel of a node, its attributes parsed and checked.
fn build(n: &NodeProto, opsets: &HashMap<&str, i64>) -> Result<(Kernel, Role), LoadError> {
    let op = n.op_type.as_deref().unwrap_or_default();
    let domain = registry::domain(n.domain.as_deref().unwrap_or_default());
    let opset = opsets.get(domain).copied();
    let unsupported = || LoadError::UnsupportedOperator {
        op: op.to_owned(),
        domain: domain.to_owned(),
        opset: opset.unwrap_or(0),
        node: label(n).to_owned(),
    };
    let (Some(entry), Some(opset)) = (opset.and_then(|v| registry::lookup(domain, op, v)), opset) else {
        return Err(unsupported());
    };
    let given = |list: &[String]| list.iter().map(|s| !s.is_empty()).collect();
    let spec = Spec::new(op, opset, given(&n.input), given(&n.output), &n.attribute).map_err(|e| fault(n, e.0))?;
    let kernel = (entry.build)(&spec).map_err(|e| fault(n, e.0))?;
    let role = role(domain, &spec).map_err(|e| fault(n, e.0))?;
    if let Some(unread) = spec.unread() {
        return Err(fault(n, format!("attribute {unread:?} is not supported")));
    }
    Ok((kernel, role))
}

fn role(domain: &str, spec: &Spec<'_>) -> crate::fault::OpResult<Role> {
    Ok(match (domain, spec.op) {
        (registry::ONNX, "Identity") => Role::Identity,
        // With a mask output, or in training, it is no plain identity.
        (registry::ONNX, "Dropout") if !spec.has_output(1) && !spec.has_input(2) => Role::Identity,
        (registry::ONNX, "Conv") => Role::Conv,
        (registry::ONNX, "BatchNormalization") if !spec.outputs.iter().skip(1).any(|&o| o) => Role::BatchNorm {
            epsilon: spec.float("epsilon", 1e-5)?,
        },
        (ML, "ZipMap") => Role::ZipMap(crate::ops::ml::labels(spec)?),
        _ => Role::Plain,
    })
}

fn input_info(v: &ValueInfoProto) -> Result<TensorInfo, LoadError> {
    let name = v.name.clone().unwrap_or_default();
    match v
        .r#type
        .as_ref()
        .and_then(|t| t.tensor_type.as_ref())
        .and_then(|t| t.elem_type)
    {
        Some(_) => info(v),
        None => Err(invalid(format!("input {name:?} is no tensor"))),
    }
}

/// Name, type and shape; a sequence of maps (what `ZipMap` makes) becomes its scores.
fn info(v: &ValueInfoProto) -> Result<TensorInfo, LoadError> {
    let name = v.name.clone().unwrap_or_default();
    let ty = v.r#type.as_ref();
    let tensor = ty.and_then(|t| t.tensor_type.as_ref());
    let datatype = match (tensor.and_then(|t| t.elem_type), ty) {
        (Some(t), _) => decode::data_type(t).map_err(|e| invalid(format!("{name:?}: {e}")))?,
        (None, Some(t)) if is_map_sequence(t) => DataType::F32,
        // Some writers leave the type of outputs to inference; the first run corrects it.
        (None, None) => DataType::F32,
        _ => return Err(invalid(format!("{name:?} is no tensor"))),
    };
    let shape = tensor.and_then(|t| t.shape.as_ref()).map(|s| {
        s.dim
            .iter()
            .map(|d| match (d.dim_value.map(usize::try_from), d.dim_param.as_deref()) {
                (Some(Ok(v)), _) => Dim::Fixed(v),
                (_, Some(p)) if !p.is_empty() => Dim::Symbol(p.to_owned()),
                _ => Dim::Unknown,
            })
            .collect()
    });
    Ok(TensorInfo {
        name,
        datatype,
        shape,
        labels: None,
    })
}

fn is_map_sequence(t: &TypeProto) -> bool {
    let element = t.sequence_type.as_ref().and_then(|s| s.elem_type.as_ref());
    t.map_type.is_some() || element.is_some_and(|e| e.map_type.is_some())
}

fn output(v: &ValueInfoProto, names: &HashMap<&str, ValueId>) -> Result<(ValueId, TensorInfo), LoadError> {
    let name = v.name.as_deref().unwrap_or_default();
    match names.get(name) {
        Some(&id) => Ok((id, info(v)?)),
        None => Err(invalid(format!("output {name:?} is defined nowhere"))),
    }
}
