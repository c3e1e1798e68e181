//! Operators that run graphs of their own: what they are once they are read. `exec::control` runs them.

use crate::fault::{OpResult, ensure};
use crate::plan::Plan;
use crate::spec::Spec;

/// A control operator. Its node reads the operands that it was written with, and behind them what its bodies capture
/// from around it.
pub(crate) struct Control {
    pub(crate) kind: Kind,
    /// Number of operands without the captured ones.
    pub(crate) operands: usize,
    pub(crate) bodies: Vec<Body>,
}

/// A planned graph. Its inputs are its formal ones and then its captures.
pub(crate) struct Body {
    /// Taken out by the executor.
    pub(crate) plan: Option<Plan>,
    /// Number of formal inputs.
    pub(crate) formals: usize,
    /// Number of outputs.
    pub(crate) outputs: usize,
    /// Number of captured values; they lie in the node's inputs behind those of the bodies before.
    pub(crate) captures: usize,
}

/// What it does with its bodies.
pub(crate) enum Kind {
    /// condition; bodies: then, else
    If,
    /// trip count?, condition?, carried values
    Loop,
    /// states, then sequences to walk along
    Scan(Scan),
    /// a sequence, then sequences and tensors
    Map,
    /// query, key, value; bodies where given: of the scores, of the probabilities
    FlexAttention {
        scale: Option<f32>,
        score_mod: bool,
        /// The softmax's type; that of the query, or FP32 for half floats, where not given.
        precision: Option<crate::DataType>,
    },
}

/// How `Scan` walks.
pub(crate) struct Scan {
    /// Opset 8: everything has a batch in front, and the lengths come as first operand.
    pub(crate) batched: bool,
    pub(crate) inputs: usize,
    pub(crate) input_axes: Vec<i64>,
    pub(crate) output_axes: Vec<i64>,
    /// Backwards where true.
    pub(crate) input_directions: Vec<bool>,
    pub(crate) output_directions: Vec<bool>,
}

/// The attributes that hold the graphs of a control operator, and which of them must be there.
pub(crate) fn graphs(domain: &str, op: &str) -> Option<&'static [(&'static str, bool)]> {
    Some(match (domain, op) {
        (crate::registry::ONNX, "If") => &[("then_branch", true), ("else_branch", true)],
        (crate::registry::ONNX, "Loop" | "Scan" | "SequenceMap") => &[("body", true)],
        (crate::registry::PREVIEW, "FlexAttention") => &[("score_mod", false), ("prob_mod", false)],
        _ => return None,
    })
}

impl Kind {
    /// Reads the attributes and checks that the bodies fit the node. `given` says which of `graphs` are there.
    pub(crate) fn parse(spec: &Spec<'_>, bodies: &[Body], given: &[bool]) -> OpResult<Self> {
        let (inputs, outputs) = (spec.inputs.len(), spec.outputs.len());
        Ok(match spec.op {
            "If" => {
                spec.expect_inputs(1, 1)?;
                for body in bodies {
                    ensure!(
                        body.formals == 0 && body.outputs == outputs,
                        "a branch with {} inputs and {} outputs instead of 0 and {outputs}",
                        body.formals,
                        body.outputs
                    );
                }
                Self::If
            }
            "Loop" => {
                let carried = inputs.saturating_sub(2);
                ensure!(
                    inputs >= 2 && bodies[0].formals == inputs,
                    "a body with {} inputs for a loop with {inputs}",
                    bodies[0].formals
                );
                ensure!(
                    bodies[0].outputs > carried && bodies[0].outputs > outputs,
                    "a body with {} outputs for {carried} carried values and {outputs} outputs",
                    bodies[0].outputs
                );
                Self::Loop
            }
            "Scan" => {
                let scan = Scan::parse(spec)?;
                let all = inputs - usize::from(scan.batched);
                let states = all.checked_sub(scan.inputs);
                ensure!(
                    bodies[0].formals == all
                        && scan.inputs > 0
                        && states.is_some_and(|s| bodies[0].outputs >= s)
                        && bodies[0].outputs >= outputs,
                    "a body with {} inputs and {} outputs for {all} operands, {} of them sequences",
                    bodies[0].formals,
                    bodies[0].outputs,
                    scan.inputs
                );
                Self::Scan(scan)
            }
            "SequenceMap" => {
                spec.expect_inputs(1, usize::MAX)?;
                ensure!(
                    bodies[0].formals == inputs && bodies[0].outputs >= outputs,
                    "a body with {} inputs for {inputs} operands",
                    bodies[0].formals
                );
                Self::Map
            }
            _ => {
                spec.expect_inputs(3, 3)?;
                for body in bodies {
                    ensure!(
                        body.formals == 1 && body.outputs == 1,
                        "a graph with {} inputs and {} outputs instead of one of each",
                        body.formals,
                        body.outputs
                    );
                }
                Self::FlexAttention {
                    scale: spec.opt_float("scale")?,
                    score_mod: given.first() == Some(&true),
                    precision: spec.data_type("softmax_precision")?,
                }
            }
        })
    }
}

impl Scan {
    fn parse(spec: &Spec<'_>) -> OpResult<Self> {
        let batched = spec.opset < 9;
        let inputs = usize::try_from(spec.int("num_scan_inputs", 0)?).unwrap_or(0);
        let flags = |name: &str| -> OpResult<Vec<bool>> {
            Ok(spec.ints(name)?.unwrap_or_default().iter().map(|&d| d != 0).collect())
        };
        let axes = |name: &str| -> OpResult<Vec<i64>> { Ok(spec.ints(name)?.unwrap_or_default()) };
        let scan = Self {
            batched,
            inputs,
            input_axes: axes("scan_input_axes")?,
            output_axes: axes("scan_output_axes")?,
            input_directions: flags(if batched { "directions" } else { "scan_input_directions" })?,
            output_directions: flags("scan_output_directions")?,
        };
        ensure!(!batched || !spec.inputs.is_empty(), "it has no inputs");
        Ok(scan)
    }
}
