//! Operators on feature columns: scaling, normalising, filling gaps.

use super::rows;
use crate::fault::{OpResult, bail, ensure};
use crate::host::{self, Number, numbers};
use crate::kernel::{Kernel, i64s, tensor};
use crate::registry::{Entry, entry};
use crate::spec::Spec;
use crate::{Data, each_data, shape};

pub(crate) const TABLE: &[Entry] = &[
    entry("ArrayFeatureExtractor", 1, array_feature_extractor),
    entry("Binarizer", 1, binarizer),
    entry("FeatureVectorizer", 1, feature_vectorizer),
    entry("Imputer", 1, imputer),
    entry("Normalizer", 1, normalizer),
    entry("Scaler", 1, scaler),
];

/// One value for all columns, or one for each.
fn column<T: Copy>(list: &[T], k: usize, default: T) -> T {
    if list.len() == 1 {
        list[0]
    } else {
        list.get(k).copied().unwrap_or(default)
    }
}

fn scaler(spec: &Spec<'_>) -> OpResult<Kernel> {
    spec.expect_inputs(1, 1)?;
    let offset = spec.floats("offset")?.unwrap_or_default();
    let scale = spec.floats("scale")?.unwrap_or_default();
    Ok(Kernel::host(move |i| {
        let x = i.get(0)?;
        let columns = x.shape().last().copied().unwrap_or(1).max(1);
        for list in [&offset, &scale] {
            ensure!(
                list.len() <= 1 || list.len() == columns,
                "{} factors for {columns} columns",
                list.len()
            );
        }
        let data = numbers!(x.data(), v => {
            let scaled = |(n, x): (usize, &_)| {
                let x: f32 = Number::to_f64(*x) as f32;
                (x - column(&offset, n % columns, 0.0)) * column(&scale, n % columns, 1.0)
            };
            Data::F32(v.iter().enumerate().map(scaled).collect())
        });
        Ok(vec![tensor(x.shape().to_vec(), data)?])
    }))
}

fn normalizer(spec: &Spec<'_>) -> OpResult<Kernel> {
    spec.expect_inputs(1, 1)?;
    let norm: fn(&[f32]) -> f32 = match spec.string("norm", "MAX")? {
        "MAX" => |r| r.iter().copied().fold(f32::NEG_INFINITY, f32::max),
        "L1" => |r| r.iter().map(|x| x.abs()).sum(),
        "L2" => |r| r.iter().map(|x| x * x).sum::<f32>().sqrt(),
        other => bail!("attribute \"norm\" is {other:?} instead of MAX, L1 or L2"),
    };
    Ok(Kernel::host(move |i| {
        let x = i.get(0)?;
        let (v, _, c) = rows(x)?;
        let mut out = v.into_owned();
        for row in out.chunks_exact_mut(c.max(1)) {
            let n = norm(row);
            if n != 0.0 {
                for x in row.iter_mut() {
                    *x /= n;
                }
            }
        }
        Ok(vec![tensor(x.shape().to_vec(), Data::F32(out))?])
    }))
}

fn imputer(spec: &Spec<'_>) -> OpResult<Kernel> {
    spec.expect_inputs(1, 1)?;
    let floats = spec.floats("imputed_value_floats")?.unwrap_or_default();
    let ints = spec.ints("imputed_value_int64s")?.unwrap_or_default();
    let missing = (
        spec.float("replaced_value_float", 0.0)?,
        spec.int("replaced_value_int64", 0)?,
    );
    ensure!(
        floats.is_empty() != ints.is_empty(),
        "it needs values either for floats or for integers"
    );
    Ok(Kernel::host(move |i| {
        let x = i.get(0)?;
        let columns = x.shape().last().copied().unwrap_or(1).max(1);
        let n = floats.len().max(ints.len());
        ensure!(n == 1 || n == columns, "{n} values for {columns} columns");
        let gap = f64::from(missing.0);
        let is_gap = |x: f64| x == gap || (gap.is_nan() && x.is_nan());
        let data = match x.data() {
            Data::F32(v) if ints.is_empty() => {
                let fill = |(k, &x): (usize, &f32)| {
                    if is_gap(f64::from(x)) {
                        column(&floats, k % columns, x)
                    } else {
                        x
                    }
                };
                Data::F32(v.iter().enumerate().map(fill).collect())
            }
            Data::F64(v) if ints.is_empty() => {
                let fill = |(k, &x): (usize, &f64)| {
                    if is_gap(x) {
                        f64::from(column(&floats, k % columns, 0.0))
                    } else {
                        x
                    }
                };
                Data::F64(v.iter().enumerate().map(fill).collect())
            }
            Data::I64(v) if floats.is_empty() => {
                let fill = |(k, &x): (usize, &i64)| {
                    if x == missing.1 {
                        column(&ints, k % columns, x)
                    } else {
                        x
                    }
                };
                Data::I64(v.iter().enumerate().map(fill).collect())
            }
            other => bail!("element type {} does not fit the values to fill in", other.datatype()),
        };
        Ok(vec![tensor(x.shape().to_vec(), data)?])
    }))
}

fn binarizer(spec: &Spec<'_>) -> OpResult<Kernel> {
    spec.expect_inputs(1, 1)?;
    let threshold = f64::from(spec.float("threshold", 0.0)?);
    fn binary<T: Number>(v: &[T], threshold: f64) -> Data {
        host::map(v, |x| T::from_i64(i64::from(x.to_f64() > threshold)))
    }
    Ok(Kernel::host(move |i| {
        let x = i.get(0)?;
        Ok(vec![tensor(
            x.shape().to_vec(),
            numbers!(x.data(), v => binary(v, threshold)),
        )?])
    }))
}

fn array_feature_extractor(spec: &Spec<'_>) -> OpResult<Kernel> {
    spec.expect_inputs(2, 2)?;
    Ok(Kernel::host(|i| {
        let x = i.get(0)?;
        let index = i64s(i.get(1)?)?;
        // A plain list is one row.
        let dims = shape::lead_ones(x.shape(), 2);
        let axis = dims.len() - 1;
        ensure!(
            index.iter().all(|&k| k >= 0 && (k as usize) < dims[axis]),
            "an index is out of range for {dims:?}"
        );
        Ok(vec![
            each_data!(x.data(), v => crate::ops::gather::take(v, &dims, axis, &index, &[index.len()]))?,
        ])
    }))
}

fn feature_vectorizer(spec: &Spec<'_>) -> OpResult<Kernel> {
    spec.expect_inputs(1, usize::MAX)?;
    let widths = spec.sizes("inputdimensions", 0)?.unwrap_or_default();
    ensure!(
        widths.is_empty() || widths.len() == spec.inputs.len(),
        "{} widths for {} inputs",
        widths.len(),
        spec.inputs.len()
    );
    Ok(Kernel::host(move |i| {
        let parts = (0..i.len()).map(|k| rows(i.get(k)?)).collect::<OpResult<Vec<_>>>()?;
        let n = parts[0].1;
        ensure!(parts.iter().all(|p| p.1 == n), "inputs differ in their number of rows");
        let width = |k: usize| widths.get(k).copied().unwrap_or(parts[k].2);
        let total: usize = (0..parts.len()).map(width).sum();
        let mut out = Vec::with_capacity(shape::elements(&[n, total])?);
        for row in 0..n {
            for (k, (v, _, c)) in parts.iter().enumerate() {
                // Cut or filled with zeros to the declared width.
                out.extend((0..width(k)).map(|j| if j < *c { v[row * c + j] } else { 0.0 }));
            }
        }
        Ok(vec![tensor(vec![n, total], Data::F32(out))?])
    }))
}

#[cfg(test)]
mod tests {
    use crate::testing::{assert_close, eval, f32s, ints};

    #[test]
    fn columns_are_scaled_normalised_and_filled() {
        let x = f32s(&[1, 2], &[3.0, -4.0]);
        let scaled = eval(
            "Scaler",
            |a| {
                a.floats("offset", &[1.0, 0.0]);
                a.floats("scale", &[0.5]);
            },
            &[x.clone()],
        );
        assert_close(&scaled, &f32s(&[1, 2], &[1.0, -2.0]));
        assert_close(
            &eval("Normalizer", |a| a.string("norm", "L2"), &[x.clone()]),
            &f32s(&[1, 2], &[0.6, -0.8]),
        );
        assert_close(
            &eval("Normalizer", |a| a.string("norm", "L1"), &[x]),
            &f32s(&[1, 2], &[3.0 / 7.0, -4.0 / 7.0]),
        );
        let filled = eval(
            "Imputer",
            |a| {
                a.floats("imputed_value_floats", &[9.0, 8.0]);
                a.float("replaced_value_float", f32::NAN);
            },
            &[f32s(&[1, 2], &[f32::NAN, 1.0])],
        );
        assert_close(&filled, &f32s(&[1, 2], &[9.0, 1.0]));
    }

    #[test]
    fn columns_are_picked_cut_and_joined() {
        let x = f32s(&[2, 2], &[1.0, 2.0, 3.0, 4.0]);
        let picked = eval("ArrayFeatureExtractor", |_| {}, &[x.clone(), ints(&[1], &[1])]);
        assert_close(&picked, &f32s(&[2, 1], &[2.0, 4.0]));
        assert_close(
            &eval("Binarizer", |a| a.float("threshold", 2.0), &[x.clone()]),
            &f32s(&[2, 2], &[0.0, 0.0, 1.0, 1.0]),
        );
        let joined = eval(
            "FeatureVectorizer",
            |a| a.ints("inputdimensions", &[1, 3]),
            &[x.clone(), x],
        );
        assert_close(&joined, &f32s(&[2, 4], &[1.0, 1.0, 2.0, 0.0, 3.0, 3.0, 4.0, 0.0]));
    }
}
