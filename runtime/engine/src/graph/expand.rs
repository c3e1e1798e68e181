//! ONNX Runtime's contributed operators (`com.microsoft`) written out in ONNX's own, so that they are planned, fused and
//! run as those are. Each node becomes the call of a function made for it; what ONNX has no operator for (the last two
//! dimensions swapped whatever the rank, a mask from lengths) is an operator of the engine's own domain.

use crate::fault::{OpResult, bail};
use crate::onnx::{AttributeProto, FunctionProto, GraphProto, ModelProto, NodeProto, OperatorSetIdProto, TensorProto};
use crate::registry::{ENGINE, MICROSOFT};

/// The opset that the bodies are written in.
const OPSET: i64 = 20;
/// Graphs inside graphs are searched this deep; deeper ones are refused when they are read.
const MAX_DEPTH: usize = 32;

/// Replaces the nodes of a model, those of its functions and of graphs inside graphs included.
pub(crate) fn expand(model: &mut ModelProto) {
    let mut made = Vec::new();
    if let Some(graph) = &mut model.graph {
        nodes(&mut graph.node, &mut made, 0);
    }
    for f in &mut model.functions {
        nodes(&mut f.node, &mut made, 0);
    }
    model.functions.extend(made);
}

fn nodes(list: &mut [NodeProto], made: &mut Vec<FunctionProto>, depth: usize) {
    for n in list {
        for a in &mut n.attribute {
            if let Some(GraphProto { node, .. }) = a.g.as_deref_mut()
                && depth < MAX_DEPTH
            {
                nodes(node, made, depth + 1);
            }
        }
        if n.domain.as_deref() != Some(MICROSOFT) {
            continue;
        }
        // One that can't be written out stays, and is refused by name when it is read.
        let op = n.op_type.clone().unwrap_or_default();
        if let Ok(Some(mut function)) = body(n, &op) {
            let overload = format!("expanded {}", made.len());
            function.overload = Some(overload.clone());
            n.overload = Some(overload);
            n.attribute.clear();
            made.push(function);
        }
    }
}

/// A function under construction.
struct Body<'a> {
    node: &'a NodeProto,
    nodes: Vec<NodeProto>,
    names: usize,
}

impl<'a> Body<'a> {
    fn new(node: &'a NodeProto) -> Self {
        Self {
            node,
            nodes: Vec::new(),
            names: 0,
        }
    }

    /// The name of an input of the function, where the node gives it.
    fn input(&self, k: usize) -> Option<String> {
        self.node
            .input
            .get(k)
            .filter(|i| !i.is_empty())
            .map(|_| format!("in{k}"))
    }

    fn need(&self, k: usize) -> OpResult<String> {
        match self.input(k) {
            Some(name) => Ok(name),
            None => bail!("input {k} is missing"),
        }
    }

    fn int(&self, name: &str, default: i64) -> i64 {
        self.attribute(name).and_then(|a| a.i).unwrap_or(default)
    }

    fn float(&self, name: &str, default: f32) -> f32 {
        self.attribute(name).and_then(|a| a.f).unwrap_or(default)
    }

    fn attribute(&self, name: &str) -> Option<&'a AttributeProto> {
        self.node.attribute.iter().find(|a| a.name.as_deref() == Some(name))
    }

    /// Adds a node and returns the names of its outputs.
    fn outputs(
        &mut self,
        domain: &str,
        op: &str,
        inputs: &[&str],
        attributes: Vec<AttributeProto>,
        n: usize,
    ) -> Vec<String> {
        let outputs: Vec<_> = (0..n).map(|k| format!("t{}", self.names + k)).collect();
        self.names += n;
        // Faults name the node of the model.
        let label = match self.node.name.as_deref() {
            Some(name) if !name.is_empty() => name.to_owned(),
            _ => self.node.output.first().cloned().unwrap_or_default(),
        };
        self.nodes.push(NodeProto {
            input: inputs.iter().map(|&i| i.to_owned()).collect(),
            output: outputs.clone(),
            name: Some(label),
            op_type: Some(op.to_owned()),
            attribute: attributes,
            domain: Some(domain.to_owned()),
            overload: None,
        });
        outputs
    }

    fn with(&mut self, op: &str, inputs: &[&str], attributes: Vec<AttributeProto>) -> String {
        self.outputs("", op, inputs, attributes, 1).swap_remove(0)
    }

    fn op(&mut self, op: &str, inputs: &[&str]) -> String {
        self.with(op, inputs, Vec::new())
    }

    fn own(&mut self, op: &str, inputs: &[&str], attributes: Vec<AttributeProto>) -> String {
        self.outputs(ENGINE, op, inputs, attributes, 1).swap_remove(0)
    }

    fn constant(&mut self, value: TensorProto) -> String {
        let mut a = attribute("value", 4);
        a.t = Some(Box::new(value));
        self.with("Constant", &[], vec![a])
    }

    fn ints(&mut self, v: &[i64]) -> String {
        self.constant(TensorProto {
            dims: vec![v.len() as i64],
            data_type: Some(7),
            int64_data: v.to_vec(),
            ..TensorProto::default()
        })
    }

    /// A number of the type of another value.
    fn number(&mut self, v: f32, like: &str) -> String {
        let wide = self.constant(TensorProto {
            data_type: Some(1),
            float_data: vec![v],
            ..TensorProto::default()
        });
        self.op("CastLike", &[&wide, like])
    }

    /// Adds an operand where the node gives it.
    fn plus(&mut self, x: String, k: usize) -> String {
        match self.input(k) {
            Some(other) => self.op("Add", &[&x, &other]),
            None => x,
        }
    }

    /// The function: its outputs, as far as the node has them.
    fn finish(self, outputs: &[Option<String>]) -> OpResult<FunctionProto> {
        let mut names = Vec::new();
        for k in 0..self.node.output.len() {
            match outputs.get(k) {
                Some(Some(name)) => names.push(name.clone()),
                _ if self.node.output[k].is_empty() => names.push(names.first().cloned().unwrap_or_default()),
                _ => bail!("output {k} is not supported"),
            }
        }
        let import = |domain: &str, version| OperatorSetIdProto {
            domain: Some(domain.to_owned()),
            version: Some(version),
        };
        Ok(FunctionProto {
            name: self.node.op_type.clone(),
            domain: Some(MICROSOFT.to_owned()),
            input: (0..self.node.input.len()).map(|k| format!("in{k}")).collect(),
            output: names,
            node: self.nodes,
            opset_import: vec![import("", OPSET), import(ENGINE, 1), import(MICROSOFT, 1)],
            ..FunctionProto::default()
        })
    }
}

fn attribute(name: &str, ty: i32) -> AttributeProto {
    AttributeProto {
        name: Some(name.to_owned()),
        r#type: Some(ty),
        ..AttributeProto::default()
    }
}

fn int(name: &str, v: i64) -> AttributeProto {
    AttributeProto {
        i: Some(v),
        ..attribute(name, 2)
    }
}

fn float(name: &str, v: f32) -> AttributeProto {
    AttributeProto {
        f: Some(v),
        ..attribute(name, 1)
    }
}

fn ints(name: &str, v: &[i64]) -> AttributeProto {
    AttributeProto {
        ints: v.to_vec(),
        ..attribute(name, 7)
    }
}

fn text(name: &str, v: &'static str) -> AttributeProto {
    AttributeProto {
        s: Some(bytes::Bytes::from_static(v.as_bytes())),
        ..attribute(name, 3)
    }
}

/// `None` for an operator that is not one of these.
fn body(n: &NodeProto, op: &str) -> OpResult<Option<FunctionProto>> {
    let b = Body::new(n);
    Ok(Some(match op {
        "FusedMatMul" => fused_matmul(b)?,
        "BiasGelu" => gelu(b, "none")?,
        "FastGelu" => gelu(b, "tanh")?,
        "QuickGelu" => quick_gelu(b)?,
        "SkipLayerNormalization" => skip_norm(b, false)?,
        "SkipSimplifiedLayerNormalization" => skip_norm(b, true)?,
        "EmbedLayerNormalization" => embed_norm(b)?,
        "Attention" => attention(b)?,
        "MultiHeadAttention" => multi_head(b)?,
        _ => return Ok(None),
    }))
}

fn fused_matmul(mut b: Body<'_>) -> OpResult<FunctionProto> {
    if b.int("transBatchA", 0) != 0 || b.int("transBatchB", 0) != 0 {
        bail!("a transposed batch is not supported");
    }
    let (mut x, mut y) = (b.need(0)?, b.need(1)?);
    if b.int("transA", 0) != 0 {
        x = b.own("SwapLast", &[&x], Vec::new());
    }
    if b.int("transB", 0) != 0 {
        y = b.own("SwapLast", &[&y], Vec::new());
    }
    let mut out = b.op("MatMul", &[&x, &y]);
    let alpha = b.float("alpha", 1.0);
    if alpha != 1.0 {
        let alpha = b.number(alpha, &out);
        out = b.op("Mul", &[&out, &alpha]);
    }
    b.finish(&[Some(out)])
}

fn gelu(mut b: Body<'_>, approximate: &'static str) -> OpResult<FunctionProto> {
    let x = b.need(0)?;
    let x = b.plus(x, 1);
    let out = b.with("Gelu", &[&x], vec![text("approximate", approximate)]);
    b.finish(&[Some(out)])
}

fn quick_gelu(mut b: Body<'_>) -> OpResult<FunctionProto> {
    let x = b.need(0)?;
    let alpha = b.float("alpha", 1.702);
    let alpha = b.number(alpha, &x);
    let scaled = b.op("Mul", &[&x, &alpha]);
    let gate = b.op("Sigmoid", &[&scaled]);
    let out = b.op("Mul", &[&x, &gate]);
    b.finish(&[Some(out)])
}

/// input, skip, gamma, beta?, bias?; without beta where simplified.
fn skip_norm(mut b: Body<'_>, simplified: bool) -> OpResult<FunctionProto> {
    let (x, skip, gamma) = (b.need(0)?, b.need(1)?, b.need(2)?);
    let sum = b.op("Add", &[&x, &skip]);
    let sum = b.plus(sum, if simplified { 3 } else { 4 });
    let attributes = vec![int("axis", -1), float("epsilon", b.float("epsilon", 1e-12))];
    if simplified {
        let y = b.own("RMSNormalization", &[&sum, &gamma], attributes);
        return b.finish(&[Some(y), None, None, Some(sum)]);
    }
    let beta = b.input(3);
    let inputs: Vec<&str> = [Some(&sum), Some(&gamma), beta.as_ref()]
        .into_iter()
        .flatten()
        .map(String::as_str)
        .collect();
    let wanted = b.node.output.iter().skip(1).take(2).any(|o| !o.is_empty());
    let y = b.outputs(
        "",
        "LayerNormalization",
        &inputs,
        attributes,
        if wanted { 3 } else { 1 },
    );
    let (mean, inverse) = (y.get(1).cloned(), y.get(2).cloned());
    b.finish(&[Some(y[0].clone()), mean, inverse, Some(sum)])
}

/// ids, segments?, words, positions, segment table?, gamma, beta, mask?, position ids?
fn embed_norm(mut b: Body<'_>) -> OpResult<FunctionProto> {
    let (ids, words, positions) = (b.need(0)?, b.need(2)?, b.need(3)?);
    let (gamma, beta) = (b.need(5)?, b.need(6)?);
    let mut sum = b.op("Gather", &[&words, &ids]);
    let place = if let Some(given) = b.input(8) {
        b.op("Gather", &[&positions, &given])
    } else {
        let length = b.with("Shape", &[&ids], vec![int("start", 1), int("end", 2)]);
        let (zero, axis) = (b.ints(&[0]), b.ints(&[0]));
        b.op("Slice", &[&positions, &zero, &length, &axis])
    };
    sum = b.op("Add", &[&sum, &place]);
    if let (Some(segments), Some(table)) = (b.input(1), b.input(4)) {
        let segment = b.op("Gather", &[&table, &segments]);
        sum = b.op("Add", &[&sum, &segment]);
    }
    let attributes = vec![int("axis", -1), float("epsilon", b.float("epsilon", 1e-12))];
    let y = b.with("LayerNormalization", &[&sum, &gamma, &beta], attributes);
    // The lengths that attention reads: how many tokens of each row are no padding.
    let lengths = if let Some(mask) = b.input(7) {
        let axis = b.ints(&[1]);
        let counts = b.with("ReduceSum", &[&mask, &axis], vec![int("keepdims", 0)]);
        b.with("Cast", &[&counts], vec![int("to", 6)])
    } else {
        let rows = b.with("Shape", &[&ids], vec![int("end", 1)]);
        let mut zero = attribute("value", 4);
        zero.t = Some(Box::new(TensorProto {
            dims: vec![1],
            data_type: Some(6),
            int32_data: vec![0],
            ..TensorProto::default()
        }));
        b.with("ConstantOfShape", &[&rows], vec![zero])
    };
    b.finish(&[Some(y), Some(lengths), Some(sum)])
}

/// `[batch, length, heads * size]` as `[batch, heads, length, size]`.
fn split_heads(b: &mut Body<'_>, x: &str, heads: i64) -> String {
    let dims = b.ints(&[0, 0, heads, -1]);
    let x = b.op("Reshape", &[x, &dims]);
    b.with("Transpose", &[&x], vec![ints("perm", &[0, 2, 1, 3])])
}

/// Softmax of the scaled product, what is masked left out, times the values, heads side by side again.
fn scaled_product(b: &mut Body<'_>, [q, k, v]: [&str; 3], bias: Option<String>, mask: Option<String>) -> String {
    let heads = b.int("num_heads", 1);
    let [q, k, v] = [q, k, v].map(|x| split_heads(b, x, heads));
    let k = b.with("Transpose", &[&k], vec![ints("perm", &[0, 1, 3, 2])]);
    let scale = b.float("scale", 0.0);
    let scale = if scale == 0.0 {
        let size = b.with("Shape", &[&q], vec![int("start", 3), int("end", 4)]);
        let size = b.op("CastLike", &[&size, &q]);
        let root = b.op("Sqrt", &[&size]);
        b.op("Reciprocal", &[&root])
    } else {
        b.number(scale, &q)
    };
    let scores = b.op("MatMul", &[&q, &k]);
    let mut scores = b.op("Mul", &[&scores, &scale]);
    let filter = float("mask_filter_value", b.float("mask_filter_value", -10000.0));
    let causal = b.int("unidirectional", 0);
    if mask.is_some() || causal != 0 {
        let inputs = [Some(scores.clone()), mask];
        let inputs: Vec<&str> = inputs.iter().flatten().map(String::as_str).collect();
        let mask = b.own("AttentionMask", &inputs, vec![filter, int("unidirectional", causal)]);
        scores = b.op("Add", &[&scores, &mask]);
    }
    if let Some(bias) = bias {
        scores = b.op("Add", &[&scores, &bias]);
    }
    let p = b.with("Softmax", &[&scores], vec![int("axis", -1)]);
    let y = b.op("MatMul", &[&p, &v]);
    let y = b.with("Transpose", &[&y], vec![ints("perm", &[0, 2, 1, 3])]);
    let dims = b.ints(&[0, 0, -1]);
    b.op("Reshape", &[&y, &dims])
}

/// input, weights, bias?, mask?, past?, attention bias?
fn attention(mut b: Body<'_>) -> OpResult<FunctionProto> {
    if b.input(4).is_some() || b.int("do_rotary", 0) != 0 || b.int("past_present_share_buffer", 0) != 0 {
        bail!("a past and rotary embeddings are not supported");
    }
    let (x, w) = (b.need(0)?, b.need(1)?);
    let all = b.op("MatMul", &[&x, &w]);
    let all = b.plus(all, 2);
    let sizes = b
        .attribute("qkv_hidden_sizes")
        .map(|a| a.ints.clone())
        .unwrap_or_default();
    let parts = if sizes.is_empty() {
        b.outputs("", "Split", &[&all], vec![int("axis", -1), int("num_outputs", 3)], 3)
    } else {
        let sizes = b.ints(&sizes);
        b.outputs("", "Split", &[&all, &sizes], vec![int("axis", -1)], 3)
    };
    let (mask, bias) = (b.input(3), b.input(5));
    let y = scaled_product(&mut b, [&parts[0], &parts[1], &parts[2]], bias, mask);
    b.finish(&[Some(y)])
}

/// query, key, value, bias?, padding mask?, attention bias?
fn multi_head(mut b: Body<'_>) -> OpResult<FunctionProto> {
    if (6..b.node.input.len()).any(|k| b.input(k).is_some()) {
        bail!("a past is not supported");
    }
    let (mut q, mut k, mut v) = (b.need(0)?, b.need(1)?, b.need(2)?);
    if let Some(bias) = b.input(3) {
        let parts = b.outputs("", "Split", &[&bias], vec![int("axis", 0), int("num_outputs", 3)], 3);
        q = b.op("Add", &[&q, &parts[0]]);
        k = b.op("Add", &[&k, &parts[1]]);
        v = b.op("Add", &[&v, &parts[2]]);
    }
    let (mask, bias) = (b.input(4), b.input(5));
    let y = scaled_product(&mut b, [&q, &k, &v], bias, mask);
    b.finish(&[Some(y)])
}
