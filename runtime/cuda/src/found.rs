//! What was found of CUDA, and what follows from it: a decision over the findings of `present::probe`.

use std::fmt;
#[cfg(any(feature = "cuda", test))]
use std::path::PathBuf;

/// A GPU that can be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Gpu {
    /// Its number, as CUDA counts (`CUDA_VISIBLE_DEVICES`).
    pub index: u32,
    /// Its model, for example `NVIDIA H100 80GB HBM3`.
    pub name: String,
    /// The driver's version, for example `580.65.06`.
    pub driver: String,
    /// Bytes of its memory.
    pub memory: u64,
}

/// One thing that is missing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Reason {
    /// The program has no code for it.
    #[error("this program was built without it: build it with `--features cuda`, or take the CUDA image")]
    NotBuilt,
    /// The driver, or its management library.
    #[error(
        "no NVIDIA driver ({0}): install the driver, and in a container give it the GPU (limits of nvidia.com/gpu; `--gpus all`)"
    )]
    Driver(String),
    /// The driver sees fewer.
    #[error("no GPU {index}: {count} can be seen here (CUDA_VISIBLE_DEVICES hides others)")]
    NoGpu {
        /// The number that was asked for.
        index: u32,
        /// How many there are.
        count: u32,
    },
    /// The compiler of kernels.
    #[error("no NVRTC ({0}): install it (Debian and Ubuntu: cuda-nvrtc-13-0) and let LD_LIBRARY_PATH find libnvrtc.so")]
    Nvrtc(String),
    /// What kernels include.
    #[error(
        "no CUDA headers ({0}): install them (Debian and Ubuntu: cuda-cudart-dev-13-0, cuda-crt-13-0 and cuda-cccl-13-0) and set \
         CUDA_PATH to the folder that has include/"
    )]
    Headers(String),
}

/// Why CUDA can't be used: everything that is missing, not only the first of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unavailable(pub Vec<Reason>);

impl fmt::Display for Unavailable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("CUDA can't be used: ")?;
        for (i, reason) in self.0.iter().enumerate() {
            let between = if i == 0 { "" } else { "; " };
            write!(f, "{between}{reason}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Unavailable {}

/// A driver.
#[cfg(any(feature = "cuda", test))]
#[derive(Clone, Debug)]
pub(crate) struct Driver {
    /// Its version.
    pub(crate) version: String,
    /// How many cards CUDA sees.
    pub(crate) count: u32,
    /// Name and bytes of memory of the card that was asked for, where it is one of them.
    pub(crate) card: Option<(String, u64)>,
}

/// What the probes saw.
#[cfg(any(feature = "cuda", test))]
#[derive(Clone, Debug)]
pub(crate) struct Findings {
    /// What the management library says of the driver.
    pub(crate) driver: Result<Driver, String>,
    /// Whether the driver's library could be opened.
    pub(crate) library: Result<(), String>,
    /// Whether the compiler's library could be opened.
    pub(crate) nvrtc: Result<(), String>,
    /// The folder of headers, and those that are not in it.
    pub(crate) headers: Option<(PathBuf, Vec<&'static str>)>,
}

/// Whether that is enough.
#[cfg(any(feature = "cuda", test))]
pub(crate) fn verdict(index: u32, findings: Findings) -> Result<Gpu, Unavailable> {
    let mut reasons = Vec::new();
    let mut gpu = None;
    match (findings.driver, findings.library) {
        (Err(reason), _) | (Ok(_), Err(reason)) => reasons.push(Reason::Driver(reason)),
        (Ok(Driver { version, count, card }), Ok(())) => match card {
            None => reasons.push(Reason::NoGpu { index, count }),
            Some((name, memory)) => {
                gpu = Some(Gpu {
                    index,
                    name,
                    driver: version,
                    memory,
                });
            }
        },
    }
    if let Err(reason) = findings.nvrtc {
        reasons.push(Reason::Nvrtc(reason));
    }
    match findings.headers {
        None => reasons.push(Reason::Headers("neither CUDA_PATH nor /usr/local/cuda".to_owned())),
        Some((folder, missing)) if !missing.is_empty() => {
            let missing = missing.join(", ");
            reasons.push(Reason::Headers(format!("{missing} is not in {}", folder.display())));
        }
        Some(_) => {}
    }
    match gpu {
        Some(gpu) if reasons.is_empty() => Ok(gpu),
        _ => Err(Unavailable(reasons)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fine() -> Findings {
        Findings {
            driver: Ok(Driver {
                version: "580.65.06".into(),
                count: 2,
                card: Some(("NVIDIA H100".into(), 80 << 30)),
            }),
            library: Ok(()),
            nvrtc: Ok(()),
            headers: Some((PathBuf::from("/usr/local/cuda/include"), Vec::new())),
        }
    }

    #[test]
    fn with_everything_there_the_gpu_is_told() {
        let gpu = verdict(1, fine()).expect("nothing is missing");
        assert_eq!(
            (gpu.index, gpu.driver.as_str(), gpu.name.as_str()),
            (1, "580.65.06", "NVIDIA H100")
        );
    }

    #[test]
    fn each_missing_part_is_named_with_its_remedy() {
        let cases = [
            (
                Findings {
                    driver: Err("libnvidia-ml.so: cannot open".into()),
                    ..fine()
                },
                "libnvidia-ml.so",
                "install the driver",
            ),
            (
                Findings {
                    library: Err("libcuda.so.1: cannot open".into()),
                    ..fine()
                },
                "libcuda.so.1",
                "nvidia.com/gpu",
            ),
            (
                Findings {
                    driver: Ok(Driver {
                        version: "580".into(),
                        count: 1,
                        card: None,
                    }),
                    ..fine()
                },
                "no GPU 7: 1 can be seen",
                "CUDA_VISIBLE_DEVICES",
            ),
            (
                Findings {
                    nvrtc: Err("libnvrtc.so: cannot open".into()),
                    ..fine()
                },
                "no NVRTC",
                "cuda-nvrtc",
            ),
            (
                Findings {
                    headers: None,
                    ..fine()
                },
                "no CUDA headers",
                "CUDA_PATH",
            ),
            (
                Findings {
                    headers: Some((PathBuf::from("/x/include"), vec!["mma.h"])),
                    ..fine()
                },
                "mma.h is not in /x/include",
                "cuda-crt",
            ),
        ];
        for (findings, what, remedy) in cases {
            let error = verdict(7, findings).expect_err("something is missing");
            assert_eq!(error.0.len(), 1);
            let text = error.to_string();
            assert!(text.contains(what) && text.contains(remedy), "{text}");
        }
    }

    #[test]
    fn all_that_is_missing_is_said_at_once() {
        let nothing = Findings {
            driver: Err("no libnvidia-ml.so".into()),
            library: Err("no libcuda.so".into()),
            nvrtc: Err("no libnvrtc.so".into()),
            headers: None,
        };
        let text = verdict(0, nothing).expect_err("nothing is there").to_string();
        for part in ["no NVIDIA driver", "no NVRTC", "no CUDA headers"] {
            assert!(text.contains(part), "{text}");
        }
    }
}
