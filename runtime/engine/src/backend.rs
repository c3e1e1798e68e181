//! Where the executor meets concrete backends. Another backend's crate instantiates it the same way.

pub(crate) mod flex;
