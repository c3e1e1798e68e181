//! The descriptors behind reflection, from a table: the messages of `messages.rs` as a `.proto` would declare them, in Triton's
//! names and numbers.

use prost_types::field_descriptor_proto::{Label, Type};
use prost_types::{
    DescriptorProto, EnumDescriptorProto, EnumValueDescriptorProto, FieldDescriptorProto, FileDescriptorProto,
    MessageOptions, MethodDescriptorProto, OneofDescriptorProto, ServiceDescriptorProto,
};

/// A field: name, number and type. Before the type may stand `repeated`, `map` (from strings) or `oneof NAME`; a message or an
/// enum is written with its full name behind the package.
type Field = (&'static str, i32, &'static str);

/// A message and its fields. `A.B` is declared within `A`, which stands before it.
type Declared = (&'static str, &'static [Field]);

/// A method: name, request, response, whether the request and the response are streams.
type Method = (&'static str, &'static str, &'static str, bool, bool);

const METHODS: &[Method] = &[
    ("ServerLive", "ServerLiveRequest", "ServerLiveResponse", false, false),
    ("ServerReady", "ServerReadyRequest", "ServerReadyResponse", false, false),
    ("ModelReady", "ModelReadyRequest", "ModelReadyResponse", false, false),
    (
        "ServerMetadata",
        "ServerMetadataRequest",
        "ServerMetadataResponse",
        false,
        false,
    ),
    (
        "ModelMetadata",
        "ModelMetadataRequest",
        "ModelMetadataResponse",
        false,
        false,
    ),
    ("ModelInfer", "ModelInferRequest", "ModelInferResponse", false, false),
    (
        "ModelStreamInfer",
        "ModelInferRequest",
        "ModelStreamInferResponse",
        true,
        true,
    ),
    ("ModelConfig", "ModelConfigRequest", "ModelConfigResponse", false, false),
    (
        "ModelStatistics",
        "ModelStatisticsRequest",
        "ModelStatisticsResponse",
        false,
        false,
    ),
    (
        "RepositoryIndex",
        "RepositoryIndexRequest",
        "RepositoryIndexResponse",
        false,
        false,
    ),
    (
        "RepositoryModelLoad",
        "RepositoryModelLoadRequest",
        "RepositoryModelLoadResponse",
        false,
        false,
    ),
    (
        "RepositoryModelUnload",
        "RepositoryModelUnloadRequest",
        "RepositoryModelUnloadResponse",
        false,
        false,
    ),
];

const NAME_AND_VERSION: &[Field] = &[("name", 1, "string"), ("version", 2, "string")];
const TENSOR: &[Field] = &[
    ("name", 1, "string"),
    ("datatype", 2, "string"),
    ("shape", 3, "repeated int64"),
    ("parameters", 4, "map InferParameter"),
    ("contents", 5, "InferTensorContents"),
];
const LOAD: &[Field] = &[
    ("repository_name", 1, "string"),
    ("model_name", 2, "string"),
    ("parameters", 3, "map ModelRepositoryParameter"),
];

const MESSAGES: &[Declared] = &[
    ("ServerLiveRequest", &[]),
    ("ServerLiveResponse", &[("live", 1, "bool")]),
    ("ServerReadyRequest", &[]),
    ("ServerReadyResponse", &[("ready", 1, "bool")]),
    ("ModelReadyRequest", NAME_AND_VERSION),
    ("ModelReadyResponse", &[("ready", 1, "bool")]),
    ("ServerMetadataRequest", &[]),
    (
        "ServerMetadataResponse",
        &[
            ("name", 1, "string"),
            ("version", 2, "string"),
            ("extensions", 3, "repeated string"),
        ],
    ),
    ("ModelMetadataRequest", NAME_AND_VERSION),
    (
        "ModelMetadataResponse",
        &[
            ("name", 1, "string"),
            ("versions", 2, "repeated string"),
            ("platform", 3, "string"),
            ("inputs", 4, "repeated ModelMetadataResponse.TensorMetadata"),
            ("outputs", 5, "repeated ModelMetadataResponse.TensorMetadata"),
        ],
    ),
    (
        "ModelMetadataResponse.TensorMetadata",
        &[
            ("name", 1, "string"),
            ("datatype", 2, "string"),
            ("shape", 3, "repeated int64"),
        ],
    ),
    (
        "InferParameter",
        &[
            ("bool_param", 1, "oneof parameter_choice bool"),
            ("int64_param", 2, "oneof parameter_choice int64"),
            ("string_param", 3, "oneof parameter_choice string"),
            ("double_param", 4, "oneof parameter_choice double"),
            ("uint64_param", 5, "oneof parameter_choice uint64"),
        ],
    ),
    (
        "InferTensorContents",
        &[
            ("bool_contents", 1, "repeated bool"),
            ("int_contents", 2, "repeated int32"),
            ("int64_contents", 3, "repeated int64"),
            ("uint_contents", 4, "repeated uint32"),
            ("uint64_contents", 5, "repeated uint64"),
            ("fp32_contents", 6, "repeated float"),
            ("fp64_contents", 7, "repeated double"),
            ("bytes_contents", 8, "repeated bytes"),
        ],
    ),
    (
        "ModelInferRequest",
        &[
            ("model_name", 1, "string"),
            ("model_version", 2, "string"),
            ("id", 3, "string"),
            ("parameters", 4, "map InferParameter"),
            ("inputs", 5, "repeated ModelInferRequest.InferInputTensor"),
            ("outputs", 6, "repeated ModelInferRequest.InferRequestedOutputTensor"),
            ("raw_input_contents", 7, "repeated bytes"),
        ],
    ),
    ("ModelInferRequest.InferInputTensor", TENSOR),
    (
        "ModelInferRequest.InferRequestedOutputTensor",
        &[("name", 1, "string"), ("parameters", 2, "map InferParameter")],
    ),
    (
        "ModelInferResponse",
        &[
            ("model_name", 1, "string"),
            ("model_version", 2, "string"),
            ("id", 3, "string"),
            ("parameters", 4, "map InferParameter"),
            ("outputs", 5, "repeated ModelInferResponse.InferOutputTensor"),
            ("raw_output_contents", 6, "repeated bytes"),
        ],
    ),
    ("ModelInferResponse.InferOutputTensor", TENSOR),
    (
        "ModelStreamInferResponse",
        &[
            ("error_message", 1, "string"),
            ("infer_response", 2, "ModelInferResponse"),
        ],
    ),
    ("ModelConfigRequest", NAME_AND_VERSION),
    ("ModelConfigResponse", &[("config", 1, "ModelConfig")]),
    (
        "ModelConfig",
        &[
            ("name", 1, "string"),
            ("platform", 2, "string"),
            ("max_batch_size", 4, "int32"),
            ("input", 5, "repeated ModelInput"),
            ("output", 6, "repeated ModelOutput"),
            ("dynamic_batching", 11, "ModelDynamicBatching"),
            ("backend", 17, "string"),
        ],
    ),
    (
        "ModelInput",
        &[
            ("name", 1, "string"),
            ("data_type", 2, "enum DataType"),
            ("dims", 4, "repeated int64"),
        ],
    ),
    (
        "ModelOutput",
        &[
            ("name", 1, "string"),
            ("data_type", 2, "enum DataType"),
            ("dims", 3, "repeated int64"),
        ],
    ),
    (
        "ModelDynamicBatching",
        &[
            ("preferred_batch_size", 1, "repeated int32"),
            ("max_queue_delay_microseconds", 2, "uint64"),
            ("priority_levels", 4, "uint64"),
            ("default_priority_level", 5, "uint64"),
        ],
    ),
    ("ModelStatisticsRequest", NAME_AND_VERSION),
    (
        "ModelStatisticsResponse",
        &[("model_stats", 1, "repeated ModelStatistics")],
    ),
    (
        "ModelStatistics",
        &[
            ("name", 1, "string"),
            ("version", 2, "string"),
            ("last_inference", 3, "uint64"),
            ("inference_count", 4, "uint64"),
            ("execution_count", 5, "uint64"),
            ("inference_stats", 6, "InferStatistics"),
            ("batch_stats", 7, "repeated InferBatchStatistics"),
        ],
    ),
    (
        "InferStatistics",
        &[
            ("success", 1, "StatisticDuration"),
            ("fail", 2, "StatisticDuration"),
            ("queue", 3, "StatisticDuration"),
            ("compute_input", 4, "StatisticDuration"),
            ("compute_infer", 5, "StatisticDuration"),
            ("compute_output", 6, "StatisticDuration"),
        ],
    ),
    (
        "InferBatchStatistics",
        &[
            ("batch_size", 1, "uint64"),
            ("compute_input", 2, "StatisticDuration"),
            ("compute_infer", 3, "StatisticDuration"),
            ("compute_output", 4, "StatisticDuration"),
        ],
    ),
    ("StatisticDuration", &[("count", 1, "uint64"), ("ns", 2, "uint64")]),
    (
        "RepositoryIndexRequest",
        &[("repository_name", 1, "string"), ("ready", 2, "bool")],
    ),
    (
        "RepositoryIndexResponse",
        &[("models", 1, "repeated RepositoryIndexResponse.ModelIndex")],
    ),
    (
        "RepositoryIndexResponse.ModelIndex",
        &[
            ("name", 1, "string"),
            ("version", 2, "string"),
            ("state", 3, "string"),
            ("reason", 4, "string"),
        ],
    ),
    (
        "ModelRepositoryParameter",
        &[
            ("bool_param", 1, "oneof parameter_choice bool"),
            ("int64_param", 2, "oneof parameter_choice int64"),
            ("string_param", 3, "oneof parameter_choice string"),
            ("bytes_param", 4, "oneof parameter_choice bytes"),
        ],
    ),
    ("RepositoryModelLoadRequest", LOAD),
    (
        "RepositoryModelLoadResponse",
        &[("model_name", 1, "string"), ("isLoaded", 2, "bool")],
    ),
    ("RepositoryModelUnloadRequest", LOAD),
    (
        "RepositoryModelUnloadResponse",
        &[("model_name", 1, "string"), ("isUnloaded", 2, "bool")],
    ),
];

const DATA_TYPE: (&str, &[&str]) = (
    "DataType",
    &[
        "TYPE_INVALID",
        "TYPE_BOOL",
        "TYPE_UINT8",
        "TYPE_UINT16",
        "TYPE_UINT32",
        "TYPE_UINT64",
        "TYPE_INT8",
        "TYPE_INT16",
        "TYPE_INT32",
        "TYPE_INT64",
        "TYPE_FP16",
        "TYPE_FP32",
        "TYPE_FP64",
        "TYPE_STRING",
        "TYPE_BF16",
    ],
);

const HEALTH_METHODS: &[Method] = &[
    ("Check", "HealthCheckRequest", "HealthCheckResponse", false, false),
    ("Watch", "HealthCheckRequest", "HealthCheckResponse", false, true),
];
const HEALTH_MESSAGES: &[Declared] = &[
    ("HealthCheckRequest", &[("service", 1, "string")]),
    (
        "HealthCheckResponse",
        &[("status", 1, "enum HealthCheckResponse.ServingStatus")],
    ),
];
const SERVING_STATUS: (&str, &[&str]) = (
    "ServingStatus",
    &["UNKNOWN", "SERVING", "NOT_SERVING", "SERVICE_UNKNOWN"],
);

/// The files of all services that are served here, but for reflection itself.
pub(super) fn files() -> Vec<FileDescriptorProto> {
    let mut inference = file(
        "grpc_service.proto",
        "inference",
        "GRPCInferenceService",
        METHODS,
        MESSAGES,
    );
    inference.enum_type.push(enumeration(DATA_TYPE));
    let mut health = file(
        "grpc/health/v1/health.proto",
        "grpc.health.v1",
        "Health",
        HEALTH_METHODS,
        HEALTH_MESSAGES,
    );
    if let Some(response) = health.message_type.last_mut() {
        response.enum_type.push(enumeration(SERVING_STATUS));
    }
    vec![inference, health]
}

fn file(name: &str, package: &str, service: &str, methods: &[Method], messages: &[Declared]) -> FileDescriptorProto {
    let full = |name: &str| Some(format!(".{package}.{name}"));
    let method = |&(name, input, output, client_streaming, server_streaming): &Method| MethodDescriptorProto {
        name: Some(name.to_owned()),
        input_type: full(input),
        output_type: full(output),
        client_streaming: Some(client_streaming),
        server_streaming: Some(server_streaming),
        ..MethodDescriptorProto::default()
    };
    let mut declared: Vec<DescriptorProto> = Vec::new();
    for &(name, fields) in messages {
        let message = message(package, name, fields);
        match (name.split_once('.'), declared.last_mut()) {
            (Some(_), Some(parent)) => parent.nested_type.push(message),
            _ => declared.push(message),
        }
    }
    FileDescriptorProto {
        name: Some(name.to_owned()),
        package: Some(package.to_owned()),
        message_type: declared,
        service: vec![ServiceDescriptorProto {
            name: Some(service.to_owned()),
            method: methods.iter().map(method).collect(),
            ..ServiceDescriptorProto::default()
        }],
        syntax: Some("proto3".to_owned()),
        ..FileDescriptorProto::default()
    }
}

fn message(package: &str, name: &str, fields: &[Field]) -> DescriptorProto {
    let mut message = DescriptorProto {
        name: name.rsplit('.').next().map(str::to_owned),
        ..DescriptorProto::default()
    };
    for &(field_name, number, what) in fields {
        let mut words: Vec<&str> = what.split(' ').collect();
        let mut field = FieldDescriptorProto {
            name: Some(field_name.to_owned()),
            number: Some(number),
            label: Some(Label::Optional.into()),
            ..FieldDescriptorProto::default()
        };
        match words[..] {
            ["repeated", ..] => {
                field.label = Some(Label::Repeated.into());
                words.remove(0);
            }
            ["map", value] => {
                let entry = entry(package, field_name, value);
                field.label = Some(Label::Repeated.into());
                field.r#type = Some(Type::Message.into());
                field.type_name = entry.name.as_ref().map(|entry| format!(".{package}.{name}.{entry}"));
                message.nested_type.push(entry);
                message.field.push(field);
                continue;
            }
            ["oneof", group, ..] => {
                if message.oneof_decl.is_empty() {
                    message.oneof_decl.push(OneofDescriptorProto {
                        name: Some(group.to_owned()),
                        ..OneofDescriptorProto::default()
                    });
                }
                field.oneof_index = Some(0);
                words.drain(..2);
            }
            _ => {}
        }
        set_type(&mut field, package, &words);
        message.field.push(field);
    }
    message
}

/// The message that a map field consists of.
fn entry(package: &str, field: &str, value: &str) -> DescriptorProto {
    let mut name: String = field[..1].to_uppercase();
    name.push_str(&field[1..]);
    name.push_str("Entry");
    let mut entry = message(package, &name, &[("key", 1, "string")]);
    let mut field = FieldDescriptorProto {
        name: Some("value".to_owned()),
        number: Some(2),
        label: Some(Label::Optional.into()),
        ..FieldDescriptorProto::default()
    };
    set_type(&mut field, package, &[value]);
    entry.field.push(field);
    entry.options = Some(MessageOptions {
        map_entry: Some(true),
        ..MessageOptions::default()
    });
    entry
}

fn set_type(field: &mut FieldDescriptorProto, package: &str, words: &[&str]) {
    let (kind, name) = match words {
        ["bool"] => (Type::Bool, None),
        ["int32"] => (Type::Int32, None),
        ["int64"] => (Type::Int64, None),
        ["uint32"] => (Type::Uint32, None),
        ["uint64"] => (Type::Uint64, None),
        ["float"] => (Type::Float, None),
        ["double"] => (Type::Double, None),
        ["string"] => (Type::String, None),
        ["bytes"] => (Type::Bytes, None),
        ["enum", name] => (Type::Enum, Some(*name)),
        names => (Type::Message, names.last().copied()),
    };
    field.r#type = Some(kind.into());
    field.type_name = name.map(|name| format!(".{package}.{name}"));
}

fn enumeration((name, values): (&str, &[&str])) -> EnumDescriptorProto {
    let value = |(number, name): (usize, &&str)| EnumValueDescriptorProto {
        name: Some((*name).to_owned()),
        number: Some(number as i32),
        ..EnumValueDescriptorProto::default()
    };
    EnumDescriptorProto {
        name: Some(name.to_owned()),
        value: values.iter().enumerate().map(value).collect(),
        ..EnumDescriptorProto::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all<'m>(prefix: &str, messages: &'m [DescriptorProto], found: &mut Vec<(String, &'m DescriptorProto)>) {
        for message in messages {
            let name = format!("{prefix}.{}", message.name());
            all(&name, &message.nested_type, found);
            found.push((name, message));
        }
    }

    #[test]
    fn every_type_that_is_named_is_declared() {
        for file in files() {
            let mut messages = Vec::new();
            all(&format!(".{}", file.package()), &file.message_type, &mut messages);
            let names: Vec<&str> = messages.iter().map(|(name, _)| &**name).collect();
            let enums = [
                ".inference.DataType",
                ".grpc.health.v1.HealthCheckResponse.ServingStatus",
            ];
            for (name, message) in &messages {
                for field in &message.field {
                    let known = match field.r#type() {
                        Type::Message => names.contains(&field.type_name()),
                        Type::Enum => enums.contains(&field.type_name()),
                        _ => field.type_name.is_none(),
                    };
                    assert!(known, "{name}.{}: {}", field.name(), field.type_name());
                }
            }
            for method in &file.service[0].method {
                assert!(
                    names.contains(&method.input_type()) && names.contains(&method.output_type()),
                    "{}",
                    method.name()
                );
            }
        }
    }
}
