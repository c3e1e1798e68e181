//! What the expansions of contributed operators need and ONNX lacks, in the engine's own domain.

use crate::fault::{OpResult, bail, ensure};
use crate::kernel::{Inputs, Kernel, View, i64s, tensor};
use crate::ops::cast::cast;
use crate::registry::{Entry, entry};
use crate::spec::Spec;
use crate::{Data, Tensor, shape};

pub(crate) const TABLE: &[Entry] = &[
    entry("AttentionMask", 1, attention_mask),
    entry("RMSNormalization", 1, super::norm::rms_norm),
    entry("SwapLast", 1, swap_last),
];

/// The last two dimensions change places.
fn swap_last(spec: &Spec<'_>) -> OpResult<Kernel> {
    spec.expect_inputs(1, 1)?;
    Ok(Kernel::view(|dims: &[usize], _: &Inputs<'_>| {
        let rank = dims.len();
        ensure!(rank >= 2, "input of rank {rank} instead of at least 2");
        let mut perm: Vec<usize> = (0..rank).collect();
        perm.swap(rank - 2, rank - 1);
        Ok(vec![vec![View::Permute(perm)]])
    }))
}

/// What is added to scores `[batch, heads, queries, keys]`, so that what a mask leaves out counts for nothing. Masks:
/// lengths `[batch]` (or lengths and then beginnings, `[2 * batch]`), or zeros where nothing is, `[batch, keys]` and
/// `[batch, queries, keys]`.
fn attention_mask(spec: &Spec<'_>) -> OpResult<Kernel> {
    spec.expect_inputs(1, 2)?;
    let filter = f64::from(spec.float("mask_filter_value", -10000.0)?);
    let causal = spec.flag("unidirectional", false)?;
    Ok(Kernel::host(move |i| {
        let x = i.get(0)?;
        let &[b, _, queries, keys] = x.shape() else {
            bail!("scores of shape {:?}", x.shape())
        };
        let mask = i.opt(1).map(|m| Mask::read(m, [b, queries, keys])).transpose()?;
        let dims = vec![b, 1, queries, keys];
        let mut out = Vec::with_capacity(shape::elements(&dims)?);
        for n in 0..b {
            for q in 0..queries {
                // Queries are the last of the keys.
                let seen = q + keys - queries.min(keys);
                for k in 0..keys {
                    let open = mask.as_ref().is_none_or(|m| m.open(n, q, k));
                    let hidden = causal && k > seen;
                    out.push(if open { 0.0 } else { filter } + if hidden { f64::from(f32::MIN) } else { 0.0 });
                }
            }
        }
        // More than the type can hold is what it can hold.
        let out = out.into_iter().map(|v: f64| v.max(f64::from(f32::MIN))).collect();
        Ok(vec![cast(&tensor(dims, Data::F64(out))?, x.datatype(), true)?])
    }))
}

enum Mask {
    Lengths {
        ends: Vec<i64>,
        begins: Option<Vec<i64>>,
    },
    /// Per query where the second is 1, the same for all where it is 0.
    Places(Vec<i64>, usize, [usize; 3]),
}

impl Mask {
    fn read(t: &Tensor, [b, queries, keys]: [usize; 3]) -> OpResult<Self> {
        let v = match t.data() {
            Data::Bool(v) => v.iter().map(|&x| i64::from(x)).collect(),
            _ => i64s(t)?,
        };
        let dims = [b, queries, keys];
        Ok(match *t.shape() {
            [n] if n == b => Self::Lengths { ends: v, begins: None },
            [n] if n == 2 * b => Self::Lengths {
                begins: Some(v[b..].to_vec()),
                ends: v[..b].to_vec(),
            },
            [n, k] if n == b && k == keys => Self::Places(v, 0, dims),
            [n, q, k] if n == b && q == queries && k == keys => Self::Places(v, 1, dims),
            _ => bail!("a mask of shape {:?} for scores of {dims:?}", t.shape()),
        })
    }

    fn open(&self, n: usize, q: usize, k: usize) -> bool {
        match self {
            Self::Lengths { ends, begins } => (k as i64) < ends[n] && begins.as_ref().is_none_or(|b| k as i64 >= b[n]),
            Self::Places(v, 0, [_, _, keys]) => v[n * keys + k] != 0,
            Self::Places(v, _, [_, queries, keys]) => v[(n * queries + q) * keys + k] != 0,
        }
    }
}
