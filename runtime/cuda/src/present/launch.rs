//! Every way to compute a product or a convolution, launched as it is asked for.

use burn_backend::ops::conv::calculate_conv_output_sizes;
use burn_backend::ops::{ConvOptions, FloatTensorOps as _};
use burn_backend::{DType, FloatDType, Shape, Slice};
use burn_cubecl::kernel::conv::{ConvStrategy, conv_forward};
use burn_cubecl::kernel::into_contiguous;
use burn_cubecl::kernel::matmul::init_matmul_output;
use burn_cubecl::ops::{permute_nchw_to_nhwc, permute_nhwc_to_nchw};
use burn_cubecl::tensor::CubeTensor;
use burn_cubecl::{CubeBackend, CubeRuntime};
use cubek::convolution::{AcceleratedTileKind, ConvAlgorithm, ConvolutionArgs, ConvolutionInputs};
use cubek::matmul::definition::{MatmulElems, MatmulGlobalElems};
use cubek::matmul::launch::Strategy;
use cubek::matmul::routines::BlueprintStrategy;
use cubek::std::InputBinding;

use crate::choices::Way;

/// Burn's backend without fusion: what it is asked to do is launched at once, by the kernel that is named.
pub(super) type Cube<R> = CubeBackend<R, f32, i32, u8>;

/// Windows are written out up to this many bytes.
const MOST_COLUMNS: usize = 1 << 29;

/// A convolution's operands.
pub(super) struct Convolution<R: CubeRuntime> {
    pub(super) x: CubeTensor<R>,
    pub(super) weight: CubeTensor<R>,
    pub(super) bias: Option<CubeTensor<R>>,
    pub(super) options: ConvOptions<2>,
}

impl<R: CubeRuntime> Clone for Convolution<R> {
    fn clone(&self) -> Self {
        Self {
            x: self.x.clone(),
            weight: self.weight.clone(),
            bias: self.bias.clone(),
            options: self.options.clone(),
        }
    }
}

/// `None` where the way does not fit the shapes or the device; nothing has been launched then. `strict`: a product within it is
/// without tensor cores.
pub(super) fn convolve<R: CubeRuntime>(way: Way, conv: Convolution<R>, strict: bool) -> Option<CubeTensor<R>> {
    use AcceleratedTileKind::{Cmma, Mma};
    use ConvAlgorithm as A;
    match way {
        Way::Direct => {
            let Convolution {
                x,
                weight,
                bias,
                options,
            } = conv;
            conv_forward::<R, 2>(x, weight, bias, options, ConvStrategy::Direct).ok()
        }
        Way::Columns => columns(conv, strict),
        Way::CyclicCmma => implicit(A::SimpleSyncCyclic, Cmma, conv),
        Way::StridedMma => implicit(A::SimpleSyncStrided, Mma, conv),
        Way::AsyncCmma => implicit(A::SimpleAsyncCyclic, Cmma, conv),
        Way::AsyncMma => implicit(A::SimpleAsyncStrided, Mma, conv),
        Way::TmaCmma => implicit(A::SimpleAsyncTma, Cmma, conv),
        Way::TmaMma => implicit(A::SimpleAsyncTma, Mma, conv),
        _ => None,
    }
}

/// A product; `None` as before.
pub(super) fn multiply<R: CubeRuntime>(way: Way, a: CubeTensor<R>, b: CubeTensor<R>) -> Option<CubeTensor<R>> {
    let strategy = match way {
        Way::ProductCmma => Strategy::SimpleCyclicCmma(BlueprintStrategy::default()),
        Way::ProductMma => Strategy::SimpleCyclicMma(BlueprintStrategy::default()),
        Way::ProductDouble => Strategy::DoubleCyclicCmma(BlueprintStrategy::default()),
        Way::ProductTma => Strategy::DoubleTmaMma(BlueprintStrategy::default()),
        Way::ProductUnit => Strategy::SimpleUnit(BlueprintStrategy::default()),
        Way::ProductUnitDouble => Strategy::DoubleUnit(BlueprintStrategy::default()),
        Way::ProductRows => Strategy::SimpleVecMat(BlueprintStrategy::default()),
        Way::ProductPlain => Strategy::Naive,
        _ => return None,
    };
    let dtype = a.dtype;
    let out = init_matmul_output(&a, &b, dtype);
    let client = out.client.clone();
    let launched = cubek::matmul::launch::launch_ref(
        &strategy,
        &client,
        InputBinding::new(a.binding(), dtype.into()),
        InputBinding::new(b.binding(), dtype.into()),
        out.clone().binding(),
        &mut MatmulElems::from_globals(&elements(dtype)),
    );
    launched.ok().map(|()| out)
}

fn elements(dtype: DType) -> MatmulGlobalElems {
    MatmulGlobalElems {
        lhs: dtype.into(),
        rhs: dtype.into(),
        out: dtype.into(),
    }
}

/// The convolution as a product of the windows, which are read where they are, and the filters.
fn implicit<R: CubeRuntime>(
    algorithm: ConvAlgorithm,
    tile_kind: AcceleratedTileKind,
    conv: Convolution<R>,
) -> Option<CubeTensor<R>> {
    if conv.options.groups != 1 {
        return None;
    }
    let [n, height, width, filters] = output(&conv);
    let dtype = conv.x.dtype;
    let out = empty::<R>(&conv.x, [n, height, width, filters]);
    let client = out.client.clone();
    let bound = |t: CubeTensor<R>| InputBinding::new(t.binding(), dtype.into());
    let launched = cubek::convolution::launch_ref::<R, 2>(
        &cubek::convolution::Strategy::Inferred { algorithm, tile_kind },
        &client,
        ConvolutionInputs::Forward {
            input: bound(permute_nchw_to_nhwc(conv.x)),
            weight: bound(permute_nchw_to_nhwc(conv.weight)),
            bias: conv.bias.map(bound),
            out: out.clone().binding(),
        },
        ConvolutionArgs {
            stride: conv.options.stride,
            padding: conv.options.padding,
            dilation: conv.options.dilation,
        },
        MatmulElems::from_globals(&elements(dtype)),
    );
    launched.ok().map(|()| permute_nhwc_to_nchw(out))
}

/// The windows beside each other, tap by tap, then one product with the filters.
fn columns<R: CubeRuntime>(conv: Convolution<R>, strict: bool) -> Option<CubeTensor<R>> {
    let [n, height, width, filters] = output(&conv);
    let [_, channels, tall, wide] = dims(&conv.weight)?;
    let depth = channels * tall * wide;
    let rows = n * height * width;
    let Convolution {
        x,
        weight,
        bias,
        options,
    } = conv;
    if options.groups != 1 || rows.checked_mul(depth * x.dtype.size())? > MOST_COLUMNS {
        return None;
    }
    let x = padded(into_contiguous(permute_nchw_to_nhwc(x)), options.padding);
    let mut taps = Vec::with_capacity(tall * wide);
    for i in 0..tall {
        for j in 0..wide {
            let along = |at: usize, dilation: usize, stride: usize, windows: usize| {
                let start = at * dilation;
                Slice::new(
                    start as isize,
                    Some((start + (windows - 1) * stride + 1) as isize),
                    stride as isize,
                )
            };
            let slices = [
                Slice::full(),
                along(i, options.dilation[0], options.stride[0], height),
                along(j, options.dilation[1], options.stride[1], width),
                Slice::full(),
            ];
            taps.push(Cube::<R>::float_slice(x.clone(), &slices));
        }
    }
    let windows = match taps.len() {
        1 => taps.pop()?,
        _ => Cube::<R>::float_cat(taps, 3),
    };
    let windows = Cube::<R>::float_reshape(windows, Shape::from([rows, depth]));
    let weight = Cube::<R>::float_reshape(permute_nchw_to_nhwc(weight), Shape::from([filters, depth]));
    let weight = Cube::<R>::float_swap_dims(weight, 0, 1);
    let ways: &[Way] = if strict {
        &[Way::ProductUnit, Way::ProductPlain]
    } else {
        &[Way::ProductCmma, Way::ProductUnit]
    };
    let mut out = ways
        .iter()
        .find_map(|&way| multiply(way, windows.clone(), weight.clone()))?;
    if let Some(bias) = bias {
        out = Cube::<R>::float_add(out, Cube::<R>::float_reshape(bias, Shape::from([1, filters])));
    }
    let out = Cube::<R>::float_reshape(out, Shape::from([n, height, width, filters]));
    Some(permute_nhwc_to_nchw(out))
}

/// An image with zeros around it; channels are last.
fn padded<R: CubeRuntime>(x: CubeTensor<R>, [above, left]: [usize; 2]) -> CubeTensor<R> {
    let Some([n, height, width, channels]) = dims(&x).filter(|_| above + left > 0) else {
        return x;
    };
    let shape = Shape::from([n, height + 2 * above, width + 2 * left, channels]);
    let around = Cube::<R>::float_zeros(shape, &x.device, float(x.dtype));
    let within = |start: usize, size: usize| Slice::new(start as isize, Some((start + size) as isize), 1);
    let slices = [Slice::full(), within(above, height), within(left, width), Slice::full()];
    Cube::<R>::float_slice_assign(around, &slices, x)
}

/// Batch, height, width, filters of the result.
fn output<R: CubeRuntime>(conv: &Convolution<R>) -> [usize; 4] {
    let (x, weight) = (conv.x.meta.shape(), conv.weight.meta.shape());
    let o = &conv.options;
    let sizes = calculate_conv_output_sizes(&weight[2..4], &o.stride, &o.padding, &o.dilation, &x[2..4]);
    [x[0], sizes[0], sizes[1], weight[0]]
}

fn empty<R: CubeRuntime>(like: &CubeTensor<R>, shape: [usize; 4]) -> CubeTensor<R> {
    Cube::<R>::float_empty(Shape::from(shape), &like.device, float(like.dtype))
}

/// The widths that the executor asks for.
pub(super) fn float(dtype: DType) -> FloatDType {
    match dtype {
        DType::F16 => FloatDType::F16,
        DType::BF16 => FloatDType::BF16,
        DType::F64 => FloatDType::F64,
        _ => FloatDType::F32,
    }
}

pub(super) fn dims<R: CubeRuntime>(t: &CubeTensor<R>) -> Option<[usize; 4]> {
    t.meta.shape().iter().copied().collect::<Vec<_>>().try_into().ok()
}
