//! The names that the parts agree on in a cluster: KServe's for what a user's tools look at, our own beside them.
//!
//! Constants and pure functions of names. It knows no client and no object.

/// Group of `InferenceService` and the serving runtimes.
pub const GROUP: &str = "serving.kserve.io";

/// Name of the platform in `app.kubernetes.io/managed-by` on every object that the controller applies.
pub const MANAGED_BY: &str = "pilotlight";
/// Field manager of everything that the controller applies.
pub const CONTROLLER_MANAGER: &str = "pilotlight-controller";
/// Field manager of replica counts: the `scale` subresource, and `spec.replicas` at a Deployment's creation.
pub const AUTOSCALER_MANAGER: &str = "pilotlight-autoscaler";

/// Where the platform itself runs, unless `POD_NAMESPACE` says otherwise.
pub const SYSTEM_NAMESPACE: &str = "pilotlight-system";
/// Service and Deployment of the activators: port 80 to their [`DATA_PORT`], [`ADMIN_PORT`] as it is.
pub const ACTIVATOR: &str = "pilotlight-activator";
/// Service, Deployment and Lease of the controllers.
pub const CONTROLLER: &str = "pilotlight-controller";

/// Port of the activators' proxy and of every runtime.
pub const DATA_PORT: u16 = 8080;
/// Port of the admin side: `/livez`, `/readyz`, `/metrics`, `/api/v1`.
pub const ADMIN_PORT: u16 = 9090;
/// Port of a model's Service.
pub const SERVICE_PORT: u16 = 80;
/// Name of the runtime's port in pods and Services. KServe makes `h2c` of it an `appProtocol`.
pub const PORT_NAME: &str = "h2c";
/// `appProtocol` of ports that speak HTTP/1.1 and HTTP/2 without TLS.
pub const APP_PROTOCOL: &str = "kubernetes.io/h2c";
/// The container that serves the model.
pub const CONTAINER: &str = "kserve-container";
/// Where a model that an init step or a claim brings is seen by the container.
pub const MODEL_PATH: &str = "/mnt/models";

/// Label: `managed-by`, the well-known key.
pub const LABEL_MANAGED_BY: &str = "app.kubernetes.io/managed-by";
/// Label: the selector of a workload's pods, `isvc.{name}-predictor`.
pub const LABEL_APP: &str = "app";
/// Label: `predictor`.
pub const LABEL_COMPONENT: &str = "component";
/// Value of [`LABEL_COMPONENT`].
pub const COMPONENT_PREDICTOR: &str = "predictor";
/// Label: name of the InferenceService.
pub const LABEL_INFERENCE_SERVICE: &str = "serving.kserve.io/inferenceservice";
/// Label: the backend within its namespace, [`Workload::label`].
pub const LABEL_BACKEND: &str = "pilotlight.dev/backend";
/// Label of pods and annotation of Deployments: hash of the pod template.
pub const LABEL_REVISION: &str = "pilotlight.dev/revision";
/// Label of an EndpointSlice: its Service, the well-known key.
pub const LABEL_SERVICE_NAME: &str = "kubernetes.io/service-name";

/// Annotation on a Deployment: replicas that a wake from zero starts, an integer of 1 and more.
pub const ANNOTATION_ACTIVATION_SCALE: &str = "pilotlight.dev/activation-scale";
/// Annotation on a Deployment: requests in flight on one replica at most; absent is unlimited.
pub const ANNOTATION_CONTAINER_CONCURRENCY: &str = "pilotlight.dev/container-concurrency";
/// Annotation on a Deployment: path whose 200 means that a pod is ready. Absent: the model's V2 readiness.
pub const ANNOTATION_PROBE_PATH: &str = "pilotlight.dev/probe-path";
/// Annotation on a Deployment: when an activator last asked for it, RFC 3339 with microseconds. A write of it moves the
/// `resourceVersion`, so that a scale-down decided before fails.
pub const ANNOTATION_WOKEN_AT: &str = "pilotlight.dev/woken-at";
/// Annotation on a Deployment whose service is stopped or invalid: an activator must not wake it; the value is the reason.
pub const ANNOTATION_STOPPED: &str = "pilotlight.dev/stopped";
/// Label of standby pods and of their Deployment: the digest of their pod spec. A claimed pod has it no more.
pub const LABEL_STANDBY: &str = "pilotlight.dev/standby-group";
/// Kubernetes' label that tells a Deployment's ReplicaSets and their pods apart.
pub const LABEL_TEMPLATE_HASH: &str = "pod-template-hash";
/// Annotation on a Deployment: the standby group whose pods are the same as its own, [`LABEL_STANDBY`].
pub const ANNOTATION_STANDBY_GROUP: &str = "pilotlight.dev/standby-group";
/// Annotation on a Deployment at zero that is paused, so that a wake may claim a standby pod. Whoever raises its replicas takes
/// the pause and this away in the same write.
pub const ANNOTATION_PARKED: &str = "pilotlight.dev/standby-parked";
/// Annotation on a parked Deployment whose newest ReplicaSet is gone: `{revision}.{pod-template-hash}`, the hash being that of the
/// ReplicaSet that Kubernetes will make of this template.
pub const ANNOTATION_ARMED: &str = "pilotlight.dev/standby-armed";
/// Annotation on a parked Deployment: who is claiming a pod for it since when, `{pod uid} {RFC 3339}`.
pub const ANNOTATION_CLAIMING: &str = "pilotlight.dev/standby-claiming";
/// Annotation on a pod that was claimed: when, RFC 3339.
pub const ANNOTATION_CLAIMED_AT: &str = "pilotlight.dev/standby-claimed-at";
/// Annotation on the pods of a service with a standby group: the model that the runtime serves, `{name}={path or URI}`. It comes
/// into the container as a variable, so that one that starts again finds its model.
pub const ANNOTATION_MODEL: &str = "pilotlight.dev/model";

/// Annotation on a canary's Deployment: its share of requests in percent, 0 to 100.
pub const ANNOTATION_TRAFFIC_PERCENT: &str = "pilotlight.dev/traffic-percent";
/// KServe's annotation: who scales, `hpa`, `keda`, `external` or `none`. Absent: our autoscaler.
pub const ANNOTATION_AUTOSCALER_CLASS: &str = "serving.kserve.io/autoscalerClass";
/// Kubernetes' annotation on pods: those of lower cost are ended first.
pub const ANNOTATION_DELETION_COST: &str = "controller.kubernetes.io/pod-deletion-cost";

/// A label's value and a Service's name hold at most so many characters.
const LABEL_LIMIT: usize = 63;

/// Name of the canary that `canaryTrafficPercent` makes; those of `canary[]` have names of their own.
pub const CANARY: &str = "canary";

/// One scalable workload of an InferenceService.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Workload {
    /// `metadata.namespace` of the InferenceService.
    pub namespace: String,
    /// `metadata.name` of the InferenceService.
    pub name: String,
    /// Name of the canary beside the stable one; `None` is the stable one itself.
    pub canary: Option<String>,
}

impl Workload {
    /// The stable workload of a service.
    pub fn stable(namespace: impl Into<String>, name: impl Into<String>) -> Self {
        Self {
            namespace: namespace.into(),
            name: name.into(),
            canary: None,
        }
    }

    /// The workload of the service's canary of this name.
    pub fn canary(namespace: impl Into<String>, name: impl Into<String>, canary: impl Into<String>) -> Self {
        Self {
            canary: Some(canary.into()),
            ..Self::stable(namespace, name)
        }
    }

    /// Whether it is a canary.
    pub fn is_canary(&self) -> bool {
        self.canary.is_some()
    }

    /// Whether both are workloads of one service.
    pub fn is_beside(&self, other: &Self) -> bool {
        (&self.namespace, &self.name) == (&other.namespace, &other.name)
    }

    /// The backend in routes and counts: `namespace/name`, of a canary `namespace/name@canary`.
    pub fn backend(&self) -> String {
        let Self { namespace, name, .. } = self;
        match &self.canary {
            Some(canary) => format!("{namespace}/{name}@{canary}"),
            None => format!("{namespace}/{name}"),
        }
    }

    /// The workload of a backend; `None` where the text is none of [`backend`](Self::backend).
    pub fn from_backend(backend: &str) -> Option<Self> {
        let (namespace, name) = backend.split_once('/')?;
        match name.split_once('@') {
            None => Some(Self::stable(namespace, name)),
            Some((name, canary)) if is_name(canary) => Some(Self::canary(namespace, name, canary)),
            Some(_) => None,
        }
    }

    /// Name of the Deployment: `{name}-predictor`, of a canary `{name}-predictor-{canary}`.
    pub fn deployment(&self) -> String {
        let predictor = predictor(&self.name);
        match &self.canary {
            Some(canary) => format!("{predictor}-{canary}"),
            None => predictor,
        }
    }

    /// Value of the pods' label `app`, the Deployment's selector, as in KServe.
    /// Too long a one is cut and told apart by a hash.
    pub fn app(&self) -> String {
        bounded(&format!("isvc.{}", self.deployment()))
    }

    /// Value of the label [`LABEL_BACKEND`]: the name, of a canary `{name}.{canary}`, which no service can be called. Within the
    /// limit of labels where [`canary_name_limit`] was kept to.
    pub fn label(&self) -> String {
        match &self.canary {
            Some(canary) => format!("{}.{canary}", self.name),
            None => self.name.clone(),
        }
    }

    /// The workload of a pod or Deployment with this [`LABEL_BACKEND`] in this namespace.
    pub fn from_label(namespace: &str, label: &str) -> Option<Self> {
        match label.split_once('.') {
            None => Some(Self::stable(namespace, label)),
            Some((name, canary)) if is_name(canary) => Some(Self::canary(namespace, name, canary)),
            Some(_) => None,
        }
    }
}

/// Whether a text is a name of a canary: of a-z, 0-9 and -, beginning and ending with a letter or digit.
pub fn is_name(text: &str) -> bool {
    let inner = |byte: &u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || *byte == b'-';
    !text.is_empty() && text.bytes().all(|byte| inner(&byte)) && !text.starts_with('-') && !text.ends_with('-')
}

/// Longest name of a canary of this service: its label holds both names.
pub fn canary_name_limit(service: &str) -> usize {
    LABEL_LIMIT.saturating_sub(service.len() + 1)
}

/// Name of the Deployment, and of the Service that leads to the activators: `{name}-predictor`.
pub fn predictor(name: &str) -> String {
    format!("{name}-predictor")
}

/// Name of the Deployment of a standby group's pods.
pub fn standby_deployment(group: &str) -> String {
    format!("pilotlight-standby-{group}")
}

/// Name of the headless Service with the pods of a service: `{name}-predictor-private`, too long a one cut.
pub fn private_service(name: &str) -> String {
    bounded(&format!("{name}-predictor-private"))
}

/// The text within the limit of labels: of a longer one the beginning and a hash of all of it.
fn bounded(text: &str) -> String {
    if text.len() <= LABEL_LIMIT {
        return text.to_owned();
    }
    // FNV-1a: the name has to stay the same whatever build made it, so no hasher of the standard library.
    let hash = text.bytes().fold(0x811c_9dc5_u32, |hash, byte| {
        (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193)
    });
    let kept: String = text.chars().take(LABEL_LIMIT - 9).collect();
    format!("{}-{hash:08x}", kept.trim_end_matches(['-', '.']))
}

/// Every DNS form of the in-cluster address of a service, the longest first: what clients in the cluster send as host.
pub fn cluster_hosts(namespace: &str, name: &str, cluster_domain: &str) -> [String; 3] {
    let service = predictor(name);
    [
        format!("{service}.{namespace}.svc.{cluster_domain}"),
        format!("{service}.{namespace}.svc"),
        format!("{service}.{namespace}"),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_workload_is_found_again_by_its_backend_and_by_its_label() {
        for workload in [
            Workload::stable("shop", "iris"),
            Workload::canary("shop", "iris", CANARY),
            Workload::canary("shop", "iris", "next-2"),
        ] {
            assert_eq!(Workload::from_backend(&workload.backend()), Some(workload.clone()));
            assert_eq!(Workload::from_label("shop", &workload.label()), Some(workload));
        }
        assert_eq!(Workload::from_backend("iris"), None);
        for none in ["shop/iris@", "shop/iris@a@b", "shop/iris@-a", "shop/iris@A"] {
            assert_eq!(Workload::from_backend(none), None, "{none}");
        }
    }

    #[test]
    fn the_longest_name_still_makes_labels_and_services() {
        let name = "a".repeat(53);
        for text in [Workload::canary("shop", &name, CANARY).app(), private_service(&name)] {
            assert!(text.len() <= 63 && text.len() > 54, "{text}");
        }
        let other = format!("{}b", "a".repeat(52));
        assert_ne!(private_service(&name), private_service(&other));
    }

    #[test]
    fn names_are_those_that_kserves_users_look_for() {
        let stable = Workload::stable("shop", "iris");
        assert_eq!(
            (stable.deployment(), stable.app()),
            ("iris-predictor".to_owned(), "isvc.iris-predictor".to_owned())
        );
        let canary = Workload::canary("shop", "iris", CANARY);
        assert_eq!(canary.deployment(), "iris-predictor-canary");
        assert_eq!(canary.backend(), "shop/iris@canary");
    }
}
