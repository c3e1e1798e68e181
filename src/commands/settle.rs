//! Waits until what was applied is checked: a model that can't be loaded is told to the one who applied it, and not first to
//! whoever asks it.

use std::time::Duration;

use reqwest::StatusCode;
use serde_json::Value;
use tokio::time::{Instant, sleep};

use super::Failure;
use crate::{
    api::Item,
    client::{Client, Error},
};

/// Pause between two looks.
const PAUSE: Duration = Duration::from_millis(50);
/// The controller takes up a change within a second.
const TAKEN: Duration = Duration::from_secs(2);

/// Where an applied service has got to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// It serves, or is meant not to.
    Settled,
    /// It is still being checked or started; what the last look said.
    Pending(String),
    /// It can't serve, and why.
    Failed(String),
}

impl Outcome {
    /// What one look at a service says.
    fn of(item: &Item) -> Self {
        let reason = item.reason.as_deref().unwrap_or_default();
        let message = match (&item.message, reason) {
            (Some(message), "") => message.clone(),
            (Some(message), reason) => format!("{message} ({reason})"),
            (None, reason) => reason.to_owned(),
        };
        match (item.ready, reason) {
            (true, _) | (false, "Stopped") => Self::Settled,
            (false, "" | "Checking" | "Starting") => Self::Pending(message),
            (false, _) => Self::Failed(message),
        }
    }
}

/// Something that was applied.
pub(crate) struct Sent {
    pub(crate) namespace: String,
    pub(crate) name: String,
    /// The document as it was sent.
    pub(crate) object: Value,
}

/// Looks at the service until it has settled or failed, or `limit` is over. What is said of an older document than the one
/// sent does not count, unless the new one is not shown within [`TAKEN`].
pub(crate) async fn settle(client: &Client, sent: &Sent, limit: Duration) -> Result<Outcome, Failure> {
    let begin = Instant::now();
    loop {
        let (outcome, current) = look(client, sent).await?;
        let counts = current || begin.elapsed() > TAKEN;
        let over = begin.elapsed() + PAUSE >= limit;
        if over || counts && !matches!(outcome, Outcome::Pending(_)) {
            return Ok(outcome);
        }
        sleep(PAUSE).await;
    }
}

/// What is said of the service, and whether it is said of the document that was sent.
async fn look(client: &Client, sent: &Sent) -> Result<(Outcome, bool), Failure> {
    match client.service(&sent.namespace, &sent.name).await {
        Ok(item) => {
            let item: Item = serde_json::from_value(item).unwrap_or_default();
            Ok((Outcome::of(&item), item.object == sent.object))
        }
        // It was taken, and the controller has yet to hear of it.
        Err(Error::Refused {
            status: StatusCode::NOT_FOUND,
            ..
        }) => Ok((Outcome::Pending("not there yet".to_owned()), false)),
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_look_tells_waiting_from_failing() {
        let look = |ready: bool, reason: Option<&str>| {
            let message = reason.map(|_| "why".to_owned());
            Outcome::of(&Item {
                ready,
                reason: reason.map(str::to_owned),
                message,
                ..Item::default()
            })
        };
        assert_eq!(look(true, None), Outcome::Settled);
        assert_eq!(look(false, Some("Stopped")), Outcome::Settled);
        assert_eq!(look(false, None), Outcome::Pending(String::new()));
        assert_eq!(
            look(false, Some("Checking")),
            Outcome::Pending("why (Checking)".to_owned())
        );
        assert_eq!(
            look(false, Some("Starting")),
            Outcome::Pending("why (Starting)".to_owned())
        );
        assert_eq!(
            look(false, Some("ModelInvalid")),
            Outcome::Failed("why (ModelInvalid)".to_owned())
        );
    }
}
