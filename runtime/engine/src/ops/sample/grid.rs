//! `GridSample`: an image of any number of dimensions read at given coordinates.

use super::like;
use crate::fault::{OpResult, bail, ensure};
use crate::kernel::{Inputs, Kernel};
use crate::ops::cast::doubles;
use crate::spec::Spec;
use crate::{Tensor, shape};

#[derive(Clone, Copy, PartialEq)]
enum Mode {
    Nearest,
    Linear,
    Cubic,
}

#[derive(Clone, Copy, PartialEq)]
enum Padding {
    Zeros,
    Border,
    Reflection,
}

struct GridSample {
    mode: Mode,
    padding: Padding,
    corners: bool,
}

pub(super) fn build(spec: &Spec<'_>) -> OpResult<Kernel> {
    spec.expect_inputs(2, 2)?;
    let sample = GridSample {
        mode: match spec.string("mode", "linear")? {
            "linear" | "bilinear" => Mode::Linear,
            "nearest" => Mode::Nearest,
            "cubic" | "bicubic" => Mode::Cubic,
            other => bail!("mode {other:?}; linear, nearest and cubic are known"),
        },
        padding: match spec.string("padding_mode", "zeros")? {
            "zeros" => Padding::Zeros,
            "border" => Padding::Border,
            "reflection" => Padding::Reflection,
            other => bail!("padding_mode {other:?}; zeros, border and reflection are known"),
        },
        corners: spec.flag("align_corners", false)?,
    };
    Ok(Kernel::host(move |i| sample.run(i)))
}

/// The pixels along one dimension that a coordinate reads, each with its weight; `None` where it lies outside.
type Taps = Vec<(Option<usize>, f64)>;

impl GridSample {
    fn run(&self, i: &Inputs<'_>) -> OpResult<Vec<Tensor>> {
        let (x, grid) = (i.get(0)?, i.get(1)?);
        let (xs, gs) = (x.shape(), grid.shape());
        let d = xs.len().saturating_sub(2);
        ensure!(
            (1..=4).contains(&d) && gs.len() == xs.len() && gs[0] == xs[0] && gs[d + 1] == d,
            "coordinates of shape {gs:?} for images of {xs:?}"
        );
        let (space, places) = (&xs[2..], &gs[1..=d]);
        let mut dims = xs[..2].to_vec();
        dims.extend_from_slice(places);
        let mut out = vec![0.0; shape::elements(&dims)?];
        let (channels, plane, count) = (xs[1], space.iter().product::<usize>(), places.iter().product::<usize>());
        if out.is_empty() {
            return like(i, dims, out);
        }
        ensure!(plane > 0, "images without pixels");
        let (v, g) = (doubles(x)?, doubles(grid)?);
        let strides = shape::strides(space);
        for n in 0..xs[0] {
            for p in 0..count {
                let coordinates = &g[(n * count + p) * d..][..d];
                // The first coordinate is the image's last dimension.
                let taps: Vec<Taps> = (0..d).map(|k| self.taps(coordinates[d - 1 - k], space[k])).collect();
                let reads = product(&taps, &strides);
                for c in 0..channels {
                    let image = &v[(n * channels + c) * plane..][..plane];
                    out[(n * channels + c) * count + p] = reads.iter().map(|&(at, w)| image[at] * w).sum();
                }
            }
        }
        like(i, dims, out)
    }

    fn taps(&self, coordinate: f64, size: usize) -> Taps {
        let n = size as f64;
        let mut x = if self.corners {
            f64::midpoint(coordinate, 1.0) * (n - 1.0)
        } else {
            (coordinate + 1.0) * n / 2.0 - 0.5
        };
        if self.mode == Mode::Nearest {
            x = x.round_ties_even();
        }
        let (low, high) = if self.corners { (0.0, n - 1.0) } else { (-0.5, n - 0.5) };
        if x.is_finite() && (x < low || x > high) {
            x = match self.padding {
                Padding::Zeros => x,
                Padding::Border => x.clamp(0.0, n - 1.0),
                Padding::Reflection => reflect(x, low, high),
            };
        }
        if !x.is_finite() {
            x = -1.0;
        }
        let first = x.floor();
        let f = x - first;
        let pixel = |at: f64| match self.padding {
            _ if at >= 0.0 && at < n => Some(at as usize),
            Padding::Zeros => None,
            Padding::Border => Some(at.clamp(0.0, n - 1.0) as usize),
            Padding::Reflection => Some(reflect(at, low, high).clamp(0.0, n - 1.0) as usize),
        };
        match self.mode {
            Mode::Nearest => vec![(pixel(x), 1.0)],
            Mode::Linear => vec![(pixel(first), 1.0 - f), (pixel(first + 1.0), f)],
            Mode::Cubic => {
                let weights = [outer(f + 1.0), inner(f), inner(1.0 - f), outer(2.0 - f)];
                let places = [first - 1.0, first, first + 1.0, first + 2.0];
                places.into_iter().map(pixel).zip(weights).collect()
            }
        }
    }
}

/// Keys' cubic convolution with a = -0.75, within one pixel and beyond.
fn inner(x: f64) -> f64 {
    (1.25 * x - 2.25) * x * x + 1.0
}

fn outer(x: f64) -> f64 {
    ((-0.75 * x + 3.75) * x - 6.0) * x + 3.0
}

/// Folds a coordinate back at the borders until it lies between them.
fn reflect(x: f64, low: f64, high: f64) -> f64 {
    let range = high - low;
    if range <= 0.0 {
        return low;
    }
    let (distance, below) = if x < low { (low - x, true) } else { (x - high, false) };
    if !below && distance <= 0.0 {
        return x;
    }
    let times = (distance / range).floor();
    let rest = distance - times * range;
    if (times % 2.0 == 0.0) == below {
        low + rest
    } else {
        high - rest
    }
}

/// Pixels of all dimensions together. Those outside are zero and fall away.
fn product(taps: &[Taps], strides: &[usize]) -> Vec<(usize, f64)> {
    let mut out = vec![(0, 1.0)];
    for (taps, stride) in taps.iter().zip(strides) {
        out = out
            .iter()
            .flat_map(|&(at, w)| {
                taps.iter()
                    .filter_map(move |&(place, weight)| Some((at + place? * stride, w * weight)))
            })
            .collect();
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reflections_fold_until_they_are_inside() {
        for (x, wanted) in [(-1.0, 1.0), (-4.0, 2.0), (4.0, 2.0), (7.0, 1.0), (2.0, 2.0)] {
            assert_eq!(reflect(x, 0.0, 3.0), wanted, "{x}");
        }
        assert_eq!(reflect(5.0, 0.0, 0.0), 0.0);
    }

    #[test]
    fn weights_of_the_cubic_sum_to_one() {
        for f in [0.0, 0.25, 0.5, 0.9] {
            let sum: f64 = outer(f + 1.0) + inner(f) + inner(1.0 - f) + outer(2.0 - f);
            assert!((sum - 1.0).abs() < 1e-12, "{sum} at {f}");
        }
    }
}
