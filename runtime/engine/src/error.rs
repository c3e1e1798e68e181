//! What can go wrong with a model, in words for the person who deploys it.

/// A model that can't be loaded.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LoadError {
    /// The file can't be read.
    #[error("can't read {path}: {reason}")]
    Read {
        /// The file.
        path: String,
        /// What the system said.
        reason: String,
    },
    /// The bytes are no ONNX model, or one that contradicts itself.
    #[error("not a valid ONNX model: {0}")]
    Invalid(String),
    /// An operator that the engine does not have.
    #[error("operator {op} (domain {domain:?}, opset {opset}) of node {node:?} is not supported")]
    UnsupportedOperator {
        /// The operator's type.
        op: String,
        /// Its domain; empty for ONNX's own.
        domain: String,
        /// The version of the domain that the model imports.
        opset: i64,
        /// The node's name, or its first output where it has none.
        node: String,
    },
    /// An operator that the engine has, used in a way that it has not.
    #[error("node {node:?} ({op}): {reason}")]
    Node {
        /// The node's name, or its first output where it has none.
        node: String,
        /// The operator's type.
        op: String,
        /// What is wrong and what would be right.
        reason: String,
    },
}

/// A run that failed. The model stays usable.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RunError {
    /// The inputs do not fit the model.
    #[error("input {name:?}: {reason}")]
    Input {
        /// The input's name.
        name: String,
        /// What is wrong and what would be right.
        reason: String,
    },
    /// A node failed on these inputs.
    #[error("node {node:?} ({op}): {reason}")]
    Node {
        /// The node's name, or its first output where it has none.
        node: String,
        /// The operator's type.
        op: String,
        /// What is wrong.
        reason: String,
    },
}
