//! Runs ONNX test cases: directories with `model.onnx` and `test_data_set_*` beside it, as ONNX's own tests have them.
//!
//! `run_case [--rtol R] [--atol A] DIR...` prints one line a case (`ok`, `FAIL` or `unsupported`) and a summary.
//! `run_case --time MODEL` prints how long loading and a warm run on zeros take.
//! `run_case MODEL INPUTS.json` runs a model on `{"name": {"shape": [..], "data": [..]}}` and prints its outputs alike.

use std::path::{Path, PathBuf};
use std::time::Instant;

use bytes::Bytes;
use pilotlight_engine::{Data, DataType, Dim, LoadError, LoadOptions, Model, Tensor, each_data, load, read_tensor};
use serde_json::{Value, json};

type Outcome<T> = Result<T, String>;

fn main() {
    let mut arguments: Vec<String> = std::env::args().skip(1).collect();
    let mut tolerance = (1e-3, 1e-5);
    while arguments.len() > 1 && arguments[0].starts_with("--") {
        match arguments.remove(0).as_str() {
            "--rtol" => tolerance.0 = arguments.remove(0).parse().unwrap_or(tolerance.0),
            "--atol" => tolerance.1 = arguments.remove(0).parse().unwrap_or(tolerance.1),
            "--time" => return time(Path::new(&arguments[0])),
            other => return eprintln!("unknown option {other}"),
        }
    }
    match arguments.as_slice() {
        [model, inputs] if Path::new(inputs).is_file() => match run_json(Path::new(model), Path::new(inputs)) {
            Ok(outputs) => println!("{outputs}"),
            Err(reason) => {
                eprintln!("{reason}");
                std::process::exit(1);
            }
        },
        [] => eprintln!("usage: run_case DIR... | run_case MODEL INPUTS.json | run_case --time MODEL"),
        cases => run_cases(cases, tolerance),
    }
}

fn run_cases(cases: &[String], tolerance: (f64, f64)) {
    // A panic is reported as the case's outcome; its backtrace would drown the list.
    std::panic::set_hook(Box::new(|_| {}));
    let (mut passed, mut unsupported, mut failed) = (0, 0, 0);
    for case in cases {
        match run_case(Path::new(case), tolerance) {
            Ok(()) => {
                passed += 1;
                println!("ok {case}");
            }
            Err(reason) if reason.starts_with("unsupported") => {
                unsupported += 1;
                println!("{case}: {reason}");
            }
            Err(reason) => {
                failed += 1;
                println!("FAIL {case}: {reason}");
            }
        }
    }
    println!(
        "{passed} passed, {failed} failed, {unsupported} unsupported of {}",
        cases.len()
    );
}

fn run_case(case: &Path, tolerance: (f64, f64)) -> Outcome<()> {
    let model = load(&case.join("model.onnx"), &LoadOptions::default()).map_err(|e| match e {
        LoadError::UnsupportedOperator { .. } => format!("unsupported: {e}"),
        e if e.to_string().contains("not supported") || e.to_string().contains("is no tensor") => {
            format!("unsupported: {e}")
        }
        e => e.to_string(),
    })?;
    for set in 0.. {
        let set = case.join(format!("test_data_set_{set}"));
        if !set.is_dir() {
            return Ok(());
        }
        let inputs = tensors(&set, "input", model.signature().inputs.len())?;
        let outputs = model.run(inputs).map_err(|e| e.to_string())?;
        let wanted = tensors(&set, "output", outputs.len())?;
        for ((found, wanted), info) in outputs.iter().zip(&wanted).zip(&model.signature().outputs) {
            compare(found, wanted, tolerance).map_err(|e| format!("output {:?}: {e}", info.name))?;
        }
    }
    Ok(())
}

fn tensors(set: &Path, kind: &str, n: usize) -> Outcome<Vec<Tensor>> {
    (0..n).map(|k| file(set.join(format!("{kind}_{k}.pb")))).collect()
}

fn file(path: PathBuf) -> Outcome<Tensor> {
    let bytes = std::fs::read(&path).map_err(|e| format!("unsupported: {}: {e}", path.display()))?;
    read_tensor(Bytes::from(bytes)).map_err(|e| format!("unsupported: {}: {e}", path.display()))
}

fn compare(found: &Tensor, wanted: &Tensor, (rtol, atol): (f64, f64)) -> Outcome<()> {
    if found.datatype() != wanted.datatype() {
        return Err(format!("type {} instead of {}", found.datatype(), wanted.datatype()));
    }
    if found.shape() != wanted.shape() {
        return Err(format!("shape {:?} instead of {:?}", found.shape(), wanted.shape()));
    }
    let (Some(a), Some(b)) = (doubles(found.data()), doubles(wanted.data())) else {
        return if found == wanted {
            Ok(())
        } else {
            Err("other elements".into())
        };
    };
    let close = |a: f64, b: f64| a == b || (a.is_nan() && b.is_nan()) || (a - b).abs() <= atol + rtol * b.abs();
    match a.iter().zip(&b).position(|(&a, &b)| !close(a, b)) {
        Some(k) => Err(format!("element {k} is {} instead of {}", a[k], b[k])),
        None => Ok(()),
    }
}

fn doubles(data: &Data) -> Option<Vec<f64>> {
    Some(match data {
        Data::F32(v) => v.iter().map(|&x| f64::from(x)).collect(),
        Data::F64(v) => v.clone(),
        Data::F16(v) => v.iter().map(|x| x.to_f64()).collect(),
        Data::BF16(v) => v.iter().map(|x| x.to_f64()).collect(),
        _ => return None,
    })
}

/// Zeros of the declared shape, with 1 for every open dimension.
fn blank(model: &dyn Model) -> Vec<Tensor> {
    let tensor = |info: &pilotlight_engine::TensorInfo| {
        let dims = info
            .shape
            .iter()
            .flatten()
            .map(|d| if let Dim::Fixed(n) = d { *n } else { 1 });
        filled(info.datatype, dims.collect(), &[])
    };
    model.signature().inputs.iter().filter_map(tensor).collect()
}

/// A tensor from JSON numbers or strings; missing ones are 0.
fn filled(datatype: DataType, shape: Vec<usize>, values: &[Value]) -> Option<Tensor> {
    let n = shape.iter().product();
    let float = |k: usize| values.get(k).map_or(Some(0.0), Value::as_f64).unwrap_or(f64::NAN);
    let int = |k: usize| values.get(k).and_then(Value::as_i64).unwrap_or(0);
    let text = |k: usize| Bytes::from(values.get(k).and_then(Value::as_str).unwrap_or_default().to_owned());
    let data = match datatype {
        DataType::Bool => Data::Bool(
            (0..n)
                .map(|k| values.get(k).and_then(Value::as_bool).unwrap_or(false))
                .collect(),
        ),
        DataType::U8 => Data::U8((0..n).map(|k| int(k) as u8).collect()),
        DataType::I32 => Data::I32((0..n).map(|k| int(k) as i32).collect()),
        DataType::I64 => Data::I64((0..n).map(int).collect()),
        DataType::F32 => Data::F32((0..n).map(|k| float(k) as f32).collect()),
        DataType::F64 => Data::F64((0..n).map(float).collect()),
        DataType::Bytes => Data::Bytes((0..n).map(text).collect()),
        _ => return None,
    };
    Tensor::new(shape, data)
}

fn run_json(model: &Path, inputs: &Path) -> Outcome<Value> {
    let model = load(model, &LoadOptions::default()).map_err(|e| e.to_string())?;
    let text = std::fs::read(inputs).map_err(|e| e.to_string())?;
    let given: Value = serde_json::from_slice(&text).map_err(|e| e.to_string())?;
    let inputs = model.signature().inputs.iter().map(|info| {
        let entry = given
            .get(&info.name)
            .ok_or_else(|| format!("input {:?} is missing", info.name))?;
        let shape = entry["shape"]
            .as_array()
            .map(|s| s.iter().filter_map(Value::as_u64).map(|d| d as usize).collect());
        let values = entry["data"].as_array().map(Vec::as_slice).unwrap_or_default();
        filled(info.datatype, shape.unwrap_or_default(), values)
            .ok_or_else(|| format!("input {:?} has another shape or type", info.name))
    });
    let outputs = model.run(inputs.collect::<Outcome<_>>()?).map_err(|e| e.to_string())?;
    let outputs = outputs.iter().zip(&model.signature().outputs).map(|(t, info)| {
        let data: Vec<Value> = match t.data() {
            Data::Bytes(v) => v.iter().map(|b| json!(String::from_utf8_lossy(b))).collect(),
            data => match doubles(data) {
                Some(v) => v.into_iter().map(|x| json!(x)).collect(),
                None => each_data!(data, v => v.iter().map(|x| json!(format!("{x:?}"))).collect()),
            },
        };
        (
            info.name.clone(),
            json!({"shape": t.shape(), "datatype": t.datatype().as_str(), "data": data}),
        )
    });
    Ok(Value::Object(outputs.collect()))
}

fn time(path: &Path) {
    let start = Instant::now();
    let model = match load(path, &LoadOptions::default()) {
        Ok(model) => model,
        Err(e) => return eprintln!("{e}"),
    };
    let loaded = start.elapsed();
    let start = Instant::now();
    if let Err(e) = model.run(blank(&*model)) {
        return eprintln!("{e}");
    }
    let first = start.elapsed();
    let budget = Instant::now();
    let mut runs = Vec::new();
    while runs.len() < 1000 && (runs.len() < 3 || budget.elapsed().as_secs() < 5) {
        let inputs = blank(&*model);
        let start = Instant::now();
        let _ = std::hint::black_box(model.run(inputs));
        runs.push(start.elapsed());
    }
    runs.sort_unstable();
    println!(
        "load {loaded:?}, first run {first:?}, warm run {:?} (median of {})",
        runs[runs.len() / 2],
        runs.len()
    );
}
