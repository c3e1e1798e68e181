//! Every option of the controller and of the local platform, with its default and unit.

use std::{path::PathBuf, time::Duration};

use pilotlight_storage::Fetcher;

use crate::{backoff::BackoffPolicy, error::Error};

/// Options of the reconcile loop.
#[derive(Clone, Debug)]
pub struct Config {
    /// Domain of the host routes. Default `example.com`.
    pub domain: String,
    /// What stands before the path in [`crate::ServiceStatus::url`]: the address under which clients reach the proxy.
    /// Default `http://127.0.0.1:8080`.
    pub base_url: String,
    /// Time between two snapshots of the counts. Default 1 s, the width of the autoscaler's buckets.
    pub snapshot_interval: Duration,
    /// Time between two decisions. Default 2 s.
    pub decision_interval: Duration,
    /// Counts older than this are unknown. Default 5 s.
    pub stale_after: Duration,
    /// Pauses between starts that fail.
    pub backoff: BackoffPolicy,
    /// A replica that isn't ready after this long is ended and counts as failed. Default 300 s.
    pub start_timeout: Duration,
    /// A replica that was ready and that the proxy can't reach for so long is ended and replaced. Default 30 s.
    pub silence_limit: Duration,
    /// A start that failed after this long is told to the waiting requests at the first failure. Default 5 s.
    pub slow_start: Duration,
    /// A sealed replica is ended after this long even with requests in flight (it still gets the platform's own time to
    /// finish them). Default 300 s.
    pub drain_limit: Duration,
    /// On shutdown, how long requests in flight may take before replicas are told to end. Default 10 s.
    pub shutdown_drain: Duration,
    /// On shutdown, how long replicas may take to end before they are killed. Default 5 s.
    pub shutdown_limit: Duration,
    /// Changes kept for a reader of [`crate::Controller::changes`] that lags. Default 1,024.
    pub changes_capacity: usize,
    /// Largest body of `PUT /api/v1/manifests`; more is 413. Default 1 MiB.
    pub max_manifest_bytes: usize,
    /// Fetches models of remote storage. Default none: they are a problem of their services.
    pub fetcher: Option<Fetcher>,
    /// Time between two looks at whether a remote model changed. Default 5 min.
    pub remote_interval: Duration,
    /// Pause before a failed fetch is tried again; doubles with each in a row, up to `remote_interval`. Default 5 s.
    pub remote_retry: Duration,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            domain: "example.com".to_owned(),
            base_url: "http://127.0.0.1:8080".to_owned(),
            snapshot_interval: Duration::from_secs(1),
            decision_interval: Duration::from_secs(2),
            stale_after: Duration::from_secs(5),
            backoff: BackoffPolicy::default(),
            start_timeout: Duration::from_mins(5),
            silence_limit: Duration::from_secs(30),
            slow_start: Duration::from_secs(5),
            drain_limit: Duration::from_mins(5),
            shutdown_drain: Duration::from_secs(10),
            shutdown_limit: Duration::from_secs(5),
            changes_capacity: 1024,
            max_manifest_bytes: 1 << 20,
            fetcher: None,
            remote_interval: Duration::from_mins(5),
            remote_retry: Duration::from_secs(5),
        }
    }
}

/// Options of the platform that runs replicas as child processes.
#[derive(Clone, Debug)]
pub struct LocalConfig {
    /// The program with the `runtime` subcommand. Default: the running one.
    pub executable: PathBuf,
    /// Processes at once, ending ones included; one more is refused with `no-capacity`. Default 256.
    pub max_processes: usize,
    /// Processes being spawned at once. Default 4.
    pub concurrent_spawns: usize,
    /// Time between SIGTERM and SIGKILL. Default 30 s.
    pub term_limit: Duration,
    /// Log bytes kept per workload; older lines go first. Default 256 KiB.
    pub log_bytes: usize,
    /// A longer log line is cut here. Default 8 KiB.
    pub log_line_bytes: usize,
    /// Variables of our own environment that runtimes inherit; they get no others but the manifest's.
    /// Default PATH, HOME, LANG, TZ, TMPDIR, LD_LIBRARY_PATH, RUST_LOG, RUST_BACKTRACE, CUDA's folders (CUDA_PATH, CUDA_CACHE_PATH),
    /// PILOTLIGHT_PREPARED_DIR, and OpenTelemetry's for traces but the
    /// service's name.
    pub inherited_env: Vec<String>,
    /// GPUs that replicas may be given, as `CUDA_VISIBLE_DEVICES` names them: numbers or UUIDs. Default: those of that variable, else
    /// all that have a device file (`/dev/nvidia0` and so on).
    pub gpus: Vec<String>,
}

impl LocalConfig {
    /// The defaults, with the running program as the executable. Fails where the system doesn't tell its path.
    pub fn new() -> Result<Self, Error> {
        let executable = std::env::current_exe().map_err(|source| Error::Platform {
            what: "finding the path of the running program".to_owned(),
            source,
        })?;
        Ok(Self::with_executable(executable))
    }

    /// The defaults with this executable.
    pub fn with_executable(executable: PathBuf) -> Self {
        let inherited = [
            "PATH",
            "HOME",
            "LANG",
            "TZ",
            "TMPDIR",
            "LD_LIBRARY_PATH",
            "RUST_LOG",
            "RUST_BACKTRACE",
            "CUDA_PATH",
            "CUDA_CACHE_PATH",
            "PILOTLIGHT_PREPARED_DIR",
            "OTEL_BSP_SCHEDULE_DELAY",
            "OTEL_EXPORTER_OTLP_CERTIFICATE",
            "OTEL_EXPORTER_OTLP_COMPRESSION",
            "OTEL_EXPORTER_OTLP_ENDPOINT",
            "OTEL_EXPORTER_OTLP_HEADERS",
            "OTEL_EXPORTER_OTLP_METRICS_CERTIFICATE",
            "OTEL_EXPORTER_OTLP_METRICS_COMPRESSION",
            "OTEL_EXPORTER_OTLP_METRICS_ENDPOINT",
            "OTEL_EXPORTER_OTLP_METRICS_HEADERS",
            "OTEL_EXPORTER_OTLP_METRICS_PROTOCOL",
            "OTEL_EXPORTER_OTLP_METRICS_TIMEOUT",
            "OTEL_EXPORTER_OTLP_PROTOCOL",
            "OTEL_EXPORTER_OTLP_TIMEOUT",
            "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT",
            "OTEL_METRICS_EXPORTER",
            "OTEL_METRIC_EXPORT_INTERVAL",
            "OTEL_RESOURCE_ATTRIBUTES",
            "OTEL_SDK_DISABLED",
            "OTEL_TRACES_EXPORTER",
            "OTEL_TRACES_SAMPLER",
            "OTEL_TRACES_SAMPLER_ARG",
        ];
        Self {
            executable,
            max_processes: 256,
            concurrent_spawns: 4,
            term_limit: Duration::from_secs(30),
            log_bytes: 256 << 10,
            log_line_bytes: 8 << 10,
            inherited_env: inherited.map(str::to_owned).to_vec(),
            gpus: crate::local::gpus_here(),
        }
    }
}

/// Options of the check of a model at deployment.
#[derive(Clone, Debug)]
pub struct CheckConfig {
    /// Checks at once. Default 2.
    pub concurrency: usize,
    /// A check that takes longer fails. Default 60 s.
    pub timeout: Duration,
    /// Address space of the checking process. Default 8 GiB.
    pub memory_bytes: u64,
    /// Results kept by the digest of the model's content. Default 1,024.
    pub cached: usize,
}

impl Default for CheckConfig {
    fn default() -> Self {
        Self {
            concurrency: 2,
            timeout: Duration::from_mins(1),
            memory_bytes: 8 << 30,
            cached: 1024,
        }
    }
}

/// Options of the source of manifests.
#[derive(Clone, Debug)]
pub struct SourceConfig {
    /// The directory whose `*.yaml`, `*.yml` and `*.json` files are served; `None` for applied objects only.
    pub directory: Option<PathBuf>,
    /// Where applied objects are kept, one file each. Default `.pilotlight` in the directory.
    pub state_directory: PathBuf,
    /// A change is taken up when this long nothing more changed. Default 50 ms.
    pub debounce: Duration,
    /// A change is taken up after this long even while more changes follow. Default 500 ms.
    pub debounce_limit: Duration,
    /// How long a file that was emptied may be on its way to new content before its services go. Default 400 ms.
    pub empty_grace: Duration,
    /// Time between looks at the files without being told of a change: every 10 s, or every 500 ms where the system can't
    /// watch files.
    pub rescan: Duration,
    /// Files of the directory that are read; further ones (in the order of their names) are reported. Default 10,000.
    pub max_files: usize,
    /// Largest manifest file; a larger one is reported. Default 1 MiB.
    pub max_file_bytes: u64,
}

impl SourceConfig {
    /// The defaults for a directory of manifests.
    pub fn for_directory(directory: impl Into<PathBuf>) -> Self {
        let directory = directory.into();
        let state_directory = directory.join(".pilotlight");
        Self {
            directory: Some(directory),
            ..Self::applied_only(state_directory)
        }
    }

    /// The defaults without a directory of manifests.
    pub fn applied_only(state_directory: impl Into<PathBuf>) -> Self {
        Self {
            directory: None,
            state_directory: state_directory.into(),
            debounce: Duration::from_millis(50),
            debounce_limit: Duration::from_millis(500),
            empty_grace: Duration::from_millis(400),
            rescan: Duration::from_secs(10),
            max_files: 10_000,
            max_file_bytes: 1 << 20,
        }
    }
}
