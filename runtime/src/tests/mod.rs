//! The parts together, against mock models.

mod batching;
mod binary;
mod control;
mod deadlines;
mod faces;
mod kserve;
mod models;
mod sockets;
mod triton;
