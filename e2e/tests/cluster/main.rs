//! Pilotlight on a real Kubernetes: API server, scheduler, kubelet, containerd. One cluster for all of these stories.

mod adopted;
mod answers;
mod changes;
mod crowds;
mod faults;
mod install;
mod itself;
mod keda;
mod standby;
mod trace;
