//! Scaled dot-product attention as one operator (ONNX 23), and rotary embeddings, on the host.

use crate::fault::{OpResult, bail, ensure};
use crate::host::{Number, floats, typed};
use crate::kernel::{Inputs, Kernel, tensor};
use crate::registry::{Entry, entry};
use crate::spec::Spec;
use crate::{Data, Tensor, shape};

pub(crate) const TABLE: &[Entry] = &[entry("Attention", 23, attention), entry("RotaryEmbedding", 23, rotary)];

struct Attention {
    causal: bool,
    scale: Option<f64>,
    softcap: f64,
    query_heads: usize,
    key_heads: usize,
    /// What the fourth output shows of the scores: after the product, the mask, the cap or the softmax.
    stage: i64,
}

/// A tensor of four dimensions: batch, heads, sequence, size.
struct Heads {
    v: Vec<f64>,
    dims: [usize; 4],
}

impl Heads {
    fn row(&self, b: usize, h: usize, s: usize) -> &[f64] {
        let [_, heads, len, size] = self.dims;
        &self.v[((b * heads + h) * len + s) * size..][..size]
    }

    /// From `[batch, heads, sequence, size]`, or `[batch, sequence, heads * size]`.
    fn read<T: Number>(t: &Tensor, heads: usize) -> OpResult<Self> {
        let v: Vec<f64> = typed::<T>(t)?.iter().map(|x| x.to_f64()).collect();
        match *t.shape() {
            [b, h, s, d] => Ok(Self { v, dims: [b, h, s, d] }),
            [b, s, w] if heads > 0 && w.is_multiple_of(heads) => {
                let d = w / heads;
                let mut out = Vec::with_capacity(v.len());
                for n in 0..b {
                    for h in 0..heads {
                        for t in 0..s {
                            out.extend_from_slice(&v[(n * s + t) * w + h * d..][..d]);
                        }
                    }
                }
                Ok(Self {
                    v: out,
                    dims: [b, heads, s, d],
                })
            }
            _ => bail!("operand of shape {:?} for {heads} heads", t.shape()),
        }
    }

    /// The same with earlier positions in front.
    fn after(self, past: Option<Heads>) -> OpResult<Self> {
        let Some(past) = past else { return Ok(self) };
        let ([b, h, s, d], [pb, ph, ps, pd]) = (self.dims, past.dims);
        ensure!((b, h, d) == (pb, ph, pd), "past {:?} for {:?}", past.dims, self.dims);
        let mut v = Vec::with_capacity(self.v.len() + past.v.len());
        for n in 0..b * h {
            v.extend_from_slice(&past.v[n * ps * d..(n + 1) * ps * d]);
            v.extend_from_slice(&self.v[n * s * d..(n + 1) * s * d]);
        }
        Ok(Self {
            v,
            dims: [b, h, ps + s, d],
        })
    }

    fn tensor<T: Number>(&self) -> OpResult<Tensor> {
        tensor(
            self.dims.to_vec(),
            T::wrap(self.v.iter().map(|&x| T::from_f64(x)).collect()),
        )
    }
}

fn attention(spec: &Spec<'_>) -> OpResult<Kernel> {
    spec.expect_inputs(3, 7)?;
    spec.ignore(&["softmax_precision"]);
    let heads = |name: &str| -> OpResult<usize> { Ok(usize::try_from(spec.int(name, 0)?).unwrap_or(0)) };
    let attention = Attention {
        causal: spec.flag("is_causal", false)?,
        scale: spec.opt_float("scale")?.map(f64::from),
        softcap: f64::from(spec.float("softcap", 0.0)?),
        query_heads: heads("q_num_heads")?,
        key_heads: heads("kv_num_heads")?,
        stage: spec.int("qk_matmul_output_mode", 0)?,
    };
    Ok(Kernel::host(
        move |i| floats!(i.get(0)?.data(), v => attention.run(v, i)),
    ))
}

impl Attention {
    fn run<T: Number>(&self, _q: &[T], i: &Inputs<'_>) -> OpResult<Vec<Tensor>> {
        let flat = i.get(0)?.shape().len() == 3;
        let q = Heads::read::<T>(i.get(0)?, self.query_heads)?;
        let past = |k: usize| i.opt(k).map(|t| Heads::read::<T>(t, 0)).transpose();
        let new = Heads::read::<T>(i.get(1)?, self.key_heads)?;
        let new_len = new.dims[2];
        let k = new.after(past(4)?)?;
        let v = Heads::read::<T>(i.get(2)?, self.key_heads)?.after(past(5)?)?;
        let ([b, heads, sq, d], [kb, kh, sk, kd], [vb, vh, vs, vd]) = (q.dims, k.dims, v.dims);
        ensure!(
            b == kb && b == vb && kh == vh && sk == vs && d == kd && kh > 0 && heads.is_multiple_of(kh),
            "query {:?}, key {:?} and value {:?} do not fit",
            q.dims,
            k.dims,
            v.dims
        );
        let scale = self.scale.unwrap_or(1.0 / (d as f64).sqrt());
        let mask = Mask::read::<T>(i.opt(3), [b, heads, sq, sk])?;
        let lens = i.opt_i64s(6)?;
        ensure!(
            lens.as_ref()
                .is_none_or(|l| l.len() == b && l.iter().all(|n| (0..=sk as i64).contains(n))),
            "lengths of keys {lens:?} do not fit {b} samples of {sk}"
        );
        shape::elements(&[b, heads, sq, sk])?;
        let mut out = vec![0.0; shape::elements(&[b, heads, sq, vd])?];
        let mut shown = Vec::with_capacity(b * heads * sq * sk);
        for n in 0..b {
            // Queries are the last positions of what is cached.
            let offset = match &lens {
                Some(l) => l[n] - sq as i64,
                None => (sk - new_len.min(sk)) as i64,
            };
            for h in 0..heads {
                let group = h / (heads / kh);
                for s in 0..sq {
                    let query = q.row(n, h, s);
                    let mut row: Vec<f64> = (0..sk)
                        .map(|t| query.iter().zip(k.row(n, group, t)).map(|(a, b)| a * b).sum::<f64>() * scale)
                        .collect();
                    let raw = row.clone();
                    let visible = |t: usize| {
                        (!self.causal || t as i64 <= s as i64 + offset)
                            && lens.as_ref().is_none_or(|l| (t as i64) < l[n])
                    };
                    let capped: Vec<f64> = match self.softcap {
                        0.0 => row.clone(),
                        cap => row.iter().map(|x| (x / cap).tanh() * cap).collect(),
                    };
                    for (t, x) in row.iter_mut().enumerate() {
                        let bias = mask.at(n, h, s, t);
                        *x = if visible(t) {
                            capped[t] + bias
                        } else {
                            f64::NEG_INFINITY
                        };
                    }
                    let masked = row.clone();
                    softmax(&mut row);
                    shown.extend_from_slice(match self.stage {
                        0 => &raw,
                        1 => &capped,
                        2 => &masked,
                        _ => &row,
                    });
                    let target = &mut out[((n * heads + h) * sq + s) * vd..][..vd];
                    for (t, w) in row.iter().enumerate().filter(|(_, w)| **w != 0.0) {
                        target.iter_mut().zip(v.row(n, group, t)).for_each(|(o, x)| *o += w * x);
                    }
                }
            }
        }
        let y = Heads {
            v: out,
            dims: [b, heads, sq, vd],
        };
        let y = if flat { flatten::<T>(&y)? } else { y.tensor::<T>()? };
        let scores = Heads {
            v: shown,
            dims: [b, heads, sq, sk],
        };
        Ok(vec![y, k.tensor::<T>()?, v.tensor::<T>()?, scores.tensor::<T>()?])
    }
}

fn flatten<T: Number>(y: &Heads) -> OpResult<Tensor> {
    let [b, heads, s, d] = y.dims;
    let mut out = Vec::with_capacity(y.v.len());
    for n in 0..b {
        for t in 0..s {
            for h in 0..heads {
                out.extend(y.row(n, h, t).iter().map(|&x| T::from_f64(x)));
            }
        }
    }
    tensor(vec![b, s, heads * d], T::wrap(out))
}

fn softmax(row: &mut [f64]) {
    let max = row.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    if max == f64::NEG_INFINITY {
        // Nothing is visible: nothing is taken.
        return row.fill(0.0);
    }
    let mut sum = 0.0;
    for x in row.iter_mut() {
        *x = (*x - max).exp();
        sum += *x;
    }
    for x in row.iter_mut() {
        *x /= sum;
    }
}

/// What is added to scores; positions behind a shorter mask are hidden.
enum Mask {
    None,
    Bias {
        v: Vec<f64>,
        dims: Vec<usize>,
        strides: Vec<usize>,
    },
}

impl Mask {
    fn read<T: Number>(t: Option<&Tensor>, [b, h, sq, sk]: [usize; 4]) -> OpResult<Self> {
        let Some(t) = t else { return Ok(Self::None) };
        let v: Vec<f64> = match t.data() {
            Data::Bool(v) => v.iter().map(|&m| if m { 0.0 } else { f64::NEG_INFINITY }).collect(),
            _ => typed::<T>(t)?.iter().map(|x| x.to_f64()).collect(),
        };
        let dims = shape::lead_ones(t.shape(), 4);
        let fits = dims.len() == 4 && dims[..3].iter().zip([b, h, sq]).all(|(&m, d)| m == 1 || m == d);
        ensure!(
            fits && (dims[3] == 1 || dims[3] <= sk),
            "mask of shape {:?} for scores {:?}",
            t.shape(),
            [b, h, sq, sk]
        );
        let strides = shape::strides(&dims);
        Ok(Self::Bias { v, dims, strides })
    }

    fn at(&self, b: usize, h: usize, s: usize, t: usize) -> f64 {
        match self {
            Self::None => 0.0,
            Self::Bias { v, dims, strides } => {
                if dims[3] > 1 && t >= dims[3] {
                    return f64::NEG_INFINITY;
                }
                let index = [b, h, s, t];
                v[(0..4)
                    .map(|d| if dims[d] == 1 { 0 } else { index[d] * strides[d] })
                    .sum::<usize>()]
            }
        }
    }
}

fn rotary(spec: &Spec<'_>) -> OpResult<Kernel> {
    spec.expect_inputs(3, 4)?;
    let heads = usize::try_from(spec.int("num_heads", 0)?).unwrap_or(0);
    let width = usize::try_from(spec.int("rotary_embedding_dim", 0)?).unwrap_or(0);
    let interleaved = spec.flag("interleaved", false)?;
    fn run<T: Number>(x: &[T], i: &Inputs<'_>, heads: usize, width: usize, interleaved: bool) -> OpResult<Vec<Tensor>> {
        let t = i.get(0)?;
        let mut q = Heads::read::<T>(t, heads)?;
        let [b, h, s, d] = q.dims;
        let width = if width == 0 { d } else { width };
        let half = width / 2;
        ensure!(
            width <= d && width.is_multiple_of(2) && x.len() == q.v.len(),
            "rotary dimensions {width} of {d}"
        );
        let (cos, sin) = (i.get(1)?, i.get(2)?);
        let positions = i.opt_i64s(3)?;
        let (c, n) = (typed::<T>(cos)?, typed::<T>(sin)?);
        ensure!(
            cos.shape() == sin.shape() && cos.shape().last() == Some(&half),
            "caches of shape {:?}",
            cos.shape()
        );
        for at in 0..b * h * s {
            let (batch, step) = (at / (h * s), at % s);
            let row = match &positions {
                Some(p) => p.get(batch * s + step).and_then(|&p| usize::try_from(p).ok()),
                None => Some(batch * s + step),
            };
            // Positions are the caller's: their place in the caches need not be a number.
            let end = row.and_then(|r| r.checked_add(1)?.checked_mul(half));
            let range = end.filter(|&end| end <= c.len()).map(|end| end - half..end);
            let Some(range) = range else {
                bail!("a position is not in the caches")
            };
            let values = &mut q.v[at * d..at * d + width];
            for (k, (c, n)) in c[range.clone()].iter().zip(&n[range]).enumerate() {
                let (first, second) = if interleaved { (2 * k, 2 * k + 1) } else { (k, half + k) };
                let (x, y) = (values[first], values[second]);
                let (c, n) = (c.to_f64(), n.to_f64());
                (values[first], values[second]) = (x * c - y * n, x * n + y * c);
            }
        }
        Ok(vec![if t.shape().len() == 3 {
            flatten::<T>(&q)?
        } else {
            q.tensor::<T>()?
        }])
    }
    Ok(Kernel::host(
        move |i| floats!(i.get(0)?.data(), v => run(v, i, heads, width, interleaved)),
    ))
}

#[cfg(test)]
mod tests {
    use crate::testing::{Attributes, Graphs, assert_close, eval_at, f32s, ints};

    #[test]
    fn equal_keys_share_and_a_causal_query_sees_no_later_one() {
        let qk = f32s(&[1, 1, 2, 1], &[0.0, 0.0]);
        let v = f32s(&[1, 1, 2, 1], &[1.0, 3.0]);
        let out = eval_at(23, "Attention", |_| {}, &[qk.clone(), qk.clone(), v.clone()], 1).unwrap();
        assert_close(&out[0], &f32s(&[1, 1, 2, 1], &[2.0, 2.0]));
        let causal = |a: &mut Attributes| a.int("is_causal", 1);
        let out = eval_at(23, "Attention", causal, &[qk.clone(), qk, v], 1).unwrap();
        assert_close(&out[0], &f32s(&[1, 1, 2, 1], &[1.0, 2.0]));
    }

    #[test]
    fn a_key_of_another_rank_is_refused() {
        let (q, flat) = (f32s(&[1, 1, 2, 1], &[0.0, 0.0]), f32s(&[2], &[0.0, 0.0]));
        let refusal = eval_at(23, "Attention", |_| {}, &[q.clone(), flat, q], 1).unwrap_err();
        assert!(refusal.contains("operand of shape [2]"), "{refusal}");
    }

    #[test]
    fn lengths_and_positions_beyond_all_bounds_are_refused() {
        let qk = f32s(&[1, 1, 2, 1], &[0.0, 0.0]);
        for length in [i64::MIN, -1, 3, i64::MAX] {
            let mut graph = Graphs::new(24).input("q", 1, &[None; 4]).input("l", 7, &[None]);
            graph = graph
                .node("Attention", &["q", "q", "q", "", "", "", "l"], &["y"])
                .output("y");
            let model = graph.load().expect("the model loads");
            let refusal = model
                .run(vec![qk.clone(), ints(&[1], &[length])])
                .unwrap_err()
                .to_string();
            assert!(refusal.contains("lengths of keys"), "{refusal}");
        }
        let x = f32s(&[1, 1, 1, 4], &[0.0; 4]);
        let cache = f32s(&[1, 2], &[0.0; 2]);
        for position in [1, -1, i64::MAX, i64::MAX / 2, i64::MAX / 2 + 1] {
            let inputs = [x.clone(), cache.clone(), cache.clone(), ints(&[1, 1], &[position])];
            let refusal = eval_at(23, "RotaryEmbedding", |_| {}, &inputs, 1).unwrap_err();
            assert!(refusal.contains("a position is not in the caches"), "{refusal}");
        }
    }

    #[test]
    fn a_quarter_turn_swaps_the_halves() {
        let x = f32s(&[1, 1, 1, 2], &[3.0, 4.0]);
        let out = eval_at(
            23,
            "RotaryEmbedding",
            |_| {},
            &[x, f32s(&[1, 1, 1], &[0.0]), f32s(&[1, 1, 1], &[1.0])],
            1,
        );
        assert_close(&out.unwrap()[0], &f32s(&[1, 1, 1, 2], &[-4.0, 3.0]));
    }
}
