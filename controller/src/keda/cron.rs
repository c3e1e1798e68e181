//! The trigger `cron`: so many replicas between two points of a schedule.
//!
//! As KEDA: `start` and `end` are cron expressions of five fields in `timezone`, the trigger is active from a start to the
//! next end, its value is then `desiredReplicas` and otherwise 1, its target 1.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use chrono_tz::Tz;
use croner::{
    Cron,
    parser::{CronParser, Seconds, Year},
};

/// A schedule.
#[derive(Clone, Debug)]
pub struct Schedule {
    start: Cron,
    end: Cron,
    zone: Tz,
    replicas: f64,
}

/// What is wrong with a trigger's metadata.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {message}")]
pub struct MetadataError {
    /// Its key.
    pub field: &'static str,
    /// What was found, what is allowed.
    pub message: String,
}

impl MetadataError {
    pub(super) fn new(field: &'static str, message: impl Into<String>) -> Self {
        Self {
            field,
            message: message.into(),
        }
    }
}

/// The value of a required key.
pub(super) fn required<'a>(
    metadata: &'a BTreeMap<String, String>,
    field: &'static str,
) -> Result<&'a str, MetadataError> {
    let value = metadata
        .get(field)
        .map(String::as_str)
        .filter(|value| !value.is_empty());
    value.ok_or_else(|| MetadataError::new(field, "is missing"))
}

impl Schedule {
    /// Reads a trigger's metadata.
    pub fn new(metadata: &BTreeMap<String, String>) -> Result<Self, MetadataError> {
        let zone = required(metadata, "timezone")?;
        let zone = zone
            .parse()
            .map_err(|_| MetadataError::new("timezone", format!("`{zone}` is unknown")))?;
        let replicas = required(metadata, "desiredReplicas")?;
        let replicas: u32 = replicas
            .parse()
            .map_err(|_| MetadataError::new("desiredReplicas", format!("`{replicas}` is no number of replicas")))?;
        let schedule = Self {
            start: expression(metadata, "start")?,
            end: expression(metadata, "end")?,
            zone,
            replicas: replicas.into(),
        };
        if schedule.start.as_str() == schedule.end.as_str() {
            return Err(MetadataError::new("end", "must differ from `start`"));
        }
        Ok(schedule)
    }

    /// Whether `now` is between a start and its end. A schedule without a next start or end is not active.
    pub fn is_active(&self, now: DateTime<Utc>) -> bool {
        let now = now.with_timezone(&self.zone);
        let next = |cron: &Cron| cron.find_next_occurrence(&now, false).ok();
        match (next(&self.start), next(&self.end)) {
            (Some(start), Some(end)) => end <= start,
            // The last end is yet to come.
            (None, Some(_)) => true,
            (_, None) => false,
        }
    }

    /// The value at `now`; its target is 1.
    pub fn value(&self, now: DateTime<Utc>) -> f64 {
        if self.is_active(now) { self.replicas } else { 1.0 }
    }
}

fn expression(metadata: &BTreeMap<String, String>, field: &'static str) -> Result<Cron, MetadataError> {
    let text = required(metadata, field)?;
    CronParser::builder()
        .seconds(Seconds::Disallowed)
        .year(Year::Disallowed)
        .build()
        .parse(text)
        .map_err(|error| MetadataError::new(field, format!("`{text}` is no cron expression of five fields: {error}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn metadata(start: &str, end: &str, zone: &str, replicas: &str) -> BTreeMap<String, String> {
        [
            ("start", start),
            ("end", end),
            ("timezone", zone),
            ("desiredReplicas", replicas),
        ]
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
        .into()
    }

    fn at(text: &str) -> DateTime<Utc> {
        text.parse().unwrap()
    }

    #[test]
    fn it_is_active_from_a_start_to_the_next_end_in_its_zone() {
        let schedule = Schedule::new(&metadata("0 8 * * 1-5", "0 18 * * 1-5", "Europe/Berlin", "4")).unwrap();
        for (time, value) in [
            ("2026-01-05T06:59:00Z", 1.0),
            ("2026-01-05T07:01:00Z", 4.0),
            ("2026-01-05T16:59:00Z", 4.0),
            ("2026-01-05T17:01:00Z", 1.0),
            // An hour earlier in summer.
            ("2026-07-06T06:01:00Z", 4.0),
            ("2026-07-06T16:01:00Z", 1.0),
            // Saturday.
            ("2026-01-10T12:00:00Z", 1.0),
        ] {
            assert_eq!(schedule.value(at(time)), value, "{time}");
        }
    }

    #[test]
    fn it_may_go_over_midnight() {
        let schedule = Schedule::new(&metadata("0 22 * * *", "0 6 * * *", "UTC", "2")).unwrap();
        for (time, active) in [
            ("2026-01-05T23:00:00Z", true),
            ("2026-01-06T05:59:59Z", true),
            ("2026-01-06T12:00:00Z", false),
        ] {
            assert_eq!(schedule.is_active(at(time)), active, "{time}");
        }
    }

    #[test]
    fn faults_name_their_key() {
        for (metadata, field) in [
            (metadata("", "0 6 * * *", "UTC", "2"), "start"),
            (metadata("0 6 * *", "0 6 * * *", "UTC", "2"), "start"),
            (metadata("0 5 * * *", "0 0 6 * * *", "UTC", "2"), "end"),
            (metadata("0 6 * * *", "0 6 * * *", "UTC", "2"), "end"),
            (metadata("0 5 * * *", "0 6 * * *", "Mars/Base", "2"), "timezone"),
            (metadata("0 5 * * *", "0 6 * * *", "UTC", "-2"), "desiredReplicas"),
        ] {
            assert_eq!(Schedule::new(&metadata).unwrap_err().field, field);
        }
    }
}
