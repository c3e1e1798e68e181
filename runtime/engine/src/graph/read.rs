//! Reads a model's graph, the graphs inside it, and the bodies of the functions that it calls.

use std::borrow::Cow;
use std::collections::{HashMap, HashSet};
use std::rc::Rc;
use std::sync::Arc;

use super::info::{self, Info};
use super::names::{Frame, Level, Meaning, Names};
use super::{Graph, Node, Role, ValueId, role};
use crate::control::{self, Body, Control, Kind};
use crate::files::Files;
use crate::kernel::Kernel;
use crate::onnx::{AttributeProto, FunctionProto, GraphProto, ModelProto, NodeProto, OperatorSetIdProto, TensorProto};
use crate::registry::{self, ML};
use crate::spec::Spec;
use crate::{DataType, LoadError, Tensor, TensorInfo, decode, plan};

/// Graphs inside graphs and functions inside functions, at most.
const MAX_DEPTH: usize = 32;
/// Nodes of a model once its functions are expanded.
const MAX_NODES: usize = 1 << 20;

/// Domain, name and overload.
type FunctionKey<'m> = (&'m str, &'m str, &'m str);

struct Reader<'m, 'f> {
    functions: HashMap<FunctionKey<'m>, &'m FunctionProto>,
    /// Functions whose bodies are being read.
    active: Vec<FunctionKey<'m>>,
    names: Names<'m>,
    nodes: usize,
    files: &'f Files,
}

fn invalid(reason: impl Into<String>) -> LoadError {
    LoadError::Invalid(reason.into())
}

/// Reads and checks the graph of a model. `files` leads to tensors that lie outside of it.
pub(crate) fn read(model: &ModelProto, files: &Files) -> Result<Graph, LoadError> {
    let graph = model.graph.as_ref().ok_or_else(|| invalid("it has no graph"))?;
    let mut reader = Reader {
        functions: functions(model)?,
        active: Vec::new(),
        names: Names::default(),
        nodes: 0,
        files,
    };
    let opsets = Rc::new(opsets(&model.opset_import)?);
    let graph = reader.graph(graph, opsets, Rc::default())?.graph;
    if graph.outputs.is_empty() {
        return Err(invalid("its graph has no outputs"));
    }
    Ok(graph)
}

fn functions(model: &ModelProto) -> Result<HashMap<FunctionKey<'_>, &FunctionProto>, LoadError> {
    let mut out = HashMap::new();
    for f in &model.functions {
        let name = f.name.as_deref().unwrap_or_default();
        let key = (
            registry::domain(f.domain.as_deref().unwrap_or_default()),
            name,
            f.overload.as_deref().unwrap_or_default(),
        );
        if out.insert(key, f).is_some() {
            return Err(invalid(format!("function {name:?} is defined twice")));
        }
    }
    Ok(out)
}

fn opsets(imports: &[OperatorSetIdProto]) -> Result<HashMap<&str, i64>, LoadError> {
    let mut out = HashMap::new();
    for o in imports {
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

/// A graph that was read, and the values around it that it captures, as its last inputs.
struct Complete {
    graph: Graph,
    captured: Vec<ValueId>,
    formals: usize,
}

impl<'m> Reader<'m, '_> {
    fn graph(
        &mut self,
        proto: &'m GraphProto,
        opsets: Rc<HashMap<&'m str, i64>>,
        attributes: Rc<HashMap<String, AttributeProto>>,
    ) -> Result<Complete, LoadError> {
        let outermost = self.names.levels.is_empty();
        if self.names.frames.len() >= MAX_DEPTH {
            return Err(invalid(format!("its graphs nest deeper than {MAX_DEPTH}")));
        }
        self.names.levels.push(Level::default());
        self.names.frames.push(Frame {
            names: HashMap::new(),
            level: self.names.levels.len() - 1,
            function: false,
            opsets,
            attributes,
        });
        self.initialisers(&proto.initializer)?;
        let (mut inputs, mut unservable) = (Vec::new(), None);
        let initialisers: HashSet<_> = proto.initializer.iter().filter_map(|t| t.name.as_deref()).collect();
        for i in &proto.input {
            let name = i.name.as_deref().unwrap_or_default();
            // An input with an initialiser is a constant that callers could override; we never do.
            if initialisers.contains(name) {
                continue;
            }
            let info = if outermost { info::input(i)? } else { info::info(i)? };
            let id = self.names.level().define(None);
            if name.is_empty() || !self.names.bind(name, Some(id)) {
                return Err(invalid(format!("input {name:?} has no name or one that is taken")));
            }
            unservable = unservable.or(info.unservable);
            inputs.push((id, info.tensor));
        }
        self.nodes(&proto.node)?;
        let mut outputs = Vec::with_capacity(proto.output.len());
        for o in &proto.output {
            let name = o.name.as_deref().unwrap_or_default();
            let Meaning::Value(id) = self.names.resolve(name) else {
                return Err(invalid(format!("output {name:?} is defined nowhere")));
            };
            let Info {
                tensor,
                unservable: why,
            } = info::info(o)?;
            unservable = unservable.or(why);
            outputs.push((id, tensor));
        }
        self.names.frames.pop();
        let level = self.names.levels.pop().unwrap_or_default();
        let formals = inputs.len();
        let mut captured = Vec::new();
        for (outer, here) in level.captures {
            // A captured constant is this graph's own by now.
            if level.constants[here].is_none() {
                captured.push(outer);
                inputs.push((here, anonymous()));
            }
        }
        let graph = Graph {
            nodes: level.nodes,
            constants: level.constants,
            inputs,
            outputs,
            unservable,
        };
        Ok(Complete {
            graph,
            captured,
            formals,
        })
    }

    fn initialisers(&mut self, list: &'m [TensorProto]) -> Result<(), LoadError> {
        for t in list {
            let name = t.name.as_deref().unwrap_or_default();
            let tensor = self.tensor(t, name)?;
            let id = self.names.level().define(Some(Arc::new(tensor)));
            if name.is_empty() || !self.names.bind(name, Some(id)) {
                return Err(invalid(format!(
                    "initialiser {name:?} has no name or one that is taken"
                )));
            }
        }
        Ok(())
    }

    fn tensor(&self, t: &TensorProto, name: &str) -> Result<Tensor, LoadError> {
        let tensor = decode::tensor_in(t, self.files);
        tensor.map_err(|e| invalid(format!("initialiser {name:?}: {e}")))
    }

    fn nodes(&mut self, list: &'m [NodeProto]) -> Result<(), LoadError> {
        let produced = producers(list);
        for n in list {
            self.nodes += 1;
            if self.nodes > MAX_NODES {
                return Err(fault(n, format!("the model has more than {MAX_NODES} nodes")));
            }
            let reads = self.inputs(n, &produced)?;
            let domain = registry::domain(n.domain.as_deref().unwrap_or_default());
            let op = n.op_type.as_deref().unwrap_or_default();
            let opset = self.names.frame().opsets.get(domain).copied();
            let known = control::graphs(domain, op).is_some()
                || opset.is_some_and(|v| registry::lookup(domain, op, v).is_some());
            let key = (domain, op, n.overload.as_deref().unwrap_or_default());
            match self.functions.get_key_value(&key).map(|(k, f)| (*k, *f)) {
                Some((key, function)) if !known => self.call(n, key, function, reads)?,
                _ => self.node(n, domain, opset, reads)?,
            }
        }
        Ok(())
    }

    fn inputs(&mut self, n: &'m NodeProto, produced: &HashMap<&str, &str>) -> Result<Vec<Option<ValueId>>, LoadError> {
        let mut reads = Vec::with_capacity(n.input.len());
        for i in &n.input {
            reads.push(match self.names.resolve(i) {
                _ if i.is_empty() => None,
                Meaning::Value(value) => Some(value),
                Meaning::LeftOut => None,
                Meaning::Unknown => {
                    return Err(fault(
                        n,
                        match produced.get(i.as_str()) {
                            Some(by) => format!(
                                "input {i:?} is made by {by:?}, which does not come before (a cycle, or nodes out of order)"
                            ),
                            None => format!("input {i:?} is defined nowhere"),
                        },
                    ));
                }
            });
        }
        Ok(reads)
    }

    fn node(
        &mut self,
        n: &'m NodeProto,
        domain: &str,
        opset: Option<i64>,
        mut reads: Vec<Option<ValueId>>,
    ) -> Result<(), LoadError> {
        let op = n.op_type.as_deref().unwrap_or_default();
        let attributes = self.attributes(n);
        let given = |list: &[String]| list.iter().map(|s| !s.is_empty()).collect();
        let spec = Spec::new(op, opset.unwrap_or(0), given(&n.input), given(&n.output), &attributes)
            .map_err(|e| fault(n, e.0))?
            .within(self.files);
        let entry = opset.and_then(|v| registry::lookup(domain, op, v));
        let (kernel, role) = match (control::graphs(domain, op), entry, opset) {
            (Some(graphs), _, Some(_)) => {
                let (control, captured) = self.control(n, graphs, &spec)?;
                reads.extend(captured.into_iter().map(Some));
                (Kernel::Control(Box::new(control)), Role::Plain)
            }
            (_, Some(entry), Some(_)) => {
                let kernel = (entry.build)(&spec).map_err(|e| fault(n, e.0))?;
                (kernel, role(domain, &spec).map_err(|e| fault(n, e.0))?)
            }
            _ => {
                return Err(LoadError::UnsupportedOperator {
                    op: op.to_owned(),
                    domain: domain.to_owned(),
                    opset: opset.unwrap_or(0),
                    node: label(n).to_owned(),
                });
            }
        };
        if let Some(unread) = spec.unread() {
            return Err(fault(n, format!("attribute {unread:?} is not supported")));
        }
        let mut outputs = Vec::with_capacity(n.output.len());
        for o in &n.output {
            if o.is_empty() {
                outputs.push(None);
                continue;
            }
            let id = self.names.level().define(None);
            self.define(n, o, id)?;
            outputs.push(Some(id));
        }
        self.names.level().nodes.push(Node {
            name: label(n).to_owned(),
            op: op.to_owned(),
            inputs: reads,
            outputs,
            kernel,
            role,
        });
        Ok(())
    }

    fn define(&mut self, n: &NodeProto, name: &'m str, value: ValueId) -> Result<(), LoadError> {
        if self.names.bind(name, Some(value)) {
            return Ok(());
        }
        Err(fault(n, format!("output {name:?} is defined twice")))
    }

    /// The node's attributes with what stands for a function's attribute put in its place. One that the call does not
    /// give is left out.
    fn attributes(&mut self, n: &'m NodeProto) -> Cow<'m, [AttributeProto]> {
        let refers = |a: &AttributeProto| a.ref_attr_name.as_deref().is_some_and(|r| !r.is_empty());
        if !n.attribute.iter().any(refers) || !self.names.frames.iter().any(|f| f.function) {
            return Cow::Borrowed(&n.attribute);
        }
        let bound = self.names.frame().attributes.clone();
        let resolved = n.attribute.iter().filter_map(|a| match a.ref_attr_name.as_deref() {
            Some(r) if !r.is_empty() => bound.get(r).map(|b| AttributeProto {
                name: a.name.clone(),
                ..b.clone()
            }),
            _ => Some(a.clone()),
        });
        Cow::Owned(resolved.collect())
    }

    /// Reads the body of a function in the place of a call.
    fn call(
        &mut self,
        n: &'m NodeProto,
        key: FunctionKey<'m>,
        function: &'m FunctionProto,
        reads: Vec<Option<ValueId>>,
    ) -> Result<(), LoadError> {
        if self.active.contains(&key) {
            return Err(fault(n, format!("function {:?} calls itself", key.1)));
        }
        if self.names.frames.len() >= MAX_DEPTH {
            return Err(fault(n, format!("functions call each other deeper than {MAX_DEPTH}")));
        }
        if reads.len() > function.input.len() || n.output.len() > function.output.len() {
            return Err(fault(
                n,
                format!(
                    "{} inputs and {} outputs for a function with {} and {}",
                    reads.len(),
                    n.output.len(),
                    function.input.len(),
                    function.output.len()
                ),
            ));
        }
        let mut attributes: HashMap<String, AttributeProto> = HashMap::new();
        for a in function.attribute_proto.iter().chain(&*self.attributes(n)) {
            attributes.insert(a.name.clone().unwrap_or_default(), a.clone());
        }
        let opsets = if function.opset_import.is_empty() {
            self.names.frame().opsets.clone()
        } else {
            Rc::new(opsets(&function.opset_import)?)
        };
        let mut names: HashMap<&'m str, Option<ValueId>> = HashMap::new();
        for (k, name) in function.input.iter().enumerate() {
            if names.insert(name, reads.get(k).copied().flatten()).is_some() {
                return Err(fault(n, format!("function {:?} has two inputs {name:?}", key.1)));
            }
        }
        let level = self.names.levels.len() - 1;
        self.names.frames.push(Frame {
            names,
            level,
            function: true,
            opsets,
            attributes: Rc::new(attributes),
        });
        self.active.push(key);
        self.nodes(&function.node)?;
        let mut results = Vec::with_capacity(n.output.len());
        for o in function.output.iter().take(n.output.len()) {
            match self.names.resolve(o) {
                Meaning::Value(id) => results.push(id),
                _ => {
                    return Err(fault(
                        n,
                        format!("output {o:?} of function {:?} is defined nowhere", key.1),
                    ));
                }
            }
        }
        self.active.pop();
        self.names.frames.pop();
        for (o, id) in n.output.iter().zip(results).filter(|(o, _)| !o.is_empty()) {
            self.define(n, o, id)?;
        }
        Ok(())
    }

    /// Reads and plans the graphs of a control operator; also what they capture.
    fn control(
        &mut self,
        n: &'m NodeProto,
        graphs: &[(&str, bool)],
        spec: &Spec<'_>,
    ) -> Result<(Control, Vec<ValueId>), LoadError> {
        let (mut bodies, mut captured, mut given) = (Vec::new(), Vec::new(), Vec::new());
        for (name, needed) in graphs {
            spec.ignore(&[name]);
            let attribute = n.attribute.iter().find(|a| a.name.as_deref() == Some(name));
            let Some(proto) = attribute.and_then(|a| a.g.as_deref()) else {
                if *needed || attribute.is_some() {
                    return Err(fault(n, format!("attribute {name:?} is no graph")));
                }
                given.push(false);
                continue;
            };
            given.push(true);
            let frame = self.names.frame();
            let (opsets, attributes) = (frame.opsets.clone(), frame.attributes.clone());
            let complete = self.graph(proto, opsets, attributes)?;
            let outputs = complete.graph.outputs.len();
            bodies.push(Body {
                formals: complete.formals,
                outputs,
                captures: complete.captured.len(),
                plan: Some(plan::plan(complete.graph)?),
            });
            captured.extend(complete.captured);
        }
        let kind = Kind::parse(spec, &bodies, &given).map_err(|e| fault(n, e.0))?;
        let operands = n.input.len();
        Ok((Control { kind, operands, bodies }, captured))
    }
}

fn anonymous() -> TensorInfo {
    TensorInfo {
        name: String::new(),
        datatype: DataType::F32,
        shape: None,
        labels: None,
    }
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

/// For each value the node that makes it, to tell a cycle or a wrong order from an unknown name.
fn producers(nodes: &[NodeProto]) -> HashMap<&str, &str> {
    nodes
        .iter()
        .flat_map(|n| n.output.iter().map(move |o| (o.as_str(), label(n))))
        .collect()
}
