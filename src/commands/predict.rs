//! `pilotlight predict NAME --data ...`: asks a model.

use std::{
    fs,
    io::{self, Read as _},
};

use reqwest::Url;
use serde_json::Value;

use super::Failure;
use crate::{
    api::Item,
    client::{self, Client, Error, Server},
    output,
};

/// Arguments of `predict`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Name of the service.
    name: String,
    /// Namespace of the service.
    #[arg(short, long, default_value = "default")]
    namespace: String,
    /// The request's body: JSON, `@FILE`, or `@-` for standard input.
    #[arg(short, long, value_name = "JSON|@FILE")]
    data: String,
    /// Protocol. Default: v2 where the body has `inputs`, else v1.
    #[arg(short, long)]
    protocol: Option<Protocol>,
    /// Address for requests. Default: the one that the admin API tells.
    #[arg(long, value_name = "URL", value_parser = client::url)]
    url: Option<Url>,
    #[command(flatten)]
    server: Server,
}

/// An inference protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Protocol {
    /// `POST /v1/models/NAME:predict`
    V1,
    /// `POST /v2/models/NAME/infer`
    V2,
}

impl Protocol {
    /// What the body looks like.
    fn of(body: &[u8]) -> Self {
        match serde_json::from_slice::<Value>(body) {
            Ok(body) if body.get("inputs").is_some_and(Value::is_array) => Self::V2,
            _ => Self::V1,
        }
    }
}

/// Prints the answer's body as it is. A wake from zero is waited for, as long as the service lets its clients wait.
pub(crate) async fn run(args: Args) -> Result<(), Failure> {
    let body = read(&args.data)?;
    let protocol = args.protocol.unwrap_or_else(|| Protocol::of(&body));
    let base = match &args.url {
        Some(url) => routed(url, &args.namespace, &args.name),
        None => told(&args).await?,
    };
    let url = endpoint(&base, &args.name, protocol);
    let request = client::http(&url, &args.server.access)?
        .post(url.clone())
        .header("content-type", "application/json")
        .body(body);
    let answer = client::send(request, &base).await?;
    let mut answer = answer
        .bytes()
        .await
        .map_err(|error| Error::Broken {
            server: base,
            cause: error.to_string(),
        })?
        .to_vec();
    if answer.last() != Some(&b'\n') {
        answer.push(b'\n');
    }
    Ok(output::print(answer)?)
}

fn read(data: &str) -> Result<Vec<u8>, Failure> {
    let Some(file) = data.strip_prefix('@') else {
        return Ok(data.as_bytes().to_vec());
    };
    let mut body = Vec::new();
    let outcome = match file {
        "-" => io::stdin().read_to_end(&mut body).map(|_| body),
        file => fs::read(file),
    };
    outcome.map_err(|error| Failure::Message(format!("{file}: {error}")))
}

/// The service's own URL, from the admin API.
async fn told(args: &Args) -> Result<Url, Failure> {
    let item = Client::new(&args.server)?.service(&args.namespace, &args.name).await?;
    let foreign = |cause: String| Error::Foreign {
        server: args.server.server.clone(),
        cause,
    };
    let item: Item = serde_json::from_value(item).map_err(|error| foreign(error.to_string()))?;
    client::url(&item.url).map_err(|error| foreign(format!("the service's URL is {:?}, {error}", item.url)).into())
}

/// The path route of a service at an address.
fn routed(address: &Url, namespace: &str, name: &str) -> Url {
    extended(address, &["serving", namespace, name])
}

fn endpoint(base: &Url, name: &str, protocol: Protocol) -> Url {
    match protocol {
        Protocol::V1 => extended(base, &["v1", "models", &format!("{name}:predict")]),
        Protocol::V2 => extended(base, &["v2", "models", name, "infer"]),
    }
}

fn extended(base: &Url, path: &[&str]) -> Url {
    let mut url = base.clone();
    if let Ok(mut segments) = url.path_segments_mut() {
        segments.pop_if_empty().extend(path);
    }
    url
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(base: &str, protocol: Protocol) -> String {
        endpoint(&client::url(base).expect("url"), "iris", protocol).to_string()
    }

    #[test]
    fn the_protocol_follows_from_the_body() {
        assert_eq!(Protocol::of(br#"{"instances": [[1]]}"#), Protocol::V1);
        assert_eq!(Protocol::of(br#"{"inputs": [{"name": "x"}]}"#), Protocol::V2);
        assert_eq!(Protocol::of(b"no JSON"), Protocol::V1);
    }

    #[test]
    fn requests_go_to_the_path_of_their_protocol() {
        let base = "http://127.0.0.1:8080/serving/default/iris";
        assert_eq!(at(base, Protocol::V1), format!("{base}/v1/models/iris:predict"));
        assert_eq!(at(base, Protocol::V2), format!("{base}/v2/models/iris/infer"));
        assert_eq!(
            at("http://iris.default.example.com", Protocol::V1),
            "http://iris.default.example.com/v1/models/iris:predict"
        );
    }

    #[test]
    fn a_given_address_is_asked_by_the_path_route() {
        let address = client::url("http://127.0.0.1:8080").expect("url");
        assert_eq!(
            routed(&address, "flowers", "iris").as_str(),
            "http://127.0.0.1:8080/serving/flowers/iris"
        );
    }
}
