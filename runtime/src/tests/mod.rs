//! The parts together, against mock models.

mod batching;
mod binary;
mod faces;
mod models;
mod sockets;
