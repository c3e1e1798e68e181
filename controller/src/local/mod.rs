//! The local platform: replicas are child processes of this one, `pilotlight runtime ...`, each on a loopback listener that
//! it inherits already listening, so that no two can race for a port and a probe may connect before the process runs.
//!
//! - `process` builds the command line, the inherited descriptors and the environment.
//! - `lifeline` is the pipe whose other end is ours: its end of file tells a child that we are gone, however we went.
//! - `logs` keeps the last lines of each workload's stderr.
//! - `gpus` says which GPUs a child sees.
//! - `supervise` runs one child from its start to its end.
//! - `outbox` merges what changed into events.
//!
//! It decides nothing: which replicas there should be is the reconciler's business.

mod gpus;
mod lifeline;
mod logs;
mod outbox;
mod process;
mod supervise;

use std::{
    collections::{BTreeMap, HashMap},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use futures_util::{FutureExt, StreamExt, future::BoxFuture, stream::BoxStream};
use parking_lot::Mutex;
use pilotlight_activator::{BackendId, Endpoint, EndpointId, EndpointState, Protocol, WakeReason};
use tokio::{
    sync::{Semaphore, watch},
    time::Instant,
};
use tokio_util::sync::CancellationToken;

pub(crate) use self::{
    gpus::gpus_here,
    lifeline::{LIFELINE_FD, Lifeline},
    process::{command, map},
};
use self::{
    gpus::{Cards, Gpus},
    logs::LogRing,
    outbox::Outbox,
    process::Listener,
    supervise::supervise,
};
use crate::{
    config::LocalConfig,
    error::Error,
    platform::{Exit, ExitCause, LogLine, Platform, PlatformEvent, Replica, Workload},
    workload::probe,
};

/// Runs replicas as child processes. Cheap to clone; all clones are one platform. [`Platform::shutdown`] ends them in order;
/// without it they are killed with the tokio runtime that supervises them, or end by themselves with this process.
#[derive(Clone)]
pub struct LocalPlatform {
    inner: Arc<Inner>,
}

struct Inner {
    config: LocalConfig,
    lifeline: Lifeline,
    runtime: tokio::runtime::Handle,
    spawns: Semaphore,
    gpus: Arc<Gpus>,
    state: Mutex<State>,
    outbox: Outbox,
    processes: watch::Sender<usize>,
    numbers: AtomicU64,
    kill: CancellationToken,
}

#[derive(Default)]
struct State {
    closed: bool,
    workloads: HashMap<BackendId, Held>,
}

/// A workload and its processes.
struct Held {
    /// `None` once it was removed and its replicas are on their way out.
    workload: Option<Workload>,
    replicas: BTreeMap<EndpointId, Process>,
    logs: Arc<LogRing>,
}

struct Process {
    replica: Replica,
    end: CancellationToken,
}

impl LocalPlatform {
    /// Has to be called within a tokio runtime, on which the children are supervised. Fails where no pipe can be made.
    pub fn new(config: LocalConfig) -> Result<Self, Error> {
        let inner = Inner {
            lifeline: Lifeline::new()?,
            runtime: tokio::runtime::Handle::current(),
            spawns: Semaphore::new(config.concurrent_spawns.max(1)),
            gpus: Gpus::new(config.gpus.clone()),
            state: Mutex::default(),
            outbox: Outbox::default(),
            processes: watch::Sender::new(0),
            numbers: AtomicU64::new(1),
            kill: CancellationToken::new(),
            config,
        };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// Child processes alive now, ending ones included.
    pub fn processes(&self) -> usize {
        *self.inner.processes.borrow()
    }
}

impl Inner {
    /// Starts one replica, or says why not.
    fn start(self: &Arc<Self>, state: &mut State, id: &BackendId) {
        let Some(held) = state.workloads.get_mut(id) else {
            return;
        };
        let Some(workload) = held.workload.clone() else { return };
        let number = self.numbers.fetch_add(1, Ordering::Relaxed);
        let endpoint = EndpointId::new(format!(
            "{}-{}-{number}",
            id.as_str().replace('/', "."),
            workload.revision
        ));
        match self.listen(&workload, &endpoint) {
            Ok((listener, replica, cards)) => {
                let end = CancellationToken::new();
                held.replicas.insert(
                    endpoint,
                    Process {
                        replica: replica.clone(),
                        end: end.clone(),
                    },
                );
                self.processes.send_modify(|processes| *processes += 1);
                let logs = held.logs.clone();
                self.runtime
                    .spawn(supervise(self.clone(), workload, replica, (listener, cards), logs, end));
                self.outbox.changed(id);
            }
            Err((reason, message)) => {
                let cause = ExitCause::Refused { reason, message };
                self.outbox.exited(
                    id,
                    Exit {
                        endpoint,
                        revision: workload.revision,
                        cause,
                    },
                );
            }
        }
    }

    /// The listener of a new replica, how it is announced, and its GPUs.
    fn listen(
        &self,
        workload: &Workload,
        id: &EndpointId,
    ) -> Result<(Listener, Replica, Option<Cards>), (WakeReason, String)> {
        let most = self.config.max_processes;
        if *self.processes.borrow() >= most {
            let message = format!(
                "all {most} runtime processes of this machine are in use; raise the limit (--max-processes) or lower \
                 minReplicas and maxReplicas of other services"
            );
            return Err((WakeReason::NoCapacity, message));
        }
        let cards = self.gpus.take(workload.runtime.devices.gpus);
        let cards = cards.map_err(|message| (WakeReason::NoCapacity, message))?;
        let probe = probe(&workload.runtime.model).ok_or_else(|| {
            (
                WakeReason::PlatformError,
                "the model's name doesn't fit a path".to_owned(),
            )
        })?;
        let listener = Listener::bind().map_err(|error| process::refusal("opening a loopback listener", &error))?;
        let endpoint = Endpoint {
            id: id.clone(),
            address: listener.address,
            protocol: Protocol::H1,
            server_name: None,
            capacity: workload.capacity,
            initial_capacity: workload.initial_capacity,
            probe,
            state: EndpointState::Starting,
            started: Instant::now(),
        };
        Ok((
            listener,
            Replica {
                endpoint,
                revision: workload.revision.clone(),
            },
            cards,
        ))
    }

    /// A supervised process is no more.
    fn ended(&self, id: &BackendId, exit: Exit) {
        let mut state = self.state.lock();
        if let Some(held) = state.workloads.get_mut(id) {
            held.replicas.remove(&exit.endpoint);
            if held.workload.is_none() && held.replicas.is_empty() {
                state.workloads.remove(id);
            }
        }
        // Under the lock, so that an event never shows fewer replicas than it has exits.
        self.outbox.exited(id, exit);
        drop(state);
        self.processes.send_modify(|processes| *processes -= 1);
    }

    /// Marks a replica as ending and tells its supervisor.
    fn end(process: &mut Process) {
        process.replica.endpoint.state = EndpointState::Draining;
        process.end.cancel();
    }

    fn replicas(&self, id: &BackendId) -> Vec<Replica> {
        let state = self.state.lock();
        let held = state.workloads.get(id);
        held.map(|held| held.replicas.values().map(|process| process.replica.clone()).collect())
            .unwrap_or_default()
    }
}

impl Platform for LocalPlatform {
    fn apply(&self, workload: Workload) {
        let mut state = self.inner.state.lock();
        let config = &self.inner.config;
        let held = state.workloads.entry(workload.id.clone()).or_insert_with(|| Held {
            workload: None,
            replicas: BTreeMap::new(),
            logs: Arc::new(LogRing::new(config.log_bytes)),
        });
        held.workload = Some(workload);
    }

    fn scale(&self, id: &BackendId, n: u32) {
        let mut state = self.inner.state.lock();
        if state.closed {
            return;
        }
        let Some(held) = state.workloads.get(id) else { return };
        let Some(workload) = &held.workload else { return };
        let alike = |process: &&Process| {
            process.replica.revision == workload.revision && process.replica.endpoint.state != EndpointState::Draining
        };
        let have = held.replicas.values().filter(alike).count() as u32;
        for _ in have..n {
            self.inner.start(&mut state, id);
        }
    }

    fn end(&self, id: &BackendId, replica: &EndpointId) {
        let mut state = self.inner.state.lock();
        let process = state
            .workloads
            .get_mut(id)
            .and_then(|held| held.replicas.get_mut(replica));
        if let Some(process) = process {
            Inner::end(process);
            self.inner.outbox.changed(id);
        }
    }

    fn remove(&self, id: &BackendId) {
        let mut state = self.inner.state.lock();
        let Some(held) = state.workloads.get_mut(id) else {
            return;
        };
        held.workload = None;
        held.replicas.values_mut().for_each(Inner::end);
        if held.replicas.is_empty() {
            state.workloads.remove(id);
        } else {
            self.inner.outbox.changed(id);
        }
    }

    fn next_event(&self) -> BoxFuture<'_, PlatformEvent> {
        async move {
            let (backend, exits) = self.inner.outbox.next().await;
            PlatformEvent {
                replicas: self.inner.replicas(&backend),
                backend,
                exits,
            }
        }
        .boxed()
    }

    fn logs(&self, id: &BackendId, tail: usize, follow: bool) -> BoxStream<'static, LogLine> {
        let logs = self.inner.state.lock().workloads.get(id).map(|held| held.logs.clone());
        match logs {
            Some(logs) => logs.read(tail, follow).boxed(),
            None => futures_util::stream::empty().boxed(),
        }
    }

    fn shutdown(&self, limit: Duration) -> BoxFuture<'_, ()> {
        {
            let mut state = self.inner.state.lock();
            state.closed = true;
            for process in state.workloads.values_mut().flat_map(|held| held.replicas.values_mut()) {
                Inner::end(process);
            }
        }
        async move {
            let mut processes = self.inner.processes.subscribe();
            let gone = async |processes: &mut watch::Receiver<usize>| {
                // The sender lives in this platform, so it can't be gone.
                let _ = processes.wait_for(|processes| *processes == 0).await;
            };
            if tokio::time::timeout(limit, gone(&mut processes)).await.is_err() {
                self.inner.kill.cancel();
                gone(&mut processes).await;
            }
        }
        .boxed()
    }
}

#[cfg(test)]
mod tests;
