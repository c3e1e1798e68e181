//! Brings the objects of a listing into a folder: large ones in parts, several at once, each part tried again from where
//! it broke off.

use std::{
    fs::{self, File},
    io,
    ops::Range,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use futures_util::{StreamExt, TryStreamExt, stream};
use tokio::{sync::Semaphore, time::Instant};

use crate::{
    Uri,
    config::Config,
    fetch::{Progress, Watch},
    retry,
    source::{Fault, Listing, Object, Source, is_safe},
};

/// Progress is told at most this often.
const TOLD_EVERY: Duration = Duration::from_secs(2);

/// Bytes that are gathered before they are written.
const WRITE_BYTES: usize = 1 << 20;

/// What one download works with.
pub(crate) struct Download<'a> {
    pub(crate) uri: &'a Uri,
    pub(crate) source: &'a Source,
    pub(crate) config: &'a Config,
    /// Shared by all downloads of a fetcher.
    pub(crate) transfers: &'a Semaphore,
    pub(crate) watch: Option<Watch>,
}

/// One answer's worth of bytes.
struct Part {
    object: Arc<Object>,
    file: Arc<File>,
    range: Option<Range<u64>>,
}

impl Download<'_> {
    /// Writes all objects below `folder`, synchronised to the disk. On an error, or dropped, some are there in part: the
    /// folder is the caller's to remove.
    pub(crate) async fn run(&self, listing: &Listing, folder: &Path) -> Result<(), Failed> {
        let meter = Meter::new(self.uri, listing.bytes(), self.watch.clone());
        let mut parts = Vec::new();
        let mut files = Vec::new();
        for object in &listing.objects {
            let file = create(folder, object).map_err(|error| disk(&error))?;
            parts.extend(self.parts(&Arc::new(object.clone()), &file));
            files.push(file);
        }
        stream::iter(parts)
            .map(|part| self.part(part, &meter))
            .buffer_unordered(self.config.transfers.max(1))
            .try_collect::<Vec<()>>()
            .await?;
        blocking(move || files.iter().try_for_each(|file| file.sync_all())).await?;
        meter.end();
        Ok(())
    }

    fn parts(&self, object: &Arc<Object>, file: &Arc<File>) -> Vec<Part> {
        let part = |range| Part {
            object: Arc::clone(object),
            file: Arc::clone(file),
            range,
        };
        let step = self.config.part_bytes.max(1);
        match object.size {
            Some(0) => Vec::new(),
            Some(size) if object.ranges => (0..size.div_ceil(step))
                .map(|index| part(Some(index * step..((index + 1) * step).min(size))))
                .collect(),
            _ => vec![part(None)],
        }
    }

    /// One part, with as many tries as it takes.
    async fn part(&self, part: Part, meter: &Meter<'_>) -> Result<(), Failed> {
        // The semaphore is never closed.
        let _turn = self.transfers.acquire().await;
        let (mut done, mut failed, mut tries) = (0, 0, 0);
        loop {
            tries += 1;
            let before = done;
            let Err(fault) = self.attempt(&part, &mut done, meter).await else {
                return Ok(());
            };
            if part.range.is_none() {
                meter.take_back(done);
                done = 0;
            } else if done > before {
                failed = 0;
            }
            failed += 1;
            let pause = match &fault {
                Fault::Transient(_) => self.config.retries().pause(failed, retry::jitter()),
                _ => None,
            };
            let Some(pause) = pause else {
                return Err(Failed { fault, tries });
            };
            tracing::debug!(uri = %self.uri, ?fault, pause_ms = pause.as_millis(), "a transfer broke off");
            tokio::time::sleep(pause).await;
        }
    }

    /// One try; `done` bytes of the part are there already.
    async fn attempt(&self, part: &Part, done: &mut u64, meter: &Meter<'_>) -> Result<(), Fault> {
        let start = part.range.as_ref().map_or(0, |range| range.start);
        let range = part.range.as_ref().map(|range| range.start + *done..range.end);
        let expected = part
            .range
            .as_ref()
            .map(|range| range.end - range.start)
            .or(part.object.size);
        let mut bytes = self.source.read(&part.object, range).await?;
        let mut gathered = Vec::new();
        loop {
            let next = tokio::time::timeout(self.config.idle_timeout, bytes.next()).await;
            let (ended, broken) = match next {
                Ok(Some(Ok(chunk))) => {
                    gathered.extend_from_slice(&chunk);
                    (false, None)
                }
                Ok(Some(Err(fault))) => (true, Some(fault)),
                Ok(None) => (true, None),
                Err(_) => (true, Some(Fault::Transient("it sends nothing any more".to_owned()))),
            };
            if ended || gathered.len() >= WRITE_BYTES {
                let (file, at, length) = (Arc::clone(&part.file), start + *done, gathered.len() as u64);
                let all = std::mem::take(&mut gathered);
                if expected.is_some_and(|expected| *done + length > expected) {
                    return Err(Fault::Transient("it sends more than it said".to_owned()));
                }
                if at + length > self.config.limit_bytes {
                    return Err(Fault::TooLarge(at + length));
                }
                blocking(move || file.write_all_at(&all, at))
                    .await
                    .map_err(|failed| failed.fault)?;
                *done += length;
                meter.add(length);
            }
            if let Some(fault) = broken {
                return Err(fault);
            }
            if ended {
                return match expected {
                    Some(expected) if *done < expected => {
                        Err(Fault::Transient(format!("it ended after {done} of {expected} bytes")))
                    }
                    _ => Ok(()),
                };
            }
        }
    }
}

/// A fault that ended a fetch, and the tries before it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Failed {
    pub(crate) fault: Fault,
    pub(crate) tries: u32,
}

impl From<Fault> for Failed {
    fn from(fault: Fault) -> Self {
        Self { fault, tries: 1 }
    }
}

fn disk(error: &io::Error) -> Failed {
    Fault::Disk(error.to_string()).into()
}

/// Work with the disk, off the async threads. It goes on where the future is dropped.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> Result<T, Failed> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result.map_err(|error| disk(&error)),
        Err(error) => Err(Fault::Disk(error.to_string()).into()),
    }
}

fn create(folder: &Path, object: &Object) -> io::Result<Arc<File>> {
    if !is_safe(&object.name) {
        let error = format!("the name {:?} leads out of the folder", object.name);
        return Err(io::Error::new(io::ErrorKind::InvalidInput, error));
    }
    let path: PathBuf = folder.join(&object.name);
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent)?;
    }
    let file = File::create_new(path)?;
    if let Some(size) = object.size {
        file.set_len(size)?;
    }
    Ok(Arc::new(file))
}

/// Counts what came and tells of it.
struct Meter<'a> {
    uri: &'a Uri,
    total: Option<u64>,
    done: AtomicU64,
    started: Instant,
    told: parking_lot::Mutex<Instant>,
    watch: Option<Watch>,
}

impl<'a> Meter<'a> {
    fn new(uri: &'a Uri, total: Option<u64>, watch: Option<Watch>) -> Self {
        let now = Instant::now();
        Self {
            uri,
            total,
            done: AtomicU64::new(0),
            started: now,
            told: parking_lot::Mutex::new(now),
            watch,
        }
    }

    fn add(&self, bytes: u64) {
        let done = self.done.fetch_add(bytes, Ordering::Relaxed) + bytes;
        if let Some(watch) = &self.watch {
            watch(Progress {
                done,
                total: self.total,
            });
        }
        let now = Instant::now();
        let mut told = self.told.lock();
        if now.duration_since(*told) >= TOLD_EVERY {
            *told = now;
            let percent = self.total.filter(|total| *total > 0).map(|total| done * 100 / total);
            tracing::info!(uri = %self.uri, done_bytes = done, total_bytes = self.total, percent, "fetching");
        }
    }

    fn take_back(&self, bytes: u64) {
        self.done.fetch_sub(bytes, Ordering::Relaxed);
    }

    fn end(&self) {
        let (done, took) = (self.done.load(Ordering::Relaxed), self.started.elapsed());
        let rate = done as f64 / took.as_secs_f64().max(1e-3) / f64::from(1 << 20);
        tracing::info!(uri = %self.uri, bytes = done, seconds = took.as_secs_f64(), mib_per_second = rate, "fetched");
    }
}
