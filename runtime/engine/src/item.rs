//! Values that are no tensors: sequences, and optionals that may be empty. They live on the host.

use std::sync::Arc;

use crate::Tensor;
use crate::fault::{OpResult, bail};

/// What goes into and comes out of a model that has sequences or optionals in its signature. Such a model can be run
/// but not served, since no protocol carries them.
#[derive(Clone, Debug, PartialEq)]
pub enum Item {
    /// A tensor, or an optional with a tensor in it.
    Tensor(Tensor),
    /// A sequence of tensors, or an optional with one in it.
    Sequence(Vec<Tensor>),
    /// An optional without a value.
    Nothing,
}

/// A sequence while a graph runs.
pub(crate) type List = Arc<Vec<Arc<Tensor>>>;

/// An operand on the host.
#[derive(Clone, Debug)]
pub(crate) enum Held {
    Tensor(Arc<Tensor>),
    List(List),
    Nothing,
}

impl Held {
    pub(crate) fn tensor(&self) -> OpResult<&Arc<Tensor>> {
        match self {
            Self::Tensor(t) => Ok(t),
            Self::List(_) => bail!("a sequence where a tensor is needed"),
            Self::Nothing => bail!("an optional without a value where a tensor is needed"),
        }
    }

    pub(crate) fn list(&self) -> OpResult<&List> {
        match self {
            Self::List(list) => Ok(list),
            Self::Tensor(_) => bail!("a tensor where a sequence is needed"),
            Self::Nothing => bail!("an optional without a value where a sequence is needed"),
        }
    }
}

impl From<Item> for Held {
    fn from(item: Item) -> Self {
        match item {
            Item::Tensor(t) => Self::Tensor(Arc::new(t)),
            Item::Sequence(list) => Self::List(Arc::new(list.into_iter().map(Arc::new).collect())),
            Item::Nothing => Self::Nothing,
        }
    }
}

impl From<Held> for Item {
    fn from(held: Held) -> Self {
        let own = |t: Arc<Tensor>| Arc::try_unwrap(t).unwrap_or_else(|shared| (*shared).clone());
        match held {
            Held::Tensor(t) => Self::Tensor(own(t)),
            Held::List(list) => {
                let list = Arc::try_unwrap(list).unwrap_or_else(|shared| (*shared).clone());
                Self::Sequence(list.into_iter().map(own).collect())
            }
            Held::Nothing => Self::Nothing,
        }
    }
}

/// An operator on sequences and optionals.
pub(crate) trait ListOp: Send + Sync {
    fn run(&self, inputs: &[Option<Held>]) -> OpResult<Vec<Held>>;
}

impl<F: Fn(&[Option<Held>]) -> OpResult<Vec<Held>> + Send + Sync> ListOp for F {
    fn run(&self, inputs: &[Option<Held>]) -> OpResult<Vec<Held>> {
        self(inputs)
    }
}
