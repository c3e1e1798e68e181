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
///
/// As JSON: `{"reporter", "sequence", "timeSeconds", "backends": {"ns/name": {"in_flight", ...}}}`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Snapshot {
    /// Whose counts these are.
    pub reporter: crate::ReporterId,
    /// Rises by one with each snapshot of this reporter; an older one arriving late is ignored.
    pub sequence: u64,
    /// Time since the reporter started, on its own monotonic clock.
    #[serde(rename = "timeSeconds", with = "seconds")]
    pub time: Duration,
    /// Every backend that the reporter has a route to.
    pub backends: BTreeMap<BackendId, BackendCounts>,
}

/// A duration as a number of seconds.
mod seconds {
    use std::time::Duration;

    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    pub(super) fn serialize<S: Serializer>(duration: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_f64(duration.as_secs_f64())
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
        let seconds = f64::deserialize(deserializer)?;
        Duration::try_from_secs_f64(seconds).map_err(D::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ReporterId;

    #[test]
    fn a_snapshot_travels_as_json() {
        let counts = BackendCounts {
            in_flight: 1,
            waiting: 2,
            arrivals: 3,
            concurrency_seconds: 0.5,
        };
        let snapshot = Snapshot {
            reporter: ReporterId::new("a"),
            sequence: 7,
            time: Duration::from_millis(1500),
            backends: BTreeMap::from([(BackendId::new("ns/iris"), counts)]),
        };
        let json = serde_json::to_value(&snapshot).unwrap();
        assert_eq!(
            json,
            serde_json::json!({
                "reporter": "a", "sequence": 7, "timeSeconds": 1.5,
                "backends": {"ns/iris": {"in_flight": 1, "waiting": 2, "arrivals": 3, "concurrency_seconds": 0.5}},
            })
        );
        assert_eq!(serde_json::from_value::<Snapshot>(json).unwrap(), snapshot);
    }
}
