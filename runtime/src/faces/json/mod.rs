//! JSON to tensors and back, without a tree in between: a body of 150,000 numbers goes straight into one vector of the
//! model's element type, and an answer is written straight from one. `holes` and `scan` are the fast way for long lists.

mod collector;
mod element;
mod holes;
mod scan;
mod writer;

pub(crate) use collector::{Collector, Label, Node, check_shape, declared};
pub(crate) use element::{Value, decode_base64};
pub(crate) use holes::{Holes, cut};
pub(crate) use writer::{Nested, check_text, columns, rows_of_objects};
