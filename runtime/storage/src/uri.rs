//! Where something is to be fetched from.

use std::{fmt, str::FromStr};

use reqwest::Url;

use crate::Error;

/// The kind of store behind a URI.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Kind {
    /// Amazon's S3 and what speaks like it.
    S3,
    /// Google Cloud Storage.
    Gcs,
    /// Azure's blobs and data lakes.
    Azure,
    /// Any HTTP server.
    Web,
}

/// A URI of remote storage, checked: `s3://BUCKET/KEY`, `gs://BUCKET/KEY`, `https://HOST/PATH`, `http://HOST/PATH`,
/// `az://CONTAINER/PATH`, `abfs://CONTAINER@ACCOUNT.dfs.core.windows.net/PATH` and
/// `https://ACCOUNT.blob.core.windows.net/CONTAINER/PATH`.
///
/// KEY and PATH are percent-encoded. They name one object or all objects below a prefix (with http one object). After
/// `#sha256=` may come the checksum of one object, 64 hexadecimal digits. Shown (also by `Debug`) without its query, which
/// may hold a signature.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Uri {
    url: Url,
    kind: Kind,
    checksum: Option<String>,
}

impl Uri {
    /// Whether `text` is the URI of remote storage rather than a path or `file://`; it may still be a wrong one.
    pub fn is_remote(text: &str) -> bool {
        text.split_once("://").is_some_and(|(scheme, _)| scheme != "file")
    }

    pub(crate) fn kind(&self) -> Kind {
        self.kind
    }

    /// With its query, without its checksum. Not to be shown.
    pub(crate) fn url(&self) -> &Url {
        &self.url
    }

    /// The demanded SHA-256 in lower-case hexadecimal digits.
    pub(crate) fn checksum(&self) -> Option<&str> {
        self.checksum.as_deref()
    }

    /// The last part of the path as it is written; empty after a slash.
    pub(crate) fn last_part(&self) -> &str {
        self.url.path().rsplit('/').next().unwrap_or_default()
    }
}

impl FromStr for Uri {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let wrong = |reason: &str| Error::Uri {
            uri: without_secrets(text),
            reason: reason.to_owned(),
        };
        if text.chars().any(|c| c.is_whitespace() || c.is_control()) {
            return Err(wrong("write spaces as %20"));
        }
        let mut url = Url::parse(text).map_err(|error| wrong(&error.to_string()))?;
        let mut kind = match url.scheme() {
            "s3" => Kind::S3,
            "gs" => Kind::Gcs,
            "az" | "azure" | "adl" | "abfs" | "abfss" => Kind::Azure,
            "http" | "https" => Kind::Web,
            _ => return Err(wrong("allowed are s3, gs, https, http, az and abfs")),
        };
        let host = url.host_str().unwrap_or_default();
        if kind == Kind::Web && is_azure(host) && url.scheme() == "https" && url.query().is_none() {
            // A query there is a signature of its own, with which plain HTTP does.
            kind = Kind::Azure;
        }
        let has_user = !url.username().is_empty() && !url.scheme().starts_with("abfs");
        if has_user || url.password().is_some() {
            return Err(wrong("give credentials in the environment, not in the URI"));
        }
        if host.is_empty() || url.path().trim_matches('/').is_empty() {
            return Err(wrong(
                "both the place (bucket, container or host) and the path are needed",
            ));
        }
        let checksum = match url.fragment() {
            None => None,
            Some(fragment) => Some(checksum(fragment).ok_or_else(|| {
                wrong("after # comes the checksum of what is fetched: #sha256= and 64 hexadecimal digits")
            })?),
        };
        url.set_fragment(None);
        Ok(Self { url, kind, checksum })
    }
}

fn is_azure(host: &str) -> bool {
    [".blob.core.windows.net", ".dfs.core.windows.net"]
        .iter()
        .any(|end| host.ends_with(end))
}

fn checksum(fragment: &str) -> Option<String> {
    let digits = fragment.strip_prefix("sha256=")?;
    (digits.len() == 64 && digits.chars().all(|c| c.is_ascii_hexdigit())).then(|| digits.to_ascii_lowercase())
}

/// A text that may be a URI, without its query, fragment, user name and password.
fn without_secrets(text: &str) -> String {
    let text = text.split(['?', '#']).next().unwrap_or_default();
    let Some((scheme, rest)) = text.split_once("://") else {
        return text.to_owned();
    };
    let (host, path) = rest.find('/').map_or((rest, ""), |at| rest.split_at(at));
    let host = match host.rsplit_once('@') {
        Some((_, host)) if !scheme.starts_with("abfs") => host,
        _ => host,
    };
    format!("{scheme}://{host}{path}")
}

impl fmt::Display for Uri {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&without_secrets(self.url.as_str()))
    }
}

impl fmt::Debug for Uri {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Uri({self})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_scheme_leads_to_its_kind_of_store() {
        for (text, kind) in [
            ("s3://bucket/models/m.onnx", Kind::S3),
            ("gs://bucket/models/", Kind::Gcs),
            ("az://container/m.onnx", Kind::Azure),
            ("abfs://container@account.dfs.core.windows.net/m.onnx", Kind::Azure),
            ("https://account.blob.core.windows.net/container/m.onnx", Kind::Azure),
            (
                "https://account.blob.core.windows.net/container/m.onnx?sig=x",
                Kind::Web,
            ),
            ("https://bucket.s3.amazonaws.com/m.onnx?X-Amz-Signature=x", Kind::Web),
            ("http://127.0.0.1:9000/m.onnx", Kind::Web),
        ] {
            assert_eq!(text.parse::<Uri>().unwrap().kind(), kind, "{text}");
        }
    }

    #[test]
    fn what_can_not_be_fetched_is_refused_with_a_remedy() {
        for (text, part) in [
            ("hf://owner/model", "allowed are s3"),
            ("s3://bucket", "path are needed"),
            ("https://example.com/", "path are needed"),
            ("s3:///key", "path are needed"),
            ("https://me:pw@example.com/m.onnx", "in the environment"),
            ("https://example.com/m.onnx#md5=1", "#sha256="),
            ("https://example.com/a b", "%20"),
        ] {
            let error = text.parse::<Uri>().unwrap_err().to_string();
            assert!(error.contains(part) && !error.contains("pw"), "{text}: {error}");
        }
    }

    #[test]
    fn a_signature_is_never_shown() {
        let uri: Uri = "https://example.com/m.onnx?sig=hidden".parse().unwrap();
        assert_eq!(uri.to_string(), "https://example.com/m.onnx");
        assert!(!format!("{uri:?}").contains("hidden"));
        assert!(uri.url().as_str().ends_with("?sig=hidden"));
    }

    #[test]
    fn a_checksum_is_taken_off() {
        let text = format!("s3://b/m.onnx#sha256={}", "AB".repeat(32));
        let uri: Uri = text.parse().unwrap();
        assert_eq!(uri.checksum(), Some(&*"ab".repeat(32)));
        assert_eq!(uri.to_string(), "s3://b/m.onnx");
    }
}
