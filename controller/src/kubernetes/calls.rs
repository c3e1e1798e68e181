//! How often the API server is called, reads and watches included.

use http::{Method, Request};
use kube::{
    Client, Config,
    client::{Body, ClientBuilder},
};
use prometheus::{IntCounterVec, Opts, Registry};
use tower::util::MapRequestLayer;

/// The number of calls since the start, by verb as Kubernetes has it. Cheap to clone; clones count together.
#[derive(Clone, Debug)]
pub struct Calls {
    total: IntCounterVec,
}

impl Calls {
    /// Nothing was called yet. Fails never but by a fault in the metric's own name.
    pub fn new() -> prometheus::Result<Self> {
        let opts = Opts::new("pilotlight_api_calls_total", "Calls of the API server by verb");
        Ok(Self {
            total: IntCounterVec::new(opts, &["verb"])?,
        })
    }

    /// A client every call of which is counted. Fails where the configuration makes no client.
    pub fn client(&self, config: Config) -> kube::Result<Client> {
        let total = self.total.clone();
        let counted = MapRequestLayer::new(move |request: Request<Body>| {
            total
                .with_label_values(&[verb(request.method(), request.uri().query())])
                .inc();
            request
        });
        Ok(ClientBuilder::try_from(config)?.with_layer(&counted).build())
    }

    /// Shows the number in a registry; fails where the name is taken there.
    pub(crate) fn register(&self, registry: &Registry) -> prometheus::Result<()> {
        registry.register(Box::new(self.total.clone()))
    }
}

/// Lists come in pages, so that they name a limit; a look at one object has no query.
fn verb(method: &Method, query: Option<&str>) -> &'static str {
    let query = query.unwrap_or_default();
    match *method {
        Method::GET if query.contains("watch=") => "watch",
        Method::GET if query.contains("limit=") => "list",
        Method::GET => "get",
        Method::POST => "create",
        Method::PUT => "update",
        Method::PATCH => "patch",
        Method::DELETE => "delete",
        _ => "other",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn verbs_are_told_apart_as_kubernetes_does() {
        assert_eq!(verb(&Method::GET, Some("watch=true&timeoutSeconds=290")), "watch");
        assert_eq!(verb(&Method::GET, Some("&limit=500")), "list");
        assert_eq!(verb(&Method::GET, None), "get");
        assert_eq!(verb(&Method::PATCH, Some("force=true&fieldManager=x")), "patch");
    }
}
