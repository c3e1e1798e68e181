//! Traces for OpenTelemetry, by the standard variables: off, and nothing but a look at a pointer, until an endpoint is set.
//!
//! [`start`] reads the variables and begins to export; it does nothing unless `OTEL_EXPORTER_OTLP_ENDPOINT` or
//! `OTEL_EXPORTER_OTLP_TRACES_ENDPOINT` is set. The rest is the SDK's: `OTEL_SERVICE_NAME`, `OTEL_RESOURCE_ATTRIBUTES`,
//! `OTEL_TRACES_SAMPLER` and its argument, `OTEL_EXPORTER_OTLP_PROTOCOL` (`http/protobuf` or `grpc`), `…_HEADERS`, `…_TIMEOUT`,
//! `OTEL_BSP_*`; `OTEL_SDK_DISABLED=true` or `OTEL_TRACES_EXPORTER=none` turn it off. Spans wait in the SDK's bounded queue and
//! are dropped where it is full.
//!
//! A [`ServerSpan`] is one request in one process; the W3C headers `traceparent` and `tracestate` tie those of several
//! processes together.

mod export;
mod span;

pub use export::{Exporting, start};
pub use span::ServerSpan;
