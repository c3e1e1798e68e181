//! The annotations that we read: Knative's, KServe's and our own, in one table. The parser, the reference in
//! `manifests/README.md` and the suggestions for mistyped ones all come from [`TABLE`].

mod table;

use std::{fmt::Write as _, time::Duration};

use self::table::{HOUR_MS, TABLE};
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
    /// `precision`.
    pub(crate) precision: Option<&'static str>,
    /// `target`, unless the manifest's `scaleTarget` is given.
    pub(crate) target: Option<f64>,
    /// `initial-scale`; its default follows from `minReplicas`.
    pub(crate) initial_scale: Option<u32>,
    /// `serving.kserve.io/stop`.
    pub(crate) stopped: bool,
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
    /// Whole numbers with commas between them. Bounds are of each.
    Integers {
        min: u32,
        max: u32,
    },
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
    Integers(Vec<u32>),
    Word(&'static str),
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

    fn integers(&self) -> &[u32] {
        if let Self::Integers(values) = self { values } else { &[] }
    }

    /// One of the words allowed.
    fn word(&self) -> Option<&'static str> {
        if let Self::Word(word) = self { Some(word) } else { None }
    }

    fn bool(&self) -> bool {
        matches!(self, Self::Bool(true))
    }
}

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
        Form::Integers { min, max } => text
            .split(',')
            .map(|part| part.trim().parse().ok().filter(|value| (min..=max).contains(value)))
            .collect::<Option<Vec<u32>>>()
            .map(Given::Integers),
        Form::Bool => text.parse().ok().map(Given::Bool),
        Form::Word { allowed, .. } => allowed.iter().find(|word| **word == text).map(|word| Given::Word(word)),
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
            Self::Integers { min, max } => write!(f, "integers with commas between them, {min} to {max} each"),
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
