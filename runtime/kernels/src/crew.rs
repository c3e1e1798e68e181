//! Threads that help the caller of a kernel for as long as it needs them.
//!
//! A kernel is often done in less time than it takes to wake a thread. So the caller never hands its work over and waits: it
//! begins at once, and whoever else is awake joins in. A helper that has nothing to do looks for work for a short while
//! (`AWAKE`) before it sleeps, which bridges the time to the next kernel of a run, and sleeping ones are only woken for
//! work that is worth it. Where the helpers are busy for another run, the caller does all by itself.

use std::any::Any;
use std::cell::{Cell, UnsafeCell};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicUsize, Ordering, fence};
use std::sync::{Condvar, Mutex, MutexGuard, OnceLock, PoisonError, TryLockError};
use std::time::{Duration, Instant};

/// How long a helper looks for work before it sleeps.
const AWAKE: Duration = Duration::from_micros(200);

/// Multiply-adds from which on sleeping helpers are woken.
const WAKE: usize = 2_000_000;

/// Looks at the gate between two looks at the clock.
const LOOKS: u32 = 128;

/// The gate's bit that lets helpers in; the others count those that are in.
const OPEN: usize = 1 << (usize::BITS - 1);

/// Pieces of work that are handed out one by one.
struct Job {
    run: *const (dyn Fn(usize) + Sync),
    pieces: usize,
}

// SAFETY: the pointer is followed only while the closure behind it lives, and that is `Sync`.
unsafe impl Send for Job {}

struct Crew {
    helpers: usize,
    /// Held by the caller that the helpers work for.
    turn: Mutex<()>,
    /// Written by that caller while the gate is closed and nobody is in.
    job: UnsafeCell<Job>,
    gate: AtomicUsize,
    next: AtomicUsize,
    /// Jobs so far, so that nobody enters the same one twice.
    number: AtomicUsize,
    asleep: AtomicUsize,
    bed: Mutex<()>,
    bell: Condvar,
    panic: Mutex<Option<Box<dyn Any + Send>>>,
}

// SAFETY: `job` is written by one caller at a time (`turn`) while the gate is closed and nobody is in, and read only by those
// who came through the gate; its closure is `Sync`.
unsafe impl Sync for Crew {}

thread_local! {
    /// Whether this thread is within a piece of work already.
    static BUSY: Cell<bool> = const { Cell::new(false) };
}

fn nothing(_: usize) {}

static CREW: OnceLock<Crew> = OnceLock::new();

/// The threads that may work for one caller, itself included: as many as the process's rayon pool has.
pub fn threads() -> usize {
    crew().helpers + 1
}

fn crew() -> &'static Crew {
    let mut made = false;
    let crew = CREW.get_or_init(|| {
        made = true;
        Crew {
            helpers: rayon::current_num_threads() - 1,
            turn: Mutex::new(()),
            job: UnsafeCell::new(Job {
                run: &nothing,
                pieces: 0,
            }),
            gate: AtomicUsize::new(0),
            next: AtomicUsize::new(0),
            number: AtomicUsize::new(0),
            asleep: AtomicUsize::new(0),
            bed: Mutex::new(()),
            bell: Condvar::new(),
            panic: Mutex::new(None),
        }
    });
    if made {
        for n in 0..crew.helpers {
            let thread = std::thread::Builder::new().name(format!("kernel-{n}"));
            // Where no thread can be had, the others do it.
            let _ = thread.spawn(|| crew.help());
        }
    }
    crew
}

/// Calls `f` with every number below `pieces`, on this thread and on others, and returns when all calls have. `cost` is the
/// work of all of them in multiply-adds. A panic of any call is passed on when the others have ended.
pub fn each(pieces: usize, cost: usize, f: impl Fn(usize) + Sync) {
    let crew = crew();
    let alone = pieces < 2 || crew.helpers == 0 || BUSY.get();
    let asleep = cost < WAKE && crew.asleep.load(Ordering::Relaxed) == crew.helpers;
    let turn = if alone || asleep { None } else { crew.turn() };
    match turn {
        Some(turn) => {
            crew.together(pieces, cost, &f);
            drop(turn);
        }
        None => (0..pieces).for_each(f),
    }
}

impl Crew {
    /// The helpers, where they work for nobody else. A caller that panicked has left nothing half done.
    fn turn(&self) -> Option<MutexGuard<'_, ()>> {
        match self.turn.try_lock() {
            Ok(turn) => Some(turn),
            Err(TryLockError::Poisoned(turn)) => Some(turn.into_inner()),
            Err(TryLockError::WouldBlock) => None,
        }
    }

    fn together(&self, pieces: usize, cost: usize, f: &(dyn Fn(usize) + Sync)) {
        #[allow(clippy::transmute_ptr_to_ptr, reason = "a cast does not lengthen a lifetime")]
        // SAFETY: only the lifetime changes, and nobody is in with this job when this function returns or panics.
        let run: *const (dyn Fn(usize) + Sync) = unsafe { std::mem::transmute(std::ptr::from_ref(f)) };
        // SAFETY: the caller holds `turn`, and the one before it left with the gate closed and nobody in.
        unsafe { *self.job.get() = Job { run, pieces } };
        self.next.store(0, Ordering::Relaxed);
        self.number.fetch_add(1, Ordering::Relaxed);
        self.gate.store(OPEN, Ordering::SeqCst);
        fence(Ordering::SeqCst);
        if cost >= WAKE && self.asleep.load(Ordering::SeqCst) > 0 {
            drop(self.bed.lock().unwrap_or_else(PoisonError::into_inner));
            self.bell.notify_all();
        }
        BUSY.set(true);
        let own = catch_unwind(AssertUnwindSafe(|| self.take_pieces(f, pieces)));
        BUSY.set(false);
        if own.is_err() {
            // The others need not go on.
            self.next.store(pieces, Ordering::Relaxed);
        }
        self.gate.fetch_and(!OPEN, Ordering::AcqRel);
        let mut looks = 0u32;
        while self.gate.load(Ordering::Acquire) != 0 {
            looks += 1;
            if looks.is_multiple_of(LOOKS) {
                // Where there are more threads than processors, the helper may be waiting for this one's.
                std::thread::yield_now();
            }
            std::hint::spin_loop();
        }
        let theirs = self.panic.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(panic) = own.err().or(theirs) {
            resume_unwind(panic);
        }
    }

    fn take_pieces(&self, f: &(dyn Fn(usize) + Sync), pieces: usize) {
        loop {
            let piece = self.next.fetch_add(1, Ordering::Relaxed);
            if piece >= pieces {
                return;
            }
            f(piece);
        }
    }

    /// A helper's life.
    fn help(&self) {
        BUSY.set(true);
        let mut done = 0;
        loop {
            let since = Instant::now();
            let mut looks = 0u32;
            loop {
                if self.enter(&mut done) {
                    break;
                }
                looks += 1;
                if looks.is_multiple_of(LOOKS) && since.elapsed() > AWAKE {
                    self.sleep(done);
                    break;
                }
                std::hint::spin_loop();
            }
        }
    }

    /// Helps with a job that this helper has not seen, if there is one.
    fn enter(&self, done: &mut usize) -> bool {
        let mut state = self.gate.load(Ordering::Relaxed);
        loop {
            if state & OPEN == 0 || self.number.load(Ordering::Relaxed) == *done {
                return false;
            }
            match self
                .gate
                .compare_exchange_weak(state, state + 1, Ordering::Acquire, Ordering::Relaxed)
            {
                Ok(_) => break,
                Err(now) => state = now,
            }
        }
        *done = self.number.load(Ordering::Relaxed);
        // SAFETY: this thread came through the gate, so the job stays until it has left.
        let (run, pieces) = unsafe { (&*(*self.job.get()).run, (*self.job.get()).pieces) };
        if let Err(panic) = catch_unwind(AssertUnwindSafe(|| self.take_pieces(run, pieces))) {
            self.next.store(pieces, Ordering::Relaxed);
            *self.panic.lock().unwrap_or_else(PoisonError::into_inner) = Some(panic);
        }
        self.gate.fetch_sub(1, Ordering::Release);
        true
    }

    /// Sleeps until a job is there that is worth it.
    fn sleep(&self, done: usize) {
        let bed = self.bed.lock().unwrap_or_else(PoisonError::into_inner);
        self.asleep.fetch_add(1, Ordering::SeqCst);
        fence(Ordering::SeqCst);
        let new = self.gate.load(Ordering::SeqCst) & OPEN != 0 && self.number.load(Ordering::SeqCst) != done;
        if !new {
            drop(self.bell.wait(bed).unwrap_or_else(PoisonError::into_inner));
        }
        self.asleep.fetch_sub(1, Ordering::SeqCst);
    }
}

#[cfg(test)]
mod tests {
    use std::panic::{AssertUnwindSafe, catch_unwind};
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::{WAKE, crew, each};

    #[test]
    fn every_piece_is_run_once_by_callers_that_come_at_the_same_time() {
        std::thread::scope(|scope| {
            for caller in 0..4 {
                scope.spawn(move || {
                    for round in 0..500 {
                        let counts: Vec<AtomicUsize> = (0..17).map(|_| AtomicUsize::new(0)).collect();
                        let cost = if round % 3 == 0 { WAKE } else { 1000 * caller };
                        each(counts.len(), cost, |k| {
                            counts[k].fetch_add(1, Ordering::Relaxed);
                        });
                        assert!(counts.iter().all(|c| c.load(Ordering::Relaxed) == 1));
                    }
                });
            }
        });
    }

    #[test]
    fn work_within_work_stays_on_its_thread() {
        let calls = AtomicUsize::new(0);
        each(8, WAKE, |_| {
            let thread = std::thread::current().id();
            each(8, WAKE, |_| {
                assert_eq!(std::thread::current().id(), thread);
                calls.fetch_add(1, Ordering::Relaxed);
            });
        });
        assert_eq!(calls.load(Ordering::Relaxed), 64);
    }

    #[test]
    fn a_panic_is_passed_on_and_the_next_job_runs() {
        for piece in [0, 63] {
            let fails = || each(64, WAKE, |k| assert_ne!(k, piece, "as told"));
            assert!(catch_unwind(AssertUnwindSafe(fails)).is_err());
            let calls = AtomicUsize::new(0);
            each(64, WAKE, |_| {
                calls.fetch_add(1, Ordering::Relaxed);
            });
            assert_eq!(calls.load(Ordering::Relaxed), 64);
        }
        // Other tests have them at times.
        let had = (0..10_000).any(|_| {
            std::thread::yield_now();
            crew().turn().is_some()
        });
        assert!(had, "nobody gets the helpers any more");
    }
}
