//! The driver's management library: what cards there are and how busy they are. It is opened at run time.

use std::sync::OnceLock;

use nvml_wrapper::error::NvmlError;
use nvml_wrapper::{Device, Nvml};

use crate::found::Driver;
use crate::visible::{Card, card};
use crate::{Gauge, Gpu, Usage};

/// Opened once; a driver that is not there now is not there later either.
fn library() -> Result<&'static Nvml, String> {
    static LIBRARY: OnceLock<Result<Nvml, String>> = OnceLock::new();
    // The driver installs the second name; the first comes with the toolkit, if at all.
    let open = || {
        let versioned = |_| Nvml::builder().lib_path("libnvidia-ml.so.1".as_ref()).init();
        Nvml::init().or_else(versioned).map_err(|error| error.to_string())
    };
    LIBRARY.get_or_init(open).as_ref().map_err(Clone::clone)
}

fn device(nvml: &'static Nvml, index: u32) -> Option<Device<'static>> {
    let variable = std::env::var("CUDA_VISIBLE_DEVICES").ok();
    match card(variable.as_deref(), index)? {
        Card::Index(n) => nvml.device_by_index(n).ok(),
        Card::Uuid(uuid) => nvml.device_by_uuid(uuid).ok(),
    }
}

/// The driver's version, how many cards CUDA sees, and name and memory of one of them.
pub(super) fn driver(index: u32) -> Result<Driver, String> {
    let nvml = library()?;
    let said = |error: NvmlError| error.to_string();
    let version = nvml.sys_driver_version().map_err(said)?;
    let all = nvml.device_count().map_err(said)?;
    let count = (0..all).take_while(|&i| device(nvml, i).is_some()).count();
    let card = match device(nvml, index) {
        None => None,
        Some(device) => {
            let memory = device.memory_info().map_err(said)?;
            Some((device.name().map_err(said)?, memory.total))
        }
    };
    let count = count as u32;
    Ok(Driver { version, count, card })
}

/// A gauge of the GPU; `None` where the driver does not let it be read.
pub fn usage(gpu: &Gpu) -> Option<Gauge> {
    let nvml = library().ok()?;
    let index = gpu.index;
    let read = move || {
        let device = device(nvml, index)?;
        let memory = device.memory_info().ok()?;
        let busy = device.utilization_rates().ok()?;
        Some(Usage {
            utilisation: f64::from(busy.gpu) / 100.0,
            used: memory.used,
            total: memory.total,
        })
    };
    read()?;
    Some(Box::new(read))
}
