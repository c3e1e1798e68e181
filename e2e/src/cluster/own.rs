//! A cluster of our own: the processes of `e2e/cluster/up`, which end with this one.

use std::{
    fs::{self, File},
    io,
    os::fd::AsFd as _,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use super::kubectl::Kubectl;
use crate::places;

/// The image with the binary under test.
pub(super) const IMAGE: &str = "localhost/pilotlight:e2e";

/// Go builds Kubernetes at the first start; every later one takes ten seconds.
const START_LIMIT: Duration = Duration::from_mins(40);

/// A cluster that lives as long as this process.
#[derive(Debug)]
pub struct Own {
    folder: PathBuf,
    /// The network namespace. Open, so that it can't become another one's under the same process id.
    network: File,
    /// Name of the cgroup that all pods are in.
    name: String,
    /// Holds the pipe whose end is the end of the cluster.
    _up: Child,
}

impl Own {
    pub(super) fn start() -> Result<Self, String> {
        let folder = folder().map_err(|error| format!("no folder for its state: {error}"))?;
        let archive = folder.join("pilotlight.tar");
        pack(&places::binary(), &archive)?;
        let said = folder.join("up.log");
        let log = File::create(&said).map_err(|error| error.to_string())?;
        let mut up = Command::new(script("up"))
            .args([&folder, &archive])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .map_err(|error| format!("{}: {error}", script("up").display()))?;
        wait(&mut up, &folder, &said)?;
        let read = |name| fs::read_to_string(folder.join(name)).map_err(|error| format!("{name}: {error}"));
        let (pid, name) = (read("pid")?, read("name")?);
        let network = File::open(format!("/proc/{}/ns/net", pid.trim()));
        Ok(Self {
            network: network.map_err(|error| format!("its network: {error}"))?,
            name: name.trim().to_owned(),
            folder,
            _up: up,
        })
    }

    /// Moves the calling thread into the cluster's network.
    pub(super) fn enter(&self) -> Result<(), String> {
        let entered = move_into_link_name_space(self.network.as_fd(), Some(LinkNameSpaceType::Network));
        entered.map_err(|error| format!("the cluster's network can't be entered: {error}"))
    }

    pub(super) fn kubectl(&self) -> Kubectl {
        let program = Command::new(script("build")).output().expect("it was run by `up`");
        let programs = PathBuf::from(String::from_utf8_lossy(&program.stdout).trim());
        Kubectl::new(programs.join("kubectl"), self.folder.join("kubeconfig").into())
    }

    pub(super) fn models(&self) -> PathBuf {
        self.folder.join("models")
    }

    /// The process of the API server. It is started again when it ends.
    pub fn api_server(&self) -> u32 {
        let ours = |pid: u32| {
            let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            let name = line.split(|byte| *byte == 0).next().unwrap_or_default();
            name.ends_with(b"kube-apiserver") && self.is_in_network(pid)
        };
        pids().find(|pid| ours(*pid)).expect("the API server runs")
    }

    /// The process of the program `name` in the pod of this uid: `pilotlight`, or `pause`, the sandbox's. `None` once it has ended.
    pub fn process_of(&self, pod: &str, name: &str) -> Option<u32> {
        let program = format!("/{name}\0").into_bytes();
        let cgroup = format!("pod{pod}");
        let ours = |pid: u32| {
            let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            let group = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap_or_default();
            line.starts_with(&program) && group.contains(&self.name) && group.contains(&cgroup)
        };
        pids().find(|pid| ours(*pid))
    }

    fn is_in_network(&self, pid: u32) -> bool {
        use std::os::unix::fs::MetadataExt as _;
        let theirs = fs::metadata(format!("/proc/{pid}/ns/net"));
        let ours = self.network.metadata();
        matches!((theirs, ours), (Ok(a), Ok(b)) if a.ino() == b.ino())
    }
}

/// A folder that `up` removes when it ends, with the models in it.
fn folder() -> io::Result<PathBuf> {
    let folder = tempfile::Builder::new().prefix("pilotlight-cluster-").tempdir()?.keep();
    let models = folder.join("models");
    fs::create_dir(&models)?;
    for from in ["manifests/examples", "e2e/fixtures"] {
        for entry in fs::read_dir(places::root().join(from))? {
            let path = entry?.path();
            if let (Some("onnx"), Some(name)) = (path.extension().and_then(|e| e.to_str()), path.file_name()) {
                fs::copy(&path, models.join(name))?;
            }
        }
    }
    Ok(folder)
}

fn pack(binary: &Path, archive: &Path) -> Result<(), String> {
    let output = Command::new(script("image"))
        .arg(archive)
        .arg(IMAGE)
        .arg(binary)
        .arg("--strip")
        .output()
        .map_err(|error| error.to_string())?;
    if output.status.success() {
        Ok(())
    } else {
        Err(format!("no image: {}", String::from_utf8_lossy(&output.stderr)))
    }
}

fn wait(up: &mut Child, folder: &Path, said: &Path) -> Result<(), String> {
    let start = Instant::now();
    while !folder.join("ready").exists() {
        let ended = up.try_wait().map_err(|error| error.to_string())?;
        if ended.is_some() || start.elapsed() > START_LIMIT {
            let said = fs::read_to_string(said).unwrap_or_else(|_| "it said nothing that was kept".to_owned());
            return Err(said);
        }
        thread::sleep(Duration::from_millis(50));
    }
    Ok(())
}

fn script(name: &str) -> PathBuf {
    places::root().join("e2e/cluster").join(name)
}

fn pids() -> impl Iterator<Item = u32> {
    let entries = fs::read_dir("/proc").expect("/proc is mounted").flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok())
}
