//! `RoiAlign`: regions of an image averaged into a grid of fixed size, without rounding their borders (Mask R-CNN).

use super::like;
use crate::fault::{OpResult, bail, ensure};
use crate::kernel::{Inputs, Kernel};
use crate::ops::cast::doubles;
use crate::spec::Spec;
use crate::{Tensor, shape};

/// Samples of one region, at most; a region of absurd size must not run for hours.
const MAX_SAMPLES: usize = 1 << 24;

struct RoiAlign {
    max: bool,
    half_pixel: bool,
    height: usize,
    width: usize,
    ratio: usize,
    scale: f64,
}

pub(super) fn build(spec: &Spec<'_>) -> OpResult<Kernel> {
    spec.expect_inputs(3, 3)?;
    let size = |name: &str, default: i64| -> OpResult<usize> {
        let v = spec.int(name, default)?;
        ensure!((0..1 << 16).contains(&v), "attribute {name:?} is {v}");
        Ok(v as usize)
    };
    let mode = if spec.opset < 16 {
        "output_half_pixel"
    } else {
        "half_pixel"
    };
    let align = RoiAlign {
        max: match spec.string("mode", "avg")? {
            "avg" => false,
            "max" => true,
            other => bail!("mode {other:?}; avg and max are known"),
        },
        half_pixel: spec.string("coordinate_transformation_mode", mode)? == "half_pixel",
        height: size("output_height", 1)?,
        width: size("output_width", 1)?,
        ratio: size("sampling_ratio", 0)?,
        scale: f64::from(spec.float("spatial_scale", 1.0)?),
    };
    Ok(Kernel::host(move |i| align.run(i)))
}

impl RoiAlign {
    fn run(&self, i: &Inputs<'_>) -> OpResult<Vec<Tensor>> {
        let &[batch, channels, h, w] = i.get(0)?.shape() else {
            bail!("input of shape {:?} instead of four dimensions", i.get(0)?.shape())
        };
        let (x, regions, owners) = (doubles(i.get(0)?)?, doubles(i.get(1)?)?, i.i64s(2)?);
        ensure!(
            i.get(1)?.shape() == [owners.len(), 4] && h > 0 && w > 0,
            "regions of shape {:?} for {} images",
            i.get(1)?.shape(),
            owners.len()
        );
        let dims = vec![owners.len(), channels, self.height, self.width];
        let mut out = vec![0.0; shape::elements(&dims)?];
        let cells = self.height * self.width;
        for (n, (owner, region)) in owners.iter().zip(regions.chunks(4)).enumerate() {
            let owner = match usize::try_from(*owner) {
                Ok(o) if o < batch => o,
                _ => bail!("image {owner} of {batch}"),
            };
            for cell in 0..cells {
                let reads = self.reads(region, cell, h, w)?;
                for c in 0..channels {
                    let image = &x[(owner * channels + c) * h * w..][..h * w];
                    out[(n * channels + c) * cells + cell] = self.pool(&reads, image);
                }
            }
        }
        like(i, dims, out)
    }

    fn pool(&self, reads: &[[(usize, f64); 4]], image: &[f64]) -> f64 {
        if reads.is_empty() {
            return 0.0;
        }
        let values = |r: &[(usize, f64); 4]| r.map(|(at, weight)| image[at] * weight);
        if self.max {
            let largest = |r| values(r).into_iter().fold(f64::NEG_INFINITY, f64::max);
            return reads.iter().map(largest).fold(f64::NEG_INFINITY, f64::max);
        }
        reads.iter().map(|r| values(r).iter().sum::<f64>()).sum::<f64>() / reads.len() as f64
    }

    /// The pixels and weights of each sample in a cell of a region.
    fn reads(&self, region: &[f64], cell: usize, h: usize, w: usize) -> OpResult<Vec<[(usize, f64); 4]>> {
        let offset = if self.half_pixel { 0.5 } else { 0.0 };
        let [left, top, right, bottom] = [0, 1, 2, 3].map(|k| region[k] * self.scale - offset);
        let (mut width, mut height) = (right - left, bottom - top);
        if !self.half_pixel {
            (width, height) = (width.max(1.0), height.max(1.0));
        }
        let (bin_h, bin_w) = (height / self.height as f64, width / self.width as f64);
        let count = |bin: f64| {
            if self.ratio > 0 {
                self.ratio
            } else {
                bin.ceil().max(0.0) as usize
            }
        };
        let (rows, columns) = (count(bin_h), count(bin_w));
        ensure!(
            rows.checked_mul(columns).is_some_and(|n| n <= MAX_SAMPLES),
            "a region of {width} x {height} pixels"
        );
        let (row, column) = ((cell / self.width) as f64, (cell % self.width) as f64);
        let mut out = Vec::with_capacity(rows * columns);
        for r in 0..rows {
            let y = top + row * bin_h + (r as f64 + 0.5) * bin_h / rows as f64;
            for c in 0..columns {
                let x = left + column * bin_w + (c as f64 + 0.5) * bin_w / columns as f64;
                out.push(bilinear(y, x, h, w));
            }
        }
        Ok(out)
    }
}

/// `MaxRoiPool`: the largest pixel of each cell, with borders rounded to whole pixels (Fast R-CNN).
pub(super) fn max_pool(spec: &Spec<'_>) -> OpResult<Kernel> {
    spec.expect_inputs(2, 2)?;
    let scale = f64::from(spec.float("spatial_scale", 1.0)?);
    let sizes = spec.sizes("pooled_shape", 1)?;
    let Some(&[ph, pw]) = sizes.as_deref() else {
        bail!("attribute \"pooled_shape\" is no pair of sizes")
    };
    Ok(Kernel::host(move |i| {
        let &[batch, channels, h, w] = i.get(0)?.shape() else {
            bail!("input of shape {:?} instead of four dimensions", i.get(0)?.shape())
        };
        let (x, regions) = (doubles(i.get(0)?)?, doubles(i.get(1)?)?);
        let count = regions.len() / 5;
        ensure!(
            i.get(1)?.shape() == [count, 5] && h > 0 && w > 0,
            "regions of shape {:?} for images of {h} x {w}",
            i.get(1)?.shape()
        );
        let dims = vec![count, channels, ph, pw];
        let mut out = vec![0.0; shape::elements(&dims)?];
        for (n, region) in regions.chunks(5).enumerate() {
            let owner = region[0];
            ensure!(owner >= 0.0 && owner < batch as f64, "image {owner} of {batch}");
            let [left, top, right, bottom] = [1, 2, 3, 4].map(|k| (region[k] * scale).round());
            let range = |first: f64, last: f64, cell: usize, cells: usize, size: usize| {
                let step = (last - first + 1.0).max(1.0) / cells as f64;
                let begin = (cell as f64 * step).floor() + first;
                let end = ((cell + 1) as f64 * step).ceil() + first;
                let within = |v: f64| v.clamp(0.0, size as f64) as usize;
                within(begin)..within(end)
            };
            for c in 0..channels {
                let image = &x[(owner as usize * channels + c) * h * w..][..h * w];
                for cell in 0..ph * pw {
                    let rows = range(top, bottom, cell / pw, ph, h);
                    let columns = range(left, right, cell % pw, pw, w);
                    let largest = rows
                        .flat_map(|r| columns.clone().map(move |k| image[r * w + k]))
                        .reduce(f64::max);
                    // A cell outside of the image is empty.
                    out[(n * channels + c) * ph * pw + cell] = largest.unwrap_or(0.0);
                }
            }
        }
        like(i, dims, out)
    }))
}

/// The four pixels around a place; nothing is read from farther outside than one pixel.
fn bilinear(y: f64, x: f64, h: usize, w: usize) -> [(usize, f64); 4] {
    let outside = |v: f64, n: usize| !(-1.0..=n as f64).contains(&v);
    if outside(y, h) || outside(x, w) {
        return [(0, 0.0); 4];
    }
    let around = |v: f64, n: usize| {
        let v = v.max(0.0);
        let low = v as usize;
        if low >= n - 1 {
            (n - 1, n - 1, 0.0)
        } else {
            (low, low + 1, v - low as f64)
        }
    };
    let ((y0, y1, fy), (x0, x1, fx)) = (around(y, h), around(x, w));
    [
        (y0 * w + x0, (1.0 - fy) * (1.0 - fx)),
        (y0 * w + x1, (1.0 - fy) * fx),
        (y1 * w + x0, fy * (1.0 - fx)),
        (y1 * w + x1, fy * fx),
    ]
}
