//! A duration in Go's notation as a field of an object.

use std::{borrow::Cow, time::Duration};

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error};

/// A duration that is written as Go writes them: `90s`, `1m30s`, `300ms`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct GoDuration(pub Duration);

impl GoDuration {
    /// Reads one of 0 or more; a bare `0` needs no unit. `None` for everything else.
    pub fn parse(text: &str) -> Option<Self> {
        crate::duration::parse(text).map(Self)
    }
}

impl<'de> Deserialize<'de> for GoDuration {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = Cow::<'de, str>::deserialize(deserializer)?;
        crate::duration::parse(&text).map(Self).ok_or_else(|| {
            D::Error::custom(format!(
                "found `{text}`, expected a duration such as `90s`, `1m30s` or `300ms`"
            ))
        })
    }
}

impl Serialize for GoDuration {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        // The smallest unit that the parser keeps.
        serializer.collect_str(&format_args!("{}us", self.0.as_micros()))
    }
}

impl JsonSchema for GoDuration {
    fn schema_name() -> Cow<'static, str> {
        "GoDuration".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string" })
    }
}
