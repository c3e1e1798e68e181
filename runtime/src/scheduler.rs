//! Requests to runs: the queue behind a lock, the batch former over it, and one device that takes what it decides.
//!
//! Whoever changes something asks the batch former at once: the handler that submits, the executor that finishes, the timer.
//! There is no task in between, so an idle device starts within the handler's own step. The clock is read here only.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use parking_lot::Mutex;
use pilotlight_engine::{Data, Tensor};
use tokio::sync::{oneshot, watch};
use tokio::time::{Instant, sleep_until, timeout_at};

use crate::batch::{Arrival, Decision, Device as DeviceState, Priority, Queue, Terms, Ticket, decide, forecast};
use crate::config::Config;
use crate::error::InferError;
use crate::metrics::{Drop as DropReason, Metrics};
use crate::served::{Key, Served};

/// Where runs go. `start` is called only while the device is idle, must return at once and must, in the end, execute or drop
/// the run; a dropped run frees the device as well.
pub(crate) trait Device: Send + Sync + 'static {
    /// Takes a run.
    fn start(&self, run: Run);
}

/// The queue of one device. Clones share it.
#[derive(Clone)]
pub struct Scheduler {
    inner: Arc<Inner>,
}

struct Inner {
    state: Mutex<State>,
    options: Options,
    queue_size: usize,
    queue_bytes: usize,
    device: Box<dyn Device>,
    metrics: Arc<Metrics>,
    /// When the batch former wants to be asked again.
    timer: watch::Sender<Option<Instant>>,
}

/// What the batch former is told.
struct Options {
    max_batch_size: usize,
    max_latency: Duration,
    priority_levels: u32,
    default_priority: u32,
    preferred: Vec<usize>,
    adaptive: bool,
}

#[derive(Default)]
struct State {
    queue: Queue<Key, Job>,
    /// Sum over the queue.
    bytes: usize,
    busy: bool,
    /// When the device is done with what it runs, where that can be told.
    free: Option<Instant>,
}

/// What a run gave one request.
#[derive(Debug)]
pub struct Answer {
    /// In the signature's order.
    pub outputs: Vec<Tensor>,
    /// Rows of the batch it ran in.
    pub batch_rows: usize,
    /// Where its time went.
    pub timings: Timings,
}

/// Time of a request between the queue's door and its answer.
#[derive(Clone, Copy, Debug, Default)]
pub struct Timings {
    /// From the queue's door to the run.
    pub queue: Duration,
    /// Putting the batch together.
    pub input: Duration,
    /// The model's run.
    pub compute: Duration,
    /// Taking the batch apart.
    pub output: Duration,
}

/// One request, as the device sees it.
pub(crate) struct Job {
    pub(crate) served: Arc<Served>,
    pub(crate) inputs: Vec<Tensor>,
    pub(crate) rows: usize,
    /// Elements of its inputs.
    pub(crate) work: u64,
    pub(crate) queued: Instant,
    bytes: usize,
    limit: Duration,
    reply: oneshot::Sender<Result<Answer, InferError>>,
}

impl Job {
    /// Answers. A client that left in the meantime is no fault.
    pub(crate) fn answer(self, result: Result<Answer, InferError>) {
        let _ = self.reply.send(result);
    }
}

/// A batch on its way to the device. Dropping it, finished or not, frees the device.
pub(crate) struct Run {
    pub(crate) served: Arc<Served>,
    pub(crate) jobs: Vec<Job>,
    pub(crate) taken: Instant,
    pub(crate) completion: Completion,
}

/// Keeps the device busy while it lives.
pub(crate) struct Completion {
    inner: Option<Arc<Inner>>,
    requests: usize,
}

impl Completion {
    /// Frees the device and gives back its next run, which the caller then owns.
    pub(crate) fn finish(mut self) -> Option<Run> {
        self.inner.take().and_then(|inner| inner.release(self.requests))
    }
}

impl Drop for Completion {
    fn drop(&mut self) {
        if let Some(inner) = self.inner.take()
            && let Some(next) = inner.release(self.requests)
        {
            inner.device.start(next);
        }
    }
}

/// A request that is being received. Its batch may wait for it; dropping it says that it will not come.
pub struct Open {
    inner: Arc<Inner>,
    served: Arc<Served>,
}

impl Drop for Open {
    fn drop(&mut self) {
        self.served.open.fetch_sub(1, Ordering::AcqRel);
        // Others may have waited for this one. With no waiting for others there is nothing to reconsider.
        if !self.inner.options.max_latency.is_zero() {
            self.inner.pump();
        }
    }
}

/// A request that is to run.
#[derive(Debug)]
pub struct Request {
    /// In the signature's order.
    pub inputs: Vec<Tensor>,
    /// When it reached the runtime.
    pub arrived: Instant,
    /// When its answer is of no use any more.
    pub deadline: Instant,
    /// 1 is the highest; 0, and what is past the configured levels, is the default one.
    pub priority: u32,
}

impl Scheduler {
    /// A scheduler for `device`. Needs a tokio runtime for its timer, which ends with the last clone.
    pub(crate) fn new(config: &Config, device: impl Device, metrics: Arc<Metrics>) -> Self {
        let (timer, due) = watch::channel(None);
        let inner = Arc::new(Inner {
            state: Mutex::default(),
            options: Options {
                max_batch_size: config.max_batch_size,
                max_latency: config.max_latency,
                priority_levels: config.priority_levels,
                default_priority: config.default_priority,
                preferred: config.preferred_batch_sizes.clone(),
                adaptive: config.adaptive_batching,
            },
            queue_size: config.queue_size,
            queue_bytes: config.queue_bytes,
            device: Box::new(device),
            metrics,
            timer,
        });
        let weak = Arc::downgrade(&inner);
        tokio::spawn(run_timer(due, move || weak.upgrade().map(|inner| inner.pump())));
        Self { inner }
    }

    /// Announces a request whose body is still to come.
    pub fn open(&self, served: &Arc<Served>) -> Open {
        served.open.fetch_add(1, Ordering::AcqRel);
        Open {
            inner: Arc::clone(&self.inner),
            served: Arc::clone(served),
        }
    }

    /// Requests that wait.
    pub fn waiting(&self) -> usize {
        self.inner.state.lock().queue.len()
    }

    /// Whether one more request of this model would be refused now; lets a face refuse before it reads the body.
    ///
    /// # Errors
    /// `InferError::QueueFull`.
    pub fn admit(&self, served: &Served) -> Result<(), InferError> {
        let admitted = self.inner.place_for(served);
        if admitted.is_err() {
            served.metrics.dropped(DropReason::QueueFull);
        }
        admitted
    }

    /// Queues a request and closes its announcement. Dropping what this returns takes the request out of the queue again;
    /// one that is already on the device runs to its end and its answer is thrown away.
    ///
    /// # Errors
    /// `InferError::QueueFull`, `QueueBytesFull` or `Unreachable`, at once.
    pub fn submit(&self, open: Open, request: Request) -> Result<Pending, InferError> {
        let served = Arc::clone(&open.served);
        let pending = self.inner.enqueue(&served, request);
        // Closes the announcement (and asks the batch former) only now that the request stands in the queue.
        drop(open);
        if pending.is_ok() {
            self.inner.pump();
        }
        pending
    }
}

impl Inner {
    fn enqueue(self: &Arc<Self>, served: &Arc<Served>, request: Request) -> Result<Pending, InferError> {
        let (key, rows) = Key::of(served, &request.inputs);
        let work = request.inputs.iter().map(|tensor| tensor.data().len() as u64).sum();
        let bytes = request.inputs.iter().map(size_of_tensor).sum();
        let limit = request.deadline.saturating_duration_since(request.arrived);
        let (reply, answer) = oneshot::channel();
        let job = Job {
            served: Arc::clone(served),
            inputs: request.inputs,
            rows,
            work,
            queued: Instant::now(),
            bytes,
            limit,
            reply,
        };
        let arrival = Arrival {
            rows,
            work,
            priority: self.priority(request.priority),
            arrived: request.arrived,
            deadline: request.deadline,
        };
        let mut state = self.state.lock();
        if let Err(full) = self.room_for(&state, served, bytes) {
            served.metrics.dropped(DropReason::QueueFull);
            return Err(full);
        }
        if let Err(late) = self.in_time(&state, &key, &arrival, limit) {
            served.metrics.dropped(DropReason::Unreachable);
            return Err(late);
        }
        let ticket = state.queue.push(key.clone(), arrival, job);
        state.bytes += bytes;
        served.waits(1);
        self.metrics.queue_size.inc();
        drop(state);
        Ok(Pending {
            inner: Arc::clone(self),
            key,
            ticket,
            answer,
            deadline: request.deadline,
            limit,
            settled: false,
        })
    }

    /// Each model has a queue of its own, so that a busy one takes no other's places.
    fn place_for(&self, served: &Served) -> Result<(), InferError> {
        if served.waiting() < self.queue_size {
            return Ok(());
        }
        Err(InferError::QueueFull { limit: self.queue_size })
    }

    /// Memory is the process's, so bytes are counted over all models.
    fn room_for(&self, state: &State, served: &Served, bytes: usize) -> Result<(), InferError> {
        self.place_for(served)?;
        if !state.queue.is_empty() && state.bytes.saturating_add(bytes) > self.queue_bytes {
            return Err(InferError::QueueBytesFull {
                limit: self.queue_bytes,
            });
        }
        Ok(())
    }

    /// The level that a request gets.
    fn priority(&self, asked: u32) -> Priority {
        let known = (1..=self.options.priority_levels).contains(&asked);
        Priority(if known { asked } else { self.options.default_priority })
    }

    /// Whether the request can be answered by its deadline, as far as costs are known. One that finds the device idle and nobody
    /// waiting always can: it harms nobody, and its run corrects a cost that was learned wrong.
    fn in_time(&self, state: &State, key: &Key, arrival: &Arrival, limit: Duration) -> Result<(), InferError> {
        if !self.options.adaptive || (!state.busy && state.queue.is_empty()) {
            return Ok(());
        }
        let now = Instant::now();
        let free = state.free.unwrap_or(now);
        match forecast(&state.queue, now, free, key, arrival, |key| self.terms(key)) {
            Some(done) if done > arrival.deadline => Err(InferError::Unreachable {
                expected: done.saturating_duration_since(arrival.arrived),
                limit,
            }),
            _ => Ok(()),
        }
    }

    /// Starts what is due.
    fn pump(self: &Arc<Self>) {
        let run = self.next(&mut self.state.lock());
        if let Some(run) = run {
            self.device.start(run);
        }
    }

    /// The device is done.
    fn release(self: &Arc<Self>, requests: usize) -> Option<Run> {
        self.metrics.active_inferences.sub(requests as i64);
        let mut state = self.state.lock();
        state.busy = false;
        state.free = None;
        self.next(&mut state)
    }

    /// Asks the batch former and takes what it decides.
    fn next(self: &Arc<Self>, state: &mut State) -> Option<Run> {
        if state.busy || state.queue.is_empty() {
            return None;
        }
        let now = Instant::now();
        for job in state.queue.expire(now) {
            state.bytes -= job.bytes;
            job.served.metrics.dropped(DropReason::Deadline);
            self.metrics.queue_size.dec();
            job.served.waits(-1);
            let limit = job.limit;
            job.answer(Err(InferError::Timeout { limit }));
        }
        match decide(&state.queue, now, DeviceState::Idle, |key| self.terms(key)) {
            Decision::Take { key, count } => Some(self.take(state, &key, count, now)),
            Decision::WaitUntil(at) => {
                self.timer.send_if_modified(|due| due.replace(at) != Some(at));
                None
            }
            Decision::Idle => None,
        }
    }

    fn terms(&self, key: &Key) -> Terms<'_> {
        let together = !key.alone && key.served.batchable();
        let options = &self.options;
        Terms {
            max_rows: if together { options.max_batch_size } else { 1 },
            max_latency: options.max_latency,
            open: key.served.open.load(Ordering::Acquire),
            preferred: if together { &options.preferred } else { &[] },
            cost: if options.adaptive { key.served.cost() } else { None },
        }
    }

    fn take(self: &Arc<Self>, state: &mut State, key: &Key, count: usize, now: Instant) -> Run {
        let jobs: Vec<Job> = state.queue.take(key, count).into_iter().map(|w| w.job).collect();
        state.busy = true;
        state.bytes -= jobs.iter().map(|j| j.bytes).sum::<usize>();
        if let Some(cost) = self.terms(key).cost {
            state.free = Some(now + cost.time(jobs.iter().map(|j| j.work).sum()));
        }
        let requests = jobs.len();
        key.served.waits(-(requests as isize));
        self.metrics.queue_size.sub(requests as i64);
        self.metrics.active_inferences.add(requests as i64);
        Run {
            served: Arc::clone(&key.served),
            jobs,
            taken: now,
            completion: Completion {
                inner: Some(Arc::clone(self)),
                requests,
            },
        }
    }
}

/// A request in the queue or on the device.
pub struct Pending {
    inner: Arc<Inner>,
    key: Key,
    ticket: Ticket,
    answer: oneshot::Receiver<Result<Answer, InferError>>,
    deadline: Instant,
    limit: Duration,
    settled: bool,
}

impl Pending {
    /// Waits for the answer, at most until the deadline.
    ///
    /// # Errors
    /// What the run made of it, or `InferError::Timeout`, after which the request is in no queue any more.
    pub async fn wait(mut self) -> Result<Answer, InferError> {
        let Ok(answer) = timeout_at(self.deadline, &mut self.answer).await else {
            self.leave(DropReason::Deadline);
            return Err(InferError::Timeout { limit: self.limit });
        };
        self.settled = true;
        answer.unwrap_or_else(|_| Err(InferError::Broken("the run was lost".to_owned())))
    }

    fn leave(&mut self, reason: DropReason) {
        self.settled = true;
        let mut state = self.inner.state.lock();
        if let Some(job) = state.queue.remove(&self.key, self.ticket) {
            state.bytes -= job.bytes;
            self.key.served.metrics.dropped(reason);
            self.inner.metrics.queue_size.dec();
            self.key.served.waits(-1);
        }
    }
}

impl Drop for Pending {
    fn drop(&mut self) {
        if !self.settled {
            self.leave(DropReason::Cancelled);
        }
    }
}

/// Calls `tick` whenever the time in `due` has come. Ends when the sender or what `tick` works on is gone.
async fn run_timer(mut due: watch::Receiver<Option<Instant>>, tick: impl Fn() -> Option<()>) {
    loop {
        let at = *due.borrow_and_update();
        let Some(at) = at else {
            if due.changed().await.is_err() {
                return;
            }
            continue;
        };
        tokio::select! {
            changed = due.changed() => if changed.is_err() { return },
            () = sleep_until(at) => {
                // Forget the time unless a new one has come in the meantime; the tick sets the next.
                if tick().is_none() {
                    return;
                }
                if due.has_changed().is_ok_and(|changed| !changed) && due.changed().await.is_err() {
                    return;
                }
            }
        }
    }
}

fn size_of_tensor(tensor: &Tensor) -> usize {
    match tensor.data() {
        Data::Bytes(items) => items.iter().map(|item| item.len() + size_of::<bytes::Bytes>()).sum(),
        data => pilotlight_engine::each_data!(data, v => size_of_val(v.as_slice())),
    }
}
