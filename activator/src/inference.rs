//! The paths of the inference protocols over REST. With `grpc` the only part of the activator that knows them.
//!
//! | path | call |
//! |---|---|
//! | `/`, `/health`, `/v2/health/live` | alive |
//! | `/ready`, `/v2/health/ready` | ready |
//! | `/v2` | server metadata |
//! | `/v1/models`, `/v2/models` | list of models |
//! | `POST /v2/repository/index` | repository index |
//! | `/v1/models/{m}`, `/v2/models/{m}[/versions/{v}]/ready` | model ready |
//! | `/v2/models/stats` | statistics of all models that are awake (`statistics`) |
//! | other `GET` under `/v2/models/{m}` | metadata |
//! | `POST /v1/models/{m}:verb`, `POST` under `/v2/models/{m}`, `POST /predict` | inference |

use http::Method;

/// What a request asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Call {
    /// Is the server alive?
    Alive,
    /// Can it serve?
    Ready,
    /// Its name, version and extensions.
    ServerMetadata,
    /// Names of the models.
    ModelList,
    /// Names and states of the models.
    RepositoryIndex,
    /// Can one model serve?
    ModelReady,
    /// Signature and configuration of one model; needs a replica.
    Metadata,
    /// A prediction; needs a replica. Pure.
    Inference,
    /// Anything else; needs a replica, and may have effects.
    Other,
}

impl Call {
    /// Whether the activator answers it itself: such calls neither wake nor count.
    pub(crate) fn is_answered_here(self) -> bool {
        !matches!(self, Self::Metadata | Self::Inference | Self::Other)
    }

    /// Whether running it twice does no harm.
    pub(crate) fn is_pure(self) -> bool {
        matches!(self, Self::Metadata | Self::Inference)
    }
}

/// The model that a path names, without leading route prefix.
pub(crate) fn model_name(path: &str) -> Option<&str> {
    if let Some(rest) = path.strip_prefix("/v1/models/") {
        let segment = rest.split('/').next()?;
        // The verb follows the last colon.
        let name = segment.rsplit_once(':').map_or(segment, |(name, _)| name);
        return (!name.is_empty()).then_some(name);
    }
    let name = path.strip_prefix("/v2/models/")?.split('/').next()?;
    (!name.is_empty()).then_some(name)
}

/// Whether a path asks for the statistics of all models. A model of the name `stats` goes before.
pub(crate) fn is_statistics(path: &str) -> bool {
    path.trim_end_matches('/') == "/v2/models/stats"
}

/// What a request asks for, from its method and its path without route prefix.
pub(crate) fn classify(method: &Method, path: &str) -> Call {
    let path = path.strip_suffix('/').unwrap_or(path);
    if method == Method::POST {
        return post(path);
    }
    if method != Method::GET && method != Method::HEAD {
        return Call::Other;
    }
    match path {
        "" | "/health" | "/v2/health/live" => Call::Alive,
        "/ready" | "/v2/health/ready" => Call::Ready,
        "/v2" => Call::ServerMetadata,
        "/v1/models" | "/v2/models" => Call::ModelList,
        _ if path.starts_with("/v2/models/") => v2_get(path),
        _ if path.starts_with("/v1/models/") && !path["/v1/models/".len()..].contains([':', '/']) => Call::ModelReady,
        _ => Call::Other,
    }
}

fn v2_get(path: &str) -> Call {
    let mut segments = path["/v2/models/".len()..].split('/').skip(1);
    match (segments.next(), segments.next(), segments.next(), segments.next()) {
        (Some("ready"), None, ..) | (Some("versions"), Some(_), Some("ready"), None) => Call::ModelReady,
        _ => Call::Metadata,
    }
}

fn post(path: &str) -> Call {
    if path == "/v2/repository/index" {
        return Call::RepositoryIndex;
    }
    let v1 = path.strip_prefix("/v1/models/").is_some_and(|rest| rest.contains(':'));
    let v2 = path.strip_prefix("/v2/models/").is_some_and(|rest| {
        rest.ends_with("/infer") || rest.ends_with("/generate") || rest.ends_with("/generate_stream")
    });
    if v1 || v2 || path == "/predict" {
        Call::Inference
    } else {
        Call::Other
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_from_both_protocols() {
        for (path, name) in [
            ("/v1/models/iris:predict", Some("iris")),
            ("/v1/models/iris", Some("iris")),
            ("/v1/models/a:b:predict", Some("a:b")),
            ("/v2/models/iris/infer", Some("iris")),
            ("/v2/models/iris/versions/1/infer", Some("iris")),
            ("/v2/models/iris", Some("iris")),
            ("/v1/models", None),
            ("/v1/models/", None),
            ("/v2/health/ready", None),
            ("/predict", None),
        ] {
            assert_eq!(model_name(path), name, "{path}");
        }
    }

    #[test]
    fn calls_are_told_apart() {
        for (method, path, call) in [
            ("GET", "/", Call::Alive),
            ("GET", "/v2/health/live", Call::Alive),
            ("GET", "/v2/health/ready", Call::Ready),
            ("GET", "/v2", Call::ServerMetadata),
            ("GET", "/v2/", Call::ServerMetadata),
            ("GET", "/v1/models", Call::ModelList),
            ("POST", "/v2/repository/index", Call::RepositoryIndex),
            ("GET", "/v1/models/iris", Call::ModelReady),
            ("GET", "/v2/models/iris/ready", Call::ModelReady),
            ("GET", "/v2/models/iris/versions/2/ready", Call::ModelReady),
            ("GET", "/v2/models/iris", Call::Metadata),
            ("GET", "/v2/models/iris/versions/ready", Call::Metadata),
            ("GET", "/v2/models/iris/config", Call::Metadata),
            ("POST", "/v1/models/iris:predict", Call::Inference),
            ("POST", "/v2/models/iris/infer", Call::Inference),
            ("POST", "/v2/models/iris/versions/2/infer", Call::Inference),
            ("POST", "/predict", Call::Inference),
            ("POST", "/v2/repository/models/iris/load", Call::Other),
            ("DELETE", "/v1/models/iris", Call::Other),
            ("GET", "/metrics", Call::Other),
        ] {
            assert_eq!(classify(&method.parse().unwrap(), path), call, "{method} {path}");
        }
    }
}
