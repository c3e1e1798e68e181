//! KEDA, both ways: its external scaler for clusters where KEDA runs, and its part where none does.
//!
//! Decisions: [`window`] and [`counts`] (what the activators' `/queue` says), [`scaler`] (metric names, targets, values),
//! [`hpa`] and [`scaling`] (replicas), [`cron`]. Around them: [`state`] holds what is known for all who ask, [`service`] is
//! the gRPC face of it and [`client`] the same from the other side, [`pinger`] brings the counts.
//!
//! [`cluster`] puts it together on an API server.
//!
//! It never replays or routes a request, and scales nothing by itself where a KEDA operator runs.

pub mod client;
pub mod cluster;
pub mod counts;
pub mod cron;
pub mod hpa;
pub mod messages;
pub mod pinger;
pub mod query;
mod reflection;
pub mod scaler;
pub mod scaling;
pub mod secrets;
pub mod service;
pub mod state;
pub mod window;

pub use service::{ExternalScaler, serve};
pub use state::{Config, Scaler};
