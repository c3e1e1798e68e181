//! Whether a sleeping backend's waker has to be called, and what it said last.

use crate::WakeError;

/// The state of waking one backend.
#[derive(Debug, Default)]
pub(crate) struct Waking {
    /// A call of the waker is under way.
    calling: bool,
    /// The waker said yes and no live endpoint has shown up since.
    asked: bool,
    /// Rises whenever the backend loses its last live endpoint: an answer given before says nothing any more.
    epoch: u64,
    failure: Option<Failed>,
}

#[derive(Debug)]
struct Failed {
    error: WakeError,
    /// The last request that had arrived by then.
    upto: u64,
}

/// What an answer of the waker means.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    /// Nothing: the backend lost its endpoints since the call. Call again, as begun at this epoch.
    Stale(u64),
    /// A start is under way: look again after a while whether an endpoint showed up.
    Started,
    /// It can't be woken.
    Failed(WakeError),
}

impl Waking {
    /// Begins a call, unless one is under way or was answered yes. [`Self::answered`] has to follow.
    pub(crate) fn begin(&mut self) -> Option<u64> {
        if self.calling || self.asked {
            return None;
        }
        self.calling = true;
        Some(self.epoch)
    }

    /// The waker answered the call begun at `epoch`. `needed`: requests still wait for a live endpoint.
    pub(crate) fn answered(&mut self, epoch: u64, needed: bool, result: Result<(), WakeError>) -> Answer {
        if epoch != self.epoch && needed {
            return Answer::Stale(self.epoch);
        }
        self.calling = false;
        match result {
            Ok(()) => {
                self.failure = None;
                self.asked = needed;
                Answer::Started
            }
            Err(error) => Answer::Failed(error),
        }
    }

    /// Ask again at the next opportunity: some time after a yes, or since something changed.
    pub(crate) fn forget_answer(&mut self) {
        self.asked = false;
    }

    /// The last live endpoint was lost.
    pub(crate) fn lost(&mut self) {
        self.asked = false;
        self.epoch += 1;
    }

    /// Waking failed; requests up to the `upto`th are told.
    pub(crate) fn failed(&mut self, error: WakeError, upto: u64) {
        self.failure = Some(Failed { error, upto });
    }

    /// Nothing stands against waking any more.
    pub(crate) fn recovered(&mut self) {
        self.failure = None;
    }

    /// Why the last wake failed, until [`Self::recovered`] or a yes.
    pub(crate) fn failure(&self) -> Option<&WakeError> {
        self.failure.as_ref().map(|failed| &failed.error)
    }

    /// The failure that already answered the request with this ticket, which came too late to be told: its body was
    /// still being read. Later requests ask anew.
    pub(crate) fn failure_for(&self, ticket: u64) -> Option<&WakeError> {
        let failed = self.failure.as_ref()?;
        (ticket <= failed.upto && !self.calling && !self.asked).then_some(&failed.error)
    }
}
