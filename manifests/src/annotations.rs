//! The annotations that we read: Knative's, KServe's and our own, in one table. The parser, the reference in
//! `manifests/README.md` and the suggestions for mistyped ones all come from [`TABLE`].

use std::{fmt::Write as _, time::Duration};

use crate::{
    Activation, Batching, Fault, Scaling, duration, path, quantity,
    report::Report,
    suggest,
    tree::{Kind, Node},
};

/// What annotations decide, with the defaults before any is read.
#[derive(Clone, Debug, Default)]
pub(crate) struct Settings {
    pub(crate) scaling: Scaling,
    pub(crate) batching: Batching,
    pub(crate) activation: Activation,
    /// `target`, unless the manifest's `scaleTarget` is given.
    pub(crate) target: Option<f64>,
    /// `initial-scale`; its default follows from `minReplicas`.
    pub(crate) initial_scale: Option<u32>,
}

/// One annotation.
pub(crate) struct Annotation {
    pub(crate) name: &'static str,
    /// Knative's old camelCase name.
    pub(crate) alias: Option<&'static str>,
    pub(crate) form: Form,
    pub(crate) default: &'static str,
    pub(crate) meaning: &'static str,
    pub(crate) effect: Effect,
}

/// What the text of an annotation may be. Bounds are inclusive.
#[derive(Clone, Copy)]
pub(crate) enum Form {
    /// Milliseconds; `whole` for whole seconds only.
    Duration {
        min: u64,
        max: u64,
        whole: bool,
    },
    Number {
        min: f64,
        max: f64,
    },
    Integer {
        min: u32,
        max: u32,
    },
    /// A quantity of bytes.
    Bytes {
        max: usize,
    },
    Bool,
    /// One of `allowed`; those of `not_yet` are known and refused.
    Word {
        allowed: &'static [&'static str],
        not_yet: &'static [&'static str],
    },
    Any,
}

/// What an annotation does.
#[derive(Clone, Copy)]
pub(crate) enum Effect {
    Set(fn(&mut Settings, &Given)),
    /// Nothing, and rightly so: accepted in silence.
    Accepted,
    /// Nothing, and the user is told why.
    Ignored(&'static str),
    /// Nothing for the value named, and the user is told why.
    IgnoredValue(&'static [&'static str], &'static str),
}

/// The value of an annotation, in the form that its row asks for.
pub(crate) enum Given {
    Duration(Duration),
    Number(f64),
    Integer(u32),
    Bytes(usize),
    Bool(bool),
    Text,
}

impl Given {
    fn duration(&self) -> Duration {
        if let Self::Duration(value) = self {
            *value
        } else {
            Duration::ZERO
        }
    }

    fn number(&self) -> f64 {
        if let Self::Number(value) = self { *value } else { 0.0 }
    }

    fn integer(&self) -> u32 {
        if let Self::Integer(value) = self { *value } else { 0 }
    }

    fn bytes(&self) -> usize {
        if let Self::Bytes(value) = self { *value } else { 0 }
    }

    fn bool(&self) -> bool {
        matches!(self, Self::Bool(true))
    }
}

const HOUR_MS: u64 = 3_600_000;
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
pub(crate) const TABLE: &[Annotation] = &[
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
            settings.scaling.max_replicas = Some(given.integer()).filter(|max| *max > 0)
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
    ignored(
        "serving.kserve.io/stop",
        "stopping a service by annotation is not supported yet, it is served: delete it to stop it",
    ),
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

/// Domains in which an unknown name is a fault: a mistyped option must not be lost.
const STRICT: [&str; 2] = ["autoscaling.knative.dev/", "pilotlight.dev/"];
/// Domains whose unknown names get a warning.
const LENIENT: [&str; 5] = [
    "serving.kserve.io/",
    "storage.kserve.io/",
    "prometheus.kserve.io/",
    "serving.knative.dev/",
    "queue.sidecar.serving.knative.dev/",
];

/// Reads the annotations at `path` (a mapping of the tree; values that are not strings are left to the schema) into
/// `settings`.
pub(crate) fn read(node: &Node, path: &str, settings: &mut Settings, report: &mut Report<'_>) {
    let Kind::Map(entries) = &node.kind else { return };
    for entry in entries {
        let Some(text) = entry.value.as_str() else { continue };
        let field = path::child(path, &entry.key);
        let Some(row) = find(&entry.key) else {
            unknown(&entry.key, entry.line, field, report);
            continue;
        };
        if let (true, Some(twin)) = (row.name == entry.key, row.alias.and_then(|alias| node.get(alias))) {
            let message = format!(
                "given twice: `{}` on line {} is its old name, keep one of the two",
                twin.key, twin.line
            );
            report.fault(entry.line, field, message);
            continue;
        }
        match value(text, row.form) {
            Ok(given) => apply(row, text, &given, entry.line, field, settings, report),
            Err(message) => report.fault(entry.line, field, message),
        }
    }
}

fn apply(
    row: &Annotation,
    text: &str,
    given: &Given,
    line: usize,
    field: String,
    settings: &mut Settings,
    report: &mut Report<'_>,
) {
    match row.effect {
        Effect::Set(set) => set(settings, given),
        Effect::Accepted => {}
        Effect::Ignored(why) => report.warning(line, field, why),
        Effect::IgnoredValue(values, why) if values.contains(&text) => report.warning(line, field, why),
        Effect::IgnoredValue(..) => {}
    }
}

/// The row of an annotation's name or alias.
pub(crate) fn find(name: &str) -> Option<&'static Annotation> {
    TABLE.iter().find(|row| row.name == name || row.alias == Some(name))
}

fn unknown(name: &str, line: usize, field: String, report: &mut Report<'_>) {
    let strict = STRICT.iter().any(|domain| name.starts_with(domain));
    if !strict && !LENIENT.iter().any(|domain| name.starts_with(domain)) {
        return;
    }
    let message = match meant(name) {
        Some(meant) => format!("unknown annotation; did you mean `{meant}`?"),
        None if strict => "unknown annotation; the ones there are stand in manifests/README.md".to_owned(),
        None => "an annotation that Pilotlight does not know: it has no effect".to_owned(),
    };
    if strict {
        report.fault(line, field, message);
    } else {
        report.warning(line, field, message);
    }
}

/// The nearest name within the same domain, else the same or the nearest name in another one.
fn meant(name: &str) -> Option<&'static str> {
    let (domain, key) = name.split_once('/')?;
    let key_of = |row: &'static Annotation| row.name.split_once('/').unwrap_or_default();
    let near = |same: bool| {
        let keys = TABLE
            .iter()
            .map(key_of)
            .filter(move |(other, _)| (*other == domain) == same);
        suggest::nearest(key, keys.map(|(_, key)| key)).and_then(|key| {
            TABLE
                .iter()
                .find(|row| key_of(row).1 == key && (key_of(row).0 == domain) == same)
        })
    };
    near(true).or_else(|| near(false)).map(|row| row.name)
}

/// The text of an annotation in its form; the error is the message.
fn value(text: &str, form: Form) -> Result<Given, String> {
    let found = Fault::quote(text);
    let fail = |expected: String| format!("found {found}, expected {expected}");
    match form {
        Form::Duration { min, max, whole } => duration::parse(text)
            .filter(|value| (Duration::from_millis(min)..=Duration::from_millis(max)).contains(value))
            .filter(|value| !whole || value.subsec_nanos() == 0)
            .map(Given::Duration),
        Form::Number { min, max } => text
            .parse()
            .ok()
            .filter(|value| (min..=max).contains(value))
            .map(Given::Number),
        Form::Integer { min, max } => text
            .parse()
            .ok()
            .filter(|value| (min..=max).contains(value))
            .map(Given::Integer),
        Form::Bytes { max } => quantity::parse(text)
            .ok()
            .filter(|value| value.fract() == 0.0 && *value <= max as f64)
            .map(|value| Given::Bytes(value as usize)),
        Form::Bool => text.parse().ok().map(Given::Bool),
        Form::Word { allowed, .. } => allowed.contains(&text).then_some(Given::Text),
        Form::Any => Some(Given::Text),
    }
    .ok_or_else(|| match form {
        Form::Word { allowed, not_yet } if not_yet.contains(&text) => {
            format!(
                "{found} is not supported yet, allowed: {}",
                suggest::list(allowed.iter().copied())
            )
        }
        _ => fail(form.to_string()),
    })
}

impl std::fmt::Display for Form {
    /// The form as a noun, with its bounds.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match *self {
            Self::Duration { min, max, whole } => {
                let whole = if whole { " in whole seconds" } else { "" };
                write!(
                    f,
                    "a duration with its unit{whole}, {} to {}",
                    go_duration(min),
                    go_duration(max)
                )
            }
            Self::Number { min, max } => write!(f, "a number, {min} to {max}"),
            Self::Integer { min, max } => write!(f, "an integer, {min} to {max}"),
            Self::Bytes { max } => write!(
                f,
                "a whole number of bytes such as `65536` or `4Mi`, 0 to {}Gi",
                max >> 30
            ),
            Self::Bool => f.write_str("`true` or `false`"),
            Self::Word { allowed, .. } => f.write_str(&suggest::list(allowed.iter().copied())),
            Self::Any => f.write_str("any text"),
        }
    }
}

fn go_duration(millis: u64) -> String {
    match millis {
        HOUR_MS => "1h".to_owned(),
        millis if millis.is_multiple_of(1000) => format!("{}s", millis / 1000),
        millis => format!("{millis}ms"),
    }
}

/// The table as Markdown, for the reference.
pub(crate) fn markdown() -> String {
    let mut text = String::from("| annotation | allowed | default | effect |\n|---|---|---|---|\n");
    for row in TABLE
        .iter()
        .filter(|row| !matches!((&row.form, row.effect), (Form::Any, Effect::Ignored(_))))
    {
        let alias = row
            .alias
            .and_then(|alias| alias.split_once('/'))
            .map_or(String::new(), |(_, key)| format!(" (or `{key}`)"));
        let _ = writeln!(
            text,
            "| `{}`{alias} | {} | {} | {} |",
            row.name, row.form, row.default, row.meaning
        );
    }
    text.push_str("\nKnown, without effect, each with a warning:\n\n");
    for row in TABLE
        .iter()
        .filter(|row| matches!((&row.form, row.effect), (Form::Any, Effect::Ignored(_))))
    {
        let _ = writeln!(text, "- `{}`: {}", row.name, row.meaning);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_and_in_a_domain_that_is_looked_after() {
        let mut names: Vec<&str> = TABLE
            .iter()
            .flat_map(|row| [Some(row.name), row.alias])
            .flatten()
            .collect();
        for name in &names {
            assert!(
                STRICT.iter().chain(&LENIENT).any(|domain| name.starts_with(domain)),
                "{name}"
            );
        }
        let count = names.len();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), count);
    }

    #[test]
    fn mistyped_names_find_their_own_domain_first() {
        assert_eq!(
            meant("autoscaling.knative.dev/windows"),
            Some("autoscaling.knative.dev/window")
        );
        assert_eq!(meant("pilotlight.dev/window"), Some("autoscaling.knative.dev/window"));
        assert_eq!(meant("pilotlight.dev/queueSize"), Some("pilotlight.dev/queue-size"));
        assert_eq!(meant("pilotlight.dev/colour"), None);
    }
}
