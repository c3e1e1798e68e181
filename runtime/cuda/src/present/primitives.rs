//! Which kernels compute convolutions and products: those that a preparation chose, else fixed ones, so that no run ever tunes.

use std::sync::Arc;

use burn_backend::DType;
use burn_backend::ops::ConvOptions;
use burn_cubecl::CubeRuntime;
use burn_cubecl::kernel::into_contiguous;
use burn_cubecl::ops::{permute_nchw_to_nhwc, permute_nhwc_to_nchw};
use burn_cubecl::tensor::CubeTensor;
use pilotlight_engine::backend::Primitives;

use super::launch::{Convolution, Cube, convolve, dims, multiply};
use super::tuning::{Tuning, pattern};
use crate::choices::{Choices, Problem, Way, convolutions, products};

/// A choice of kernels.
#[derive(Clone, Debug)]
pub(super) struct Fixed {
    /// FP32 without tensor cores, which would round its factors to 11 bits.
    pub(super) strict: bool,
    /// What a preparation chose.
    pub(super) choices: Choices,
    /// The preparation, where this is one.
    pub(super) tuning: Option<Arc<Tuning>>,
}

impl Fixed {
    fn is_strict<R: CubeRuntime>(&self, t: &CubeTensor<R>) -> bool {
        self.strict && t.dtype == DType::F32
    }

    /// The ways to try, the best first.
    fn ways(&self, problem: Option<&Problem>, standing: &'static [Way]) -> impl Iterator<Item = Way> {
        let chosen = problem.and_then(|problem| match &self.tuning {
            Some(tuning) => tuning.known(problem),
            None => self.choices.of(problem),
        });
        chosen.into_iter().chain(standing.iter().copied())
    }
}

impl<R: CubeRuntime> Primitives<Cube<R>> for Fixed {
    fn conv2d(
        &self,
        x: CubeTensor<R>,
        weight: CubeTensor<R>,
        bias: Option<CubeTensor<R>>,
        options: ConvOptions<2>,
    ) -> CubeTensor<R> {
        let strict = self.is_strict(&x);
        let conv = Convolution {
            x,
            weight,
            bias,
            options,
        };
        let problem = convolution(&conv);
        let ways = convolutions(strict);
        if let (Some(tuning), Some(problem)) = (&self.tuning, problem) {
            tuning.see(problem, ways, strict, &conv.x, || {
                let like = Convolution {
                    x: pattern(&conv.x),
                    ..conv.clone()
                };
                move |way| convolve(way, like.clone(), strict)
            });
        }
        for way in self.ways(problem.as_ref(), ways) {
            if let Some(out) = convolve(way, conv.clone(), strict) {
                return out;
            }
        }
        panic!("the convolution {problem:?} can't be launched");
    }

    fn matmul(&self, a: CubeTensor<R>, b: CubeTensor<R>) -> CubeTensor<R> {
        let strict = self.is_strict(&a);
        let problem = product(&a, &b);
        let ways = products(strict);
        if let (Some(tuning), Some(problem)) = (&self.tuning, problem) {
            tuning.see(problem, ways, strict, &a, || {
                let (a, b) = (pattern(&a), b.clone());
                move |way| multiply(way, a.clone(), b.clone())
            });
        }
        for way in self.ways(problem.as_ref(), ways) {
            if let Some(out) = multiply(way, a.clone(), b.clone()) {
                return out;
            }
        }
        panic!("the product {problem:?} can't be launched");
    }

    fn lay_out(&self, weight: CubeTensor<R>) -> CubeTensor<R> {
        if weight.meta.shape().num_dims() != 4 {
            return weight;
        }
        // Channels last in memory, as the implicit product reads them, seen in the order that ONNX has.
        permute_nhwc_to_nchw(into_contiguous(permute_nchw_to_nhwc(weight)))
    }
}

fn convolution<R: CubeRuntime>(conv: &Convolution<R>) -> Option<Problem> {
    Some(Problem::Convolution {
        x: dims(&conv.x)?,
        weight: dims(&conv.weight)?,
        stride: conv.options.stride,
        padding: conv.options.padding,
        dilation: conv.options.dilation,
        groups: conv.options.groups,
        channels_last: conv.x.meta.strides()[1] == 1,
    })
}

fn product<R: CubeRuntime>(a: &CubeTensor<R>, b: &CubeTensor<R>) -> Option<Problem> {
    let (a, b, strides) = (a.meta.shape(), b.meta.shape(), b.meta.strides());
    let rank = a.num_dims();
    if rank < 2 || b.num_dims() != rank {
        return None;
    }
    Some(Problem::Product {
        batch: (0..rank - 2).map(|d| a[d].max(b[d])).product(),
        m: a[rank - 2],
        n: b[rank - 1],
        k: a[rank - 1],
        by_rows: strides[rank - 1] == 1,
    })
}
