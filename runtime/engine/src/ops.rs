//! The operators, one family a file. Each has a table of entries that `registry` looks up.

mod attention;
mod binary;
mod cast;
mod constant;
mod contrib;
mod convolution;
mod einsum;
pub(crate) mod flex_attention;
mod gather;
mod join;
mod linear_attention;
mod loss;
mod matmul;
pub(crate) mod ml;
mod norm;
mod optimiser;
mod place;
mod pool;
pub(crate) mod quantize;
pub(crate) mod random;
mod recurrent;
mod reduce;
mod resize;
mod sample;
mod scatter;
pub(crate) mod sequence;
mod signal;
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
    linear_attention::TABLE,
    loss::TABLE,
    matmul::TABLE,
    norm::TABLE,
    place::TABLE,
    pool::TABLE,
    quantize::TABLE,
    random::TABLE,
    recurrent::TABLE,
    reduce::TABLE,
    resize::TABLE,
    sample::TABLE,
    scatter::TABLE,
    sequence::TABLE,
    signal::TABLE,
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

/// `ai.onnx.preview.training`: single steps of optimisers.
pub(crate) const TRAINING: &[&[Entry]] = &[optimiser::TABLE];

/// The engine's own.
pub(crate) const ENGINE: &[&[Entry]] = &[contrib::TABLE];
