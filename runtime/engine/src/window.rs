//! Sliding windows over spatial dimensions: what convolutions and pools share.

use crate::fault::{OpResult, bail, ensure};
use crate::spec::Spec;

/// How the borders are padded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Padding {
    /// All begins, then all ends; empty for none.
    Explicit(Vec<usize>),
    /// The output is the input divided by the stride; an odd pad goes to the end.
    SameUpper,
    /// As `SameUpper`, an odd pad goes to the beginning.
    SameLower,
}

/// A window's attributes; lists are empty where the model gives none.
#[derive(Clone, Debug)]
pub(crate) struct Window {
    pub(crate) strides: Vec<usize>,
    pub(crate) dilations: Vec<usize>,
    pub(crate) padding: Padding,
    pub(crate) ceil: bool,
}

/// One spatial dimension, resolved against an input size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Axis {
    pub(crate) input: usize,
    pub(crate) output: usize,
    pub(crate) kernel: usize,
    pub(crate) stride: usize,
    pub(crate) dilation: usize,
    pub(crate) begin: usize,
    pub(crate) end: usize,
}

impl Window {
    pub(crate) fn parse(spec: &Spec<'_>) -> OpResult<Self> {
        let pads = spec.sizes("pads", 0)?.unwrap_or_default();
        let padding = match spec.string("auto_pad", "NOTSET")? {
            "NOTSET" | "" => Padding::Explicit(pads),
            "VALID" => Padding::Explicit(Vec::new()),
            "SAME_UPPER" => Padding::SameUpper,
            "SAME_LOWER" => Padding::SameLower,
            other => bail!("attribute \"auto_pad\" is {other:?}"),
        };
        Ok(Self {
            strides: spec.sizes("strides", 1)?.unwrap_or_default(),
            dilations: spec.sizes("dilations", 1)?.unwrap_or_default(),
            padding,
            ceil: false,
        })
    }

    /// The window on inputs of these spatial sizes; a fault where it fits nowhere.
    pub(crate) fn resolve(&self, input: &[usize], kernel: &[usize]) -> OpResult<Vec<Axis>> {
        let n = input.len();
        let fits = |list: &[usize], want: usize| list.is_empty() || list.len() == want;
        ensure!(
            kernel.len() == n && fits(&self.strides, n) && fits(&self.dilations, n),
            "kernel {kernel:?}, strides {:?} and dilations {:?} do not fit {n} spatial dimensions",
            self.strides,
            self.dilations
        );
        if let Padding::Explicit(p) = &self.padding {
            ensure!(fits(p, 2 * n), "pads {p:?} do not fit {n} spatial dimensions");
        }
        (0..n).map(|d| self.resolve_axis(d, input[d], kernel[d], n)).collect()
    }

    fn resolve_axis(&self, d: usize, input: usize, kernel: usize, n: usize) -> OpResult<Axis> {
        let stride = self.strides.get(d).copied().unwrap_or(1);
        let dilation = self.dilations.get(d).copied().unwrap_or(1);
        ensure!(kernel > 0, "a kernel dimension is 0");
        let extent = (kernel - 1).saturating_mul(dilation).saturating_add(1);
        let (begin, end) = match &self.padding {
            Padding::Explicit(p) => (p.get(d).copied().unwrap_or(0), p.get(d + n).copied().unwrap_or(0)),
            same => {
                let output = input.div_ceil(stride);
                let total = (output.saturating_sub(1) * stride)
                    .saturating_add(extent)
                    .saturating_sub(input);
                if *same == Padding::SameUpper {
                    (total / 2, total - total / 2)
                } else {
                    (total - total / 2, total / 2)
                }
            }
        };
        let padded = input.saturating_add(begin).saturating_add(end);
        ensure!(
            extent <= padded,
            "a window of {extent} does not fit into {padded} padded elements"
        );
        let span = padded - extent;
        let mut output = span / stride + 1;
        // A last window that would start in the padding at the end is left out.
        if self.ceil && !span.is_multiple_of(stride) && output * stride < input + begin {
            output += 1;
        }
        Ok(Axis {
            input,
            output,
            kernel,
            stride,
            dilation,
            begin,
            end,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn window(padding: Padding, stride: usize, ceil: bool) -> Window {
        Window {
            strides: vec![stride],
            dilations: vec![],
            padding,
            ceil,
        }
    }

    #[test]
    fn same_padding_divides_by_the_stride_and_puts_the_odd_pad_where_asked() {
        let a = window(Padding::SameUpper, 2, false).resolve(&[5], &[2]).unwrap()[0];
        assert_eq!((a.output, a.begin, a.end), (3, 0, 1));
        let a = window(Padding::SameLower, 2, false).resolve(&[5], &[2]).unwrap()[0];
        assert_eq!((a.output, a.begin, a.end), (3, 1, 0));
    }

    #[test]
    fn ceil_mode_adds_a_partial_window_only_where_it_starts_inside() {
        assert_eq!(
            window(Padding::Explicit(vec![]), 2, true).resolve(&[4], &[3]).unwrap()[0].output,
            2
        );
        assert_eq!(
            window(Padding::Explicit(vec![]), 2, false).resolve(&[4], &[3]).unwrap()[0].output,
            1
        );
        // Padded to 2..=3: the second window would start in the end padding.
        assert_eq!(
            window(Padding::Explicit(vec![0, 1]), 2, true)
                .resolve(&[2], &[2])
                .unwrap()[0]
                .output,
            1
        );
    }

    #[test]
    fn a_window_larger_than_the_input_is_refused() {
        assert!(window(Padding::Explicit(vec![]), 1, false).resolve(&[2], &[3]).is_err());
        assert!(
            window(Padding::Explicit(vec![1]), 1, false)
                .resolve(&[2], &[3])
                .is_err()
        );
    }
}
