//! Triton's classification extension: the highest values of an output with their classes, as texts `value:index[:label]`.

use bytes::Bytes;
use half::{bf16, f16};
use pilotlight_engine::{Data, Labels, Tensor, TensorInfo};

/// The `classes` highest values of each row, highest first, as a tensor of BYTES `[rows, classes]`; of a tensor of one dimension
/// or none, which is one row, `[classes]`. Fewer where a row has fewer. Of equal values the one that comes first goes first, and NaN
/// goes last. `None` for a tensor that is not of numbers.
pub(crate) fn classify(tensor: &Tensor, info: &TensorInfo, classes: usize) -> Option<Tensor> {
    let values = values(tensor.data())?;
    let rows = match tensor.shape() {
        [] | [_] => None,
        [rows, ..] => Some(*rows),
    };
    let width = values.len() / rows.unwrap_or(1).max(1);
    let classes = classes.min(width);
    let mut texts = Vec::with_capacity(classes * rows.unwrap_or(1));
    for row in 0..rows.unwrap_or(1) {
        let row = &values[row * width..(row + 1) * width];
        let mut order: Vec<usize> = (0..width).collect();
        order.sort_by(|&a, &b| descending(row[a], row[b]));
        texts.extend(
            order[..classes]
                .iter()
                .map(|&at| text(row[at], at, info.labels.as_ref())),
        );
    }
    let shape = rows.into_iter().chain([classes]).collect();
    Tensor::new(shape, Data::Bytes(texts))
}

/// Every number as a double; integers past 2^53 lose their last digits.
fn values(data: &Data) -> Option<Vec<f64>> {
    fn wide<T: Copy + Into<f64>>(items: &[T]) -> Vec<f64> {
        items.iter().map(|&item| item.into()).collect()
    }
    Some(match data {
        Data::U8(items) => wide(items),
        Data::U16(items) => wide(items),
        Data::U32(items) => wide(items),
        Data::I8(items) => wide(items),
        Data::I16(items) => wide(items),
        Data::I32(items) => wide(items),
        Data::F32(items) => wide(items),
        Data::F64(items) => items.clone(),
        Data::U64(items) => items.iter().map(|&item| item as f64).collect(),
        Data::I64(items) => items.iter().map(|&item| item as f64).collect(),
        Data::F16(items) => items.iter().copied().map(f16::to_f64).collect(),
        Data::BF16(items) => items.iter().copied().map(bf16::to_f64).collect(),
        Data::Bool(_) | Data::Bytes(_) => return None,
    })
}

fn descending(a: f64, b: f64) -> std::cmp::Ordering {
    b.partial_cmp(&a).unwrap_or_else(|| a.is_nan().cmp(&b.is_nan()))
}

fn text(value: f64, at: usize, labels: Option<&Labels>) -> Bytes {
    let label = match labels {
        Some(Labels::Ints(names)) => names.get(at).map(|name| format!(":{name}")),
        Some(Labels::Strings(names)) => names.get(at).map(|name| format!(":{name}")),
        None => None,
    };
    // Six digits behind the point, as Triton writes them.
    format!("{value:.6}:{at}{}", label.unwrap_or_default()).into()
}

#[cfg(test)]
mod tests {
    use pilotlight_engine::DataType;

    use super::*;
    use crate::testing::{info, n};

    fn classified(shape: &[usize], data: Data, classes: usize, labels: Option<Labels>) -> (Vec<usize>, Vec<String>) {
        let mut info = info("y", DataType::F32, vec![n()]);
        info.labels = labels;
        let tensor = Tensor::new(shape.to_vec(), data).unwrap();
        let (shape, data) = classify(&tensor, &info, classes).unwrap().into_parts();
        let Data::Bytes(texts) = data else { panic!("texts") };
        (
            shape,
            texts.iter().map(|t| String::from_utf8(t.to_vec()).unwrap()).collect(),
        )
    }

    #[test]
    fn each_row_gives_its_highest_values_with_index_and_label() {
        let scores = Data::F32(vec![0.25, 0.5, 0.25, f32::NAN, -1.0, 2.0]);
        let labels = Labels::Strings(vec!["a".into(), "b".into()]);
        let (shape, texts) = classified(&[2, 3], scores, 2, Some(labels));
        assert_eq!(shape, [2, 2]);
        assert_eq!(texts, ["0.500000:1:b", "0.250000:0:a", "2.000000:2", "-1.000000:1:b"]);
    }

    #[test]
    fn a_list_is_one_row_and_more_classes_than_there_are_are_all_of_them() {
        let (shape, texts) = classified(&[2], Data::I64(vec![3, 7]), 9, None);
        assert_eq!(
            (shape, texts),
            (vec![2], vec!["7.000000:1".to_owned(), "3.000000:0".to_owned()])
        );
        let (shape, texts) = classified(&[2, 0], Data::I64(vec![]), 1, None);
        assert_eq!((shape, texts), (vec![2, 0], vec![]));
    }
}
