//! The door of inference requests: how many may be inside at once, and whether it is still open.
//!
//! Routers in front share a replica's concurrency among themselves by agreement; the door holds it where they disagree. What
//! it refuses carries a mark, by which a router knows to go elsewhere without the client's knowing.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use crate::error::{ApiError, Code};

/// The door. Clones are the same door.
#[derive(Clone, Debug)]
pub(crate) struct Gate {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    /// `None` is unlimited.
    limit: Option<usize>,
    inside: AtomicUsize,
    closed: AtomicBool,
}

/// A request that is inside, until it is dropped.
#[derive(Debug)]
pub(crate) struct Pass {
    inner: Arc<Inner>,
}

impl Drop for Pass {
    fn drop(&mut self) {
        self.inner.inside.fetch_sub(1, Ordering::AcqRel);
    }
}

impl Gate {
    /// An open door for so many at once; 0 is unlimited.
    pub(crate) fn new(limit: usize) -> Self {
        Self {
            inner: Arc::new(Inner {
                limit: (limit > 0).then_some(limit),
                inside: AtomicUsize::new(0),
                closed: AtomicBool::new(false),
            }),
        }
    }

    /// Lets nobody in any more; those inside are not disturbed.
    pub(crate) fn close(&self) {
        self.inner.closed.store(true, Ordering::Release);
    }

    /// Lets a request in.
    ///
    /// # Errors
    /// `draining` once it is closed, `queue-full` while as many are inside as may.
    pub(crate) fn enter(&self) -> Result<Pass, ApiError> {
        let inner = &self.inner;
        if inner.closed.load(Ordering::Acquire) {
            return Err(ApiError::new(
                Code::Draining,
                "the process is ending; ask another replica",
            ));
        }
        let inside = inner.inside.fetch_add(1, Ordering::AcqRel);
        // From here on dropping it counts it out again.
        let pass = Pass {
            inner: Arc::clone(inner),
        };
        match inner.limit {
            Some(limit) if inside >= limit => {
                let why =
                    format!("{limit} requests are being answered, as many as may at once (--container-concurrency)");
                Err(ApiError::new(Code::QueueFull, why))
            }
            _ => Ok(pass),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_more_are_inside_than_may_be() {
        let gate = Gate::new(2);
        let first = gate.enter().unwrap();
        let _second = gate.enter().unwrap();
        for _ in 0..3 {
            assert_eq!(gate.enter().unwrap_err().code, Code::QueueFull);
        }
        drop(first);
        assert!(gate.enter().is_ok(), "refused ones left no trace");
    }

    #[test]
    fn a_closed_door_refuses_new_ones_with_a_mark_of_their_own() {
        let gate = Gate::new(0);
        let _inside = gate.enter().unwrap();
        gate.close();
        assert_eq!(gate.enter().unwrap_err().code, Code::Draining);
    }
}
