//! The seam to whatever runs replicas: processes of this machine today, a cluster later.
//!
//! Commands are level-triggered, accepted at once and never wait for the platform: they say what should be, and what came
//! of it arrives as a [`PlatformEvent`]. That fits a local process table and an API server alike:
//!
//! | here | local processes | Kubernetes |
//! |---|---|---|
//! | `apply` | remembers the command line | a Deployment per revision, with 0 replicas |
//! | `scale` | starts what is missing | patches `scale` upwards |
//! | `end` | SIGTERM, then SIGKILL | pod-deletion-cost, then patches `scale` downwards |
//! | `remove` | ends all | deletes the Deployments |
//! | event | a child was spawned or exited | a watch of pods; `CrashLoopBackOff` and unschedulable ones as exits |
//!
//! A platform never ends a replica by itself: which one goes is the reconciler's choice, after the activator sealed it.
//! It doesn't decide about restarts either; a platform that restarts by itself (the kubelet) shows the new replica.

use std::{collections::BTreeMap, fmt, path::PathBuf, sync::Arc, time::Duration};

use futures_util::{future::BoxFuture, stream::BoxStream};
use pilotlight_activator::{BackendId, Endpoint, EndpointId, WakeReason};
use pilotlight_manifests::{Batching, Devices};
use pilotlight_storage::Fetched;

/// Digest of everything that takes a new process to change. Compared by text; short enough to read.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Revision(Arc<str>);

impl Revision {
    /// Takes the text as it is.
    pub fn new(text: impl AsRef<str>) -> Self {
        Self(Arc::from(text.as_ref()))
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Revision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Keeps a fetched model in the cache for as long as replicas may be started from it. Equal to any other: the path says what
/// is held.
#[derive(Clone, Debug, Default)]
pub struct Hold(pub Option<Fetched>);

impl PartialEq for Hold {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl Eq for Hold {}

/// What a replica runs.
#[derive(Clone, Debug, PartialEq)]
pub struct RuntimeSpec {
    /// The name under which the model is served.
    pub model: String,
    /// The model's file.
    pub path: PathBuf,
    /// Keeps it there, where it was fetched.
    pub hold: Hold,
    /// Arguments appended to the runtime's own.
    pub args: Vec<String>,
    /// Environment added to the platform's minimal one.
    pub env: BTreeMap<String, String>,
    /// What it computes on.
    pub devices: Devices,
    /// The batch former's options.
    pub batching: Batching,
    /// The runtime's deadline for one request.
    pub timeout: Duration,
}

/// One scalable thing: replicas that are all alike.
#[derive(Clone, Debug, PartialEq)]
pub struct Workload {
    /// The backend that its replicas serve.
    pub id: BackendId,
    /// Changes whenever a running replica would have to be replaced.
    pub revision: Revision,
    /// What a replica runs.
    pub runtime: RuntimeSpec,
    /// Hard limit of requests in flight on one replica.
    pub capacity: Option<u32>,
    /// Requests that a fresh replica may hold.
    pub initial_capacity: u32,
}

/// A replica as the platform sees it.
#[derive(Clone, Debug, PartialEq)]
pub struct Replica {
    /// Address and identity; `Draining` once the platform is ending it.
    pub endpoint: Endpoint,
    /// The revision that it runs.
    pub revision: Revision,
}

/// Why a replica is no more, or never was.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ExitCause {
    /// It was told to.
    Ended,
    /// It died without being told to.
    Died {
        /// The last error that it logged, or its status.
        message: String,
        /// Whether a signal ended it: somebody's, or the system's.
        by_signal: bool,
    },
    /// The platform could not start it.
    Refused {
        /// Which kind of refusal, for the waiting clients.
        reason: WakeReason,
        /// What happened and what helps.
        message: String,
    },
}

/// One replica's end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Exit {
    /// Which replica; a refused one may never have been listed.
    pub endpoint: EndpointId,
    /// The revision that it ran.
    pub revision: Revision,
    /// Why.
    pub cause: ExitCause,
}

/// What changed at one backend since its last event.
#[derive(Clone, Debug, PartialEq)]
pub struct PlatformEvent {
    /// Whose replicas these are.
    pub backend: BackendId,
    /// All of them, the ending ones included.
    pub replicas: Vec<Replica>,
    /// The ends since the last event, oldest first.
    pub exits: Vec<Exit>,
}

/// A line that a replica wrote to its log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogLine {
    /// Who wrote it.
    pub endpoint: EndpointId,
    /// The line without its end, cut at the platform's limit.
    pub text: String,
}

/// Runs replicas. See the module's head for how the parts of a cluster map to it.
pub trait Platform: Send + Sync + 'static {
    /// Declares a workload or replaces its definition. Starts and ends nothing: replicas of a former revision go on.
    fn apply(&self, workload: Workload);

    /// `n` replicas of the applied revision should exist, those told to end not counted. Starts what is missing, ends
    /// nothing where there are more, idempotent. A workload that was never applied is ignored.
    fn scale(&self, id: &BackendId, n: u32);

    /// Ends one replica, which gets its own time to finish what it has and is killed past the platform's limit. One that
    /// is unknown or ending already is ignored.
    fn end(&self, id: &BackendId, replica: &EndpointId);

    /// Forgets the workload and ends its replicas; their ends are still reported.
    fn remove(&self, id: &BackendId);

    /// The next change. Events of one backend that weren't taken yet are merged into one, so what is pending is bounded by
    /// the number of backends. Dropping the future loses nothing. One consumer at a time.
    fn next_event(&self) -> BoxFuture<'_, PlatformEvent>;

    /// The last `tail` lines that replicas of this backend wrote, and with `follow` every later one until the stream is
    /// dropped or the workload is removed. A follower that lags behind misses lines and is told so in the stream.
    fn logs(&self, id: &BackendId, tail: usize, follow: bool) -> BoxStream<'static, LogLine>;

    /// Ends every replica and resolves when none is left; past `limit` they are killed. Later commands are ignored.
    fn shutdown(&self, limit: Duration) -> BoxFuture<'_, ()>;
}
