//! An API server for tests: objects by path, merged patches, versions that are conditions.

use std::{collections::BTreeMap, convert::Infallible, sync::Arc};

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use kube::{Client, client::Body};
use parking_lot::Mutex;
use serde_json::{Value, json};

/// What it holds, by the path of each object. A path that ends in `/scale` or `/status` is its object's.
#[derive(Clone, Default)]
pub(crate) struct Fake {
    objects: Arc<Mutex<BTreeMap<String, Value>>>,
    /// Called before each patch, with its path: what others do meanwhile.
    meanwhile: Arc<Mutex<Option<Meanwhile>>>,
}

type Meanwhile = Box<dyn FnMut(&str, &mut BTreeMap<String, Value>) + Send>;

impl Fake {
    pub(crate) fn with(self, path: &str, object: Value) -> Self {
        let mut object = object;
        object["metadata"]["resourceVersion"] = "1".into();
        self.objects.lock().insert(path.to_owned(), object);
        self
    }

    pub(crate) fn meanwhile(&self, act: impl FnMut(&str, &mut BTreeMap<String, Value>) + Send + 'static) {
        *self.meanwhile.lock() = Some(Box::new(act));
    }

    pub(crate) fn get(&self, path: &str) -> Value {
        self.objects.lock().get(path).cloned().unwrap_or_default()
    }

    /// Writes as somebody else does.
    pub(crate) fn write(&self, path: &str, patch: &Value) {
        Self::touch(&mut self.objects.lock(), path, patch);
    }

    /// The same while a request is being answered.
    pub(crate) fn touch(objects: &mut BTreeMap<String, Value>, path: &str, patch: &Value) {
        if let Some(object) = objects.get_mut(path) {
            write(object, patch);
        }
    }

    pub(crate) fn client(&self) -> Client {
        let fake = self.clone();
        let service = tower::service_fn(move |request: Request<Body>| {
            let fake = fake.clone();
            async move { Ok::<_, Infallible>(fake.answer(request).await) }
        });
        Client::new(service, "default")
    }

    async fn answer(&self, request: Request<Body>) -> Response<Full<Bytes>> {
        let path = request.uri().path().to_owned();
        let patches = request.method() == Method::PATCH;
        let body = request
            .into_body()
            .collect()
            .await
            .map(http_body_util::Collected::to_bytes)
            .unwrap_or_default();
        let own = path.trim_end_matches("/scale").trim_end_matches("/status").to_owned();
        let mut objects = self.objects.lock();
        if let Some(act) = self.meanwhile.lock().as_mut().filter(|_| patches) {
            act(&path, &mut objects);
        }
        let Some(object) = objects.get_mut(&own) else {
            return refused(StatusCode::NOT_FOUND);
        };
        if patches {
            let patch: Value = serde_json::from_slice(&body).unwrap_or_default();
            let condition = patch["metadata"].get("resourceVersion");
            if condition.is_some_and(|version| *version != object["metadata"]["resourceVersion"]) {
                return refused(StatusCode::CONFLICT);
            }
            write(object, &patch);
        }
        let mut shown = object.clone();
        if path.ends_with("/scale") {
            shown = json!({ "metadata": shown["metadata"], "spec": { "replicas": shown["spec"]["replicas"] } });
        }
        answered(StatusCode::OK, &shown)
    }
}

fn write(object: &mut Value, patch: &Value) {
    let before = object["metadata"]["resourceVersion"].clone();
    merge(object, patch);
    let version: u64 = before.as_str().and_then(|text| text.parse().ok()).unwrap_or(0);
    object["metadata"]["resourceVersion"] = (version + 1).to_string().into();
}

fn merge(object: &mut Value, patch: &Value) {
    match patch {
        Value::Object(fields) => {
            if !object.is_object() {
                *object = json!({});
            }
            for (name, value) in fields {
                if value.is_null() {
                    object.as_object_mut().map(|object| object.remove(name));
                } else {
                    merge(&mut object[name], value);
                }
            }
        }
        value => *object = value.clone(),
    }
}

fn refused(status: StatusCode) -> Response<Full<Bytes>> {
    let reason = if status == StatusCode::NOT_FOUND {
        "NotFound"
    } else {
        "Conflict"
    };
    let body = json!({
        "kind": "Status", "apiVersion": "v1", "status": "Failure",
        "message": status.to_string(), "reason": reason, "code": status.as_u16(),
    });
    answered(status, &body)
}

fn answered(status: StatusCode, body: &Value) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::from(body.to_string()));
    *response.status_mut() = status;
    response
}
