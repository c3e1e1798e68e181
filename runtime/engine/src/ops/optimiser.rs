//! One step of an optimiser (`ai.onnx.preview.training`).

use crate::fault::{OpResult, bail, ensure};
use crate::kernel::{Inputs, Kernel, tensor};
use crate::ops::cast::{cast, doubles};
use crate::registry::{Entry, entry};
use crate::spec::Spec;
use crate::{Data, Tensor};

pub(crate) const TABLE: &[Entry] = &[
    entry("Adagrad", 1, adagrad),
    entry("Adam", 1, adam),
    entry("Momentum", 1, momentum),
];

/// For each parameter: itself, its gradient and its states in; itself and its states out. `update` gets the learning
/// rate, the number of steps so far, and one element of each.
fn step<const N: usize>(i: &Inputs<'_>, update: impl Fn(f64, f64, [f64; N]) -> [f64; N]) -> OpResult<Vec<Tensor>> {
    let number = |k: usize| -> OpResult<f64> {
        match i.opt_f64(k)? {
            Some(v) => Ok(v),
            None => bail!("input {k} is missing"),
        }
    };
    let (rate, count) = (number(0)?, number(1)?);
    let n = (i.len() - 2) / (N);
    ensure!(n > 0 && i.len() == 2 + N * n, "{} inputs", i.len());
    let mut outputs: Vec<Vec<Tensor>> = vec![Vec::new(); N];
    for p in 0..n {
        let tensors = (0..N).map(|k| i.get(2 + k * n + p)).collect::<OpResult<Vec<_>>>()?;
        ensure!(
            tensors.iter().all(|t| t.shape() == tensors[0].shape()),
            "operands of parameter {p} have different shapes"
        );
        let values = tensors.iter().map(|t| doubles(t)).collect::<OpResult<Vec<_>>>()?;
        let mut results = vec![Vec::with_capacity(values[0].len()); N];
        let mut rows: Vec<_> = values.iter().map(|v| v.iter()).collect();
        while let Some(row) = rows.iter_mut().map(Iterator::next).collect::<Option<Vec<_>>>() {
            let new = update(rate, count, std::array::from_fn(|k| *row[k]));
            results.iter_mut().zip(new).for_each(|(list, x)| list.push(x));
        }
        for (k, v) in results.into_iter().enumerate() {
            let t = tensor(tensors[0].shape().to_vec(), Data::F64(v))?;
            outputs[k].push(cast(&t, tensors[k].datatype(), true)?);
        }
    }
    // The gradient's place holds nothing that goes out.
    outputs.remove(1);
    Ok(outputs.into_iter().flatten().collect())
}

fn adagrad(spec: &Spec<'_>) -> OpResult<Kernel> {
    spec.expect_inputs(3, usize::MAX)?;
    let factor = |name: &str, default: f32| -> OpResult<f64> { Ok(f64::from(spec.float(name, default)?)) };
    let (decay, epsilon, norm) = (
        factor("decay_factor", 0.0)?,
        factor("epsilon", 1e-6)?,
        factor("norm_coefficient", 0.0)?,
    );
    Ok(Kernel::host(move |i| {
        step(i, |r, t, [x, g, h]| {
            let g = norm * x + g;
            let h = h + g * g;
            [x - r / (1.0 + t * decay) * g / (h.sqrt() + epsilon), 0.0, h]
        })
    }))
}

fn adam(spec: &Spec<'_>) -> OpResult<Kernel> {
    spec.expect_inputs(3, usize::MAX)?;
    let factor = |name: &str, default: f32| -> OpResult<f64> { Ok(f64::from(spec.float(name, default)?)) };
    let (alpha, beta, epsilon) = (factor("alpha", 0.9)?, factor("beta", 0.999)?, factor("epsilon", 1e-6)?);
    let (norm, norm_post) = (factor("norm_coefficient", 0.0)?, factor("norm_coefficient_post", 0.0)?);
    Ok(Kernel::host(move |i| {
        step(i, |r, t, [x, g, v, h]| {
            let g = norm * x + g;
            let (v, h) = (alpha * v + (1.0 - alpha) * g, beta * h + (1.0 - beta) * g * g);
            let r = if t > 0.0 {
                r * (1.0 - beta.powf(t)).sqrt() / (1.0 - alpha.powf(t))
            } else {
                r
            };
            [(1.0 - norm_post) * (x - r * v / (h.sqrt() + epsilon)), 0.0, v, h]
        })
    }))
}

fn momentum(spec: &Spec<'_>) -> OpResult<Kernel> {
    spec.expect_inputs(3, usize::MAX)?;
    let factor = |name: &str| -> OpResult<f64> { Ok(f64::from(spec.float(name, 0.0)?)) };
    let (alpha, beta, norm) = (factor("alpha")?, factor("beta")?, factor("norm_coefficient")?);
    let nesterov = match spec.string("mode", "standard")? {
        "standard" => false,
        "nesterov" => true,
        other => bail!("mode {other:?}; standard and nesterov are known"),
    };
    Ok(Kernel::host(move |i| {
        step(i, |r, t, [x, g, v]| {
            let g = norm * x + g;
            // At the first step the gradient counts whole.
            let v = alpha * v + if t > 0.0 { beta } else { 1.0 } * g;
            [x - r * if nesterov { g + alpha * v } else { v }, 0.0, v]
        })
    }))
}
