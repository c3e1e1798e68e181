//! `HAProxy` in front of one backend, as plain as it gets.

use std::{
    fs,
    net::{Ipv4Addr, SocketAddr, TcpListener},
    process::{Child, Command, Stdio},
    time::Duration,
};

use tempfile::TempDir;
use tokio::net::TcpStream;

use crate::wait::until;

/// A running `HAProxy`. Dropping it kills the process.
pub struct HaProxy {
    child: Child,
    address: SocketAddr,
    _folder: TempDir,
}

impl HaProxy {
    /// Starts it in front of `backend` and waits until it listens. `None` when it isn't installed.
    ///
    /// HTTP mode with connections kept and shared on both sides, which is what the activator does; as many threads as there
    /// are processors, its default and ours.
    pub async fn start(backend: SocketAddr) -> Option<Self> {
        let folder = TempDir::with_prefix("pilotlight-haproxy-").expect("a temporary folder");
        let address = free_address();
        let config = folder.path().join("haproxy.cfg");
        let text = format!(
            "defaults\n  mode http\n  timeout connect 5s\n  timeout client 60s\n  timeout server 60s\n  http-reuse always\n\
             frontend in\n  bind {address}\n  default_backend out\n\
             backend out\n  server only {backend}\n"
        );
        fs::write(&config, text).expect("the folder is ours");
        let child = Command::new("haproxy")
            // In the foreground, quiet.
            .args(["-db", "-q", "-f"])
            .arg(&config)
            .stdin(Stdio::null())
            .spawn()
            .ok()?;
        let proxy = Self {
            child,
            address,
            _folder: folder,
        };
        until("HAProxy listens", Duration::from_secs(10), async || {
            TcpStream::connect(address).await.is_ok()
        })
        .await;
        Some(proxy)
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for HaProxy {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A free loopback address. Another process may take it before `HAProxy` does, which then fails to start; it knows no way
/// to tell a port that it chose itself.
fn free_address() -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
    listener.local_addr().expect("it is bound")
}
