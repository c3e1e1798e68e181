//! The gRPC methods that the activator knows, by their path.
//!
//! | method | answered by | model named in |
//! |---|---|---|
//! | `ServerLive`, `ServerReady`, `ServerMetadata`, `RepositoryIndex` | the activator | - |
//! | `ModelReady` | the activator | field 1 |
//! | `ModelInfer`, `ModelMetadata`, `ModelConfig`, `ModelStatistics` | a replica; pure | field 1 |
//! | `ModelStreamInfer` | a replica; never replayed | field 1 |
//! | `RepositoryModelLoad`, `RepositoryModelUnload` | a replica; never replayed | field 2 |
//! | `grpc.health.v1.Health/Check` | the activator | field 1 (`service`) |
//! | others | a replica, where the host says whose; never replayed | - |

use crate::inference::Call;

const INFERENCE: &str = "/inference.GRPCInferenceService/";
const HEALTH: &str = "/grpc.health.v1.Health/";

/// A method.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Rpc {
    /// About the server: all models, or the one that the host names.
    Server(Call),
    /// Can one model serve?
    ModelReady,
    /// For a replica of the model named in string field `field` of the first message.
    Model { call: Call, field: u32, streaming: bool },
    /// The health protocol.
    HealthCheck,
    /// Its stream of changes, which nobody here keeps.
    HealthWatch,
    /// Anything else.
    Other,
}

impl Rpc {
    pub(crate) fn of(path: &str) -> Self {
        let unary = |call, field| Self::Model {
            call,
            field,
            streaming: false,
        };
        if let Some(method) = path.strip_prefix(INFERENCE) {
            return match method {
                "ServerLive" => Self::Server(Call::Alive),
                "ServerReady" => Self::Server(Call::Ready),
                "ServerMetadata" => Self::Server(Call::ServerMetadata),
                "RepositoryIndex" => Self::Server(Call::RepositoryIndex),
                "ModelReady" => Self::ModelReady,
                "ModelInfer" => unary(Call::Inference, 1),
                "ModelMetadata" | "ModelConfig" | "ModelStatistics" => unary(Call::Metadata, 1),
                "RepositoryModelLoad" | "RepositoryModelUnload" => unary(Call::Other, 2),
                "ModelStreamInfer" => Self::Model {
                    call: Call::Other,
                    field: 1,
                    streaming: true,
                },
                _ => Self::Other,
            };
        }
        match path.strip_prefix(HEALTH) {
            Some("Check") => Self::HealthCheck,
            Some("Watch") => Self::HealthWatch,
            _ => Self::Other,
        }
    }
}

/// Whether a name of the health protocol is that of a service and not of a model.
pub(crate) fn is_service(name: &str) -> bool {
    name == INFERENCE.trim_matches('/') || name == HEALTH.trim_matches('/')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn inference_and_its_metadata_are_pure_and_streams_are_not() {
        for (method, pure) in [
            ("ModelInfer", true),
            ("ModelMetadata", true),
            ("ModelConfig", true),
            ("ModelStatistics", true),
            ("ModelStreamInfer", false),
            ("RepositoryModelLoad", false),
            ("RepositoryModelUnload", false),
        ] {
            let Rpc::Model { call, .. } = Rpc::of(&format!("{INFERENCE}{method}")) else {
                panic!("{method} is a model's");
            };
            assert_eq!(call.is_pure(), pure, "{method}");
        }
    }

    #[test]
    fn other_services_and_methods_are_not_taken_for_ours() {
        for path in [
            "/inference.GRPCInferenceService/TraceSetting",
            "/inference.GRPCInferenceService",
            "/a/inference.GRPCInferenceService/ModelInfer",
            "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
            "/",
        ] {
            assert_eq!(Rpc::of(path), Rpc::Other, "{path}");
        }
        assert!(is_service("inference.GRPCInferenceService"));
        assert!(!is_service("iris"));
    }
}
