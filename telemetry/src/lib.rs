//! Traces and metrics for OpenTelemetry, by the standard variables: off, and nothing but a look at a pointer, until an endpoint is
//! set.
//!
//! [`start`] reads the variables and begins to export traces; it does nothing unless `OTEL_EXPORTER_OTLP_ENDPOINT` or
//! `OTEL_EXPORTER_OTLP_TRACES_ENDPOINT` is set. The rest is the SDK's: `OTEL_SERVICE_NAME`, `OTEL_RESOURCE_ATTRIBUTES`,
//! `OTEL_TRACES_SAMPLER` and its argument, `OTEL_EXPORTER_OTLP_PROTOCOL` (`http/protobuf` or `grpc`), `…_HEADERS`, `…_TIMEOUT`,
//! `OTEL_BSP_*`; `OTEL_SDK_DISABLED=true` or `OTEL_TRACES_EXPORTER=none` turn it off, as does the KEDA HTTP add-on's switch
//! `OTEL_EXPORTER_OTLP_{TRACES,METRICS}_ENABLED=false`; `true` needs no endpoint (localhost). Spans wait in the SDK's bounded queue and
//! are dropped where it is full.
//!
//! [`Exporting::metrics`] sends what a registry of Prometheus has, as it stands (cumulative), every `OTEL_METRIC_EXPORT_INTERVAL`
//! milliseconds (60,000) and at the end. The SDK takes no series from elsewhere, so the messages are made here: `variables` reads
//! `OTEL_METRICS_EXPORTER` (`otlp`, `none`, `prometheus`) and `OTEL_EXPORTER_OTLP_[METRICS_]{ENDPOINT, PROTOCOL, HEADERS, TIMEOUT,
//! COMPRESSION}`, `families` translates, `push` sends.
//!
//! An `https` endpoint is spoken to with TLS, by HTTP and by gRPC. It is trusted by the system's authorities and those of
//! `OTEL_EXPORTER_OTLP_CERTIFICATE`; `OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE` and `…_CLIENT_KEY` say who we are. Each has a form for
//! one signal, such as `OTEL_EXPORTER_OTLP_TRACES_CERTIFICATE`. `tls` reads them.
//!
//! A [`ServerSpan`] is one request in one process; the W3C headers `traceparent` and `tracestate` tie those of several
//! processes together.

mod export;
mod families;
mod push;
mod span;
mod tls;
mod variables;

pub use export::{Exporting, start};
pub use span::ServerSpan;
