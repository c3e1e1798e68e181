//! gRPC inference: which route a call takes, and the calls that the activator answers itself.
//!
//! A call goes the way of an HTTP request (`exchange`) once its route is known. The host tells it, or the model's name,
//! which is in the first message: only as much of that is read as it takes, with [`Config::grpc_name_limit`] as bound.
//! A call whose host is known and whose message can't be read goes on; the replica says what is wrong with it.
//!
//! [`Config::grpc_name_limit`]: crate::Config::grpc_name_limit

mod answer;
mod rpc;
mod scan;
pub(crate) mod status;

use std::sync::Arc;

use http::{Response, Version, header, request::Parts};
use tokio::time::Instant;

use self::{
    rpc::Rpc,
    scan::{Fault, Progress, Scanner},
};
use crate::{
    Config, Purity,
    activator::{Inner, LiveTable, RouteEntry},
    body::ProxyBody,
    catalogue::{self, Scope},
    core::table::{Found, Miss},
    error::{Code, Failure},
    exchange::Exchange,
    headers,
    inference::Call,
    replay::{self, Received},
    secure::incoming::ClientBody,
    server::Client,
    service::{self, Fixed},
};

/// Whether a request is a gRPC call: by its content type, `application/grpc` with or without encoding and parameters.
/// HTTP/1.1 and gRPC-Web are not.
pub(crate) fn is_grpc(parts: &Parts) -> bool {
    parts.version == Version::HTTP_2
        && parts
            .headers
            .get(header::CONTENT_TYPE)
            .and_then(|value| value.as_bytes().strip_prefix(b"application/grpc"))
            .is_some_and(|rest| matches!(rest.first(), None | Some(b'+' | b';')))
}

/// Answers one call.
pub(crate) async fn handle(
    client: Arc<Client>,
    parts: Parts,
    body: ClientBody,
    arrived: Instant,
) -> Response<ProxyBody> {
    let inner = Arc::clone(&client.inner);
    match answer(client, parts, body.into(), arrived).await {
        Ok(response) => response,
        Err(failure) => {
            inner.shared.metrics.dropped(failure.code);
            status::failed(&failure)
        }
    }
}

/// A route and how many bytes of the path belong to it.
type Target = (Arc<RouteEntry>, usize);

async fn answer(
    client: Arc<Client>,
    parts: Parts,
    mut body: Received,
    arrived: Instant,
) -> Result<Response<ProxyBody>, Failure> {
    let inner = Arc::clone(&client.inner);
    let rpc = Rpc::of(parts.uri.path());
    if !matches!(rpc, Rpc::Model { streaming: false, .. }) {
        body.rest.unbounded();
    }
    let addressed = addressed(&inner, &parts)?;
    if let Some((entry, _)) = &addressed
        && entry.route.policy.unresolved.is_some()
    {
        replay::discard(body.rest).await;
        return Err(service::unresolved(entry));
    }
    let fixed = match &addressed {
        Some((entry, _)) => service::fixed(entry, &parts),
        None => Fixed::No,
    };
    let uncounted = match (fixed, &addressed) {
        (Fixed::Answer(answer), Some((entry, _))) => {
            replay::discard(body.rest).await;
            service::count_only(&client, entry, &parts, answer.status(), arrived);
            return Ok(*answer);
        }
        (fixed, _) => matches!(fixed, Fixed::Uncounted),
    };
    let (call, (entry, strip)) = match (rpc, addressed) {
        (_, Some(target)) if target.0.route.policy.purity == Purity::Opaque => (Call::Other, target),
        (Rpc::Server(call), addressed) => {
            replay::discard(body.rest).await;
            return Ok(match &addressed {
                Some((entry, _)) => answer::server(call, Scope::One(entry)),
                None => answer::server(call, Scope::All(&inner.live.load().entries)),
            });
        }
        (Rpc::HealthCheck, addressed) => return health(&inner, &parts, body, addressed).await,
        (Rpc::ModelReady, addressed) => {
            let (entry, _) = named(&inner, &parts, &mut body, 1, addressed).await?;
            replay::discard(body.rest).await;
            return Ok(answer::model_ready(catalogue::is_ready(Scope::One(&entry))));
        }
        // The first message may be long in coming, and the host says enough.
        (
            Rpc::Model {
                call, streaming: true, ..
            },
            Some(target),
        ) => (call, target),
        (Rpc::Model { call, field, .. }, addressed) => {
            (call, named(&inner, &parts, &mut body, field, addressed).await?)
        }
        (Rpc::Other, Some(target)) => (Call::Other, target),
        (Rpc::HealthWatch, _) | (Rpc::Other, None) => return Err(unknown_method(parts.uri.path())),
    };
    let exchange = if uncounted {
        Exchange::uncounted(client, entry, call, arrived)
    } else {
        Exchange::new(client, entry, call, arrived)
    };
    Ok(exchange.grpc().run(parts, body, strip).await)
}

/// SERVING for the server, its services and each model that can answer, awake or not.
async fn health(
    inner: &Inner,
    parts: &Parts,
    mut body: Received,
    addressed: Option<Target>,
) -> Result<Response<ProxyBody>, Failure> {
    let service = read_field(&mut body, 1, &inner.shared.config).await?;
    let service =
        service.map_err(|fault| Failure::new(Code::BadRequest, format!("the call can't be read: {fault}")))?;
    replay::discard(body.rest).await;
    let target = match service {
        Some(name) if !rpc::is_service(&name) => Some(find(inner, parts, &name)?),
        _ => addressed,
    };
    let serving = target.is_none_or(|(entry, _)| catalogue::is_ready(Scope::One(&entry)));
    Ok(answer::health(serving))
}

/// The route of a call that names its model in a field of its first message.
async fn named(
    inner: &Inner,
    parts: &Parts,
    body: &mut Received,
    field: u32,
    addressed: Option<Target>,
) -> Result<Target, Failure> {
    match (read_field(body, field, &inner.shared.config).await?, addressed) {
        (Ok(Some(name)), _) => Ok(find(inner, parts, &name)?),
        (_, Some(target)) => Ok(target),
        (Ok(None), None) => Err(unnamed(
            "it names no model; fill in the name, or use the host of the model",
        )),
        (Err(fault @ Fault::Compressed), None) => Err(unnamed(&format!(
            "{fault}; use the host of the model, or no compression"
        ))),
        (Err(fault @ Fault::TooFar(_)), None) => Err(unnamed(&format!("{fault}; use the host of the model"))),
        (Err(fault), None) => Err(Failure::new(
            Code::BadRequest,
            format!("the call can't be read: {fault}"),
        )),
    }
}

/// Reads a string field of the first message, leaving what was read for the endpoint.
async fn read_field(
    body: &mut Received,
    field: u32,
    config: &Config,
) -> Result<Result<Option<String>, Fault>, Failure> {
    let mut scanner = Scanner::new(field);
    let reading = async {
        while let Some(frame) = replay::next(&mut body.rest).await {
            let frame = frame.map_err(|fault| Failure::from(&fault))?;
            let progress = frame.data_ref().map(|data| scanner.push(data));
            let read = body.read.push(frame);
            match progress {
                Some(Ok(Progress::Found(name))) => return Ok(Ok(name)),
                Some(Err(fault)) => return Ok(Err(fault)),
                _ if read > config.grpc_name_limit => return Ok(Err(Fault::TooFar(config.grpc_name_limit))),
                _ => {}
            }
        }
        Ok(Err(Fault::Cut))
    };
    // As long as a client may take for its headers: to routing, this is one.
    tokio::time::timeout(config.header_read_timeout, reading)
        .await
        .map_err(|_| {
            Failure::new(
                Code::RequestBodyTimeout,
                "the call's first message did not arrive in time",
            )
        })?
}

fn addressed(inner: &Inner, parts: &Parts) -> Result<Option<Target>, Miss> {
    let live = inner.live.load();
    let host = headers::authority(parts).map(headers::host_name);
    let query = service::query(parts, host.as_deref());
    let found = live
        .table
        .addressed(query)?
        .or_else(|| match Rpc::of(parts.uri.path()) {
            Rpc::Other => live.table.hostless(query),
            _ => None,
        });
    Ok(found.map(|found| target(&live, found)))
}

fn find(inner: &Inner, parts: &Parts, name: &str) -> Result<Target, Miss> {
    let live = inner.live.load();
    let host = headers::authority(parts).map(headers::host_name);
    let found = live
        .table
        .find(service::query(parts, host.as_deref()), |_| Some(name))?;
    Ok(target(&live, found))
}

fn target(live: &LiveTable, found: Found) -> Target {
    (Arc::clone(&live.entries[found.route]), found.strip)
}

fn unnamed(why: &str) -> Failure {
    Failure::new(Code::UnknownRoute, format!("the call's host is not known and {why}"))
}

fn unknown_method(path: &str) -> Failure {
    let message = format!("{path} belongs to no model and is not served here; a replica may, under its model's host");
    Failure::new(Code::UnknownMethod, message)
}

#[cfg(test)]
mod tests {
    use http::Request;

    use super::*;

    #[test]
    fn only_grpc_over_http2_is_grpc() {
        for (content_type, version, grpc) in [
            ("application/grpc", Version::HTTP_2, true),
            ("application/grpc+proto", Version::HTTP_2, true),
            ("application/grpc;x=y", Version::HTTP_2, true),
            ("application/grpc-web", Version::HTTP_2, false),
            ("application/grpc", Version::HTTP_11, false),
            ("application/json", Version::HTTP_2, false),
        ] {
            let request = Request::builder().version(version).header("content-type", content_type);
            let (parts, ()) = request.body(()).unwrap().into_parts();
            assert_eq!(is_grpc(&parts), grpc, "{content_type}");
        }
    }
}
