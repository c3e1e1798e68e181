//! Recurrent layers: RNN, GRU and LSTM, step by step on the host.

mod fast;

use crate::fault::{OpResult, bail, ensure};
use crate::host::{Number, floats, typed};
use crate::kernel::{Inputs, Kernel, tensor};
use crate::registry::{Entry, entry};
use crate::spec::Spec;
use crate::{Tensor, shape};

pub(crate) const TABLE: &[Entry] = &[
    entry("GRU", 7, |s| build(s, Cell::Gru)),
    entry("LSTM", 7, |s| build(s, Cell::Lstm)),
    entry("RNN", 7, |s| build(s, Cell::Rnn)),
];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Cell {
    Rnn,
    Gru,
    Lstm,
}

impl Cell {
    fn gates(self) -> usize {
        match self {
            Self::Rnn => 1,
            Self::Gru => 3,
            Self::Lstm => 4,
        }
    }

    /// One activation for the gates, and those of the state.
    fn default_activations(self) -> &'static [&'static str] {
        match self {
            Self::Rnn => &["Tanh"],
            Self::Gru => &["Sigmoid", "Tanh"],
            Self::Lstm => &["Sigmoid", "Tanh", "Tanh"],
        }
    }
}

/// An activation with its parameters.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Activation {
    Relu,
    Tanh,
    Sigmoid,
    Affine(f64, f64),
    LeakyRelu(f64),
    ThresholdedRelu(f64),
    ScaledTanh(f64, f64),
    HardSigmoid(f64, f64),
    Elu(f64),
    Softsign,
    Softplus,
}

impl Activation {
    /// Takes its parameters from the front of the lists.
    fn parse(name: &str, alphas: &mut Vec<f64>, betas: &mut Vec<f64>) -> OpResult<Self> {
        let take = |list: &mut Vec<f64>, default| if list.is_empty() { default } else { list.remove(0) };
        Ok(match name.to_ascii_lowercase().as_str() {
            "relu" => Self::Relu,
            "tanh" => Self::Tanh,
            "sigmoid" => Self::Sigmoid,
            "affine" => Self::Affine(take(alphas, 1.0), take(betas, 0.0)),
            "leakyrelu" => Self::LeakyRelu(take(alphas, 0.01)),
            "thresholdedrelu" => Self::ThresholdedRelu(take(alphas, 1.0)),
            "scaledtanh" => Self::ScaledTanh(take(alphas, 1.0), take(betas, 1.0)),
            "hardsigmoid" => Self::HardSigmoid(take(alphas, 0.2), take(betas, 0.5)),
            "elu" => Self::Elu(take(alphas, 1.0)),
            "softsign" => Self::Softsign,
            "softplus" => Self::Softplus,
            other => bail!("activation {other:?} is not supported"),
        })
    }

    fn of(self, x: f64) -> f64 {
        match self {
            Self::Relu => x.max(0.0),
            Self::Tanh => x.tanh(),
            Self::Sigmoid => 1.0 / (1.0 + (-x).exp()),
            Self::Affine(a, b) => a * x + b,
            Self::LeakyRelu(a) => {
                if x < 0.0 {
                    a * x
                } else {
                    x
                }
            }
            Self::ThresholdedRelu(a) => {
                if x > a {
                    x
                } else {
                    0.0
                }
            }
            Self::ScaledTanh(a, b) => a * (b * x).tanh(),
            Self::HardSigmoid(a, b) => (a * x + b).clamp(0.0, 1.0),
            Self::Elu(a) => {
                if x < 0.0 {
                    a * x.exp_m1()
                } else {
                    x
                }
            }
            Self::Softsign => x / (1.0 + x.abs()),
            Self::Softplus => x.max(0.0) + (-x.abs()).exp().ln_1p(),
        }
    }
}

struct Layer {
    cell: Cell,
    hidden: usize,
    /// For each direction whether it runs backwards.
    backwards: Vec<bool>,
    /// For each direction.
    activations: Vec<Vec<Activation>>,
    clip: Option<f64>,
    batch_first: bool,
    linear_before_reset: bool,
    input_forget: bool,
    weights: fast::Cache,
}

fn build(spec: &Spec<'_>, cell: Cell) -> OpResult<Kernel> {
    spec.expect_inputs(3, 8)?;
    let hidden = usize::try_from(spec.int("hidden_size", 0)?).unwrap_or(0);
    ensure!(hidden > 0 && hidden <= 1 << 20, "attribute \"hidden_size\" is {hidden}");
    let backwards = match spec.string("direction", "forward")? {
        "forward" => vec![false],
        "reverse" => vec![true],
        "bidirectional" => vec![false, true],
        other => bail!("attribute \"direction\" is {other:?}"),
    };
    let wide = |v: Option<Vec<f32>>| v.unwrap_or_default().into_iter().map(f64::from).collect::<Vec<_>>();
    let (mut alphas, mut betas) = (
        wide(spec.floats("activation_alpha")?),
        wide(spec.floats("activation_beta")?),
    );
    let defaults = cell.default_activations();
    let names = spec.strings("activations")?.unwrap_or_else(|| {
        (0..backwards.len())
            .flat_map(|_| defaults.iter().map(|s| (*s).to_owned()))
            .collect()
    });
    ensure!(
        names.len() == defaults.len() * backwards.len(),
        "{} activations",
        names.len()
    );
    let all = names
        .iter()
        .map(|n| Activation::parse(n, &mut alphas, &mut betas))
        .collect::<OpResult<Vec<_>>>()?;
    let layer = Layer {
        cell,
        hidden,
        activations: all.chunks(defaults.len()).map(<[_]>::to_vec).collect(),
        backwards,
        clip: spec.opt_float("clip")?.map(f64::from),
        batch_first: spec.flag("layout", false)?,
        linear_before_reset: spec.flag("linear_before_reset", false)?,
        input_forget: spec.flag("input_forget", false)?,
        weights: fast::Cache::default(),
    };
    spec.ignore(&["output_sequence"]);
    Ok(Kernel::host(move |i| floats!(i.get(0)?.data(), v => layer.run(v, i))))
}

/// Sizes of one run.
struct Sizes {
    steps: usize,
    batch: usize,
}

impl Layer {
    fn run<T: Number>(&self, x: &[T], i: &Inputs<'_>) -> OpResult<Vec<Tensor>> {
        let &[a, b, input] = i.get(0)?.shape() else {
            bail!("input of rank {} instead of 3", i.get(0)?.shape().len())
        };
        let (steps, batch) = if self.batch_first { (b, a) } else { (a, b) };
        let sizes = Sizes { steps, batch };
        let (h, gates, directions) = (self.hidden, self.cell.gates(), self.backwards.len());
        fits(i, 1, &[directions, gates * h, input])?;
        fits(i, 2, &[directions, gates * h, h])?;
        fits(i, 3, &[directions, 2 * gates * h])?;
        let lens = match i.opt_i64s(4)? {
            Some(l) => shape::from_i64s(&l)?,
            None => vec![steps; batch],
        };
        ensure!(
            lens.len() == batch && lens.iter().all(|&l| l <= steps),
            "sequence lengths {lens:?}"
        );
        let state_dims = if self.batch_first {
            [batch, directions, h]
        } else {
            [directions, batch, h]
        };
        fits(i, 5, &state_dims)?;
        if self.cell == Cell::Lstm {
            fits(i, 6, &state_dims)?;
        }
        shape::elements(&[steps, directions, batch, h])?;
        if let Some(outputs) = self.run_fast(i, &sizes, &lens) {
            return outputs;
        }
        let w = parameter::<T>(i, 1, &[directions, gates * h, input])?;
        let r = parameter::<T>(i, 2, &[directions, gates * h, h])?;
        let bias = optional::<T>(i, 3, &[directions, 2 * gates * h])?;
        let first_h = self.states(optional::<T>(i, 5, &state_dims)?, batch);
        let first_c = self.states(
            if self.cell == Cell::Lstm {
                optional::<T>(i, 6, &state_dims)?
            } else {
                None
            },
            batch,
        );
        let peepholes = if self.cell == Cell::Lstm {
            optional::<T>(i, 7, &[directions, 3 * h])?
        } else {
            None
        };
        let mut y = vec![0.0; shape::elements(&[steps, directions, batch, h])?];
        let (mut last_h, mut last_c) = (first_h, first_c);
        let wide: Vec<f64> = x.iter().map(|x| x.to_f64()).collect();
        for d in 0..directions {
            let slice = |v: &[f64], n: usize| v[d * n..(d + 1) * n].to_vec();
            let weights = Weights {
                w: slice(&w, gates * h * input),
                r: slice(&r, gates * h * h),
                bias: bias
                    .as_ref()
                    .map_or_else(|| vec![0.0; 2 * gates * h], |b| slice(b, 2 * gates * h)),
                peepholes: peepholes.as_ref().map(|p| slice(p, 3 * h)),
            };
            for (n, &len) in lens.iter().enumerate() {
                let state = (d * batch + n) * h;
                let (mut hs, mut cs) = (last_h[state..state + h].to_vec(), last_c[state..state + h].to_vec());
                for k in 0..len {
                    let t = if self.backwards[d] { len - 1 - k } else { k };
                    let row = if self.batch_first { n * steps + t } else { t * batch + n };
                    self.step(d, &weights, &wide[row * input..(row + 1) * input], &mut hs, &mut cs);
                    let at = ((t * directions + d) * batch + n) * h;
                    y[at..at + h].copy_from_slice(&hs);
                }
                last_h[state..state + h].copy_from_slice(&hs);
                last_c[state..state + h].copy_from_slice(&cs);
            }
        }
        self.outputs::<T>(y, &last_h, &last_c, &sizes)
    }

    /// States as `[directions, batch, hidden]`, zeros where none are given.
    fn states(&self, given: Option<Vec<f64>>, batch: usize) -> Vec<f64> {
        let (d, h) = (self.backwards.len(), self.hidden);
        match given {
            Some(v) if self.batch_first => swap(&v, batch, d, h),
            Some(v) => v,
            None => vec![0.0; d * batch * h],
        }
    }

    fn outputs<T: Number>(&self, y: Vec<f64>, hs: &[f64], cs: &[f64], sizes: &Sizes) -> OpResult<Vec<Tensor>> {
        let (d, h, batch, steps) = (self.backwards.len(), self.hidden, sizes.batch, sizes.steps);
        let make = |dims: Vec<usize>, v: &[f64]| tensor(dims, T::wrap(v.iter().map(|&x| T::from_f64(x)).collect()));
        let state = |v: &[f64]| {
            if self.batch_first {
                make(vec![batch, d, h], &swap(v, d, batch, h))
            } else {
                make(vec![d, batch, h], v)
            }
        };
        let y = if self.batch_first {
            // [steps, d, batch, h] with the batch in front.
            let mut out = vec![0.0; y.len()];
            for (at, chunk) in y.chunks_exact(h).enumerate() {
                let (t, k, n) = (at / (d * batch), at / batch % d, at % batch);
                out[((n * steps + t) * d + k) * h..][..h].copy_from_slice(chunk);
            }
            make(vec![batch, steps, d, h], &out)?
        } else {
            make(vec![steps, d, batch, h], &y)?
        };
        let mut outputs = vec![y, state(hs)?];
        if self.cell == Cell::Lstm {
            outputs.push(state(cs)?);
        }
        Ok(outputs)
    }

    fn clipped(&self, x: f64) -> f64 {
        self.clip.map_or(x, |c| x.clamp(-c, c))
    }

    fn step(&self, d: usize, weights: &Weights, x: &[f64], hs: &mut Vec<f64>, cs: &mut [f64]) {
        let h = self.hidden;
        let gates = self.cell.gates();
        let act = &self.activations[d];
        let from_x = product(&weights.w, x);
        let from_h = product(&weights.r, hs);
        let (bias_x, bias_h) = weights.bias.split_at(gates * h);
        let sum = |g: usize, k: usize| {
            let at = g * h + k;
            from_x[at] + from_h[at] + bias_x[at] + bias_h[at]
        };
        match self.cell {
            Cell::Rnn => {
                *hs = (0..h).map(|k| act[0].of(self.clipped(sum(0, k)))).collect();
            }
            Cell::Gru => {
                let gate = |g: usize| (0..h).map(|k| act[0].of(self.clipped(sum(g, k)))).collect::<Vec<_>>();
                let (z, r) = (gate(0), gate(1));
                let reset: Vec<f64> = if self.linear_before_reset {
                    (0..h).map(|k| r[k] * (from_h[2 * h + k] + bias_h[2 * h + k])).collect()
                } else {
                    let gated: Vec<f64> = hs.iter().zip(&r).map(|(h, r)| h * r).collect();
                    let product = product(&weights.r[2 * h * h..], &gated);
                    (0..h).map(|k| product[k] + bias_h[2 * h + k]).collect()
                };
                let new = |k: usize| act[1].of(self.clipped(from_x[2 * h + k] + bias_x[2 * h + k] + reset[k]));
                *hs = (0..h).map(|k| (1.0 - z[k]) * new(k) + z[k] * hs[k]).collect();
            }
            Cell::Lstm => {
                let peep = |g: usize, k: usize, c: f64| weights.peepholes.as_ref().map_or(0.0, |p| p[g * h + k] * c);
                for k in 0..h {
                    let input = act[0].of(self.clipped(sum(0, k) + peep(0, k, cs[k])));
                    let forget = if self.input_forget {
                        1.0 - input
                    } else {
                        act[0].of(self.clipped(sum(2, k) + peep(2, k, cs[k])))
                    };
                    let cell = forget * cs[k] + input * act[1].of(self.clipped(sum(3, k)));
                    let output = act[0].of(self.clipped(sum(1, k) + peep(1, k, cell)));
                    cs[k] = cell;
                    hs[k] = output * act[2].of(cell);
                }
            }
        }
    }
}

struct Weights {
    w: Vec<f64>,
    r: Vec<f64>,
    bias: Vec<f64>,
    peepholes: Option<Vec<f64>>,
}

/// A matrix times a vector.
fn product(m: &[f64], v: &[f64]) -> Vec<f64> {
    if v.is_empty() {
        return Vec::new();
    }
    m.chunks_exact(v.len())
        .map(|row| row.iter().zip(v).map(|(a, b)| a * b).sum())
        .collect()
}

/// `[a, b, h]` as `[b, a, h]`.
fn swap(v: &[f64], a: usize, b: usize, h: usize) -> Vec<f64> {
    (0..b)
        .flat_map(|y| (0..a).flat_map(move |x| v[(x * b + y) * h..(x * b + y + 1) * h].iter().copied()))
        .collect()
}

fn fits(i: &Inputs<'_>, k: usize, dims: &[usize]) -> OpResult<()> {
    let Some(t) = i.opt(k) else { return Ok(()) };
    ensure!(
        t.shape() == dims,
        "input {k} has shape {:?} instead of {dims:?}",
        t.shape()
    );
    Ok(())
}

fn parameter<T: Number>(i: &Inputs<'_>, k: usize, dims: &[usize]) -> OpResult<Vec<f64>> {
    let t = i.get(k)?;
    ensure!(
        t.shape() == dims,
        "input {k} has shape {:?} instead of {dims:?}",
        t.shape()
    );
    Ok(typed::<T>(t)?.iter().map(|x| x.to_f64()).collect())
}

fn optional<T: Number>(i: &Inputs<'_>, k: usize, dims: &[usize]) -> OpResult<Option<Vec<f64>>> {
    if i.opt(k).is_none() {
        Ok(None)
    } else {
        parameter::<T>(i, k, dims).map(Some)
    }
}

#[cfg(test)]
mod tests {
    use crate::testing::{Attributes, assert_close, eval_at, f32s};

    #[test]
    fn a_plain_cell_adds_input_and_state() {
        let attributes = |a: &mut Attributes| {
            a.int("hidden_size", 1);
            a.strings("activations", &["Affine"]);
            a.floats("activation_alpha", &[1.0]);
        };
        let inputs = [
            f32s(&[3, 1, 1], &[1.0, 2.0, 3.0]),
            f32s(&[1, 1, 1], &[1.0]),
            f32s(&[1, 1, 1], &[0.5]),
        ];
        let out = eval_at(14, "RNN", attributes, &inputs, 2).unwrap();
        // h = x + h/2
        assert_close(&out[0], &f32s(&[3, 1, 1, 1], &[1.0, 2.5, 4.25]));
        assert_close(&out[1], &f32s(&[1, 1, 1], &[4.25]));
    }

    #[test]
    fn a_gated_cell_with_zero_weights_halves_its_memory() {
        let inputs = [
            f32s(&[1, 1, 1], &[1.0]),
            f32s(&[1, 4, 1], &[0.0; 4]),
            f32s(&[1, 4, 1], &[0.0; 4]),
        ];
        let out = eval_at(14, "LSTM", |a| a.int("hidden_size", 1), &inputs, 3).unwrap();
        assert_close(&out[2], &f32s(&[1, 1, 1], &[0.0]));
        let inputs = [
            f32s(&[1, 1, 1], &[1.0]),
            f32s(&[1, 3, 1], &[0.0, 0.0, 2.0]),
            f32s(&[1, 3, 1], &[0.0; 3]),
        ];
        let out = eval_at(14, "GRU", |a| a.int("hidden_size", 1), &inputs, 2).unwrap();
        assert_close(&out[1], &f32s(&[1, 1, 1], &[0.5 * 2f32.tanh()]));
    }
}
