//! What a trace shows of a request in this process: its time in the queue, putting its batch together, the model's run. Only
//! where traces are exported.

use std::time::{Duration, Instant};

use http::{Method, Request, Response};
use pilotlight_telemetry::ServerSpan;

use crate::scheduler::Timings;

tokio::task_local! {
    /// The request that this task answers.
    static SPAN: ServerSpan;
}

/// Answers a request within a span of its own. Those that ask a model something come with POST; health and metadata make none.
pub(crate) async fn traced<B, R, F>(request: Request<B>, serve: impl FnOnce(Request<B>) -> F) -> Response<R>
where
    F: Future<Output = Response<R>>,
{
    let span = match *request.method() {
        Method::POST => ServerSpan::begin("runtime", request.headers(), Instant::now()),
        _ => None,
    };
    let Some(span) = span else {
        return serve(request).await;
    };
    span.set("url.path", request.uri().path().to_owned());
    let answer = async {
        let response = serve(request).await;
        let status = response.status();
        let _ = SPAN.try_with(|span| {
            span.set("http.response.status_code", i64::from(status.as_u16()));
            if status.is_server_error() {
                span.fail(status.to_string());
            }
        });
        response
    };
    SPAN.scope(span, answer).await
}

/// An inference of this task's request is over: where its time went, and how long writing the answer took, which is just done.
pub(crate) fn ran(timings: &Timings, writing: Duration) {
    let _ = SPAN.try_with(|span| {
        let mut ended = Instant::now().checked_sub(writing).unwrap_or_else(Instant::now);
        let parts = [
            ("unbatch", timings.output),
            ("compute", timings.compute),
            ("batch", timings.input),
            ("queue", timings.queue),
        ];
        // From the end on, since only that is known.
        for (name, took) in parts {
            let Some(began) = ended.checked_sub(took) else { return };
            span.part(name, began, ended, Vec::new());
            ended = began;
        }
    });
}
