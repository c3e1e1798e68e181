//! The parts together, against mock models.

mod batching;
mod faces;
mod models;
mod sockets;
