//! The executor: one OS thread per device that owns its runs, and where copies to the device can hide behind runs one more that
//! stages them, one batch ahead.
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
use crate::model::Staged;
use crate::scheduler::{Answer, Completion, Device, Job, Run, Timings};
use crate::served::Served;

/// The executor's threads. They end when this is dropped and their last run is done.
pub(crate) struct Executor {
    runs: mpsc::SyncSender<Run>,
    depth: usize,
}

impl Executor {
    /// Starts the thread; with `ahead` a second one, that puts the next batch together and copies it to the device while the first
    /// runs the one before.
    ///
    /// # Errors
    /// Where the system gives no thread.
    pub(crate) fn spawn(ahead: bool) -> std::io::Result<Self> {
        let depth = if ahead { 2 } else { 1 };
        // As many places as the scheduler gives runs at a time.
        let (runs, inbox) = mpsc::sync_channel::<Run>(depth);
        if ahead {
            let (loaded, ready) = mpsc::sync_channel::<Loaded>(1);
            thread("loader", move || {
                while let Ok(run) = inbox.recv() {
                    // As below; dropping the run frees its place.
                    let Ok(run) = catch_unwind(AssertUnwindSafe(|| load(run))) else {
                        continue;
                    };
                    if loaded.send(run).is_err() {
                        return;
                    }
                }
            })?;
            thread("executor", move || {
                while let Ok(run) = ready.recv() {
                    // The next run goes through the loader: dropping the completion starts it there.
                    let _ = catch_unwind(AssertUnwindSafe(|| drop(execute_loaded(run))));
                }
            })?;
        } else {
            thread("executor", move || {
                while let Ok(run) = inbox.recv() {
                    let mut next = Some(run);
                    while let Some(run) = next {
                        // Catches a bug of our own; the model's panics are caught closer by. Unwinding drops the run, which
                        // frees the device and sends whatever comes next through the channel.
                        next = catch_unwind(AssertUnwindSafe(|| execute(run))).unwrap_or(None);
                    }
                }
            })?;
        }
        Ok(Self { runs, depth })
    }
}

fn thread(name: &str, work: impl FnOnce() + Send + 'static) -> std::io::Result<()> {
    std::thread::Builder::new().name(name.into()).spawn(work).map(drop)
}

impl Device for Executor {
    fn start(&self, run: Run) {
        if self.runs.try_send(run).is_err() {
            tracing::error!("the executor thread is gone or was given too many runs; the run is dropped");
        }
    }

    fn depth(&self) -> usize {
        self.depth
    }
}

/// A run whose inputs are where the model wants them.
struct Loaded {
    run: Run,
    /// What staging gave; `None` where the inputs of a batch can't be stacked.
    inputs: Option<Result<Staged, InferError>>,
    /// What that took.
    time: Duration,
}

/// Puts the inputs of a run together and stages them.
fn load(mut run: Run) -> Loaded {
    let start = Instant::now();
    let inputs = match run.jobs.as_mut_slice() {
        [job] => Some(std::mem::take(&mut job.inputs)),
        jobs => concatenate(jobs),
    };
    let inputs = inputs.map(|inputs| staged(&run.served, inputs));
    Loaded {
        inputs,
        time: start.elapsed(),
        run,
    }
}

/// Executes a run, answers its requests, and returns what the device is to run next.
pub(crate) fn execute(run: Run) -> Option<Run> {
    execute_loaded(load(run)).finish()
}

fn execute_loaded(loaded: Loaded) -> Completion {
    let Loaded { run, inputs, time } = loaded;
    let Run {
        served,
        mut jobs,
        taken,
        completion,
    } = run;
    served.metrics.starts(jobs.iter().map(|j| j.rows).sum());
    match inputs {
        Some(inputs) if jobs.len() == 1 => {
            if let Some(job) = jobs.pop() {
                run_alone(&served, job, taken, inputs, time);
            }
        }
        inputs => {
            for mut job in run_together(&served, jobs, taken, inputs, time) {
                let (start, tensors) = (Instant::now(), std::mem::take(&mut job.inputs));
                let inputs = staged(&served, tensors);
                run_alone(&served, job, start, inputs, start.elapsed());
            }
        }
    }
    completion
}

/// Runs a batch and answers it. Gives the jobs back where each should be run alone.
fn run_together(
    served: &Served,
    jobs: Vec<Job>,
    taken: Instant,
    inputs: Option<Result<Staged, InferError>>,
    input: Duration,
) -> Vec<Job> {
    let Some(inputs) = inputs else { return jobs };
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

fn run_alone(served: &Served, job: Job, taken: Instant, inputs: Result<Staged, InferError>, input: Duration) {
    let queue = taken.saturating_duration_since(job.queued);
    let (result, compute) = timed_run(served, inputs);
    let batch_rows = job.rows;
    if result.is_ok() {
        served.ran(batch_rows, input, compute, Duration::ZERO);
        served.learn(job.work, taken.elapsed());
    }
    let answer = result.map(|outputs| Answer {
        outputs,
        batch_rows,
        timings: Timings {
            queue,
            input,
            compute,
            ..Timings::default()
        },
    });
    job.answer(answer);
}

/// Takes inputs to where the model runs.
fn staged(served: &Served, inputs: Vec<Tensor>) -> Result<Staged, InferError> {
    guarded(|| served.model().stage(inputs))
}

/// A panic of the model, which may be its backend's (of a device without memory, say), is an error of the request.
fn guarded<T>(f: impl FnOnce() -> Result<T, RunError>) -> Result<T, InferError> {
    match catch_unwind(AssertUnwindSafe(f)) {
        Ok(result) => result.map_err(InferError::from),
        Err(panic) => Err(InferError::Broken(format!(
            "the model panicked: {}",
            panic_text(&*panic)
        ))),
    }
}

fn timed_run(served: &Served, inputs: Result<Staged, InferError>) -> (Result<Vec<Tensor>, InferError>, Duration) {
    let start = Instant::now();
    let run = |inputs| guarded(|| served.model().run_staged(inputs));
    let result = inputs.and_then(run).and_then(|outputs| check(served, outputs));
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

    /// A model that tells what happens to it, and whose runs wait to be let go.
    struct Told {
        signature: pilotlight_engine::Signature,
        events: mpsc::Sender<(&'static str, usize)>,
        go: parking_lot::Mutex<mpsc::Receiver<()>>,
    }

    impl crate::model::Model for Told {
        fn signature(&self) -> &pilotlight_engine::Signature {
            &self.signature
        }

        fn run(&self, inputs: Vec<Tensor>) -> Result<Vec<Tensor>, RunError> {
            self.run_staged(self.stage(inputs)?)
        }

        fn stage(&self, inputs: Vec<Tensor>) -> Result<Staged, RunError> {
            let _ = self.events.send(("staged", inputs[0].shape()[0]));
            Ok(Staged::new(inputs))
        }

        fn run_staged(&self, staged: Staged) -> Result<Vec<Tensor>, RunError> {
            let inputs: Vec<Tensor> = staged.take()?;
            let _ = self.events.send(("runs", inputs[0].shape()[0]));
            self.go.lock().recv().expect("the test lets it go");
            Ok(inputs)
        }
    }

    #[tokio::test]
    async fn the_next_full_batch_is_staged_while_the_device_runs_and_answers_stay_with_their_requests() {
        use crate::testing::{config, info, n, scheduler, signature};
        let (events, seen) = mpsc::channel();
        let (let_go, go) = mpsc::channel();
        let model = Told {
            signature: signature(
                vec![info("x", pilotlight_engine::DataType::I64, vec![n(), n()])],
                vec![info("y", pilotlight_engine::DataType::I64, vec![n(), n()])],
            ),
            events,
            go: parking_lot::Mutex::new(go),
        };
        let config = crate::config::Config {
            max_batch_size: 2,
            ..config()
        };
        let (scheduler, metrics) = scheduler(&config, Executor::spawn(true).unwrap());
        let served = std::sync::Arc::new(Served::new("m", "1", std::sync::Arc::new(model), metrics.of("m", "1")));
        let ask = |from: i64| {
            let now = Instant::now();
            let request = crate::scheduler::Request {
                inputs: vec![tensor(1, 3, from)],
                arrived: now,
                deadline: now + Duration::from_mins(5),
                priority: 0,
            };
            scheduler.submit(scheduler.open(&served), request).unwrap()
        };
        let limit = Duration::from_mins(1);
        let next = || seen.recv_timeout(limit).unwrap();
        let first = ask(0);
        assert_eq!([next(), next()], [("staged", 1), ("runs", 1)]);
        let second = ask(10);
        assert_eq!(scheduler.waiting(), 1, "a batch that can grow is not taken ahead");
        let third = ask(20);
        assert_eq!(next(), ("staged", 2), "a full one is, while the first still runs");
        let fourth = ask(30);
        assert_eq!(scheduler.waiting(), 1, "and no more than one");
        for _ in 0..3 {
            let_go.send(()).unwrap();
        }
        let output = |answer: crate::scheduler::Answer| answer.outputs.into_iter().next().unwrap();
        for (from, pending) in [(0, first), (10, second), (20, third), (30, fourth)] {
            assert_eq!(output(pending.wait().await.unwrap()), tensor(1, 3, from));
        }
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
