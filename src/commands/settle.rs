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
/// What is said of a service has to stay for this long: right after a change it may still be about the one before.
const STABLE: Duration = Duration::from_millis(250);

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
            _ if item.checked == Some(false) => Self::Pending("the model is being checked".to_owned()),
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
    let mut last = (Outcome::Pending(String::new()), begin);
    loop {
        let (outcome, current) = look(client, sent).await?;
        if outcome != last.0 {
            last = (outcome, Instant::now());
        }
        let counts = current || begin.elapsed() > TAKEN;
        let settled = last.1.elapsed() >= STABLE && !matches!(last.0, Outcome::Pending(_));
        if begin.elapsed() + PAUSE >= limit || counts && settled {
            return Ok(last.0);
        }
        sleep(PAUSE).await;
    }
}

/// What is said of the service, and whether it is said of the document that was sent.
async fn look(client: &Client, sent: &Sent) -> Result<(Outcome, bool), Failure> {
    match client.service(&sent.namespace, &sent.name).await {
        Ok(item) => {
            let item: Item = serde_json::from_value(item).unwrap_or_default();
            Ok((Outcome::of(&item), same(&item.object, &sent.object)))
        }
        // It was taken, and the controller has yet to hear of it.
        Err(Error::Refused {
            status: StatusCode::NOT_FOUND,
            ..
        }) => Ok((Outcome::Pending("not there yet".to_owned()), false)),
        Err(error) => Err(error.into()),
    }
}

/// Whether two documents are the same, `file:///model` and `/model` being one path.
fn same(a: &Value, b: &Value) -> bool {
    let plain = |object: &Value| {
        let mut object = object.clone();
        for pointer in ["/spec/predictor/model/storageUri", "/spec/predictor/onnx/storageUri"] {
            if let Some(Value::String(uri)) = object.pointer_mut(pointer)
                && let Some(path) = uri.strip_prefix("file://")
            {
                *uri = path.to_owned();
            }
        }
        object
    };
    plain(a) == plain(b)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_path_and_its_uri_are_the_same_document() {
        let of = |uri: &str| json!({"spec": {"predictor": {"minReplicas": 0, "model": {"storageUri": uri}}}});
        assert!(same(&of("file:///m.onnx"), &of("/m.onnx")));
        assert!(!same(&of("/m.onnx"), &of("/n.onnx")));
        assert!(!same(&of("/m.onnx"), &json!({})));
    }

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
