//! Sequence models with a state instead of a window: `LinearAttention` and `CausalConvWithState` (ONNX 27).

use crate::fault::{OpResult, bail, ensure};
use crate::kernel::{Inputs, Kernel, tensor};
use crate::ops::cast::{cast, doubles};
use crate::registry::{Entry, entry};
use crate::spec::Spec;
use crate::{Data, DataType, Tensor, shape};

pub(crate) const TABLE: &[Entry] = &[
    entry("CausalConvWithState", 27, causal_conv),
    entry("LinearAttention", 27, linear_attention),
];

struct LinearAttention {
    query_heads: usize,
    heads: usize,
    scale: f64,
}

fn linear_attention(spec: &Spec<'_>) -> OpResult<Kernel> {
    spec.expect_inputs(3, 6)?;
    spec.ignore(&["chunk_size"]);
    let count = |name: &str| -> OpResult<usize> { Ok(usize::try_from(spec.int(name, 0)?).unwrap_or(0)) };
    let (gated, delta) = match spec.string("update_rule", "gated_delta")? {
        "linear" => (false, false),
        "gated" => (true, false),
        "delta" => (false, true),
        "gated_delta" => (true, true),
        other => bail!("update_rule {other:?}; linear, gated, delta and gated_delta are known"),
    };
    let attention = LinearAttention {
        query_heads: count("q_num_heads")?,
        heads: count("kv_num_heads")?,
        scale: f64::from(spec.float("scale", 0.0)?),
    };
    ensure!(
        attention.heads > 0 && attention.query_heads > 0 && attention.query_heads.is_multiple_of(attention.heads),
        "{} heads of queries for {} of keys",
        attention.query_heads,
        attention.heads
    );
    ensure!(
        spec.has_input(4) == gated && spec.has_input(5) == delta,
        "decay and beta are inputs exactly where the update rule has them"
    );
    Ok(Kernel::host(move |i| attention.run(i)))
}

impl LinearAttention {
    fn run(&self, i: &Inputs<'_>) -> OpResult<Vec<Tensor>> {
        let (&[b, len, qw], &[kb, kl, kw], &[vb, vl, vw]) = (i.get(0)?.shape(), i.get(1)?.shape(), i.get(2)?.shape())
        else {
            bail!("operands of another rank than 3")
        };
        let (heads, group) = (self.heads, self.query_heads / self.heads);
        ensure!(
            kb == b
                && vb == b
                && kl == len
                && vl == len
                && kw.is_multiple_of(heads)
                && vw.is_multiple_of(heads)
                && kw.checked_mul(group) == Some(qw),
            "query {:?}, key {:?} and value {:?} do not fit",
            [b, len, qw],
            [kb, kl, kw],
            [vb, vl, vw]
        );
        let (dk, dv) = (kw / heads, vw / heads);
        let (q, k, v) = (doubles(i.get(0)?)?, doubles(i.get(1)?)?, doubles(i.get(2)?)?);
        let side = |n: usize, widths: [usize; 2]| -> OpResult<Option<(Vec<f64>, usize)>> {
            let Some(t) = i.opt(n) else { return Ok(None) };
            match *t.shape() {
                [sb, sl, w] if sb == b && sl == len && widths.contains(&w) => Ok(Some((doubles(t)?, w))),
                _ => bail!("input {n} has shape {:?}", t.shape()),
            }
        };
        let (decay, beta) = (side(4, [heads, kw])?, side(5, [heads, 1])?);
        let states = [b, heads, dk, dv];
        let mut state = match i.opt(3) {
            Some(t) => {
                ensure!(
                    t.shape() == states,
                    "a state of shape {:?} instead of {states:?}",
                    t.shape()
                );
                doubles(t)?
            }
            None => vec![0.0; shape::elements(&states)?],
        };
        let scale = if self.scale == 0.0 {
            1.0 / (dk as f64).sqrt()
        } else {
            self.scale
        };
        let mut out = vec![0.0; shape::elements(&[b, len, self.query_heads * dv])?];
        for n in 0..b {
            for t in 0..len {
                let row = n * len + t;
                for h in 0..heads {
                    let s = &mut state[(n * heads + h) * dk * dv..][..dk * dv];
                    let key = &k[row * kw + h * dk..][..dk];
                    if let Some((g, w)) = &decay {
                        for d in 0..dk {
                            let gate = if *w == heads {
                                g[row * w + h]
                            } else {
                                g[row * w + h * dk + d]
                            };
                            s[d * dv..(d + 1) * dv].iter_mut().for_each(|x| *x *= gate.exp());
                        }
                    }
                    let mut value = v[row * vw + h * dv..][..dv].to_vec();
                    if let Some((beta, w)) = &beta {
                        let beta = beta[row * w + if *w == 1 { 0 } else { h }];
                        for (m, x) in value.iter_mut().enumerate() {
                            let known: f64 = (0..dk).map(|d| s[d * dv + m] * key[d]).sum();
                            *x = beta * (*x - known);
                        }
                    }
                    for d in 0..dk {
                        s[d * dv..].iter_mut().zip(&value).for_each(|(x, v)| *x += key[d] * v);
                    }
                    for g in 0..group {
                        let head = h * group + g;
                        let query = &q[row * qw + head * dk..][..dk];
                        let target = &mut out[(row * self.query_heads + head) * dv..][..dv];
                        for (m, o) in target.iter_mut().enumerate() {
                            *o = scale * (0..dk).map(|d| query[d] * s[d * dv + m]).sum::<f64>();
                        }
                    }
                }
            }
        }
        let typed = |dims: &[usize], v, to| cast(&tensor(dims.to_vec(), Data::F64(v))?, to, true);
        let own = i.get(0)?.datatype();
        Ok(vec![
            typed(&[b, len, self.query_heads * dv], out, own)?,
            typed(&states, state, i.opt(3).map_or(own, Tensor::datatype))?,
        ])
    }
}

fn causal_conv(spec: &Spec<'_>) -> OpResult<Kernel> {
    spec.expect_inputs(2, 4)?;
    let silu = match spec.string("activation", "none")? {
        "none" => false,
        "silu" | "swish" => true,
        other => bail!("activation {other:?}; none, silu and swish are known"),
    };
    Ok(Kernel::host(move |i| {
        let (&[b, c, len], &[channels, one, taps]) = (i.get(0)?.shape(), i.get(1)?.shape()) else {
            bail!("operands of another rank than 3")
        };
        ensure!(
            channels == c && one == 1 && taps > 0,
            "weights of shape {:?} for {c} channels",
            i.get(1)?.shape()
        );
        let past = taps - 1;
        let bias = i.opt(2).map(doubles).transpose()?;
        ensure!(
            bias.as_ref().is_none_or(|v| v.len() == c),
            "bias does not fit {c} channels"
        );
        ensure!(
            i.opt(3).is_none_or(|s| s.shape() == [b, c, past]),
            "the state's shape is not {:?}",
            [b, c, past]
        );
        let (x, w, before) = (
            doubles(i.get(0)?)?,
            doubles(i.get(1)?)?,
            i.opt(3).map(doubles).transpose()?,
        );
        let own = i.get(0)?.datatype();
        let (mut sums, mut state) = (Vec::with_capacity(x.len()), Vec::new());
        for row in 0..b * c {
            let mut line = before
                .as_ref()
                .map_or_else(|| vec![0.0; past], |s| s[row * past..][..past].to_vec());
            line.extend_from_slice(&x[row * len..][..len]);
            let kernel = &w[row % c * taps..][..taps];
            sums.extend(line.windows(taps).map(|window| {
                let sum: f64 = window.iter().zip(kernel).map(|(x, w)| x * w).sum();
                sum + bias.as_ref().map_or(0.0, |v| v[row % c])
            }));
            state.extend_from_slice(&line[line.len() - past..]);
        }
        let mut y = tensor(vec![b, c, len], Data::F64(sums))?;
        if silu {
            // The sums are rounded to the model's type before the activation sees them.
            let rounded = doubles(&cast(&y, own, true)?)?;
            let v = rounded
                .into_iter()
                .map(|x| f64::from(x as f32 * (1.0 / (1.0 + (-x as f32).exp()))));
            y = tensor(vec![b, c, len], Data::F64(v.collect()))?;
        }
        let state_type: DataType = i.opt(3).map_or(own, Tensor::datatype);
        let state = tensor(vec![b, c, past], Data::F64(state))?;
        Ok(vec![cast(&y, own, true)?, cast(&state, state_type, true)?])
    }))
}
