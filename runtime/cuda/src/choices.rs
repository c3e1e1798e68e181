//! Which kernel computes which product or convolution: what a preparation measured, kept beside its sizes.
//!
//! Burn's own tuning is not used: with its results at hand a second process was seen to have no first answer after 80 seconds (Burn 0.22 on
//! an H100), and a run that meets a size it does not know tunes in the middle of a request. Here a preparation times a few fixed kernels for
//! every problem of its sizes and writes down the fastest; a run looks a problem up and never measures.

use std::collections::HashMap;

use serde::{Deserialize, Serialize};

/// A product or a convolution, with everything that decides how fast a kernel is at it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Problem {
    /// A convolution of two spatial dimensions.
    Convolution {
        /// Batch, channels, height, width.
        x: [usize; 4],
        /// Filters, channels of a group, height, width.
        weight: [usize; 4],
        /// Steps between windows.
        stride: [usize; 2],
        /// Zeros around the image.
        padding: [usize; 2],
        /// Steps between taps.
        dilation: [usize; 2],
        /// Groups of channels.
        groups: usize,
        /// Whether channels lie next to each other in memory.
        channels_last: bool,
    },
    /// A product of matrices.
    Product {
        /// Products at once.
        batch: usize,
        /// Rows of the first.
        m: usize,
        /// Columns of the second.
        n: usize,
        /// Columns of the first, rows of the second.
        k: usize,
        /// Whether the second's rows lie one after the other, not its columns.
        by_rows: bool,
    },
}

/// A way to compute one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Way {
    /// A convolution as it is defined, without tensor cores.
    Direct,
    /// A convolution whose windows are written out (nothing is for 1x1), then a product.
    Columns,
    /// A convolution as an implicit product on tensor cores: operands read cyclically, matrix instructions of the C++ interface.
    CyclicCmma,
    /// As before: operands read in strides, the processor's own matrix instructions.
    StridedMma,
    /// As `CyclicCmma`, copies in the background.
    AsyncCmma,
    /// As `StridedMma`, copies in the background.
    AsyncMma,
    /// As `CyclicCmma`, copies by the tensor memory accelerator.
    TmaCmma,
    /// As `StridedMma`, copies by the tensor memory accelerator.
    TmaMma,
    /// A product on tensor cores.
    ProductCmma,
    /// A product on tensor cores by the processor's own matrix instructions.
    ProductMma,
    /// A product on tensor cores, the next tiles read while these are multiplied.
    ProductDouble,
    /// As `ProductDouble`, copies by the tensor memory accelerator.
    ProductTma,
    /// A product by the cores for numbers, in tiles.
    ProductUnit,
    /// As before, the next tiles read while these are multiplied.
    ProductUnitDouble,
    /// A product of a few rows.
    ProductRows,
    /// A product as it is defined.
    ProductPlain,
}

/// What a convolution may be computed by, the standing choice first. `strict`: FP32 without tensor cores, which would round its
/// factors to 11 bits.
pub(crate) fn convolutions(strict: bool) -> &'static [Way] {
    if strict {
        return &[Way::Direct, Way::Columns];
    }
    &[
        Way::CyclicCmma,
        Way::Direct,
        Way::StridedMma,
        Way::AsyncCmma,
        Way::AsyncMma,
        Way::TmaCmma,
        Way::TmaMma,
        Way::Columns,
    ]
}

/// What a product may be computed by, the standing choices first.
pub(crate) fn products(strict: bool) -> &'static [Way] {
    if strict {
        return &[
            Way::ProductUnit,
            Way::ProductPlain,
            Way::ProductUnitDouble,
            Way::ProductRows,
        ];
    }
    &[
        Way::ProductCmma,
        Way::ProductUnit,
        Way::ProductPlain,
        Way::ProductMma,
        Way::ProductDouble,
        Way::ProductTma,
        Way::ProductRows,
    ]
}

/// How much of its time another way has to save to take the place of the standing one: less is noise.
const WORTH: f64 = 0.05;

/// The best of what was timed, the standing choice first.
pub(crate) fn fastest(timed: &[(Way, f64)]) -> Option<Way> {
    let &(standing, time) = timed.first()?;
    let best = timed.iter().min_by(|a, b| a.1.total_cmp(&b.1))?;
    Some(if best.1 < time * (1.0 - WORTH) {
        best.0
    } else {
        standing
    })
}

/// Whether a way's result is that of the standing one: `error` is the largest difference, `largest` the largest number.
pub(crate) fn agrees(error: f64, largest: f64, strict: bool) -> bool {
    // Sums of factors of 11 bits (8 in bf16), in another order.
    let part = if strict { 1e-4 } else { 2e-2 };
    error <= part * largest.max(f64::from(f32::MIN_POSITIVE)) && largest.is_finite()
}

/// What a preparation chose. Empty: everything by the standing choices.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(from = "Vec<(Problem, Way)>", into = "Vec<(Problem, Way)>")]
pub struct Choices(HashMap<Problem, Way>);

impl From<Vec<(Problem, Way)>> for Choices {
    fn from(list: Vec<(Problem, Way)>) -> Self {
        Self(list.into_iter().collect())
    }
}

impl From<Choices> for Vec<(Problem, Way)> {
    fn from(choices: Choices) -> Self {
        let mut list: Self = choices.0.into_iter().collect();
        list.sort_unstable();
        list
    }
}

impl Choices {
    /// How many there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    #[cfg(any(feature = "cuda", test))]
    pub(crate) fn of(&self, problem: &Problem) -> Option<Way> {
        self.0.get(problem).copied()
    }

    #[cfg(any(feature = "cuda", test))]
    pub(crate) fn note(&mut self, problem: Problem, way: Way) {
        self.0.insert(problem, way);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PRODUCT: Problem = Problem::Product {
        batch: 1,
        m: 8,
        n: 1000,
        k: 2048,
        by_rows: true,
    };

    #[test]
    fn another_way_is_taken_where_it_saves_more_than_noise() {
        let standing = (Way::Direct, 1.0);
        assert_eq!(fastest(&[standing, (Way::Columns, 0.5)]), Some(Way::Columns));
        assert_eq!(fastest(&[standing, (Way::Columns, 0.97)]), Some(Way::Direct));
        assert_eq!(fastest(&[standing, (Way::Columns, f64::NAN)]), Some(Way::Direct));
        assert_eq!(fastest(&[]), None);
    }

    #[test]
    fn a_way_with_other_results_does_not_agree() {
        assert!(agrees(1e-6, 1.0, true));
        assert!(!agrees(1e-3, 1.0, true));
        assert!(agrees(1e-3, 1.0, false));
        for (error, largest) in [(f64::NAN, 1.0), (f64::INFINITY, 1.0), (1.0, f64::INFINITY), (1.0, 0.0)] {
            assert!(!agrees(error, largest, false), "{error} {largest}");
        }
        assert!(agrees(0.0, 0.0, true));
    }

    #[test]
    fn choices_are_written_and_read_back_in_one_order() {
        let mut choices = Choices::default();
        choices.note(PRODUCT, Way::ProductRows);
        choices.note(
            Problem::Convolution {
                x: [1, 3, 224, 224],
                weight: [64, 3, 7, 7],
                stride: [2, 2],
                padding: [3, 3],
                dilation: [1, 1],
                groups: 1,
                channels_last: false,
            },
            Way::Columns,
        );
        let text = serde_json::to_string(&choices).unwrap();
        assert!(
            text.contains("product_rows") && text.find("convolution") < text.find("product"),
            "{text}"
        );
        assert_eq!(serde_json::from_str::<Choices>(&text).unwrap(), choices);
        assert_eq!(choices.of(&PRODUCT), Some(Way::ProductRows));
        assert_eq!(Choices::default().of(&PRODUCT), None);
    }

    #[test]
    fn strict_fp32_never_meets_a_tensor_core() {
        use Way::*;
        let plain = [
            Direct,
            Columns,
            ProductUnit,
            ProductUnitDouble,
            ProductRows,
            ProductPlain,
        ];
        for way in convolutions(true).iter().chain(products(true)) {
            assert!(plain.contains(way), "{way:?}");
        }
    }
}
