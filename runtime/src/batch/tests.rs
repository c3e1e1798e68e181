use std::collections::HashMap;
use std::time::Duration;

use proptest::prelude::*;
use tokio::time::Instant;

use super::*;

fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}

fn terms(max_rows: usize, max_latency: Duration, open: usize) -> Terms<'static> {
    Terms {
        max_rows,
        max_latency,
        open,
        preferred: &[],
        cost: None,
    }
}

fn arrival(rows: usize, arrived: Instant, deadline: Instant) -> Arrival {
    Arrival {
        rows,
        work: rows as u64,
        priority: Priority(1),
        arrived,
        deadline,
    }
}

fn at_priority(priority: u32, arrival: Arrival) -> Arrival {
    Arrival {
        priority: Priority(priority),
        ..arrival
    }
}

/// A queue with one request of the given rows each, key `"a"`, arriving a millisecond apart from `start` on.
fn queue_of(rows: &[usize], start: Instant) -> Queue<&'static str, usize> {
    let mut queue = Queue::default();
    for (i, &rows) in rows.iter().enumerate() {
        let at = start + ms(i as u64);
        queue.push("a", arrival(rows, at, at + ms(5000)), i);
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
fn a_place_ahead_is_for_full_batches_only() {
    let now = Instant::now();
    let next = |rows: &[usize]| {
        decide(&queue_of(rows, now), now + ms(60), Device::Ahead, |_| {
            terms(4, ms(50), 0)
        })
    };
    assert_eq!(next(&[1, 1, 1]), Decision::Idle, "it grows until the device is idle");
    assert_eq!(next(&[1, 1, 1, 1, 1]), Decision::Take { key: "a", count: 4 });
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
    queue.push("slow", arrival(1, now, now + ms(900)), 0);
    queue.push("urgent", arrival(1, now + ms(1), now + ms(100)), 1);
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
    queue.push("filling", arrival(1, now, now + ms(100)), 0);
    queue.push("complete", arrival(1, now, now + ms(5000)), 1);
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
    let left = queue.push("a", arrival(1, now, now + ms(100)), "left");
    queue.push("a", arrival(1, now, now + ms(10)), "late");
    queue.push("a", arrival(1, now, now + ms(100)), "fine");
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
    Arrive {
        key: u8,
        priority: u32,
        rows: usize,
        patience: u64,
    },
    Cancel {
        nth: usize,
    },
    Pass {
        ms: u64,
    },
    Finish,
    Open {
        count: usize,
    },
}

fn events() -> impl Strategy<Value = Vec<Event>> {
    let event = prop_oneof![
        4 => (0u8..4, 1u32..4, 0usize..12, 1u64..400)
            .prop_map(|(key, priority, rows, patience)| Event::Arrive { key, priority, rows, patience }),
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
    /// By key and priority.
    ran: HashMap<(u8, Priority), Vec<usize>>,
    now: Instant,
    busy: bool,
    open: usize,
    max_rows: usize,
    max_latency: Duration,
    preferred: Vec<usize>,
    cost: Option<Cost>,
}

impl Model {
    fn new(max_rows: usize, max_latency: Duration, preferred: Vec<usize>, cost: Option<Cost>) -> Self {
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
            preferred,
            cost,
        }
    }

    fn apply(&mut self, event: &Event) {
        match *event {
            Event::Arrive {
                key,
                priority,
                rows,
                patience,
            } => {
                let job = self.fate.len();
                let deadline = self.now + ms(patience);
                let arrival = at_priority(priority, arrival(rows, self.now, deadline));
                let ticket = self.queue.push(key, arrival, job);
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
            preferred: &self.preferred,
            cost: self.cost,
        };
        match decide(&self.queue, self.now, Device::Idle, |_| terms) {
            Decision::Take { key, count } => {
                let taken = self.queue.take(&key, count);
                assert_eq!(taken.len(), count);
                assert!(count > 0);
                let rows: usize = taken.iter().map(|w| w.rows).sum();
                assert!(rows <= self.max_rows || count == 1, "{rows} rows in a batch of {count}");
                let left = self.queue.groups().find(|(other, _)| **other == key);
                if let (Some(last), Some((_, left))) = (taken.last(), left) {
                    assert!(left.iter().all(|w| w.ticket > last.ticket), "the first ones go first");
                }
                for waiting in taken {
                    assert_eq!(self.fate[waiting.job], Fate::Waiting, "only what waits may run");
                    assert!(self.deadlines[waiting.job] > self.now, "nothing runs past its deadline");
                    self.fate[waiting.job] = Fate::Ran;
                    self.ran
                        .entry((key, waiting.ticket.priority()))
                        .or_default()
                        .push(waiting.job);
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
            assert!(
                jobs.is_sorted(),
                "first in, first out within a key and priority: {jobs:?}"
            );
        }
    }
}

proptest! {
    #[test]
    fn nothing_is_lost_reordered_or_overfilled(
        events in events(),
        max_rows in 1usize..16,
        max_latency in prop_oneof![Just(0u64), 1u64..100],
        preferred in prop::collection::vec(1usize..16, 0..3),
        cost in prop::option::of((0u64..40, 0u64..5)),
    ) {
        let cost = cost.map(|(base, per_unit)| Cost::new(ms(base), ms(per_unit)));
        let mut model = Model::new(max_rows, ms(max_latency), preferred, cost);
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

#[test]
fn a_higher_priority_goes_first_and_the_same_stays_in_order() {
    let now = Instant::now();
    let mut queue = Queue::default();
    for (job, priority) in [(0, 2), (1, 1), (2, 2), (3, 1), (4, 3)] {
        queue.push("a", at_priority(priority, arrival(1, now, now + ms(100))), job);
    }
    queue.push("b", at_priority(2, arrival(1, now, now + ms(1))), 5);
    let next = |queue: &Queue<_, _>| decide(queue, now, Device::Idle, |_| terms(3, Duration::ZERO, 0));
    assert_eq!(next(&queue), Decision::Take { key: "a", count: 3 });
    let jobs: Vec<_> = queue.take(&"a", 3).into_iter().map(|w| w.job).collect();
    assert_eq!(jobs, [1, 3, 0]);
    assert_eq!(
        next(&queue),
        Decision::Take { key: "b", count: 1 },
        "its deadline comes before"
    );
}

#[test]
fn a_batch_of_a_preferred_size_leaves_at_once_and_at_that_size() {
    let now = Instant::now();
    let preferring = |rows: &[usize], open| {
        let terms = Terms {
            preferred: &[4, 8],
            ..terms(32, ms(50), open)
        };
        decide(&queue_of(rows, now), now, Device::Idle, |_| terms)
    };
    assert_eq!(preferring(&[1; 3], 1), Decision::WaitUntil(now + ms(50)));
    assert_eq!(preferring(&[1; 4], 1), Decision::Take { key: "a", count: 4 });
    assert_eq!(preferring(&[1; 11], 1), Decision::Take { key: "a", count: 8 });
    assert_eq!(
        preferring(&[3, 2], 0),
        Decision::Take { key: "a", count: 2 },
        "none reached: all that is there"
    );
}

fn costing(base: u64, per_unit: u64, max_rows: usize, max_latency: Duration) -> Terms<'static> {
    Terms {
        cost: Some(Cost::new(ms(base), ms(per_unit))),
        ..terms(max_rows, max_latency, 1)
    }
}

#[test]
fn a_batch_stops_growing_where_it_would_be_late_and_does_not_wait_past_that() {
    let now = Instant::now();
    let mut queue = Queue::default();
    for (job, patience) in [(0, 40), (1, 500), (2, 500), (3, 500)] {
        queue.push("a", arrival(1, now, now + ms(patience)), job);
    }
    let at = |t, latency| decide(&queue, now + ms(t), Device::Idle, |_| costing(10, 10, 32, ms(latency)));
    assert_eq!(at(0, 0), Decision::Take { key: "a", count: 3 }, "four would take 50 ms");
    assert_eq!(at(15, 0), Decision::Take { key: "a", count: 1 });
    assert_eq!(
        at(35, 0),
        Decision::Take { key: "a", count: 4 },
        "the first is late whatever is done"
    );
    let mut queue = Queue::default();
    queue.push("a", arrival(1, now, now + ms(60)), 0);
    let decision = decide(&queue, now, Device::Idle, |_| costing(10, 10, 32, ms(50)));
    assert_eq!(decision, Decision::WaitUntil(now + ms(40)), "20 ms before its deadline");
}

#[test]
fn the_forecast_counts_the_batches_that_stand_before() {
    let now = Instant::now();
    let mut queue = Queue::default();
    for job in 0..5 {
        queue.push("a", arrival(1, now, now + ms(5000)), job);
    }
    queue.push("b", arrival(1, now, now + ms(9000)), 9);
    let late = arrival(1, now, now + ms(9000));
    let ask = |key, priority, free| {
        let terms = |_: &&str| costing(10, 1, 4, Duration::ZERO);
        let done = forecast(&queue, now, free, &key, &at_priority(priority, late), terms)?;
        Some((done - now).as_millis())
    };
    assert_eq!(
        ask("a", 1, now),
        Some(14 + 12),
        "a full batch, then the sixth beside the fifth"
    );
    assert_eq!(
        ask("a", 1, now + ms(7)),
        Some(7 + 14 + 12),
        "what runs now comes before all"
    );
    assert_eq!(
        ask("b", 1, now),
        Some(14 + 11 + 12),
        "the other group's deadlines are earlier"
    );
    assert_eq!(ask("c", 1, now), Some(14 + 11 + 11 + 11));
    assert_eq!(ask("c", 0, now), Some(11), "a higher priority passes all");
    let unknown = forecast(&queue, now, now, &"a", &late, |_| terms(4, Duration::ZERO, 0));
    assert_eq!(unknown, None);
}

proptest! {
    /// The promise of admission: on a device whose cost is known, whoever is let in is answered in time.
    #[test]
    fn whoever_is_admitted_by_the_forecast_is_answered_in_time(
        arrivals in prop::collection::vec((0u64..30, 1usize..6, 1u64..300), 1..80),
        base in 0u64..30,
        per_unit in 0u64..6,
        max_rows in 1usize..12,
    ) {
        let terms = Terms { open: 0, ..costing(base, per_unit, max_rows, Duration::ZERO) };
        let cost = terms.cost.unwrap();
        let start = Instant::now();
        let mut queue = Queue::<u8, Instant>::default();
        let (mut now, mut free) = (start, start);
        let run_until = |queue: &mut Queue<u8, Instant>, free: &mut Instant, until: Option<Instant>, now: Instant| {
            while !queue.is_empty() && until.is_none_or(|until| *free <= until) {
                let at = (*free).max(now);
                if until.is_some_and(|until| at > until) {
                    return;
                }
                let Decision::Take { key, count } = decide(queue, at, Device::Idle, |_| terms) else {
                    panic!("an idle device with work waiting")
                };
                let batch = queue.take(&key, count);
                *free = at + cost.time(batch.iter().map(|w| w.work).sum());
                for waiting in batch {
                    assert!(*free <= waiting.job, "late by {:?}", *free - waiting.job);
                }
            }
        };
        for (pause, rows, patience) in arrivals {
            // A device that gets free takes at once.
            let next = now + ms(pause);
            run_until(&mut queue, &mut free, Some(next), now);
            now = next;
            let arrival = arrival(rows, now, now + ms(patience));
            let done = forecast(&queue, now, free, &0, &arrival, |_| terms).unwrap();
            if done <= arrival.deadline {
                queue.push(0, arrival, arrival.deadline);
                if free <= now {
                    run_until(&mut queue, &mut free, Some(now), now);
                }
            }
        }
        run_until(&mut queue, &mut free, None, now);
    }
}
