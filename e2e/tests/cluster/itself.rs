//! The cluster that all other stories stand on: it ends with whoever started it, and does not notice another one beside it.

use std::{
    fs,
    path::Path,
    process::{Child, Command, Stdio},
};

use pilotlight_e2e::{
    cluster::{Cluster, PATIENCE},
    places, processes, until,
};
use rustix::process::Signal;

#[tokio::test]
async fn a_second_cluster_stands_beside_the_first_and_ends_with_its_parent() {
    let first = Cluster::shared();
    let folder = tempfile::Builder::new()
        .prefix("pilotlight-cluster-")
        .tempdir()
        .unwrap();
    // One that was killed leaves its folder and its cgroups; the next one frees them.
    for signal in [Signal::KILL, Signal::TERM] {
        fs::remove_file(folder.path().join("ready")).ok();
        let mut second = up(folder.path());
        until("the second cluster is ready", PATIENCE, async || {
            folder.path().join("ready").exists()
        })
        .await;
        let pid = fs::read_to_string(folder.path().join("pid")).unwrap();
        let network = fs::read_link(format!("/proc/{}/ns/net", pid.trim())).unwrap();

        processes::signal(second.id(), signal);
        second.wait().unwrap();
        until("no process of it is left", PATIENCE, async || !lives_in(&network)).await;
    }
    assert!(!folder.path().exists(), "its state is left");
    let nodes = first.kubectl().must("get nodes").await;
    assert!(nodes.contains(" Ready"), "{nodes}");
}

fn up(folder: &Path) -> Child {
    Command::new(places::root().join("e2e/cluster/up"))
        .arg(folder)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .unwrap()
}

fn lives_in(network: &Path) -> bool {
    let entries = fs::read_dir("/proc").unwrap().flatten();
    entries
        .map(|entry| entry.path().join("ns/net"))
        .any(|link| fs::read_link(link).is_ok_and(|found| found == network))
}
