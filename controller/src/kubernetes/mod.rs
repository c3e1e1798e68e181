//! The controller in a cluster: InferenceServices become Deployments, Services and the rest, and their replicas follow the load.
//!
//! Decisions, without IO and clock: [`objects`] (a service to what is applied), [`runtimes`] (which runtime serves it),
//! [`status`] (what is seen to KServe's status), the scaler over [`autoscaler`](crate::autoscaler), the choice of pods to end.
//! Adapters: watches that keep small facts and not whole objects, the reconciler, the loop of the autoscaler, the drain, the
//! activators' client, the Lease.
//!
//! It holds no request and routes none: the activators do, and go on while no controller runs.

pub mod config;
pub mod counts;
mod lease;
mod objects;
mod runtimes;
mod status;
#[cfg(test)]
mod testing;
