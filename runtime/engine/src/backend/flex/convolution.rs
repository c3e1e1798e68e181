//! Convolutions with packed weights, with what the planner drew into them.

use burn_flex::{Flex, FlexDevice};
use pilotlight_kernels::{Conv as Kernel, Geometry};

use super::operand::{dims, floats, made, own};
use super::{Operands, Outcome};
use crate::buffers;
use crate::device::Conv;
use crate::fault::{Fault, ensure};
use crate::value::Value;
use crate::window::Axis;
use crate::{Data, Tensor, shape};

/// A convolution of one or two spatial dimensions.
pub(crate) struct Convolution {
    kernel: Kernel,
    /// The weights' shape as the model has it.
    shape: Vec<usize>,
}

/// `None` where there is no kernel for weights like these.
pub(super) fn pack(weights: &Tensor, attrs: &Conv) -> Option<Convolution> {
    let Data::F32(values) = weights.data() else { return None };
    // One spatial dimension is a single row.
    let dims = match *weights.shape() {
        [filters, depth, columns] => [filters, depth, 1, columns],
        [filters, depth, rows, columns] => [filters, depth, rows, columns],
        _ => return None,
    };
    Some(Convolution {
        kernel: Kernel::new(values, dims, attrs.group)?,
        shape: weights.shape().to_vec(),
    })
}

/// Operands: x, nothing, b?, residual?
pub(super) fn run(weights: &Convolution, attrs: &Conv, operands: Operands<'_>) -> Outcome {
    let (x, rest) = operands.split_first_mut().ok_or_else(missing)?;
    let x = x.as_ref().ok_or_else(missing)?;
    let xs = dims(x);
    let axes = attrs.resolve(&xs, &weights.shape)?;
    let Some(input) = floats(x) else { return Ok(None) };
    ensure!(!xs[1..].contains(&0), "input of shape {xs:?}");
    let filters = weights.shape[0];
    let (bias, residual) = match rest {
        [_, bias, residual, ..] => (bias.as_ref(), residual.take()),
        [_, bias] => (bias.as_ref(), None),
        _ => (None, None),
    };
    let bias = match bias.map(|b| (dims(b), floats(b))) {
        None => None,
        Some((bs, b)) => {
            ensure!(bs == [filters], "bias of shape {bs:?} for {filters} output channels");
            ensure!(b.is_some(), "a bias of another type than the weights'");
            b
        }
    };
    let mut padded = vec![xs[1]];
    padded.extend(axes.iter().map(|a| a.begin + a.input + a.end));
    let padded = shape::elements(&padded)?;
    let mut out_dims = vec![xs[0], filters];
    out_dims.extend(axes.iter().map(|a| a.output));
    let n = shape::elements(&out_dims)?;

    let image = out_dims[1..].iter().product::<usize>() + xs[1..].iter().product::<usize>();
    // The padded image is in memory; zeros that no model needs must not fill it.
    ensure!(
        padded <= image.saturating_mul(64).saturating_add(1 << 20),
        "padding of {padded} elements around an image of {image}"
    );

    let geometry = geometry(&axes);
    match residual {
        // The sum takes the residual's place in memory; one that is read elsewhere is copied first.
        Some(residual) if dims(&residual) == out_dims && floats(&residual).is_some() => {
            let mut out = own(residual)?;
            weights.kernel.run(input, bias, geometry, attrs.clamp, true, &mut out);
            made(out_dims, out)
        }
        residual => {
            // A residual of another shape is stretched, or stretches the result.
            let clamp = attrs.clamp.filter(|_| residual.is_none());
            let mut out = buffers::take(n);
            weights.kernel.run(input, bias, geometry, clamp, false, &mut out);
            let out = made(out_dims, out)?;
            let (Some(value), Some(residual)) = (&out, residual) else {
                return Ok(out);
            };
            let sums = value.clone().into_float(&FlexDevice)?;
            let sums = attrs.finish::<Flex>(sums, Some(residual.into_float(&FlexDevice)?))?;
            Ok(Some(Value::Float(sums)))
        }
    }
}

fn missing() -> Fault {
    Fault("input 0 is missing".into())
}

/// The window for the kernel, which has two dimensions always.
pub(super) fn geometry(axes: &[Axis]) -> Geometry {
    let row = Axis {
        input: 1,
        output: 1,
        kernel: 1,
        stride: 1,
        dilation: 1,
        begin: 0,
        end: 0,
    };
    let pair = match *axes {
        [rows, columns] => [rows, columns],
        [columns] => [row, columns],
        _ => [row, row],
    };
    Geometry {
        input: pair.map(|a| a.input),
        output: pair.map(|a| a.output),
        stride: pair.map(|a| a.stride),
        dilation: pair.map(|a| a.dilation),
        begin: pair.map(|a| a.begin),
        end: pair.map(|a| a.end),
    }
}

#[cfg(test)]
mod tests {
    use burn_backend::ops::FloatTensorOps;
    use burn_backend::{Shape, TensorData};
    use burn_flex::{Flex, FlexDevice, FlexTensor};
    use proptest::prelude::*;

    use super::{Conv, pack, run};
    use crate::testing::f32s;
    use crate::value::Value;
    use crate::window::{Padding, Window};

    fn noise(dims: &[usize], seed: u32) -> Vec<f32> {
        let mut state = seed | 1;
        let mut next = || {
            state = state.wrapping_mul(747_796_405).wrapping_add(2_891_336_453);
            f32::from((state >> 16) as u16) / 32768.0 - 1.0
        };
        (0..dims.iter().product()).map(|_| next()).collect()
    }

    fn on_device(dims: &[usize], v: &[f32]) -> FlexTensor {
        Flex::float_from_data(TensorData::new(v.to_vec(), Shape::from(dims.to_vec())), &FlexDevice)
    }

    fn floats(t: &FlexTensor) -> Vec<f32> {
        t.to_contiguous().storage::<f32>().to_vec()
    }

    proptest! {
        #[test]
        fn one_call_gives_what_burns_own_convolution_and_the_rest_give(
            (group, per_group, depth, batch) in (1..4usize, 1..9usize, 1..9usize, 1..4usize),
            (spatial, kernel) in (1..3usize, 1..4usize),
            size in 1..14usize,
            (stride, dilation) in (1..4usize, 1..3usize),
            pads in proptest::collection::vec(0..3usize, 4),
            (biased, residual) in any::<(bool, Option<bool>)>(),
            clamp in prop_oneof![Just(None), Just(Some((0.0, f32::INFINITY))), Just(Some((-0.5, 0.75)))],
            seed in any::<u32>(),
        ) {
            let conv = Conv {
                window: Window {
                    strides: vec![stride; spatial],
                    dilations: vec![dilation; spatial],
                    padding: Padding::Explicit(pads[..2 * spatial].to_vec()),
                    ceil: false,
                },
                group,
                clamp,
            };
            // Different sizes, so that rows and columns can't be mixed up.
            let with_space = |mut dims: Vec<usize>, size| { dims.extend((0..spatial).map(|d| size + d)); dims };
            let xs = with_space(vec![batch, group * depth], size);
            let ws = with_space(vec![group * per_group, depth], kernel);
            let Ok(axes) = conv.resolve(&xs, &ws) else { return Ok(()) };
            let mut ys = vec![batch, ws[0]];
            // A residual of the result's shape, or of one number per channel.
            ys.extend(axes.iter().map(|a| if residual == Some(true) { a.output } else { 1 }));
            let w = noise(&ws, !seed);
            let x = on_device(&xs, &noise(&xs, seed));
            let bias = biased.then(|| on_device(&ws[..1], &noise(&ws[..1], seed.rotate_left(3))));
            let residual = residual.map(|_| on_device(&ys, &noise(&ys, seed.rotate_left(9))));
            let packed = pack(&f32s(&ws, &w), &conv).expect("f32 and at most two dimensions");
            let wanted = conv.run::<Flex>(x.clone(), on_device(&ws, &w), bias.clone(), residual.clone(), &crate::backend::Place::plain(FlexDevice));
            let wanted = wanted.expect("it resolves");
            let before = residual.as_ref().map(floats);
            let mut operands = [Some(x), None, bias, residual.clone()].map(|t| t.map(Value::Float));
            let found = run(&packed, &conv, &mut operands).expect("it resolves").expect("all operands are f32");
            let found = found.into_float(&FlexDevice).expect("it is a float");
            prop_assert_eq!(found.layout().shape(), wanted.layout().shape());
            for (found, wanted) in floats(&found).iter().zip(floats(&wanted)) {
                prop_assert!((found - wanted).abs() <= 1e-5 * wanted.abs().max(1.0), "{} instead of {}", found, wanted);
            }
            prop_assert_eq!(residual.as_ref().map(floats), before, "a residual that is read elsewhere");
        }
    }

    #[test]
    fn padding_out_of_all_proportion_is_refused() {
        let conv = Conv {
            window: Window {
                strides: vec![30_000; 2],
                dilations: vec![],
                padding: Padding::Explicit(vec![10_000; 4]),
                ceil: false,
            },
            group: 1,
            clamp: None,
        };
        let packed = pack(&f32s(&[1, 2, 1, 1], &[1.0, 1.0]), &conv).expect("it fits");
        let x = on_device(&[1, 2, 2, 2], &[0.0; 8]);
        assert!(run(&packed, &conv, &mut [Some(Value::Float(x))]).is_err());
    }
}
