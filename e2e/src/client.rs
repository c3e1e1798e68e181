//! A client as users have them: HTTP with JSON.

use std::sync::LazyLock;

use bytes::Bytes;
use reqwest::{Method, header::HeaderMap};
use serde_json::{Value, json};

/// The two flowers of KServe's tutorials. Every iris model here calls both class 1.
pub const FLOWERS: [[f64; 4]; 2] = [[6.8, 2.8, 4.8, 1.4], [6.0, 3.4, 4.5, 1.6]];

/// One client for the whole process, so that connections are kept as a browser or a service would keep them.
static CLIENT: LazyLock<reqwest::Client> = LazyLock::new(|| {
    pilotlight_storage::install_tls_provider();
    reqwest::Client::builder()
        .no_proxy()
        .build()
        .expect("a client needs no resources")
});

/// An answer, read to its end.
#[derive(Clone, Debug)]
pub struct Reply {
    /// The status code.
    pub status: u16,
    /// The headers.
    pub headers: HeaderMap,
    /// The body.
    pub body: Bytes,
}

impl Reply {
    /// The body as text, broken characters replaced.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The body as JSON. Panics with the body when it is none.
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("no JSON ({error}): {self:?}"))
    }

    /// A header as text; empty when it is missing.
    pub fn header(&self, name: &str) -> &str {
        self.headers
            .get(name)
            .and_then(|value| value.to_str().ok())
            .unwrap_or_default()
    }

    /// Asserts that this is one of our own errors with this status, and returns its code: JSON `{"error", "code"}`, the same
    /// code in `x-pilotlight-reason`, and `application/json`.
    pub fn error(&self, status: u16) -> String {
        assert_eq!(self.status, status, "{self:?}");
        let body = self.json();
        let code = body["code"]
            .as_str()
            .unwrap_or_else(|| panic!("an error without a code: {self:?}"));
        assert!(body["error"].is_string(), "an error without a text: {self:?}");
        assert_eq!(self.header("x-pilotlight-reason"), code, "{self:?}");
        assert_eq!(self.header("content-type"), "application/json", "{self:?}");
        code.to_owned()
    }
}

/// Sends a request; `host` replaces the Host header. The error says what the network did.
pub async fn send(
    method: Method,
    url: &str,
    host: Option<&str>,
    body: Option<Vec<u8>>,
) -> Result<Reply, reqwest::Error> {
    let mut request = CLIENT.request(method, url);
    if let Some(host) = host {
        request = request.header("host", host);
    }
    if let Some(body) = body {
        request = request.header("content-type", "application/json").body(body);
    }
    let response = request.send().await?;
    Ok(Reply {
        status: response.status().as_u16(),
        headers: response.headers().clone(),
        body: response.bytes().await?,
    })
}

/// `GET url`. Panics when no answer comes.
pub async fn get(url: &str) -> Reply {
    let reply = send(Method::GET, url, None, None).await;
    reply.unwrap_or_else(|error| panic!("GET {url}: {error:?}"))
}

/// The status of `GET url`; `None` when no answer comes.
pub async fn try_get(url: &str) -> Option<u16> {
    send(Method::GET, url, None, None).await.ok().map(|reply| reply.status)
}

/// `POST url` with a JSON body. Panics when no answer comes.
pub async fn post(url: &str, body: &Value) -> Reply {
    post_to_host(url, None, body).await
}

/// `POST url` with these headers and a JSON body. Panics when no answer comes.
pub async fn post_with(url: &str, headers: &[(&str, &str)], body: &Value) -> Reply {
    let mut request = CLIENT
        .post(url)
        .header("content-type", "application/json")
        .body(body.to_string());
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let answer = async {
        let response = request.send().await?;
        Ok::<Reply, reqwest::Error>(Reply {
            status: response.status().as_u16(),
            headers: response.headers().clone(),
            body: response.bytes().await?,
        })
    };
    answer.await.unwrap_or_else(|error| panic!("POST {url}: {error:?}"))
}

/// `POST url` with a JSON body for the virtual host `host`. Panics when no answer comes.
pub async fn post_to_host(url: &str, host: Option<&str>, body: &Value) -> Reply {
    let reply = send(Method::POST, url, host, Some(body.to_string().into_bytes())).await;
    reply.unwrap_or_else(|error| panic!("POST {url}: {error:?}"))
}

/// The V1 request for the two flowers.
pub fn flowers_v1() -> Value {
    json!({ "instances": FLOWERS })
}

/// The V2 request for the two flowers.
pub fn flowers_v2() -> Value {
    let data: Vec<f64> = FLOWERS.into_iter().flatten().collect();
    json!({ "inputs": [{ "name": "input", "shape": [2, 4], "datatype": "FP32", "data": data }] })
}

/// The V1 request for the fixture `slow`, whose answer is `x` itself.
pub fn slow_v1(x: f64) -> Value {
    json!({ "instances": [[x]] })
}

/// The V1 answer to [`slow_v1`].
pub fn slow_v1_answer(x: f64) -> Value {
    json!({ "predictions": [[x]] })
}

/// The output `name` of a V2 answer. Panics with the answer when it is missing.
pub fn output<'a>(answer: &'a Value, name: &str) -> &'a Value {
    let outputs = answer["outputs"].as_array();
    let found = outputs.and_then(|outputs| outputs.iter().find(|output| output["name"] == name));
    found.unwrap_or_else(|| panic!("no output {name} in {answer}"))
}
