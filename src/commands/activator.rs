//! `pilotlight activator`: the proxy of a cluster, by itself.

use std::{
    net::SocketAddr,
    process::ExitCode,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use kube::Client;
use pilotlight_activator::{
    Config, ReporterId,
    kubernetes::{Cluster, ClusterConfig},
};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use super::{Failure, keda, serve_until_end};
use crate::{data_plane::DataPlane, process::stop_on_signal, up};

/// Variables give the defaults of their flags; a flag wins over its variable. The API server is found by the pod's service
/// account, or by KUBECONFIG.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Args {
    /// Address for requests: HTTP/1.1, HTTP/2 without TLS and gRPC.
    #[arg(
        long,
        value_name = "ADDR:PORT",
        env = "PILOTLIGHT_HTTP_ADDRESS",
        default_value = "0.0.0.0:8080"
    )]
    http_address: SocketAddr,

    /// Address for /livez, /readyz, /metrics, /queue and the controller.
    #[arg(
        long,
        value_name = "ADDR:PORT",
        env = "PILOTLIGHT_ADMIN_ADDRESS",
        default_value = "0.0.0.0:9090"
    )]
    admin_address: SocketAddr,

    /// Domain of services from outside: {name}.{namespace}.DOMAIN.
    #[arg(
        long,
        value_name = "DOMAIN",
        env = "PILOTLIGHT_DOMAIN",
        default_value = "example.com"
    )]
    domain: String,

    /// Domain of the cluster's DNS: {name}-predictor.{namespace}.svc.DOMAIN.
    #[arg(
        long,
        value_name = "DOMAIN",
        env = "PILOTLIGHT_CLUSTER_DOMAIN",
        default_value = "cluster.local"
    )]
    cluster_domain: String,

    /// Serve the services of this namespace only; may be given several times, or as a list with commas.
    #[arg(
        long = "watch-namespace",
        value_name = "NAMESPACE",
        env = "PILOTLIGHT_WATCH_NAMESPACE",
        value_delimiter = ','
    )]
    watch_namespaces: Vec<String>,

    /// Namespace that this activator runs in, where it looks for the others.
    #[arg(
        long,
        value_name = "NAMESPACE",
        env = "POD_NAMESPACE",
        default_value = "pilotlight-system"
    )]
    namespace: String,

    /// Name of the pod that this activator runs in.
    #[arg(long, value_name = "NAME", env = "POD_NAME", default_value = "activator")]
    pod_name: String,

    /// Milliseconds after SIGTERM in which requests are still accepted while /readyz answers 503.
    #[arg(long, value_name = "MS", env = "PILOTLIGHT_DRAIN_DELAY_MS", default_value_t = 5_000)]
    drain_delay_ms: u64,

    /// Milliseconds that requests have after that; then they are ended.
    #[arg(
        long,
        value_name = "MS",
        env = "PILOTLIGHT_DRAIN_TIMEOUT_MS",
        default_value_t = 60_000
    )]
    drain_timeout_ms: u64,

    /// Serve the KEDA HTTP add-on's objects too, and heed its variables (KEDA_HTTP_...).
    #[arg(long, env = "PILOTLIGHT_KEDA")]
    keda: bool,

    #[command(flatten)]
    data_plane: DataPlane,

    /// What is logged to standard error: a level, or directives such as `info,pilotlight_activator=debug`.
    #[arg(long, value_name = "FILTER", env = "PILOTLIGHT_LOG", default_value = "info")]
    log_level: String,
}

/// Runs until SIGTERM or SIGINT, then drains; a second signal ends it at once.
pub(crate) fn run(args: Args) -> ExitCode {
    serve_until_end(&args.log_level.clone(), serve(args))
}

async fn serve(mut args: Args) -> Result<(), Failure> {
    // Dashboards look for the interceptor by its name.
    let service = if args.keda {
        "keda-http-interceptor"
    } else {
        "pilotlight-activator"
    };
    let mut exporting = pilotlight_telemetry::start(service);
    let base = args.data_plane.config(proxy_config(&args));
    let base = base.map_err(|error| Failure::Message(error.to_string()))?;
    let (proxy, routes) = if args.keda {
        if let Some(delay) = keda::shutdown_delay()? {
            args.drain_delay_ms = u64::try_from(delay.as_millis()).unwrap_or(u64::MAX);
        }
        let (http, admin) = keda::ports()?;
        args.http_address.set_port(http.unwrap_or(args.http_address.port()));
        args.admin_address.set_port(admin.unwrap_or(args.admin_address.port()));
        (keda::proxy(base)?, Some(keda::routes()?))
    } else {
        (base, None)
    };
    let tls = if args.keda { keda::tls()? } else { None };
    up::raise_descriptor_limit();
    let signalled = stop_on_signal()?;
    let http = listen(args.http_address, "--http-address").await?;
    let admin = listen(args.admin_address, "--admin-address").await?;
    let tls = match tls {
        Some((port, tls)) => {
            let address = SocketAddr::new(args.http_address.ip(), port);
            tracing::info!(%address, "serving over TLS");
            Some((listen(address, "KEDA_HTTP_PROXY_TLS_PORT").await?, tls))
        }
        None => None,
    };
    let client = Client::try_default()
        .await
        .map_err(|error| Failure::Message(format!("no way to the Kubernetes API server: {error}")))?;
    let cluster = Cluster::new(client, cluster_config(&args), proxy);
    let activator = cluster.activator().clone();
    let series = activator.clone();
    exporting.metrics(move || series.gather());
    let _exporter = if args.keda {
        keda::unheeded::of_interceptor();
        let series = activator.clone();
        keda::exporter::start(args.admin_address.ip(), move || series.gather()).await?
    } else {
        None
    };
    tracing::info!(http = %args.http_address, admin = %args.admin_address, "serving");

    let ended = CancellationToken::new();
    let api = axum::serve(admin, cluster.admin_router()).with_graceful_shutdown(ended.clone().cancelled_owned());
    let api = tokio::spawn(api.into_future());
    if let Some(routes) = routes {
        // Announced before anything goes live: the activator is not ready without these routes.
        let following = pilotlight_activator::kubernetes::keda::run(cluster.context(), routes, ended.clone());
        tokio::spawn(following);
    }
    let watches = tokio::spawn({
        let ended = ended.clone();
        async move { cluster.run(ended).await }
    });
    let stop = CancellationToken::new();
    let mut proxy = tokio::spawn({
        let (activator, stop) = (activator.clone(), stop.clone());
        async move {
            let secure = async {
                match tls {
                    Some((listener, tls)) => activator.serve_tls(listener, tls, stop.clone()).await,
                    None => Ok(()),
                }
            };
            tokio::try_join!(activator.serve(http, stop.clone()), secure).map(drop)
        }
    });
    let failed = |error: tokio::task::JoinError| Failure::Message(format!("the proxy failed: {error}"));
    tokio::select! {
        served = &mut proxy => return Ok(served.map_err(failed)??),
        () = signalled.cancelled() => {}
    }
    // Endpoints of Services are forgotten some time after readiness is gone: until then requests still come, and are served.
    activator.announce_end();
    tracing::info!(delay_ms = args.drain_delay_ms, "draining");
    tokio::time::sleep(Duration::from_millis(args.drain_delay_ms)).await;
    stop.cancel();
    proxy.await.map_err(failed)??;
    ended.cancel();
    // The controller keeps its connections open for as long as it likes: they end with the process.
    drop((api, watches));
    tracing::info!("ended");
    Ok(())
}

fn cluster_config(args: &Args) -> ClusterConfig {
    ClusterConfig {
        namespace: args.namespace.clone(),
        own_name: args.pod_name.clone(),
        domain: args.domain.clone(),
        cluster_domain: args.cluster_domain.clone(),
        watch_namespaces: args
            .watch_namespaces
            .iter()
            .filter(|namespace| !namespace.is_empty())
            .cloned()
            .collect(),
        ..ClusterConfig::default()
    }
}

fn proxy_config(args: &Args) -> Config {
    Config {
        // A container that was started again counts from 0 anew, so it is another reporter.
        reporter: ReporterId::new(format!("{}/{}", args.pod_name, started())),
        drain_timeout: Duration::from_millis(args.drain_timeout_ms),
        ..Config::default()
    }
}

/// Milliseconds since 1970.
fn started() -> u128 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_millis())
}

async fn listen(address: SocketAddr, flag: &str) -> Result<TcpListener, Failure> {
    TcpListener::bind(address)
        .await
        .map_err(|error| Failure::Message(format!("can't listen on {address} ({flag}): {error}")))
}
