//! What the status says of a service with a standby tier.

use serde_json::Value;

use super::{Transition, Verdict, condition, find, reason, text};

/// How a service with a standby tier stands to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Tier {
    /// It sleeps, and its next wake may claim a pod.
    Armed,
    /// It sleeps, and is not ready for a claim yet.
    Arming,
    /// It is awake, in pods that were made for it.
    Awake,
    /// It is awake, in a pod that was claimed.
    Claimed {
        /// Name of the pod.
        pod: String,
    },
}

impl Tier {
    /// From what is seen: the pod that was claimed, where there is one; `replicas` of its Deployment, and whether a claim is allowed.
    pub(crate) fn of(claimed: Option<String>, replicas: u32, armed: bool) -> Self {
        match claimed {
            Some(pod) => Self::Claimed { pod },
            None if replicas > 0 => Self::Awake,
            None if armed => Self::Armed,
            None => Self::Arming,
        }
    }

    pub(super) fn verdict(&self) -> Verdict {
        match self {
            Self::Armed => Verdict {
                reason: reason::STANDBY_ARMED,
                message: "the next request claims a standby pod, if one is ready".to_owned(),
                ..Verdict::yes()
            },
            Self::Arming => Verdict::unknown(reason::STANDBY_ARMING, "its Deployment is prepared for a claim"),
            Self::Awake => Verdict::no(reason::AWAKE, "it runs in pods of its own"),
            Self::Claimed { pod } => {
                Verdict::no(reason::STANDBY_CLAIMED, format!("the standby pod {pod} took its model"))
            }
        }
    }
}

/// A claim, and that the next one may come: once each, whatever the condition was before.
pub(super) fn transition(former: &Value, status: &Value) -> Option<Transition> {
    let (before, after) = (
        find(former, condition::STANDBY_READY),
        find(status, condition::STANDBY_READY),
    );
    let said = |condition| {
        (
            text(condition, "reason").to_owned(),
            text(condition, "message").to_owned(),
        )
    };
    let (reason, note) = said(after);
    let worth_it = [reason::STANDBY_ARMED, reason::STANDBY_CLAIMED].contains(&reason.as_str());
    (worth_it && said(before) != (reason.clone(), note.clone())).then_some(Transition {
        warning: false,
        reason,
        note,
    })
}
