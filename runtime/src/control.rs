//! Models loaded and unloaded by clients: the model repository extension, as far as it decides. REST and gRPC both come here.

use std::collections::BTreeMap;

use parking_lot::RwLock;

use crate::app::App;
use crate::config::{Config, ModelControl};
use crate::directory::Directory;
use crate::error::{ApiError, Code};
use crate::models::{Listed, ModelError, ModelState, Origin, Source};

/// Who may load what, and from where.
pub(crate) struct Control {
    mode: ModelControl,
    directory: Option<Directory>,
    /// Models that the process was started with, by name.
    given: RwLock<BTreeMap<String, Origin>>,
}

impl Control {
    pub(crate) fn new(config: &Config) -> Self {
        Self {
            mode: config.model_control,
            directory: config.model_repository.as_ref().map(Directory::new),
            given: RwLock::default(),
        }
    }

    /// Remembers where a model comes from, so that it can be loaded again.
    pub(crate) fn give(&self, name: &str, origin: Origin) {
        self.given.write().insert(name.to_owned(), origin);
    }

    fn allowed(&self) -> Result<(), ApiError> {
        match self.mode {
            ModelControl::Explicit => Ok(()),
            ModelControl::None => Err(ApiError::new(
                Code::Unsupported,
                "loading and unloading of models by clients is not allowed here; the runtime needs --model-control-mode explicit",
            )),
        }
    }

    /// The repository goes before the command line: there a newer version may have come.
    fn origin(&self, name: &str) -> Result<Origin, ApiError> {
        let found = self.directory.as_ref().and_then(|directory| directory.find(name));
        if let Some(found) = found {
            return Ok(Origin {
                source: Source::File(found.path),
                version: found.version,
            });
        }
        self.given.read().get(name).cloned().ok_or_else(|| {
            let place = self.directory.as_ref().map_or_else(
                || "there is no --model-repository".to_owned(),
                |directory| format!("{} has no {name}/<version>/model.onnx", directory.path().display()),
            );
            ApiError::new(Code::ModelNotFound, format!("there is no model {name:?}: {place}"))
        })
    }

    /// Names of models that could be loaded.
    pub(crate) fn names(&self) -> Vec<String> {
        let mut names = self.directory.as_ref().map(Directory::names).unwrap_or_default();
        names.extend(self.given.read().keys().cloned());
        names
    }
}

impl App {
    /// Remembers where a model comes from, so that clients can load it again where that is allowed.
    pub fn give(&self, name: &str, origin: Origin) {
        self.control.give(name, origin);
    }

    /// Loads a model, or loads it again; `parameters` are the names of those that the request has.
    pub(crate) async fn load_model<'p>(
        &self,
        name: &str,
        parameters: impl IntoIterator<Item = &'p str>,
    ) -> Result<(), ApiError> {
        self.control.allowed()?;
        for parameter in parameters {
            check_parameter(parameter)?;
        }
        let origin = self.control.origin(name)?;
        Ok(self.repository.load(name, origin).await?)
    }

    /// Unloads a model once its last request is answered.
    pub(crate) async fn unload_model(&self, name: &str) -> Result<(), ApiError> {
        self.control.allowed()?;
        Ok(self.repository.unload(name).await?)
    }

    /// Every model there is or could be, sorted by name; only the ready ones where that is asked.
    pub(crate) fn index(&self, ready: bool) -> Vec<Indexed> {
        let mut models: BTreeMap<String, Indexed> = BTreeMap::new();
        for Listed { name, version, state } in self.repository.index() {
            let indexed = Indexed {
                name: name.clone(),
                version,
                state: state.as_str(),
                reason: match state {
                    ModelState::Failed(reason) => reason,
                    _ => String::new(),
                },
            };
            models.insert(name, indexed);
        }
        for name in self.control.names() {
            models.entry(name).or_insert_with_key(|name| Indexed {
                name: name.clone(),
                version: String::new(),
                state: "UNAVAILABLE",
                reason: "not loaded".to_owned(),
            });
        }
        models
            .into_values()
            .filter(|model| !ready || model.state == "READY")
            .collect()
    }
}

/// One line of the index.
pub(crate) struct Indexed {
    pub(crate) name: String,
    /// Empty where it is not known before it is loaded.
    pub(crate) version: String,
    pub(crate) state: &'static str,
    pub(crate) reason: String,
}

fn check_parameter(name: &str) -> Result<(), ApiError> {
    let unsupported = |what: &str, instead: &str| {
        let message = format!("the parameter {name:?} ({what}) is not supported: {instead}");
        Err(ApiError::new(Code::Unsupported, message))
    };
    match name {
        "config" => unsupported(
            "a configuration in place of the repository's",
            "what a model takes and gives is read from its file, and batching is set by the runtime's flags",
        ),
        _ if name.starts_with("file:") => unsupported(
            "a file in place of the repository's",
            "put it into the model repository and load it from there",
        ),
        _ => Err(ApiError::invalid(format!("there is no parameter {name:?} of a load"))),
    }
}

impl From<ModelError> for ApiError {
    fn from(error: ModelError) -> Self {
        let code = match &error {
            ModelError::Name(_) => Code::InvalidRequest,
            ModelError::NotFound(_) => Code::ModelNotFound,
            ModelError::Busy(_) | ModelError::Load { .. } => Code::ModelNotReady,
        };
        Self::new(code, error.to_string())
    }
}
