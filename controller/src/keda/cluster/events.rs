//! A watch as changes by key, that begins anew whenever it fails.

use std::{collections::HashSet, fmt::Debug};

use futures_util::{StreamExt, stream::BoxStream};
use kube::{
    Api, Resource, ResourceExt,
    runtime::{WatchStreamExt, watcher},
};
use serde::de::DeserializeOwned;

/// A change of an object, by `namespace/name`.
#[derive(Debug)]
pub(crate) enum Change<K> {
    /// It is there, new or changed.
    Is(String, K),
    /// It is gone.
    Gone(String),
    /// All that there is was told; what is not among these is gone.
    Listed(HashSet<String>),
}

/// What a watch tells. A kind that is not installed has no objects; it is looked for again.
pub(crate) fn changes<K>(api: Api<K>, config: watcher::Config) -> BoxStream<'static, Change<K>>
where
    K: Resource + Clone + DeserializeOwned + Debug + Send + 'static,
{
    let events = watcher(api, config).default_backoff();
    let mut listed = HashSet::new();
    let changes = events.filter_map(move |event| std::future::ready(read(event, &mut listed)));
    changes.boxed()
}

fn read<K: ResourceExt>(event: watcher::Result<watcher::Event<K>>, listed: &mut HashSet<String>) -> Option<Change<K>> {
    match event {
        Ok(watcher::Event::Init) => {
            listed.clear();
            None
        }
        Ok(watcher::Event::InitApply(object)) => {
            listed.insert(key(&object));
            Some(Change::Is(key(&object), object))
        }
        Ok(watcher::Event::InitDone) => Some(Change::Listed(std::mem::take(listed))),
        Ok(watcher::Event::Apply(object)) => Some(Change::Is(key(&object), object)),
        Ok(watcher::Event::Delete(object)) => Some(Change::Gone(key(&object))),
        Err(watcher::Error::InitialListFailed(kube::Error::Api(status))) if status.code == 404 => {
            Some(Change::Listed(HashSet::new()))
        }
        Err(error) => {
            tracing::warn!(%error, "a watch failed and is tried again");
            None
        }
    }
}

fn key(object: &impl ResourceExt) -> String {
    format!("{}/{}", object.namespace().unwrap_or_default(), object.name_any())
}
