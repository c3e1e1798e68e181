//! What is declared: the manifests of a watched directory and the objects that were applied through the API.
//!
//! Rules:
//! - A bad document changes nothing: what the same file declared before stays as it was, and its faults are shown. A file
//!   without faults replaces what it declared before; a deleted one takes it away.
//! - An emptied file is taken for one on its way to new content for a moment.
//! - A name or host that is taken stays with whoever has it; the newcomer is at fault.
//! - Applied objects are one file each in the state directory; a hand-written document is never changed or deleted.
//! - A change of a model's file is a new generation of the same services.
//!
//! `files` reads the directory, `store` keeps applied objects, `merge` makes one set of both, `watch` says when to look.

mod files;
mod merge;
mod store;
mod watch;

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::Arc,
};

use pilotlight_manifests::{Fault, Service};
use tokio::{
    sync::{mpsc, oneshot, watch as cell},
    time::{Instant, sleep_until},
};
use tokio_util::sync::CancellationToken;

use self::{files::Files, store::Store, watch::Watch};
use crate::{
    config::SourceConfig,
    error::Error,
    model::{self, FileStamp},
};

/// Orders that may wait for the source; one more waits in its caller.
const COMMANDS: usize = 64;

/// Everything that is declared at one time.
#[derive(Clone, Debug, Default)]
pub struct Declared {
    /// Rises with every change.
    pub generation: u64,
    /// By `namespace/name`.
    pub services: BTreeMap<Arc<str>, Arc<Service>>,
    /// What is wrong with documents that were left out or kept as they were.
    pub faults: Vec<Fault>,
    /// What isn't supported.
    pub warnings: Vec<Fault>,
    /// Files and directories that can't be read, and why.
    pub unreadable: Vec<(PathBuf, String)>,
}

/// What became of one applied object.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// It is new.
    Created,
    /// It replaced another text.
    Configured,
    /// It was there already, word by word.
    Unchanged,
}

/// The result of an apply.
#[derive(Clone, Debug)]
pub struct Applied {
    /// Namespace, name and outcome, in the order of the text.
    pub objects: Vec<(String, String, Outcome)>,
    /// What isn't supported.
    pub warnings: Vec<Fault>,
    /// The generation of [`Declared`] that holds them.
    pub generation: u64,
}

/// Why an order was refused. Nothing was changed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Refusal {
    /// The text is wrong.
    #[error("the manifest has {} fault(s)", .0.len())]
    Faults(Vec<Fault>),
    /// The text holds nothing.
    #[error("the manifest holds no document")]
    Empty,
    /// A hand-written document declares it; that one has to be edited.
    #[error("{key} is declared in {}; edit that file instead", file.display())]
    DeclaredInFile {
        /// `namespace/name`.
        key: String,
        /// Where.
        file: PathBuf,
    },
    /// Nothing of that name.
    #[error("there is no service {0}")]
    NotFound(String),
    /// The state directory.
    #[error(transparent)]
    State(#[from] Error),
    /// The source has ended.
    #[error("the server is shutting down")]
    Stopped,
}

enum Command {
    Apply {
        text: String,
        file: PathBuf,
        reply: oneshot::Sender<Result<Applied, Refusal>>,
    },
    Delete {
        key: String,
        reply: oneshot::Sender<Result<u64, Refusal>>,
    },
}

/// Gives orders to a running [`Source`]. Cheap to clone.
#[derive(Clone, Debug)]
pub struct SourceHandle {
    commands: mpsc::Sender<Command>,
}

impl SourceHandle {
    /// Applies all documents of a text or none. `file` names the text in messages, and relative paths are relative to its
    /// directory. Dropping the future may or may not take the order back.
    pub async fn apply(&self, text: String, file: PathBuf) -> Result<Applied, Refusal> {
        let (reply, answer) = oneshot::channel();
        self.order(Command::Apply { text, file, reply }).await?;
        answer.await.map_err(|_| Refusal::Stopped)?
    }

    /// Deletes an applied object; answers the generation without it.
    pub async fn delete(&self, namespace: &str, name: &str) -> Result<u64, Refusal> {
        let (reply, answer) = oneshot::channel();
        self.order(Command::Delete {
            key: format!("{namespace}/{name}"),
            reply,
        })
        .await?;
        answer.await.map_err(|_| Refusal::Stopped)?
    }

    /// A handle to nothing.
    #[cfg(test)]
    pub(crate) fn detached() -> Self {
        Self {
            commands: mpsc::channel(1).0,
        }
    }

    async fn order(&self, command: Command) -> Result<(), Refusal> {
        self.commands.send(command).await.map_err(|_| Refusal::Stopped)
    }
}

/// The declared services and whoever watches over them.
pub struct Source {
    config: SourceConfig,
    domain: String,
    files: Files,
    store: Store,
    models: BTreeMap<PathBuf, Option<FileStamp>>,
    declared: cell::Sender<Arc<Declared>>,
    commands: mpsc::Receiver<Command>,
    handle: SourceHandle,
}

impl Source {
    /// Reads everything once, so that what is missing is known before anything starts. Blocks for as long as that takes.
    /// Fails where the directory is missing or can't be read; faults of documents are in [`Declared`].
    pub fn open(config: SourceConfig, domain: &str) -> Result<Self, Error> {
        let (sender, commands) = mpsc::channel(COMMANDS);
        let mut source = Self {
            files: Files::open(&config)?,
            store: Store::open(&config.state_directory)?,
            models: BTreeMap::new(),
            declared: cell::Sender::new(Arc::default()),
            domain: domain.to_owned(),
            commands,
            handle: SourceHandle { commands: sender },
            config,
        };
        source.publish();
        Ok(source)
    }

    /// Where orders are given.
    pub fn handle(&self) -> SourceHandle {
        self.handle.clone()
    }

    /// What is declared, now and later.
    pub fn declared(&self) -> cell::Receiver<Arc<Declared>> {
        self.declared.subscribe()
    }

    /// Watches and obeys until `shutdown`.
    pub async fn run(mut self, shutdown: CancellationToken) {
        let mut watch = Watch::new(&self.config);
        loop {
            watch.follow(self.watched());
            let settles = self.files.settles_at();
            let command = tokio::select! {
                biased;
                () = shutdown.cancelled() => return,
                command = self.commands.recv() => command,
                () = watch.changed() => None,
                () = sleep_until(settles.unwrap_or_else(Instant::now)), if settles.is_some() => None,
            };
            // Off the async threads: disks are slow at times.
            let worked = tokio::task::spawn_blocking(move || {
                self.work(command);
                self
            });
            match worked.await {
                Ok(source) => self = source,
                Err(error) => return tracing::error!(%error, "the source of manifests ended"),
            }
        }
    }

    /// Obeys, or looks at all files again.
    fn work(&mut self, command: Option<Command>) {
        if let Some(command) = command {
            return self.obey(command);
        }
        self.files.scan();
        self.publish();
    }

    fn obey(&mut self, command: Command) {
        match command {
            Command::Apply { text, file, reply } => {
                let result = self.apply(&text, &file);
                let _ = reply.send(result);
            }
            Command::Delete { key, reply } => {
                let result = self.delete(&key);
                let _ = reply.send(result);
            }
        }
    }

    fn apply(&mut self, text: &str, file: &Path) -> Result<Applied, Refusal> {
        let parsed = pilotlight_manifests::parse(text, file);
        if !parsed.faults.is_empty() {
            return Err(Refusal::Faults(parsed.faults));
        }
        if parsed.services.is_empty() {
            return Err(Refusal::Empty);
        }
        for service in &parsed.services {
            if let Some(file) = self.files.declares(&service.key()) {
                return Err(Refusal::DeclaredInFile {
                    key: service.key(),
                    file: file.to_owned(),
                });
            }
        }
        let faults = self.collisions(&parsed.services);
        if !faults.is_empty() {
            return Err(Refusal::Faults(faults));
        }
        let outcomes = self.store.keep(&parsed.services)?;
        let objects = parsed.services.into_iter().zip(outcomes);
        let objects = objects
            .map(|(service, outcome)| (service.namespace, service.name, outcome))
            .collect();
        Ok(Applied {
            objects,
            warnings: parsed.warnings,
            generation: self.publish(),
        })
    }

    /// What is wrong with these services beside those that are declared and stay.
    fn collisions(&self, new: &[Service]) -> Vec<Fault> {
        let declared = self.declared.borrow().clone();
        let replaced = |key: &str| new.iter().any(|service| service.key() == key);
        let stay = declared
            .services
            .iter()
            .filter(|(key, _)| !replaced(key))
            .map(|(_, service)| (**service).clone());
        // Those that stay come first, so that the fault is at the new one.
        let all: Vec<Service> = stay.chain(new.iter().cloned()).collect();
        pilotlight_manifests::check_set(&all, &self.domain)
    }

    fn delete(&mut self, key: &str) -> Result<u64, Refusal> {
        if let Some(file) = self.files.declares(key) {
            return Err(Refusal::DeclaredInFile {
                key: key.to_owned(),
                file: file.to_owned(),
            });
        }
        if !self.store.remove(key)? {
            return Err(Refusal::NotFound(key.to_owned()));
        }
        Ok(self.publish())
    }

    /// Publishes what is declared now, if it differs from before; answers the generation.
    fn publish(&mut self) -> u64 {
        let before = self.declared.borrow().clone();
        let mut now = merge::merge(&self.files, &self.store, &before, &self.domain);
        let models = now
            .services
            .values()
            .map(|service| model::stamp(&service.storage))
            .collect();
        let models_changed = std::mem::replace(&mut self.models, models) != self.models;
        let same = now.services == before.services
            && now.faults == before.faults
            && now.warnings == before.warnings
            && now.unreadable == before.unreadable;
        if before.generation > 0 && same && !models_changed {
            return before.generation;
        }
        now.generation = before.generation + 1;
        let generation = now.generation;
        self.declared.send_replace(Arc::new(now));
        generation
    }

    /// Directories in which a change matters.
    fn watched(&self) -> Vec<PathBuf> {
        let models = self
            .models
            .keys()
            .flat_map(|path| [path.parent().map(Path::to_owned), Some(path.clone())]);
        let mut all: Vec<PathBuf> = self.config.directory.iter().cloned().chain(models.flatten()).collect();
        all.retain(|path| path.is_dir());
        all.sort();
        all.dedup();
        all
    }
}

#[cfg(test)]
mod tests;
