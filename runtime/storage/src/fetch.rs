//! From a URI to a path: out of the cache where the store still has what was fetched before, else by a download.

use std::{
    fs::{self, File, TryLockError},
    io,
    path::{Path, PathBuf},
    sync::{Arc, OnceLock},
    time::Duration,
};

use tokio::sync::Semaphore;

use crate::{
    Error, Uri, archive,
    cache::{Cache, Entry, Held, Origin, RoomError, Scratch},
    config::{Config, default_directory},
    digest::{sha256, sha256_of},
    download::{Download, Failed, blocking},
    retry,
    source::{Fault, Listing, Source},
    uri::Kind,
};

/// Between two looks at whether another process has finished with the same URI.
const TURN_PAUSE: Duration = Duration::from_millis(50);

/// Times that an object may change under a fetch before it is given up.
const CHANGES: u32 = 3;

/// How far a download is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// Bytes that are there.
    pub done: u64,
    /// Bytes in all, where the store tells.
    pub total: Option<u64>,
}

/// Is told of progress, from any thread, often; it must be quick.
pub type Watch = Arc<dyn Fn(Progress) + Send + Sync>;

/// Fetches into one cache. Clones share it. Downloads at once are bounded by [`Config::transfers`].
#[derive(Clone)]
pub struct Fetcher {
    inner: Arc<Inner>,
}

struct Inner {
    config: Config,
    cache: OnceLock<Cache>,
    transfers: Semaphore,
}

impl std::fmt::Debug for Fetcher {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Fetcher").field("config", &self.inner.config).finish()
    }
}

/// What was fetched. It stays in the cache while this or a clone lives.
#[derive(Clone, Debug)]
pub struct Fetched {
    held: Arc<Held>,
}

impl Fetched {
    /// The file, or the folder of a prefix or an archive.
    pub fn path(&self) -> &Path {
        &self.held.path
    }

    /// Hexadecimal SHA-256: of a file its content's, of a folder that of its files' names and digests.
    pub fn digest(&self) -> &str {
        &self.held.digest
    }
}

impl Fetcher {
    /// Touches nothing: the cache is opened, and made where there is none, by the first fetch.
    pub fn new(config: Config) -> Self {
        let transfers = Semaphore::new(config.transfers.clamp(1, Semaphore::MAX_PERMITS));
        Self {
            inner: Arc::new(Inner {
                config,
                cache: OnceLock::new(),
                transfers,
            }),
        }
    }

    /// What the store has now, out of the cache where that is the same. Where the store can't be reached, what was fetched
    /// last is given, with a warning in the log. With a checksum in the URI, content of that checksum is given without
    /// asking the store.
    ///
    /// Waits while any process fetches the same URI. Dropped, it leaves nothing behind.
    pub async fn fetch(&self, uri: &Uri, watch: Option<Watch>) -> Result<Fetched, Error> {
        let held = self.inner.clone().fetch(uri, watch).await?;
        Ok(Fetched { held: Arc::new(held) })
    }
}

impl Inner {
    async fn fetch(self: Arc<Self>, uri: &Uri, watch: Option<Watch>) -> Result<Held, Error> {
        let inner = self.clone();
        match tokio::task::spawn_blocking(move || inner.open()).await {
            Ok(opened) => opened?,
            Err(error) => return Err(self.unusable(&error)),
        }
        let key = key(uri);
        let told = |failed: Failed| error(uri, &self.config, failed);
        if let Some(held) = self.pinned(uri, &key).await.map_err(told)? {
            return Ok(held);
        }
        let _turn = self.turn(&key).await.map_err(told)?;
        if let Some(held) = self.pinned(uri, &key).await.map_err(told)? {
            return Ok(held);
        }
        let mut changes = 0;
        loop {
            match self.current(uri, &key, watch.clone()).await {
                Err(Stop::Fault(Failed {
                    fault: Fault::Changed, ..
                })) if changes < CHANGES => changes += 1,
                Err(Stop::Fault(failed)) => return Err(told(failed)),
                Err(Stop::Error(error)) => return Err(error),
                Ok(held) => return Ok(held),
            }
        }
    }

    /// Opens the cache where that was not done yet. Blocks for moments.
    fn open(&self) -> Result<(), Error> {
        if self.cache.get().is_some() {
            return Ok(());
        }
        let directory = self.config.directory.clone().map_or_else(default_directory, Ok)?;
        let cache = Cache::open(&directory, self.config.limit_bytes).map_err(|error| self.unusable(&error))?;
        // Another fetch may have been faster.
        let _ = self.cache.set(cache);
        Ok(())
    }

    fn unusable(&self, error: &impl ToString) -> Error {
        Error::Cache {
            path: directory(&self.config),
            detail: error.to_string(),
        }
    }

    /// Is open: [`Self::fetch`] begins with that.
    fn cache(&self) -> io::Result<&Cache> {
        self.cache
            .get()
            .ok_or_else(|| io::Error::other("the cache is not open"))
    }

    /// Content that the URI's own checksum names.
    async fn pinned(self: &Arc<Self>, uri: &Uri, key: &str) -> Result<Option<Held>, Failed> {
        let Some(checksum) = uri.checksum().map(str::to_owned) else {
            return Ok(None);
        };
        let (inner, key) = (self.clone(), key.to_owned());
        blocking(move || match inner.cache()?.origin(&key) {
            Some(origin) if origin.checksum.as_ref() == Some(&checksum) => inner.cache()?.take(&origin.digest),
            _ => Ok(None),
        })
        .await
    }

    /// The one right to fetch this URI, among all processes that share the cache.
    async fn turn(self: &Arc<Self>, key: &str) -> Result<File, Failed> {
        let (inner, key) = (self.clone(), key.to_owned());
        let file = blocking(move || inner.cache()?.turn(&key)).await?;
        loop {
            match file.try_lock() {
                Ok(()) => return Ok(file),
                Err(TryLockError::WouldBlock) => tokio::time::sleep(TURN_PAUSE).await,
                Err(TryLockError::Error(error)) => return Err(Fault::Disk(error.to_string()).into()),
            }
        }
    }

    /// One look at the store, and a download where the cache has something else.
    async fn current(self: &Arc<Self>, uri: &Uri, key: &str, watch: Option<Watch>) -> Result<Held, Stop> {
        let (inner, name) = (self.clone(), key.to_owned());
        let known = blocking(move || {
            let Some(origin) = inner.cache()?.origin(&name) else {
                return Ok(None);
            };
            Ok(inner.cache()?.take(&origin.digest)?.map(|held| (origin, held)))
        })
        .await?;
        let (source, listing) = match self.list(uri).await {
            Ok(found) => found,
            Err(Failed {
                fault: Fault::Transient(detail),
                tries,
            }) => {
                // A model that was served yesterday is served today, whatever its store does.
                let Some((_, held)) = known.filter(|_| uri.checksum().is_none()) else {
                    let fault = Fault::Transient(detail);
                    return Err(Failed { fault, tries }.into());
                };
                tracing::warn!(%uri, detail, "not reachable; what was fetched last is used");
                return Ok(held);
            }
            Err(failed) => return Err(failed.into()),
        };
        let version = listing.version();
        if let Some((origin, held)) = known
            && version.is_some()
            && origin.version == version
            && uri.checksum().is_none()
        {
            return Ok(held);
        }
        self.download(uri, key, &source, &listing, watch).await
    }

    /// Lists by the first way that works, each with as many tries as it takes; the last one's failure counts.
    async fn list(&self, uri: &Uri) -> Result<(Source, Listing), Failed> {
        let ways = Source::ways(uri, &self.config)?;
        let last = ways.len().saturating_sub(1);
        let mut failed = Failed::from(Fault::NotFound);
        for (index, way) in ways.into_iter().enumerate() {
            // The machine's own credentials either are there or are not.
            let tries = if index < last { 1 } else { self.config.tries };
            match self.list_by(&way, tries).await {
                Ok(listing) => return Ok((way, listing)),
                Err(error) if error.fault == Fault::NotFound => return Err(error),
                Err(error) => failed = error,
            }
        }
        Err(failed)
    }

    async fn list_by(&self, way: &Source, most: u32) -> Result<Listing, Failed> {
        let mut policy = self.config.retries();
        policy.tries = most.max(1);
        let mut tries = 0;
        loop {
            let fault = match way.list().await {
                Ok(listing) => return Ok(listing),
                Err(fault) => fault,
            };
            tries += 1;
            let pause = match &fault {
                Fault::Transient(_) => policy.pause(tries, retry::jitter()),
                _ => None,
            };
            let Some(pause) = pause else {
                return Err(Failed { fault, tries });
            };
            tokio::time::sleep(pause).await;
        }
    }

    async fn download(
        self: &Arc<Self>,
        uri: &Uri,
        key: &str,
        source: &Source,
        listing: &Listing,
        watch: Option<Watch>,
    ) -> Result<Held, Stop> {
        let bytes = listing.bytes().unwrap_or(0);
        tracing::info!(%uri, bytes = listing.bytes(), objects = listing.objects.len(), "fetching");
        let scratch = Arc::new(self.scratch(uri, bytes).await?);
        let download = Download {
            uri,
            source,
            config: &self.config,
            transfers: &self.transfers,
            watch,
        };
        download.run(listing, &scratch.content).await?;
        let plan = Plan {
            uri: uri.clone(),
            key: key.to_owned(),
            version: listing.version(),
            single: listing.single.then(|| listing.objects[0].name.clone()),
            kind: listing
                .single
                .then(|| archive::kind(&listing.objects[0].name, listing.content_type.as_deref()))
                .flatten(),
        };
        let inner = self.clone();
        // The scratch folder goes with the work: dropped in between, the future leaves the removal to it.
        tokio::task::spawn_blocking(move || inner.finish(&scratch, plan))
            .await
            .unwrap_or_else(|error| Err(Failed::from(Fault::Disk(error.to_string())).into()))
    }

    async fn scratch(self: &Arc<Self>, uri: &Uri, bytes: u64) -> Result<Scratch, Stop> {
        let inner = self.clone();
        let made = tokio::task::spawn_blocking(move || inner.cache()?.scratch(bytes)).await;
        let made = made.map_err(|error| Failed::from(Fault::Disk(error.to_string())))?;
        made.map_err(|error| self.no_room(uri, bytes, error))
    }

    fn no_room(&self, uri: &Uri, bytes: u64, error: RoomError) -> Stop {
        let (uri, limit) = (uri.to_string(), self.config.limit_bytes);
        match error {
            RoomError::TooLarge => Stop::Error(Error::TooLarge { uri, bytes, limit }),
            RoomError::InUse { in_use } => Stop::Error(Error::NoRoom {
                uri,
                bytes,
                in_use,
                limit,
            }),
            RoomError::Io(error) => Failed::from(Fault::Disk(error.to_string())).into(),
        }
    }

    /// Checks, unpacks and keeps what was downloaded. Blocks.
    fn finish(&self, scratch: &Scratch, plan: Plan) -> Result<Held, Stop> {
        let uri = &plan.uri;
        let disk = |error: io::Error| Stop::from(Failed::from(Fault::Disk(error.to_string())));
        let mut checksum = None;
        if let Some(name) = &plan.single {
            checksum = Some(file_digest(&scratch.content.join(name)).map_err(disk)?);
        }
        if let Some(expected) = uri.checksum()
            && checksum.as_deref() != Some(expected)
        {
            return Err(Stop::Error(match checksum {
                Some(found) => Error::Checksum {
                    uri: uri.to_string(),
                    expected: expected.to_owned(),
                    found,
                },
                None => Error::Refused {
                    uri: uri.to_string(),
                    detail: "a checksum is of one object, and this is a folder of several".to_owned(),
                },
            }));
        }
        let mut file = plan.single.clone();
        if let (Some(kind), Some(name)) = (plan.kind, &plan.single) {
            self.unpack(scratch, name, kind).map_err(|refusal| match refusal {
                archive::Refusal::Disk(error) => disk(error),
                other => Stop::Error(Error::Archive {
                    uri: uri.to_string(),
                    detail: other.to_string(),
                }),
            })?;
            file = None;
        }
        let (bytes, tree) = tree(&scratch.content).map_err(disk)?;
        let digest = match (&file, &checksum) {
            (Some(_), Some(checksum)) => checksum.clone(),
            _ => tree,
        };
        let cache = self.cache().map_err(disk)?;
        let held = cache
            .keep(scratch, &digest, &Entry { bytes, file })
            .map_err(|error| self.no_room(uri, bytes, error))?;
        let origin = Origin {
            uri: uri.to_string(),
            version: plan.version,
            digest,
            checksum,
        };
        cache.set_origin(&plan.key, &origin).map_err(disk)?;
        Ok(held)
    }

    /// Puts what is in the archive in its place.
    fn unpack(&self, scratch: &Scratch, name: &str, kind: archive::Kind) -> Result<(), archive::Refusal> {
        let packed = scratch.content.with_file_name("archive");
        fs::rename(scratch.content.join(name), &packed).map_err(archive::Refusal::Disk)?;
        let limits = archive::Limits {
            bytes: self.config.limit_bytes,
            entries: self.config.max_files,
        };
        archive::unpack(&packed, kind, &scratch.content, limits)?;
        fs::remove_file(packed).map_err(archive::Refusal::Disk)
    }
}

/// What is to be done with a download.
struct Plan {
    uri: Uri,
    key: String,
    version: Option<String>,
    single: Option<String>,
    kind: Option<archive::Kind>,
}

/// Why a fetch ended.
enum Stop {
    Fault(Failed),
    Error(Error),
}

impl From<Failed> for Stop {
    fn from(failed: Failed) -> Self {
        Self::Fault(failed)
    }
}

/// The cache's name for a URI; tells nothing of a signature in it.
fn key(uri: &Uri) -> String {
    sha256(uri.url().as_str().as_bytes())[..32].to_owned()
}

fn file_digest(path: &Path) -> io::Result<String> {
    sha256_of(&mut File::open(path)?)
}

/// Bytes of all files of a folder, and the digest of their names and digests.
fn tree(folder: &Path) -> io::Result<(u64, String)> {
    let (mut bytes, mut lines) = (0, Vec::new());
    let mut folders = vec![folder.to_owned()];
    while let Some(next) = folders.pop() {
        for entry in fs::read_dir(next)? {
            let path: PathBuf = entry?.path();
            if path.is_dir() {
                folders.push(path);
                continue;
            }
            bytes += fs::metadata(&path)?.len();
            let name = path
                .strip_prefix(folder)
                .unwrap_or(&path)
                .to_string_lossy()
                .into_owned();
            lines.push(format!("{name}\0{}\n", file_digest(&path)?));
        }
    }
    lines.sort();
    Ok((bytes, sha256(lines.concat().as_bytes())))
}

/// What the caller is told.
fn error(uri: &Uri, config: &Config, Failed { fault, tries }: Failed) -> Error {
    let shown = uri.to_string();
    match fault {
        Fault::NotFound => Error::NotFound { uri: shown },
        Fault::Denied(detail) => Error::Denied {
            uri: shown,
            detail,
            remedy: remedy(uri.kind()),
        },
        Fault::Changed => Error::Changed { uri: shown },
        Fault::Transient(detail) => Error::Unreachable {
            uri: shown,
            detail,
            tries,
        },
        Fault::Refused(detail) => Error::Refused { uri: shown, detail },
        Fault::TooMany => Error::TooMany {
            uri: shown,
            limit: config.max_files,
        },
        Fault::TooLarge(bytes) => Error::TooLarge {
            uri: shown,
            bytes,
            limit: config.limit_bytes,
        },
        Fault::Disk(detail) => Error::Cache {
            path: directory(config),
            detail,
        },
    }
}

/// For messages.
fn directory(config: &Config) -> PathBuf {
    let given = config.directory.clone();
    given.or_else(|| default_directory().ok()).unwrap_or_default()
}

fn remedy(kind: Kind) -> &'static str {
    match kind {
        Kind::S3 => "give AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_SKIP_SIGNATURE=true for a public bucket",
        Kind::Gcs => "give GOOGLE_APPLICATION_CREDENTIALS, the path of a service account's key",
        Kind::Azure => {
            "give AZURE_STORAGE_ACCOUNT_NAME and AZURE_STORAGE_ACCOUNT_KEY, or AZURE_TENANT_ID, AZURE_CLIENT_ID and \
             AZURE_CLIENT_SECRET"
        }
        Kind::Web => "give the headers that it wants in the variable HOST-headers, a JSON object",
    }
}
