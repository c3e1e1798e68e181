//! Convolutions, plain and transposed. They always run on the device.

use crate::device::{ConvTranspose, DeviceOp};
use crate::fault::{OpResult, ensure};
use crate::kernel::Kernel;
use crate::registry::{Entry, entry};
use crate::spec::Spec;
use crate::window::Window;

pub(crate) const TABLE: &[Entry] = &[entry("Conv", 1, conv), entry("ConvTranspose", 1, conv_transpose)];

fn group(spec: &Spec<'_>) -> OpResult<usize> {
    let group = spec.int("group", 1)?;
    ensure!(group > 0 && group <= 1 << 31, "attribute \"group\" is {group}");
    // The weights say it; a contradiction shows when the window is laid over the input.
    spec.ignore(&["kernel_shape"]);
    Ok(group as usize)
}

fn conv(spec: &Spec<'_>) -> OpResult<Kernel> {
    spec.expect_inputs(2, 3)?;
    Ok(Kernel::device(DeviceOp::Conv { window: Window::parse(spec)?, group: group(spec)? }))
}

fn conv_transpose(spec: &Spec<'_>) -> OpResult<Kernel> {
    spec.expect_inputs(2, 3)?;
    Ok(Kernel::device(DeviceOp::ConvTranspose(ConvTranspose {
        window: Window::parse(spec)?,
        output_padding: spec.sizes("output_padding", 0)?.unwrap_or_default(),
        output_shape: spec.sizes("output_shape", 0)?.unwrap_or_default(),
        group: group(spec)?,
    })))
}
