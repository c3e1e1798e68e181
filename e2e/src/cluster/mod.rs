//! A real Kubernetes with Pilotlight in it: one for each test binary, started by the first test that asks for it.
//!
//! [`Cluster::shared`] starts `e2e/cluster/up`, or takes the cluster that `KUBECONFIG` names, installs `manifests/install` with the
//! binary under test as its image, and moves the calling thread into the cluster's network: from then on Service and pod addresses are
//! reached from it as from a node. A test works in a [`Namespace`] of its own.
//!
//! A cluster that can't start fails every test that needs it, with the reason.
//!
//! | variable | with `KUBECONFIG`: |
//! |---|---|
//! | `PILOTLIGHT_E2E_IMAGE` | the image to test, which its nodes can pull |
//! | `PILOTLIGHT_E2E_MODELS` | a folder on its nodes that holds the files of `manifests/examples` and `e2e/fixtures` |
//!
//! The tests have to run where its Service and pod addresses can be reached.

mod dns;
mod grpc;
mod install;
mod kubectl;
mod namespace;
mod own;

use std::{
    net::{Ipv4Addr, SocketAddr, TcpStream},
    path::{Path, PathBuf},
    sync::OnceLock,
    thread,
    time::{Duration, Instant},
};

pub use grpc::infer_flowers;
pub use kubectl::Kubectl;
pub use namespace::{Namespace, Pod, condition};
use own::Own;

/// Namespace of the platform.
pub const SYSTEM: &str = "pilotlight-system";
/// Deployment and Service of the activators.
pub const ACTIVATOR: &str = "pilotlight-activator";
/// Deployment of the controllers.
pub const CONTROLLER: &str = "pilotlight-controller";

/// How long a story waits for something that has to happen but whose speed it does not judge: a whole cluster on two busy cores, with
/// the compiler beside it, takes its time.
pub const PATIENCE: Duration = Duration::from_mins(4);

/// A cluster with Pilotlight installed.
#[derive(Debug)]
pub struct Cluster {
    kubectl: Kubectl,
    /// Where nodes have the model files.
    models: PathBuf,
    /// `None` for a cluster that was there before.
    own: Option<Own>,
    /// ClusterIP of the activators' Service.
    activator: String,
}

impl Cluster {
    /// The cluster of this test binary, started if need be, with the calling thread in its network. Panics where it can't start.
    ///
    /// For a runtime on one thread, `#[tokio::test]`: other threads stay where they are.
    pub fn shared() -> &'static Self {
        static SHARED: OnceLock<Result<Cluster, String>> = OnceLock::new();
        let shared = SHARED.get_or_init(Self::start);
        let cluster = shared
            .as_ref()
            .unwrap_or_else(|reason| panic!("the test cluster can't start: {reason}"));
        cluster.enter().unwrap_or_else(|reason| panic!("{reason}"));
        cluster
    }

    /// Runs `kubectl`.
    pub fn kubectl(&self) -> &Kubectl {
        &self.kubectl
    }

    /// The folder with model files, as nodes see it.
    pub fn models(&self) -> &Path {
        &self.models
    }

    /// A URL at the activators' Service.
    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.activator)
    }

    /// The processes of a cluster of our own. Panics in another one, whose nodes are not ours to look into.
    pub fn own(&self) -> &Own {
        let own = self.own.as_ref();
        own.expect("this test ends processes of the node, so it needs a cluster of its own: unset KUBECONFIG")
    }

    /// The address of a name as the cluster's DNS tells it. Waits until it knows one: it learns of a new Service by a watch.
    pub async fn resolve(&self, name: &str) -> Ipv4Addr {
        let server = self
            .kubectl
            .get("--namespace kube-system service kube-dns", "{.spec.clusterIP}")
            .await;
        let server = server.parse().expect("DNS has an address");
        crate::eventually(&format!("DNS knows {name}"), PATIENCE, async || {
            dns::resolve(server, name).await
        })
        .await
    }

    /// Waits until the node leads connections for a Service's address to where its EndpointSlices point: it takes a moment to learn
    /// of a new Service, and refuses until then. Connecting wakes nothing.
    pub async fn reachable(&self, address: Ipv4Addr) {
        crate::until("the node knows the Service", PATIENCE, async || {
            tokio::net::TcpStream::connect((address, 80)).await.is_ok()
        })
        .await;
    }

    fn start() -> Result<Self, String> {
        let given = std::env::var_os("KUBECONFIG");
        let (own, kubectl, models, image) = if let Some(config) = given {
            let variable = |name| std::env::var(name).map_err(|_| format!("KUBECONFIG is set, so {name} has to be"));
            let models = PathBuf::from(variable("PILOTLIGHT_E2E_MODELS")?);
            (
                None,
                Kubectl::new("kubectl".into(), config),
                models,
                variable("PILOTLIGHT_E2E_IMAGE")?,
            )
        } else {
            let own = Own::start()?;
            own.enter()?;
            let (kubectl, models) = (own.kubectl(), own.models());
            (Some(own), kubectl, models, own::IMAGE.to_owned())
        };
        install::install(&kubectl, &image)?;
        let address = format!("--namespace {SYSTEM} service {ACTIVATOR}");
        let activator = kubectl.now(&format!("get {address} -o jsonpath={{.spec.clusterIP}}"), "")?;
        reached(&activator)?;
        Ok(Self {
            kubectl,
            models,
            own,
            activator,
        })
    }

    fn enter(&self) -> Result<(), String> {
        self.own.as_ref().map_or(Ok(()), Own::enter)
    }
}

/// Waits until the node leads connections to the activators' Service: their pods are ready before it does.
fn reached(activator: &str) -> Result<(), String> {
    let address: Ipv4Addr = activator.parse().map_err(|_| format!("no address: {activator}"))?;
    let start = Instant::now();
    while let Err(error) = TcpStream::connect_timeout(&SocketAddr::from((address, 80)), Duration::from_secs(5)) {
        if start.elapsed() > PATIENCE {
            return Err(format!("the activators' Service {address} is not reached: {error}"));
        }
        thread::sleep(Duration::from_millis(50));
    }
    Ok(())
}
