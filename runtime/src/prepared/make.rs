//! Makes a preparation: the model is loaded and run at every size of the ladder, in a process of its own. The first run at a size
//! compiles, and on a GPU it times the ways to compute what it meets; the next ones take the fastest.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use pilotlight_cuda::{Choices, Tuned};
use serde_json::json;

use super::Devices;
use super::store::{Record, Rung};
use crate::config::{Args, PrepareArgs};
use crate::executor::panic_text;
use crate::fetch::Remote;
use crate::ladder::Ladder;
use crate::model::Model;
use crate::served::is_batchable;
use crate::warmup::sample_of;

/// `pilotlight runtime prepare`: prepares one model, prints a line of JSON for each size and one at the end.
pub(crate) fn prepare(args: &PrepareArgs) -> ExitCode {
    match run(args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {}", error.replace('\n', " "));
            ExitCode::FAILURE
        }
    }
}

fn run(args: &PrepareArgs) -> Result<(), String> {
    let serve = Args::from(args);
    let path = Remote::new(&serve).file(&args.model)?;
    let devices = crate::process::devices(&serve, true)?;
    let tell = |rung: usize, took: &Rung| {
        println!(
            "{}",
            json!({"rows": rung, "first_ms": took.first_ms, "then_ms": took.then_ms})
        );
    };
    let start = Instant::now();
    let record = make(&devices, &path, args.runs, Duration::from_secs(args.tune_seconds), tell)?;
    let sizes: Vec<_> = record.rungs.keys().collect();
    let seconds = start.elapsed().as_secs_f64();
    println!(
        "{}",
        json!({
            "prepared": sizes, "tuned": record.choices.len(), "device": devices.place().describe(), "seconds": seconds,
            "key": record.key,
        })
    );
    Ok(())
}

/// Prepares a model file by at least two runs at each size, and keeps that. Kernels are tuned for `tune` at most, over all sizes.
///
/// # Errors
/// Why it can't be loaded, or run at one of the sizes. The sizes before it are kept, as they are where the process is ended.
pub(super) fn make(
    devices: &Devices,
    path: &Path,
    runs: usize,
    tune: Duration,
    mut tell: impl FnMut(usize, &Rung),
) -> Result<Record, String> {
    let key = devices.key(path).map_err(|e| format!("{}: {e}", path.display()))?;
    let (model, tuned) = devices.tuning(path, tune)?;
    let ladder = devices.ladder.unwrap_or(Ladder::new(1));
    let sizes = if is_batchable(model.signature()) {
        ladder.rungs()
    } else {
        vec![1]
    };
    let mut record = Record {
        key,
        rungs: BTreeMap::new(),
        choices: Choices::default(),
    };
    for size in sizes {
        let rung = measure(&*model, size, runs).map_err(|e| format!("at {size} rows: {e}"))?;
        record.rungs.insert(size, rung);
        record.choices = tuned.as_ref().map(Tuned::choices).unwrap_or_default();
        let kept = devices.store.keep(&record);
        kept.map_err(|e| format!("the preparation can't be kept: {e}; give a folder with --prepared-dir"))?;
        tell(size, &rung);
    }
    Ok(record)
}

fn measure(model: &dyn Model, rows: usize, runs: usize) -> Result<Rung, String> {
    let mut times = Vec::with_capacity(runs);
    for _ in 0..runs {
        let inputs = sample_of(model.signature(), rows).ok_or("the declared inputs are too large")?;
        let start = Instant::now();
        let run = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| model.run(inputs)));
        run.map_err(|panic| format!("the model panicked: {}", panic_text(&*panic)))?
            .map_err(|e| e.to_string())?;
        times.push(start.elapsed());
    }
    let ms = |t: Duration| t.as_secs_f64() * 1000.0;
    let first = times.remove(0);
    times.sort_unstable();
    Ok(Rung {
        first_ms: ms(first),
        then_ms: ms(times[times.len() / 2]),
    })
}
