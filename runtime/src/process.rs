//! The life of the process: listen, load, serve, drain.

use std::io::Read as _;
use std::net::SocketAddr;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::app::{App, Stage};
use crate::check::check;
use crate::config::{Args, Command, Config, Instead, ModelControl};
use crate::device::{DeviceArg, Place, choose};
use crate::directory::Directory;
use crate::executor::Executor;
use crate::fetch::Remote;
use crate::metrics::Metrics;
use crate::model::Model;
use crate::models::{ModelError, Origin, Repository, Source};
use crate::prepared::{Devices, prepare};
use crate::scheduler::Scheduler;
use crate::server::serve;

/// Exit code for flags, sockets and the like.
const BAD_START: u8 = 2;
/// Exit code for a model of the command line that can't be loaded.
const BAD_MODEL: u8 = 3;

/// Runs the runtime until SIGTERM or SIGINT, the end of the lifeline, or a model of the command line that can't be loaded.
///
/// Exit codes: 0 after a signal, a fine `--check` or `--explain` or the end of the lifeline; 1 for one that failed; 2 for a start
/// that failed; 3 for a model of the command line that can't be loaded. Where it is not 0, the last line on stderr is
/// `error: <reason>` (`--check` gives its reason on stdout). Builds its own tokio runtime: call it from a plain thread.
pub fn main(args: Args) -> ExitCode {
    Server::new(args).run()
}

/// Runs what the command line says: [`main`], or a preparation, whose exit code is 0 or 1. Call it from a plain thread.
pub fn command(command: Command) -> ExitCode {
    match command.instead {
        None => main(command.serve),
        Some(Instead::Prepare(args)) => {
            init_logging("info");
            prepare(&args)
        }
    }
}

/// A runtime within a program of its own, with models that the program brings. `examples/own_model.rs` shows it.
pub struct Server {
    args: Args,
    own: Vec<(String, Origin)>,
}

impl Server {
    /// A runtime with these flags; the models of the flags are served too.
    pub fn new(args: Args) -> Self {
        Self { args, own: Vec::new() }
    }

    /// Serves a model under this name, which takes 1 to 253 of the characters `A-Z a-z 0-9 - _ .`. `make` is called at start, and
    /// again whenever a client asks for a load (`--model-control-mode explicit`), on a thread where it may block; what it fails
    /// with ends a start with exit code 3.
    #[must_use]
    pub fn model<M: Model, E: ToString>(
        mut self,
        name: &str,
        make: impl Fn() -> Result<M, E> + Send + Sync + 'static,
    ) -> Self {
        let make = move || match make() {
            Ok(model) => Ok(Arc::new(model) as Arc<dyn Model>),
            Err(error) => Err(error.to_string()),
        };
        let origin = Origin {
            source: Source::Code(Arc::new(make)),
            version: "1".to_owned(),
        };
        self.own.push((name.to_owned(), origin));
        self
    }

    /// Runs it, as [`main`] does.
    pub fn run(self) -> ExitCode {
        match start(&self) {
            Ok(code) => code,
            Err(Failure { code, reason }) => {
                eprintln!("error: {}", reason.replace('\n', " "));
                ExitCode::from(code)
            }
        }
    }

    /// The models to load at start, each name once.
    ///
    /// # Errors
    /// Where a name is there twice.
    fn models(&self, config: &Config) -> Result<Vec<(String, Origin)>, Failure> {
        let args = &self.args;
        let mut models = self.own.clone();
        models.extend(
            args.models
                .iter()
                .map(|model| (model.name.clone(), Origin::file(&model.path))),
        );
        models.extend(
            config
                .assigned_model
                .iter()
                .map(|model| (model.name.clone(), Origin::file(&model.path))),
        );
        for (i, (name, _)) in models.iter().enumerate() {
            if models[..i].iter().any(|(other, _)| other == name) {
                return Err(bad_start(format!(
                    "model {name:?} is there twice: give each model a name of its own"
                )));
            }
        }
        let repository = args.model_repository.as_ref().map(Directory::new);
        if let (Some(repository), ModelControl::None) = (repository, args.model_control_mode) {
            let missing = |name: &String| !models.iter().any(|(other, _)| other == name);
            let found = repository.names().into_iter().filter(missing).filter_map(|name| {
                let found = repository.find(&name)?;
                let source = Source::File(found.path);
                Some((
                    name,
                    Origin {
                        source,
                        version: found.version,
                    },
                ))
            });
            let found: Vec<_> = found.collect();
            models.extend(found);
        }
        Ok(models)
    }
}

/// How long requests are refused with a mark before connections are closed; never longer than the drain delay.
const LAST_CALL: Duration = Duration::from_secs(1);

/// How long a process whose assigned model can't be loaded still answers.
const LAST_WORDS: Duration = Duration::from_millis(100);

struct Failure {
    code: u8,
    reason: String,
}

fn bad_start(reason: impl ToString) -> Failure {
    Failure {
        code: BAD_START,
        reason: reason.to_string(),
    }
}

fn start(server: &Server) -> Result<ExitCode, Failure> {
    let args = &server.args;
    if let Some(fd) = args.lifeline_fd {
        watch_lifeline(fd)?;
    }
    if let Some(path) = &args.check {
        let metrics = Arc::new(Metrics::new());
        let devices = devices(args, false).map_err(bad_start)?;
        return Ok(check(path, loader(args, devices, metrics)));
    }
    if let Some(path) = &args.explain {
        if let DeviceArg::Cuda(_) = args.device {
            return Err(bad_start("--explain shows the plan on the CPU: leave out --device"));
        }
        return Ok(explain(path, args));
    }
    init_logging(&args.log_level);
    let config = args.config().map_err(bad_start)?;
    let devices = devices(args, false).map_err(bad_start)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(workers())
        .enable_all()
        .build()
        .map_err(|error| bad_start(format!("can't start threads: {error}")))?;
    let result = runtime.block_on(run(args, server.models(&config)?, config, devices));
    // A load that is still under way must not hold up the end.
    runtime.shutdown_background();
    result.map(|()| ExitCode::SUCCESS)
}

/// Prints a model's plan with the times of its steps.
fn explain(path: &Path, args: &Args) -> ExitCode {
    let size = |symbol: &str| args.dims.iter().find(|d| d.symbol == symbol).map(|d| d.size);
    match pilotlight_engine::explain::explain(path, &load_options(args), size) {
        Ok(explanation) => {
            print!("{explanation}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("error: {}", error.to_string().replace('\n', " "));
            ExitCode::FAILURE
        }
    }
}

/// Threads that parse and write. The models run elsewhere, on all cores, so a few are plenty.
fn workers() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from).clamp(1, 4)
}

fn init_logging(level: &str) {
    let level = level.parse().unwrap_or(tracing::Level::INFO);
    // Fails where the program around us has set its own, which then stands.
    let _ = tracing_subscriber::fmt()
        .with_max_level(level)
        .with_writer(std::io::stderr)
        .with_ansi(false)
        .try_init();
}

async fn run(args: &Args, models: Vec<(String, Origin)>, config: Config, devices: Devices) -> Result<(), Failure> {
    let mut exporting = pilotlight_telemetry::start("pilotlight-runtime");
    let (mut terminate, mut interrupt) = signal(SignalKind::terminate())
        .and_then(|t| Ok((t, signal(SignalKind::interrupt())?)))
        .map_err(bad_start)?;
    let listener = listen(args).await?;
    let address = listener.local_addr().map_err(bad_start)?;
    let grpc = match args.grpc_address {
        Some(address) => Some(bind(address, "--grpc-address").await?),
        None => None,
    };
    let metrics = Arc::new(Metrics::new());
    let series = Arc::clone(&metrics);
    exporting.metrics(move || series.gather());
    // The device may be ahead of itself by one batch where that hides a copy.
    let ahead = match devices.place() {
        Place::Cpu => false,
        Place::Cuda(gpu, _) => {
            if let Some(usage) = pilotlight_cuda::usage(gpu) {
                metrics.watch_gpu(gpu.index, usage);
            }
            true
        }
    };
    let executor = Executor::spawn(ahead).map_err(|error| bad_start(format!("can't start the executor: {error}")))?;
    let scheduler = Scheduler::new(&config, executor, Arc::clone(&metrics));
    let repository = Repository::new(
        Box::new(loader(args, devices, Arc::clone(&metrics))),
        scheduler.clone(),
        Arc::clone(&metrics),
    );
    let app = Arc::new(App::new(repository.clone(), scheduler, metrics, config.clone()));
    // Before the first connection is accepted, so that no early probe is told that its model does not exist.
    for (name, origin) in &models {
        repository.announce(name);
        app.give(name, origin.clone());
    }
    let stop = CancellationToken::new();
    let mut servers = JoinSet::new();
    for listener in std::iter::once(listener).chain(grpc) {
        servers.spawn(serve(
            listener,
            Arc::clone(&app),
            config.max_connections,
            stop.clone(),
            config.drain_timeout,
        ));
    }
    tracing::info!(%address, grpc_address = ?args.grpc_address, models = models.len(), "listening");

    let ended = async {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    };
    tokio::pin!(ended);
    tokio::select! {
        loaded = load_all(&repository, models) => {
            loaded.map_err(|error| Failure { code: BAD_MODEL, reason: error.to_string() })?;
            app.enter(Stage::Serving);
            tokio::select! {
                () = &mut ended => {}
                reason = app.standby.failed() => {
                    // The answer that says so leaves first.
                    tokio::time::sleep(LAST_WORDS).await;
                    return Err(Failure { code: BAD_MODEL, reason });
                }
            }
        }
        () = &mut ended => {}
    }

    tracing::info!(delay_ms = config.drain_delay.as_millis(), "draining");
    app.enter(Stage::Draining);
    tokio::time::sleep(config.drain_delay).await;
    // A router that has not noticed yet is told so with its next request, on a connection that still works.
    app.gate.close();
    tokio::time::sleep(config.drain_delay.min(LAST_CALL)).await;
    stop.cancel();
    while let Some(server) = servers.join_next().await {
        server.map_err(bad_start)?;
    }
    tracing::info!("ended");
    Ok(())
}

/// Loads side by side; the first failure ends it.
async fn load_all(repository: &Repository, models: Vec<(String, Origin)>) -> Result<(), ModelError> {
    let mut loads = JoinSet::new();
    for (name, origin) in models {
        let repository = repository.clone();
        loads.spawn(async move { repository.load(&name, origin).await });
    }
    while let Some(load) = loads.join_next().await {
        match load {
            Ok(result) => result?,
            Err(error) => std::panic::resume_unwind(error.into_panic()),
        }
    }
    Ok(())
}

/// The engine behind `Repository`.
fn loader(
    args: &Args,
    devices: Devices,
    metrics: Arc<Metrics>,
) -> impl Fn(&Path) -> Result<Arc<dyn Model>, String> + Send + Sync + 'static {
    let remote = Remote::new(args);
    move |path| devices.load(&remote.file(path)?, &metrics)
}

/// Decides where models run and says so in the log. `pad` is said by whoever does not leave it to the flags.
///
/// # Errors
/// What is missing for the device that was asked for.
pub(crate) fn devices(args: &Args, pad: bool) -> Result<Devices, String> {
    let (place, why) = choose(args.device, args.precision, pilotlight_cuda::find)?;
    match why {
        None => tracing::info!("models run on {}", place.describe()),
        Some(why) => tracing::info!(%why, "models run on {}", place.describe()),
    }
    pilotlight_engine::set_limits(pilotlight_engine::Limits {
        elements: args.max_tensor_elements,
        bytes: args.max_run_bytes,
        passes: args.max_loop_passes as u64,
    });
    let pad = if pad { Some(true) } else { args.pad_batches };
    let folder = args.prepared_dir.clone().unwrap_or_else(|| {
        let cache = args
            .cache_dir
            .clone()
            .or_else(|| pilotlight_storage::default_directory().ok());
        // Without a home there is still a place that lasts as long as the machine runs.
        cache.unwrap_or_else(std::env::temp_dir).join("prepared")
    });
    Ok(Devices::new(
        place,
        load_options(args),
        args.max_batch_size,
        pad,
        folder,
    ))
}

fn load_options(args: &Args) -> pilotlight_engine::LoadOptions {
    pilotlight_engine::LoadOptions {
        device: pilotlight_engine::Device::Cpu,
        threads: args.threads,
    }
}

async fn listen(args: &Args) -> Result<TcpListener, Failure> {
    match args.listen_fd {
        Some(fd) => inherited(fd),
        None => bind(args.http_address, "--http-address").await,
    }
}

async fn bind(address: SocketAddr, flag: &str) -> Result<TcpListener, Failure> {
    TcpListener::bind(address).await.map_err(|error| {
        bad_start(format!(
            "can't listen on {address}: {error}; give a free address with {flag}"
        ))
    })
}

/// Takes over a listening socket that the parent left open. `listenfd` speaks systemd's protocol, in which sockets are
/// numbered from 3 on; taking any other descriptor as a socket is not possible in safe code.
fn inherited(fd: i32) -> Result<TcpListener, Failure> {
    let fault = |why: String| bad_start(format!("--listen-fd {fd}: {why}"));
    let index = usize::try_from(fd - 3).map_err(|_| fault("inherited sockets start at 3".to_owned()))?;
    let listener = listenfd::ListenFd::from_env()
        .take_tcp_listener(index)
        .map_err(|error| fault(error.to_string()))?
        .ok_or_else(|| {
            fault("no such socket; the parent has to set LISTEN_FDS to the number of sockets from 3 on".to_owned())
        })?;
    listener
        .set_nonblocking(true)
        .and_then(|()| TcpListener::from_std(listener))
        .map_err(|error| fault(error.to_string()))
}

/// Exits when the pipe ends. On a thread of its own, so that neither a long load nor a stuck reactor delays it.
fn watch_lifeline(fd: i32) -> Result<(), Failure> {
    let fault = |error: std::io::Error| bad_start(format!("--lifeline-fd {fd}: {error}"));
    // Opening the pipe anew is the safe way to read from an inherited descriptor. The process keeps only read ends, so the
    // pipe ends with the parent.
    let mut pipe = std::fs::File::open(format!("/proc/self/fd/{fd}")).map_err(fault)?;
    let watch = move || {
        let mut byte = [0];
        loop {
            match pipe.read(&mut byte) {
                Ok(0) => break,
                Ok(_) => {}
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(_) => break,
            }
        }
        std::process::exit(0);
    };
    std::thread::Builder::new()
        .name("lifeline".into())
        .spawn(watch)
        .map(drop)
        .map_err(fault)
}
