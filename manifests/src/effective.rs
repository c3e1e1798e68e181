//! What a manifest means once every default, annotation and rule is applied. The controller reads only this.

use std::{collections::BTreeMap, num::NonZeroU32, path::PathBuf, time::Duration};

use serde_json::{Map, Value};

use crate::Devices;

/// Where a document came from, for messages and for `delete`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Source {
    /// The file as the user named it.
    pub file: PathBuf,
    /// Line of the document's first key, from 1.
    pub line: usize,
}

/// Where the model's bytes are.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Storage {
    /// A file on this machine, or a directory that holds exactly one `.onnx` file.
    Local(PathBuf),
    /// `pvc://CLAIM/PATH`: a file or directory on a PersistentVolumeClaim, which only Kubernetes has.
    Claim {
        /// The claim's name.
        claim: String,
        /// The path within it, without a slash at its ends; empty for the claim's root.
        path: String,
    },
    /// A URI to be fetched from: s3, gs, Azure's, http or https, as the user wrote it. Its query may hold a signature, so it
    /// is not to be shown as it is.
    Remote(String),
    /// `oci://IMAGE`: the files of an image, mounted as a volume, which only Kubernetes has. The reference of the image.
    Image(String),
    /// None that the platform provides: a custom container brings its model with it. Only in Kubernetes.
    Container,
}

/// The scaling options, Knative's names and defaults.
#[derive(Clone, Debug, PartialEq)]
pub struct Scaling {
    /// `minReplicas`; KServe's default 1, 0 scales to zero.
    pub min_replicas: u32,
    /// `maxReplicas`; `None` is unlimited, 0 is stopped by the annotation `serving.kserve.io/stop`.
    pub max_replicas: Option<u32>,
    /// Concurrency that one replica is meant for before utilisation is applied: `scaleTarget`, the `target`
    /// annotation, `containerConcurrency`, or 100.
    pub target: f64,
    /// Share of the target that is aimed at, in (0, 1]. Default 0.7.
    pub target_utilization: f64,
    /// `autoscaling.knative.dev/window`. Default 60 s, 6 s to 1 h.
    pub stable_window: Duration,
    /// Share of the stable window that panic looks at, in (0, 1]. Default 0.1.
    pub panic_window: f64,
    /// Panic starts where desired/ready reaches this factor. Default 2.0.
    pub panic_threshold: f64,
    /// Default 1000.
    pub max_scale_up_rate: f64,
    /// Default 2.
    pub max_scale_down_rate: f64,
    /// Default 0: how long a lower wish has to last.
    pub scale_down_delay: Duration,
    /// How long the last replica stays after the traffic stopped, beyond the stable window. Default 0.
    pub scale_to_zero_retention: Duration,
    /// Replicas that a wake starts. Default 1.
    pub activation_scale: u32,
    /// Replicas at deployment. Ours is 0 where `minReplicas` is 0, else `minReplicas`.
    pub initial_scale: u32,
    /// `pilotlight.dev/standby`: started pods without a model that wakes may claim, for this service and all others of its
    /// namespace with the same pod template; of several numbers the largest counts, and 0 shares without asking for any. Default
    /// `None`: the service has no part in it. Only in Kubernetes.
    pub standby: Option<u32>,
}

/// The batch former's options.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Batching {
    /// Rows in one batch at most. Default 32.
    pub max_batch_size: NonZeroU32,
    /// How long the oldest request may wait for company. Default 0: an idle device takes what is there.
    pub max_latency: Duration,
    /// Requests queued in one runtime; one more is a marked 503. Default 1,000.
    pub queue_size: usize,
    /// `/ready` answers 503 while more than this many requests wait in one runtime. Default 100.
    pub ready_queue_limit: usize,
    /// Levels of priority, 1 the highest. Default 1: all requests are alike.
    pub priority_levels: u32,
    /// The level of requests that ask for none. Default: the lowest.
    pub default_priority: Option<u32>,
    /// Sizes of batches that the model runs best at. Default none.
    pub preferred_batch_sizes: Vec<u32>,
    /// Whether the cost of batches is learned and what can't meet its deadline refused. Default false.
    pub adaptive: bool,
}

/// The activator's bounds for this service, from `pilotlight.dev/*` annotations; defaults as in the activator.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Activation {
    /// Requests that may wait at once. Default 10,000.
    pub max_waiting: usize,
    /// Bytes of bodies that waiting requests may hold. Default 64 MiB.
    pub max_waiting_bytes: usize,
    /// How long a request may wait for a replica. Default 300 s.
    pub wait_timeout: Duration,
    /// Largest body kept for a replay. Default 4 MiB.
    pub replay_limit: usize,
    /// Whether inference requests may be replayed. Default true.
    pub pure: bool,
}

/// One service: an `InferenceService` with every default applied.
#[derive(Clone, Debug, PartialEq)]
pub struct Service {
    /// `metadata.name`: the model's name in every protocol.
    pub name: String,
    /// `metadata.namespace`, default `default`.
    pub namespace: String,
    /// Where it was declared.
    pub source: Source,
    /// The whole document as JSON, as the user wrote it; what `get -o json` shows as the object.
    pub object: serde_json::Value,
    /// The model's bytes.
    pub storage: Storage,
    /// Extra arguments for the runtime.
    pub args: Vec<String>,
    /// Environment of the runtime.
    pub env: BTreeMap<String, String>,
    /// Scaling.
    pub scaling: Scaling,
    /// `containerConcurrency`: hard limit of requests in flight on one replica; `None` is unlimited.
    pub container_concurrency: Option<NonZeroU32>,
    /// The runtime's deadline for a request from its arrival there. `timeout`, default 5 s.
    pub timeout: Duration,
    /// What a replica computes on.
    pub devices: Devices,
    /// Batching.
    pub batching: Batching,
    /// The activator's bounds.
    pub activation: Activation,
    /// What only a cluster heeds. The default on one machine.
    pub cluster: Cluster,
}

/// Who decides how many replicas there are: `serving.kserve.io/autoscalerClass`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum AutoscalerClass {
    /// Not given: our autoscaler.
    #[default]
    Own,
    /// A HorizontalPodAutoscaler.
    Hpa,
    /// KEDA.
    Keda,
    /// Somebody else.
    External,
    /// Nobody.
    None,
}

impl AutoscalerClass {
    /// Whether our controller writes replica counts. A wake from zero is the activator's and does not depend on it.
    pub fn is_own(self) -> bool {
        self == Self::Own
    }
}

/// What only a cluster heeds: the pod around the runtime, and how its revisions share the requests.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Cluster {
    /// `modelFormat.name`, lower case; empty for a custom container.
    pub format: String,
    /// `modelFormat.version`.
    pub format_version: Option<String>,
    /// `model.runtime`: a ServingRuntime of the namespace, or a ClusterServingRuntime.
    pub runtime: Option<String>,
    /// `model.protocolVersion` as written.
    pub protocol: Option<String>,
    /// Who scales.
    pub autoscaler_class: AutoscalerClass,
    /// Fields of Kubernetes' `PodSpec` given in the predictor, as written; `containers` among them where they are custom.
    pub pod: Map<String, Value>,
    /// Fields of Kubernetes' `Container` given in the model, as written; never `args`, which are [`Service::args`].
    pub container: Map<String, Value>,
    /// Labels for the pods: those of the object, and the predictor's before them.
    pub labels: BTreeMap<String, String>,
    /// Annotations for the pods: the predictor's.
    pub annotations: BTreeMap<String, String>,
    /// `deploymentStrategy` as written; `Null` where it is absent.
    pub strategy: Value,
    /// Revisions beside the first, by name. Their shares are 100 % at most, and the stable one gets the rest.
    pub canaries: Vec<Canary>,
}

/// Another revision that gets a share of the requests.
#[derive(Clone, Debug, PartialEq)]
pub struct Canary {
    /// Its name: that of the entry of `canary[]`, or [`CANARY`](crate::kubernetes::CANARY).
    pub name: String,
    /// Its share in percent, 0 to 100.
    pub percent: u8,
    /// What it serves: of `canaryTrafficPercent` nothing is said, as the predictor itself is the new revision and the former one
    /// stays as it runs; of `canary[]` the entry's predictor.
    pub service: Option<Box<Service>>,
}

impl Service {
    /// `namespace/name`.
    pub fn key(&self) -> String {
        format!("{}/{}", self.namespace, self.name)
    }

    /// The host names that lead to it: `{name}.{namespace}.{domain}` and KServe's `{name}-{namespace}.{domain}`.
    pub fn hosts(&self, domain: &str) -> [String; 2] {
        [
            format!("{}.{}.{domain}", self.name, self.namespace),
            format!("{}-{}.{domain}", self.name, self.namespace),
        ]
    }
}

impl Default for Scaling {
    /// What holds where a manifest says nothing.
    fn default() -> Self {
        Self {
            min_replicas: 1,
            max_replicas: None,
            target: 100.0,
            target_utilization: 0.7,
            stable_window: Duration::from_mins(1),
            panic_window: 0.1,
            panic_threshold: 2.0,
            max_scale_up_rate: 1000.0,
            max_scale_down_rate: 2.0,
            scale_down_delay: Duration::ZERO,
            scale_to_zero_retention: Duration::ZERO,
            activation_scale: 1,
            initial_scale: 1,
            standby: None,
        }
    }
}

impl Default for Batching {
    /// What holds where a manifest says nothing.
    fn default() -> Self {
        Self {
            max_batch_size: const { NonZeroU32::new(32).unwrap() },
            max_latency: Duration::ZERO,
            queue_size: 1_000,
            ready_queue_limit: 100,
            priority_levels: 1,
            default_priority: None,
            preferred_batch_sizes: Vec::new(),
            adaptive: false,
        }
    }
}

impl Default for Activation {
    /// What holds where a manifest says nothing.
    fn default() -> Self {
        Self {
            max_waiting: 10_000,
            max_waiting_bytes: 64 << 20,
            wait_timeout: Duration::from_mins(5),
            replay_limit: 4 << 20,
            pure: true,
        }
    }
}
