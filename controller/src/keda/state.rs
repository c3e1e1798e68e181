//! What the external scaler knows, for all who ask it: the routes that can be named and the counts of the activators.

use std::{collections::BTreeMap, time::Duration};

use parking_lot::Mutex;
use prometheus::{Histogram, HistogramOpts, IntCounter, IntGauge, Registry};
use tokio::{sync::watch, time::Instant};

use super::{
    counts::{Counts, Pod, Queue},
    scaler::{self, Directory, Metric, Number, Reference, ScalerError},
};

/// Settings of the external scaler.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Between two looks at the activators' counts. `KEDA_HTTP_QUEUE_TICK_DURATION`. Default 500 ms.
    pub tick: Duration,
    /// While a trigger is active, `true` is repeated on its stream so often: KEDA drops one that comes too early in a
    /// `ScaledObject`'s life, and counts its cool-down from the last. `KEDA_HTTP_SCALER_STREAM_INTERVAL_MS`. Default 1 s.
    pub heartbeat: Duration,
    /// A route whose arrival was pushed counts as active for so long at least. Default 2 s.
    pub hold: Duration,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            tick: Duration::from_millis(500),
            heartbeat: Duration::from_secs(1),
            hold: Duration::from_secs(2),
        }
    }
}

impl Config {
    /// The add-on's limit of one look: a tick, and no less than 250 ms.
    pub fn fetch_timeout(&self) -> Duration {
        self.tick.max(Duration::from_millis(250))
    }
}

/// Why a question can't be answered now.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AskError {
    /// The trigger is at fault.
    #[error(transparent)]
    Trigger(#[from] ScalerError),
    /// The routes are not known yet.
    #[error("the routes have not been read yet")]
    NoRoutes,
    /// No activator has answered yet: unknown is not zero.
    #[error("no activator has told its counts yet")]
    NoCounts,
}

/// The answer to a question, and how many activators it is from memory for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Answer<T> {
    /// The answer.
    pub value: T,
    /// Activators that did not answer the last look and count with their last values.
    pub stale: usize,
}

struct Known {
    directory: Option<Directory>,
    counts: Counts,
    counted: bool,
}

/// What the external scaler knows. All methods return at once.
pub struct Scaler {
    config: Config,
    known: Mutex<Known>,
    epoch: Instant,
    changes: watch::Sender<u64>,
    metrics: Metrics,
}

struct Metrics {
    duration: Histogram,
    errors: IntCounter,
    unreachable: IntGauge,
    endpoints: IntGauge,
}

const FETCH_BUCKETS: [f64; 10] = [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0];

impl Metrics {
    /// Registered under the add-on's names; a registry that has them already keeps its own.
    fn new(registry: &Registry) -> prometheus::Result<Self> {
        let buckets = FETCH_BUCKETS.to_vec();
        let metrics = Self {
            duration: Histogram::with_opts(
                HistogramOpts::new(
                    "scaler_pinger_fetch_duration_seconds",
                    "Looks at the counts of all activators.",
                )
                .buckets(buckets),
            )?,
            errors: IntCounter::new(
                "scaler_pinger_fetch_errors_total",
                "Looks at one activator that failed.",
            )?,
            unreachable: IntGauge::new(
                "scaler_pinger_unreachable_pods",
                "Activators that did not answer the last look.",
            )?,
            endpoints: IntGauge::new("scaler_pinger_endpoints", "Activators that are listed.")?,
        };
        registry.register(Box::new(metrics.duration.clone()))?;
        registry.register(Box::new(metrics.errors.clone()))?;
        registry.register(Box::new(metrics.unreachable.clone()))?;
        registry.register(Box::new(metrics.endpoints.clone()))?;
        Ok(metrics)
    }
}

impl Scaler {
    /// Knows nothing yet, and says so to everyone.
    ///
    /// # Errors
    /// Where the registry has metrics of these names already.
    pub fn new(config: Config, registry: &Registry) -> prometheus::Result<Self> {
        let counts = Counts::new(config.hold);
        Ok(Self {
            config,
            known: Mutex::new(Known {
                directory: None,
                counts,
                counted: false,
            }),
            epoch: Instant::now(),
            changes: watch::Sender::new(0),
            metrics: Metrics::new(registry)?,
        })
    }

    /// Its settings.
    pub fn config(&self) -> &Config {
        &self.config
    }

    fn now(&self) -> Duration {
        self.epoch.elapsed()
    }

    /// Replaces all that can be named.
    pub fn set_directory(&self, directory: Directory) {
        self.known.lock().directory = Some(directory);
        self.tell();
    }

    /// Takes a look at all listed activators that took `took`; `None` did not answer. False where none did.
    pub fn take(&self, looks: BTreeMap<Pod, Option<Queue>>, took: Duration) -> bool {
        let failed = looks.values().filter(|look| look.is_none()).count();
        self.metrics.duration.observe(took.as_secs_f64());
        self.metrics.errors.inc_by(failed as u64);
        self.metrics.unreachable.set(failed as i64);
        self.metrics.endpoints.set(looks.len() as i64);
        let taken = {
            let mut known = self.known.lock();
            let taken = known.counts.take(self.now(), looks);
            known.counted |= taken;
            taken
        };
        self.tell();
        taken
    }

    /// An activator says that requests arrived at routes that had none. Streams tell it at once.
    pub fn pushed<'a>(&self, routes: impl IntoIterator<Item = &'a str>) {
        let now = self.now();
        let mut known = self.known.lock();
        for route in routes {
            known.counts.pushed(now, route);
        }
        drop(known);
        self.tell();
    }

    fn tell(&self) {
        self.changes.send_modify(|changes| *changes += 1);
    }

    /// Told after everything new. Many changes may come as one.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    /// Whether a look succeeded within the last two ticks.
    pub fn is_fresh(&self) -> bool {
        self.known.lock().counts.is_fresh(self.now(), self.config.tick * 2)
    }

    /// The metrics of a trigger.
    pub fn metrics(&self, reference: &Reference) -> Result<Vec<Metric>, AskError> {
        let known = self.known.lock();
        let directory = known.directory.as_ref().ok_or(AskError::NoRoutes)?;
        Ok(scaler::metrics(reference, directory)?)
    }

    /// The values of a trigger's metrics: of the one with this name, or of all where `name` is empty.
    pub fn values(&self, reference: &Reference, name: &str) -> Result<Answer<Vec<(String, Number)>>, AskError> {
        let metrics = self.metrics(reference)?;
        self.with_counts(|counts, now| {
            let wanted = metrics.iter().filter(|metric| name.is_empty() || metric.name == name);
            wanted
                .map(|metric| (metric.name.clone(), metric.value(counts, now)))
                .collect()
        })
    }

    /// Whether a trigger is active.
    pub fn is_active(&self, reference: &Reference) -> Result<Answer<bool>, AskError> {
        let metrics = self.metrics(reference)?;
        self.with_counts(|counts, now| scaler::is_active(&metrics, counts, now))
    }

    fn with_counts<T>(&self, ask: impl FnOnce(&mut Counts, Duration) -> T) -> Result<Answer<T>, AskError> {
        let now = self.now();
        let mut known = self.known.lock();
        if !known.counted {
            return Err(AskError::NoCounts);
        }
        let value = ask(&mut known.counts, now);
        let stale = known.counts.stale().len();
        Ok(Answer { value, stale })
    }
}
