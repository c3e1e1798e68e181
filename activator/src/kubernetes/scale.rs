//! The decisions of a wake: what to write, and what an answer of the API server means for the next step.

/// The scale of a workload as it was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Known {
    /// What a write is conditioned on.
    pub(crate) version: String,
    pub(crate) replicas: i32,
}

/// What to write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// Raise the replicas to this many, if nothing has been written since.
    Raise(i32),
    /// Touch the object: a scale-down decided before fails then.
    Touch,
    /// Nothing: what is asked for is under way.
    Nothing,
}

/// What takes a workload at least to `wanted` replicas. Never lowers. `sealed`: replicas are being taken out of service,
/// which a touch stops.
pub(crate) fn step(known: &Known, wanted: i32, sealed: bool) -> Step {
    if known.replicas < wanted.max(1) {
        Step::Raise(wanted.max(1))
    } else if sealed {
        Step::Touch
    } else {
        Step::Nothing
    }
}

/// What an answer of the API server means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Meaning {
    /// Someone else wrote first: read again and decide anew, at once.
    Stale,
    /// The object does not exist (yet).
    Absent,
    /// It may work later.
    Later,
    /// It is not allowed. Right after a start the API server refuses like that too, so it is tried for some time.
    Forbidden,
    /// It never will.
    Never,
}

/// Reads a status code; `None` is an API server that did not answer.
pub(crate) fn meaning(status: Option<u16>) -> Meaning {
    match status {
        Some(409 | 422) => Meaning::Stale,
        Some(404) => Meaning::Absent,
        Some(401 | 403) => Meaning::Forbidden,
        None | Some(408 | 410 | 429 | 500..) => Meaning::Later,
        Some(_) => Meaning::Never,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_wake_never_lowers_and_leaves_at_least_what_is_asked_for(
            replicas in 0i32..100,
            wanted in -1i32..100,
            sealed: bool,
        ) {
            let known = Known { version: "1".into(), replicas };
            let after = match step(&known, wanted, sealed) {
                Step::Raise(to) => to,
                Step::Touch | Step::Nothing => replicas,
            };
            prop_assert!(after >= replicas && after >= wanted && after >= 1);
        }
    }

    #[test]
    fn replicas_that_are_being_taken_out_are_held_by_a_touch() {
        let known = Known {
            version: "1".into(),
            replicas: 2,
        };
        assert_eq!(step(&known, 1, true), Step::Touch);
        assert_eq!(step(&known, 1, false), Step::Nothing);
        assert_eq!(step(&known, 3, true), Step::Raise(3));
    }

    #[test]
    fn conflicts_are_read_again_and_an_absent_api_server_is_waited_for() {
        for (status, expected) in [
            (Some(409), Meaning::Stale),
            (Some(422), Meaning::Stale),
            (Some(404), Meaning::Absent),
            (Some(503), Meaning::Later),
            (Some(429), Meaning::Later),
            (None, Meaning::Later),
            (Some(403), Meaning::Forbidden),
            (Some(400), Meaning::Never),
        ] {
            assert_eq!(meaning(status), expected, "{status:?}");
        }
    }
}
