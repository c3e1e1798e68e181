//! The operators, one family a file. Each has a table of entries that `registry` looks up.

mod attention;
mod binary;
mod cast;
mod constant;
mod convolution;
mod einsum;
pub(crate) mod flex_attention;
mod gather;
mod join;
mod matmul;
pub(crate) mod ml;
mod norm;
mod pool;
mod quantize;
mod recurrent;
mod reduce;
mod resize;
mod scatter;
pub(crate) mod sequence;
mod softmax;
mod sort;
mod text;
mod unary;
mod view;

use crate::registry::Entry;

/// ONNX's own domain.
pub(crate) const ONNX: &[&[Entry]] = &[
    attention::TABLE,
    binary::TABLE,
    cast::TABLE,
    constant::TABLE,
    convolution::TABLE,
    einsum::TABLE,
    gather::TABLE,
    join::TABLE,
    matmul::TABLE,
    norm::TABLE,
    pool::TABLE,
    quantize::TABLE,
    recurrent::TABLE,
    reduce::TABLE,
    resize::TABLE,
    scatter::TABLE,
    sequence::TABLE,
    softmax::TABLE,
    sort::TABLE,
    text::TABLE,
    unary::TABLE,
    view::TABLE,
];

/// `ai.onnx.ml`: what scikit-learn models are made of.
pub(crate) const ML: &[&[Entry]] = &[
    ml::encode::TABLE,
    ml::linear::TABLE,
    ml::scale::TABLE,
    ml::svm::TABLE,
    ml::tree::TABLE,
    ml::TABLE,
];

/// `com.microsoft`: what ONNX Runtime's exporters leave behind.
pub(crate) const MICROSOFT: &[&[Entry]] = &[unary::MICROSOFT];
