//! When to look at the files again: told by the system, or by polling where it can't tell.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use notify::{
    EventKind, RecommendedWatcher, RecursiveMode, Watcher,
    event::{AccessKind, AccessMode},
};
use tokio::{
    sync::Notify,
    time::{Instant, sleep, sleep_until, timeout_at},
};

use crate::config::SourceConfig;

/// Polling where directories can't be watched; a change has to take effect within a second.
const POLL: Duration = Duration::from_millis(500);

/// Watches a changing set of directories, without their subdirectories.
pub(super) struct Watch {
    watcher: Option<RecommendedWatcher>,
    told: Arc<Notify>,
    followed: BTreeSet<PathBuf>,
    blind: bool,
    debounce: Duration,
    debounce_limit: Duration,
    rescan: Duration,
}

impl Watch {
    pub(super) fn new(config: &SourceConfig) -> Self {
        let told = Arc::new(Notify::new());
        let tell = told.clone();
        let watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
            // An error may mean lost events: look.
            if event.map_or(true, |event| matters(event.kind)) {
                tell.notify_one();
            }
        });
        if let Err(error) = &watcher {
            tracing::warn!(%error, "files can't be watched; looking twice a second instead");
        }
        Self {
            watcher: watcher.ok(),
            told,
            followed: BTreeSet::new(),
            blind: false,
            debounce: config.debounce,
            debounce_limit: config.debounce_limit,
            rescan: config.rescan,
        }
    }

    /// Watches these directories and no others.
    pub(super) fn follow(&mut self, directories: Vec<PathBuf>) {
        let Some(watcher) = &mut self.watcher else { return };
        let wanted: BTreeSet<PathBuf> = directories.into_iter().collect();
        for gone in self.followed.difference(&wanted) {
            // A deleted directory is unwatched by itself.
            let _ = watcher.unwatch(gone);
        }
        let mut followed: BTreeSet<PathBuf> = self.followed.intersection(&wanted).cloned().collect();
        self.blind = false;
        for new in wanted.difference(&self.followed) {
            match watch(watcher, new) {
                Ok(()) => drop(followed.insert(new.clone())),
                Err(error) => {
                    tracing::debug!(directory = %new.display(), %error, "can't be watched");
                    self.blind = true;
                }
            }
        }
        self.followed = followed;
    }

    /// Resolves when it is time to look: a change and then quiet, or the time of a look without being told.
    pub(super) async fn changed(&self) {
        let blind = self.blind || self.watcher.is_none();
        let rescan = sleep(if blind { POLL } else { self.rescan });
        tokio::select! {
            () = self.told.notified() => self.quiet().await,
            () = rescan => {}
        }
    }

    /// Waits until nothing more happens, but not for ever.
    async fn quiet(&self) {
        let limit = Instant::now() + self.debounce_limit;
        loop {
            let quiet = Instant::now() + self.debounce;
            if quiet >= limit {
                return sleep_until(limit).await;
            }
            if timeout_at(quiet, self.told.notified()).await.is_err() {
                return;
            }
        }
    }
}

fn watch(watcher: &mut RecommendedWatcher, directory: &Path) -> notify::Result<()> {
    watcher.watch(directory, RecursiveMode::NonRecursive)
}

/// Reading a file is no change (we read them ourselves); closing one after writing is.
fn matters(kind: EventKind) -> bool {
    match kind {
        EventKind::Access(access) => access == AccessKind::Close(AccessMode::Write),
        _ => true,
    }
}
