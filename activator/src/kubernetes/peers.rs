//! Which activators there are, as the EndpointSlices of their Service tell it, and which of them this one is.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::discovery::v1::EndpointSlice;

use super::shares::Rank;

/// The activators by name, slice by slice.
#[derive(Debug, Default)]
pub(crate) struct Peers {
    slices: BTreeMap<String, BTreeSet<String>>,
}

impl Peers {
    /// Takes a slice as it is now; `None` once it is gone.
    pub(crate) fn set(&mut self, name: &str, slice: Option<&EndpointSlice>) {
        match slice {
            Some(slice) => self.slices.insert(name.to_owned(), members(slice)),
            None => self.slices.remove(name),
        };
    }

    /// Forgets the slices that are not among these.
    pub(crate) fn keep(&mut self, names: &BTreeSet<String>) {
        self.slices.retain(|name, _| names.contains(name));
    }

    /// The place of the activator called `own`. One that is not listed (not ready yet, ending, or outside the cluster)
    /// counts itself behind the others.
    pub(crate) fn rank(&self, own: &str) -> Rank {
        let all: BTreeSet<&str> = self.slices.values().flatten().map(String::as_str).collect();
        let of = all.len() as u32;
        match all.iter().position(|name| *name == own) {
            Some(index) => Rank {
                index: index as u32,
                of,
            },
            None => Rank { index: of, of: of + 1 },
        }
    }
}

/// The names of those that take requests: of their pods, else their addresses.
fn members(slice: &EndpointSlice) -> BTreeSet<String> {
    let ready = slice.endpoints.iter().filter(|endpoint| {
        // Nothing said counts as ready, as everywhere in Kubernetes.
        endpoint.conditions.as_ref().and_then(|conditions| conditions.ready) != Some(false)
    });
    ready
        .filter_map(|endpoint| {
            let pod = endpoint.target_ref.as_ref().and_then(|target| target.name.clone());
            pod.or_else(|| endpoint.addresses.first().cloned())
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn slice(pods: &[(&str, bool)]) -> EndpointSlice {
        let endpoints: Vec<_> = pods
            .iter()
            .map(|(name, ready)| {
                json!({
                    "addresses": ["10.0.0.1"], "conditions": { "ready": ready },
                    "targetRef": { "kind": "Pod", "name": name },
                })
            })
            .collect();
        serde_json::from_value(json!({ "metadata": {}, "addressType": "IPv4", "endpoints": endpoints })).unwrap()
    }

    #[test]
    fn activators_are_ranked_by_name_over_all_slices() {
        let mut peers = Peers::default();
        peers.set("s1", Some(&slice(&[("c", true), ("a", true), ("x", false)])));
        peers.set("s2", Some(&slice(&[("b", true), ("a", true)])));
        assert_eq!(peers.rank("b"), Rank { index: 1, of: 3 });
        assert_eq!(peers.rank("x"), Rank { index: 3, of: 4 }, "behind those that are ready");
        peers.set("s1", None);
        assert_eq!(peers.rank("b"), Rank { index: 1, of: 2 });
    }

    #[test]
    fn the_only_one_has_all() {
        assert_eq!(Peers::default().rank("a"), Rank::ALONE);
        let mut peers = Peers::default();
        peers.set("s", Some(&slice(&[("a", true)])));
        assert_eq!(peers.rank("a"), Rank::ALONE);
    }
}
