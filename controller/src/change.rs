//! State changes in words for a terminal: what `up` prints.

use std::{fmt, path::PathBuf, sync::Arc, time::Duration};

use pilotlight_activator::EndpointId;
use pilotlight_manifests::Fault;

use crate::platform::Revision;

/// Something that a person who watches wants to know. Sent on a bounded broadcast: a reader that lags misses the oldest.
#[derive(Clone, Debug)]
pub struct Change {
    /// `namespace/name`, or `None` where it is about a file or the whole.
    pub service: Option<Arc<str>>,
    /// What happened.
    pub what: What,
}

/// The kinds of changes.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum What {
    /// A new service is routed.
    Added,
    /// Its manifest or model changed; with the new revision where processes have to be replaced.
    Changed(Option<Revision>),
    /// It is no longer declared.
    Removed,
    /// The model was loaded and run once in a check.
    ModelOk(Duration),
    /// The model can't be served.
    ModelBroken(String),
    /// So many replicas are wished for now, after so many.
    Scaled {
        /// The wish before.
        from: u32,
        /// The wish now.
        to: u32,
        /// Why it changed.
        why: Why,
    },
    /// A replica serves, so long after its start began.
    Ready(EndpointId, Duration),
    /// A replica died by itself.
    Died(EndpointId, String),
    /// The last replica of a former revision is gone.
    RolledOver(Revision),
    /// No replica is left.
    Asleep,
    /// No replica can be started; requests are told this.
    Failing(String),
    /// A document is wrong and changes nothing.
    Fault(Fault),
    /// A document holds something that isn't supported.
    Warning(Fault),
    /// A file or directory can't be read.
    Unreadable(PathBuf, String),
    /// The routes can't be set as they are.
    RoutesRefused(String),
}

/// Why the number of wished replicas changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    /// A request found none.
    Wake,
    /// The autoscaler decided.
    Load,
    /// The manifest says so.
    Declared,
}

impl What {
    /// Whether somebody has to mend something.
    pub fn is_problem(&self) -> bool {
        matches!(
            self,
            Self::ModelBroken(_)
                | Self::Died(..)
                | Self::Failing(_)
                | Self::Fault(_)
                | Self::Unreadable(..)
                | Self::RoutesRefused(_)
        )
    }
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.service {
            Some(service) => write!(f, "{service}: {}", self.what),
            None => self.what.fmt(f),
        }
    }
}

impl fmt::Display for What {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Added => f.write_str("added"),
            Self::Changed(None) => f.write_str("manifest changed"),
            Self::Changed(Some(revision)) => write!(f, "rolling over to revision {revision}"),
            Self::Removed => f.write_str("removed"),
            Self::ModelOk(took) => write!(f, "model checked in {:.0} ms", millis(*took)),
            Self::ModelBroken(error) => write!(f, "the model can't be served: {error}"),
            Self::Scaled { from, to, why } => {
                let why = match why {
                    Why::Wake => "a request waits",
                    Why::Load => "load",
                    Why::Declared => "as declared",
                };
                write!(f, "scaling from {from} to {to} ({why})")
            }
            Self::Ready(replica, took) => write!(f, "replica {replica} ready after {:.0} ms", millis(*took)),
            Self::Died(replica, cause) => write!(f, "replica {replica} died: {cause}"),
            Self::RolledOver(revision) => write!(f, "rolled over to revision {revision}"),
            Self::Asleep => f.write_str("asleep, no replica is left"),
            Self::Failing(error) => write!(f, "no replica can be started: {error}"),
            Self::Fault(fault) => write!(f, "{fault}"),
            Self::Warning(fault) => write!(f, "warning: {fault}"),
            Self::Unreadable(path, error) => write!(f, "{}: {error}", path.display()),
            Self::RoutesRefused(error) => write!(f, "the routes stay as they were: {error}"),
        }
    }
}

fn millis(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_reads_as_one_line() {
        let change = |what| {
            Change {
                service: Some("default/iris".into()),
                what,
            }
            .to_string()
        };
        let scaled = What::Scaled {
            from: 0,
            to: 1,
            why: Why::Wake,
        };
        assert_eq!(change(scaled), "default/iris: scaling from 0 to 1 (a request waits)");
        let ready = What::Ready(EndpointId::new("r-1"), Duration::from_micros(15_600));
        assert_eq!(change(ready), "default/iris: replica r-1 ready after 16 ms");
        assert!(What::Failing("no room".to_owned()).is_problem() && !What::Asleep.is_problem());
    }
}
