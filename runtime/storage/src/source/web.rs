//! HTTP servers: one object at one address.

use std::{ops::Range, time::Duration};

use futures_util::{StreamExt, TryStreamExt};
use reqwest::{
    Client, Response, StatusCode, Url,
    header::{self, HeaderMap, HeaderName, HeaderValue},
    redirect,
};

use super::{Bytestream, Fault, Listing, Object, is_safe};
use crate::{config::Config, uri::Uri};

/// Redirects that are followed.
const REDIRECTS: usize = 5;

/// A way to one address.
pub(crate) struct Web {
    client: Client,
    url: Url,
    name: String,
    /// Until the head of an answer is there.
    timeout: Duration,
}

impl Web {
    /// Headers for a host come from the variable `HOST-headers`, a JSON object, as KServe's storage secrets give them.
    pub(super) fn open(uri: &Uri, config: &Config) -> Result<Self, Fault> {
        let host = uri.url().host_str().unwrap_or_default().to_owned();
        let headers = headers(&host, config)?;
        let client = |certificates: bool| {
            let builder = Client::builder()
                .default_headers(headers.clone())
                .connect_timeout(config.connect_timeout)
                .read_timeout(config.idle_timeout)
                .referer(false)
                .redirect(redirects(host.clone(), !headers.is_empty()));
            if certificates {
                builder.build()
            } else {
                builder.tls_certs_only([]).build()
            }
        };
        // Machines without any root certificate exist, and plain HTTP needs none.
        let client = client(true).or_else(|error| match uri.url().scheme() {
            "http" => client(false),
            _ => Err(error),
        });
        let name = object_store::path::Path::from_url_path(uri.last_part())
            .ok()
            .map(|name| name.as_ref().to_owned())
            .filter(|name| is_safe(name) && !name.contains('/'));
        Ok(Self {
            client: client.map_err(|error| Fault::Refused(words(error)))?,
            url: uri.url().clone(),
            name: name.unwrap_or_else(|| "model".to_owned()),
            timeout: config.idle_timeout,
        })
    }

    /// Asks for the first byte: servers that refuse `HEAD`, and addresses signed for `GET` alone, answer that too.
    pub(super) async fn list(&self) -> Result<Listing, Fault> {
        let request = self.client.get(self.url.clone()).header(header::RANGE, "bytes=0-0");
        let answer = self.send(request).await?;
        let status = answer.status();
        let headers = answer.headers();
        let size = match status {
            StatusCode::PARTIAL_CONTENT => range_of(headers).and_then(|(_, total)| total),
            StatusCode::RANGE_NOT_SATISFIABLE => Some(0),
            StatusCode::OK => answer.content_length(),
            _ => return Err(refusal(status)),
        };
        let version = validator(headers);
        Ok(Listing {
            content_type: text(headers, &header::CONTENT_TYPE).map(str::to_owned),
            single: true,
            objects: vec![Object {
                name: self.name.clone(),
                key: String::new(),
                size,
                ranges: status == StatusCode::PARTIAL_CONTENT && size.is_some() && version.is_some(),
                version,
            }],
        })
    }

    pub(super) async fn read(&self, object: &Object, range: Option<Range<u64>>) -> Result<Bytestream, Fault> {
        let mut request = self.client.get(self.url.clone());
        if let Some(range) = &range {
            request = request.header(
                header::RANGE,
                format!("bytes={}-{}", range.start, range.end.saturating_sub(1)),
            );
            if let Some(version) = &object.version {
                request = request.header(header::IF_RANGE, version);
            }
        }
        let answer = self.send(request).await?;
        match (&range, answer.status()) {
            (Some(range), StatusCode::PARTIAL_CONTENT) => {
                let found = range_of(answer.headers()).map(|(found, _)| found);
                if found.as_ref() != Some(range) {
                    return Err(Fault::Refused(format!("asked for bytes {range:?} it sends {found:?}")));
                }
            }
            // Another version than the one that `If-Range` names is sent whole.
            (Some(_), StatusCode::OK) => return Err(Fault::Changed),
            (None, StatusCode::OK) => {
                if object.version.is_some() && validator(answer.headers()) != object.version {
                    return Err(Fault::Changed);
                }
            }
            (_, status) => return Err(refusal(status)),
        }
        Ok(answer
            .bytes_stream()
            .map_err(|error| Fault::Transient(words(error)))
            .boxed())
    }

    async fn send(&self, request: reqwest::RequestBuilder) -> Result<Response, Fault> {
        // What comes is counted and checked byte by byte.
        let request = request.header(header::ACCEPT_ENCODING, "identity");
        match tokio::time::timeout(self.timeout, request.send()).await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(error)) if error.is_redirect() || error.is_builder() => Err(Fault::Refused(words(error))),
            Ok(Err(error)) => Err(Fault::Transient(words(error))),
            Err(_) => Err(Fault::Transient("no answer".to_owned())),
        }
    }
}

/// Never from https to http, and never with headers of our own to another host.
fn redirects(host: String, has_headers: bool) -> redirect::Policy {
    redirect::Policy::custom(move |attempt| {
        let from_tls = attempt
            .previous()
            .first()
            .is_some_and(|first| first.scheme() == "https");
        if attempt.previous().len() > REDIRECTS {
            attempt.error("too many redirects")
        } else if from_tls && attempt.url().scheme() != "https" {
            attempt.error("redirected from https to http")
        } else if has_headers && attempt.url().host_str() != Some(host.as_str()) {
            attempt.error("redirected to another host, which must not get this host's headers")
        } else {
            attempt.follow()
        }
    })
}

fn headers(host: &str, config: &Config) -> Result<HeaderMap, Fault> {
    let name = format!("{host}-headers");
    let Some(text) = config.environment.get(&name) else {
        return Ok(HeaderMap::new());
    };
    let wrong = || Fault::Refused(format!("the variable {name} is no JSON object of headers"));
    let all: std::collections::BTreeMap<String, String> = serde_json::from_str(text).map_err(|_| wrong())?;
    all.into_iter()
        .map(|(name, value)| {
            let mut value = HeaderValue::try_from(value).map_err(|_| wrong())?;
            value.set_sensitive(true);
            Ok((HeaderName::try_from(name).map_err(|_| wrong())?, value))
        })
        .collect()
}

fn refusal(status: StatusCode) -> Fault {
    match status.as_u16() {
        404 | 410 => Fault::NotFound,
        401 | 403 | 407 => Fault::Denied(format!("status {}", status.as_u16())),
        412 => Fault::Changed,
        408 | 425 | 429 | 500.. => Fault::Transient(format!("status {}", status.as_u16())),
        other => Fault::Refused(format!("status {other}")),
    }
}

fn text<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a str> {
    headers.get(name)?.to_str().ok()
}

/// What `If-Range` can name: a strong tag, else the time of the last change.
fn validator(headers: &HeaderMap) -> Option<String> {
    let tag = text(headers, &header::ETAG).filter(|tag| !tag.starts_with("W/"));
    tag.or_else(|| text(headers, &header::LAST_MODIFIED)).map(str::to_owned)
}

/// Range and whole length of `Content-Range: bytes 0-9/100`.
fn range_of(headers: &HeaderMap) -> Option<(Range<u64>, Option<u64>)> {
    let (range, total) = text(headers, &header::CONTENT_RANGE)?
        .strip_prefix("bytes ")?
        .split_once('/')?;
    let (start, end) = range.split_once('-')?;
    let (start, end) = (start.parse().ok()?, end.parse::<u64>().ok()?.checked_add(1)?);
    Some((start..end, total.parse().ok()))
}

/// The last cause: errors of the client name the whole address, with its query.
fn words(error: reqwest::Error) -> String {
    let error = error.without_url();
    let mut last: &dyn std::error::Error = &error;
    while let Some(source) = last.source() {
        last = source;
    }
    last.to_string()
}
