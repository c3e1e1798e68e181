//! Reading images at places that are computed: `GridSample`, `AffineGrid`, `RoiAlign`, `MaxRoiPool`, `DeformConv`.

mod deform;
mod grid;
mod roi;

use crate::fault::{OpResult, ensure};
use crate::kernel::{Inputs, Kernel, tensor};
use crate::ops::cast::{cast, doubles};
use crate::registry::{Entry, entry};
use crate::spec::Spec;
use crate::{Data, Tensor, shape};

pub(crate) const TABLE: &[Entry] = &[
    entry("AffineGrid", 20, affine_grid),
    entry("DeformConv", 19, deform::build),
    entry("GridSample", 16, grid::build),
    entry("MaxRoiPool", 1, roi::max_pool),
    entry("RoiAlign", 10, roi::build),
];

/// A result of doubles as the type of the first input.
fn like(i: &Inputs<'_>, dims: Vec<usize>, v: Vec<f64>) -> OpResult<Vec<Tensor>> {
    Ok(vec![cast(&tensor(dims, Data::F64(v))?, i.get(0)?.datatype(), true)?])
}

/// Coordinates of -1 to 1 for each place of an image, moved by a matrix for each sample.
fn affine_grid(spec: &Spec<'_>) -> OpResult<Kernel> {
    spec.expect_inputs(2, 2)?;
    let corners = spec.flag("align_corners", false)?;
    Ok(Kernel::host(move |i| {
        let theta = i.get(0)?;
        let size = shape::from_i64s(&i.i64s(1)?)?;
        let space = size.get(2..).unwrap_or_default();
        let d = space.len();
        ensure!(
            (2..=3).contains(&d) && theta.shape() == [size[0], d, d + 1],
            "matrices of shape {:?} for images of {size:?}",
            theta.shape()
        );
        let m = doubles(theta)?;
        let mut dims = vec![size[0]];
        dims.extend_from_slice(space);
        dims.push(d);
        let mut out = Vec::with_capacity(shape::elements(&dims)?);
        let at = |k: usize, n: usize| match (corners, n) {
            (true, 1) => -1.0,
            (true, n) => 2.0 * k as f64 / (n - 1) as f64 - 1.0,
            (false, n) => (2.0 * k as f64 + 1.0) / n as f64 - 1.0,
        };
        if dims.contains(&0) {
            return like(i, dims, out);
        }
        for n in 0..size[0] {
            let m = &m[n * d * (d + 1)..][..d * (d + 1)];
            let mut index = vec![0; d];
            loop {
                // The last dimension of the image is the first coordinate.
                let place: Vec<f64> = (0..d).rev().map(|k| at(index[k], space[k])).collect();
                for row in m.chunks(d + 1) {
                    out.push(place.iter().zip(row).map(|(x, m)| x * m).sum::<f64>() + row[d]);
                }
                if !shape::step(&mut index, space) {
                    break;
                }
            }
        }
        like(i, dims, out)
    }))
}
