//! Server reflection of the external scaler, as the add-on's has it: v1 and v1alpha, for clients such as grpcurl.

use prost_types::{
    DescriptorProto, FieldDescriptorProto, FileDescriptorProto, FileDescriptorSet, MessageOptions,
    MethodDescriptorProto, ServiceDescriptorProto,
    field_descriptor_proto::{Label, Type},
};
use tonic_reflection::server::Builder;

const PACKAGE: &str = "externalscaler";

/// A field: name, number, type. A message's name is a type, and may be `repeated`.
type Field = (&'static str, i32, &'static str);

/// The messages of KEDA's `externalscaler.proto`; `messages` has what they mean. A map is a list of its entries.
const MESSAGES: [(&str, &[Field]); 7] = [
    (
        "ScaledObjectRef",
        &[
            ("name", 1, "string"),
            ("namespace", 2, "string"),
            ("scalerMetadata", 3, "repeated ScaledObjectRef.ScalerMetadataEntry"),
        ],
    ),
    ("IsActiveResponse", &[("result", 1, "bool")]),
    ("GetMetricSpecResponse", &[("metricSpecs", 1, "repeated MetricSpec")]),
    (
        "MetricSpec",
        &[
            ("metricName", 1, "string"),
            ("targetSize", 2, "int64"),
            ("targetSizeFloat", 3, "double"),
        ],
    ),
    (
        "GetMetricsRequest",
        &[("scaledObjectRef", 1, "ScaledObjectRef"), ("metricName", 2, "string")],
    ),
    ("GetMetricsResponse", &[("metricValues", 1, "repeated MetricValue")]),
    (
        "MetricValue",
        &[
            ("metricName", 1, "string"),
            ("metricValue", 2, "int64"),
            ("metricValueFloat", 3, "double"),
        ],
    ),
];

/// Name, request, response, whether it streams its responses.
const METHODS: [(&str, &str, &str, bool); 5] = [
    ("IsActive", "ScaledObjectRef", "IsActiveResponse", false),
    ("StreamIsActive", "ScaledObjectRef", "IsActiveResponse", true),
    ("GetMetricSpec", "ScaledObjectRef", "GetMetricSpecResponse", false),
    ("GetMetrics", "GetMetricsRequest", "GetMetricsResponse", false),
    ("StreamMetricSpec", "ScaledObjectRef", "GetMetricSpecResponse", true),
];

/// What both versions of the service are made of.
pub(super) fn builder() -> Builder<'static> {
    let set = FileDescriptorSet { file: vec![file()] };
    Builder::configure()
        .register_file_descriptor_set(set)
        .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
}

fn file() -> FileDescriptorProto {
    let mut messages: Vec<DescriptorProto> = MESSAGES.iter().map(|(name, fields)| message(name, fields)).collect();
    messages[0].nested_type.push(DescriptorProto {
        options: Some(MessageOptions {
            map_entry: Some(true),
            ..MessageOptions::default()
        }),
        ..message("ScalerMetadataEntry", &[("key", 1, "string"), ("value", 2, "string")])
    });
    let service = ServiceDescriptorProto {
        name: Some("ExternalScaler".to_owned()),
        method: METHODS.iter().map(method).collect(),
        options: None,
    };
    FileDescriptorProto {
        name: Some("externalscaler.proto".to_owned()),
        package: Some(PACKAGE.to_owned()),
        message_type: messages,
        service: vec![service],
        syntax: Some("proto3".to_owned()),
        ..FileDescriptorProto::default()
    }
}

fn message(name: &str, fields: &[Field]) -> DescriptorProto {
    DescriptorProto {
        name: Some(name.to_owned()),
        field: fields.iter().map(field).collect(),
        ..DescriptorProto::default()
    }
}

fn field((name, number, kind): &Field) -> FieldDescriptorProto {
    let (label, kind) = match kind.strip_prefix("repeated ") {
        Some(kind) => (Label::Repeated, kind),
        None => (Label::Optional, *kind),
    };
    let (kind, type_name) = match kind {
        "string" => (Type::String, None),
        "bool" => (Type::Bool, None),
        "int64" => (Type::Int64, None),
        "double" => (Type::Double, None),
        message => (Type::Message, Some(full(message))),
    };
    FieldDescriptorProto {
        name: Some((*name).to_owned()),
        number: Some(*number),
        label: Some(label.into()),
        r#type: Some(kind.into()),
        type_name,
        json_name: Some((*name).to_owned()),
        ..FieldDescriptorProto::default()
    }
}

fn method((name, request, response, streams): &(&str, &str, &str, bool)) -> MethodDescriptorProto {
    MethodDescriptorProto {
        name: Some((*name).to_owned()),
        input_type: Some(full(request)),
        output_type: Some(full(response)),
        server_streaming: Some(*streams),
        ..MethodDescriptorProto::default()
    }
}

fn full(name: &str) -> String {
    format!(".{PACKAGE}.{name}")
}
