//! Where a request goes: to a route's backend, or to the activator's own answers.

use std::sync::Arc;

use http::{Request, Response, StatusCode, header};
use hyper::body::Incoming;
use tokio::time::Instant;

use crate::{
    Purity,
    activator::{Inner, RouteEntry},
    backend::Readiness,
    body::ProxyBody,
    catalogue::{self, Scope},
    core::table::{Found, Miss, Query},
    error::{Code, Failure},
    exchange::Exchange,
    grpc, headers,
    inference::{self, Call},
    replay,
    secure::{guard, incoming::ClientBody},
    server::Client,
    statistics,
};

/// Answers one request.
pub(crate) async fn handle(client: Arc<Client>, request: Request<Incoming>) -> Response<ProxyBody> {
    let arrived = Instant::now();
    let (mut parts, body) = request.into_parts();
    let (config, is_grpc) = (&client.inner.shared.config, grpc::is_grpc(&parts));
    let admitted = guard::admit(config, &mut parts, &body);
    // The calls of gRPC have deadlines, and its streams pause for as long as they like.
    let pause = (!is_grpc).then_some(config.body_idle_timeout);
    let body = ClientBody::new(body, config.max_body_bytes, pause);
    if let Err(failure) = admitted {
        return refuse(&client, &parts, body, &failure).await;
    }
    if is_grpc {
        // Boxed: requests of HTTP should not pay for its size.
        return Box::pin(grpc::handle(client, parts, body, arrived)).await;
    }
    let (retry_after, applications) = (config.retry_after, config.applications);
    let target = resolve(&client.inner, &parts);
    match target {
        Ok(Target::Route { entry, .. }) if entry.route.policy.unresolved.is_some() => {
            let failure = unresolved(&entry);
            client.inner.shared.metrics.dropped(failure.code);
            replay::discard(body).await;
            count_only(&client, &entry, &parts, failure.code.status(), arrived);
            failure.plain(retry_after)
        }
        Ok(Target::Route { entry, call, strip }) => {
            let fixed = match fixed(&entry, &parts) {
                Fixed::Answer(answer) => {
                    replay::discard(body).await;
                    count_only(&client, &entry, &parts, answer.status(), arrived);
                    return *answer;
                }
                fixed => fixed,
            };
            let exchange = match fixed {
                Fixed::Uncounted => Exchange::uncounted(client, entry, call, arrived),
                _ => Exchange::new(client, entry, call, arrived),
            };
            exchange.run(parts, body.into(), strip).await
        }
        Ok(Target::Here {
            call,
            scope: Some(entry),
        }) => catalogue::answer(call, Scope::One(&entry), retry_after),
        Ok(Target::Here { call, scope: None }) => {
            let live = client.inner.live.load();
            catalogue::answer(call, Scope::All(&live.entries), retry_after)
        }
        Ok(Target::Statistics) => {
            replay::discard(body).await;
            statistics::answer(&client.inner).await
        }
        Err(miss) => {
            let metrics = &client.inner.shared.metrics;
            metrics.dropped(miss.code);
            metrics.missed(&parts.method, miss.code.status(), arrived.elapsed());
            replay::discard(body).await;
            let words = applications && miss.code == Code::UnknownRoute;
            let failure = Failure::from(miss);
            if words {
                failure.plain(retry_after)
            } else {
                failure.response(retry_after)
            }
        }
    }
}

/// Why the requests of such a route can't be sent on.
pub(crate) fn unresolved(entry: &RouteEntry) -> Failure {
    let why = entry.route.policy.unresolved.as_deref().unwrap_or_default();
    Failure::new(Code::UnresolvedPort, why.to_owned())
}

/// What the static routes of a route say of a request.
pub(crate) enum Fixed {
    /// Nothing.
    No,
    /// This is the answer.
    Answer(Box<Response<ProxyBody>>),
    /// The backend answers, and the request isn't counted.
    Uncounted,
}

/// Looks a request up in the static routes of its route.
pub(crate) fn fixed(entry: &RouteEntry, parts: &http::request::Parts) -> Fixed {
    let Some(cold_start) = &entry.route.policy.cold_start else {
        return Fixed::No;
    };
    let host = headers::authority(parts).map(headers::host_name);
    let ready = || {
        entry
            .backends
            .iter()
            .any(|backend| backend.readiness() == Readiness::Ready)
    };
    match cold_start.static_route(query(parts, host.as_deref())) {
        None => Fixed::No,
        Some(route) if route.when_unavailable && ready() => Fixed::Uncounted,
        Some(route) => Fixed::Answer(Box::new(route.response.answer(parts.uri.path()))),
    }
}

/// In the metrics of the route, not in its counts.
pub(crate) fn count_only(
    client: &Client,
    entry: &RouteEntry,
    parts: &http::request::Parts,
    status: StatusCode,
    at: Instant,
) {
    let (stats, metrics) = (&entry.stats, &client.inner.shared.metrics);
    let id = stats.id.as_str();
    stats
        .series
        .ended(metrics, id, &parts.method, Some(status), at.elapsed());
}

/// Answers a request that is not let in.
async fn refuse(
    client: &Client,
    parts: &http::request::Parts,
    body: ClientBody,
    failure: &Failure,
) -> Response<ProxyBody> {
    client.inner.shared.metrics.dropped(failure.code);
    if grpc::is_grpc(parts) {
        return grpc::status::failed(failure);
    }
    // One that asks first sends nothing where the answer is no.
    if !parts.headers.contains_key(header::EXPECT) {
        replay::discard(body).await;
    }
    failure.response(client.inner.shared.config.retry_after)
}

enum Target {
    /// A backend answers.
    Route {
        entry: Arc<RouteEntry>,
        call: Call,
        strip: usize,
    },
    /// The activator answers, for one route or for all.
    Here { call: Call, scope: Option<Arc<RouteEntry>> },
    /// All replicas answer.
    Statistics,
}

fn resolve(inner: &Inner, parts: &http::request::Parts) -> Result<Target, Miss> {
    let live = inner.live.load();
    let path = parts.uri.path();
    let host = headers::authority(parts).map(headers::host_name);
    match live.table.find(query(parts, host.as_deref()), inference::model_name) {
        Ok(Found { route, strip }) => {
            let entry = Arc::clone(&live.entries[route]);
            let call = match entry.route.policy.purity {
                Purity::Inference => inference::classify(&parts.method, &path[strip..]),
                Purity::Opaque => Call::Other,
            };
            if call.is_answered_here() {
                let scope = Some(entry);
                return Ok(Target::Here { call, scope });
            }
            Ok(Target::Route { entry, call, strip })
        }
        Err(miss) => {
            let call = inference::classify(&parts.method, path);
            let alive = path != "/" || !inner.shared.config.applications;
            if miss.code == Code::UnknownRoute && call.is_answered_here() && alive {
                return Ok(Target::Here { call, scope: None });
            }
            // No model has this name, then.
            if miss.code == Code::UnknownModel && inference::is_statistics(path) {
                return Ok(Target::Statistics);
            }
            Err(miss)
        }
    }
}

/// What the table has to know of a request. `host` as [`headers::host_name`] gives it.
pub(crate) fn query<'a>(parts: &'a http::request::Parts, host: Option<&'a str>) -> Query<'a> {
    Query {
        host,
        path: parts.uri.path(),
        headers: &parts.headers,
    }
}
