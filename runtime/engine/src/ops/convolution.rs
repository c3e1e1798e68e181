//! Convolutions, plain and transposed. They always run on the device.

use crate::device::{Conv, ConvTranspose, DeviceOp};
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
    Ok(Kernel::device(DeviceOp::Conv(Conv {
        window: Window::parse(spec)?,
        group: group(spec)?,
        clamp: None,
    })))
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

#[cfg(test)]
mod tests {
    use crate::testing::{assert_close, eval, eval_at, f32s};

    #[test]
    fn a_window_slides_with_stride_and_uneven_padding() {
        // One window [1, 1]: sums of neighbours, one zero in front.
        let x = f32s(&[1, 1, 3], &[1.0, 2.0, 3.0]);
        let y = eval("Conv", |a| a.ints("pads", &[1, 0]), &[x, f32s(&[1, 1, 2], &[1.0, 1.0])]);
        assert_close(&y, &f32s(&[1, 1, 3], &[1.0, 3.0, 5.0]));
    }

    #[test]
    fn groups_and_bias_are_per_channel() {
        let x = f32s(&[1, 2, 1, 2], &[1.0, 2.0, 3.0, 4.0]);
        let w = f32s(&[2, 1, 1, 1], &[10.0, 100.0]);
        let y = eval("Conv", |a| a.int("group", 2), &[x, w, f32s(&[2], &[0.5, 0.25])]);
        assert_close(&y, &f32s(&[1, 2, 1, 2], &[10.5, 20.5, 300.25, 400.25]));
    }

    #[test]
    fn a_transposed_window_spreads_and_is_cut() {
        let x = f32s(&[1, 1, 2], &[1.0, 2.0]);
        let w = f32s(&[1, 1, 2], &[1.0, 10.0]);
        let strides = |a: &mut crate::testing::Attributes| a.ints("strides", &[2]);
        assert_close(
            &eval("ConvTranspose", strides, &[x.clone(), w.clone()]),
            &f32s(&[1, 1, 4], &[1.0, 10.0, 2.0, 20.0]),
        );
        let cut = |a: &mut crate::testing::Attributes| {
            a.ints("strides", &[2]);
            a.ints("pads", &[1, 0]);
        };
        assert_close(
            &eval("ConvTranspose", cut, &[x, w]),
            &f32s(&[1, 1, 3], &[10.0, 2.0, 20.0]),
        );
    }

    #[test]
    fn channels_that_do_not_fit_are_an_error() {
        let error = eval_at(
            18,
            "Conv",
            |_| {},
            &[f32s(&[1, 3, 1], &[0.0; 3]), f32s(&[1, 2, 1], &[0.0; 2])],
            1,
        );
        assert!(error.unwrap_err().contains("3 input channels"));
    }
}
