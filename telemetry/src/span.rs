//! One request in one process.

use std::{
    borrow::Cow,
    time::{Instant, SystemTime},
};

use http::{HeaderMap, HeaderName, HeaderValue};
use opentelemetry::{
    Context, KeyValue,
    propagation::{Extractor, Injector, TextMapPropagator},
    trace::{Span as _, SpanKind, Status, TraceContextExt, Tracer},
};
use opentelemetry_sdk::propagation::TraceContextPropagator;

use crate::export::tracer;

/// A request as the server of this process sees it; ends when it is dropped.
#[derive(Debug)]
pub struct ServerSpan {
    context: Context,
}

impl ServerSpan {
    /// Begins one where traces are exported, as a part of the trace that the headers name, if they name one. `None` where
    /// nothing is exported.
    pub fn begin(name: impl Into<Cow<'static, str>>, headers: &HeaderMap, began: Instant) -> Option<Self> {
        let tracer = tracer()?;
        let parent = TraceContextPropagator::new().extract_with_context(&Context::new(), &Headers(headers));
        let builder = tracer
            .span_builder(name)
            .with_kind(SpanKind::Server)
            .with_start_time(time(began));
        let span = tracer.build_with_context(builder, &parent);
        Some(Self {
            context: parent.with_span(span),
        })
    }

    /// Says more about the request.
    pub fn set(&self, key: &'static str, value: impl Into<opentelemetry::Value>) {
        self.context.span().set_attribute(KeyValue::new(key, value));
    }

    /// It failed, for this reason.
    pub fn fail(&self, reason: impl Into<Cow<'static, str>>) {
        self.context.span().set_status(Status::error(reason));
    }

    /// Names this trace and span in the headers of a request that is a part of this one.
    pub fn inject(&self, headers: &mut HeaderMap) {
        TraceContextPropagator::new().inject_context(&self.context, &mut HeadersMut(headers));
    }

    /// A part of this request that is over.
    pub fn part(&self, name: &'static str, began: Instant, ended: Instant, attributes: Vec<KeyValue>) {
        self.over(SpanKind::Internal, name, (began, ended), attributes);
    }

    /// A part of this request that is over, in which another process was asked.
    pub fn call(&self, name: &'static str, began: Instant, ended: Instant, attributes: Vec<KeyValue>) {
        self.over(SpanKind::Client, name, (began, ended), attributes);
    }

    fn over(&self, kind: SpanKind, name: &'static str, when: (Instant, Instant), attributes: Vec<KeyValue>) {
        let (began, ended) = when;
        let Some(tracer) = tracer().filter(|_| self.context.span().is_recording()) else {
            return;
        };
        let builder = tracer
            .span_builder(name)
            .with_kind(kind)
            .with_start_time(time(began))
            .with_attributes(attributes);
        let mut span = tracer.build_with_context(builder, &self.context);
        span.end_with_timestamp(time(ended));
    }
}

impl Drop for ServerSpan {
    fn drop(&mut self) {
        self.context.span().end();
    }
}

/// An instant of this process by the system's clock.
fn time(instant: Instant) -> SystemTime {
    let (now, clock) = (Instant::now(), SystemTime::now());
    match now.checked_duration_since(instant) {
        Some(ago) => clock.checked_sub(ago).unwrap_or(clock),
        None => clock + (instant - now),
    }
}

struct Headers<'a>(&'a HeaderMap);

impl Extractor for Headers<'_> {
    fn get(&self, key: &str) -> Option<&str> {
        self.0.get(key)?.to_str().ok()
    }

    fn keys(&self) -> Vec<&str> {
        self.0.keys().map(HeaderName::as_str).collect()
    }
}

struct HeadersMut<'a>(&'a mut HeaderMap);

impl Injector for HeadersMut<'_> {
    fn set(&mut self, key: &str, value: String) {
        if let (Ok(name), Ok(value)) = (HeaderName::try_from(key), HeaderValue::try_from(value)) {
            // An empty `tracestate` says nothing.
            if value.is_empty() {
                self.0.remove(name);
            } else {
                self.0.insert(name, value);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_an_endpoint_there_is_no_span() {
        assert!(ServerSpan::begin("infer", &HeaderMap::new(), Instant::now()).is_none());
    }
}
