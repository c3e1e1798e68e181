//! What `--keda` adds to `activator` and `controller`: the KEDA HTTP add-on's objects, its external scaler and its variables.

pub(crate) mod exporter;
pub(crate) mod unheeded;

use std::{env, net::SocketAddr, path::PathBuf, time::Duration};

use pilotlight_activator::{
    Config,
    kubernetes::keda::KedaConfig,
    secure::{CertificateFiles, Tls, TlsFiles, TlsProfile, UpstreamTrust},
};
use pilotlight_controller::keda::{cluster::ClusterConfig, state};
use pilotlight_manifests::keda::GoDuration;

use super::Failure;

/// The interceptor's limit of one try at a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_millis(500);

/// A variable that is set to something.
fn variable(name: &str) -> Option<String> {
    env::var(name).ok().filter(|value| !value.is_empty())
}

/// The variable's value, read by `read`.
fn read<T>(name: &str, expected: &str, read: impl FnOnce(&str) -> Option<T>) -> Result<Option<T>, Failure> {
    let Some(value) = variable(name) else { return Ok(None) };
    let read = read(&value);
    read.map(Some)
        .ok_or_else(|| Failure::Message(format!("{name}={value}: expected {expected}")))
}

fn duration(name: &str) -> Result<Option<Duration>, Failure> {
    read(name, "a duration such as `500ms` or `1m30s`", |value| {
        Some(GoDuration::parse(value)?.0)
    })
}

/// The limits of routes.
pub(crate) fn routes() -> Result<KedaConfig, Failure> {
    KedaConfig::from_variables(variable).map_err(|error| Failure::Message(error.to_string()))
}

/// Settings of the proxy that the interceptor has variables for.
pub(crate) fn proxy(config: Config) -> Result<Config, Failure> {
    let drain = duration("KEDA_HTTP_DRAIN_TIMEOUT")?.map(|limit| if limit.is_zero() { Duration::MAX } else { limit });
    Ok(Config {
        connect_timeout: duration("KEDA_HTTP_CONNECT_TIMEOUT")?.unwrap_or(CONNECT_TIMEOUT),
        pool_max_idle: read("KEDA_HTTP_MAX_IDLE_CONNS_PER_HOST", "a number", |value| {
            value.parse().ok()
        })?
        .unwrap_or(config.pool_max_idle),
        cold_start_header: flag("KEDA_HTTP_ENABLE_COLD_START_HEADER")?.unwrap_or(config.cold_start_header),
        drain_timeout: drain.unwrap_or(config.drain_timeout),
        log_requests: flag("KEDA_HTTP_LOG_REQUESTS")?.unwrap_or(config.log_requests),
        applications: true,
        ..config
    })
}

fn port(name: &str) -> Result<Option<u16>, Failure> {
    read(name, "a port", |value| value.parse().ok())
}

/// By its name, or by the add-on's old one.
fn either_port(name: &str, old: &str) -> Result<Option<u16>, Failure> {
    Ok(port(name)?.or(port(old)?))
}

fn flag(name: &str) -> Result<Option<bool>, Failure> {
    read(name, "true or false", |value| value.parse().ok())
}

/// The ports of requests and of the admin side, where the interceptor's variables say them.
pub(crate) fn ports() -> Result<(Option<u16>, Option<u16>), Failure> {
    Ok((port("KEDA_HTTP_PROXY_PORT")?, port("KEDA_HTTP_ADMIN_PORT")?))
}

/// TLS beside plain text, and its port, where the interceptor's variables ask for it. As with the add-on, requests over TLS go on to
/// their applications over TLS. Reads the certificates.
pub(crate) fn tls() -> Result<Option<(u16, Tls)>, Failure> {
    if flag("KEDA_HTTP_PROXY_TLS_ENABLED")? != Some(true) {
        return Ok(None);
    }
    let files = tls_files(|name| env::var(name).ok())?;
    let port = port("KEDA_HTTP_PROXY_TLS_PORT")?.unwrap_or(8443);
    let tls = Tls::load(files).map_err(|error| Failure::Message(format!("KEDA_HTTP_PROXY_TLS_...: {error}")))?;
    Ok(Some((port, tls)))
}

fn tls_files(get: impl Fn(&str) -> Option<String>) -> Result<TlsFiles, Failure> {
    // A path that is set to nothing is none, not the default.
    let path = |name: &str, default: &str| get(name).unwrap_or_else(|| default.to_owned());
    let certificate = path("KEDA_HTTP_PROXY_TLS_CERT_PATH", "/certs/tls.crt");
    let key = path("KEDA_HTTP_PROXY_TLS_KEY_PATH", "/certs/tls.key");
    let default = (!certificate.is_empty() && !key.is_empty()).then(|| CertificateFiles {
        certificate: certificate.into(),
        key: key.into(),
    });
    let stores = get("KEDA_HTTP_PROXY_TLS_CERT_STORE_PATHS").unwrap_or_default();
    let stores = stores.split(',').map(str::trim).filter(|path| !path.is_empty());
    let text = |name: &str| get(name).unwrap_or_default();
    let profile = TlsProfile::read(
        &text("KEDA_HTTP_PROXY_TLS_MIN_VERSION"),
        &text("KEDA_HTTP_PROXY_TLS_MAX_VERSION"),
        &text("KEDA_HTTP_PROXY_TLS_CIPHER_SUITES"),
        &text("KEDA_HTTP_PROXY_TLS_CURVE_PREFERENCES"),
    );
    let anything = match text("KEDA_HTTP_PROXY_TLS_SKIP_VERIFY").as_str() {
        "true" => true,
        "" | "false" => false,
        other => {
            let message = format!("KEDA_HTTP_PROXY_TLS_SKIP_VERIFY={other}: expected true or false");
            return Err(Failure::Message(message));
        }
    };
    Ok(TlsFiles {
        certificates: default.into_iter().collect(),
        stores: stores.map(PathBuf::from).collect(),
        profile: profile.map_err(|error| Failure::Message(format!("KEDA_HTTP_PROXY_TLS_...: {error}")))?,
        upstream: Some(if anything {
            UpstreamTrust::Anything
        } else {
            UpstreamTrust::Verify
        }),
        client_authorities: None,
    })
}

/// How long requests are still accepted after SIGTERM, where the interceptor's variable says it.
pub(crate) fn shutdown_delay() -> Result<Option<Duration>, Failure> {
    duration("KEDA_HTTP_SHUTDOWN_DELAY")
}

/// Settings of the external scaler and of what the add-on's operator does.
pub(crate) fn cluster(namespace: &str) -> Result<ClusterConfig, Failure> {
    let default = ClusterConfig::default();
    let mut address: SocketAddr = default.address;
    address.set_port(port("KEDA_HTTP_SCALER_PORT")?.unwrap_or(address.port()));
    let heartbeat = read(
        "KEDA_HTTP_SCALER_STREAM_INTERVAL_MS",
        "a number of milliseconds above 0",
        |value| {
            value
                .parse()
                .ok()
                .filter(|millis| *millis > 0)
                .map(Duration::from_millis)
        },
    )?;
    let scaler = state::Config {
        tick: duration("KEDA_HTTP_QUEUE_TICK_DURATION")?
            .filter(|tick| !tick.is_zero())
            .unwrap_or(default.scaler.tick),
        heartbeat: heartbeat.unwrap_or(default.scaler.heartbeat),
        hold: default.scaler.hold,
    };
    Ok(ClusterConfig {
        address,
        namespace: variable("KEDA_HTTP_SCALER_TARGET_ADMIN_NAMESPACE").unwrap_or_else(|| namespace.to_owned()),
        activators: variable("KEDA_HTTP_SCALER_TARGET_ADMIN_SERVICE").unwrap_or(default.activators),
        admin_port: port("KEDA_HTTP_SCALER_TARGET_ADMIN_PORT")?.unwrap_or(default.admin_port),
        watched: variable("KEDA_HTTP_OPERATOR_WATCH_NAMESPACE"),
        secrets_namespace: variable("KEDA_CLUSTER_OBJECT_NAMESPACE").unwrap_or_else(|| namespace.to_owned()),
        scaler_address: scaler_address(
            either_port(
                "KEDA_HTTP_OPERATOR_EXTERNAL_SCALER_PORT",
                "KEDAHTTP_OPERATOR_EXTERNAL_SCALER_PORT",
            )?,
            &default.scaler_address,
        ),
        scaler,
    })
}

fn scaler_address(port: Option<u16>, default: &str) -> String {
    // The second is the add-on's old name.
    let names = [
        "KEDA_HTTP_OPERATOR_EXTERNAL_SCALER_SERVICE",
        "KEDAHTTP_OPERATOR_EXTERNAL_SCALER_SERVICE",
    ];
    let Some(service) = names.into_iter().find_map(variable) else {
        return default.to_owned();
    };
    let namespace = variable("KEDA_HTTP_OPERATOR_NAMESPACE").unwrap_or_else(|| "keda".to_owned());
    format!("{service}.{namespace}:{}", port.unwrap_or(9090))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn files(variables: &[(&str, &str)]) -> Result<TlsFiles, Failure> {
        tls_files(|name| {
            let found = variables.iter().find(|(known, _)| *known == name);
            found.map(|(_, value)| (*value).to_owned())
        })
    }

    #[test]
    fn add_on_tls_variables_have_its_names_and_defaults() {
        let none = files(&[]).ok().unwrap();
        let pair = CertificateFiles {
            certificate: "/certs/tls.crt".into(),
            key: "/certs/tls.key".into(),
        };
        assert_eq!(none.certificates, [pair]);
        assert_eq!((none.stores.len(), none.upstream), (0, Some(UpstreamTrust::Verify)));
        let some = files(&[
            ("KEDA_HTTP_PROXY_TLS_CERT_PATH", ""),
            ("KEDA_HTTP_PROXY_TLS_CERT_STORE_PATHS", "/a, /b,"),
            ("KEDA_HTTP_PROXY_TLS_SKIP_VERIFY", "true"),
            ("KEDA_HTTP_PROXY_TLS_MIN_VERSION", "1.3"),
        ]);
        let some = some.ok().unwrap();
        assert_eq!(some.certificates, []);
        assert_eq!(some.stores, [PathBuf::from("/a"), PathBuf::from("/b")]);
        assert_eq!(some.upstream, Some(UpstreamTrust::Anything));
        assert_eq!(Ok(some.profile), TlsProfile::read("1.3", "", "", ""));
        assert!(files(&[("KEDA_HTTP_PROXY_TLS_MAX_VERSION", "1.0")]).is_err());
    }
}
