//! What a replica computes on.

use serde_json::Value;

use crate::quantity;

/// The resource of NVIDIA's device plugin: whole GPUs.
pub const GPU_RESOURCE: &str = "nvidia.com/gpu";

/// The device of a service's replicas.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Devices {
    /// GPUs that one replica is given: `nvidia.com/gpu` of its limits, or of its requests. Default 0: it runs on the CPU.
    pub gpus: u32,
    /// `pilotlight.dev/precision`: how a GPU computes what the model declares as FP32. Default `f32`.
    pub precision: &'static str,
}

impl Default for Devices {
    fn default() -> Self {
        Self {
            gpus: 0,
            precision: DEFAULT_PRECISION,
        }
    }
}

/// FP32 as on the CPU.
pub(crate) const DEFAULT_PRECISION: &str = "f32";

/// GPUs that `resources` (a container's) ask for.
pub(crate) fn gpus(resources: &Value) -> u32 {
    let of = |kind: &str| {
        let number = match resources.get(kind)?.get(GPU_RESOURCE)? {
            Value::String(text) => quantity::parse(text).ok()?,
            value => value.as_f64()?,
        };
        // A fraction of a card is none: the device plugin counts whole ones.
        Some(number as u32)
    };
    of("limits").or_else(|| of("requests")).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn limits_say_how_many_gpus_and_requests_where_there_are_none() {
        assert_eq!(gpus(&json!({ "limits": { "nvidia.com/gpu": 2 } })), 2);
        assert_eq!(gpus(&json!({ "limits": { "nvidia.com/gpu": "1" } })), 1);
        assert_eq!(gpus(&json!({ "requests": { "nvidia.com/gpu": 3 } })), 3);
        assert_eq!(gpus(&json!({ "limits": { "cpu": 4, "amd.com/gpu": 1 } })), 0);
        assert_eq!(gpus(&json!({})), 0);
        assert_eq!(gpus(&Value::Null), 0);
    }
}
