//! How much the values of one run may take together.

use burn_backend::Backend;

use crate::DataType;
use crate::fault::{OpResult, ensure};
use crate::limits;
use crate::value::Value;

/// Results below this are not worth a look at everything else.
const LARGE: usize = 1 << 20;

/// A fault where a step's results and what is alive beside them are more than a run may have, of which so many parts are under
/// way at a time.
pub(super) fn check<B: Backend>(results: &[Value<B>], alive: &[Option<Value<B>>], parts: usize) -> OpResult<()> {
    let new: usize = results.iter().map(bytes).sum();
    if new < LARGE {
        return Ok(());
    }
    let all = alive.iter().flatten().map(bytes).fold(new, usize::saturating_add);
    let most = limits::bytes();
    ensure!(
        all.saturating_mul(parts) <= most,
        "the values of this run take more than the {most} bytes allowed"
    );
    Ok(())
}

fn bytes<B: Backend>(value: &Value<B>) -> usize {
    let tensor = |datatype, elements: usize| elements.saturating_mul(width(datatype));
    match value {
        Value::Nothing => 0,
        Value::List(list) => list.iter().map(|t| tensor(t.datatype(), t.data().len())).sum(),
        value => {
            let elements = value.shape().iter().fold(1usize, |n, &d| n.saturating_mul(d));
            tensor(value.datatype(), elements)
        }
    }
}

fn width(datatype: DataType) -> usize {
    match datatype {
        DataType::Bool | DataType::U8 | DataType::I8 => 1,
        DataType::U16 | DataType::I16 | DataType::F16 | DataType::BF16 => 2,
        DataType::U32 | DataType::I32 | DataType::F32 => 4,
        DataType::U64 | DataType::I64 | DataType::F64 => 8,
        DataType::Bytes => size_of::<bytes::Bytes>(),
    }
}
