//! Counts as they travel from an activator to whoever scales.

use std::{collections::BTreeMap, time::Duration};

use serde::{Deserialize, Serialize};

use crate::BackendId;

/// Counts of one backend at one reporter.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct BackendCounts {
    /// Requests forwarded and not yet answered to the end.
    pub in_flight: u64,
    /// Requests that arrived and are not being forwarded: held because nothing could serve them, or with their body
    /// still being read.
    pub waiting: u64,
    /// Requests that ever arrived; never falls during the reporter's life.
    pub arrivals: u64,
    /// Integral of `in_flight + waiting` over time, in request-seconds; never falls. The difference of two snapshots
    /// over their time is the average concurrency between them, however many snapshots were lost in between.
    pub concurrency_seconds: f64,
}

/// All counts of one reporter at one time. Idle backends are listed with zeros: one that is absent is unknown.
#[derive(Clone, Debug, PartialEq)]
pub struct Snapshot {
    /// Whose counts these are.
    pub reporter: crate::ReporterId,
    /// Rises by one with each snapshot of this reporter; an older one arriving late is ignored.
    pub sequence: u64,
    /// Time since the reporter started, on its own monotonic clock.
    pub time: Duration,
    /// Every backend that the reporter has a route to.
    pub backends: BTreeMap<BackendId, BackendCounts>,
}
