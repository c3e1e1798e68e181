//! Applied objects: one JSON file each in the state directory, written whole or not at all.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::{self, Write},
    path::{Path, PathBuf},
};

use pilotlight_manifests::{Fault, Service, Storage, parse};
use serde_json::Value;

use super::Outcome;
use crate::error::Error;

/// The objects as they are on the disk. The directory is made at the first one.
pub(super) struct Store {
    directory: PathBuf,
    objects: BTreeMap<String, Service>,
    faults: Vec<Fault>,
    unreadable: Vec<(PathBuf, String)>,
}

impl Store {
    /// Reads all objects; a directory that isn't there has none.
    pub(super) fn open(state_directory: &Path) -> Result<Self, Error> {
        let directory = state_directory.join("objects");
        let mut store = Self {
            objects: BTreeMap::new(),
            faults: Vec::new(),
            unreadable: Vec::new(),
            directory,
        };
        let entries = match fs::read_dir(&store.directory) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(store),
            Err(error) => return Err(Error::state(&store.directory, error)),
        };
        let mut paths: Vec<_> = entries.filter_map(|entry| Some(entry.ok()?.path())).collect();
        paths.retain(|path| path.extension().is_some_and(|kind| kind == "json"));
        paths.sort();
        for path in paths {
            match fs::read_to_string(&path) {
                Ok(text) => store.load(&text, &path),
                Err(error) => store.unreadable.push((path, error.to_string())),
            }
        }
        Ok(store)
    }

    fn load(&mut self, text: &str, path: &Path) {
        let parsed = parse(text, path);
        self.faults.extend(parsed.faults);
        self.objects
            .extend(parsed.services.into_iter().map(|service| (service.key(), service)));
    }

    /// Keeps objects, their paths made absolute: all or, where the disk refuses, none.
    pub(super) fn keep(&mut self, services: &[Service]) -> Result<Vec<Outcome>, Error> {
        let mut written: Vec<(PathBuf, String)> = Vec::new();
        let mut outcomes = Vec::new();
        for service in services {
            let (object, before) = (with_absolute_storage(service), self.objects.get(&service.key()));
            let outcome = match before {
                Some(before) if before.object == object => Outcome::Unchanged,
                Some(_) => Outcome::Configured,
                None => Outcome::Created,
            };
            outcomes.push(outcome);
            if outcome != Outcome::Unchanged {
                let (path, text) = (self.path(service), format!("{object:#}\n"));
                let result = write_beside(&path, &text);
                written.push((path, text));
                result.inspect_err(|_| forget(&written))?;
            }
        }
        // A full disk shows while writing; renaming takes no space.
        for (path, text) in &written {
            fs::rename(beside(path), path)
                .map_err(|error| Error::state(path, error))
                .inspect_err(|_| forget(&written))?;
            self.load(text, path);
        }
        Ok(outcomes)
    }

    /// Deletes an object; false where there is none.
    pub(super) fn remove(&mut self, key: &str) -> Result<bool, Error> {
        let Some(service) = self.objects.get(key) else {
            return Ok(false);
        };
        let path = self.path(service);
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(Error::state(&path, error)),
            _ => {}
        }
        self.objects.remove(key);
        Ok(true)
    }

    /// By their keys.
    pub(super) fn all(&self) -> impl Iterator<Item = &Service> {
        self.objects.values()
    }

    /// What is wrong with files of the store, which somebody else must have changed.
    pub(super) fn faults(&self) -> &[Fault] {
        &self.faults
    }

    /// Files that can't be read.
    pub(super) fn unreadable(&self) -> &[(PathBuf, String)] {
        &self.unreadable
    }

    /// An underscore is in no name, so two objects never share a file.
    fn path(&self, service: &Service) -> PathBuf {
        self.directory
            .join(format!("{}_{}.json", service.namespace, service.name))
    }
}

/// The object with its `storageUri` as this process understood it, whatever directory it is read from later.
fn with_absolute_storage(service: &Service) -> Value {
    let mut object = service.object.clone();
    let Storage::Local(path) = &service.storage else {
        return object;
    };
    let absolute = std::path::absolute(path).unwrap_or_else(|_| path.clone());
    // Today's field and the one of KServe's older manifests.
    for field in ["/spec/predictor/model/storageUri", "/spec/predictor/onnx/storageUri"] {
        if let Some(uri) = object.pointer_mut(field) {
            *uri = Value::String(format!("file://{}", absolute.display()));
        }
    }
    object
}

/// Where a new text waits until all are written.
fn beside(path: &Path) -> PathBuf {
    path.with_extension("json.new")
}

/// Writes the new text beside the old one, so that a reader sees the one or the other.
fn write_beside(path: &Path, text: &str) -> Result<(), Error> {
    let directory = path.parent().unwrap_or(path);
    fs::create_dir_all(directory).map_err(|error| Error::state(directory, error))?;
    let written = File::create(beside(path)).and_then(|mut file| {
        file.write_all(text.as_bytes())?;
        file.sync_all()
    });
    written.map_err(|error| Error::state(path, error))
}

/// Best effort: what is left over is never read and is overwritten by the next one.
fn forget(written: &[(PathBuf, String)]) {
    for (path, _) in written {
        let _ = fs::remove_file(beside(path));
    }
}
