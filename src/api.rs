//! The documents of the admin API, as far as the command line reads them. What is missing reads as nothing, so that a newer or
//! older `up` can still be talked to.

use pilotlight_manifests::Fault;
use serde::Deserialize;

/// `GET /api/v1/services`.
#[derive(Clone, Debug, Default, Deserialize)]
pub(crate) struct List {
    pub(crate) items: Vec<Item>,
}

/// One service.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct Item {
    pub(crate) name: String,
    pub(crate) namespace: String,
    /// What a client appends `/v1/models/...` to.
    pub(crate) url: String,
    pub(crate) ready: bool,
    /// Why it is not ready, as a word.
    pub(crate) reason: Option<String>,
    /// Why it is not ready, as a sentence.
    pub(crate) message: Option<String>,
    pub(crate) replicas: Replicas,
    pub(crate) in_flight: u64,
    pub(crate) waiting: u64,
    /// Milliseconds of the last wake from zero.
    pub(crate) last_wake_ms: Option<f64>,
    pub(crate) revision: Option<String>,
    pub(crate) source: Source,
    /// Whether the document shown is checked and its outcome in what is said here. What does not tell is taken to be so.
    pub(crate) checked: Option<bool>,
    /// The manifest's document.
    pub(crate) object: serde_json::Value,
}

/// Replicas by state.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub(crate) struct Replicas {
    pub(crate) ready: u32,
    pub(crate) starting: u32,
    pub(crate) desired: u32,
}

/// Where a service was declared.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub(crate) struct Source {
    pub(crate) file: String,
    pub(crate) line: usize,
}

/// `PUT /api/v1/manifests`, taken.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Applied {
    pub(crate) applied: Vec<Change>,
    pub(crate) warnings: Vec<Fault>,
}

/// What was done with one document.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub(crate) struct Change {
    pub(crate) kind: String,
    pub(crate) namespace: String,
    pub(crate) name: String,
    /// `created`, `configured` or `unchanged`.
    pub(crate) action: String,
}

/// Every error of ours.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Refusal {
    pub(crate) error: String,
    pub(crate) code: String,
    /// With code `invalid-manifest`.
    pub(crate) faults: Vec<Fault>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_item_is_read_as_the_api_writes_it() {
        let text = r#"{"name":"iris","namespace":"default","url":"http://h/serving/default/iris","ready":true,
            "replicas":{"ready":1,"starting":2,"desired":3},"inFlight":4,"waiting":5,"lastWakeMs":38.25,"revision":"abc",
            "source":{"file":"iris.yaml","line":2},"object":{"kind":"InferenceService"},"new":1}"#;
        let item: Item = serde_json::from_str(text).expect("item");
        assert_eq!((item.in_flight, item.waiting, item.last_wake_ms), (4, 5, Some(38.25)));
        assert_eq!(
            item.replicas,
            Replicas {
                ready: 1,
                starting: 2,
                desired: 3
            }
        );
        assert_eq!((item.source.file.as_str(), item.source.line), ("iris.yaml", 2));
    }

    #[test]
    fn what_is_missing_reads_as_nothing() {
        let item: Item = serde_json::from_str(r#"{"name":"iris","lastWakeMs":null,"revision":null}"#).expect("item");
        assert_eq!((item.ready, item.last_wake_ms, item.replicas.ready), (false, None, 0));
    }
}
