//! Requests that leave HTTP on their connection, as WebSocket does: passed through byte by byte.
//!
//! Only for calls that are no inference. Such a request counts as in flight and keeps its place on the endpoint for as
//! long as the connection lives. It is never sent twice.

use http::{Request, Response, StatusCode, request};
use hyper::{client::conn::http1, upgrade::OnUpgrade};
use hyper_util::rt::TokioIo;
use tokio::{sync::oneshot, time::Instant};

use crate::{
    backend::Permit,
    body::{Content, Kept, Outgoing},
    endpoint::Protocol,
    error::{Code, Failure},
    exchange::InFlight,
    pool::{self, Line},
    replay,
};

/// Takes the client's side of the upgrade out of its request.
pub(crate) fn take(parts: &mut request::Parts) -> Option<OnUpgrade> {
    parts.extensions.remove::<OnUpgrade>()
}

/// Asks the endpoint over a connection of its own; `counts` brings the request's guard once its answer is made. If it agrees, bytes
/// are copied both ways until one side ends, or until the request's time is over where it has a limit.
pub(crate) async fn tunnel(
    permit: Permit,
    parts: request::Parts,
    client: Option<OnUpgrade>,
    counts: oneshot::Receiver<InFlight>,
    line: Line<'_>,
    until: Option<Instant>,
) -> Result<Response<Content>, Failure> {
    let Some(replica) = permit.replica() else {
        return Err(failed("no endpoint"));
    };
    let stream = match pool::reach(&replica, line.tls, Protocol::H1, line.limits).await {
        Ok(stream) => stream,
        Err(error) => {
            permit.fail(&error.to_string());
            return Err(failed(&error));
        }
    };
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream))
        .await
        .map_err(|error| failed(&error))?;
    tokio::spawn(connection.with_upgrades());
    let request = Request::from_parts(parts, Outgoing::empty());
    let mut response = sender.send_request(request).await.map_err(|error| failed(&error))?;
    if response.status() != StatusCode::SWITCHING_PROTOCOLS {
        return refused(response, permit).await;
    }
    let Some(client) = client else {
        return Err(failed("the client's connection can't be upgraded"));
    };
    let endpoint = hyper::upgrade::on(&mut response);
    tokio::spawn(async move {
        // Held to the end: the connection counts as one request.
        let _held = (permit, counts.await, sender);
        if let (Ok(client), Ok(endpoint)) = tokio::join!(client, endpoint) {
            let (mut client, mut endpoint) = (TokioIo::new(client), TokioIo::new(endpoint));
            let copying = tokio::io::copy_bidirectional(&mut client, &mut endpoint);
            match until {
                None => drop(copying.await),
                Some(until) => drop(tokio::time::timeout_at(until, copying).await),
            }
        }
    });
    Ok(response.map(|_| replay::held(Kept::default())))
}

/// The endpoint answered in plain HTTP: its answer is read whole, since the connection's task is not ours to drive.
async fn refused(response: Response<hyper::body::Incoming>, permit: Permit) -> Result<Response<Content>, Failure> {
    use http_body_util::{BodyExt, Limited};

    /// Refusals of an upgrade are short.
    const LIMIT: usize = 1 << 20;

    let (parts, body) = response.into_parts();
    let body = Limited::new(body, LIMIT)
        .collect()
        .await
        .map_err(|error| failed(&error))?;
    drop(permit);
    Ok(Response::from_parts(parts, replay::held(Kept::from(body.to_bytes()))))
}

fn failed(error: &(impl std::fmt::Display + ?Sized)) -> Failure {
    Failure::new(
        Code::ReplicaFailed,
        format!("the replica failed under the upgrade: {error}"),
    )
}
