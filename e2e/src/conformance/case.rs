//! One case: a directory with a model, and sets of inputs and outputs.

use std::path::{Path, PathBuf};

use bytes::Bytes;
use pilotlight_engine::onnx::{ModelProto, NodeProto, TypeProto, ValueInfoProto};
use pilotlight_engine::{Item, ItemModel, LoadError, LoadOptions, load_items, read_item};
use prost::Message as _;

use super::compare::difference;

/// A case and what it is a case of.
pub struct Case {
    /// Its directory's name without `test_`.
    pub name: String,
    /// The operator it is for; an expanded case stands for the operator that it expands.
    pub operator: String,
    /// ONNX's name of the type of its first input, or of its output where it has no input.
    pub datatype: &'static str,
    directory: PathBuf,
    inputs: Vec<i32>,
    outputs: Vec<i32>,
}

/// What came of a case.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// All outputs are right.
    Passed,
    /// An output is wrong, or the run failed.
    Failed(String),
    /// The engine says that it lacks what the case needs.
    Unsupported(String),
}

/// All cases in a directory, by name.
pub fn all(directory: &Path) -> Vec<Case> {
    let entries = std::fs::read_dir(directory).expect("the cases can be listed");
    let mut paths: Vec<_> = entries.map(|e| e.expect("an entry").path()).collect();
    paths.retain(|p| p.join("model.onnx").is_file());
    paths.sort();
    paths.iter().map(|p| Case::read(p)).collect()
}

impl Case {
    fn read(directory: &Path) -> Self {
        let model = model(directory);
        let graph = model.graph.unwrap_or_default();
        let kinds = |values: &[ValueInfoProto]| values.iter().map(|v| kind(v.r#type.as_ref())).collect();
        let datatype = graph.input.first().or(graph.output.first());
        Self {
            name: name(directory).trim_start_matches("test_").to_owned(),
            operator: operator(directory, &graph.node),
            datatype: datatype.map_or("none", |v| element(v.r#type.as_ref())),
            directory: directory.to_owned(),
            inputs: kinds(&graph.input),
            outputs: kinds(&graph.output),
        }
    }

    /// Runs it on all sets of inputs that it comes with.
    pub fn run(&self) -> Outcome {
        let model = match self.load() {
            Ok(model) => model,
            Err(outcome) => return outcome,
        };
        for set in 0.. {
            let set = self.directory.join(format!("test_data_set_{set}"));
            if !set.is_dir() {
                break;
            }
            match self.compare(&*model, &set) {
                Outcome::Passed => {}
                other => return other,
            }
        }
        Outcome::Passed
    }

    /// Runs it on the inputs in another directory; `None` where that has none for it.
    pub fn run_on(&self, sets: &Path) -> Option<Outcome> {
        let set = sets.join(name(&self.directory));
        let model = set.is_dir().then(|| self.load())?;
        Some(match model {
            Ok(model) => self.compare(&*model, &set),
            Err(outcome) => outcome,
        })
    }

    fn load(&self) -> Result<Box<dyn ItemModel>, Outcome> {
        load_items(&self.directory.join("model.onnx"), &LoadOptions::default()).map_err(|e| match e {
            LoadError::UnsupportedOperator { .. } => Outcome::Unsupported(e.to_string()),
            e if e.to_string().contains("not supported") => Outcome::Unsupported(e.to_string()),
            e => Outcome::Failed(e.to_string()),
        })
    }

    fn compare(&self, model: &dyn ItemModel, set: &Path) -> Outcome {
        let read = |prefix: &str, kinds: &[i32]| -> Result<Vec<Item>, Outcome> {
            let file = |(k, &kind): (usize, &i32)| {
                let path = set.join(format!("{prefix}_{k}.pb"));
                let bytes = std::fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
                read_item(Bytes::from(bytes), kind).map_err(|e| Outcome::Unsupported(e.to_string()))
            };
            kinds.iter().enumerate().map(file).collect()
        };
        let run = || -> Result<(), Outcome> {
            let found = model.run_items(read("input", &self.inputs)?);
            let found = found.map_err(|e| Outcome::Failed(e.to_string()))?;
            for (k, (found, wanted)) in found.iter().zip(read("output", &self.outputs)?).enumerate() {
                if let Some(difference) = difference(found, &wanted) {
                    return Err(Outcome::Failed(format!("output {k}: {difference}")));
                }
            }
            Ok(())
        };
        run().err().unwrap_or(Outcome::Passed)
    }
}

fn model(directory: &Path) -> ModelProto {
    let bytes = std::fs::read(directory.join("model.onnx")).expect("a case has a model");
    ModelProto::decode(Bytes::from(bytes)).expect("a case's model can be read")
}

fn name(directory: &Path) -> &str {
    directory.file_name().and_then(|n| n.to_str()).unwrap_or_default()
}

/// The operator of the last node, which the nodes before it prepare; of an expanded case that of the case beside it.
fn operator(directory: &Path, nodes: &[NodeProto]) -> String {
    if let Some((plain, _)) = name(directory).split_once("_expanded") {
        let plain = directory.with_file_name(plain);
        if plain.is_dir() {
            return operator(&plain, &model(&plain).graph.unwrap_or_default().node);
        }
    }
    let op = nodes.last().and_then(|n| n.op_type.clone());
    op.unwrap_or_else(|| "none".into())
}

/// As `read_item` has it: 0 a tensor, 1 a sequence, 2 an optional.
fn kind(ty: Option<&TypeProto>) -> i32 {
    match ty {
        Some(t) if t.optional_type.is_some() => 2,
        Some(t) if t.sequence_type.is_some() => 1,
        _ => 0,
    }
}

fn element(ty: Option<&TypeProto>) -> &'static str {
    const NAMES: [&str; 27] = [
        "none",
        "FLOAT",
        "UINT8",
        "INT8",
        "UINT16",
        "INT16",
        "INT32",
        "INT64",
        "STRING",
        "BOOL",
        "FLOAT16",
        "DOUBLE",
        "UINT32",
        "UINT64",
        "COMPLEX64",
        "COMPLEX128",
        "BFLOAT16",
        "FLOAT8E4M3FN",
        "FLOAT8E4M3FNUZ",
        "FLOAT8E5M2",
        "FLOAT8E5M2FNUZ",
        "UINT4",
        "INT4",
        "FLOAT4E2M1",
        "FLOAT8E8M0",
        "UINT2",
        "INT2",
    ];
    let Some(t) = ty else { return NAMES[0] };
    if let Some(inner) = t.optional_type.as_ref() {
        return element(inner.elem_type.as_deref());
    }
    if let Some(inner) = t.sequence_type.as_ref() {
        return element(inner.elem_type.as_deref());
    }
    let number = t.tensor_type.as_ref().and_then(|t| t.elem_type).unwrap_or(0);
    usize::try_from(number)
        .ok()
        .and_then(|n| NAMES.get(n))
        .copied()
        .unwrap_or(NAMES[0])
}
