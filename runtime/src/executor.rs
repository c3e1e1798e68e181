//! The executor: one OS thread per device that owns its runs.
//!
//! Puts a batch together along dimension 0, runs the model, takes the outputs apart by rows. A run that fails or panics harms
//! nobody else: a failed batch is run again one by one, so that only the request at fault gets the error; not so for a model that
//! is not pure, where all requests of the batch get it.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc;
use std::time::Duration;

use pilotlight_engine::{Data, RunError, Tensor};
use tokio::time::Instant;

use crate::error::InferError;
use crate::scheduler::{Answer, Device, Job, Run, Timings};
use crate::served::Served;

/// The executor thread. Ends when this is dropped and its last run is done.
pub(crate) struct Executor {
    runs: mpsc::SyncSender<Run>,
}

impl Executor {
    /// Starts the thread.
    ///
    /// # Errors
    /// Where the system gives no thread.
    pub(crate) fn spawn() -> std::io::Result<Self> {
        // One place: the scheduler starts a run only when the one before is done.
        let (runs, inbox) = mpsc::sync_channel::<Run>(1);
        std::thread::Builder::new().name("executor".into()).spawn(move || {
            while let Ok(run) = inbox.recv() {
                let mut next = Some(run);
                while let Some(run) = next {
                    // Catches a bug of our own; the model's panics are caught closer by. Unwinding drops the run, which
                    // frees the device and sends whatever comes next through the channel.
                    next = catch_unwind(AssertUnwindSafe(|| execute(run))).unwrap_or(None);
                }
            }
        })?;
        Ok(Self { runs })
    }
}

impl Device for Executor {
    fn start(&self, run: Run) {
        if self.runs.try_send(run).is_err() {
            tracing::error!("the executor thread is gone or was given two runs; the run is dropped");
        }
    }
}

/// Executes a run, answers its requests, and returns what the device is to run next.
pub(crate) fn execute(run: Run) -> Option<Run> {
    let Run {
        served,
        jobs,
        taken,
        completion,
    } = run;
    served.metrics.starts(jobs.iter().map(|j| j.rows).sum());
    if jobs.len() > 1 {
        for job in run_together(&served, jobs, taken) {
            run_alone(&served, job, Instant::now());
        }
    } else {
        for job in jobs {
            run_alone(&served, job, taken);
        }
    }
    completion.finish()
}

/// Runs a batch and answers it. Gives the jobs back where each should be run alone.
fn run_together(served: &Served, jobs: Vec<Job>, taken: Instant) -> Vec<Job> {
    let start = Instant::now();
    let Some(inputs) = concatenate(&jobs) else { return jobs };
    let input = start.elapsed();
    let (result, compute) = timed_run(served, inputs);
    let outputs = match result {
        Ok(outputs) => outputs,
        Err(error) if !served.model().is_pure() => return fail(jobs, &error),
        Err(error) => {
            tracing::debug!(model = served.name(), %error, requests = jobs.len(), "batch failed; running its requests one by one");
            return jobs;
        }
    };
    let start = Instant::now();
    let rows: Vec<usize> = jobs.iter().map(|j| j.rows).collect();
    let Some(parts) = split(&outputs, &rows) else {
        tracing::warn!(
            model = served.name(),
            "the outputs of a batch do not have its rows as their first dimension; requests of this model run one by one from now on"
        );
        served.not_batchable();
        if served.model().is_pure() {
            return jobs;
        }
        let error = InferError::Broken("the outputs of the batch could not be told apart; try again".to_owned());
        return fail(jobs, &error);
    };
    let output = start.elapsed();
    let batch_rows = rows.iter().sum();
    served.ran(batch_rows, input, compute, output);
    served.learn(jobs.iter().map(|j| j.work).sum(), taken.elapsed());
    for (job, outputs) in jobs.into_iter().zip(parts) {
        let queue = taken.saturating_duration_since(job.queued);
        job.answer(Ok(Answer {
            outputs,
            batch_rows,
            timings: Timings {
                queue,
                input,
                compute,
                output,
            },
        }));
    }
    Vec::new()
}

/// The batch of a model that must not run again.
fn fail(jobs: Vec<Job>, error: &InferError) -> Vec<Job> {
    for job in jobs {
        job.answer(Err(error.clone()));
    }
    Vec::new()
}

fn run_alone(served: &Served, mut job: Job, taken: Instant) {
    let queue = taken.saturating_duration_since(job.queued);
    let (result, compute) = timed_run(served, std::mem::take(&mut job.inputs));
    let batch_rows = job.rows;
    if result.is_ok() {
        served.ran(batch_rows, Duration::ZERO, compute, Duration::ZERO);
        served.learn(job.work, taken.elapsed());
    }
    let answer = result.map(|outputs| Answer {
        outputs,
        batch_rows,
        timings: Timings {
            queue,
            compute,
            ..Timings::default()
        },
    });
    job.answer(answer);
}

fn timed_run(served: &Served, inputs: Vec<Tensor>) -> (Result<Vec<Tensor>, InferError>, Duration) {
    let start = Instant::now();
    let result = match catch_unwind(AssertUnwindSafe(|| served.model().run(inputs))) {
        Ok(result) => result
            .map_err(InferError::from)
            .and_then(|outputs| check(served, outputs)),
        Err(panic) => Err(InferError::Broken(format!(
            "the model panicked: {}",
            panic_text(&*panic)
        ))),
    };
    if let Err(InferError::Broken(_) | InferError::Run(RunError::Node { .. })) = &result {
        tracing::warn!(model = served.name(), error = %result.as_ref().map(Vec::len).unwrap_err(), "run failed");
    }
    (result, start.elapsed())
}

/// Faces index outputs by the signature.
fn check(served: &Served, outputs: Vec<Tensor>) -> Result<Vec<Tensor>, InferError> {
    let expected = served.signature().outputs.len();
    if outputs.len() == expected {
        return Ok(outputs);
    }
    Err(InferError::Broken(format!(
        "the model gave {} outputs where its signature has {expected}",
        outputs.len()
    )))
}

/// What a panic said.
pub(crate) fn panic_text(panic: &(dyn std::any::Any + Send)) -> &str {
    panic
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("no message")
}

/// The inputs of all jobs, each stacked along dimension 0. The jobs keep theirs, in case the batch fails.
fn concatenate(jobs: &[Job]) -> Option<Vec<Tensor>> {
    let inputs = jobs.first()?.inputs.len();
    (0..inputs)
        .map(|i| stack(&jobs.iter().map(|j| &j.inputs[i]).collect::<Vec<_>>()))
        .collect()
}

fn stack(parts: &[&Tensor]) -> Option<Tensor> {
    macro_rules! stack_as {
        ($($variant:ident),*) => {
            match parts.first()?.data() {
                $(Data::$variant(_) => {
                    let mut all = Vec::with_capacity(parts.iter().map(|t| t.data().len()).sum());
                    for part in parts {
                        let Data::$variant(items) = part.data() else { return None };
                        all.extend_from_slice(items);
                    }
                    Data::$variant(all)
                })*
            }
        };
    }
    let data = stack_as!(Bool, U8, U16, U32, U64, I8, I16, I32, I64, F16, BF16, F32, F64, Bytes);
    let mut shape = parts.first()?.shape().to_vec();
    *shape.first_mut()? = parts.iter().map(|t| t.shape()[0]).sum();
    Tensor::new(shape, data)
}

/// The outputs of each request. `None` where an output does not have one row per row of the batch.
fn split(outputs: &[Tensor], rows: &[usize]) -> Option<Vec<Vec<Tensor>>> {
    let total: usize = rows.iter().sum();
    if outputs.iter().any(|t| t.shape().first() != Some(&total)) {
        return None;
    }
    let mut from = 0;
    rows.iter()
        .map(|&n| {
            let part = outputs.iter().map(|t| slice(t, from, n)).collect();
            from += n;
            part
        })
        .collect()
}

fn slice(tensor: &Tensor, from: usize, rows: usize) -> Option<Tensor> {
    let mut shape = tensor.shape().to_vec();
    *shape.first_mut()? = rows;
    let width: usize = shape[1..].iter().product();
    let range = from * width..(from + rows) * width;
    macro_rules! slice_as {
        ($($variant:ident),*) => {
            match tensor.data() {
                $(Data::$variant(items) => Data::$variant(items.get(range)?.to_vec()),)*
            }
        };
    }
    let data = slice_as!(Bool, U8, U16, U32, U64, I8, I16, I32, I64, F16, BF16, F32, F64, Bytes);
    Tensor::new(shape, data)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn tensor(rows: usize, width: usize, from: i64) -> Tensor {
        let data = (0..(rows * width) as i64).map(|i| from + i).collect();
        Tensor::new(vec![rows, width], Data::I64(data)).unwrap()
    }

    #[test]
    fn stacking_refuses_mixed_types() {
        let a = tensor(1, 2, 0);
        let b = Tensor::new(vec![1, 2], Data::F32(vec![0.0; 2])).unwrap();
        assert_eq!(stack(&[&a, &b]), None);
    }

    #[test]
    fn splitting_refuses_outputs_without_the_batch_dimension() {
        let scalar = Tensor::new(vec![], Data::F32(vec![1.0])).unwrap();
        assert_eq!(split(&[scalar], &[1, 1]), None);
        assert_eq!(split(&[tensor(3, 2, 0)], &[1, 1]), None);
    }

    proptest! {
        #[test]
        fn stacked_and_split_tensors_come_back(rows in proptest::collection::vec(0usize..5, 1..8), width in 0usize..4) {
            let mut from = 0;
            let parts: Vec<Tensor> = rows.iter().map(|&n| {
                let part = tensor(n, width, from);
                from += (n * width) as i64;
                part
            }).collect();
            let stacked = stack(&parts.iter().collect::<Vec<_>>()).unwrap();
            prop_assert_eq!(stacked.shape(), &[rows.iter().sum(), width]);
            let back: Vec<Tensor> = split(&[stacked], &rows).unwrap().into_iter().flatten().collect();
            prop_assert_eq!(back, parts);
        }
    }
}
