//! What the process is told at its start. Parsed once; `README.md` of this crate has the table, and a test compares the two.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use pilotlight_cuda::Precision;

use crate::device::DeviceArg;

mod values;

pub(crate) use values::check_name;
pub use values::{DimArg, ModelArg};
use values::{bounded, bounded32, bounded64};

/// Serves ONNX models over HTTP: the protocols V1, V2 and /predict, with dynamic batching.
///
/// Variables give the defaults of their flags; a flag wins over its variable.
#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    /// A model to load at start and the name to serve it under: a path, or a URI of s3, gs, https, http, az or abfs that is
    /// fetched into the cache. May be given several times, or not at all.
    #[arg(long = "model", value_name = "NAME=PATH")]
    pub models: Vec<ModelArg>,

    /// Address to listen on.
    #[arg(long, value_name = "ADDR:PORT", default_value = "127.0.0.1:8080")]
    pub http_address: SocketAddr,

    /// Listen on this inherited socket instead. The parent sets LISTEN_FDS as systemd does; the first socket is number 3.
    #[arg(long, value_name = "FD", conflicts_with = "http_address")]
    pub listen_fd: Option<i32>,

    /// Listen here too, for clients that expect gRPC on a port of its own. Both addresses serve both.
    #[arg(long, value_name = "ADDR:PORT", env = "GRPC_ADDRESS")]
    pub grpc_address: Option<SocketAddr>,

    /// Exit at once when this inherited pipe ends, which is when the parent is gone.
    #[arg(long, value_name = "FD")]
    pub lifeline_fd: Option<i32>,

    /// Most rows in one batch; 1 switches batching off. A single request may have more and then runs alone.
    #[arg(long, value_name = "ROWS", env = "MAX_BATCH_SIZE", default_value_t = 32, value_parser = bounded(1, 65_536))]
    pub max_batch_size: usize,

    /// How old, in milliseconds, the oldest request of a batch may get while the batch fills up and other requests are
    /// being received. 0: an idle device takes what waits at once.
    #[arg(long, value_name = "MS", env = "MAX_WAIT_MS", default_value_t = 0, value_parser = bounded64(0, 600_000))]
    pub max_latency_ms: u64,

    /// Levels of priority, of which 1 is the highest. A request asks for one with the parameter `priority`.
    #[arg(long, value_name = "N", env = "PRIORITY_LEVELS", default_value_t = 1, value_parser = bounded32(1, 100))]
    pub priority_levels: u32,

    /// The level of requests that ask for none, or for one that there is not; the lowest where not given.
    #[arg(long, value_name = "LEVEL", env = "DEFAULT_PRIORITY", value_parser = bounded32(1, 100))]
    pub default_priority: Option<u32>,

    /// Sizes in rows that the models run best at, such as 4,8,16. A batch that reaches one leaves, at the largest one it reaches.
    #[arg(long, value_name = "ROWS", env = "PREFERRED_BATCH_SIZES", value_delimiter = ',', value_parser = bounded(1, 65_536))]
    pub preferred_batch_sizes: Vec<usize>,

    /// Learn what runs cost: requests that can't be answered by their deadline are refused at once with 503 deadline-unreachable,
    /// and a batch stops growing where one more request would make another one late.
    #[arg(long, env = "ADAPTIVE_BATCHING", value_name = "BOOL", default_value_t = false, action = clap::ArgAction::Set)]
    pub adaptive_batching: bool,

    /// Whether clients may load and unload models by the repository API.
    #[arg(long, value_name = "MODE", env = "MODEL_CONTROL_MODE", default_value = "none")]
    pub model_control_mode: ModelControl,

    /// A folder of models in Triton's layout, `<model>/<version>/model.onnx`. With `--model-control-mode none` all are loaded at
    /// start, with `explicit` only those that a client asks for.
    #[arg(long, value_name = "DIR", env = "MODEL_REPOSITORY")]
    pub model_repository: Option<PathBuf>,

    /// Most requests of one model that wait for the device; one more is answered 503 queue-full.
    #[arg(long, value_name = "N", env = "QUEUE_SIZE", default_value_t = 1000, value_parser = bounded(1, 1_000_000))]
    pub queue_size: usize,

    /// Most bytes of inputs that wait for the device, and of bodies that are being received; past it 503 queue-full. A
    /// single request may have more.
    #[arg(long, value_name = "BYTES", env = "QUEUE_BYTES", default_value_t = 1 << 30, value_parser = bounded(1, usize::MAX))]
    pub queue_bytes: usize,

    /// `/ready` answers 503 while more requests than this wait. The models' own readiness does not depend on it.
    #[arg(long, value_name = "N", env = "READY_QUEUE_LIMIT", default_value_t = 100, value_parser = bounded(0, 1_000_000))]
    pub ready_queue_limit: usize,

    /// Milliseconds from arrival in the runtime to the answer; then 504 request-timeout.
    #[arg(long, value_name = "MS", env = "REQUEST_TIMEOUT_MS", default_value_t = 5000, value_parser = bounded64(1, 86_400_000))]
    pub request_timeout_ms: u64,

    /// Milliseconds for which connections are still accepted after SIGTERM, readiness being off.
    #[arg(long, value_name = "MS", env = "DRAIN_DELAY_MS", default_value_t = 0, value_parser = bounded64(0, 600_000))]
    pub drain_delay_ms: u64,

    /// Milliseconds that requests in flight have to finish after the drain delay; then the process exits all the same.
    #[arg(long, value_name = "MS", env = "DRAIN_TIMEOUT_MS", default_value_t = 30_000, value_parser = bounded64(0, 86_400_000))]
    pub drain_timeout_ms: u64,

    /// Longest request body; past it 413 body-too-large.
    #[arg(long, value_name = "BYTES", env = "MAX_BODY_BYTES", default_value_t = 64 << 20, value_parser = bounded(1, usize::MAX))]
    pub max_body_bytes: usize,

    /// Most connections at a time; the next ones wait in the system's backlog.
    #[arg(long, value_name = "N", env = "MAX_CONNECTIONS", default_value_t = 4096, value_parser = bounded(1, 1_000_000))]
    pub max_connections: usize,

    /// Where models run: `auto` (a GPU where there is one and all that it needs, else the CPU), `cpu`, `cuda` or `cuda:N`.
    #[arg(long, value_name = "DEVICE", default_value = "auto")]
    pub device: DeviceArg,

    /// How a GPU computes FP32: `f32` (strict, without tensor cores), `tf32`, `f16` or `bf16`. The CPU computes in f32 and
    /// refuses the last two.
    #[arg(long, value_name = "PRECISION", env = "PRECISION", default_value = "f32")]
    pub precision: Precision,

    /// Whether batches are filled up to 1, 2, 4, ... rows, the sizes that `prepare` compiles for. Default: on a GPU yes, else no.
    #[arg(long, value_name = "BOOL", env = "PAD_BATCHES", action = clap::ArgAction::Set)]
    pub pad_batches: Option<bool>,

    /// Where preparations and compiled kernels are kept. Default: the folder `prepared` in that of `--cache-dir`.
    #[arg(long, value_name = "DIR", env = "PILOTLIGHT_PREPARED_DIR")]
    pub prepared_dir: Option<PathBuf>,

    /// Threads that a model runs on. Default: one per core.
    #[arg(long, value_name = "N", env = "THREADS", value_parser = bounded(1, 4096))]
    pub threads: Option<usize>,

    /// Most elements of a tensor that a run computes. A request that would take more fails; the model stays loaded.
    #[arg(long, value_name = "N", env = "MAX_TENSOR_ELEMENTS", default_value_t = 1 << 29, value_parser = bounded(1, usize::MAX))]
    pub max_tensor_elements: usize,

    /// Most bytes of all values that are alive at a time in a run, weights not counted.
    #[arg(long, value_name = "BYTES", env = "MAX_RUN_BYTES", default_value_t = 16 << 30, value_parser = bounded(1, usize::MAX))]
    pub max_run_bytes: usize,

    /// How often the bodies of a model's loops may run in a run, all loops together.
    #[arg(long, value_name = "N", env = "MAX_LOOP_PASSES", default_value_t = 1 << 20, value_parser = bounded(1, usize::MAX))]
    pub max_loop_passes: usize,

    /// Log events of this level and above.
    #[arg(long, value_name = "LEVEL", env = "LOG_LEVEL", default_value = "info", value_parser = ["error", "warn", "info", "debug", "trace"])]
    pub log_level: String,

    /// Where models of URIs are kept; may be shared by processes. Default: pilotlight in the user's folder of caches.
    #[arg(long, value_name = "DIR", env = "PILOTLIGHT_CACHE_DIR")]
    pub cache_dir: Option<PathBuf>,

    /// Bytes that this cache may hold (Ki, Mi, Gi and Ti are understood); what was not used for longest makes room.
    #[arg(long, value_name = "BYTES", env = "PILOTLIGHT_CACHE_SIZE", default_value = "50Gi", value_parser = pilotlight_storage::bytes_of)]
    pub cache_size: u64,

    /// Inference requests that are answered at once; one more is answered 503 queue-full. 0 is unlimited.
    #[arg(long, value_name = "N", env = "CONTAINER_CONCURRENCY", default_value_t = 0, value_parser = bounded(0, 1_000_000))]
    pub container_concurrency: usize,

    /// Wait for a model: one is taken over `POST /v2/standby` from whoever knows this key. Empty is none.
    #[arg(long, value_name = "KEY", env = "STANDBY_KEY", hide_env_values = true)]
    pub standby_key: Option<String>,

    /// The model that was given to this process when it ran before; loaded at start as --model is. Empty is none.
    #[arg(long, value_name = "NAME=PATH", env = "ASSIGNED_MODEL")]
    pub assigned_model: Option<String>,

    /// Load this model (a path or URI), run it once, print one JSON line and exit: 0 where it is fine, else 1.
    #[arg(long, value_name = "PATH", conflicts_with = "models")]
    pub check: Option<PathBuf>,

    /// Load this model file, run it on zeros, print its plan and exit: the nodes after all passes, what was fused into each,
    /// who executes it (an own kernel, Burn's primitives, the host), types and dimensions, packed weights, and the time of
    /// every step as the median of up to 50 runs. 0 where it ran, else 1.
    #[arg(long, value_name = "PATH", conflicts_with_all = ["models", "check"])]
    pub explain: Option<PathBuf>,

    /// With --explain: the size of a dimension that the model leaves open, by its symbol. May be given several times; 1 is
    /// taken for the others.
    #[arg(long = "dim", value_name = "SYMBOL=SIZE", requires = "explain")]
    pub dims: Vec<DimArg>,
}

/// `pilotlight runtime`: serves, or does what its subcommand says.
#[derive(Clone, Debug, clap::Args)]
#[command(args_conflicts_with_subcommands = true)]
pub struct Command {
    /// What to do instead of serving.
    #[command(subcommand)]
    pub instead: Option<Instead>,
    /// How to serve.
    #[command(flatten)]
    pub serve: Args,
}

/// What the runtime does besides serving.
#[derive(Clone, Debug, clap::Subcommand)]
pub enum Instead {
    /// Compile a model's kernels ahead, for each size of a batch, so that no wake does; needs the same program, GPU and driver that
    /// will serve. Prints one JSON line for each size.
    Prepare(PrepareArgs),
}

/// `prepare`: flags mean what they do for serving, and have to be the same.
#[derive(Clone, Debug, clap::Args)]
pub struct PrepareArgs {
    /// The ONNX file, or the URI to fetch it from.
    #[arg(value_name = "MODEL")]
    pub model: PathBuf,

    /// The largest batch.
    #[arg(long, value_name = "ROWS", env = "MAX_BATCH_SIZE", default_value_t = 32, value_parser = bounded(1, 65_536))]
    pub max_batch_size: usize,

    /// Runs at each size, of which the first compiles; the median of the others is told.
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = bounded(2, 10_000))]
    pub runs: usize,

    /// How long kernels are tuned for on a GPU, over all sizes; what is met after that keeps the standing kernels. 0 tunes nothing.
    #[arg(long, value_name = "SECONDS", default_value_t = 300)]
    pub tune_seconds: u64,

    /// Where the model will run.
    #[arg(long, value_name = "DEVICE", default_value = "auto")]
    pub device: DeviceArg,

    /// How a GPU computes FP32.
    #[arg(long, value_name = "PRECISION", env = "PRECISION", default_value = "f32")]
    pub precision: Precision,

    /// Where preparations are kept.
    #[arg(long, value_name = "DIR", env = "PILOTLIGHT_PREPARED_DIR")]
    pub prepared_dir: Option<PathBuf>,

    /// Where models of URIs are kept.
    #[arg(long, value_name = "DIR", env = "PILOTLIGHT_CACHE_DIR")]
    pub cache_dir: Option<PathBuf>,

    /// Threads that a model runs on, on the CPU.
    #[arg(long, value_name = "N", env = "THREADS", value_parser = bounded(1, 4096))]
    pub threads: Option<usize>,
}

impl From<&PrepareArgs> for Args {
    /// The flags of a runtime that would serve it; those that `prepare` does not have are at their defaults.
    fn from(given: &PrepareArgs) -> Self {
        let command = <Self as clap::Args>::augment_args(clap::Command::new("runtime").no_binary_name(true));
        let matches = command.get_matches_from(std::iter::empty::<&str>());
        // Every flag has a default or is an option.
        let mut args = <Self as clap::FromArgMatches>::from_arg_matches(&matches)
            .unwrap_or_else(|error| unreachable!("the defaults are valid: {error}"));
        args.max_batch_size = given.max_batch_size;
        args.device = given.device;
        args.precision = given.precision;
        args.prepared_dir.clone_from(&given.prepared_dir);
        args.cache_dir.clone_from(&given.cache_dir);
        args.threads = given.threads;
        args
    }
}

/// Who loads and unloads models.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum ModelControl {
    /// The command line alone.
    None,
    /// Clients too.
    Explicit,
}

/// The checked configuration.
#[derive(Clone, Debug)]
pub struct Config {
    /// Inference requests that are answered at once; 0 is unlimited.
    pub container_concurrency: usize,
    /// Most rows in a batch.
    pub max_batch_size: usize,
    /// How old the oldest request of a batch may get.
    pub max_latency: Duration,
    /// Levels of priority.
    pub priority_levels: u32,
    /// The level of requests that ask for none.
    pub default_priority: u32,
    /// Sizes of batches that the models run best at.
    pub preferred_batch_sizes: Vec<usize>,
    /// Whether costs are learned and deadlines kept by them.
    pub adaptive_batching: bool,
    /// Who loads and unloads models.
    pub model_control: ModelControl,
    /// Where models are found by name.
    pub model_repository: Option<PathBuf>,
    /// Most requests of one model that wait.
    pub queue_size: usize,
    /// Most bytes of inputs that wait.
    pub queue_bytes: usize,
    /// More waiting requests than this make `/ready` answer 503.
    pub ready_queue_limit: usize,
    /// From arrival to the answer.
    pub request_timeout: Duration,
    /// For how long connections are accepted after SIGTERM.
    pub drain_delay: Duration,
    /// For how long requests in flight may finish after that.
    pub drain_timeout: Duration,
    /// Longest body in bytes.
    pub max_body_bytes: usize,
    /// Most connections at a time.
    pub max_connections: usize,
    /// What who gives this process its model has to know; `None` takes none.
    pub standby_key: Option<String>,
    /// The model that it was given before.
    pub assigned_model: Option<ModelArg>,
}

/// Flags that contradict each other.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// A batch may never wait as long as a request has.
    #[error(
        "--max-latency-ms {latency} must be below --request-timeout-ms {timeout}, or requests time out while their batch \
         fills up: lower the one or raise the other"
    )]
    LatencyAboveTimeout {
        /// Milliseconds.
        latency: u64,
        /// Milliseconds.
        timeout: u64,
    },
    /// The default level is not one of the levels.
    #[error("--default-priority {level} is past --priority-levels {levels}: lower the one or raise the other")]
    NoSuchPriority {
        /// The default.
        level: u32,
        /// How many there are.
        levels: u32,
    },
    /// A batch never gets that large.
    #[error("--preferred-batch-sizes {size} is above --max-batch-size {most}: lower the one or raise the other")]
    PreferredAboveMost {
        /// The preferred size.
        size: usize,
        /// The most rows in a batch.
        most: usize,
    },
    /// It is no model.
    #[error("--assigned-model: {0}")]
    Assigned(String),
    /// Two models of one name.
    #[error("--model {0}=... is given twice: give each model a name of its own")]
    SameName(String),
}

impl Args {
    /// Checks what flags say together.
    ///
    /// # Errors
    /// Names the flags at fault and the remedy.
    pub fn config(&self) -> Result<Config, ConfigError> {
        if self.max_latency_ms >= self.request_timeout_ms {
            return Err(ConfigError::LatencyAboveTimeout {
                latency: self.max_latency_ms,
                timeout: self.request_timeout_ms,
            });
        }
        let default_priority = self.default_priority.unwrap_or(self.priority_levels);
        if default_priority > self.priority_levels {
            return Err(ConfigError::NoSuchPriority {
                level: default_priority,
                levels: self.priority_levels,
            });
        }
        if let Some(&size) = self
            .preferred_batch_sizes
            .iter()
            .find(|size| **size > self.max_batch_size)
        {
            return Err(ConfigError::PreferredAboveMost {
                size,
                most: self.max_batch_size,
            });
        }
        for (i, model) in self.models.iter().enumerate() {
            if self.models[..i].iter().any(|m| m.name == model.name) {
                return Err(ConfigError::SameName(model.name.clone()));
            }
        }
        let given = |text: &Option<String>| text.clone().filter(|text| !text.is_empty());
        let assigned_model = match given(&self.assigned_model) {
            Some(text) => Some(text.parse::<ModelArg>().map_err(ConfigError::Assigned)?),
            None => None,
        };
        Ok(Config {
            standby_key: given(&self.standby_key),
            assigned_model,
            container_concurrency: self.container_concurrency,
            max_batch_size: self.max_batch_size,
            max_latency: Duration::from_millis(self.max_latency_ms),
            priority_levels: self.priority_levels,
            default_priority,
            preferred_batch_sizes: self.preferred_batch_sizes.clone(),
            adaptive_batching: self.adaptive_batching,
            model_control: self.model_control_mode,
            model_repository: self.model_repository.clone(),
            queue_size: self.queue_size,
            queue_bytes: self.queue_bytes,
            ready_queue_limit: self.ready_queue_limit,
            request_timeout: Duration::from_millis(self.request_timeout_ms),
            drain_delay: Duration::from_millis(self.drain_delay_ms),
            drain_timeout: Duration::from_millis(self.drain_timeout_ms),
            max_body_bytes: self.max_body_bytes,
            max_connections: self.max_connections,
        })
    }
}

#[cfg(test)]
mod tests;
