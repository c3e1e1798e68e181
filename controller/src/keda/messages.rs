//! The messages of `externalscaler.ExternalScaler`, written by hand, so that no protoc is needed.

use std::collections::HashMap;

use prost::Message;

/// A `ScaledObject` and the metadata of its trigger.
#[derive(Clone, PartialEq, Message)]
pub struct ScaledObjectRef {
    /// Its name.
    #[prost(string, tag = "1")]
    pub name: String,
    /// Its namespace.
    #[prost(string, tag = "2")]
    pub namespace: String,
    /// `metadata` of the trigger.
    #[prost(map = "string, string", tag = "3")]
    pub scaler_metadata: HashMap<String, String>,
}

/// Whether there is something to do.
#[derive(Clone, PartialEq, Message)]
pub struct IsActiveResponse {
    /// Yes or no.
    #[prost(bool, tag = "1")]
    pub result: bool,
}

/// The metrics of a trigger.
#[derive(Clone, PartialEq, Message)]
pub struct GetMetricSpecResponse {
    /// One each.
    #[prost(message, repeated, tag = "1")]
    pub metric_specs: Vec<MetricSpec>,
}

/// Name and target of a metric.
#[derive(Clone, PartialEq, Message)]
pub struct MetricSpec {
    /// Its name.
    #[prost(string, tag = "1")]
    pub metric_name: String,
    /// Its target, in the deprecated field.
    #[prost(int64, tag = "2")]
    pub target_size: i64,
    /// Its target; above 0 it wins.
    #[prost(double, tag = "3")]
    pub target_size_float: f64,
}

/// Asks for values.
#[derive(Clone, PartialEq, Message)]
pub struct GetMetricsRequest {
    /// Whose.
    #[prost(message, optional, tag = "1")]
    pub scaled_object_ref: Option<ScaledObjectRef>,
    /// Of which metric; empty is all.
    #[prost(string, tag = "2")]
    pub metric_name: String,
}

/// Values of metrics.
#[derive(Clone, PartialEq, Message)]
pub struct GetMetricsResponse {
    /// One each.
    #[prost(message, repeated, tag = "1")]
    pub metric_values: Vec<MetricValue>,
}

/// Name and value of a metric.
#[derive(Clone, PartialEq, Message)]
pub struct MetricValue {
    /// Its name.
    #[prost(string, tag = "1")]
    pub metric_name: String,
    /// Its value, in the deprecated field.
    #[prost(int64, tag = "2")]
    pub metric_value: i64,
    /// Its value; above 0 it wins.
    #[prost(double, tag = "3")]
    pub metric_value_float: f64,
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The bytes that a generated client of the `.proto` writes for the fields of these numbers and types.
    #[test]
    fn the_wire_format_is_that_of_kedas_proto() {
        let request = GetMetricsRequest {
            scaled_object_ref: Some(ScaledObjectRef {
                name: "a".to_owned(),
                namespace: "b".to_owned(),
                scaler_metadata: HashMap::from([("k".to_owned(), "v".to_owned())]),
            }),
            metric_name: "m".to_owned(),
        };
        let expected = b"\x0a\x0e\x0a\x01a\x12\x01b\x1a\x06\x0a\x01k\x12\x01v\x12\x01m";
        assert_eq!(request.encode_to_vec(), expected);
        let value = MetricValue {
            metric_name: "m".to_owned(),
            metric_value: 3,
            metric_value_float: 0.5,
        };
        let expected = b"\x0a\x01m\x10\x03\x19\x00\x00\x00\x00\x00\x00\xe0\x3f";
        assert_eq!(value.encode_to_vec(), expected);
        let spec = MetricSpec {
            metric_name: "m".to_owned(),
            target_size: 2,
            target_size_float: 0.0,
        };
        assert_eq!(spec.encode_to_vec(), b"\x0a\x01m\x10\x02");
    }
}
