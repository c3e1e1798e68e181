//! What becomes of a request whose endpoint failed under it.

use crate::error::Code;

/// How an attempt ended without an answer for the client.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Cause {
    /// No connection came about.
    ConnectFailed,
    /// The connection closed before the request was written to it.
    Unsent,
    /// The request was (partly) sent and the connection broke before the answer's head.
    Reset,
    /// The answer's head came, then the connection broke; nothing of it was shown to the client yet.
    AnswerCut,
    /// The endpoint refused it because its queue is full.
    QueueFull,
    /// The endpoint refused it because it is ending.
    Draining,
    /// This process has no file descriptor, port or memory left for a connection; the endpoint did nothing wrong.
    NoResources,
}

impl Cause {
    /// All of them, in the order of the documentation.
    #[cfg(test)]
    pub(crate) const ALL: [Self; 7] = [
        Self::ConnectFailed,
        Self::Unsent,
        Self::Reset,
        Self::AnswerCut,
        Self::QueueFull,
        Self::Draining,
        Self::NoResources,
    ];

    /// Label of `activator_replays_total`.
    pub(crate) fn label(self) -> &'static str {
        match self {
            Self::ConnectFailed => "connect-failed",
            Self::Unsent => "unsent",
            Self::Reset => "reset",
            Self::AnswerCut => "answer-cut",
            Self::QueueFull => "queue-full",
            Self::Draining => "draining",
            Self::NoResources => "no-resources",
        }
    }

    /// Whether it says nothing about the endpoint's health, so that the request goes again without counting a try.
    pub(crate) fn is_overload(self) -> bool {
        matches!(self, Self::QueueFull | Self::Draining | Self::NoResources)
    }

    /// Whether the endpoint may have acted on the request.
    fn may_have_run(self) -> bool {
        matches!(self, Self::Reset | Self::AnswerCut)
    }
}

/// What is known of a request when an attempt failed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Attempted {
    /// Attempts that failed, this one included; overload doesn't count.
    pub(crate) failed: u32,
    /// The route's bound on them.
    pub(crate) max_tries: u32,
    /// Whether running it twice does no harm.
    pub(crate) pure: bool,
    /// Whether its whole body is still at hand.
    pub(crate) intact: bool,
}

/// What to do with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Decision {
    /// Pick again, waiting where nothing can be picked.
    Again,
    /// Hand the endpoint's refusal to the client.
    PassRefusal,
    /// Answer with this failure.
    GiveUp(Code),
}

/// The rule. A request goes again only while its body is at hand and, where the endpoint may have run it, only if it
/// is pure; never more often than the route allows.
pub(crate) fn decide(cause: Cause, attempted: Attempted) -> Decision {
    if cause.is_overload() && attempted.intact {
        return Decision::Again;
    }
    if matches!(cause, Cause::QueueFull | Cause::Draining) {
        return Decision::PassRefusal;
    }
    if !attempted.intact || (cause.may_have_run() && !attempted.pure) {
        return Decision::GiveUp(Code::ReplicaFailed);
    }
    if attempted.failed >= attempted.max_tries {
        return Decision::GiveUp(Code::ReplicasFailed);
    }
    Decision::Again
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn nothing_impure_runs_twice_and_nothing_is_tried_too_often(
            cause in proptest::sample::select(&Cause::ALL[..]),
            failed in 0u32..10,
            max_tries in 1u32..8,
            pure: bool,
            intact: bool,
        ) {
            let decision = decide(cause, Attempted { failed, max_tries, pure, intact });
            if decision == Decision::Again {
                prop_assert!(intact);
                prop_assert!(pure || !matches!(cause, Cause::Reset | Cause::AnswerCut));
                prop_assert!(failed < max_tries || cause.is_overload());
            }
            if decision == Decision::PassRefusal {
                prop_assert!(matches!(cause, Cause::QueueFull | Cause::Draining));
            }
        }
    }

    #[test]
    fn a_pure_request_is_replayed_until_its_tries_are_used_up() {
        let at = |failed| {
            decide(
                Cause::Reset,
                Attempted {
                    failed,
                    max_tries: 5,
                    pure: true,
                    intact: true,
                },
            )
        };
        assert_eq!(at(4), Decision::Again);
        assert_eq!(at(5), Decision::GiveUp(Code::ReplicasFailed));
    }

    #[test]
    fn an_opaque_request_goes_again_only_if_nothing_was_sent() {
        let after = |cause| {
            decide(
                cause,
                Attempted {
                    failed: 1,
                    max_tries: 5,
                    pure: false,
                    intact: true,
                },
            )
        };
        assert_eq!(after(Cause::ConnectFailed), Decision::Again);
        assert_eq!(after(Cause::Reset), Decision::GiveUp(Code::ReplicaFailed));
    }
}
