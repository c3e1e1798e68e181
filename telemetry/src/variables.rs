//! The standard variables of metrics, read once. Those of traces are the SDK's own business.

use std::time::Duration;

use http::{HeaderMap, HeaderName, HeaderValue};
use percent_encoding::percent_decode_str;

use crate::tls::Files;

const INTERVAL: Duration = Duration::from_mins(1);
const TIMEOUT: Duration = Duration::from_secs(10);

/// How metrics are sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Protocol {
    /// `http/protobuf`, the default.
    Http,
    /// `grpc`.
    Grpc,
}

/// Where metrics go, how and how often.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Destination {
    pub(crate) protocol: Protocol,
    /// The whole URL for HTTP, the server for gRPC.
    pub(crate) endpoint: String,
    pub(crate) headers: HeaderMap,
    /// Of one export.
    pub(crate) timeout: Duration,
    /// Between two exports.
    pub(crate) interval: Duration,
    /// Bodies are packed; HTTP only.
    pub(crate) gzip: bool,
    /// Of TLS.
    pub(crate) files: Files,
}

/// A variable that can't be followed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{name}={value:?}: {remedy}")]
pub(crate) struct Wrong {
    name: &'static str,
    value: String,
    remedy: &'static str,
}

const ENABLED: &str = "OTEL_EXPORTER_OTLP_METRICS_ENABLED";

fn is(value: Option<&String>, text: &str) -> bool {
    value.is_some_and(|value| value.eq_ignore_ascii_case(text))
}

/// What the variables say: nothing is sent unless there is an endpoint.
///
/// # Errors
/// The first variable that makes no sense.
pub(crate) fn destination(variable: impl Fn(&str) -> Option<String>) -> Result<Option<Destination>, Wrong> {
    let get = |name| variable(name).filter(|value| !value.is_empty());
    // The name for metrics goes before the one for all signals.
    let either = |own: &'static str, common: &'static str| {
        get(own)
            .map(|value| (own, value))
            .or_else(|| get(common).map(|value| (common, value)))
    };
    // The KEDA HTTP add-on's switch; where it says yes the endpoint has the SDKs' default.
    let switch = get(ENABLED);
    let (off, on) = (is(switch.as_ref(), "false"), is(switch.as_ref(), "true"));
    if off {
        return Ok(None);
    }
    if get("OTEL_SDK_DISABLED").is_some_and(|value| value.eq_ignore_ascii_case("true")) {
        return Ok(None);
    }
    match get("OTEL_METRICS_EXPORTER").as_deref() {
        None | Some("otlp") => {}
        // Every part has /metrics anyway.
        Some("none" | "prometheus") => return Ok(None),
        Some(other) => {
            return Err(Wrong {
                name: "OTEL_METRICS_EXPORTER",
                value: other.to_owned(),
                remedy: "give otlp, prometheus or none",
            });
        }
    }
    let protocol = either("OTEL_EXPORTER_OTLP_METRICS_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL");
    let protocol = match protocol {
        Some((_, value)) if value == "grpc" => Protocol::Grpc,
        Some((_, value)) if value == "http/protobuf" => Protocol::Http,
        None => Protocol::Http,
        Some((name, value)) => {
            let remedy = "give http/protobuf or grpc";
            return Err(Wrong { name, value, remedy });
        }
    };
    let endpoint = match (
        get("OTEL_EXPORTER_OTLP_METRICS_ENDPOINT"),
        get("OTEL_EXPORTER_OTLP_ENDPOINT"),
    ) {
        (Some(whole), _) => whole,
        (None, Some(base)) if protocol == Protocol::Http => format!("{}/v1/metrics", base.trim_end_matches('/')),
        (None, Some(base)) => base,
        (None, None) if on && protocol == Protocol::Http => "http://localhost:4318/v1/metrics".to_owned(),
        (None, None) if on => "http://localhost:4317".to_owned(),
        (None, None) => return Ok(None),
    };
    let milliseconds = |found: Option<(&'static str, String)>, default| match found {
        None => Ok(default),
        Some((name, value)) => match value.parse() {
            Ok(ms) if ms > 0 => Ok(Duration::from_millis(ms)),
            _ => Err(Wrong {
                name,
                value,
                remedy: "give milliseconds, at least 1",
            }),
        },
    };
    let compression = either(
        "OTEL_EXPORTER_OTLP_METRICS_COMPRESSION",
        "OTEL_EXPORTER_OTLP_COMPRESSION",
    );
    let gzip = match compression {
        Some((_, value)) if value == "gzip" => true,
        Some((_, value)) if value == "none" => false,
        None => false,
        Some((name, value)) => {
            let remedy = "give gzip or none";
            return Err(Wrong { name, value, remedy });
        }
    };
    let temporality = "OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE";
    if let Some(value) = get(temporality).filter(|value| !value.eq_ignore_ascii_case("cumulative")) {
        return Err(Wrong {
            name: temporality,
            value,
            remedy: "counters are sent as they stand; only cumulative is there",
        });
    }
    let files = Files::of("METRICS", &variable).map_err(|_| Wrong {
        name: "OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE",
        value: get("OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE").unwrap_or_default(),
        remedy: "give it together with OTEL_EXPORTER_OTLP_CLIENT_KEY",
    })?;
    Ok(Some(Destination {
        protocol,
        endpoint,
        headers: headers(either(
            "OTEL_EXPORTER_OTLP_METRICS_HEADERS",
            "OTEL_EXPORTER_OTLP_HEADERS",
        ))?,
        timeout: milliseconds(
            either("OTEL_EXPORTER_OTLP_METRICS_TIMEOUT", "OTEL_EXPORTER_OTLP_TIMEOUT"),
            TIMEOUT,
        )?,
        interval: milliseconds(
            get("OTEL_METRIC_EXPORT_INTERVAL").map(|value| ("OTEL_METRIC_EXPORT_INTERVAL", value)),
            INTERVAL,
        )?,
        gzip,
        files,
    }))
}

/// `name=value,name=value`, the values percent-encoded. They may be secrets, so a fault shows none.
fn headers(found: Option<(&'static str, String)>) -> Result<HeaderMap, Wrong> {
    let Some((name, value)) = found else {
        return Ok(HeaderMap::new());
    };
    let pair = |pair: &str| {
        let (name, value) = pair.split_once('=')?;
        let value = percent_decode_str(value.trim()).decode_utf8().ok()?;
        let name = HeaderName::try_from(name.trim().to_ascii_lowercase()).ok()?;
        Some((name, HeaderValue::try_from(&*value).ok()?))
    };
    let pairs = value.split(',').filter(|text| !text.trim().is_empty());
    pairs.map(pair).collect::<Option<HeaderMap>>().ok_or(Wrong {
        name,
        value: "(not shown)".to_owned(),
        remedy: "give name=value,name=value with percent-encoded values",
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(all: &[(&str, &str)]) -> Result<Option<Destination>, Wrong> {
        destination(|name| {
            let found = all.iter().find(|(known, _)| *known == name);
            found.map(|(_, value)| (*value).to_owned())
        })
    }

    const ENDPOINT: (&str, &str) = ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://collector:4318/");

    #[test]
    fn metrics_go_nowhere_unless_there_is_an_endpoint() {
        for all in [
            &[][..],
            &[("OTEL_EXPORTER_OTLP_ENDPOINT", "")],
            &[("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "http://collector:4318/v1/traces")],
            &[ENDPOINT, ("OTEL_SDK_DISABLED", "TRUE")],
            &[ENDPOINT, ("OTEL_METRICS_EXPORTER", "none")],
            &[ENDPOINT, (ENABLED, "false")],
            &[ENDPOINT, ("OTEL_METRICS_EXPORTER", "prometheus")],
        ] {
            assert_eq!(read(all), Ok(None), "{all:?}");
        }
    }

    #[test]
    fn add_on_a_switch_that_says_yes_needs_no_endpoint() {
        let found = read(&[(ENABLED, "true")]).unwrap().unwrap();
        assert_eq!(found.endpoint, "http://localhost:4318/v1/metrics");
    }

    #[test]
    fn defaults_are_those_of_the_specification() {
        let found = read(&[ENDPOINT]).unwrap().unwrap();
        assert_eq!(found.protocol, Protocol::Http);
        assert_eq!(found.endpoint, "http://collector:4318/v1/metrics");
        assert_eq!(found.timeout, Duration::from_secs(10));
        assert_eq!(found.interval, Duration::from_mins(1));
        assert!(!found.gzip && found.headers.is_empty());
    }

    #[test]
    fn what_is_said_of_metrics_goes_before_what_is_said_of_all() {
        let found = read(&[
            ENDPOINT,
            ("OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf"),
            ("OTEL_EXPORTER_OTLP_METRICS_PROTOCOL", "grpc"),
            ("OTEL_EXPORTER_OTLP_METRICS_ENDPOINT", "http://other:4317"),
            ("OTEL_EXPORTER_OTLP_HEADERS", "a=b"),
            ("OTEL_EXPORTER_OTLP_METRICS_HEADERS", "Authorization=Bearer%20abc, x=1"),
            ("OTEL_EXPORTER_OTLP_TIMEOUT", "1"),
            ("OTEL_EXPORTER_OTLP_METRICS_TIMEOUT", "250"),
            ("OTEL_METRIC_EXPORT_INTERVAL", "500"),
            ("OTEL_EXPORTER_OTLP_METRICS_COMPRESSION", "gzip"),
        ]);
        let found = found.unwrap().unwrap();
        assert_eq!(
            (found.protocol, &*found.endpoint),
            (Protocol::Grpc, "http://other:4317")
        );
        assert_eq!(found.headers["authorization"], "Bearer abc");
        assert!(found.headers.contains_key("x") && !found.headers.contains_key("a"));
        let ms = Duration::from_millis;
        assert_eq!((found.timeout, found.interval, found.gzip), (ms(250), ms(500), true));
    }

    #[test]
    fn what_makes_no_sense_is_named_with_the_remedy_and_without_secrets() {
        for (name, value) in [
            ("OTEL_METRICS_EXPORTER", "console"),
            ("OTEL_EXPORTER_OTLP_PROTOCOL", "http/json"),
            ("OTEL_METRIC_EXPORT_INTERVAL", "soon"),
            ("OTEL_EXPORTER_OTLP_METRICS_TIMEOUT", "0"),
            ("OTEL_EXPORTER_OTLP_COMPRESSION", "zstd"),
            ("OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE", "delta"),
            ("OTEL_EXPORTER_OTLP_HEADERS", "secret"),
        ] {
            let said = read(&[ENDPOINT, (name, value)]).unwrap_err().to_string();
            assert!(said.starts_with(name), "{said}");
            assert!(!said.contains("secret"), "{said}");
        }
    }
}
