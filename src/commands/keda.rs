//! What `--keda` adds to `activator` and `controller`: the KEDA HTTP add-on's objects, its external scaler and its variables.

use std::{env, net::SocketAddr, time::Duration};

use pilotlight_activator::{Config, kubernetes::keda::KedaConfig};
use pilotlight_controller::keda::{cluster::ClusterConfig, state};
use pilotlight_manifests::keda::GoDuration;

use super::Failure;

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
        connect_timeout: duration("KEDA_HTTP_CONNECT_TIMEOUT")?.unwrap_or(config.connect_timeout),
        pool_max_idle: read("KEDA_HTTP_MAX_IDLE_CONNS_PER_HOST", "a number", |value| {
            value.parse().ok()
        })?
        .unwrap_or(config.pool_max_idle),
        cold_start_header: read("KEDA_HTTP_ENABLE_COLD_START_HEADER", "true or false", |value| {
            value.parse().ok()
        })?
        .unwrap_or(config.cold_start_header),
        drain_timeout: drain.unwrap_or(config.drain_timeout),
        alive_at_root: false,
        ..config
    })
}

/// How long requests are still accepted after SIGTERM, where the interceptor's variable says it.
pub(crate) fn shutdown_delay() -> Result<Option<Duration>, Failure> {
    duration("KEDA_HTTP_SHUTDOWN_DELAY")
}

/// Settings of the external scaler and of what the add-on's operator does.
pub(crate) fn cluster(namespace: &str) -> Result<ClusterConfig, Failure> {
    let default = ClusterConfig::default();
    let port = |name: &str| read(name, "a port", |value| value.parse::<u16>().ok());
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
        namespace: namespace.to_owned(),
        watched: variable("KEDA_HTTP_OPERATOR_WATCH_NAMESPACE"),
        scaler_address: scaler_address(
            port("KEDA_HTTP_OPERATOR_EXTERNAL_SCALER_PORT")?,
            &default.scaler_address,
        ),
        scaler,
        ..default
    })
}

fn scaler_address(port: Option<u16>, default: &str) -> String {
    let Some(service) = variable("KEDA_HTTP_OPERATOR_EXTERNAL_SCALER_SERVICE") else {
        return default.to_owned();
    };
    let namespace = variable("KEDA_HTTP_OPERATOR_NAMESPACE").unwrap_or_else(|| "keda".to_owned());
    format!("{service}.{namespace}:{}", port.unwrap_or(9090))
}
