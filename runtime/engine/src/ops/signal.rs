//! Spectra: `DFT`, `STFT`, their windows, and the mel filter bank.

mod fourier;

use fourier::{Complex, transform};

use crate::fault::{OpResult, bail, ensure};
use crate::kernel::{Inputs, Kernel, tensor};
use crate::ops::cast::{cast, doubles};
use crate::registry::{Entry, entry};
use crate::spec::Spec;
use crate::{Data, DataType, Tensor, shape};

pub(crate) const TABLE: &[Entry] = &[
    entry("BlackmanWindow", 17, |s| window(s, &[0.42, -0.5, 0.08])),
    entry("DFT", 17, dft),
    entry("HammingWindow", 17, |s| window(s, &[25.0 / 46.0, -21.0 / 46.0])),
    entry("HannWindow", 17, |s| window(s, &[0.5, -0.5])),
    entry("MelWeightMatrix", 17, mel),
    entry("STFT", 17, stft),
];

/// The longest transform; its tables must not fill the memory.
const MAX_LENGTH: usize = 1 << 22;

fn like(i: &Inputs<'_>, dims: Vec<usize>, v: Vec<f64>) -> OpResult<Vec<Tensor>> {
    Ok(vec![cast(&tensor(dims, Data::F64(v))?, i.get(0)?.datatype(), true)?])
}

/// The one integer in an operand.
fn single(i: &Inputs<'_>, k: usize) -> OpResult<Option<i64>> {
    match i.opt_i64s(k)?.as_deref() {
        None => Ok(None),
        Some([v]) => Ok(Some(*v)),
        Some(v) => bail!("input {k} has {} elements instead of 1", v.len()),
    }
}

/// A sum of cosines of whole multiples of one period.
fn window(spec: &Spec<'_>, factors: &'static [f64]) -> OpResult<Kernel> {
    spec.expect_inputs(1, 1)?;
    let periodic = spec.flag("periodic", true)?;
    let to = spec.data_type("output_datatype")?.unwrap_or(DataType::F32);
    Ok(Kernel::host(move |i| {
        let n = shape::from_i64s(&[single(i, 0)?.unwrap_or(0)])?;
        let n = shape::elements(&n)?;
        let period = if periodic { n } else { n.saturating_sub(1) }.max(1) as f64;
        let at = |k: usize| -> f64 {
            let x = std::f64::consts::TAU * k as f64 / period;
            factors.iter().enumerate().map(|(m, f)| f * (x * m as f64).cos()).sum()
        };
        let v = tensor(vec![n], Data::F64((0..n).map(at).collect()))?;
        Ok(vec![cast(&v, to, true)?])
    }))
}

fn length(given: Option<i64>, default: usize) -> OpResult<usize> {
    let n = given.map_or(Ok(default), |n| match usize::try_from(n) {
        Ok(n) => Ok(n),
        Err(_) => bail!("a transform of length {n}"),
    })?;
    ensure!(
        (1..=MAX_LENGTH).contains(&n),
        "a transform of length {n}; 1 to {MAX_LENGTH} are possible"
    );
    Ok(n)
}

fn dft(spec: &Spec<'_>) -> OpResult<Kernel> {
    spec.expect_inputs(1, 3)?;
    let (inverse, onesided) = (spec.flag("inverse", false)?, spec.flag("onesided", false)?);
    let axis = if spec.opset < 20 {
        Some(spec.int("axis", 1)?)
    } else {
        None
    };
    Ok(Kernel::host(move |i| {
        let x = i.get(0)?;
        let dims = x.shape();
        let rank = dims.len();
        ensure!(
            rank >= 2 && (1..=2).contains(&dims[rank - 1]),
            "input of shape {dims:?}; the last dimension is the real or the complex part"
        );
        let axis = match axis {
            Some(axis) => axis,
            None => single(i, 2)?.unwrap_or(-2),
        };
        let axis = shape::axis(axis, rank)?;
        ensure!(axis + 1 < rank, "axis {axis} holds the complex parts");
        let real = inverse && onesided;
        let default = if real {
            2 * dims[axis].saturating_sub(1)
        } else {
            dims[axis]
        };
        let n = length(single(i, 1)?, default)?;
        let kept = if onesided && !inverse { n / 2 + 1 } else { n };
        let parts = if real { 1 } else { 2 };
        let mut out_dims = dims.to_vec();
        (out_dims[axis], out_dims[rank - 1]) = (kept, parts);
        let mut out = vec![0.0; shape::elements(&out_dims)?];
        let (v, depth) = (doubles(x)?, dims[rank - 1]);
        let inner: usize = dims[axis + 1..rank - 1].iter().product();
        let outer: usize = dims[..axis].iter().product();
        for o in 0..outer {
            for p in 0..inner {
                let read = |k: usize| {
                    let at = ((o * dims[axis] + k) * inner + p) * depth;
                    Complex::new(v[at], if depth == 2 { v[at + 1] } else { 0.0 })
                };
                let mut signal: Vec<_> = (0..n.min(dims[axis])).map(read).collect();
                signal.resize(n, Complex::default());
                if real {
                    // The other half mirrors what is given.
                    for k in n / 2 + 1..n {
                        signal[k] = signal[n - k].conj();
                    }
                }
                transform(&mut signal, inverse);
                for (k, x) in signal.iter().take(kept).enumerate() {
                    let at = ((o * kept + k) * inner + p) * parts;
                    out[at] = x.re;
                    if parts == 2 {
                        out[at + 1] = x.im;
                    }
                }
            }
        }
        like(i, out_dims, out)
    }))
}

fn stft(spec: &Spec<'_>) -> OpResult<Kernel> {
    spec.expect_inputs(2, 4)?;
    let onesided = spec.flag("onesided", true)?;
    Ok(Kernel::host(move |i| {
        let (batch, len, depth) = match *i.get(0)?.shape() {
            [b, n] => (b, n, 1),
            [b, n, d] if (1..=2).contains(&d) => (b, n, d),
            _ => bail!("a signal of shape {:?}", i.get(0)?.shape()),
        };
        let step = usize::try_from(single(i, 1)?.unwrap_or(0)).unwrap_or(0);
        ensure!(step > 0, "the step between frames is not positive");
        let window = i.opt(2).map(doubles).transpose()?;
        let n = length(single(i, 3)?, window.as_ref().map_or(len, Vec::len))?;
        ensure!(
            n <= len && window.as_ref().is_none_or(|w| w.len() <= n),
            "frames of {n} in a signal of {len} with a window of {:?}",
            window.map(|w| w.len())
        );
        let frames = (len - n) / step + 1;
        let kept = if onesided { n / 2 + 1 } else { n };
        let dims = vec![batch, frames, kept, 2];
        let mut out = Vec::with_capacity(shape::elements(&dims)?);
        let v = doubles(i.get(0)?)?;
        // A window shorter than the frame lies at its beginning.
        let weight = |k: usize| window.as_ref().map_or(1.0, |w| w.get(k).copied().unwrap_or(0.0));
        for b in 0..batch {
            for f in 0..frames {
                let read = |k: usize| {
                    let at = (b * len + f * step + k) * depth;
                    Complex::new(v[at], if depth == 2 { v[at + 1] } else { 0.0 }).times(weight(k))
                };
                let mut frame: Vec<_> = (0..n).map(read).collect();
                transform(&mut frame, false);
                out.extend(frame.iter().take(kept).flat_map(|x| [x.re, x.im]));
            }
        }
        like(i, dims, out)
    }))
}

fn mel(spec: &Spec<'_>) -> OpResult<Kernel> {
    spec.expect_inputs(5, 5)?;
    let to = spec.data_type("output_datatype")?.unwrap_or(DataType::F32);
    Ok(Kernel::host(move |i| {
        let number = |k: usize| -> OpResult<f64> {
            match i.opt_f64(k)? {
                Some(v) => Ok(v),
                None => bail!("input {k} is missing"),
            }
        };
        let (bins, length, rate, low, high) = (number(0)?, number(1)?, number(2)?, number(3)?, number(4)?);
        ensure!(
            bins >= 0.0 && length >= 0.0 && rate > 0.0,
            "{bins} bins of {length} at {rate} Hz"
        );
        let bins = bins as usize;
        let dims = vec![length as usize / 2 + 1, bins];
        let mut out = vec![0.0; shape::elements(&dims)?];
        let mel = |f: f64| 2595.0 * (1.0 + f / 700.0).log10();
        let step = (mel(high) - mel(low)) / (bins as f64 + 2.0);
        let edge = |k: usize| {
            let f = 700.0 * (10f64.powf((k as f64 * step + mel(low)) / 2595.0) - 1.0);
            (((length + 1.0) * f) / rate).floor().max(0.0) as usize
        };
        let mut set = |row: usize, column: usize, x: f64| -> OpResult<()> {
            ensure!(row < dims[0], "a frequency above the half of {rate} Hz");
            out[row * bins + column] = x;
            Ok(())
        };
        for k in 0..bins {
            let (left, centre, right) = (edge(k), edge(k + 1), edge(k + 2));
            ensure!(left <= centre && centre <= right, "frequencies from {low} to {high} Hz");
            if left == centre {
                set(centre, k, 1.0)?;
            } else {
                for row in left..=centre {
                    set(row, k, (row - left) as f64 / (centre - left) as f64)?;
                }
            }
            for row in centre..right {
                set(row, k, (right - row) as f64 / (right - centre) as f64)?;
            }
        }
        Ok(vec![cast(&tensor(dims, Data::F64(out))?, to, true)?])
    }))
}

#[cfg(test)]
mod tests {
    use crate::testing::{assert_close, eval_at, f32s, ints};

    #[test]
    fn a_transform_and_its_inverse_give_the_signal_back() {
        let x = f32s(&[1, 6, 1], &[1.0, -2.0, 3.0, 0.5, 0.0, 4.0]);
        let run = |x: &crate::Tensor, inverse: i64, onesided: i64| {
            let set = |a: &mut crate::testing::Attributes| {
                a.int("inverse", inverse);
                a.int("onesided", onesided);
            };
            eval_at(20, "DFT", set, &[x.clone()], 1).unwrap().swap_remove(0)
        };
        let whole = run(&x, 0, 0);
        assert_eq!(whole.shape(), [1, 6, 2]);
        let half = run(&x, 0, 1);
        assert_eq!(half.shape(), [1, 4, 2]);
        assert_close(&run(&half, 1, 1), &x);
    }

    #[test]
    fn frames_of_absurd_length_are_refused() {
        let x = f32s(&[1, 4, 1], &[0.0; 4]);
        for (step, len) in [(0, 2), (1, 5), (1, i64::MAX), (-1, 2)] {
            let given = [x.clone(), ints(&[], &[step]), f32s(&[2], &[1.0; 2]), ints(&[], &[len])];
            assert!(eval_at(17, "STFT", |_| {}, &given, 1).is_err(), "{step} {len}");
        }
    }
}
