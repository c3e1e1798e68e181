//! What a trace shows of a request's way: waiting, the wake that it waited for, and each attempt. Only where traces are
//! exported.

use http::{StatusCode, request::Parts};
use opentelemetry::KeyValue;
use pilotlight_telemetry::ServerSpan;
use tokio::time::Instant;

use crate::{RouteId, WakePhases};

/// Begins the span of a request, which its client may have put into a trace.
pub(crate) fn begin(route: &RouteId, parts: &Parts, at: Instant) -> Option<ServerSpan> {
    let span = ServerSpan::begin("activator", &parts.headers, at.into_std())?;
    span.set("pilotlight.route", route.to_string());
    span.set("http.request.method", parts.method.to_string());
    span.set("url.path", parts.uri.path().to_owned());
    Some(span)
}

/// The answer's head is made.
pub(crate) fn answered(span: &ServerSpan, status: StatusCode, cold: bool) {
    span.set("http.response.status_code", i64::from(status.as_u16()));
    span.set("pilotlight.cold", cold);
    if status.is_server_error() {
        span.fail(status.to_string());
    }
}

/// It has waited for a place at an endpoint since `began`.
pub(crate) fn waited(span: &ServerSpan, began: Instant, cold: bool) {
    let cold = KeyValue::new("pilotlight.cold", cold);
    span.part("wait", began.into_std(), Instant::now().into_std(), vec![cold]);
}

/// The wake that it waited for is over.
pub(crate) fn woke(span: &ServerSpan, began: Instant, phases: &WakePhases) {
    let parts = WakePhases::NAMES.iter().zip(phases.durations());
    let parts = parts.map(|(name, took)| KeyValue::new(format!("pilotlight.wake.{name}_ms"), took.as_secs_f64() * 1e3));
    span.part("wake", began.into_std(), Instant::now().into_std(), parts.collect());
}

/// An attempt at an endpoint is over, `failed` before it were not answered; `status` is what it answered.
pub(crate) fn forwarded(span: &ServerSpan, began: Instant, failed: u32, status: Option<StatusCode>) {
    let mut about = vec![KeyValue::new("pilotlight.tries", i64::from(failed) + 1)];
    about.extend(status.map(|status| KeyValue::new("http.response.status_code", i64::from(status.as_u16()))));
    span.call("forward", began.into_std(), Instant::now().into_std(), about);
}
