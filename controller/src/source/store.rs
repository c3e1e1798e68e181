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
        let mut store = Self { objects: BTreeMap::new(), faults: Vec::new(), unreadable: Vec::new(), directory };
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
        self.objects.extend(parsed.services.into_iter().map(|service| (service.key(), service)));
    }

    /// Keeps an object, its paths made absolute.
    pub(super) fn keep(&mut self, service: &Service) -> Result<Outcome, Error> {
        let path = self.path(service);
        let object = with_absolute_storage(service);
        let before = self.objects.get(&service.key());
        if before.is_some_and(|before| before.object == object) {
            return Ok(Outcome::Unchanged);
        }
        let outcome = if before.is_some() { Outcome::Configured } else { Outcome::Created };
        let text = format!("{object:#}\n");
        write(&path, &text)?;
        self.load(&text, &path);
        Ok(outcome)
    }

    /// Deletes an object; false where there is none.
    pub(super) fn remove(&mut self, key: &str) -> Result<bool, Error> {
        let Some(service) = self.objects.get(key) else { return Ok(false) };
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
        self.directory.join(format!("{}_{}.json", service.namespace, service.name))
    }
}

/// The object with its `storageUri` as this process understood it, whatever directory it is read from later.
fn with_absolute_storage(service: &Service) -> Value {
    let mut object = service.object.clone();
    if let Storage::Local(path) = &service.storage
        && let Some(uri) = object.pointer_mut("/spec/predictor/model/storageUri")
    {
        let absolute = std::path::absolute(path).unwrap_or_else(|_| path.clone());
        *uri = Value::String(format!("file://{}", absolute.display()));
    }
    object
}

/// Writes a file beside and renames it, so that a reader sees the old or the new one.
fn write(path: &Path, text: &str) -> Result<(), Error> {
    let directory = path.parent().unwrap_or(path);
    fs::create_dir_all(directory).map_err(|error| Error::state(directory, error))?;
    let beside = path.with_extension("json.new");
    let written = File::create(&beside).and_then(|mut file| {
        file.write_all(text.as_bytes())?;
        file.sync_all()
    });
    written.and_then(|()| fs::rename(&beside, path)).map_err(|error| {
        // Best effort: what is left over is overwritten by the next one.
        let _ = fs::remove_file(&beside);
        Error::state(path, error)
    })
}
