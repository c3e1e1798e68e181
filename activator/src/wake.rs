//! Waking a backend that has no replica.

use std::sync::Arc;

use futures_util::future::BoxFuture;

use crate::BackendId;

/// Starts replicas for a backend. Implemented by the platform's side.
pub trait Waker: Send + Sync + 'static {
    /// Means "at least one replica" (the backend's activation scale); idempotent, never lowers, and never waits for a
    /// scaling tick. Resolves when the start is under way, not when a replica is ready. Dropping the future does not
    /// take the wake back.
    fn wake(&self, backend: &BackendId) -> BoxFuture<'static, Result<(), WakeError>>;
}

/// Why a backend can't be woken, in words that a client may read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct WakeError {
    /// Stable code.
    pub reason: WakeReason,
    /// What happened and what helps; no paths or addresses of the host beyond what the user wrote.
    pub message: Arc<str>,
}

/// The kinds of failed wakes; each has a stable code in answers and metrics.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum WakeReason {
    /// Nobody knows this backend (any more).
    UnknownBackend,
    /// Its replicas start but die or fail to load before they are ready; being retried with a growing pause.
    LoadFailed,
    /// The platform has no room (processes, memory, GPUs, quota).
    NoCapacity,
    /// The platform could not be reached or refused.
    PlatformError,
    /// `maxReplicas` is 0 or the backend is stopped.
    Disabled,
}

impl WakeReason {
    /// The code used in the `x-pilotlight-reason` header and as a metric label.
    pub fn code(self) -> &'static str {
        match self {
            Self::UnknownBackend => "unknown-backend",
            Self::LoadFailed => "load-failed",
            Self::NoCapacity => "no-capacity",
            Self::PlatformError => "platform-error",
            Self::Disabled => "disabled",
        }
    }
}
