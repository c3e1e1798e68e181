//! `pilotlight controller`: the controller of a cluster, by itself.

use std::{net::SocketAddr, process::ExitCode, time::Duration};

use kube::Config;
use pilotlight_controller::{
    keda::cluster::Keda,
    kubernetes::{Calls, ClusterConfig, ClusterController},
};

use super::{Failure, keda, serve_until_end};
use crate::process::stop_on_signal;

/// Variables give the defaults of their flags; a flag wins over its variable. The API server is found by the pod's service
/// account, or by KUBECONFIG.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Args {
    /// Address for /livez, /readyz and /metrics.
    #[arg(
        long,
        value_name = "ADDR:PORT",
        env = "PILOTLIGHT_ADMIN_ADDRESS",
        default_value = "0.0.0.0:9090"
    )]
    admin_address: SocketAddr,

    /// Domain of services from outside: {name}-{namespace}.DOMAIN.
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

    /// Look after the services of this namespace only. Default: all.
    #[arg(long, value_name = "NAMESPACE", env = "PILOTLIGHT_WATCH_NAMESPACE")]
    watch_namespace: Option<String>,

    /// KServe's own controller runs in this cluster: its workloads are counted and ended when idle, and nothing of KServe's is
    /// written.
    #[arg(long, env = "PILOTLIGHT_BESIDE_KSERVE")]
    beside_kserve: bool,

    /// Image of the runtimes' pods: this platform's.
    #[arg(long, value_name = "IMAGE", env = "PILOTLIGHT_IMAGE", default_value = "pilotlight")]
    image: String,

    /// Image of the runtimes' pods that ask for a GPU. Default: --image.
    #[arg(long, value_name = "IMAGE", env = "PILOTLIGHT_GPU_IMAGE")]
    gpu_image: Option<String>,

    /// Namespace that this controller runs in, with its Lease and the activators.
    #[arg(
        long,
        value_name = "NAMESPACE",
        env = "POD_NAMESPACE",
        default_value = "pilotlight-system"
    )]
    namespace: String,

    /// Name of the pod that this controller runs in: the Lease's holder.
    #[arg(long, value_name = "NAME", env = "POD_NAME", default_value = "controller")]
    pod_name: String,

    /// Writes to the API server a second at most; scaling is urgent and not counted.
    #[arg(long, value_name = "N", env = "PILOTLIGHT_WRITES_PER_SECOND", default_value_t = 100)]
    writes_per_second: u32,

    /// Services that are reconciled at once.
    #[arg(long, value_name = "N", env = "PILOTLIGHT_CONCURRENCY", default_value_t = 16)]
    concurrency: u16,

    /// Milliseconds for which runtimes go on answering after SIGTERM, while the activators learn of it.
    #[arg(long, value_name = "MS", env = "PILOTLIGHT_DRAIN_DELAY_MS", default_value_t = 3_000)]
    drain_delay_ms: u64,

    /// Milliseconds that pods which are to go may take to finish their requests; past it they stay and it is tried again later.
    #[arg(
        long,
        value_name = "MS",
        env = "PILOTLIGHT_DRAIN_LIMIT_MS",
        default_value_t = 300_000
    )]
    drain_limit_ms: u64,

    /// Milliseconds for which an activator that is listed and silent keeps everything from being scaled down.
    #[arg(
        long,
        value_name = "MS",
        env = "PILOTLIGHT_UNKNOWN_LIMIT_MS",
        default_value_t = 300_000
    )]
    unknown_limit_ms: u64,

    /// Serve the external scaler of KEDA's HTTP add-on, look after its objects, and heed its variables (KEDA_HTTP_...).
    #[arg(long, env = "PILOTLIGHT_KEDA")]
    keda: bool,

    /// What is logged to standard error: a level, or directives such as `info,pilotlight_controller=debug`.
    #[arg(long, value_name = "FILTER", env = "PILOTLIGHT_LOG", default_value = "info")]
    log_level: String,
}

/// Runs until SIGTERM or SIGINT; a second signal ends it at once.
pub(crate) fn run(args: Args) -> ExitCode {
    serve_until_end(&args.log_level.clone(), serve(args))
}

async fn serve(args: Args) -> Result<(), Failure> {
    // Dashboards look for the add-on's scaler by its name.
    let service = if args.keda {
        "keda-http-external-scaler"
    } else {
        "pilotlight-controller"
    };
    let mut exporting = pilotlight_telemetry::start(service);
    let shutdown = stop_on_signal()?;
    let no_way =
        |error: &dyn std::fmt::Display| Failure::Message(format!("no way to the Kubernetes API server: {error}"));
    let found = Config::infer().await.map_err(|error| no_way(&error))?;
    let calls = Calls::new().map_err(|error| no_way(&error))?;
    let client = calls.client(found).map_err(|error| no_way(&error))?;
    let message = |error: &dyn std::fmt::Display| Failure::Message(error.to_string());
    let keda = args.keda.then(|| keda::cluster(&args.namespace)).transpose()?;
    let admin = args.admin_address;
    let controller = ClusterController::new(client.clone(), &calls, config(args)).map_err(|error| message(&error))?;
    let series = controller.registry().clone();
    exporting.metrics(move || series.gather());
    let Some(keda) = keda else {
        let ran = controller.run(shutdown, std::future::ready(())).await;
        return ran.map_err(|error| message(&error));
    };
    keda::unheeded::of_operator();
    let series = controller.registry().clone();
    let _exporter = keda::exporter::start(admin.ip(), move || series.gather()).await?;
    let keda = Keda::new(client, keda, controller.registry()).map_err(|error| message(&error))?;
    let (serving, leading, end) = (keda.clone(), keda, shutdown.clone());
    // The lease is given back after the last answer: only what goes wrong ends it early.
    let failed = async {
        match serving.serve(end).await {
            Ok(()) => std::future::pending().await,
            Err(error) => error,
        }
    };
    tokio::select! {
        ran = controller.run(shutdown, leading.lead()) => ran.map_err(|error| message(&error)),
        error = failed => Err(Failure::Message(format!("the external scaler failed: {error}"))),
    }
}

fn config(args: Args) -> ClusterConfig {
    ClusterConfig {
        namespace: args.namespace,
        identity: args.pod_name,
        watched: args.watch_namespace.filter(|namespace| !namespace.is_empty()),
        image: args.image,
        gpu_image: args.gpu_image.filter(|image| !image.is_empty()),
        domain: args.domain,
        cluster_domain: args.cluster_domain,
        beside_kserve: args.beside_kserve,
        admin_address: args.admin_address,
        writes_per_second: args.writes_per_second,
        write_burst: args.writes_per_second.saturating_mul(2),
        concurrency: args.concurrency,
        drain_delay: Duration::from_millis(args.drain_delay_ms),
        drain_limit: Duration::from_millis(args.drain_limit_ms),
        unknown_limit: Duration::from_millis(args.unknown_limit_ms),
        ..ClusterConfig::default()
    }
}
