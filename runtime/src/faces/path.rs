//! Method and path to what is asked for. Pure; model names need no unescaping (see `config::check_name`).

use http::Method;

use crate::error::{ApiError, Code};

/// A model, and a version where one is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Of<'p> {
    pub(crate) model: &'p str,
    pub(crate) version: Option<&'p str>,
}

/// What a request asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Target<'p> {
    /// `GET /`: alive, in KServe's words.
    Root,
    /// `GET /health`.
    Health,
    /// `GET /ready`.
    Ready,
    /// `GET /metrics`.
    Metrics,
    /// `POST /predict`.
    Predict,
    /// `GET /v1/models`.
    V1Models,
    /// `GET /v1/models/{m}`.
    V1Model(&'p str),
    /// `POST /v1/models/{m}:predict`.
    V1Predict(&'p str),
    /// `GET /v2`.
    V2Server,
    /// `GET /v2/health/live`.
    V2Live,
    /// `GET /v2/health/ready`.
    V2Ready,
    /// `GET /v2/models`.
    V2Models,
    /// `GET /v2/models/{m}`; this and those below also under `/versions/{v}`.
    V2Model(Of<'p>),
    /// `GET /v2/models/{m}/ready`.
    V2ModelReady(Of<'p>),
    /// `POST /v2/models/{m}/infer`.
    V2Infer(Of<'p>),
    /// `GET /v2/models/{m}/config`.
    V2Config(Of<'p>),
    /// `GET /v2/models/{m}/stats`; without a model: of all.
    V2Stats(Option<Of<'p>>),
    /// `POST /v2/repository/index`.
    V2Index,
    /// `POST /v2/repository/models/{m}/load`.
    V2Load(&'p str),
    /// `POST /v2/repository/models/{m}/unload`.
    V2Unload(&'p str),
    /// `POST /v2/standby`.
    V2Standby,
}

const GET: &str = "GET, HEAD";
const POST: &str = "POST";

/// Finds the target.
///
/// # Errors
/// 404 for an unknown path, 405 with the right methods for a known one, 501 for a verb of the protocols that is not served.
pub(crate) fn target<'p>(method: &Method, path: &'p str) -> Result<Target<'p>, ApiError> {
    let (target, allow) = find(path)?;
    let fits = match allow {
        GET => method == Method::GET || method == Method::HEAD,
        _ => method == Method::POST,
    };
    if fits {
        return Ok(target);
    }
    let mut error = ApiError::new(Code::MethodNotAllowed, format!("{path} takes {allow}, not {method}"));
    error.allow = Some(allow);
    Err(error)
}

fn find(path: &str) -> Result<(Target<'_>, &'static str), ApiError> {
    let unknown = || ApiError::new(Code::UnknownPath, format!("there is nothing at {path}"));
    let mut segments = path.strip_prefix('/').ok_or_else(unknown)?.split('/');
    let found = match (segments.next().unwrap_or_default(), segments.next()) {
        ("", None) => (Target::Root, GET),
        ("health", None) => (Target::Health, GET),
        ("ready", None) => (Target::Ready, GET),
        ("metrics", None) => (Target::Metrics, GET),
        ("predict", None) => (Target::Predict, POST),
        ("v1", Some("models")) => return v1(path, &segments.collect::<Vec<_>>()),
        ("v2", None) => (Target::V2Server, GET),
        ("v2", Some(part)) => return v2(path, part, &segments.collect::<Vec<_>>()),
        _ => return Err(unknown()),
    };
    Ok(found)
}

fn v1<'p>(path: &'p str, rest: &[&'p str]) -> Result<(Target<'p>, &'static str), ApiError> {
    match rest {
        [] => Ok((Target::V1Models, GET)),
        [model] => match model.split_once(':') {
            None if !model.is_empty() => Ok((Target::V1Model(model), GET)),
            Some((model, "predict")) => Ok((Target::V1Predict(model), POST)),
            Some((_, verb @ ("explain" | "classify" | "regress"))) => Err(ApiError::new(
                Code::Unsupported,
                format!("the verb {verb:?} is not served; :predict is"),
            )),
            _ => Err(ApiError::new(
                Code::UnknownPath,
                format!("there is nothing at {path}; a model's verb is :predict"),
            )),
        },
        _ => Err(ApiError::new(Code::UnknownPath, format!("there is nothing at {path}"))),
    }
}

fn v2<'p>(path: &'p str, part: &str, rest: &[&'p str]) -> Result<(Target<'p>, &'static str), ApiError> {
    match (part, rest) {
        ("", []) => Ok((Target::V2Server, GET)),
        ("health", ["live"]) => Ok((Target::V2Live, GET)),
        ("health", ["ready"]) => Ok((Target::V2Ready, GET)),
        ("standby", []) => Ok((Target::V2Standby, POST)),
        ("repository", ["index"]) => Ok((Target::V2Index, POST)),
        ("models", []) => Ok((Target::V2Models, GET)),
        ("models", ["stats"]) => Ok((Target::V2Stats(None), GET)),
        ("repository", ["models", model, "load"]) if !model.is_empty() => Ok((Target::V2Load(model), POST)),
        ("repository", ["models", model, "unload"]) if !model.is_empty() => Ok((Target::V2Unload(model), POST)),
        ("models", [model, "versions", version, verb @ ..]) if !model.is_empty() && !version.is_empty() => {
            let version = Some(*version);
            v2_model(path, Of { model, version }, verb)
        }
        ("models", [model, verb @ ..]) if !model.is_empty() => v2_model(path, Of { model, version: None }, verb),
        _ => Err(ApiError::new(Code::UnknownPath, format!("there is nothing at {path}"))),
    }
}

fn v2_model<'p>(path: &str, model: Of<'p>, verb: &[&str]) -> Result<(Target<'p>, &'static str), ApiError> {
    match verb {
        [] => Ok((Target::V2Model(model), GET)),
        ["ready"] => Ok((Target::V2ModelReady(model), GET)),
        ["config"] => Ok((Target::V2Config(model), GET)),
        ["stats"] => Ok((Target::V2Stats(Some(model)), GET)),
        ["infer"] => Ok((Target::V2Infer(model), POST)),
        _ => Err(ApiError::new(Code::UnknownPath, format!("there is nothing at {path}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(model: &str) -> Of<'_> {
        Of { model, version: None }
    }

    fn version_1(model: &str) -> Of<'_> {
        Of {
            model,
            version: Some("1"),
        }
    }

    fn get(path: &str) -> Result<Target<'_>, Code> {
        target(&Method::GET, path).map_err(|e| e.code)
    }

    fn post(path: &str) -> Result<Target<'_>, Code> {
        target(&Method::POST, path).map_err(|e| e.code)
    }

    #[test]
    fn every_path_finds_its_target() {
        assert_eq!(get("/"), Ok(Target::Root));
        assert_eq!(get("/health"), Ok(Target::Health));
        assert_eq!(get("/ready"), Ok(Target::Ready));
        assert_eq!(get("/metrics"), Ok(Target::Metrics));
        assert_eq!(post("/predict"), Ok(Target::Predict));
        assert_eq!(get("/v1/models"), Ok(Target::V1Models));
        assert_eq!(get("/v1/models/iris"), Ok(Target::V1Model("iris")));
        assert_eq!(post("/v1/models/iris:predict"), Ok(Target::V1Predict("iris")));
        assert_eq!(get("/v2"), Ok(Target::V2Server));
        assert_eq!(get("/v2/"), Ok(Target::V2Server));
        assert_eq!(get("/v2/health/live"), Ok(Target::V2Live));
        assert_eq!(get("/v2/health/ready"), Ok(Target::V2Ready));
        assert_eq!(get("/v2/models"), Ok(Target::V2Models));
        assert_eq!(get("/v2/models/iris"), Ok(Target::V2Model(of("iris"))));
        assert_eq!(
            get("/v2/models/iris/versions/1"),
            Ok(Target::V2Model(version_1("iris")))
        );
        assert_eq!(get("/v2/models/iris/ready"), Ok(Target::V2ModelReady(of("iris"))));
        assert_eq!(
            get("/v2/models/iris/versions/1/ready"),
            Ok(Target::V2ModelReady(version_1("iris")))
        );
        assert_eq!(post("/v2/models/iris/infer"), Ok(Target::V2Infer(of("iris"))));
        assert_eq!(
            post("/v2/models/iris/versions/1/infer"),
            Ok(Target::V2Infer(version_1("iris")))
        );
        assert_eq!(post("/v2/repository/index"), Ok(Target::V2Index));
        assert_eq!(post("/v2/standby"), Ok(Target::V2Standby));
        assert_eq!(post("/v2/repository/models/iris/load"), Ok(Target::V2Load("iris")));
        assert_eq!(post("/v2/repository/models/iris/unload"), Ok(Target::V2Unload("iris")));
        assert_eq!(get("/v2/models/iris/config"), Ok(Target::V2Config(of("iris"))));
        assert_eq!(
            get("/v2/models/iris/versions/1/stats"),
            Ok(Target::V2Stats(Some(version_1("iris"))))
        );
        assert_eq!(get("/v2/models/stats"), Ok(Target::V2Stats(None)));
    }

    #[test]
    fn a_model_may_be_called_like_a_part_of_the_protocol() {
        assert_eq!(get("/v2/models/ready/ready"), Ok(Target::V2ModelReady(of("ready"))));
        assert_eq!(get("/v2/models/infer"), Ok(Target::V2Model(of("infer"))));
        assert_eq!(get("/v2/models/versions"), Ok(Target::V2Model(of("versions"))));
    }

    #[test]
    fn unknown_paths_versions_and_verbs_are_told_apart() {
        for path in [
            "/nope",
            "/v1",
            "/v1/models/",
            "/v1/models/a/b",
            "/v2/models/",
            "/v2/nope",
            "/v2/models/a/b",
            "/v2/models/a/versions/",
            "/v2/repository/models//load",
            "//",
        ] {
            assert_eq!(get(path), Err(Code::UnknownPath), "{path}");
        }
        assert_eq!(post("/v1/models/iris:explain"), Err(Code::Unsupported));
        assert_eq!(post("/v1/models/iris:train"), Err(Code::UnknownPath));
    }

    #[test]
    fn a_wrong_method_names_the_right_ones() {
        let error = target(&Method::POST, "/v2").unwrap_err();
        assert_eq!((error.code, error.allow), (Code::MethodNotAllowed, Some("GET, HEAD")));
        let error = target(&Method::GET, "/v1/models/iris:predict").unwrap_err();
        assert_eq!((error.code, error.allow), (Code::MethodNotAllowed, Some("POST")));
        assert_eq!(target(&Method::HEAD, "/health").unwrap(), Target::Health);
    }
}
