//! Which kernels compute convolutions and products: fixed ones, so that no run ever tunes.

use burn_backend::DType;
use burn_backend::ops::ConvOptions;
use burn_backend::ops::FloatTensorOps as _;
use burn_cubecl::CubeBackend;
use burn_cubecl::kernel::conv::{ConvStrategy, conv_forward};
use burn_cubecl::kernel::into_contiguous;
use burn_cubecl::kernel::matmul::init_matmul_output;
use burn_cubecl::ops::{permute_nchw_to_nhwc, permute_nhwc_to_nchw};
use burn_cubecl::tensor::CubeTensor;
use cubecl::cuda::CudaRuntime;
use cubek::matmul::definition::{MatmulElems, MatmulGlobalElems};
use cubek::matmul::launch::{Strategy, launch_ref};
use cubek::matmul::routines::BlueprintStrategy;
use cubek::std::InputBinding;
use pilotlight_engine::backend::Primitives;

/// Burn's backend without fusion: what it is asked to do is launched at once, by the kernel that is named.
pub(super) type Cuda = CubeBackend<CudaRuntime, f32, i32, u8>;

type Tensor = CubeTensor<CudaRuntime>;

/// Convolutions as implicit products on the tensor cores and Cube's products; with `strict`, FP32 is computed without tensor cores,
/// which would round its factors to 11 bits.
#[derive(Clone, Copy, Debug)]
pub(super) struct Fixed {
    pub(super) strict: bool,
}

impl Fixed {
    fn is_strict(self, t: &Tensor) -> bool {
        self.strict && t.dtype == DType::F32
    }
}

impl Primitives<Cuda> for Fixed {
    fn conv2d(&self, x: Tensor, weight: Tensor, bias: Option<Tensor>, options: ConvOptions<2>) -> Tensor {
        if !self.is_strict(&x) {
            let (x, weight, bias, options) = (x.clone(), weight.clone(), bias.clone(), options.clone());
            // An error says that the shapes don't fit its tiles; nothing has been launched then.
            if let Ok(out) = conv_forward::<CudaRuntime, 2>(x, weight, bias, options, ConvStrategy::ImplicitGemm) {
                return out;
            }
        }
        match conv_forward::<CudaRuntime, 2>(x, weight, bias, options, ConvStrategy::Direct) {
            Ok(out) => out,
            Err(error) => panic!("the convolution can't be launched: {error:?}"),
        }
    }

    fn matmul(&self, a: Tensor, b: Tensor) -> Tensor {
        if !self.is_strict(&a) {
            return Cuda::float_matmul(a, b);
        }
        unit_product(a, b)
    }

    fn lay_out(&self, weight: Tensor) -> Tensor {
        if weight.meta.shape().num_dims() != 4 {
            return weight;
        }
        // Channels last in memory, as the implicit product reads them, seen in the order that ONNX has.
        permute_nhwc_to_nchw(into_contiguous(permute_nchw_to_nhwc(weight)))
    }
}

/// A product by the cores for FP32; the plain kernel where its tiles don't fit the shapes.
fn unit_product(a: Tensor, b: Tensor) -> Tensor {
    let dtype = a.dtype;
    let out = init_matmul_output(&a, &b, dtype);
    for strategy in [Strategy::SimpleUnit(BlueprintStrategy::default()), Strategy::Naive] {
        let elements = MatmulGlobalElems {
            lhs: dtype.into(),
            rhs: dtype.into(),
            out: dtype.into(),
        };
        let launched = launch_ref(
            &strategy,
            &out.client,
            InputBinding::new(a.clone().binding(), dtype.into()),
            InputBinding::new(b.clone().binding(), dtype.into()),
            out.clone().binding(),
            &mut MatmulElems::from_globals(&elements),
        );
        if launched.is_ok() {
            return out;
        }
    }
    panic!(
        "the product of {:?} and {:?} can't be launched",
        a.meta.shape(),
        b.meta.shape()
    );
}
