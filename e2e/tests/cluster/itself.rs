//! The cluster that all other stories stand on: it ends with whoever started it, and does not notice another one beside it.

use std::{
    fs,
    path::Path,
    process::{Child, Command, Stdio},
};

use pilotlight_e2e::{LIMIT, cluster::Cluster, places, processes, until};
use rustix::process::Signal;

#[tokio::test]
async fn a_second_cluster_stands_beside_the_first_and_ends_with_its_parent() {
    let first = Cluster::shared();
    let folder = tempfile::Builder::new()
        .prefix("pilotlight-cluster-")
        .tempdir()
        .unwrap();
    for signal in [Signal::TERM, Signal::KILL] {
        let mut second = up(folder.path());
        until("the second cluster is ready", LIMIT, async || {
            folder.path().join("ready").exists()
        })
        .await;
        let pid = fs::read_to_string(folder.path().join("pid")).unwrap();
        let network = fs::read_link(format!("/proc/{}/ns/net", pid.trim())).unwrap();

        processes::signal(second.id(), signal);
        second.wait().unwrap();
        until("no process of it is left", LIMIT, async || !lives_in(&network)).await;
        fs::remove_dir_all(folder.path()).ok();
    }
    let nodes = first.kubectl().must("get nodes").await;
    assert!(nodes.contains(" Ready"), "{nodes}");
}

fn up(folder: &Path) -> Child {
    Command::new(places::root().join("e2e/cluster/up"))
        .arg(folder)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

fn lives_in(network: &Path) -> bool {
    let entries = fs::read_dir("/proc").unwrap().flatten();
    entries
        .map(|entry| entry.path().join("ns/net"))
        .any(|link| fs::read_link(link).is_ok_and(|found| found == network))
}
