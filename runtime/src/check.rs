//! `--check`: one model file, loaded and run once, in a process of its own that may die of it.

use std::path::Path;
use std::process::ExitCode;
use std::time::Instant;

use pilotlight_engine::{Signature, TensorInfo};
use serde_json::{Value, json};

use crate::faces::declared;
use crate::model::Model;
use crate::warmup::run_once;

/// Checks the file and prints one JSON line: `{"ok":true,"signature":{...},"load_ms":..}` or `{"ok":false,"error":"..."}`.
pub(crate) fn check(path: &Path, load: impl FnOnce(&Path) -> Result<std::sync::Arc<dyn Model>, String>) -> ExitCode {
    let start = Instant::now();
    let result = load(path).and_then(|model| run_once(&*model).map(|()| model));
    let (line, code) = match result {
        Ok(model) => {
            let load_ms = start.elapsed().as_secs_f64() * 1000.0;
            (
                json!({"ok": true, "signature": describe(model.signature()), "load_ms": load_ms}),
                ExitCode::SUCCESS,
            )
        }
        Err(error) => (json!({"ok": false, "error": error}), ExitCode::FAILURE),
    };
    println!("{line}");
    code
}

fn describe(signature: &Signature) -> Value {
    let tensors = |infos: &[TensorInfo]| -> Vec<Value> {
        infos
            .iter()
            .map(|i| json!({"name": i.name, "datatype": i.datatype.as_str(), "shape": declared(i)}))
            .collect()
    };
    json!({"inputs": tensors(&signature.inputs), "outputs": tensors(&signature.outputs)})
}
