//! Object stores: S3, Google Cloud Storage, Azure.

use std::{error::Error as StdError, ops::Range, sync::Arc, time::Duration};

use futures_util::{StreamExt, TryStreamExt};
use object_store::{
    BackoffConfig, GetOptions, GetRange, ObjectMeta, ObjectStore, ObjectStoreScheme, RetryConfig, path::Path,
};

use super::{Bytestream, Fault, Listing, Object, is_safe, settings};
use crate::{
    config::Config,
    uri::{Kind, Uri},
};

/// A way to one bucket or container.
pub(crate) struct Cloud {
    store: Arc<dyn ObjectStore>,
    path: Path,
    /// The URI ends with a slash: it can only be a folder.
    folder: bool,
    max_files: usize,
    /// For one question; answers with content have no limit but the one over silence.
    timeout: Duration,
}

impl Cloud {
    /// See [`super::Source::ways`].
    pub(super) fn ways(uri: &Uri, config: &Config) -> Result<Vec<Self>, Fault> {
        let refused = |error: object_store::Error| fault(&error);
        let (_, path) = ObjectStoreScheme::parse(uri.url()).map_err(|error| Fault::Refused(error.to_string()))?;
        let env = &config.environment;
        let mut stores: Vec<Arc<dyn ObjectStore>> = Vec::new();
        match uri.kind() {
            Kind::S3 => {
                let builder = settings::s3(uri, config).map_err(Fault::Refused)?.with_retry(retries());
                if !settings::s3_says(env) {
                    stores.push(Arc::new(
                        builder.clone().with_skip_signature(true).build().map_err(refused)?,
                    ));
                }
                stores.insert(0, Arc::new(builder.build().map_err(refused)?));
            }
            Kind::Gcs => {
                let builder = settings::gcs(uri, config).with_retry(retries());
                if !settings::gcs_says(env) {
                    stores.push(Arc::new(
                        builder.clone().with_skip_signature(true).build().map_err(refused)?,
                    ));
                }
                stores.insert(0, Arc::new(builder.build().map_err(refused)?));
            }
            Kind::Azure | Kind::Web => {
                let builder = settings::azure(uri, config).with_retry(retries());
                if !settings::azure_says(env) {
                    stores.push(Arc::new(
                        builder.clone().with_skip_signature(true).build().map_err(refused)?,
                    ));
                }
                stores.insert(0, Arc::new(builder.build().map_err(refused)?));
            }
        }
        let way = |store| Self {
            store,
            path: path.clone(),
            folder: uri.url().path().ends_with('/'),
            max_files: config.max_files,
            timeout: config.idle_timeout.saturating_mul(2),
        };
        Ok(stores.into_iter().map(way).collect())
    }

    /// The object of this name, else all objects below it.
    pub(super) async fn list(&self) -> Result<Listing, Fault> {
        let listed = async {
            if !self.folder {
                match self.head().await {
                    Ok(meta) => return single(&meta),
                    Err(Fault::NotFound) => {}
                    Err(fault @ Fault::Denied(_)) => return Err(self.why_denied().await.unwrap_or(fault)),
                    Err(fault) => return Err(fault),
                }
            }
            self.below().await
        };
        tokio::time::timeout(self.timeout, listed)
            .await
            .unwrap_or_else(|_| Err(Fault::Transient("no answer to the listing".to_owned())))
    }

    async fn head(&self) -> Result<ObjectMeta, Fault> {
        let options = GetOptions {
            head: true,
            ..GetOptions::default()
        };
        let answer = self.store.get_opts(&self.path, options).await;
        answer.map(|answer| answer.meta).map_err(|error| fault(&error))
    }

    /// The code of a refusal is in its body, which the answer to `HEAD` hasn't got.
    async fn why_denied(&self) -> Option<Fault> {
        let options = GetOptions {
            range: Some(GetRange::Bounded(0..1)),
            ..GetOptions::default()
        };
        let answer = self.store.get_opts(&self.path, options).await;
        answer.err().map(|error| fault(&error))
    }

    async fn below(&self) -> Result<Listing, Fault> {
        let mut listed = self.store.list(Some(&self.path));
        let mut objects = Vec::new();
        while let Some(meta) = listed.try_next().await.map_err(|error| fault(&error))? {
            let name: Vec<_> = match meta.location.prefix_match(&self.path) {
                Some(parts) => parts.map(|part| part.as_ref().to_owned()).collect(),
                None => continue,
            };
            let object = object(&meta, name.join("/"))?;
            // Markers of empty folders.
            if object.size == Some(0) && meta.location.as_ref().ends_with('/') || object.name.is_empty() {
                continue;
            }
            objects.push(object);
            if objects.len() > self.max_files {
                return Err(Fault::TooMany);
            }
        }
        if objects.is_empty() {
            return Err(Fault::NotFound);
        }
        objects.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(Listing {
            objects,
            single: false,
            content_type: None,
        })
    }

    pub(super) async fn read(&self, object: &Object, range: Option<Range<u64>>) -> Result<Bytestream, Fault> {
        let options = GetOptions {
            range: range.map(GetRange::Bounded),
            if_match: object.ranges.then(|| object.version.clone()).flatten(),
            ..GetOptions::default()
        };
        let path = Path::parse(&object.key).map_err(|error| Fault::Refused(error.to_string()))?;
        let answer = self
            .store
            .get_opts(&path, options)
            .await
            .map_err(|error| fault(&error))?;
        Ok(answer.into_stream().map_err(|error| fault(&error)).boxed())
    }
}

/// Few and fast: who fetches tries again by its own rule.
fn retries() -> RetryConfig {
    RetryConfig {
        backoff: BackoffConfig {
            init_backoff: Duration::from_millis(100),
            max_backoff: Duration::from_secs(1),
            base: 2.0,
        },
        max_retries: 1,
        retry_timeout: Duration::from_secs(30),
    }
}

fn single(meta: &ObjectMeta) -> Result<Listing, Fault> {
    let name = meta.location.filename().unwrap_or("model").to_owned();
    Ok(Listing {
        objects: vec![object(meta, name)?],
        single: true,
        content_type: None,
    })
}

fn object(meta: &ObjectMeta, name: String) -> Result<Object, Fault> {
    if !name.is_empty() && !is_safe(&name) {
        return Err(Fault::Refused(format!("the object's name {name:?} can't be a path")));
    }
    // `If-Match` compares strongly, which weak tags never pass.
    let tag = meta.e_tag.clone().filter(|tag| !tag.starts_with("W/"));
    Ok(Object {
        name,
        key: meta.location.as_ref().to_owned(),
        size: Some(meta.size),
        ranges: tag.is_some(),
        version: Some(tag.unwrap_or_else(|| meta.last_modified.to_rfc3339())),
    })
}

/// What an error of the store's client means for us. Its text may hold addresses and bodies, so only status, code and the
/// system's own words are taken from it.
fn fault(error: &object_store::Error) -> Fault {
    use object_store::Error as E;
    match error {
        E::NotFound { .. } => Fault::NotFound,
        E::PermissionDenied { .. } | E::Unauthenticated { .. } => Fault::Denied(words(error)),
        E::Precondition { .. } | E::NotModified { .. } => Fault::Changed,
        E::Generic { .. } => generic(error),
        _ => Fault::Refused(words(error)),
    }
}

fn generic(error: &object_store::Error) -> Fault {
    let text = error.to_string();
    if text.contains("redirect without LOCATION") {
        return Fault::Refused("the bucket is in another region: give AWS_REGION".to_owned());
    }
    match status(&text) {
        Some(401 | 403) => Fault::Denied(words(error)),
        Some(status) if status >= 500 || matches!(status, 408 | 425 | 429) => Fault::Transient(words(error)),
        Some(_) => Fault::Refused(words(error)),
        None => Fault::Transient(words(error)),
    }
}

/// The number behind the client's `status code: `.
fn status(text: &str) -> Option<u16> {
    let (_, rest) = text.split_once("status code: ")?;
    rest.get(..3)?.parse().ok()
}

/// Status and code of an answer, or what the system said last.
fn words(error: &object_store::Error) -> String {
    let text = error.to_string();
    if let Some(status) = status(&text) {
        let code = text
            .split_once("<Code>")
            .and_then(|(_, rest)| rest.split_once("</Code>"))
            .map(|(code, _)| code)
            .filter(|code| code.len() < 64 && code.chars().all(|c| c.is_ascii_alphanumeric()));
        return code.map_or(format!("status {status}"), |code| format!("status {status}, {code}"));
    }
    let mut last: &dyn StdError = error;
    while let Some(source) = last.source() {
        last = source;
    }
    last.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn generic(text: &'static str) -> object_store::Error {
        object_store::Error::Generic {
            store: "S3",
            source: text.into(),
        }
    }

    /// A bucket with these keys; each object holds its key.
    async fn cloud(keys: &[&str], path: &str) -> Cloud {
        let store = object_store::memory::InMemory::new();
        for key in keys {
            let content = object_store::PutPayload::from(key.as_bytes().to_vec());
            store
                .put_opts(&Path::from(*key), content, object_store::PutOptions::default())
                .await
                .unwrap();
        }
        Cloud {
            store: Arc::new(store),
            path: Path::from(path),
            folder: path.ends_with('/'),
            max_files: 3,
            timeout: Duration::from_secs(10),
        }
    }

    #[tokio::test]
    async fn a_key_is_one_object_or_the_folder_of_those_below_it() {
        let keys = ["m/iris", "m/iris/1/model.onnx", "m/iris/labels", "m/iris-2/model.onnx"];
        let listing = cloud(&keys, "m/iris").await.list().await.unwrap();
        assert!(listing.single);
        assert_eq!((listing.objects[0].name.as_str(), listing.bytes()), ("iris", Some(6)));

        let folder = cloud(&keys, "m/iris/").await;
        let listing = folder.list().await.unwrap();
        let names: Vec<_> = listing.objects.iter().map(|object| object.name.as_str()).collect();
        assert_eq!(
            (listing.single, names),
            (false, vec!["1/model.onnx", "labels"]),
            "not what only begins alike"
        );
        let bytes: Vec<_> = folder
            .read(&listing.objects[0], Some(2..6))
            .await
            .unwrap()
            .try_collect()
            .await
            .unwrap();
        assert_eq!(bytes.concat(), b"iris");

        assert_eq!(cloud(&keys, "m/nothing").await.list().await, Err(Fault::NotFound));
        assert_eq!(
            cloud(&["a/1", "a/2", "a/3", "a/4"], "a").await.list().await,
            Err(Fault::TooMany)
        );
    }

    #[test]
    fn what_may_pass_by_itself_is_told_from_what_will_not() {
        let slow = "Error performing GET http://h/b in 1ms - Server returned non-2xx status code: 503 Service Unavailable: \
                    <Error><Code>SlowDown</Code></Error>";
        assert_eq!(fault(&generic(slow)), Fault::Transient("status 503, SlowDown".into()));
        let bad =
            "Server returned non-2xx status code: 400 Bad Request: <Code>InvalidToken</Code><Token>hidden</Token>";
        assert_eq!(fault(&generic(bad)), Fault::Refused("status 400, InvalidToken".into()));
        assert_eq!(
            fault(&generic("connection reset")),
            Fault::Transient("connection reset".into())
        );
    }
}
