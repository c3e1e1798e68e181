//! Wires activator, controller and local platform together in one process and runs them until told to stop.

use std::{io, net::SocketAddr, sync::Arc};

use pilotlight_activator::Activator;
use pilotlight_controller::{
    CheckConfig, Checker, Controller, LocalConfig, LocalPlatform, Parts, Source, SourceConfig, wake,
};
use pilotlight_storage::Fetcher;
use rustix::process::{Resource, getrlimit, setrlimit};
use tokio::{net::TcpListener, task::JoinHandle};
use tokio_util::sync::CancellationToken;

use super::{Args, console};
use crate::{data_plane, process::stop_on_signal};

/// Why `up` can't start or had to stop.
#[derive(Debug, thiserror::Error)]
pub(super) enum Error {
    /// An address can't be listened on.
    #[error("can't listen on {address} ({flag}): {source}{}", hint(source))]
    Listen {
        /// The address as given.
        address: SocketAddr,
        /// The flag that it came from.
        flag: &'static str,
        /// What the system said.
        source: io::Error,
    },
    /// The directory of manifests is not there.
    #[error("{path}: {source}; `pilotlight up DIR` takes the directory that holds the manifests")]
    Directory {
        /// The directory as given.
        path: String,
        /// What the system said.
        source: io::Error,
    },
    /// The flags of the data plane.
    #[error(transparent)]
    DataPlane(#[from] data_plane::Error),
    /// A part of the controller.
    #[error(transparent)]
    Controller(#[from] pilotlight_controller::Error),
    /// A server stopped by itself.
    #[error("serving on {address}: {source}")]
    Serve {
        /// The address.
        address: SocketAddr,
        /// What the system said.
        source: io::Error,
    },
    /// The process could not be set up.
    #[error("{what}: {source}")]
    Setup {
        /// What was tried.
        what: &'static str,
        /// What the system said.
        source: io::Error,
    },
}

fn hint(source: &io::Error) -> &'static str {
    match source.kind() {
        io::ErrorKind::AddrInUse => "; another process has it: end that one or choose another port",
        io::ErrorKind::PermissionDenied => "; ports below 1024 take a privilege: choose a higher one",
        io::ErrorKind::AddrNotAvailable => "; this machine has no such address",
        _ => "",
    }
}

/// Runs until SIGINT or SIGTERM, then drains; a second signal ends it at once.
pub(super) async fn run(args: Args) -> Result<(), Error> {
    check_directory(&args)?;
    raise_descriptor_limit();
    let mut exporting = pilotlight_telemetry::start("pilotlight");
    // Both sockets first: a taken port is told before anything is started.
    let (http, http_address) = listen(args.http_address, "--http-address").await?;
    let (admin, admin_address) = listen(args.admin_address, "--admin-address").await?;

    let signals = stop_on_signal().map_err(|source| Error::Setup {
        what: "listening for signals",
        source,
    })?;
    let (wake_handle, wakes) = wake::channel();
    let activator = Activator::new(
        args.data_plane.config(pilotlight_activator::Config::default())?,
        Arc::new(wake_handle),
    );
    let series = activator.clone();
    exporting.metrics(move || series.gather());
    let mut local = LocalConfig::new()?;
    local.max_processes = args.max_processes;
    let controller = Controller::new(
        pilotlight_controller::Config {
            domain: args.domain.clone(),
            base_url: format!("{}://{http_address}", args.data_plane.scheme()),
            fetcher: Some(Fetcher::new(pilotlight_storage::Config {
                directory: args.cache_dir.clone(),
                limit_bytes: args.cache_size,
                ..pilotlight_storage::Config::default()
            })),
            ..pilotlight_controller::Config::default()
        },
        Parts {
            wakes,
            traffic: Arc::new(activator.clone()),
            checker: Some(Arc::new(Checker::new(CheckConfig::default(), local.clone())?)),
            platform: Arc::new(LocalPlatform::new(local)?),
            source: Source::open(source_config(&args), &args.domain)?,
            registry: activator.registry(),
        },
    )?;

    console::serving(args.data_plane.scheme(), http_address, admin_address);
    tokio::spawn(console::print(controller.changes()));
    let router = activator.admin_router().merge(controller.api_router());
    let stop = Stop::default();
    let proxy = {
        let token = stop.proxy.clone();
        tokio::spawn(async move { activator.serve(http, token).await })
    };
    let api = axum::serve(admin, router).with_graceful_shutdown(stop.api.clone().cancelled_owned());
    let api = tokio::spawn(api.into_future());
    let controller = tokio::spawn(controller.run(stop.controller.clone()));

    let failed = until_stopped(&signals, proxy, http_address, &stop).await;
    // The proxy has answered what it held, waking backends where it had to. Now the replicas may go.
    stop.controller.cancel();
    controller.await.map_err(join)?;
    stop.api.cancel();
    // Watchers of the API hold their connections for as long as they like: they end with the process.
    drop(api);
    failed
}

/// The parts end one after the other, each by its own token.
#[derive(Default)]
struct Stop {
    proxy: CancellationToken,
    controller: CancellationToken,
    api: CancellationToken,
}

/// Resolves once the proxy has drained after a signal, or has failed.
async fn until_stopped(
    signals: &CancellationToken,
    mut proxy: JoinHandle<io::Result<()>>,
    address: SocketAddr,
    stop: &Stop,
) -> Result<(), Error> {
    let ended = tokio::select! {
        ended = &mut proxy => ended,
        () = signals.cancelled() => {
            console::stopping();
            stop.proxy.cancel();
            proxy.await
        }
    };
    ended.map_err(join)?.map_err(|source| Error::Serve { address, source })
}

fn join(error: tokio::task::JoinError) -> Error {
    Error::Setup {
        what: "a part of the server ended unexpectedly",
        source: error.into(),
    }
}

fn check_directory(args: &Args) -> Result<(), Error> {
    let path = args.directory.display().to_string();
    std::fs::read_dir(&args.directory)
        .map(drop)
        .map_err(|source| Error::Directory { path, source })
}

/// Two descriptors a request: the usual soft limit of 1,024 would be 500 requests at once.
pub(crate) fn raise_descriptor_limit() {
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    if let Err(error) = setrlimit(Resource::Nofile, limit) {
        tracing::warn!(%error, "can't raise the limit of open files; many requests at once may have to wait");
    }
}

fn source_config(args: &Args) -> SourceConfig {
    let mut config = SourceConfig::for_directory(&args.directory);
    if let Some(state) = &args.state_dir {
        config.state_directory.clone_from(state);
    }
    config
}

async fn listen(address: SocketAddr, flag: &'static str) -> Result<(TcpListener, SocketAddr), Error> {
    let error = |source| Error::Listen { address, flag, source };
    let listener = TcpListener::bind(address).await.map_err(error)?;
    let bound = listener.local_addr().map_err(error)?;
    Ok((listener, bound))
}
