//! Every option of a fetcher, with its default and unit.

use std::{collections::BTreeMap, fmt, path::PathBuf, time::Duration};

use crate::{Error, retry::Policy};

/// Variables by name. Their values are secrets at times and never shown.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Environment(BTreeMap<String, String>);

impl Environment {
    /// Those of this process that are Unicode.
    pub fn of_process() -> Self {
        let all =
            std::env::vars_os().filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)));
        Self(all.collect())
    }

    /// The value of a variable; an empty one counts as none.
    pub(crate) fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str).filter(|value| !value.is_empty())
    }

    /// Whether a variable is set to `1` or `true`, in any case.
    pub(crate) fn is_true(&self, name: &str) -> bool {
        self.get(name)
            .is_some_and(|value| value == "1" || value.eq_ignore_ascii_case("true"))
    }

    /// Whether a variable is set to `0` or `false`, in any case.
    pub(crate) fn is_false(&self, name: &str) -> bool {
        self.get(name)
            .is_some_and(|value| value == "0" || value.eq_ignore_ascii_case("false"))
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(name, value)| (name.as_str(), value.as_str()))
    }
}

impl<N: Into<String>, V: Into<String>> FromIterator<(N, V)> for Environment {
    fn from_iter<I: IntoIterator<Item = (N, V)>>(all: I) -> Self {
        Self(
            all.into_iter()
                .map(|(name, value)| (name.into(), value.into()))
                .collect(),
        )
    }
}

impl fmt::Debug for Environment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}

/// Options of a [`crate::Fetcher`].
#[derive(Clone, Debug)]
pub struct Config {
    /// The folder of the cache. May be shared by processes of one machine. Default: [`default_directory`].
    pub directory: Option<PathBuf>,
    /// Bytes that the cache may hold; what was not used for longest goes first, what is in use stays. Default 50 GiB.
    pub limit_bytes: u64,
    /// Where credentials and endpoints come from. Default: the process's variables.
    pub environment: Environment,
    /// Larger objects are fetched in parts of this size, several at once. Default 8 MiB.
    pub part_bytes: u64,
    /// Parts and objects on their way at once, over all fetches. Default 8.
    pub transfers: usize,
    /// Failures in a row of one part before the fetch fails; each byte that comes starts the count anew. Default 5.
    pub tries: u32,
    /// Pause after a first failure; doubles with each in a row. Default 200 ms.
    pub retry_pause: Duration,
    /// Longest such pause. Default 10 s.
    pub retry_pause_max: Duration,
    /// For a connection. Default 5 s.
    pub connect_timeout: Duration,
    /// A server that sends nothing for this long has failed. Default 30 s.
    pub idle_timeout: Duration,
    /// Objects below one prefix, and entries of one archive; more are refused. Default 10,000.
    pub max_files: usize,
}

impl Config {
    /// The defaults with this folder.
    pub fn new(directory: impl Into<PathBuf>) -> Self {
        Self {
            directory: Some(directory.into()),
            ..Self::default()
        }
    }

    pub(crate) fn retries(&self) -> Policy {
        Policy {
            tries: self.tries.max(1),
            first: self.retry_pause,
            longest: self.retry_pause_max,
        }
    }
}

impl Default for Config {
    fn default() -> Self {
        Self {
            directory: None,
            limit_bytes: 50 << 30,
            environment: Environment::of_process(),
            part_bytes: 8 << 20,
            transfers: 8,
            tries: 5,
            retry_pause: Duration::from_millis(200),
            retry_pause_max: Duration::from_secs(10),
            connect_timeout: Duration::from_secs(5),
            idle_timeout: Duration::from_secs(30),
            max_files: 10_000,
        }
    }
}

/// The folder of the cache where none is given: `$XDG_CACHE_HOME/pilotlight` or `$HOME/.cache/pilotlight`.
pub fn default_directory() -> Result<PathBuf, Error> {
    let folder = |name: &str| {
        std::env::var_os(name)
            .map(PathBuf::from)
            .filter(|path| path.is_absolute())
    };
    folder("XDG_CACHE_HOME")
        .or_else(|| Some(folder("HOME")?.join(".cache")))
        .map(|cache| cache.join("pilotlight"))
        .ok_or_else(|| Error::Cache {
            path: "pilotlight".into(),
            detail: "neither XDG_CACHE_HOME nor HOME says where caches are".to_owned(),
        })
}

/// Reads a number of bytes: digits, and `Ki`, `Mi`, `Gi` or `Ti` for powers of 1,024. The error says what is expected.
pub fn bytes_of(text: &str) -> Result<u64, String> {
    let expected = || "give a number of bytes, such as 1073741824, 500Mi or 50Gi".to_owned();
    let digits = text.trim_end_matches(|c: char| !c.is_ascii_digit());
    let factor: u64 = match &text[digits.len()..] {
        "" => 1,
        "Ki" => 1 << 10,
        "Mi" => 1 << 20,
        "Gi" => 1 << 30,
        "Ti" => 1 << 40,
        _ => return Err(expected()),
    };
    digits
        .parse::<u64>()
        .ok()
        .and_then(|number| number.checked_mul(factor))
        .ok_or_else(expected)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_as_kubernetes_writes_them() {
        for (text, bytes) in [
            ("0", 0),
            ("1024", 1024),
            ("2Ki", 2048),
            ("50Gi", 50 << 30),
            ("1Ti", 1 << 40),
        ] {
            assert_eq!(bytes_of(text), Ok(bytes));
        }
        for text in ["", "Gi", "1GB", "-1", "1.5Gi", "99999999999Ti"] {
            assert!(bytes_of(text).is_err(), "{text}");
        }
    }

    #[test]
    fn values_of_variables_are_not_shown() {
        let environment: Environment = [("AWS_SECRET_ACCESS_KEY", "hidden")].into_iter().collect();
        let mut config = Config::new("/cache");
        config.environment = environment;
        assert!(!format!("{config:?}").contains("hidden"));
    }
}
