//! Models whose path is a URI: fetched into the cache before they are loaded.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use parking_lot::Mutex;
use pilotlight_storage::{Fetched, Fetcher, Uri, default_directory, one_file};
use tokio::runtime::Handle;

use crate::config::Args;

/// The extension of the files that the engine reads.
const MODEL: &str = "onnx";

/// The way from a path or URI to a file. The cache is opened at the first URI.
pub(crate) struct Remote {
    directory: Option<PathBuf>,
    limit_bytes: u64,
    fetcher: OnceLock<Fetcher>,
    /// What the process uses, by URI: the cache keeps it for as long.
    held: Mutex<HashMap<Uri, Fetched>>,
}

impl Remote {
    pub(crate) fn new(args: &Args) -> Self {
        Self {
            directory: args.cache_dir.clone(),
            limit_bytes: args.cache_size,
            fetcher: OnceLock::new(),
            held: Mutex::default(),
        }
    }

    /// The file to load: `path` itself, or what its URI leads to. Blocks, on a thread where it may; the error is for the owner.
    pub(crate) fn file(&self, path: &Path) -> Result<PathBuf, String> {
        let Some(uri) = path.to_str().filter(|text| Uri::is_remote(text)) else {
            let text = path.to_str().and_then(|text| text.strip_prefix("file://"));
            return Ok(text.map_or_else(|| path.to_owned(), PathBuf::from));
        };
        let uri: Uri = uri
            .parse()
            .map_err(|error: pilotlight_storage::Error| error.to_string())?;
        let fetched = self.fetch(&uri).map_err(|error| error.to_string())?;
        let file = one_file(fetched.path(), MODEL).map_err(|error| format!("{uri}: {error}"))?;
        self.held.lock().insert(uri, fetched);
        Ok(file)
    }

    fn fetch(&self, uri: &Uri) -> Result<Fetched, pilotlight_storage::Error> {
        let fetcher = self.fetcher()?;
        let fetch = fetcher.fetch(uri, None);
        if let Ok(runtime) = Handle::try_current() {
            return runtime.block_on(fetch);
        }
        // A check has no runtime of its own.
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(|error| pilotlight_storage::Error::Cache {
            path: self.directory.clone().unwrap_or_default(),
            detail: error.to_string(),
        })?;
        runtime.block_on(fetch)
    }

    fn fetcher(&self) -> Result<&Fetcher, pilotlight_storage::Error> {
        if let Some(fetcher) = self.fetcher.get() {
            return Ok(fetcher);
        }
        let directory = self.directory.clone().map_or_else(default_directory, Ok)?;
        let mut config = pilotlight_storage::Config::new(directory);
        config.limit_bytes = self.limit_bytes;
        let fetcher = Fetcher::open(config)?;
        Ok(self.fetcher.get_or_init(|| fetcher))
    }
}
