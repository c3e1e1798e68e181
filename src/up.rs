//! `pilotlight up DIR`: activator, controller and local platform in one process.

mod console;
mod serve;

use std::{
    io::{self, IsTerminal},
    net::SocketAddr,
    path::PathBuf,
    process::ExitCode,
};

use tracing_subscriber::EnvFilter;

pub(crate) use self::serve::raise_descriptor_limit;
use crate::{data_plane::DataPlane, output};

/// Arguments of `up`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Directory of manifests: its *.yaml, *.yml and *.json files are served, and watched for changes.
    #[arg(value_name = "DIR")]
    pub(crate) directory: PathBuf,
    /// Address for requests.
    #[arg(
        long,
        value_name = "ADDR:PORT",
        env = "PILOTLIGHT_HTTP_ADDRESS",
        default_value = "127.0.0.1:8080"
    )]
    pub(crate) http_address: SocketAddr,
    /// Address of the admin API, probes and metrics.
    #[arg(
        long,
        value_name = "ADDR:PORT",
        env = "PILOTLIGHT_ADMIN_ADDRESS",
        default_value = "127.0.0.1:9090"
    )]
    pub(crate) admin_address: SocketAddr,
    /// Domain of the services' hosts: NAME.NAMESPACE.DOMAIN and NAME-NAMESPACE.DOMAIN.
    #[arg(long, env = "PILOTLIGHT_DOMAIN", default_value = "example.com")]
    pub(crate) domain: String,
    /// Where applied objects are kept. Default: `.pilotlight` in DIR.
    #[arg(long, value_name = "DIR", env = "PILOTLIGHT_STATE_DIR")]
    pub(crate) state_dir: Option<PathBuf>,
    /// Replicas of all services at once, ending ones included.
    #[arg(long, value_name = "N", env = "PILOTLIGHT_MAX_PROCESSES", default_value_t = 256)]
    pub(crate) max_processes: usize,
    /// Where models from remote storage are kept; may be shared. Default: pilotlight in the user's folder of caches.
    #[arg(long, value_name = "DIR", env = "PILOTLIGHT_CACHE_DIR")]
    pub(crate) cache_dir: Option<PathBuf>,
    /// Bytes that this cache may hold (Ki, Mi, Gi and Ti are understood); what was not used for longest makes room.
    #[arg(
        long,
        value_name = "BYTES",
        env = "PILOTLIGHT_CACHE_SIZE",
        default_value = "50Gi",
        value_parser = pilotlight_storage::bytes_of
    )]
    pub(crate) cache_size: u64,
    /// What is logged to standard error: a level, or directives such as `info,pilotlight_activator=debug`.
    #[arg(long, value_name = "FILTER", env = "PILOTLIGHT_LOG", default_value = "warn")]
    pub(crate) log_level: String,
    /// TLS, tokens and bounds.
    #[command(flatten)]
    pub(crate) data_plane: DataPlane,
}

/// Serves until it is told to end.
pub(crate) fn run(args: Args) -> ExitCode {
    let filter = match EnvFilter::builder().parse(&args.log_level) {
        Ok(filter) => filter,
        Err(error) => {
            output::complain(format!("error: --log-level {:?}: {error}", args.log_level));
            return ExitCode::from(2);
        }
    };
    let coloured = io::stderr().is_terminal();
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(io::stderr)
        .with_ansi(coloured)
        .init();
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            output::complain(format!("error: can't start the async runtime: {error}"));
            return ExitCode::FAILURE;
        }
    };
    let ended = runtime.block_on(serve::run(args));
    // Watchers of the API and blocking jobs end with the process.
    runtime.shutdown_background();
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            output::complain(format!("error: {error}"));
            ExitCode::FAILURE
        }
    }
}
