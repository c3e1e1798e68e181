//! `keda.sh/v1alpha1 TriggerAuthentication` and `ClusterTriggerAuthentication`: where the secrets of triggers are, as far as they
//! are in Secrets and ConfigMaps. Vaults and identities of clouds need KEDA; they are named where they are asked for.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{GROUP, Problem, Spec};

/// Where the parameters of triggers come from. A Secret stands over a ConfigMap.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct TriggerAuthenticationSpec {
    /// Keys of Secrets.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub secret_target_ref: Vec<KeyRef>,
    /// Keys of ConfigMaps.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub config_map_target_ref: Vec<KeyRef>,
    /// What only KEDA knows.
    #[serde(flatten)]
    #[schemars(skip)]
    pub others: BTreeMap<String, Value>,
}

/// A key of a Secret or a ConfigMap, and the parameter that its value is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct KeyRef {
    /// Name of the parameter, as the trigger calls it.
    pub parameter: String,
    /// Name of the object.
    pub name: String,
    /// Its key.
    pub key: String,
}

/// The same for the whole cluster; its Secrets are in KEDA's namespace.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(transparent)]
pub struct ClusterTriggerAuthenticationSpec(pub TriggerAuthenticationSpec);

/// A way to authenticate that needs KEDA.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` needs KEDA; without it there are secretTargetRef and configMapTargetRef")]
pub struct AuthenticationProblem(pub String);

impl TriggerAuthenticationSpec {
    /// Names what only KEDA knows, where that is asked for.
    ///
    /// # Errors
    /// The first of it.
    pub fn check(&self) -> Result<(), AuthenticationProblem> {
        let asks = |(name, value): &(&String, &Value)| match value {
            Value::Null => false,
            Value::Array(items) => !items.is_empty(),
            Value::String(text) => !text.is_empty(),
            value if *name == "podIdentity" => value["provider"] != "none",
            _ => true,
        };
        match self.others.iter().find(asks) {
            Some((name, _)) => Err(AuthenticationProblem(name.clone())),
            None => Ok(()),
        }
    }
}

impl Spec for TriggerAuthenticationSpec {
    const KIND: &'static str = "TriggerAuthentication";
    const GROUP: &'static str = GROUP;
    const VERSION: &'static str = "v1alpha1";
    const PLURAL: &'static str = "triggerauthentications";

    fn problems(&self) -> Vec<Problem> {
        Vec::new()
    }
}

impl Spec for ClusterTriggerAuthenticationSpec {
    const KIND: &'static str = "ClusterTriggerAuthentication";
    const GROUP: &'static str = GROUP;
    const VERSION: &'static str = "v1alpha1";
    const PLURAL: &'static str = "clustertriggerauthentications";
    const CLUSTER: bool = true;

    fn problems(&self) -> Vec<Problem> {
        Vec::new()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn read(spec: Value) -> TriggerAuthenticationSpec {
        super::super::read(json!({ "spec": spec })).unwrap().spec
    }

    #[test]
    fn secrets_are_read_and_what_needs_keda_is_named() {
        let key = json!({ "parameter": "bearerToken", "name": "prometheus", "key": "token" });
        let spec = read(json!({ "secretTargetRef": [key], "podIdentity": { "provider": "none" }, "env": [] }));
        assert_eq!(spec.secret_target_ref[0].parameter, "bearerToken");
        assert_eq!(spec.check(), Ok(()));
        for (name, value) in [
            ("podIdentity", json!({ "provider": "aws" })),
            ("hashiCorpVault", json!({ "address": "http://vault" })),
            ("env", json!([{ "parameter": "p", "name": "N" }])),
        ] {
            let spec = read(json!({ name: value }));
            assert_eq!(spec.check(), Err(AuthenticationProblem(name.to_owned())));
        }
    }
}
