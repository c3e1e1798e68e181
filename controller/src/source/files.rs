//! The hand-written files of a directory.

use std::{
    collections::BTreeMap,
    fs,
    io::{self, Read},
    path::{Path, PathBuf},
    time::Duration,
};

use pilotlight_manifests::{Fault, Parsed, Service, parse};
use tokio::time::Instant;

use crate::{config::SourceConfig, error::Error};

/// All manifests of a directory (not of its subdirectories), as they were last read.
pub(super) struct Files {
    directory: Option<PathBuf>,
    empty_grace: Duration,
    most: usize,
    most_bytes: u64,
    known: BTreeMap<PathBuf, ManifestFile>,
    unreadable: Option<(PathBuf, String)>,
}

/// One file. Its services are the last good ones.
#[derive(Debug, Default)]
pub(super) struct ManifestFile {
    text: String,
    pub(super) services: Vec<Service>,
    pub(super) faults: Vec<Fault>,
    pub(super) warnings: Vec<Fault>,
    pub(super) unreadable: Option<String>,
    emptied: Option<Instant>,
}

impl Files {
    /// Reads the directory for the first time; fails where there is none.
    pub(super) fn open(config: &SourceConfig) -> Result<Self, Error> {
        let mut files = Self {
            directory: config.directory.clone(),
            empty_grace: config.empty_grace,
            most: config.max_files,
            most_bytes: config.max_file_bytes,
            known: BTreeMap::new(),
            unreadable: None,
        };
        if let Some(directory) = &files.directory {
            list(directory).map_err(|source| match source.kind() {
                io::ErrorKind::NotFound => Error::MissingDirectory(directory.clone()),
                io::ErrorKind::NotADirectory => Error::NotADirectory(directory.clone()),
                _ => Error::Read {
                    path: directory.clone(),
                    source,
                },
            })?;
        }
        files.scan();
        Ok(files)
    }

    /// Reads what changed. Where the directory itself can't be read, everything stays.
    pub(super) fn scan(&mut self) {
        let Some(directory) = self.directory.clone() else {
            return;
        };
        let mut found = match list(&directory) {
            Ok(found) => found,
            Err(error) => {
                self.unreadable = Some((directory, error.to_string()));
                return;
            }
        };
        self.unreadable = (found.len() > self.most).then(|| {
            (
                directory,
                format!("more than {} manifests; the others are left out", self.most),
            )
        });
        found.truncate(self.most);
        self.known.retain(|path, _| found.binary_search(path).is_ok());
        for path in found {
            let text = read(&path, self.most_bytes);
            let file = self.known.entry(path.clone()).or_default();
            match text {
                Ok(text) => file.take(text, &path, self.empty_grace),
                // Deleted between the listing and the reading: the next scan doesn't list it.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => file.unreadable = Some(error.to_string()),
            }
        }
    }

    /// When a file that was emptied has to be looked at again.
    pub(super) fn settles_at(&self) -> Option<Instant> {
        self.known
            .values()
            .filter_map(|file| Some(file.emptied? + self.empty_grace))
            .min()
    }

    /// The file that declares this service.
    pub(super) fn declares(&self, key: &str) -> Option<&Path> {
        let declares = |file: &&ManifestFile| file.services.iter().any(|service| service.key() == key);
        self.known
            .iter()
            .find(|(_, file)| declares(file))
            .map(|(path, _)| path.as_path())
    }

    /// In the order of their names.
    pub(super) fn all(&self) -> impl Iterator<Item = (&PathBuf, &ManifestFile)> {
        self.known.iter()
    }

    /// Why the directory can't be read, where it can't.
    pub(super) fn unreadable(&self) -> Option<&(PathBuf, String)> {
        self.unreadable.as_ref()
    }
}

impl ManifestFile {
    /// Takes a text. One that is as before is not read again.
    fn take(&mut self, text: String, path: &Path, empty_grace: Duration) {
        self.unreadable = None;
        if text == self.text && self.emptied.is_none() {
            return;
        }
        if text.is_empty() && !self.services.is_empty() {
            let since = *self.emptied.get_or_insert_with(Instant::now);
            if since.elapsed() < empty_grace {
                return;
            }
        }
        self.emptied = None;
        self.replace(parse(&text, path));
        self.text = text;
    }

    /// With a fault in the text nobody can tell a deleted document from a broken one: what is missing stays as it was.
    fn replace(&mut self, parsed: Parsed) {
        let mut services = parsed.services;
        if !parsed.faults.is_empty() {
            let missing = |old: &Service| services.iter().all(|new| new.key() != old.key());
            let kept: Vec<Service> = self.services.iter().filter(|old| missing(old)).cloned().collect();
            services.extend(kept);
        }
        self.services = services;
        self.faults = parsed.faults;
        self.warnings = parsed.warnings;
    }
}

/// The manifests of a directory, sorted. Hidden files are editors' and ours.
fn list(directory: &Path) -> io::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory)? {
        let path = entry?.path();
        let hidden = path
            .file_name()
            .is_none_or(|name| name.as_encoded_bytes().starts_with(b"."));
        let manifest = path
            .extension()
            .is_some_and(|kind| ["yaml", "yml", "json"].iter().any(|known| kind == *known));
        if manifest && !hidden && !path.is_dir() {
            found.push(path);
        }
    }
    found.sort();
    Ok(found)
}

fn read(path: &Path, most: u64) -> io::Result<String> {
    let mut text = String::new();
    let read = fs::File::open(path)?.take(most + 1).read_to_string(&mut text)? as u64;
    if read > most {
        return Err(io::Error::other(format!("larger than {most} bytes")));
    }
    Ok(text)
}
