//! Every annotation that has a meaning here: a row each.

use super::{Annotation, Effect, Form};

pub(super) const HOUR_MS: u64 = 3_600_000;
const MAX_REPLICAS: u32 = 100_000;
const NOT_YET: &str = "an annotation of KServe that Pilotlight does not support yet: it has no effect";
const KNATIVE_NOT_YET: &str = "an annotation of Knative that Pilotlight does not support yet: it has no effect";
const ANY_TIME: Form = Form::Duration {
    min: 0,
    max: HOUR_MS,
    whole: false,
};

const fn ignored(name: &'static str, why: &'static str) -> Annotation {
    Annotation {
        name,
        alias: None,
        form: Form::Any,
        default: "",
        meaning: why,
        effect: Effect::Ignored(why),
    }
}

/// Every annotation that has a meaning here.
pub(super) const TABLE: &[Annotation] = &[
    Annotation {
        name: "autoscaling.knative.dev/class",
        alias: None,
        form: Form::Word {
            allowed: &["kpa.autoscaling.knative.dev"],
            not_yet: &["hpa.autoscaling.knative.dev"],
        },
        default: "kpa.autoscaling.knative.dev",
        meaning: "the autoscaler",
        effect: Effect::Accepted,
    },
    Annotation {
        name: "autoscaling.knative.dev/metric",
        alias: None,
        form: Form::Word {
            allowed: &["concurrency"],
            not_yet: &["rps", "cpu", "memory"],
        },
        default: "concurrency",
        meaning: "what is scaled on; `scaleMetric` goes before it",
        effect: Effect::Accepted,
    },
    Annotation {
        name: "autoscaling.knative.dev/target",
        alias: None,
        form: Form::Number { min: 0.01, max: 1e6 },
        default: "`containerConcurrency`, or 100",
        meaning: "requests in flight that one replica is meant for; `scaleTarget` goes before it",
        effect: Effect::Set(|settings, given| settings.target = Some(given.number())),
    },
    Annotation {
        name: "autoscaling.knative.dev/target-utilization-percentage",
        alias: Some("autoscaling.knative.dev/targetUtilizationPercentage"),
        form: Form::Number { min: 1.0, max: 100.0 },
        default: "70",
        meaning: "share of the target that is aimed at",
        effect: Effect::Set(|settings, given| settings.scaling.target_utilization = given.number() / 100.0),
    },
    Annotation {
        name: "autoscaling.knative.dev/window",
        alias: None,
        form: Form::Duration {
            min: 6_000,
            max: HOUR_MS,
            whole: true,
        },
        default: "60s",
        meaning: "the stable window: what is scaled on is the mean over it, and a service goes to zero after it",
        effect: Effect::Set(|settings, given| settings.scaling.stable_window = given.duration()),
    },
    Annotation {
        name: "autoscaling.knative.dev/panic-window-percentage",
        alias: Some("autoscaling.knative.dev/panicWindowPercentage"),
        form: Form::Number { min: 1.0, max: 100.0 },
        default: "10",
        meaning: "the panic window as a share of the stable window",
        effect: Effect::Set(|settings, given| settings.scaling.panic_window = given.number() / 100.0),
    },
    Annotation {
        name: "autoscaling.knative.dev/panic-threshold-percentage",
        alias: Some("autoscaling.knative.dev/panicThresholdPercentage"),
        form: Form::Number {
            min: 110.0,
            max: 1000.0,
        },
        default: "200",
        meaning: "panic starts where the replicas wished for reach this share of the ready ones",
        effect: Effect::Set(|settings, given| settings.scaling.panic_threshold = given.number() / 100.0),
    },
    Annotation {
        name: "autoscaling.knative.dev/scale-down-delay",
        alias: Some("autoscaling.knative.dev/scaleDownDelay"),
        form: Form::Duration {
            min: 0,
            max: HOUR_MS,
            whole: true,
        },
        default: "0s",
        meaning: "how long a lower wish has to last",
        effect: Effect::Set(|settings, given| settings.scaling.scale_down_delay = given.duration()),
    },
    Annotation {
        name: "autoscaling.knative.dev/scale-to-zero-pod-retention-period",
        alias: Some("autoscaling.knative.dev/scaleToZeroPodRetentionPeriod"),
        form: ANY_TIME,
        default: "0s",
        meaning: "how long the last replica stays after it was last needed",
        effect: Effect::Set(|settings, given| settings.scaling.scale_to_zero_retention = given.duration()),
    },
    Annotation {
        name: "autoscaling.knative.dev/activation-scale",
        alias: Some("autoscaling.knative.dev/activationScale"),
        form: Form::Integer {
            min: 2,
            max: MAX_REPLICAS,
        },
        default: "1",
        meaning: "replicas that a wake from zero starts; between `minReplicas` and `maxReplicas`",
        effect: Effect::Set(|settings, given| settings.scaling.activation_scale = given.integer()),
    },
    Annotation {
        name: "autoscaling.knative.dev/initial-scale",
        alias: Some("autoscaling.knative.dev/initialScale"),
        form: Form::Integer {
            min: 0,
            max: MAX_REPLICAS,
        },
        default: "`minReplicas`",
        meaning: "replicas at deployment, at most `maxReplicas`",
        effect: Effect::Set(|settings, given| settings.initial_scale = Some(given.integer())),
    },
    Annotation {
        name: "autoscaling.knative.dev/max-scale",
        alias: Some("autoscaling.knative.dev/maxScale"),
        form: Form::Integer {
            min: 0,
            max: MAX_REPLICAS,
        },
        default: "0, unlimited",
        meaning: "replicas at most; `maxReplicas` goes before it",
        effect: Effect::Set(|settings, given| {
            settings.scaling.max_replicas = Some(given.integer()).filter(|max| *max > 0);
        }),
    },
    Annotation {
        name: "autoscaling.knative.dev/min-scale",
        alias: Some("autoscaling.knative.dev/minScale"),
        form: Form::Integer {
            min: 0,
            max: MAX_REPLICAS,
        },
        default: "",
        meaning: "none: KServe overwrites it with `minReplicas`, default 1",
        effect: Effect::Ignored("KServe overwrites it with `spec.predictor.minReplicas`, default 1: give that"),
    },
    Annotation {
        name: "autoscaling.knative.dev/metric-aggregation-algorithm",
        alias: Some("autoscaling.knative.dev/metricAggregationAlgorithm"),
        form: Form::Word {
            allowed: &["linear"],
            not_yet: &["weighted-exponential", "weightedExponential"],
        },
        default: "linear",
        meaning: "how the samples of a window are averaged",
        effect: Effect::Accepted,
    },
    Annotation {
        name: "autoscaling.knative.dev/target-burst-capacity",
        alias: Some("autoscaling.knative.dev/targetBurstCapacity"),
        form: Form::Number { min: -1.0, max: 1e9 },
        default: "",
        meaning: "none: the activator is always in the way of a request, as with -1",
        effect: Effect::Ignored("the activator is always in the way of a request, as with -1: it has no effect"),
    },
    Annotation {
        name: "pilotlight.dev/max-scale-up-rate",
        alias: None,
        form: Form::Number { min: 1.01, max: 1e6 },
        default: "1000",
        meaning: "replicas at most at one decision, as a factor of the ready ones",
        effect: Effect::Set(|settings, given| settings.scaling.max_scale_up_rate = given.number()),
    },
    Annotation {
        name: "pilotlight.dev/max-scale-down-rate",
        alias: None,
        form: Form::Number { min: 1.01, max: 1e6 },
        default: "2",
        meaning: "replicas at least at one decision: the ready ones divided by it",
        effect: Effect::Set(|settings, given| settings.scaling.max_scale_down_rate = given.number()),
    },
    Annotation {
        name: "pilotlight.dev/standby",
        alias: None,
        form: Form::Integer { min: 0, max: 1000 },
        default: "no part in it",
        meaning: "in Kubernetes: started pods without a model that a wake claims, shared by the services of a namespace whose pod \
                  template is the same; the largest number counts, and 0 shares without asking for any",
        effect: Effect::Set(|settings, given| settings.scaling.standby = Some(given.integer())),
    },
    Annotation {
        name: "pilotlight.dev/queue-size",
        alias: None,
        form: Form::Integer { min: 1, max: 1_000_000 },
        default: "1000",
        meaning: "requests queued in one runtime; one more gets a 503 with `Retry-After`, which the activator takes elsewhere",
        effect: Effect::Set(|settings, given| settings.batching.queue_size = given.integer() as usize),
    },
    Annotation {
        name: "pilotlight.dev/ready-queue-limit",
        alias: None,
        form: Form::Integer { min: 0, max: 1_000_000 },
        default: "100",
        meaning: "the runtime's `/ready` answers 503 while more than this many requests wait in it",
        effect: Effect::Set(|settings, given| settings.batching.ready_queue_limit = given.integer() as usize),
    },
    Annotation {
        name: "pilotlight.dev/priority-levels",
        alias: None,
        form: Form::Integer { min: 1, max: 100 },
        default: "1",
        meaning: "levels of priority, 1 the highest; a request asks for one with the parameter `priority`",
        effect: Effect::Set(|settings, given| settings.batching.priority_levels = given.integer()),
    },
    Annotation {
        name: "pilotlight.dev/default-priority",
        alias: None,
        form: Form::Integer { min: 1, max: 100 },
        default: "the lowest level",
        meaning: "the level of requests that ask for none; at most `pilotlight.dev/priority-levels`",
        effect: Effect::Set(|settings, given| settings.batching.default_priority = Some(given.integer())),
    },
    Annotation {
        name: "pilotlight.dev/preferred-batch-sizes",
        alias: None,
        form: Form::Integers { min: 1, max: 65_536 },
        default: "",
        meaning: "sizes that the model runs best at, each at most `maxBatchSize`; a batch that reaches one leaves at the largest it reaches",
        effect: Effect::Set(|settings, given| settings.batching.preferred_batch_sizes = given.integers().to_vec()),
    },
    Annotation {
        name: "pilotlight.dev/adaptive-batching",
        alias: None,
        form: Form::Bool,
        default: "false",
        meaning: "learn what batches cost and refuse at once, with a 503, what can't be answered by its deadline",
        effect: Effect::Set(|settings, given| settings.batching.adaptive = given.bool()),
    },
    Annotation {
        name: "pilotlight.dev/precision",
        alias: None,
        form: Form::Word {
            allowed: &["f32", "tf32", "f16", "bf16"],
            not_yet: &["int8", "fp8"],
        },
        default: "f32",
        meaning: "how a GPU computes FP32: `f32` strictly, `tf32` on tensor cores, or with weights and values in 16 bits; the CPU refuses 16 bits",
        effect: Effect::Set(|settings, given| settings.precision = given.word()),
    },
    Annotation {
        name: "pilotlight.dev/max-waiting",
        alias: None,
        form: Form::Integer { min: 1, max: 1_000_000 },
        default: "10000",
        meaning: "requests that may wait in the activator at once; one more gets a 503 with `Retry-After`",
        effect: Effect::Set(|settings, given| settings.activation.max_waiting = given.integer() as usize),
    },
    Annotation {
        name: "pilotlight.dev/max-waiting-bytes",
        alias: None,
        form: Form::Bytes { max: 1 << 40 },
        default: "64Mi",
        meaning: "bytes of bodies that waiting requests may hold; past it a request gets a 503 with `Retry-After`",
        effect: Effect::Set(|settings, given| settings.activation.max_waiting_bytes = given.bytes()),
    },
    Annotation {
        name: "pilotlight.dev/wait-timeout",
        alias: None,
        form: Form::Duration {
            min: 1,
            max: HOUR_MS,
            whole: false,
        },
        default: "300s",
        meaning: "how long a request may wait for a replica; then it gets a 504",
        effect: Effect::Set(|settings, given| settings.activation.wait_timeout = given.duration()),
    },
    Annotation {
        name: "pilotlight.dev/replay-limit",
        alias: None,
        form: Form::Bytes { max: 1 << 30 },
        default: "4Mi",
        meaning: "largest body that is kept to be sent again where a replica dies under it, and largest answer held to its end",
        effect: Effect::Set(|settings, given| settings.activation.replay_limit = given.bytes()),
    },
    Annotation {
        name: "pilotlight.dev/pure",
        alias: None,
        form: Form::Bool,
        default: "true",
        meaning: "whether the same inference request may be sent to the model more than once",
        effect: Effect::Set(|settings, given| settings.activation.pure = given.bool()),
    },
    Annotation {
        name: "serving.kserve.io/deploymentMode",
        alias: None,
        form: Form::Word {
            allowed: &["Standard", "RawDeployment", "Knative", "Serverless"],
            not_yet: &["ModelMesh"],
        },
        default: "Standard",
        meaning: "accepted; every mode scales to zero here",
        effect: Effect::Accepted,
    },
    Annotation {
        name: "serving.kserve.io/autoscalerClass",
        alias: None,
        form: Form::Word {
            allowed: &["none", "external", "hpa", "keda"],
            not_yet: &[],
        },
        default: "none",
        meaning: "accepted; the autoscaler is always our own, and `hpa` and `keda` get a warning that says so",
        effect: Effect::IgnoredValue(
            &["hpa", "keda"],
            "Pilotlight scales with its own autoscaler whatever the class: `none` or `external` says so in KServe's words",
        ),
    },
    Annotation {
        name: "serving.kserve.io/stop",
        alias: None,
        form: Form::Bool,
        default: "false",
        meaning: "`true` ends the replicas and answers requests with an error until it is taken away",
        effect: Effect::Set(|settings, given| settings.stopped = given.bool()),
    },
    ignored(
        "serving.kserve.io/targetUtilizationPercentage",
        "KServe itself no longer reads it: give `autoscaling.knative.dev/target-utilization-percentage`",
    ),
    ignored(
        "serving.kserve.io/metrics",
        "KServe itself no longer reads it: give `spec.predictor.scaleMetric`",
    ),
    ignored("serving.kserve.io/enable-tag-routing", NOT_YET),
    ignored("serving.kserve.io/enable-metric-aggregation", NOT_YET),
    ignored("serving.kserve.io/enable-prometheus-scraping", NOT_YET),
    ignored("serving.kserve.io/disable-localmodel", NOT_YET),
    ignored("serving.kserve.io/nodegroup", NOT_YET),
    ignored("serving.kserve.io/storageSecretName", NOT_YET),
    ignored("serving.kserve.io/disable-auto-update", NOT_YET),
    ignored("serving.kserve.io/gpu-resource-types", NOT_YET),
    ignored("storage.kserve.io/readonly", NOT_YET),
    ignored("serving.knative.dev/progress-deadline", KNATIVE_NOT_YET),
    ignored("serving.knative.dev/rollout-duration", KNATIVE_NOT_YET),
];
