//! The operators, one family a file. Each has a table of entries that `registry` looks up.

mod binary;
mod cast;
mod constant;
mod convolution;
mod gather;
mod join;
mod matmul;
pub(crate) mod ml;
mod norm;
mod pool;
mod reduce;
mod softmax;
mod unary;
mod view;

use crate::registry::Entry;

/// ONNX's own domain.
pub(crate) const ONNX: &[&[Entry]] = &[
    binary::TABLE,
    cast::TABLE,
    constant::TABLE,
    convolution::TABLE,
    gather::TABLE,
    join::TABLE,
    matmul::TABLE,
    norm::TABLE,
    pool::TABLE,
    reduce::TABLE,
    softmax::TABLE,
    unary::TABLE,
    view::TABLE,
];

/// `ai.onnx.ml`: what scikit-learn models are made of.
pub(crate) const ML: &[&[Entry]] = &[ml::encode::TABLE, ml::linear::TABLE, ml::scale::TABLE, ml::tree::TABLE, ml::TABLE];

/// `com.microsoft`: what ONNX Runtime's exporters leave behind.
pub(crate) const MICROSOFT: &[&[Entry]] = &[unary::MICROSOFT];
