//! The activator as its clients, its platform and its admin see it: real sockets on loopback, nothing mocked but the
//! platform and the runtimes.

#![allow(missing_docs, unreachable_pub)]

mod grpc;
mod keda;
mod lifecycle;
mod replay;
mod routing;
mod secure;
mod streaming;
mod support;
mod upstream;
mod waiting;
