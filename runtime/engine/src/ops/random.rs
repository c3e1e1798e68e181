//! Random numbers. With a seed they are the same on every run; onnxruntime's and NumPy's are others.

use std::hash::{BuildHasher as _, Hasher as _};

use crate::fault::{OpResult, bail, ensure};
use crate::kernel::{Kernel, tensor};
use crate::ops::cast::{cast, doubles};
use crate::registry::{Entry, entry};
use crate::spec::Spec;
use crate::{Data, DataType, Tensor, shape};

pub(crate) const TABLE: &[Entry] = &[
    entry("Bernoulli", 15, bernoulli),
    entry("Multinomial", 7, multinomial),
    entry("RandomNormal", 1, |s| from_shape(s, normal)),
    entry("RandomNormalLike", 1, |s| like(s, normal)),
    entry("RandomUniform", 1, |s| from_shape(s, uniform)),
    entry("RandomUniformLike", 1, |s| like(s, uniform)),
];

/// Whether results of an operator may differ from run to run; such a node is never computed at load.
pub(crate) fn is_random(op: &str) -> bool {
    TABLE.iter().any(|e| e.op == op)
}

/// Sebastiano Vigna's SplitMix64.
struct Random(u64);

impl Random {
    /// From the model's seed, or from the process's entropy.
    fn new(seed: Option<f32>) -> Self {
        Self(match seed {
            Some(seed) => u64::from(seed.to_bits()),
            None => std::collections::hash_map::RandomState::new().build_hasher().finish(),
        })
    }

    /// From 0 up to, not including, 1.
    fn next(&mut self) -> f64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) >> 11) as f64 / (1u64 << 53) as f64
    }

    /// Normally distributed, by Box and Muller's transform.
    fn normal(&mut self) -> f64 {
        let radius = (-2.0 * (1.0 - self.next()).ln()).sqrt();
        radius * (std::f64::consts::TAU * self.next()).cos()
    }
}

type Draw = Box<dyn Fn(&mut Random) -> f64 + Send + Sync>;

fn normal(spec: &Spec<'_>) -> OpResult<Draw> {
    let (mean, scale) = (
        f64::from(spec.float("mean", 0.0)?),
        f64::from(spec.float("scale", 1.0)?),
    );
    Ok(Box::new(move |r| mean + scale * r.normal()))
}

fn uniform(spec: &Spec<'_>) -> OpResult<Draw> {
    let (low, high) = (f64::from(spec.float("low", 0.0)?), f64::from(spec.float("high", 1.0)?));
    Ok(Box::new(move |r| low + (high - low) * r.next()))
}

fn drawn(dims: Vec<usize>, draw: &Draw, seed: Option<f32>, to: DataType) -> OpResult<Vec<Tensor>> {
    let mut random = Random::new(seed);
    let n = shape::elements(&dims)?;
    let v = tensor(dims, Data::F64((0..n).map(|_| draw(&mut random)).collect()))?;
    Ok(vec![cast(&v, to, true)?])
}

fn from_shape(spec: &Spec<'_>, parse: fn(&Spec<'_>) -> OpResult<Draw>) -> OpResult<Kernel> {
    spec.expect_inputs(0, 0)?;
    let (draw, seed) = (parse(spec)?, spec.opt_float("seed")?);
    let to = spec.data_type("dtype")?.unwrap_or(DataType::F32);
    let Some(dims) = spec.sizes("shape", 0)? else {
        bail!("attribute \"shape\" is missing")
    };
    Ok(Kernel::host(move |_| drawn(dims.clone(), &draw, seed, to)))
}

fn like(spec: &Spec<'_>, parse: fn(&Spec<'_>) -> OpResult<Draw>) -> OpResult<Kernel> {
    spec.expect_inputs(1, 1)?;
    let (draw, seed, to) = (parse(spec)?, spec.opt_float("seed")?, spec.data_type("dtype")?);
    Ok(Kernel::host(move |i| {
        let x = i.get(0)?;
        drawn(x.shape().to_vec(), &draw, seed, to.unwrap_or(x.datatype()))
    }))
}

/// One with the probability that the input says, zero otherwise.
fn bernoulli(spec: &Spec<'_>) -> OpResult<Kernel> {
    spec.expect_inputs(1, 1)?;
    let (seed, to) = (spec.opt_float("seed")?, spec.data_type("dtype")?);
    Ok(Kernel::host(move |i| {
        let x = i.get(0)?;
        let mut random = Random::new(seed);
        let hit = doubles(x)?.into_iter().map(|p| random.next() < p).collect();
        let hit = tensor(x.shape().to_vec(), Data::Bool(hit))?;
        Ok(vec![cast(&hit, to.unwrap_or(x.datatype()), true)?])
    }))
}

/// Classes drawn by their unnormalised logarithmic probabilities.
fn multinomial(spec: &Spec<'_>) -> OpResult<Kernel> {
    spec.expect_inputs(1, 1)?;
    let (seed, to) = (spec.opt_float("seed")?, spec.data_type("dtype")?);
    let samples = spec.int("sample_size", 1)?;
    Ok(Kernel::host(move |i| {
        let x = i.get(0)?;
        let &[n, classes] = x.shape() else {
            bail!("input of shape {:?} instead of two dimensions", x.shape())
        };
        ensure!(classes > 0, "there are no classes");
        let dims = shape::from_i64s(&[n as i64, samples])?;
        let mut out = Vec::with_capacity(shape::elements(&dims)?);
        let mut random = Random::new(seed);
        for row in doubles(x)?.chunks(classes) {
            let max = row.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            let weights: Vec<f64> = row.iter().map(|x| (x - max).exp()).collect();
            let total: f64 = weights.iter().sum();
            for _ in 0..dims[1] {
                let mut left = random.next() * total;
                let drawn = weights.iter().position(|w| {
                    left -= w;
                    left < 0.0
                });
                out.push(drawn.unwrap_or(classes - 1) as i64);
            }
        }
        let out = tensor(dims, Data::I64(out))?;
        Ok(vec![cast(&out, to.unwrap_or(DataType::I32), true)?])
    }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{eval, eval_at, f32s};

    #[test]
    fn a_seed_gives_the_same_numbers_and_none_gives_others() {
        let x = f32s(&[8], &[0.0; 8]);
        let seeded = || eval("RandomUniformLike", |a| a.float("seed", 3.0), &[x.clone()]);
        assert_eq!(seeded(), seeded());
        let free = || eval("RandomUniformLike", |_| {}, &[x.clone()]);
        assert_ne!(free(), free());
    }

    #[test]
    fn numbers_follow_their_distribution() {
        let x = f32s(&[20_000], &vec![0.25; 20_000]);
        let mean = |t: &Tensor| doubles(t).unwrap().iter().sum::<f64>() / 20_000.0;
        let hits = eval("Bernoulli", |a| a.float("seed", 1.0), &[x.clone()]);
        assert!((mean(&hits) - 0.25).abs() < 0.02, "{}", mean(&hits));
        let set = |a: &mut crate::testing::Attributes| {
            a.float("mean", 2.0);
            a.float("seed", 1.0);
        };
        let normal = eval_at(18, "RandomNormalLike", set, &[x], 1).unwrap();
        assert!((mean(&normal[0]) - 2.0).abs() < 0.05);
        let classes = eval(
            "Multinomial",
            |a| a.int("sample_size", 4),
            &[f32s(&[1, 3], &[-90.0, 0.0, -90.0])],
        );
        assert_eq!(classes.data(), &Data::I32(vec![1; 4]));
    }
}
