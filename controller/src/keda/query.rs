//! The trigger `prometheus`: the value of a query.
//!
//! As KEDA: an instant query whose result has one element (a vector of one, or a scalar); an empty one is 0 unless
//! `ignoreNullValues` is `"false"`. Of KEDA's ways to authenticate there are `bearer`, `basic`, `tls` and `custom`; others are named
//! where they are asked for.

use std::{collections::BTreeMap, time::Duration};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use http::{HeaderMap, HeaderName, HeaderValue, header};
use reqwest::Url;
use serde_json::Value;

use super::{
    cron::{MetadataError, required},
    secrets::Secrets,
};

/// How long a query may take, unless the trigger's `timeout` says otherwise.
const LIMIT: Duration = Duration::from_secs(3);

/// A query with its target.
#[derive(Clone, Debug)]
pub struct Query {
    url: Url,
    /// The target.
    pub threshold: f64,
    /// Active above this.
    pub activation: f64,
    nulls_are_zero: bool,
    limit: Duration,
    headers: HeaderMap,
    /// One of its own, where TLS is special.
    client: Option<reqwest::Client>,
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
    /// Reads a trigger's metadata and secrets. A TLS provider has to be installed in the process.
    pub fn new(metadata: &BTreeMap<String, String>, secrets: &Secrets) -> Result<Self, MetadataError> {
        for field in ["awsRegion", "identityOwner"] {
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
        for (name, value) in pairs(metadata, "queryParameters")? {
            url.query_pairs_mut().append_pair(&name, &value);
        }
        let mut headers = headers(metadata)?;
        let modes = modes(metadata, secrets)?;
        authorize(&modes, secrets, &mut headers)?;
        Ok(Self {
            url,
            threshold: number(metadata, "threshold", None)?,
            activation: number(metadata, "activationThreshold", Some(0.0))?,
            nulls_are_zero: metadata.get("ignoreNullValues").is_none_or(|value| value != "false"),
            limit: timeout(metadata)?,
            headers,
            client: special(metadata, &modes, secrets)?,
        })
    }

    /// Asks the server.
    pub async fn value(&self, client: &reqwest::Client) -> Result<f64, QueryError> {
        let client = self.client.as_ref().unwrap_or(client);
        let request = client
            .get(self.url.clone())
            .timeout(self.limit)
            .headers(self.headers.clone());
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
fn pairs(metadata: &BTreeMap<String, String>, field: &'static str) -> Result<Vec<(String, String)>, MetadataError> {
    let text = metadata.get(field).map_or("", String::as_str);
    let pairs = text.split(',').map(str::trim).filter(|pair| !pair.is_empty());
    let pair = |pair: &str| {
        let (name, value) = pair
            .split_once('=')
            .ok_or_else(|| MetadataError::new(field, format!("`{pair}` is no name=value")))?;
        Ok((name.trim().to_owned(), value.trim().to_owned()))
    };
    pairs.map(pair).collect()
}

fn headers(metadata: &BTreeMap<String, String>) -> Result<HeaderMap, MetadataError> {
    let mut headers = HeaderMap::new();
    for (name, value) in pairs(metadata, "customHeaders")? {
        headers.append(
            header_name("customHeaders", &name)?,
            header_value("customHeaders", &value)?,
        );
    }
    Ok(headers)
}

fn header_name(field: &'static str, name: &str) -> Result<HeaderName, MetadataError> {
    let wrong = |_| MetadataError::new(field, format!("`{name}` is no name of a header"));
    name.parse().map_err(wrong)
}

/// Not shown where it is wrong: it may be secret.
fn header_value(field: &'static str, value: &str) -> Result<HeaderValue, MetadataError> {
    let mut value = HeaderValue::from_str(value.trim())
        .map_err(|_| MetadataError::new(field, "the value can't stand in a header".to_owned()))?;
    value.set_sensitive(true);
    Ok(value)
}

/// How it authenticates, by KEDA's names.
fn modes(metadata: &BTreeMap<String, String>, secrets: &Secrets) -> Result<Vec<Mode>, MetadataError> {
    let keys = ["authModes", "authMode"];
    let given = keys
        .iter()
        .find_map(|key| metadata.get(*key).map(String::as_str).or(secrets.get(key)));
    let names = given
        .unwrap_or("")
        .split(',')
        .map(str::trim)
        .filter(|name| !name.is_empty());
    let mode = |name: &str| match name {
        "bearer" => Ok(Mode::Bearer),
        "basic" => Ok(Mode::Basic),
        "tls" => Ok(Mode::Tls),
        "custom" => Ok(Mode::Custom),
        other => Err(MetadataError::new(
            "authModes",
            format!("`{other}` needs KEDA; without it there are bearer, basic, tls and custom"),
        )),
    };
    names.map(mode).collect()
}

/// A way to authenticate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    Bearer,
    Basic,
    Tls,
    Custom,
}

fn secret<'a>(secrets: &'a Secrets, names: &[&'static str]) -> Result<&'a str, MetadataError> {
    let found = names.iter().find_map(|name| secrets.get(name));
    found.ok_or_else(|| {
        MetadataError::new(
            names[0],
            "is asked for by authModes and not among its secrets".to_owned(),
        )
    })
}

fn authorize(modes: &[Mode], secrets: &Secrets, headers: &mut HeaderMap) -> Result<(), MetadataError> {
    for mode in modes {
        match mode {
            Mode::Bearer => {
                let token = secret(secrets, &["bearerToken", "token"])?;
                let value = header_value("bearerToken", &format!("Bearer {}", token.trim()))?;
                headers.insert(header::AUTHORIZATION, value);
            }
            Mode::Basic => {
                let (name, word) = (secret(secrets, &["username"])?, secrets.get("password").unwrap_or(""));
                let value = format!("Basic {}", STANDARD.encode(format!("{name}:{word}")));
                headers.insert(header::AUTHORIZATION, header_value("username", &value)?);
            }
            Mode::Custom => {
                let name = header_name("customAuthHeader", secret(secrets, &["customAuthHeader"])?)?;
                let value = header_value("customAuthValue", secret(secrets, &["customAuthValue"])?)?;
                headers.insert(name, value);
            }
            Mode::Tls => {}
        }
    }
    Ok(())
}

/// A client with authorities, a certificate, or none of the checks, where any of these is asked for.
fn special(
    metadata: &BTreeMap<String, String>,
    modes: &[Mode],
    secrets: &Secrets,
) -> Result<Option<reqwest::Client>, MetadataError> {
    let anything = metadata.get("unsafeSsl").is_some_and(|value| value == "true");
    let authority = secrets.get("ca").filter(|_| !modes.is_empty());
    let tls = modes.contains(&Mode::Tls);
    if !anything && !tls && authority.is_none() {
        return Ok(None);
    }
    let wrong = |field: &'static str| move |error: reqwest::Error| MetadataError::new(field, error.to_string());
    let mut builder = reqwest::Client::builder().tls_danger_accept_invalid_certs(anything);
    if let Some(authority) = authority {
        let authorities = reqwest::Certificate::from_pem_bundle(authority.as_bytes()).map_err(wrong("ca"))?;
        builder = builder.tls_certs_merge(authorities);
    }
    if tls {
        let (certificate, key) = (secret(secrets, &["cert"])?, secret(secrets, &["key"])?);
        let both = format!("{}\n{}\n", certificate.trim_end(), key.trim_end());
        builder = builder.identity(reqwest::Identity::from_pem(both.as_bytes()).map_err(wrong("cert"))?);
    }
    builder.build().map(Some).map_err(wrong("authModes"))
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
        let more = [
            ("customHeaders", "X-A=1, X-B = 2"),
            ("timeout", "500"),
            ("queryParameters", "dedup=true"),
        ];
        let query = Query::new(&metadata(&more), &Secrets::default()).unwrap();
        assert_eq!(
            query.url.as_str(),
            "http://prometheus:9090/base/api/v1/query?query=sum%28up%29&dedup=true"
        );
        assert_eq!((query.threshold, query.activation), (2.5, 0.0));
        assert_eq!(query.headers["x-b"], "2");
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
            (("authModes", "bearer"), "bearerToken"),
            (("authModes", "oauth"), "authModes"),
            (("awsRegion", "eu"), "metadata"),
        ] {
            let error = Query::new(&metadata(&[more]), &Secrets::default()).unwrap_err();
            assert_eq!(error.field, field);
        }
    }

    #[test]
    fn secrets_become_what_their_mode_asks_for() {
        rustls::crypto::ring::default_provider().install_default().ok();
        let made = |mode: &str, secrets: Secrets| Query::new(&metadata(&[("authModes", mode)]), &secrets);
        let bearer = made("bearer", [("bearerToken", "secret\n")].into()).unwrap();
        assert_eq!(bearer.headers[header::AUTHORIZATION], "Bearer secret");
        assert!(!format!("{bearer:?}").contains("secret"), "{bearer:?}");
        let basic = made("basic", [("username", "ada"), ("password", "pw")].into()).unwrap();
        assert_eq!(basic.headers[header::AUTHORIZATION], "Basic YWRhOnB3");
        let custom = made(
            "custom",
            [("customAuthHeader", "X-Key"), ("customAuthValue", "v")].into(),
        )
        .unwrap();
        assert_eq!(custom.headers["x-key"], "v");
        assert_eq!(made("tls", [("ca", "nonsense")].into()).unwrap_err().field, "cert");
        assert!(
            made("bearer", [("bearerToken", "t"), ("authModes", "x")].into()).is_ok(),
            "metadata come first"
        );
        let by_secret = Query::new(&metadata(&[]), &[("authModes", "bearer"), ("token", "t")].into()).unwrap();
        assert_eq!(by_secret.headers[header::AUTHORIZATION], "Bearer t");
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
