//! Talks to the admin API of a running `pilotlight up`.

use std::{error::Error as _, fs, io, path::PathBuf, time::Duration};

use pilotlight_manifests::Fault;
use reqwest::{
    Certificate, Method, RequestBuilder, Response, StatusCode, Url,
    header::{AUTHORIZATION, HeaderMap, HeaderValue},
};
use serde::de::DeserializeOwned;

use crate::api::{Applied, List, Refusal};

/// Longest line of a watch; a listing of more services than fit is cut off with an error and not in memory.
const MAX_LINE: usize = 256 << 20;

/// Where the server is; the flag of every subcommand that talks to it.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Server {
    /// Admin address of `pilotlight up`.
    #[arg(
        long,
        alias = "admin",
        value_name = "URL",
        env = "PILOTLIGHT_SERVER",
        default_value = "http://127.0.0.1:9090",
        value_parser = url
    )]
    pub(crate) server: Url,
    #[command(flatten)]
    pub(crate) access: Access,
}

/// What a server may ask of its clients.
#[derive(Clone, Default, clap::Args)]
pub(crate) struct Access {
    /// PEM file with the authorities that an https server's certificate may come from, besides the system's.
    #[arg(long, value_name = "FILE", env = "PILOTLIGHT_CA")]
    pub(crate) ca: Option<PathBuf>,
    /// File whose first line is the bearer token to show; the server's own will do.
    #[arg(long = "token-file", value_name = "FILE", env = "PILOTLIGHT_TOKEN_FILE")]
    pub(crate) token: Option<PathBuf>,
}

impl std::fmt::Debug for Access {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Access").field("ca", &self.ca).finish_non_exhaustive()
    }
}

/// Reads a URL of a server; a bare `host:port` is not one.
pub(crate) fn url(text: &str) -> Result<Url, String> {
    match Url::parse(text) {
        Ok(url) if matches!(url.scheme(), "http" | "https") && url.has_host() => Ok(url),
        Ok(_) | Err(_) => Err("expected http://HOST:PORT or https://HOST:PORT".to_owned()),
    }
}

/// What can go wrong on the way.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// Nobody answers there.
    #[error("can't reach pilotlight at {server}: is `pilotlight up` running? ({cause})")]
    Unreachable { server: Url, cause: String },
    /// The connection broke or went silent after it was made.
    #[error("the connection to {server} broke: {cause}")]
    Broken { server: Url, cause: String },
    /// It answers with an error.
    #[error("{}", refusal(*.status, .error, .code))]
    Refused {
        status: StatusCode,
        error: String,
        code: String,
        faults: Vec<Fault>,
    },
    /// It answers what no pilotlight answers.
    #[error("{server} does not answer like pilotlight: {cause}")]
    Foreign { server: Url, cause: String },
    /// A file of the command line.
    #[error("{flag} {}: {reason}", path.display())]
    File {
        flag: &'static str,
        path: PathBuf,
        reason: String,
    },
    /// Standard output or a file.
    #[error(transparent)]
    Io(#[from] io::Error),
}

fn refusal(status: StatusCode, error: &str, code: &str) -> String {
    match (error, code) {
        ("", _) => format!("refused with status {status}"),
        (error, "") => format!("{error} (status {status})"),
        (error, code) => format!("{error} ({code})"),
    }
}

/// A connection to the admin API.
pub(crate) struct Client {
    http: reqwest::Client,
    server: Url,
}

impl Client {
    /// Connects on first use.
    pub(crate) fn new(server: &Server) -> Result<Self, Error> {
        Ok(Self {
            http: http(&server.server, &server.access)?,
            server: server.server.clone(),
        })
    }

    /// Every service, with the JSON as it came.
    pub(crate) async fn services(&self) -> Result<(List, serde_json::Value), Error> {
        let value: serde_json::Value = self.json(self.request(Method::GET, &["services"])).await?;
        let list = serde_json::from_value(value.clone()).map_err(|error| self.foreign(error))?;
        Ok((list, value))
    }

    /// One service as JSON.
    pub(crate) async fn service(&self, namespace: &str, name: &str) -> Result<serde_json::Value, Error> {
        self.json(self.request(Method::GET, &["services", namespace, name]))
            .await
    }

    /// A line of JSON for each change of any service, the first at once.
    pub(crate) async fn watch(&self) -> Result<Lines, Error> {
        let request = self.request(Method::GET, &["services"]).query(&[("watch", "true")]);
        Ok(Lines {
            response: self.send(request).await?,
            server: self.server.clone(),
            rest: Vec::new(),
        })
    }

    /// Creates and changes services. `file`, a name within the directory `base`, names the text in faults.
    pub(crate) async fn apply(&self, text: String, file: &str, base: &str) -> Result<Applied, Error> {
        let request = self
            .request(Method::PUT, &["manifests"])
            .header("content-type", "application/yaml")
            .header("x-pilotlight-base", header(base))
            .header("x-pilotlight-file", header(file))
            .body(text);
        self.json(request).await
    }

    /// Deletes one service.
    pub(crate) async fn delete(&self, namespace: &str, name: &str) -> Result<(), Error> {
        self.send(self.request(Method::DELETE, &["services", namespace, name]))
            .await
            .map(drop)
    }

    /// Log lines of a service's replicas.
    pub(crate) async fn logs(
        &self,
        namespace: &str,
        name: &str,
        tail: Option<u64>,
        follow: bool,
    ) -> Result<Response, Error> {
        let mut query = vec![("follow", follow.to_string())];
        query.extend(tail.map(|tail| ("tail", tail.to_string())));
        self.send(
            self.request(Method::GET, &["services", namespace, name, "logs"])
                .query(&query),
        )
        .await
    }

    /// What went wrong with a body that is being read.
    pub(crate) fn broken(&self, error: &reqwest::Error) -> Error {
        Error::Broken {
            server: self.server.clone(),
            cause: cause(error),
        }
    }

    fn request(&self, method: Method, path: &[&str]) -> RequestBuilder {
        let mut url = self.server.clone();
        if let Ok(mut segments) = url.path_segments_mut() {
            segments.pop_if_empty().extend(["api", "v1"]).extend(path);
        }
        self.http.request(method, url)
    }

    async fn json<T: DeserializeOwned>(&self, request: RequestBuilder) -> Result<T, Error> {
        let body = self
            .send(request)
            .await?
            .bytes()
            .await
            .map_err(|error| self.broken(&error))?;
        serde_json::from_slice(&body).map_err(|error| self.foreign(error))
    }

    async fn send(&self, request: RequestBuilder) -> Result<Response, Error> {
        send(request, &self.server).await
    }

    fn foreign(&self, error: serde_json::Error) -> Error {
        Error::Foreign {
            server: self.server.clone(),
            cause: error.to_string(),
        }
    }
}

/// A client without proxies and redirects: admin and model addresses are the user's own.
pub(crate) fn http(server: &Url, access: &Access) -> Result<reqwest::Client, Error> {
    pilotlight_storage::install_tls_provider();
    let mut builder = reqwest::Client::builder()
        .no_proxy()
        .redirect(reqwest::redirect::Policy::none())
        .connect_timeout(Duration::from_secs(5))
        .default_headers(access.headers()?);
    for authority in access.authorities()? {
        builder = builder.add_root_certificate(authority);
    }
    builder.build().map_err(|error| Error::Unreachable {
        server: server.clone(),
        cause: cause(&error),
    })
}

impl Access {
    fn authorities(&self) -> Result<Vec<Certificate>, Error> {
        let Some(path) = &self.ca else {
            return Ok(Vec::new());
        };
        let fault = |reason: String| Error::File {
            flag: "--ca",
            path: path.clone(),
            reason,
        };
        let pem = fs::read(path).map_err(|error| fault(error.to_string()))?;
        match Certificate::from_pem_bundle(&pem) {
            Ok(all) if !all.is_empty() => Ok(all),
            Ok(_) => Err(fault("no certificate in it: give a PEM file".to_owned())),
            Err(error) => Err(fault(cause(&error))),
        }
    }

    fn headers(&self) -> Result<HeaderMap, Error> {
        let mut headers = HeaderMap::new();
        if let Some(path) = &self.token {
            let fault = |reason: String| Error::File {
                flag: "--token-file",
                path: path.clone(),
                reason,
            };
            let text = fs::read_to_string(path).map_err(|error| fault(error.to_string()))?;
            let token = text.lines().next().unwrap_or_default().trim();
            if token.is_empty() {
                return Err(fault("its first line has no token".to_owned()));
            }
            let value = HeaderValue::try_from(format!("Bearer {token}"));
            let mut value = value.map_err(|_| fault("a token is visible ASCII characters".to_owned()))?;
            value.set_sensitive(true);
            headers.insert(AUTHORIZATION, value);
        }
        Ok(headers)
    }
}

/// Sends a request; an answer that is no success is an error with what its body says.
pub(crate) async fn send(request: RequestBuilder, server: &Url) -> Result<Response, Error> {
    let response = request.send().await.map_err(|error| {
        let (server, cause) = (server.clone(), cause(&error));
        if error.is_connect() {
            Error::Unreachable { server, cause }
        } else {
            Error::Broken { server, cause }
        }
    })?;
    let status = response.status();
    if status.is_success() {
        return Ok(response);
    }
    let code = reason(response.headers());
    let body = response.bytes().await.unwrap_or_default();
    let refusal: Refusal = serde_json::from_slice(&body).unwrap_or_else(|_| Refusal {
        error: String::from_utf8_lossy(&body).trim().to_owned(),
        ..Refusal::default()
    });
    let code = if refusal.code.is_empty() { code } else { refusal.code };
    Err(Error::Refused {
        status,
        error: refusal.error,
        code,
        faults: refusal.faults,
    })
}

fn reason(headers: &HeaderMap) -> String {
    headers
        .get("x-pilotlight-reason")
        .and_then(|value| value.to_str().ok())
        .unwrap_or_default()
        .to_owned()
}

/// The innermost cause: the outer ones repeat the URL.
fn cause(error: &reqwest::Error) -> String {
    let mut cause: &dyn std::error::Error = error;
    while let Some(inner) = error_source(cause) {
        cause = inner;
    }
    if error.is_timeout() && error.source().is_none() {
        "no answer in time".to_owned()
    } else {
        cause.to_string()
    }
}

fn error_source<'a>(error: &'a (dyn std::error::Error + 'static)) -> Option<&'a (dyn std::error::Error + 'static)> {
    error.source()
}

/// Paths may hold what a header can't; such a one is told without it.
fn header(text: &str) -> String {
    text.chars()
        .map(|c| if c.is_ascii_graphic() || c == ' ' { c } else { '?' })
        .collect()
}

/// The lines of a body that goes on.
pub(crate) struct Lines {
    response: Response,
    server: Url,
    rest: Vec<u8>,
}

impl Lines {
    /// The next line without its end; `None` where the body ends. Dropped before it is done it loses nothing: the next call
    /// goes on.
    pub(crate) async fn next(&mut self) -> Result<Option<String>, Error> {
        loop {
            if let Some(at) = self.rest.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.rest.drain(..=at).collect();
                let line = String::from_utf8_lossy(&line).trim().to_owned();
                if line.is_empty() {
                    continue;
                }
                return Ok(Some(line));
            }
            let broken = |cause| Error::Broken {
                server: self.server.clone(),
                cause,
            };
            if self.rest.len() > MAX_LINE {
                return Err(broken(format!("a line of more than {MAX_LINE} bytes")));
            }
            match self.response.chunk().await.map_err(|error| broken(cause(&error)))? {
                Some(chunk) => self.rest.extend_from_slice(&chunk),
                None => return Ok(None),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers_are_urls() {
        assert!(url("http://127.0.0.1:9090").is_ok());
        assert!(url("http://[::1]:9090/prefix/").is_ok());
        assert!(url("https://models.example.com").is_ok());
        for text in ["127.0.0.1:9090", "localhost:9090", "ftp://x", ""] {
            assert!(url(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_file_of_the_command_line_that_is_no_use_is_named() {
        let folder = tempfile::tempdir().expect("folder");
        let (empty, token) = (folder.path().join("empty"), folder.path().join("token"));
        fs::write(&empty, "\n").expect("file");
        fs::write(&token, "secret-of-mine\nanother\n").expect("file");
        let server = url("https://x").expect("url");
        let said = |ca: Option<&PathBuf>, token: Option<&PathBuf>| {
            let access = Access {
                ca: ca.cloned(),
                token: token.cloned(),
            };
            http(&server, &access).map(drop).map_err(|error| error.to_string())
        };
        assert!(said(Some(&empty), None).unwrap_err().starts_with("--ca "));
        assert!(
            said(None, Some(&empty))
                .unwrap_err()
                .ends_with("its first line has no token")
        );
        assert_eq!(said(None, Some(&token)), Ok(()));
        let access = Access {
            ca: None,
            token: Some(token),
        };
        let headers = access.headers().expect("a token");
        assert_eq!(headers[AUTHORIZATION], "Bearer secret-of-mine");
        assert!(!format!("{headers:?}").contains("secret"));
    }

    #[test]
    fn refusals_say_what_the_server_said() {
        let refused = |error: &str, code: &str| {
            let (error, code) = (error.to_owned(), code.to_owned());
            Error::Refused {
                status: StatusCode::CONFLICT,
                error,
                code,
                faults: Vec::new(),
            }
            .to_string()
        };
        assert_eq!(
            refused("it is in iris.yaml", "declared-in-file"),
            "it is in iris.yaml (declared-in-file)"
        );
        assert_eq!(refused("odd", ""), "odd (status 409 Conflict)");
        assert_eq!(refused("", ""), "refused with status 409 Conflict");
    }

    #[tokio::test]
    async fn an_unreachable_server_is_named_with_the_remedy() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("port");
        let address = listener.local_addr().expect("address");
        drop(listener);
        let server = Server {
            server: url(&format!("http://{address}")).expect("url"),
            access: Access::default(),
        };
        let error = Client::new(&server)
            .expect("client")
            .services()
            .await
            .expect_err("nobody listens");
        let expected =
            format!("can't reach pilotlight at http://{address}/: is `pilotlight up` running? (Connection refused");
        assert!(error.to_string().starts_with(&expected), "{error}");
    }
}
