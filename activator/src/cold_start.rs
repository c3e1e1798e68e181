//! What is answered in the place of a backend: answers that are known beforehand, and another backend.

use std::{collections::BTreeMap, sync::Arc};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Response, StatusCode, header};

use crate::{
    BackendId,
    body::ProxyBody,
    core::{rules, table::Query},
    error,
    route::Rule,
};

/// What a route does while its backend has no ready endpoint, and without it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ColdStart {
    /// The backend that answers a request whose wait is over without an endpoint. It answers without `X-KEDA-HTTP-Cold-Start`,
    /// and the request waits for it no longer than for the first.
    pub fallback: Option<BackendId>,
    /// The answer to a request that finds no ready endpoint; the backend is woken all the same. Not for gRPC, whose clients
    /// could not read it.
    pub placeholder: Option<StaticResponse>,
    /// The placeholder goes only to requests that find the waiting room full; others wait.
    pub placeholder_for_overflow: bool,
    /// Requests that are answered without being counted, the first that matches.
    pub static_routes: Vec<StaticRoute>,
}

/// Requests that are answered without being counted, so that they neither wake the backend nor keep it awake.
#[derive(Clone, Debug, PartialEq)]
pub struct StaticRoute {
    /// Which ones, any of these.
    pub rules: Vec<Rule>,
    /// The answer.
    pub response: StaticResponse,
    /// Only while no endpoint is ready; otherwise the backend answers.
    pub when_unavailable: bool,
}

/// An answer that is known beforehand.
#[derive(Clone, Debug, PartialEq)]
pub struct StaticResponse {
    /// Its status.
    pub status: StatusCode,
    /// Its headers; a `Content-Type` among them stands over that of the body.
    pub headers: HeaderMap,
    /// Its body.
    pub body: StaticBody,
}

/// Where a known answer's body comes from.
#[derive(Clone, Debug, PartialEq)]
pub enum StaticBody {
    /// It is this one.
    Text(Bytes),
    /// It is this file; the extension of its name gives the content type.
    File(String, Bytes),
    /// The file named by the path, `index.html` for `/`; an empty body where there is none of this name.
    Files(Arc<BTreeMap<String, Bytes>>),
    /// It can't be had: 500.
    Missing,
}

impl ColdStart {
    /// The static route that takes a request.
    pub(crate) fn static_route(&self, query: Query<'_>) -> Option<&StaticRoute> {
        let takes = |route: &&StaticRoute| route.rules.iter().any(|rule| rules::takes(rule, query));
        self.static_routes.iter().find(takes)
    }

    /// The placeholder for every request that finds no ready endpoint.
    pub(crate) fn at_once(&self) -> Option<&StaticResponse> {
        self.placeholder.as_ref().filter(|_| !self.placeholder_for_overflow)
    }
}

impl StaticResponse {
    /// The answer to a request of this path.
    pub(crate) fn answer(&self, path: &str) -> Response<ProxyBody> {
        let (body, content_type) = match &self.body {
            StaticBody::Text(text) => (text.clone(), None),
            StaticBody::File(name, bytes) => (bytes.clone(), content_type(name)),
            StaticBody::Files(files) => {
                let name = match path.trim_start_matches('/') {
                    "" => "index.html",
                    name => name,
                };
                (files.get(name).cloned().unwrap_or_default(), content_type(name))
            }
            StaticBody::Missing => return error::plain(StatusCode::INTERNAL_SERVER_ERROR),
        };
        let mut response = Response::new(ProxyBody::full(body));
        *response.status_mut() = self.status;
        if let Some(content_type) = content_type {
            let content_type = HeaderValue::from_static(content_type);
            response.headers_mut().insert(header::CONTENT_TYPE, content_type);
        }
        response.headers_mut().extend(self.headers.clone());
        response
    }
}

/// The content type of a file of this name, as Go's table has it.
fn content_type(name: &str) -> Option<&'static str> {
    let (_, extension) = name.rsplit_once('.')?;
    Some(match extension.to_ascii_lowercase().as_str() {
        "html" | "htm" => "text/html; charset=utf-8",
        "css" => "text/css; charset=utf-8",
        "js" | "mjs" => "text/javascript; charset=utf-8",
        "json" => "application/json",
        "xml" => "text/xml; charset=utf-8",
        "txt" => "text/plain; charset=utf-8",
        "svg" => "image/svg+xml",
        "png" => "image/png",
        "jpg" | "jpeg" => "image/jpeg",
        "gif" => "image/gif",
        "webp" => "image/webp",
        "ico" => "image/vnd.microsoft.icon",
        "wasm" => "application/wasm",
        "pdf" => "application/pdf",
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn response(body: StaticBody) -> StaticResponse {
        StaticResponse {
            status: StatusCode::SERVICE_UNAVAILABLE,
            headers: HeaderMap::new(),
            body,
        }
    }

    fn told(response: &StaticResponse, path: &str) -> (u16, Option<String>) {
        let answer = response.answer(path);
        let content_type = answer.headers().get(header::CONTENT_TYPE);
        (
            answer.status().as_u16(),
            content_type.map(|value| value.to_str().unwrap().to_owned()),
        )
    }

    /// Add-on: content types come from the key's extension unless the response has its own.
    #[test]
    fn add_on_a_files_extension_gives_the_content_type_unless_headers_do() {
        let mut file = response(StaticBody::File("wait.html".to_owned(), Bytes::from_static(b"x")));
        assert_eq!(told(&file, "/"), (503, Some("text/html; charset=utf-8".to_owned())));
        file.headers
            .insert(header::CONTENT_TYPE, HeaderValue::from_static("x/y"));
        assert_eq!(told(&file, "/"), (503, Some("x/y".to_owned())));
    }

    /// Add-on: without a key it is the path, `index.html` for `/`; one that is not there is empty with the normal status.
    #[test]
    fn add_on_without_a_key_the_path_names_the_file() {
        let files = BTreeMap::from([("index.html".to_owned(), Bytes::from_static(b"x"))]);
        let files = response(StaticBody::Files(Arc::new(files)));
        assert_eq!(told(&files, "/"), (503, Some("text/html; charset=utf-8".to_owned())));
        assert_eq!(told(&files, "/nothing"), (503, None));
    }

    /// Add-on: a missing ConfigMap or key is a 500 in Go's words.
    #[test]
    fn add_on_a_body_that_cannot_be_had_is_a_500() {
        let missing = response(StaticBody::Missing);
        assert_eq!(told(&missing, "/"), (500, Some("text/plain; charset=utf-8".to_owned())));
    }
}
