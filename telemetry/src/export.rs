//! Where spans and metrics go.

use std::{
    fmt,
    sync::{Arc, OnceLock},
};

use opentelemetry::{KeyValue, trace::TracerProvider as _};
use opentelemetry_otlp::{SpanExporter, WithHttpConfig as _, WithTonicConfig as _};
use opentelemetry_sdk::{
    Resource,
    error::{OTelSdkError, OTelSdkResult},
    trace::{SdkTracer, SdkTracerProvider, SpanData},
};
use prometheus::proto::MetricFamily;
use tokio::runtime::Handle;

use crate::{push::Pushing, tls, variables};

/// Spans are made with it once there is an endpoint.
static TRACER: OnceLock<SdkTracer> = OnceLock::new();

pub(crate) fn tracer() -> Option<&'static SdkTracer> {
    TRACER.get()
}

/// Exports until it is dropped, which sends what is left and may take some seconds where nobody takes it.
#[derive(Debug)]
#[must_use = "dropping it ends the export"]
pub struct Exporting {
    service_name: &'static str,
    traces: Option<SdkTracerProvider>,
    metrics: Option<Pushing>,
}

impl Exporting {
    /// Sends what `gather` gives, at each interval and at the end, where the environment says whither; `gather` is called on a
    /// thread of its own and not at all where it doesn't. What is wrong with the variables is logged, and nothing is sent. A
    /// second call takes the place of the first.
    pub fn metrics(&mut self, gather: impl Fn() -> Vec<MetricFamily> + Send + 'static) {
        let to = match variables::destination(|name| std::env::var(name).ok()) {
            Ok(Some(to)) => to,
            Ok(None) => return,
            Err(error) => {
                tracing::error!(%error, "metrics can't be exported");
                return;
            }
        };
        let resource = resource(self.service_name);
        let attributes = resource
            .iter()
            .map(|(key, value)| KeyValue::new(key.clone(), value.clone()));
        match Pushing::start(to, attributes.collect(), Box::new(gather)) {
            Ok(pushing) => self.metrics = Some(pushing),
            Err(error) => tracing::error!(%error, "metrics can't be exported"),
        }
    }
}

impl Drop for Exporting {
    fn drop(&mut self) {
        if let Some(provider) = &self.traces
            && let Err(error) = provider.shutdown()
        {
            tracing::warn!(%error, "not all traces were sent");
        }
    }
}

/// Begins to export traces under this service name (unless `OTEL_SERVICE_NAME` gives another), where the environment says
/// whither; [`Exporting::metrics`] adds metrics. Has to be called within a tokio runtime, which sends the traces. What is wrong
/// with the variables is logged, and nothing is exported. Traces are those of the first call in a process.
pub fn start(service_name: &'static str) -> Exporting {
    Exporting {
        service_name,
        traces: traces(service_name),
        metrics: None,
    }
}

fn traces(service_name: &'static str) -> Option<SdkTracerProvider> {
    if !is_wanted(|name| std::env::var(name).ok()) {
        return None;
    }
    if std::env::var("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL").is_ok_and(|value| value == "console") {
        tracing::error!(
            "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL=console: traces are not printed; give http/protobuf or grpc"
        );
        return None;
    }
    match provider(service_name) {
        Ok(provider) => TRACER.set(provider.tracer("pilotlight")).is_ok().then_some(provider),
        Err(error) => {
            tracing::error!(%error, "traces can't be exported");
            None
        }
    }
}

/// Who it is that exports: the name, the standard variables, and which process of several of one name.
fn resource(service_name: &'static str) -> Resource {
    let mut resource = Resource::builder();
    if std::env::var_os("OTEL_SERVICE_NAME").is_none_or(|name| name.is_empty()) {
        resource = resource.with_service_name(service_name);
    }
    let given = std::env::var("OTEL_RESOURCE_ATTRIBUTES").unwrap_or_default();
    if !given.contains("service.instance.id") {
        resource = resource.with_attribute(KeyValue::new("service.instance.id", instance()));
    }
    resource.build()
}

/// Two replicas that sent the same series under one identity would overwrite each other's. The host is the pod in a cluster.
fn instance() -> String {
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    format!("{}-{}", host.trim(), std::process::id())
}

fn is_wanted(variable: impl Fn(&str) -> Option<String>) -> bool {
    let is = |name: &str, value: &str| variable(name).is_some_and(|found| found.eq_ignore_ascii_case(value));
    let has = |name: &str| variable(name).is_some_and(|value| !value.is_empty());
    // The KEDA HTTP add-on's switch; where it says yes the endpoint has the SDK's default.
    let switch = "OTEL_EXPORTER_OTLP_TRACES_ENABLED";
    let named = || has("OTEL_EXPORTER_OTLP_ENDPOINT") || has("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT");
    !is("OTEL_SDK_DISABLED", "true")
        && !is("OTEL_TRACES_EXPORTER", "none")
        && !is(switch, "false")
        && (is(switch, "true") || named())
}

/// The protocol's variables; `http/protobuf` where they say nothing.
fn is_grpc(variable: impl Fn(&str) -> Option<String>) -> bool {
    let named = ["OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL"]
        .into_iter()
        .find_map(|name| variable(name).filter(|value| !value.is_empty()));
    named.is_some_and(|protocol| protocol == "grpc")
}

/// Where traces go by gRPC.
fn grpc_endpoint(variable: impl Fn(&str) -> Option<String>) -> Option<String> {
    ["OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT"]
        .into_iter()
        .find_map(|name| variable(name).filter(|value| !value.is_empty()))
}

#[derive(Debug, thiserror::Error)]
enum Fault {
    #[error(transparent)]
    Exporter(#[from] opentelemetry_otlp::ExporterBuildError),
    #[error(transparent)]
    Tls(#[from] tls::Fault),
}

fn provider(service_name: &'static str) -> Result<SdkTracerProvider, Fault> {
    let variable = |name: &str| std::env::var(name).ok();
    let files = tls::Files::of("TRACES", variable)?;
    let exporter = if is_grpc(variable) {
        let builder = SpanExporter::builder().with_tonic();
        match grpc_endpoint(variable).filter(|endpoint| endpoint.starts_with("https://")) {
            // The exporter has no TLS of its own; in the clear it does all by itself.
            Some(endpoint) => builder.with_channel(files.channel(&endpoint)?).build()?,
            None => builder.build()?,
        }
    } else {
        SpanExporter::builder()
            .with_http()
            .with_http_client(files.http()?)
            .build()?
    };
    Ok(SdkTracerProvider::builder()
        .with_batch_exporter(OnRuntime {
            exporter: Arc::new(exporter),
            runtime: Handle::current(),
        })
        .with_resource(resource(service_name))
        .build())
}

/// The SDK exports from a thread of its own; the clients of the exporters want tokio's.
struct OnRuntime {
    exporter: Arc<SpanExporter>,
    runtime: Handle,
}

impl fmt::Debug for OnRuntime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OnRuntime").finish_non_exhaustive()
    }
}

impl opentelemetry_sdk::trace::SpanExporter for OnRuntime {
    async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
        let exporter = Arc::clone(&self.exporter);
        let sent = self.runtime.spawn(async move { exporter.export(batch).await }).await;
        sent.unwrap_or_else(|error| Err(OTelSdkError::InternalFailure(error.to_string())))
    }

    fn set_resource(&mut self, resource: &Resource) {
        // Called once, before anything is exported, while there is no other owner.
        if let Some(exporter) = Arc::get_mut(&mut self.exporter) {
            exporter.set_resource(resource);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_exported_unless_there_is_an_endpoint() {
        let wanted = |all: &[(&str, &str)]| {
            is_wanted(|name| {
                let found = all.iter().find(|(known, _)| *known == name);
                found.map(|(_, value)| (*value).to_owned())
            })
        };
        let endpoint = ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://collector:4318");
        assert!(!wanted(&[]));
        assert!(!wanted(&[("OTEL_SERVICE_NAME", "x")]));
        assert!(!wanted(&[("OTEL_EXPORTER_OTLP_ENDPOINT", "")]));
        assert!(wanted(&[endpoint]));
        assert!(wanted(&[(
            "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT",
            "http://collector:4318/v1/traces"
        )]));
        assert!(!wanted(&[endpoint, ("OTEL_SDK_DISABLED", "TRUE")]));
        assert!(!wanted(&[endpoint, ("OTEL_TRACES_EXPORTER", "none")]));
        let switch = "OTEL_EXPORTER_OTLP_TRACES_ENABLED";
        assert!(!wanted(&[endpoint, (switch, "false")]));
        assert!(wanted(&[(switch, "true")]));
    }
}
