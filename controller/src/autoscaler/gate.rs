//! The gate before zero: how long a backend has to be idle before its last replica may go.

use std::time::Duration;

/// What the gate says where the formulas want zero replicas.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gate {
    /// The formulas want more than zero, so it isn't asked.
    None,
    /// Idle long enough: zero.
    Open,
    /// Something is in flight or waits right now.
    Outstanding,
    /// Idle, but not long enough yet; at the earliest at this time.
    Until(Duration),
    /// A reporter is missing, so nothing is decided.
    Unknown,
}

/// Remembers the last sign of life.
#[derive(Clone, Copy, Debug)]
pub(super) struct IdleGate {
    active: Option<Duration>,
}

impl IdleGate {
    /// A backend whose last sign of life was at `active`; `None` never had one and may be at zero.
    pub(super) fn new(active: Option<Duration>) -> Self {
        Self { active }
    }

    /// A sign of life. An older one than the last changes nothing.
    pub(super) fn touch(&mut self, time: Duration) {
        self.active = self.active.max(Some(time));
    }

    /// Whether zero is allowed now.
    pub(super) fn check(self, now: Duration, outstanding: u64, idle_for: Duration) -> Gate {
        if outstanding > 0 {
            return Gate::Outstanding;
        }
        match self.active.map(|active| active + idle_for) {
            Some(until) if until > now => Gate::Until(until),
            _ => Gate::Open,
        }
    }
}
