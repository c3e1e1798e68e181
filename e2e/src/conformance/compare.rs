//! Whether two values are the same but for rounding.

use pilotlight_engine::{Data, Item, Tensor};

/// Why `found` is not what was `wanted`, where it is not.
pub(super) fn difference(found: &Item, wanted: &Item) -> Option<String> {
    match (found, wanted) {
        (Item::Tensor(a), Item::Tensor(b)) => tensors(a, b),
        (Item::Sequence(a), Item::Sequence(b)) if a.len() == b.len() => {
            a.iter().zip(b).find_map(|(a, b)| tensors(a, b))
        }
        (Item::Nothing, Item::Nothing) => None,
        _ => Some("a value of another kind or length".into()),
    }
}

fn tensors(found: &Tensor, wanted: &Tensor) -> Option<String> {
    if (found.datatype(), found.small()) != (wanted.datatype(), wanted.small()) {
        return Some(format!("type {} instead of {}", found.datatype(), wanted.datatype()));
    }
    if found.shape() != wanted.shape() {
        return Some(format!("shape {:?} instead of {:?}", found.shape(), wanted.shape()));
    }
    let Some((a, b, relative)) = floats(found.data(), wanted.data()) else {
        return (found != wanted).then(|| "other elements".into());
    };
    // Sums of large numbers leave rounding errors of their size where they cancel out.
    let size = b.iter().filter(|x| x.is_finite()).fold(1.0, |m: f64, x| m.max(x.abs()));
    let close =
        |a: f64, b: f64| a == b || (a.is_nan() && b.is_nan()) || (a - b).abs() <= 1e-5 * size + relative * b.abs();
    let far = a.iter().zip(&b).position(|(&a, &b)| !close(a, b))?;
    Some(format!("element {far} is {} instead of {}", a[far], b[far]))
}

/// Both as doubles and how far they may lie apart: a thousandth, as in ONNX's own runner; of half floats two units in the
/// last place where that is more.
fn floats(a: &Data, b: &Data) -> Option<(Vec<f64>, Vec<f64>, f64)> {
    Some(match (a, b) {
        (Data::F32(a), Data::F32(b)) => (wide(a), wide(b), 1e-3),
        (Data::F64(a), Data::F64(b)) => (a.clone(), b.clone(), 1e-3),
        (Data::F16(a), Data::F16(b)) => (wide(a), wide(b), 2.0 / 1024.0),
        (Data::BF16(a), Data::BF16(b)) => (wide(a), wide(b), 2.0 / 128.0),
        _ => return None,
    })
}

fn wide<T: Copy + Into<f64>>(v: &[T]) -> Vec<f64> {
    v.iter().map(|&x| x.into()).collect()
}
