//! Matrix products.

use crate::Tensor;
use crate::device::DeviceOp;
use crate::fault::{OpResult, ensure};
use crate::host::{self, Element, Number, numbers, typed};
use crate::kernel::{Inputs, Kernel, tensor};
use crate::registry::{Entry, entry};
use crate::shape;
use crate::spec::Spec;

pub(crate) const TABLE: &[Entry] = &[
    entry("Gemm", 1, gemm_v1),
    entry("Gemm", 7, gemm),
    entry("MatMul", 1, matmul),
];

fn matmul(spec: &Spec<'_>) -> OpResult<Kernel> {
    spec.expect_inputs(2, 2)?;
    Ok(Kernel::dual(DeviceOp::MatMul, |i: &Inputs<'_>| {
        let (a, b) = (i.get(0)?, i.get(1)?);
        Ok(vec![
            numbers!(a.data(), v => product(v, a.shape(), typed_like(v, b)?, b.shape())?),
        ])
    }))
}

fn typed_like<'a, T: Element>(_like: &[T], t: &'a Tensor) -> OpResult<&'a [T]> {
    typed(t)
}

/// ONNX's (and numpy's) matrix product on the host: small floats and all integers.
pub(crate) fn product<T: Number>(a: &[T], sa: &[usize], b: &[T], sb: &[usize]) -> OpResult<Tensor> {
    ensure!(!sa.is_empty() && !sb.is_empty(), "MatMul of a scalar");
    let ma = if sa.len() == 1 { vec![1, sa[0]] } else { sa.to_vec() };
    let mb = if sb.len() == 1 { vec![sb[0], 1] } else { sb.to_vec() };
    let (m, k, n) = (ma[ma.len() - 2], ma[ma.len() - 1], mb[mb.len() - 1]);
    ensure!(mb[mb.len() - 2] == k, "shapes {sa:?} and {sb:?} can't be multiplied");
    let (la, lb) = (&ma[..ma.len() - 2], &mb[..mb.len() - 2]);
    let mut dims = shape::broadcast(la, lb)?;
    let batches = shape::elements(&dims)?;
    let mut size = dims.clone();
    size.extend([m, n]);
    let mut out = vec![T::from_i64(0); shape::elements(&size)?];
    let (ia, ib): (Vec<usize>, Vec<usize>) = ((0..la.iter().product()).collect(), (0..lb.iter().product()).collect());
    let (_, pairs) = host::zip((&ia, la), (&ib, lb), |x, y| (x, y))?;
    debug_assert_eq!(pairs.len(), batches);
    for (o, (x, y)) in pairs.into_iter().enumerate() {
        let (a, b) = (&a[x * m * k..(x + 1) * m * k], &b[y * k * n..(y + 1) * k * n]);
        let out = &mut out[o * m * n..(o + 1) * m * n];
        for r in 0..m {
            for (p, &x) in a[r * k..(r + 1) * k].iter().enumerate() {
                for (o, &y) in out[r * n..(r + 1) * n].iter_mut().zip(&b[p * n..(p + 1) * n]) {
                    *o = o.add(x.mul(y));
                }
            }
        }
    }
    if sa.len() > 1 {
        dims.push(m);
    }
    if sb.len() > 1 {
        dims.push(n);
    }
    tensor(dims, T::wrap(out))
}

/// Before opset 7 an attribute allowed what is always allowed since.
fn gemm_v1(spec: &Spec<'_>) -> OpResult<Kernel> {
    spec.ignore(&["broadcast"]);
    gemm(spec)
}

fn gemm(spec: &Spec<'_>) -> OpResult<Kernel> {
    spec.expect_inputs(2, 3)?;
    let (alpha, beta) = (spec.float("alpha", 1.0)?, spec.float("beta", 1.0)?);
    let (trans_a, trans_b) = (spec.flag("transA", false)?, spec.flag("transB", false)?);
    fn general<T: Number>(a: &[T], i: &Inputs<'_>, factors: (f32, f32), trans: (bool, bool)) -> OpResult<Vec<Tensor>> {
        let (at, bt) = (i.get(0)?, i.get(1)?);
        let (a, sa) = matrix(a, at.shape(), trans.0)?;
        let (b, sb) = matrix(typed::<T>(bt)?, bt.shape(), trans.1)?;
        let ab = product(&a, &sa, &b, &sb)?;
        let (alpha, beta) = (f64::from(factors.0), f64::from(factors.1));
        let scale = |x: T, f: f64| if f == 1.0 { x } else { T::from_f64(x.to_f64() * f) };
        let Some(c) = i.opt(2) else {
            return Ok(vec![tensor(
                ab.shape().to_vec(),
                host::map(typed::<T>(&ab)?, |x| scale(x, alpha)),
            )?]);
        };
        let (dims, v) = host::zip((typed::<T>(&ab)?, ab.shape()), (typed::<T>(c)?, c.shape()), |x, y| {
            scale(x, alpha).add(scale(y, beta))
        })?;
        ensure!(dims == ab.shape(), "C does not broadcast to {:?}", ab.shape());
        Ok(vec![tensor(dims, T::wrap(v))?])
    }
    Ok(Kernel::dual(
        DeviceOp::Gemm {
            alpha,
            beta,
            trans_a,
            trans_b,
        },
        move |i: &Inputs<'_>| numbers!(i.get(0)?.data(), v => general(v, i, (alpha, beta), (trans_a, trans_b))),
    ))
}

fn matrix<T: Number>(v: &[T], dims: &[usize], transpose: bool) -> OpResult<(Vec<T>, [usize; 2])> {
    let &[rows, columns] = dims else {
        return Err(crate::fault::Fault(format!("Gemm of rank {} instead of 2", dims.len())));
    };
    if !transpose {
        return Ok((v.to_vec(), [rows, columns]));
    }
    let turned = (0..columns).flat_map(|c| (0..rows).map(move |r| v[r * columns + c]));
    Ok((turned.collect(), [columns, rows]))
}

#[cfg(test)]
mod tests {
    use crate::testing::{assert_close, eval, eval_at, f32s, ints};

    #[test]
    fn vectors_lose_the_dimension_they_were_given() {
        let m = f32s(&[2, 2], &[1.0, 2.0, 3.0, 4.0]);
        assert_close(
            &eval("MatMul", |_| {}, &[f32s(&[2], &[1.0, 1.0]), m.clone()]),
            &f32s(&[2], &[4.0, 6.0]),
        );
        assert_close(
            &eval("MatMul", |_| {}, &[m, f32s(&[2], &[1.0, 1.0])]),
            &f32s(&[2], &[3.0, 7.0]),
        );
    }

    #[test]
    fn batches_broadcast_and_integers_multiply_exactly() {
        let a = ints(&[2, 1, 1, 2], &[1, 2, 3, i64::MAX]);
        let out = eval("MatMul", |_| {}, &[a, ints(&[3, 2, 1], &[1, 0, 0, 1, 1, 1])]);
        assert_eq!(out, ints(&[2, 3, 1, 1], &[1, 2, 3, 3, i64::MAX, i64::MIN + 2]));
    }

    #[test]
    fn the_device_multiplies_as_the_host_does() {
        let v: Vec<f32> = (0..4096).map(|k| (k % 7) as f32).collect();
        let eye: Vec<f32> = (0..4096).map(|k| f32::from(u8::from(k / 64 == k % 64))).collect();
        let out = eval("MatMul", |_| {}, &[f32s(&[1, 64, 64], &v), f32s(&[64, 64], &eye)]);
        assert_close(&out, &f32s(&[1, 64, 64], &v));
    }

    #[test]
    fn gemm_transposes_scales_and_adds() {
        let out = eval(
            "Gemm",
            |a| {
                a.int("transB", 1);
                a.float("alpha", 2.0);
                a.float("beta", 0.5);
            },
            &[
                f32s(&[1, 2], &[1.0, 2.0]),
                f32s(&[2, 2], &[1.0, 0.0, 0.0, 1.0]),
                f32s(&[2], &[4.0, 8.0]),
            ],
        );
        assert_close(&out, &f32s(&[1, 2], &[4.0, 8.0]));
    }

    #[test]
    fn sizes_that_do_not_fit_are_an_error() {
        let inputs = [f32s(&[1, 2], &[0.0; 2]), f32s(&[3, 1], &[0.0; 3])];
        assert!(
            eval_at(18, "MatMul", |_| {}, &inputs, 1)
                .unwrap_err()
                .contains("can't be multiplied")
        );
    }
}
