//! Transposes of tensors on the host, by the kernels.

use pilotlight_kernels::permute;

use crate::{Data, Tensor, buffers};

/// The tensor with its dimensions in another order; `None` for element types that can't be copied bit by bit.
pub(crate) fn permuted(t: &Tensor, perm: &[usize]) -> Option<Data> {
    macro_rules! copied {
        ($v:expr, $zero:expr, $variant:ident) => {{
            let mut out = vec![$zero; $v.len()];
            permute($v, t.shape(), perm, &mut out);
            Data::$variant(out)
        }};
    }
    Some(match t.data() {
        Data::F32(v) => {
            let mut out = buffers::take(v.len());
            permute(v, t.shape(), perm, &mut out);
            Data::F32(out)
        }
        Data::F64(v) => copied!(v, 0.0, F64),
        Data::U8(v) => copied!(v, 0, U8),
        Data::I8(v) => copied!(v, 0, I8),
        Data::I32(v) => copied!(v, 0, I32),
        Data::I64(v) => copied!(v, 0, I64),
        Data::F16(v) => copied!(v, half::f16::ZERO, F16),
        Data::BF16(v) => copied!(v, half::bf16::ZERO, BF16),
        Data::Bool(v) => copied!(v, false, Bool),
        _ => return None,
    })
}
