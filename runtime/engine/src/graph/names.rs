//! Which value a name means while graphs inside graphs and bodies of functions are read.
//!
//! Every graph has values of its own (a `Level`). Names live in frames: one for each graph, one for each call of a
//! function; a function's frame hides what is around it. A name found in a graph further out is captured: it becomes an
//! input of every graph on the way in, or the same constant where it is one.

use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;

use super::{Node, ValueId};
use crate::Tensor;
use crate::onnx::AttributeProto;

/// A graph that is being read.
#[derive(Default)]
pub(super) struct Level {
    pub(super) nodes: Vec<Node>,
    pub(super) constants: Vec<Option<Arc<Tensor>>>,
    /// Values of the level outside and what they are called here.
    pub(super) captures: Vec<(ValueId, ValueId)>,
}

impl Level {
    pub(super) fn define(&mut self, constant: Option<Arc<Tensor>>) -> ValueId {
        self.constants.push(constant);
        self.constants.len() - 1
    }

    fn capture(&mut self, outer: ValueId) -> ValueId {
        if let Some((_, here)) = self.captures.iter().find(|(o, _)| *o == outer) {
            return *here;
        }
        let here = self.define(None);
        self.captures.push((outer, here));
        here
    }
}

/// Names of a graph or of a function's body.
pub(super) struct Frame<'m> {
    /// `None` for an input that a call leaves out.
    pub(super) names: HashMap<&'m str, Option<ValueId>>,
    pub(super) level: usize,
    /// Whether names further out are hidden.
    pub(super) function: bool,
    pub(super) opsets: Rc<HashMap<&'m str, i64>>,
    /// What a function's attributes are in this call.
    pub(super) attributes: Rc<HashMap<String, AttributeProto>>,
}

/// What a name stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Meaning {
    Value(ValueId),
    /// A function's input that the call does not give.
    LeftOut,
    Unknown,
}

/// All that is being read at a time.
#[derive(Default)]
pub(super) struct Names<'m> {
    pub(super) levels: Vec<Level>,
    pub(super) frames: Vec<Frame<'m>>,
}

impl<'m> Names<'m> {
    pub(super) fn level(&mut self) -> &mut Level {
        let last = self.levels.len() - 1;
        &mut self.levels[last]
    }

    pub(super) fn frame(&mut self) -> &mut Frame<'m> {
        let last = self.frames.len() - 1;
        &mut self.frames[last]
    }

    /// Gives a name to a value of the innermost frame; `false` where it is taken there.
    pub(super) fn bind(&mut self, name: &'m str, value: Option<ValueId>) -> bool {
        self.frame().names.insert(name, value).is_none()
    }

    /// What a name means in the innermost graph.
    pub(super) fn resolve(&mut self, name: &str) -> Meaning {
        let mut found = None;
        for frame in self.frames.iter().rev() {
            if let Some(value) = frame.names.get(name) {
                found = Some((*value, frame.level));
                break;
            }
            if frame.function {
                break;
            }
        }
        let (mut value, level) = match found {
            None => return Meaning::Unknown,
            Some((None, _)) => return Meaning::LeftOut,
            Some((Some(value), level)) => (value, level),
        };
        for inner in level + 1..self.levels.len() {
            let constant = self.levels[inner - 1].constants[value].clone();
            value = self.levels[inner].capture(value);
            if constant.is_some() {
                // The same tensor, not a copy; the capture is dropped when the graph is complete.
                self.levels[inner].constants[value] = constant;
            }
        }
        Meaning::Value(value)
    }
}
