//! The table of operators: type, domain and the version since which an entry holds, to a constructor.
//!
//! Each family under `ops` brings its own table. A node takes the entry with the highest version not above the opset that
//! the model imports; a constructor parses and checks all attributes, so that nothing about a node can be wrong later.

use crate::fault::OpResult;
use crate::kernel::Kernel;
use crate::ops;
use crate::spec::Spec;

/// The newest opset of ONNX's own domain whose operators are known; a newer one may have changed them.
pub(crate) const NEWEST_ONNX: i64 = 27;
/// The newest opset of `ai.onnx.ml`.
pub(crate) const NEWEST_ML: i64 = 5;

/// ONNX's own domain is written in two ways.
pub(crate) const ONNX: &str = "";
pub(crate) const ML: &str = "ai.onnx.ml";
/// Operators that ONNX tries out.
pub(crate) const PREVIEW: &str = "ai.onnx.preview";
pub(crate) const TRAINING: &str = "ai.onnx.preview.training";
/// ONNX Runtime's contributed operators.
pub(crate) const MICROSOFT: &str = "com.microsoft";

/// The engine's own, which expansions of others are written in.
pub(crate) const ENGINE: &str = "pilotlight";

/// One operator from one version on.
pub(crate) struct Entry {
    pub(crate) op: &'static str,
    pub(crate) since: i64,
    pub(crate) build: fn(&Spec<'_>) -> OpResult<Kernel>,
}

/// Shorthand for the tables.
pub(crate) const fn entry(op: &'static str, since: i64, build: fn(&Spec<'_>) -> OpResult<Kernel>) -> Entry {
    Entry { op, since, build }
}

/// A domain's name in its one spelling.
pub(crate) fn domain(name: &str) -> &str {
    if name == "ai.onnx" { ONNX } else { name }
}

/// The constructor for a node, or `None` where the engine has none.
pub(crate) fn lookup(domain: &str, op: &str, opset: i64) -> Option<&'static Entry> {
    let tables = match domain {
        ONNX => ops::ONNX,
        ML => ops::ML,
        MICROSOFT => ops::MICROSOFT,
        TRAINING => ops::TRAINING,
        ENGINE => ops::ENGINE,
        _ => return None,
    };
    tables
        .iter()
        .flat_map(|t| t.iter())
        .filter(|e| e.op == op && e.since <= opset)
        .max_by_key(|e| e.since)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_entry_with_the_highest_version_not_above_the_opset_is_taken() {
        assert_eq!(lookup(ONNX, "Softmax", 12).unwrap().since, 1);
        assert_eq!(lookup(ONNX, "Softmax", 13).unwrap().since, 13);
        assert_eq!(lookup(ONNX, "Softmax", 27).unwrap().since, 13);
        assert!(lookup(ONNX, "LayerNormalization", 16).is_none());
        assert!(lookup(ML, "Softmax", 3).is_none());
        assert!(lookup("elsewhere", "Softmax", 13).is_none());
    }

    #[test]
    fn no_operator_stands_twice_at_one_version() {
        for tables in [ops::ONNX, ops::ML, ops::MICROSOFT, ops::TRAINING, ops::ENGINE] {
            let mut all: Vec<_> = tables.iter().flat_map(|t| t.iter()).map(|e| (e.op, e.since)).collect();
            all.sort_unstable();
            assert!(all.windows(2).all(|w| w[0] != w[1]), "{all:?}");
        }
    }
}
