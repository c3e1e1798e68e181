//! The processes of the platform as `/proc` shows them.

use std::{
    collections::BTreeSet,
    fs,
    net::{Ipv4Addr, SocketAddr},
    time::Duration,
};

use rustix::process::{Pid, Signal, kill_process};
use tokio::time::Instant;

/// A runtime process: a child of `up` that serves, not one that only checks a model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Runtime {
    /// The process.
    pub pid: u32,
    /// The value of its first `--model`: `NAME=PATH`.
    pub model: String,
}

/// The live children of the process `parent`, checks of models included, in no order. Those that ended and were not yet
/// waited for count: they still occupy a place in the process table.
pub fn children(parent: u32) -> Vec<u32> {
    let pids = fs::read_dir("/proc").expect("/proc is mounted").flatten();
    let pids = pids.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    pids.filter(|&pid| parent_of(pid) == Some(parent)).collect()
}

/// The runtimes among the children of `parent`.
pub fn runtimes(parent: u32) -> Vec<Runtime> {
    children(parent).into_iter().filter_map(runtime).collect()
}

/// Whether the process exists and has not ended.
pub fn alive(pid: u32) -> bool {
    stat(pid).is_some_and(|(state, _)| state != 'Z')
}

/// Sends `signal` to the process `pid`. One that is gone already is no error.
pub fn signal(pid: u32, signal: Signal) {
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw);
    let _ = kill_process(pid.expect("a process id"), signal);
}

/// The resident memory of a process in bytes. Panics when it is gone.
pub fn resident_bytes(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok());
    kib.unwrap_or_else(|| panic!("process {pid} is gone")) * 1024
}

/// The loopback address that the process listens on. `None` before it listens.
pub fn listens_on(pid: u32) -> Option<SocketAddr> {
    let sockets: BTreeSet<String> = fs::read_dir(format!("/proc/{pid}/fd"))
        .ok()?
        .flatten()
        .filter_map(|fd| {
            let target = fs::read_link(fd.path()).ok()?;
            let inode = target.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?;
            Some(inode.to_owned())
        })
        .collect();
    let table = fs::read_to_string("/proc/net/tcp").ok()?;
    table.lines().skip(1).find_map(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        // 0A is the state LISTEN; the tenth field is the socket's inode.
        let (local, state, inode) = (fields.get(1)?, fields.get(3)?, fields.get(9)?);
        if *state != "0A" || !sockets.contains(*inode) {
            return None;
        }
        let port = u16::from_str_radix(local.split(':').nth(1)?, 16).ok()?;
        Some(SocketAddr::from((Ipv4Addr::LOCALHOST, port)))
    })
}

/// When a process was started, to 10 ms. Panics when it is gone.
pub fn started(pid: u32) -> Instant {
    let now = Instant::now();
    let uptime = fs::read_to_string("/proc/uptime").unwrap_or_default();
    let uptime: Option<f64> = uptime.split(' ').next().and_then(|text| text.parse().ok());
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    // The 22nd field, the 20th behind the name: hundredths of a second after boot.
    let ticks = stat
        .rsplit_once(')')
        .and_then(|(_, rest)| rest.split_whitespace().nth(19)?.parse::<f64>().ok());
    let (Some(uptime), Some(ticks)) = (uptime, ticks) else {
        panic!("process {pid} is gone");
    };
    now - Duration::from_secs_f64((uptime - ticks / 100.0).max(0.0))
}

fn runtime(pid: u32) -> Option<Runtime> {
    let line = fs::read_to_string(format!("/proc/{pid}/cmdline")).ok()?;
    let args: Vec<&str> = line.split('\0').collect();
    if args.get(1) != Some(&"runtime") || args.contains(&"--check") {
        return None;
    }
    let model = args.iter().skip_while(|arg| **arg != "--model").nth(1)?;
    Some(Runtime {
        pid,
        model: (*model).to_owned(),
    })
}

fn parent_of(pid: u32) -> Option<u32> {
    stat(pid).map(|(_, parent)| parent)
}

fn stat(pid: u32) -> Option<(char, u32)> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The second field is the program's name in brackets and may hold anything.
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace();
    Some((fields.next()?.chars().next()?, fields.next()?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_child_is_seen_while_it_lives_and_until_it_is_waited_for() {
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        assert!(children(std::process::id()).contains(&child.id()));
        assert!(alive(child.id()));
        assert_eq!(runtime(child.id()), None);

        signal(child.id(), Signal::KILL);
        child.wait().unwrap();
        assert!(!children(std::process::id()).contains(&child.id()));
        assert!(!alive(child.id()));
    }

    #[test]
    fn a_process_was_started_when_it_was() {
        let before = Instant::now();
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let started = started(child.id());
        child.kill().unwrap();
        child.wait().unwrap();
        let coarse = Duration::from_millis(30);
        assert!(started + coarse > before && started < Instant::now() + coarse);
    }

    #[test]
    fn the_address_that_a_process_listens_on_is_found() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let found = listens_on(std::process::id());
        assert_eq!(found, Some(listener.local_addr().unwrap()));
    }
}
