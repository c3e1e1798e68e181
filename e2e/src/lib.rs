//! What the end-to-end tests and the benches stand on: the real binary in real processes, real clients, nothing mocked.
//!
//! A test builds manifests ([`Manifest`]), starts the platform on them ([`Up`]), asks it over HTTP ([`client`], [`Load`]) or
//! through the command line ([`Up::cli`]), looks at its processes ([`processes`]) and compares with onnxruntime ([`python`]).
//! What is for Kubernetes is tested in a real one ([`cluster`]).
//! An [`Up`] that is dropped by a panicking test first prints what the platform said and how it saw its services.
//!
//! This is test support: what cannot go on panics, with what was tried in the message.

pub mod bench;
pub mod client;
pub mod cluster;
pub mod conformance;
mod load;
mod manifest;
pub mod metrics;
mod open_inference;
pub mod places;
pub mod processes;
pub mod python;
pub mod store;
mod up;
mod wait;

pub use load::{Ask, Load, Outcome};
pub use manifest::Manifest;
pub use up::{Settings, Up};
pub use wait::{LIMIT, eventually, until};
