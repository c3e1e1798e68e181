//! Secrets of a trigger, as values: where they come from is not known here.

use std::{collections::BTreeMap, fmt};

/// Parameters of a trigger that are secret. `Debug` shows their names only.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Secrets(BTreeMap<String, String>);

impl fmt::Debug for Secrets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}

impl From<BTreeMap<String, String>> for Secrets {
    fn from(values: BTreeMap<String, String>) -> Self {
        Self(values)
    }
}

impl<const N: usize> From<[(&str, &str); N]> for Secrets {
    fn from(pairs: [(&str, &str); N]) -> Self {
        let owned = |(name, value): (&str, &str)| (name.to_owned(), value.to_owned());
        Self(pairs.map(owned).into())
    }
}

impl Secrets {
    /// A parameter; an empty one is none.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str).filter(|value| !value.is_empty())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_value_is_ever_shown() {
        let secrets = Secrets::from([("token", "sesame"), ("empty", "")]);
        assert_eq!(format!("{secrets:?}"), r#"{"empty", "token"}"#);
        assert_eq!((secrets.get("token"), secrets.get("empty")), (Some("sesame"), None));
    }
}
