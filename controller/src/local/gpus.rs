//! Which GPUs of the machine a replica is given. A GPU belongs to one replica at a time, as in Kubernetes.

use std::{collections::BTreeSet, path::Path, sync::Arc};

use parking_lot::Mutex;

/// The machine's GPUs and which of them are taken.
#[derive(Debug)]
pub(super) struct Gpus {
    names: Vec<String>,
    taken: Mutex<BTreeSet<usize>>,
}

/// GPUs that belong to one replica, for as long as this lives.
#[derive(Debug)]
pub(super) struct Cards {
    numbers: Vec<usize>,
    of: Arc<Gpus>,
}

impl Gpus {
    pub(super) fn new(names: Vec<String>) -> Arc<Self> {
        Arc::new(Self {
            names,
            taken: Mutex::default(),
        })
    }

    /// Takes that many; `None` for none. The error says what there is too little of.
    pub(super) fn take(self: &Arc<Self>, wanted: u32) -> Result<Option<Cards>, String> {
        if wanted == 0 {
            return Ok(None);
        }
        let mut taken = self.taken.lock();
        let Some(numbers) = choose(self.names.len(), &taken, wanted as usize) else {
            return Err(refusal(self.names.len(), taken.len(), wanted));
        };
        taken.extend(&numbers);
        Ok(Some(Cards {
            numbers,
            of: self.clone(),
        }))
    }
}

impl Cards {
    /// The value of `CUDA_VISIBLE_DEVICES` that shows these and no others.
    pub(super) fn visible(&self) -> String {
        let names = self.numbers.iter().map(|&n| self.of.names[n].as_str());
        names.collect::<Vec<_>>().join(",")
    }
}

impl Drop for Cards {
    fn drop(&mut self) {
        let mut taken = self.of.taken.lock();
        for number in &self.numbers {
            taken.remove(number);
        }
    }
}

/// The first free ones, if there are enough.
fn choose(all: usize, taken: &BTreeSet<usize>, wanted: usize) -> Option<Vec<usize>> {
    let free: Vec<usize> = (0..all).filter(|n| !taken.contains(n)).take(wanted).collect();
    (free.len() == wanted).then_some(free)
}

fn refusal(all: usize, taken: usize, wanted: u32) -> String {
    if (all as u64) < u64::from(wanted) {
        return format!(
            "it asks for {wanted} GPUs (nvidia.com/gpu) and this machine has {all}: lower resources, or run it on another machine"
        );
    }
    format!(
        "{taken} of the {all} GPUs of this machine are taken, and it asks for {wanted}: lower minReplicas or maxReplicas of others"
    )
}

/// The GPUs of this machine.
pub(crate) fn gpus_here() -> Vec<String> {
    let files = std::fs::read_dir(Path::new("/dev")).into_iter().flatten();
    let files = files.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    names(std::env::var("CUDA_VISIBLE_DEVICES").ok().as_deref(), files)
}

/// What the variable shows, else the cards that have a file.
fn names(variable: Option<&str>, files: impl Iterator<Item = String>) -> Vec<String> {
    if let Some(list) = variable {
        let entries = list.split(',').map(str::trim);
        let shown = entries.take_while(|entry| !entry.is_empty() && *entry != "-1");
        return shown.map(str::to_owned).collect();
    }
    let mut cards: Vec<u32> = files
        .filter_map(|name| name.strip_prefix("nvidia")?.parse().ok())
        .collect();
    cards.sort_unstable();
    cards.iter().map(u32::to_string).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gpu_has_one_replica_until_that_ends() {
        let gpus = Gpus::new(vec!["0".into(), "3".into()]);
        let first = gpus.take(1).unwrap().unwrap();
        let second = gpus.take(1).unwrap().unwrap();
        assert_eq!((first.visible().as_str(), second.visible().as_str()), ("0", "3"));
        let refused = gpus.take(1).unwrap_err();
        assert!(refused.contains("2 of the 2 GPUs"), "{refused}");
        drop(first);
        assert_eq!(gpus.take(1).unwrap().unwrap().visible(), "0");
    }

    #[test]
    fn several_are_given_at_once_or_not_at_all() {
        let gpus = Gpus::new(vec!["0".into(), "1".into(), "2".into()]);
        let two = gpus.take(2).unwrap().unwrap();
        assert_eq!(two.visible(), "0,1");
        assert!(gpus.take(2).is_err());
        assert_eq!(
            gpus.take(1).unwrap().unwrap().visible(),
            "2",
            "nothing was taken by the refused one"
        );
    }

    #[test]
    fn who_asks_for_none_takes_none() {
        assert!(Gpus::new(Vec::new()).take(0).unwrap().is_none());
    }

    #[test]
    fn a_machine_without_enough_says_so() {
        let refused = Gpus::new(vec!["0".into()]).take(2).unwrap_err();
        assert!(
            refused.contains("asks for 2 GPUs") && refused.contains("has 1"),
            "{refused}"
        );
    }

    #[test]
    fn cards_are_those_of_the_variable_or_of_the_device_files() {
        let files = || {
            ["nvidia1", "nvidia0", "nvidiactl", "nvidia-uvm", "sda"]
                .map(str::to_owned)
                .into_iter()
        };
        assert_eq!(names(None, files()), ["0", "1"]);
        assert_eq!(names(Some("2,GPU-ab"), files()), ["2", "GPU-ab"]);
        assert_eq!(names(Some(""), files()), [""; 0]);
        assert_eq!(names(Some("-1"), files()), [""; 0]);
    }
}
