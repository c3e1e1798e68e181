//! One side of the engine's bench: `bench MODEL INPUTS.json THREADS [OUTPUTS]`.
//!
//! `INPUTS.json` lists `{"name", "datatype", "shape", "file"}`, the file holding the elements in little endian. Loads the
//! model, runs it once and prints `{"load", "first", "memory"}` (seconds, and the bytes that the process has more than before);
//! with `OUTPUTS` the first output's elements as FP32 go there. Then, for every number on standard input, runs that often and
//! prints the seconds of each run as a list.

use std::io::{BufRead as _, Write as _};
use std::path::Path;
use std::time::Instant;

use pilotlight_engine::{Data, LoadOptions, Tensor, load};
use serde_json::{Value, json};

type Outcome<T> = Result<T, Box<dyn std::error::Error>>;

fn main() -> Outcome<()> {
    let arguments: Vec<String> = std::env::args().collect();
    let [_, model, inputs, threads, rest @ ..] = arguments.as_slice() else {
        return Err("usage: bench MODEL INPUTS.json THREADS [OUTPUTS]".into());
    };
    let inputs = read_inputs(Path::new(inputs))?;
    let before = resident("VmRSS:")?;
    let options = LoadOptions {
        threads: Some(threads.parse()?),
        ..LoadOptions::default()
    };
    let start = Instant::now();
    let model = load(Path::new(model), &options)?;
    let loaded = start.elapsed();
    let ordered: Option<Vec<Tensor>> = model
        .signature()
        .inputs
        .iter()
        .map(|i| inputs.iter().find(|(name, _)| *name == i.name).map(|(_, t)| t.clone()))
        .collect();
    let ordered = ordered.ok_or("an input is missing")?;
    let outputs = model.run(ordered.clone())?;
    let first = start.elapsed();
    if let Some(path) = rest.first() {
        write_output(&outputs, Path::new(path))?;
    }
    drop(outputs);
    let memory = resident("VmHWM:")?.saturating_sub(before);
    let mut out = std::io::stdout();
    writeln!(
        out,
        "{}",
        json!({"load": loaded.as_secs_f64(), "first": first.as_secs_f64(), "memory": memory})
    )?;
    for line in std::io::stdin().lock().lines() {
        let runs: usize = line?.trim().parse()?;
        let mut times = Vec::with_capacity(runs);
        for _ in 0..runs {
            let given = ordered.clone();
            let start = Instant::now();
            std::hint::black_box(model.run(given)?);
            times.push(start.elapsed().as_secs_f64());
        }
        writeln!(out, "{}", json!(times))?;
    }
    Ok(())
}

fn read_inputs(path: &Path) -> Outcome<Vec<(String, Tensor)>> {
    let list: Vec<Value> = serde_json::from_slice(&std::fs::read(path)?)?;
    let read = |entry: &Value| -> Outcome<(String, Tensor)> {
        let text = |key: &str| entry[key].as_str().ok_or("a description lacks a text");
        let bytes = std::fs::read(path.with_file_name(text("file")?))?;
        let shape = entry["shape"].as_array().ok_or("a description lacks its shape")?;
        let shape = shape.iter().map(|d| d.as_u64().unwrap_or(0) as usize).collect();
        let data = match text("datatype")? {
            "FP32" => Data::F32(bytes.as_chunks().0.iter().map(|b| f32::from_le_bytes(*b)).collect()),
            "INT64" => Data::I64(bytes.as_chunks().0.iter().map(|b| i64::from_le_bytes(*b)).collect()),
            other => return Err(format!("data type {other}").into()),
        };
        let tensor = Tensor::new(shape, data).ok_or("shape and elements do not fit")?;
        Ok((text("name")?.to_owned(), tensor))
    };
    list.iter().map(read).collect()
}

fn write_output(outputs: &[Tensor], path: &Path) -> Outcome<()> {
    let floats = outputs.iter().find_map(|t| match t.data() {
        Data::F32(v) => Some(v),
        _ => None,
    });
    let bytes: Vec<u8> = floats.into_iter().flatten().flat_map(|x| x.to_le_bytes()).collect();
    Ok(std::fs::write(path, bytes)?)
}

/// A line of the process's status in bytes.
fn resident(field: &str) -> Outcome<u64> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|l| l.strip_prefix(field));
    let kilobytes: u64 = line
        .and_then(|l| l.split_whitespace().next())
        .ok_or("no such field")?
        .parse()?;
    Ok(1024 * kilobytes)
}
