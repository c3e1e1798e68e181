//! One model's statistics, as Triton counts them.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use parking_lot::Mutex;

use crate::scheduler::Timings;

/// Counts since the model was loaded.
#[derive(Debug, Default)]
pub(crate) struct Stats(Mutex<Counts>);

/// How often something was done and how long that took together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Spent {
    pub(crate) count: u64,
    pub(crate) ns: u64,
}

impl Spent {
    fn add(&mut self, time: Duration) {
        self.count += 1;
        self.ns = self.ns.saturating_add(time.as_nanos() as u64);
    }
}

/// What runs of one batch size took.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Batch {
    pub(crate) input: Spent,
    pub(crate) infer: Spent,
    pub(crate) output: Spent,
}

/// The counts at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    /// Milliseconds since 1970; 0: never.
    pub(crate) last_inference: u64,
    /// Rows.
    pub(crate) inferences: u64,
    /// Runs.
    pub(crate) executions: u64,
    pub(crate) success: Spent,
    pub(crate) fail: Spent,
    pub(crate) queue: Spent,
    pub(crate) input: Spent,
    pub(crate) infer: Spent,
    pub(crate) output: Spent,
    /// By rows.
    pub(crate) batches: BTreeMap<usize, Batch>,
}

impl Stats {
    /// A run that gave outputs.
    pub(crate) fn ran(&self, rows: usize, input: Duration, infer: Duration, output: Duration) {
        let mut counts = self.0.lock();
        counts.inferences += rows as u64;
        counts.executions += 1;
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        counts.last_inference = since.as_millis() as u64;
        let batch = counts.batches.entry(rows).or_default();
        batch.input.add(input);
        batch.infer.add(infer);
        batch.output.add(output);
    }

    /// A request that was answered `total` after it arrived. `timings` include its own parsing and writing.
    pub(crate) fn answered(&self, total: Duration, timings: &Timings) {
        let mut counts = self.0.lock();
        counts.success.add(total);
        counts.queue.add(timings.queue);
        counts.input.add(timings.input);
        counts.infer.add(timings.compute);
        counts.output.add(timings.output);
    }

    /// A request that came to the queue and got no answer.
    pub(crate) fn failed(&self, total: Duration) {
        self.0.lock().fail.add(total);
    }

    /// Forgets what was counted, which is the warm-up.
    pub(crate) fn reset(&self) {
        *self.0.lock() = Counts::default();
    }

    /// The counts now.
    pub(crate) fn read(&self) -> Counts {
        self.0.lock().clone()
    }
}
