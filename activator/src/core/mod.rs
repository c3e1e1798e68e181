//! The decisions of the activator: no IO, no clock, no randomness of their own. Time and random numbers come in as
//! arguments, so every rule here is property-tested.
//!
//! * [`table`]: which route takes a request
//! * [`rules`]: the same for routes by hosts, wildcards, paths and headers together
//! * [`weight`]: which backend of the route
//! * [`pick`]: which endpoint of the backend
//! * [`ramp`]: how many requests an endpoint may hold
//! * [`retry`]: what happens to a request whose endpoint failed under it
//! * [`waking`]: whether a sleeping backend's waker has to be called
//! * [`state`]: endpoints, waiting room and counts of one backend, put together from the above

pub(crate) mod pick;
pub(crate) mod ramp;
pub(crate) mod retry;
pub(crate) mod rules;
pub(crate) mod state;
pub(crate) mod table;
pub(crate) mod waking;
pub(crate) mod weight;
