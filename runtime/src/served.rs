//! A loaded model together with what serving adds to it.

use std::hash::{Hash, Hasher};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use pilotlight_engine::{DataType, Dim, Signature, Tensor};
use tokio::time::Instant;
use tokio_util::task::TaskTracker;

use crate::batch::{Cost, Learner};
use crate::metrics::ModelMetrics;
use crate::model::Model;
use crate::stats::Stats;

static NEXT_ID: AtomicU64 = AtomicU64::new(0);

/// A loaded model. Its identity is this value, not its name: a reloaded model is another one.
pub struct Served {
    id: u64,
    name: String,
    version: String,
    model: Arc<dyn Model>,
    batchable: AtomicBool,
    learner: Mutex<Learner>,
    /// Requests that are being received and have not reached the queue.
    pub(crate) open: AtomicUsize,
    /// Requests in the queue.
    waiting: AtomicUsize,
    /// What is counted of it.
    pub(crate) metrics: Arc<ModelMetrics>,
    /// Counts since it was loaded.
    pub(crate) stats: Stats,
    /// Requests that use the model.
    pub(crate) users: TaskTracker,
}

/// When a model became ready and how long that took.
#[derive(Clone, Copy, Debug)]
pub struct Readiness {
    /// Load and warm-up.
    pub load: Duration,
    /// When both were done.
    pub since: Instant,
}

impl Served {
    /// Prepares a model for serving as this version of `name`.
    pub fn new(name: impl Into<String>, version: &str, model: Arc<dyn Model>, metrics: ModelMetrics) -> Self {
        let batchable = AtomicBool::new(is_batchable(model.signature()));
        Self {
            id: NEXT_ID.fetch_add(1, Ordering::Relaxed),
            name: name.into(),
            version: version.to_owned(),
            model,
            batchable,
            learner: Mutex::default(),
            open: AtomicUsize::new(0),
            waiting: AtomicUsize::new(0),
            metrics: Arc::new(metrics),
            stats: Stats::default(),
            users: TaskTracker::new(),
        }
    }

    /// The name in the URLs.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The version in the URLs.
    pub fn version(&self) -> &str {
        &self.version
    }

    /// What it runs on, for the metadata.
    pub fn platform(&self) -> &'static str {
        self.model.platform()
    }

    /// Inputs and outputs.
    pub fn signature(&self) -> &Signature {
        self.model.signature()
    }

    /// The model itself.
    pub(crate) fn model(&self) -> &dyn Model {
        &*self.model
    }

    /// Whether requests may share a run.
    pub fn batchable(&self) -> bool {
        self.batchable.load(Ordering::Relaxed)
    }

    /// Requests of it in the queue.
    pub(crate) fn waiting(&self) -> usize {
        self.waiting.load(Ordering::Acquire)
    }

    /// Requests came into the queue (or, where negative, left it). Called under the queue's lock.
    pub(crate) fn waits(&self, change: isize) {
        self.waiting.fetch_add(change as usize, Ordering::AcqRel);
        self.metrics.waiting(change as i64);
    }

    /// A run of this many rows gave outputs.
    pub(crate) fn ran(&self, rows: usize, input: Duration, infer: Duration, output: Duration) {
        self.stats.ran(rows, input, infer, output);
        self.metrics.ran(rows);
    }

    /// A run of this much work took this long, from when it was taken out of the queue.
    pub(crate) fn learn(&self, work: u64, time: Duration) {
        self.learner.lock().observe(work, time);
    }

    /// What its runs cost, where that is known by now.
    pub(crate) fn cost(&self) -> Option<Cost> {
        self.learner.lock().cost()
    }

    /// A batch's outputs could not be taken apart by rows: from now on every request runs alone.
    pub(crate) fn not_batchable(&self) {
        self.batchable.store(false, Ordering::Relaxed);
    }
}

impl std::fmt::Debug for Served {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Served")
            .field("id", &self.id)
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

/// Whether the signature lets requests be stacked along dimension 0: every input and output has one, it is of no fixed size,
/// it carries the same symbol wherever it carries one, and that symbol does not speak of a sequence. An output that declares
/// no shape is given the benefit of the doubt; the executor checks what comes out.
pub(crate) fn is_batchable(signature: &Signature) -> bool {
    let Some(inputs) = signature
        .inputs
        .iter()
        .map(|t| t.shape.as_deref())
        .collect::<Option<Vec<_>>>()
    else {
        return false;
    };
    let outputs = signature.outputs.iter().filter_map(|t| t.shape.as_deref());
    let mut symbol: Option<&str> = None;
    for shape in inputs.iter().copied().chain(outputs) {
        match shape.first() {
            Some(Dim::Unknown) => {}
            Some(Dim::Symbol(s)) if symbol.get_or_insert(s) == s && !speaks_of_a_sequence(s) => {}
            Some(Dim::Symbol(_) | Dim::Fixed(_)) | None => return false,
        }
    }
    !inputs.is_empty()
}

/// Rows of a sequence may look at each other, so stacking two sequences would change both answers.
fn speaks_of_a_sequence(symbol: &str) -> bool {
    let symbol = symbol.to_ascii_lowercase();
    ["seq", "len", "time", "step", "token"]
        .iter()
        .any(|word| symbol.contains(word))
}

/// What requests must agree on to run together.
#[derive(Clone, Debug)]
pub(crate) struct Key {
    pub(crate) served: Arc<Served>,
    /// Of a request that can't be stacked with any other.
    pub(crate) alone: bool,
    inputs: Vec<(DataType, Vec<usize>)>,
}

impl Key {
    /// The key of a request and its number of rows.
    pub(crate) fn of(served: &Arc<Served>, inputs: &[Tensor]) -> (Self, usize) {
        let rows = if served.batchable() { common_rows(inputs) } else { None };
        let key = Self {
            served: Arc::clone(served),
            alone: rows.is_none(),
            inputs: match rows {
                Some(_) => inputs.iter().map(|t| (t.datatype(), t.shape()[1..].to_vec())).collect(),
                None => Vec::new(),
            },
        };
        (key, rows.unwrap_or(1))
    }
}

impl PartialEq for Key {
    fn eq(&self, other: &Self) -> bool {
        self.served.id == other.served.id && self.alone == other.alone && self.inputs == other.inputs
    }
}

impl Eq for Key {}

impl Hash for Key {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.served.id.hash(state);
        self.inputs.hash(state);
    }
}

/// The size along dimension 0 that all inputs share.
fn common_rows(inputs: &[Tensor]) -> Option<usize> {
    let rows = *inputs.first()?.shape().first()?;
    inputs.iter().all(|t| t.shape().first() == Some(&rows)).then_some(rows)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{info, signature};

    #[test]
    fn a_model_is_batchable_when_dimension_0_is_free_everywhere() {
        let batch = |d: &str| Dim::Symbol(d.into());
        let two = |a: Vec<Dim>, b: Vec<Dim>| {
            is_batchable(&signature(
                vec![info("x", DataType::F32, a)],
                vec![info("y", DataType::F32, b)],
            ))
        };
        assert!(two(vec![batch("N"), Dim::Fixed(4)], vec![batch("N")]));
        assert!(two(vec![Dim::Unknown, Dim::Fixed(4)], vec![batch("N")]));
        assert!(!two(vec![Dim::Fixed(1), Dim::Fixed(4)], vec![batch("N")]), "fixed");
        assert!(!two(vec![batch("N")], vec![]), "a scalar output");
        assert!(!two(vec![], vec![batch("N")]), "a scalar input");
        assert!(!two(vec![batch("N")], vec![batch("M")]), "another symbol");
        assert!(
            !two(vec![batch("seq_len"), Dim::Fixed(4)], vec![batch("seq_len")]),
            "a sequence"
        );
    }
}
