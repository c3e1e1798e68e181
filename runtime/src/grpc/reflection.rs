//! Reflection, v1 and v1alpha, by tonic's service.

use std::sync::LazyLock;

use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;
use http_body_util::BodyExt;
use prost::Message as _;
use prost_types::FileDescriptorSet;
use tonic::codegen::Service as _;
use tonic_reflection::server::Builder;

use super::descriptor;
use super::wire::{GrpcBody, failed};
use crate::error::{ApiError, Code};

static DESCRIPTORS: LazyLock<Vec<u8>> = LazyLock::new(|| {
    FileDescriptorSet {
        file: descriptor::files(),
    }
    .encode_to_vec()
});

/// Answers a call of a reflection service, for which the descriptors are read anew each time: it is a matter of microseconds, and
/// people at a terminal call it.
pub(super) async fn answer<B>(request: Request<B>) -> Response<GrpcBody>
where
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>> + Send,
{
    let builder = Builder::configure().register_encoded_file_descriptor_set(&DESCRIPTORS);
    let reply = if request.uri().path().starts_with("/grpc.reflection.v1.") {
        match builder.build_v1() {
            Ok(mut service) => service.call(request).await,
            Err(error) => return broken(&error),
        }
    } else {
        match builder.build_v1alpha() {
            Ok(mut service) => service.call(request).await,
            Err(error) => return broken(&error),
        }
    };
    let Ok(reply) = reply;
    reply.map(BodyExt::boxed_unsync)
}

/// Only where the descriptors contradict themselves, which a test excludes.
fn broken(error: &dyn std::error::Error) -> Response<GrpcBody> {
    failed(&ApiError::new(Code::ExecutionFailed, error.to_string()))
}
