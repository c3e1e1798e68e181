//! The trigger `prometheus`: the value of a query.
//!
//! As KEDA: an instant query whose result has one element (a vector of one, or a scalar); an empty one is 0 unless
//! `ignoreNullValues` is `"false"`. Settings that need secrets are not supported and are named where they are given.

use std::{collections::BTreeMap, time::Duration};

use reqwest::Url;
use serde_json::Value;

use super::cron::{MetadataError, required};

/// How long a query may take, unless the trigger's `timeout` says otherwise.
const LIMIT: Duration = Duration::from_secs(3);

/// A query with its target.
#[derive(Clone, Debug, PartialEq)]
pub struct Query {
    url: Url,
    /// The target.
    pub threshold: f64,
    /// Active above this.
    pub activation: f64,
    nulls_are_zero: bool,
    limit: Duration,
    headers: Vec<(String, String)>,
}

/// Why a query has no value.
#[derive(Debug, thiserror::Error)]
pub enum QueryError {
    /// The server could not be asked.
    #[error("the query failed: {0}")]
    Http(#[from] reqwest::Error),
    /// Its answer is no value.
    #[error("{0}")]
    Answer(String),
}

impl Query {
    /// Reads a trigger's metadata.
    pub fn new(metadata: &BTreeMap<String, String>) -> Result<Self, MetadataError> {
        for field in ["authModes", "unsafeSsl", "queryParameters", "awsRegion"] {
            if metadata
                .get(field)
                .is_some_and(|value| !value.is_empty() && value != "false")
            {
                return Err(MetadataError::new(
                    "metadata",
                    format!("`{field}` is not supported without KEDA"),
                ));
            }
        }
        let address = required(metadata, "serverAddress")?;
        let mut url = Url::parse(address)
            .map_err(|error| MetadataError::new("serverAddress", format!("`{address}` is no URL: {error}")))?;
        let base = url.path().trim_end_matches('/').to_owned();
        url.set_path(&format!("{base}/api/v1/query"));
        url.query_pairs_mut().append_pair("query", required(metadata, "query")?);
        if let Some(namespace) = metadata.get("namespace") {
            url.query_pairs_mut().append_pair("namespace", namespace);
        }
        Ok(Self {
            url,
            threshold: number(metadata, "threshold", None)?,
            activation: number(metadata, "activationThreshold", Some(0.0))?,
            nulls_are_zero: metadata.get("ignoreNullValues").is_none_or(|value| value != "false"),
            limit: timeout(metadata)?,
            headers: headers(metadata)?,
        })
    }

    /// Asks the server.
    pub async fn value(&self, client: &reqwest::Client) -> Result<f64, QueryError> {
        let mut request = client.get(self.url.clone()).timeout(self.limit);
        for (name, value) in &self.headers {
            request = request.header(name, value);
        }
        let answer: Value = request.send().await?.error_for_status()?.json().await?;
        read(&answer, self.nulls_are_zero).map_err(QueryError::Answer)
    }
}

fn number(
    metadata: &BTreeMap<String, String>,
    field: &'static str,
    default: Option<f64>,
) -> Result<f64, MetadataError> {
    let text = match (metadata.get(field), default) {
        (None, Some(default)) => return Ok(default),
        _ => required(metadata, field)?,
    };
    let value = text
        .parse()
        .ok()
        .filter(|value: &f64| value.is_finite() && (default.is_some() || *value > 0.0));
    value.ok_or_else(|| MetadataError::new(field, format!("`{text}` is no number above 0")))
}

/// Milliseconds.
fn timeout(metadata: &BTreeMap<String, String>) -> Result<Duration, MetadataError> {
    let Some(text) = metadata.get("timeout") else {
        return Ok(LIMIT);
    };
    let value = text
        .parse()
        .ok()
        .filter(|millis| *millis > 0)
        .map(Duration::from_millis);
    value.ok_or_else(|| MetadataError::new("timeout", format!("`{text}` is no number of milliseconds")))
}

/// `name=value,name=value`.
fn headers(metadata: &BTreeMap<String, String>) -> Result<Vec<(String, String)>, MetadataError> {
    let text = metadata.get("customHeaders").map_or("", String::as_str);
    let pairs = text.split(',').map(str::trim).filter(|pair| !pair.is_empty());
    pairs
        .map(|pair| {
            let (name, value) = pair
                .split_once('=')
                .ok_or_else(|| MetadataError::new("customHeaders", format!("`{pair}` is no name=value")))?;
            Ok((name.trim().to_owned(), value.trim().to_owned()))
        })
        .collect()
}

/// The one number of an answer.
fn read(answer: &Value, nulls_are_zero: bool) -> Result<f64, String> {
    let result = &answer["data"]["result"];
    let text = match answer["data"]["resultType"].as_str() {
        Some("scalar") => &result[1],
        Some("vector") => match result.as_array().map(Vec::as_slice) {
            Some([]) => &Value::Null,
            Some([one]) => &one["value"][1],
            _ => return Err("the query has more than one result".to_owned()),
        },
        other => return Err(format!("the query's result is {other:?}, not one number")),
    };
    let value = text.as_str().and_then(|text| text.parse::<f64>().ok());
    match value.filter(|value| value.is_finite()) {
        Some(value) => Ok(value),
        None if nulls_are_zero => Ok(0.0),
        None => Err("the query has no value".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn metadata(more: &[(&str, &str)]) -> BTreeMap<String, String> {
        let base = [
            ("serverAddress", "http://prometheus:9090/base/"),
            ("query", "sum(up)"),
            ("threshold", "2.5"),
        ];
        base.iter()
            .chain(more)
            .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
            .collect()
    }

    #[test]
    fn a_trigger_becomes_a_query() {
        let query = Query::new(&metadata(&[("customHeaders", "X-A=1, X-B = 2"), ("timeout", "500")])).unwrap();
        assert_eq!(
            query.url.as_str(),
            "http://prometheus:9090/base/api/v1/query?query=sum%28up%29"
        );
        assert_eq!((query.threshold, query.activation), (2.5, 0.0));
        assert_eq!(query.headers[1], ("X-B".to_owned(), "2".to_owned()));
        assert_eq!(query.limit, Duration::from_millis(500));
    }

    #[test]
    fn faults_name_their_key() {
        for (more, field) in [
            (("serverAddress", "nowhere"), "serverAddress"),
            (("query", ""), "query"),
            (("threshold", "0"), "threshold"),
            (("timeout", "soon"), "timeout"),
            (("customHeaders", "x"), "customHeaders"),
            (("authModes", "bearer"), "metadata"),
        ] {
            assert_eq!(Query::new(&metadata(&[more])).unwrap_err().field, field);
        }
    }

    #[test]
    fn answers_are_read_as_keda_reads_them() {
        let vector = |result: Value| json!({ "data": { "resultType": "vector", "result": result } });
        let one = vector(json!([{ "value": [1.0, "4.5"] }]));
        assert_eq!(read(&one, false), Ok(4.5));
        assert_eq!(
            read(
                &json!({ "data": { "resultType": "scalar", "result": [1.0, "3"] } }),
                false
            ),
            Ok(3.0)
        );
        assert_eq!(read(&vector(json!([])), true), Ok(0.0));
        assert!(read(&vector(json!([])), false).is_err());
        assert!(read(&vector(json!([{ "value": [1.0, "NaN"] }])), false).is_err());
        assert!(read(&vector(json!([{ "value": [1.0, "1"] }, { "value": [1.0, "2"] }])), true).is_err());
        assert!(read(&json!({ "status": "error" }), true).is_err());
    }
}
