use std::collections::HashMap;
use std::time::Duration;

use proptest::prelude::*;
use tokio::time::Instant;

use super::*;

fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}

fn terms(max_rows: usize, max_latency: Duration, open: usize) -> Terms {
    Terms {
        max_rows,
        max_latency,
        open,
    }
}

/// A queue with one request of the given rows each, key `"a"`, arriving a millisecond apart from `start` on.
fn queue_of(rows: &[usize], start: Instant) -> Queue<&'static str, usize> {
    let mut queue = Queue::default();
    for (i, &rows) in rows.iter().enumerate() {
        let at = start + ms(i as u64);
        queue.push("a", rows, at, at + ms(5000), i);
    }
    queue
}

#[test]
fn idle_device_takes_what_waits_at_once_without_max_latency() {
    let now = Instant::now();
    let queue = queue_of(&[1, 1, 1], now);
    let decision = decide(&queue, now + ms(3), Device::Idle, |_| terms(32, Duration::ZERO, 7));
    assert_eq!(decision, Decision::Take { key: "a", count: 3 });
}

#[test]
fn busy_device_takes_nothing() {
    let now = Instant::now();
    let queue = queue_of(&[1], now);
    assert_eq!(
        decide(&queue, now, Device::Busy, |_| terms(32, Duration::ZERO, 0)),
        Decision::Idle
    );
}

#[test]
fn empty_queue_is_idle() {
    let queue = Queue::<&str, ()>::default();
    assert_eq!(
        decide(&queue, Instant::now(), Device::Idle, |_| terms(32, ms(50), 3)),
        Decision::Idle
    );
}

#[test]
fn batch_waits_for_open_requests_until_its_oldest_is_that_old() {
    let now = Instant::now();
    let queue = queue_of(&[1, 1], now);
    let at = |t| decide(&queue, now + ms(t), Device::Idle, |_| terms(32, ms(50), 1));
    assert_eq!(at(1), Decision::WaitUntil(now + ms(50)));
    assert_eq!(at(49), Decision::WaitUntil(now + ms(50)));
    assert_eq!(at(50), Decision::Take { key: "a", count: 2 });
}

#[test]
fn batch_does_not_wait_when_no_other_request_is_open() {
    let now = Instant::now();
    let queue = queue_of(&[1], now);
    assert_eq!(
        decide(&queue, now, Device::Idle, |_| terms(32, ms(50), 0)),
        Decision::Take { key: "a", count: 1 }
    );
}

#[test]
fn full_batch_does_not_wait() {
    let now = Instant::now();
    let queue = queue_of(&[1; 33], now);
    assert_eq!(
        decide(&queue, now, Device::Idle, |_| terms(32, ms(50), 9)),
        Decision::Take { key: "a", count: 32 }
    );
}

#[test]
fn batch_is_full_when_the_next_request_does_not_fit() {
    let now = Instant::now();
    let queue = queue_of(&[20, 10, 3], now);
    assert_eq!(
        decide(&queue, now, Device::Idle, |_| terms(32, ms(50), 9)),
        Decision::Take { key: "a", count: 2 }
    );
}

#[test]
fn request_with_more_rows_than_the_limit_runs_alone() {
    let now = Instant::now();
    let queue = queue_of(&[40, 1], now);
    assert_eq!(
        decide(&queue, now, Device::Idle, |_| terms(32, ms(50), 9)),
        Decision::Take { key: "a", count: 1 }
    );
}

#[test]
fn earliest_deadline_goes_first_and_other_keys_follow() {
    let now = Instant::now();
    let mut queue = Queue::default();
    queue.push("slow", 1, now, now + ms(900), 0);
    queue.push("urgent", 1, now + ms(1), now + ms(100), 1);
    let next = |queue: &Queue<_, _>| decide(queue, now + ms(1), Device::Idle, |_| terms(8, Duration::ZERO, 0));
    assert_eq!(
        next(&queue),
        Decision::Take {
            key: "urgent",
            count: 1
        }
    );
    queue.take(&"urgent", 1);
    assert_eq!(next(&queue), Decision::Take { key: "slow", count: 1 });
}

#[test]
fn a_due_group_runs_though_another_still_waits() {
    let now = Instant::now();
    let mut queue = Queue::default();
    queue.push("filling", 1, now, now + ms(100), 0);
    queue.push("complete", 1, now, now + ms(5000), 1);
    let decision = decide(&queue, now, Device::Idle, |&key| {
        terms(8, ms(50), usize::from(key == "filling"))
    });
    assert_eq!(
        decision,
        Decision::Take {
            key: "complete",
            count: 1
        }
    );
}

#[test]
fn expired_and_removed_requests_are_gone() {
    let now = Instant::now();
    let mut queue = Queue::default();
    let left = queue.push("a", 1, now, now + ms(100), "left");
    queue.push("a", 1, now, now + ms(10), "late");
    queue.push("a", 1, now, now + ms(100), "fine");
    assert_eq!(queue.remove(&"a", left), Some("left"));
    assert_eq!(queue.remove(&"a", left), None);
    assert_eq!(queue.expire(now + ms(10)), vec!["late"]);
    let taken: Vec<_> = queue.take(&"a", 9).into_iter().map(|w| w.job).collect();
    assert_eq!(taken, vec!["fine"]);
    assert!(queue.is_empty());
}

/// What may happen to the batch former.
#[derive(Clone, Debug)]
enum Event {
    Arrive { key: u8, rows: usize, patience: u64 },
    Cancel { nth: usize },
    Pass { ms: u64 },
    Finish,
    Open { count: usize },
}

fn events() -> impl Strategy<Value = Vec<Event>> {
    let event = prop_oneof![
        4 => (0u8..4, 0usize..12, 1u64..400).prop_map(|(key, rows, patience)| Event::Arrive { key, rows, patience }),
        1 => (0usize..50).prop_map(|nth| Event::Cancel { nth }),
        2 => (0u64..60).prop_map(|ms| Event::Pass { ms }),
        3 => Just(Event::Finish),
        1 => (0usize..3).prop_map(|count| Event::Open { count }),
    ];
    proptest::collection::vec(event, 1..200)
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Fate {
    Waiting,
    Ran,
    Cancelled,
    Expired,
}

/// Drives queue and decision as the scheduler does, and checks the promises at every step.
struct Model {
    queue: Queue<u8, usize>,
    tickets: Vec<(u8, Ticket)>,
    rows: Vec<usize>,
    deadlines: Vec<Instant>,
    fate: Vec<Fate>,
    ran: HashMap<u8, Vec<usize>>,
    now: Instant,
    busy: bool,
    open: usize,
    max_rows: usize,
    max_latency: Duration,
}

impl Model {
    fn new(max_rows: usize, max_latency: Duration) -> Self {
        Self {
            queue: Queue::default(),
            tickets: Vec::new(),
            rows: Vec::new(),
            deadlines: Vec::new(),
            fate: Vec::new(),
            ran: HashMap::new(),
            now: Instant::now(),
            busy: false,
            open: 0,
            max_rows,
            max_latency,
        }
    }

    fn apply(&mut self, event: &Event) {
        match *event {
            Event::Arrive { key, rows, patience } => {
                let job = self.fate.len();
                let deadline = self.now + ms(patience);
                let ticket = self.queue.push(key, rows, self.now, deadline, job);
                self.tickets.push((key, ticket));
                self.rows.push(rows.max(1));
                self.deadlines.push(deadline);
                self.fate.push(Fate::Waiting);
            }
            Event::Cancel { nth } => {
                if let Some(&(key, ticket)) = self.tickets.get(nth) {
                    let removed = self.queue.remove(&key, ticket);
                    assert_eq!(
                        removed.is_some(),
                        self.fate[nth] == Fate::Waiting,
                        "a waiting request can always leave"
                    );
                    if removed.is_some() {
                        self.fate[nth] = Fate::Cancelled;
                    }
                }
            }
            Event::Pass { ms: n } => self.now += ms(n),
            Event::Finish => self.busy = false,
            Event::Open { count } => self.open = count,
        }
        self.step();
    }

    fn step(&mut self) {
        if self.busy {
            return;
        }
        for job in self.queue.expire(self.now) {
            assert_eq!(self.fate[job], Fate::Waiting);
            self.fate[job] = Fate::Expired;
        }
        let terms = Terms {
            max_rows: self.max_rows,
            max_latency: self.max_latency,
            open: self.open,
        };
        match decide(&self.queue, self.now, Device::Idle, |_| terms) {
            Decision::Take { key, count } => {
                let taken = self.queue.take(&key, count);
                assert_eq!(taken.len(), count);
                assert!(count > 0);
                let rows: usize = taken.iter().map(|w| w.rows).sum();
                assert!(rows <= self.max_rows || count == 1, "{rows} rows in a batch of {count}");
                for waiting in taken {
                    assert_eq!(self.fate[waiting.job], Fate::Waiting, "only what waits may run");
                    assert!(self.deadlines[waiting.job] > self.now, "nothing runs past its deadline");
                    self.fate[waiting.job] = Fate::Ran;
                    self.ran.entry(key).or_default().push(waiting.job);
                }
                self.busy = true;
            }
            Decision::WaitUntil(at) => {
                assert!(!self.max_latency.is_zero(), "an idle device with work waiting");
                assert!(at > self.now && at <= self.now + self.max_latency);
                assert!(self.open > 0);
            }
            Decision::Idle => assert!(self.queue.is_empty(), "idle though something waits"),
        }
    }

    fn check(&self) {
        let waiting = self.fate.iter().filter(|f| **f == Fate::Waiting).count();
        assert_eq!(self.queue.len(), waiting, "nothing is lost and nothing is invented");
        for jobs in self.ran.values() {
            assert!(jobs.is_sorted(), "first in, first out within a key: {jobs:?}");
        }
    }
}

proptest! {
    #[test]
    fn nothing_is_lost_reordered_or_overfilled(
        events in events(),
        max_rows in 1usize..16,
        max_latency in prop_oneof![Just(0u64), 1u64..100],
    ) {
        let mut model = Model::new(max_rows, ms(max_latency));
        for event in &events {
            model.apply(event);
            model.check();
        }
        // Everything that still waits gets its turn within bounded steps.
        for _ in 0..=events.len() * 2 {
            model.apply(&Event::Finish);
            model.apply(&Event::Pass { ms: max_latency });
        }
        assert!(model.queue.is_empty(), "{} requests starve", model.queue.len());
    }
}
