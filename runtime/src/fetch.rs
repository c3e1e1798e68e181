//! Models whose path is a URI: fetched into the cache before they are loaded.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use parking_lot::Mutex;
use pilotlight_storage::{Config, Fetched, Fetcher, Uri, one_file};
use tokio::runtime::{Builder, Handle};

use crate::config::Args;

/// The extension of the files that the engine reads.
const MODEL: &str = "onnx";

/// The way from a path or URI to a file.
pub(crate) struct Remote {
    fetcher: Fetcher,
    /// What the process uses, by URI: the cache keeps it for as long.
    held: Mutex<HashMap<Uri, Fetched>>,
}

impl Remote {
    pub(crate) fn new(args: &Args) -> Self {
        Self {
            fetcher: Fetcher::new(Config {
                directory: args.cache_dir.clone(),
                limit_bytes: args.cache_size,
                ..Config::default()
            }),
            held: Mutex::default(),
        }
    }

    /// The file to load: `path` itself, or what its URI leads to. Blocks, on a thread where it may; the error is for the owner.
    pub(crate) fn file(&self, path: &Path) -> Result<PathBuf, String> {
        let text = path.to_str().unwrap_or_default();
        if !Uri::is_remote(text) {
            return Ok(text
                .strip_prefix("file://")
                .map_or_else(|| path.to_owned(), PathBuf::from));
        }
        let uri: Uri = text
            .parse()
            .map_err(|error: pilotlight_storage::Error| error.to_string())?;
        let fetched = self.fetch(&uri)?;
        let file = one_file(fetched.path(), MODEL).map_err(|error| format!("{uri}: {error}"))?;
        self.held.lock().insert(uri, fetched);
        Ok(file)
    }

    fn fetch(&self, uri: &Uri) -> Result<Fetched, String> {
        let fetch = self.fetcher.fetch(uri, None);
        let fetched = if let Ok(runtime) = Handle::try_current() {
            runtime.block_on(fetch)
        } else {
            // A check has no runtime of its own.
            let runtime = Builder::new_current_thread().enable_all().build();
            runtime
                .map_err(|error| format!("can't start the async runtime: {error}"))?
                .block_on(fetch)
        };
        fetched.map_err(|error| error.to_string())
    }
}
