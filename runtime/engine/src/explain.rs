//! What became of a model: the plan after all passes, and how long each step of a run takes.

use std::path::Path;
use std::time::{Duration, Instant};

use crate::tensor::{Data, Tensor};
use crate::{Dim, LoadError, LoadOptions, RunError, TensorInfo, load};

/// For how long runs are repeated, and how often at most.
const BUDGET: Duration = Duration::from_secs(2);
const RUNS: usize = 50;

/// A model's plan with the times of its steps.
#[derive(Clone, Debug)]
pub struct Explanation {
    /// Each pass over the graph with the number of nodes that were there after it; the first is the file's graph.
    pub passes: Vec<(&'static str, usize)>,
    /// The steps in the order in which they run.
    pub steps: Vec<ExplainedStep>,
    /// From the file to a model that can run.
    pub load: Duration,
    /// The first run.
    pub first: Duration,
    /// The median of later runs.
    pub run: Duration,
    /// Runs that the times of steps are medians of.
    pub runs: usize,
}

/// One step of a plan.
#[derive(Clone, Debug, Default)]
pub struct ExplainedStep {
    /// The node's name, or its first output.
    pub name: String,
    /// The operator.
    pub op: String,
    /// Who executes it: `kernel` (one of our own), `burn` (the backend's primitives), `host` (plain loops), `view` (a move of
    /// elements), `shape` (dimensions only), `list` or `control`.
    pub by: &'static str,
    /// What the planner drew into it, for example `bias, residual, Gelu`; empty for none.
    pub fused: String,
    /// Type and dimensions of each input, `FP32[1, 3]`; a constant's that was packed stands without dimensions.
    pub inputs: Vec<String>,
    /// The same of each output.
    pub outputs: Vec<String>,
    /// Memory of the packed weights.
    pub packed_bytes: usize,
    /// The median of its times.
    pub time: Duration,
}

/// What one run tells of a step.
#[derive(Clone, Debug)]
pub(crate) struct Traced {
    pub(crate) by: &'static str,
    pub(crate) inputs: Vec<String>,
    pub(crate) outputs: Vec<String>,
    pub(crate) time: Duration,
}

/// A model that can be watched while it runs.
pub(crate) trait Watched {
    fn passes(&self) -> Vec<(&'static str, usize)>;
    fn inputs(&self) -> &[TensorInfo];
    /// Name, operator, what was drawn in and packed bytes of each step.
    fn steps(&self) -> Vec<ExplainedStep>;
    fn watch(&self, inputs: Vec<Tensor>) -> Result<Vec<Traced>, RunError>;
}

/// Loads a model and runs it on zeros. A dimension of no fixed size is what `size` says for its symbol (empty for one
/// without), or 1.
///
/// # Errors
/// Why the file can't be loaded, or, as `LoadError::Invalid`, why the run on zeros failed.
pub fn explain(
    path: &Path,
    options: &LoadOptions,
    size: impl Fn(&str) -> Option<usize>,
) -> Result<Explanation, LoadError> {
    let start = Instant::now();
    let model = load::watched(path, options)?;
    let loaded = start.elapsed();
    let zeros = || {
        let list: Option<Vec<Tensor>> = model.inputs().iter().map(|info| zeros(info, &size)).collect();
        list.ok_or_else(|| LoadError::Invalid("the declared inputs are too large".into()))
    };
    let run = || {
        let inputs = zeros()?;
        let start = Instant::now();
        let traced = model.watch(inputs).map_err(|e| LoadError::Invalid(e.to_string()))?;
        Ok::<_, LoadError>((start.elapsed(), traced))
    };
    let (first, _) = run()?;
    let begin = Instant::now();
    let (mut totals, mut all) = (Vec::new(), Vec::new());
    while all.len() < RUNS && (all.is_empty() || begin.elapsed() < BUDGET) {
        let (total, traced) = run()?;
        totals.push(total);
        all.push(traced);
    }
    let mut steps = model.steps();
    for (n, step) in steps.iter_mut().enumerate() {
        let mut times: Vec<Duration> = all.iter().filter_map(|run| Some(run.get(n)?.time)).collect();
        step.time = median(&mut times);
        if let Some(traced) = all.last().and_then(|run| run.get(n)) {
            step.by = traced.by;
            step.inputs.clone_from(&traced.inputs);
            step.outputs.clone_from(&traced.outputs);
        }
    }
    Ok(Explanation {
        passes: model.passes(),
        steps,
        load: loaded,
        first,
        run: median(&mut totals),
        runs: all.len(),
    })
}

fn median(times: &mut [Duration]) -> Duration {
    times.sort_unstable();
    times.get(times.len() / 2).copied().unwrap_or_default()
}

fn zeros(info: &TensorInfo, size: &impl Fn(&str) -> Option<usize>) -> Option<Tensor> {
    let dims = info.shape.as_deref().unwrap_or_default().iter().map(|d| match d {
        Dim::Fixed(n) => *n,
        Dim::Symbol(name) => size(name).unwrap_or(1),
        Dim::Unknown => size("").unwrap_or(1),
    });
    let dims: Vec<usize> = dims.collect();
    let n = crate::shape::elements(&dims).ok()?;
    Tensor::new(dims, Data::zeros(info.datatype, n))
}

impl std::fmt::Display for Explanation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let ms = |d: Duration| d.as_secs_f64() * 1e3;
        let packed: usize = self.steps.iter().map(|s| s.packed_bytes).sum();
        writeln!(
            f,
            "load {:.2} ms, first run {:.2} ms, run {:.3} ms (median of {}), packed weights {:.1} MB",
            ms(self.load),
            ms(self.first),
            ms(self.run),
            self.runs,
            packed as f64 / 1e6
        )?;
        let passes: Vec<String> = self
            .passes
            .iter()
            .map(|(name, nodes)| format!("{name} {nodes}"))
            .collect();
        writeln!(f, "nodes after each pass: {}", passes.join(", "))?;
        let total = self
            .steps
            .iter()
            .map(|s| s.time)
            .sum::<Duration>()
            .as_secs_f64()
            .max(1e-12);
        writeln!(
            f,
            "\n{:>9} {:>6}  {:<7} operator, node: inputs -> outputs",
            "us", "share", "by"
        )?;
        for s in &self.steps {
            let us = s.time.as_secs_f64() * 1e6;
            let share = 100.0 * s.time.as_secs_f64() / total;
            let fused = if s.fused.is_empty() {
                String::new()
            } else {
                format!(" ({})", s.fused)
            };
            let packed = if s.packed_bytes == 0 {
                String::new()
            } else {
                format!(", packed {:.1} kB", s.packed_bytes as f64 / 1e3)
            };
            writeln!(
                f,
                "{us:9.1} {share:5.1}%  {:<7} {}{fused}, {}: {} -> {}{packed}",
                s.by,
                s.op,
                s.name,
                s.inputs.join(" "),
                s.outputs.join(" ")
            )?;
        }
        let mut by_op: Vec<(String, usize, Duration)> = Vec::new();
        for s in &self.steps {
            let key = format!("{} by {}", s.op, s.by);
            match by_op.iter_mut().find(|(k, ..)| *k == key) {
                Some((_, n, time)) => {
                    *n += 1;
                    *time += s.time;
                }
                None => by_op.push((key, 1, s.time)),
            }
        }
        by_op.sort_by_key(|(.., time)| std::cmp::Reverse(*time));
        writeln!(f, "\n{:>9} {:>6} {:>6}  operator", "us", "share", "steps")?;
        for (op, n, time) in by_op {
            let share = 100.0 * time.as_secs_f64() / total;
            writeln!(f, "{:9.1} {share:5.1}% {n:6}  {op}", time.as_secs_f64() * 1e6)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::explain;
    use crate::LoadOptions;
    use crate::testing::{Graphs, f32_tensor};

    #[test]
    fn a_plan_tells_what_was_fused_who_runs_it_and_on_what() {
        let model = Graphs::new(20)
            .input("x", 1, &[None, Some(2)])
            .constant("w", f32_tensor(&[2, 3], &[1.0; 6]))
            .constant("b", f32_tensor(&[3], &[1.0; 3]))
            .node("Identity", &["x"], &["same"])
            .node("MatMul", &["same", "w"], &["p"])
            .node("Add", &["p", "b"], &["s"])
            .node("Gelu", &["s"], &["g"])
            .node("Transpose", &["g"], &["y"])
            .output("y");
        let file = std::env::temp_dir().join(format!("explain-{}.onnx", std::process::id()));
        std::fs::write(&file, model.bytes()).unwrap();
        let found = explain(&file, &LoadOptions::default(), |name| (name == "N").then_some(5));
        std::fs::remove_file(&file).unwrap();
        let found = found.unwrap();
        assert_eq!(found.passes.first().unwrap().1, 5);
        assert_eq!(found.passes.last().unwrap().1, 2);
        let [dense, transpose] = &found.steps[..] else {
            panic!("{:?}", found.steps)
        };
        assert_eq!(
            (dense.op.as_str(), dense.by, dense.fused.as_str()),
            ("MatMul", "kernel", "bias, Gelu")
        );
        assert_eq!(dense.inputs, ["FP32[5, 2]", "packed", "FP32[3]"]);
        assert_eq!(dense.outputs, ["FP32[5, 3]"]);
        assert!(dense.packed_bytes >= 24);
        assert_eq!((transpose.by, transpose.outputs[0].as_str()), ("view", "FP32[3, 5]"));
        let text = found.to_string();
        assert!(
            text.contains("MatMul (bias, Gelu)") && text.contains("nodes after each pass"),
            "{text}"
        );
    }
}
