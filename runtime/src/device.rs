//! Which device the models run on: a decision over what was asked for and what there is.

use std::str::FromStr;

use pilotlight_cuda::{Gpu, Precision, Reason, Unavailable};

/// Where models run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeviceArg {
    /// The first GPU where there is one and all that is needed to run on it, else the processor.
    Auto,
    /// The processor.
    Cpu,
    /// The GPU of this number, as CUDA counts.
    Cuda(u32),
}

impl FromStr for DeviceArg {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "auto" => Ok(Self::Auto),
            "cpu" => Ok(Self::Cpu),
            "cuda" => Ok(Self::Cuda(0)),
            other => match other.strip_prefix("cuda:").map(str::parse) {
                Some(Ok(index)) => Ok(Self::Cuda(index)),
                _ => Err("use auto, cpu, cuda or cuda:N, for example cuda:1".to_owned()),
            },
        }
    }
}

/// What it comes to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    Cpu,
    Cuda(Gpu, Precision),
}

impl Place {
    /// In the log.
    pub(crate) fn describe(&self) -> String {
        match self {
            Self::Cpu => "the CPU, in f32".to_owned(),
            Self::Cuda(gpu, precision) => {
                let how = match precision {
                    Precision::F32 => "f32 without tensor cores (strict)",
                    Precision::Tf32 => "f32 with factors rounded to TF32",
                    Precision::F16 => "f16",
                    Precision::Bf16 => "bf16",
                };
                format!("cuda:{} ({}, driver {}), in {how}", gpu.index, gpu.name, gpu.driver)
            }
        }
    }
}

/// A place, and why it is not the better one.
pub(crate) type Choice = (Place, Option<Unavailable>);

/// Decides. `find` looks for a GPU; it is asked at most once.
///
/// # Errors
/// What is missing, by the flag that asks for it.
pub(crate) fn choose(
    asked: DeviceArg,
    precision: Precision,
    find: impl FnOnce(u32) -> Result<Gpu, Unavailable>,
) -> Result<Choice, String> {
    // FP32 is at least as exact as TF32, so that asking for that is no reason to refuse.
    let narrow = matches!(precision, Precision::F16 | Precision::Bf16);
    match asked {
        DeviceArg::Cpu if narrow => Err(format!(
            "--precision {precision}: the CPU computes in f32 only; leave the flag out, or ask for --device cuda"
        )),
        DeviceArg::Cpu => Ok((Place::Cpu, None)),
        DeviceArg::Cuda(index) => match find(index) {
            Ok(gpu) => Ok((Place::Cuda(gpu, precision), None)),
            Err(missing) => Err(format!("--device cuda:{index}: {missing}")),
        },
        DeviceArg::Auto => match find(0) {
            Ok(gpu) => Ok((Place::Cuda(gpu, precision), None)),
            Err(missing) if narrow => Err(format!("--precision {precision} needs a GPU, and {missing}")),
            // A program without CUDA is not worth a word.
            Err(Unavailable(reasons)) if reasons == [Reason::NotBuilt] => Ok((Place::Cpu, None)),
            Err(missing) => Ok((Place::Cpu, Some(missing))),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gpu(index: u32) -> Result<Gpu, Unavailable> {
        Ok(Gpu {
            index,
            name: "NVIDIA H100".into(),
            driver: "580".into(),
            memory: 1,
        })
    }

    fn without(reason: Reason) -> impl FnOnce(u32) -> Result<Gpu, Unavailable> {
        move |_| Err(Unavailable(vec![reason]))
    }

    #[test]
    fn names_of_devices() {
        for (text, device) in [
            ("auto", DeviceArg::Auto),
            ("cpu", DeviceArg::Cpu),
            ("cuda", DeviceArg::Cuda(0)),
            ("cuda:3", DeviceArg::Cuda(3)),
        ] {
            assert_eq!(text.parse(), Ok(device));
        }
        for text in ["gpu", "cuda:", "cuda:x", "cuda:-1", "CPU"] {
            assert!(text.parse::<DeviceArg>().is_err(), "{text}");
        }
    }

    #[test]
    fn auto_takes_a_gpu_that_can_be_used_and_else_the_cpu_and_says_why() {
        let (place, why) = choose(DeviceArg::Auto, Precision::F32, gpu).unwrap();
        assert!(matches!(place, Place::Cuda(Gpu { index: 0, .. }, Precision::F32)) && why.is_none());
        let missing = || Reason::Nvrtc("none".into());
        let (place, why) = choose(DeviceArg::Auto, Precision::Tf32, without(missing())).unwrap();
        assert_eq!((place, why), (Place::Cpu, Some(Unavailable(vec![missing()]))));
        let silent = choose(DeviceArg::Auto, Precision::F32, without(Reason::NotBuilt)).unwrap();
        assert_eq!(silent, (Place::Cpu, None));
    }

    #[test]
    fn a_gpu_that_is_asked_for_and_can_t_be_used_is_an_error_with_all_that_is_missing() {
        let error = choose(DeviceArg::Cuda(2), Precision::F32, without(Reason::NotBuilt)).unwrap_err();
        assert!(
            error.contains("--device cuda:2") && error.contains("--features cuda"),
            "{error}"
        );
        let (place, _) = choose(DeviceArg::Cuda(2), Precision::Bf16, gpu).unwrap();
        assert!(matches!(place, Place::Cuda(Gpu { index: 2, .. }, Precision::Bf16)));
    }

    #[test]
    fn sixteen_bits_are_refused_on_the_cpu() {
        for precision in [Precision::F16, Precision::Bf16] {
            let error = choose(DeviceArg::Cpu, precision, gpu).unwrap_err();
            assert!(
                error.contains(precision.as_str()) && error.contains("--device cuda"),
                "{error}"
            );
            assert!(choose(DeviceArg::Auto, precision, without(Reason::NotBuilt)).is_err());
        }
        assert!(choose(DeviceArg::Cpu, Precision::Tf32, gpu).is_ok());
    }

    #[test]
    fn the_log_says_which_kind_of_f32_it_is() {
        let place = |p| Place::Cuda(gpu(0).unwrap(), p).describe();
        assert!(place(Precision::F32).contains("strict"));
        assert!(place(Precision::Tf32).contains("TF32"));
    }
}
