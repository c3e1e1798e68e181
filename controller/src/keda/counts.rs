//! Counts of all activators as `/queue` shows them, summed by the rules of the add-on's pinger.
//!
//! Concurrency of a route is the sum over activators. One that is listed and does not answer counts with its last
//! concurrency, marked stale, and adds nothing to rates; one that is no longer listed is forgotten; where none answers the
//! old values stay and the whole is marked unhealthy. Arrivals of a route are the difference of an activator's counter: one
//! that fell was reset and counts whole, and a new activator or a new route counts zero the first time.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    time::Duration,
};

use serde::Deserialize;

use super::window::Window;

/// One route at one activator, as `/queue` shows it. Go reads its keys in any case and passes over unknown ones.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
pub struct RouteCount {
    /// Requests in flight and waiting.
    #[serde(rename = "Concurrency", alias = "concurrency", default)]
    pub concurrency: i64,
    /// Requests that ever arrived.
    #[serde(rename = "RequestCount", alias = "requestCount", alias = "requestcount", default)]
    pub request_count: i64,
}

/// What one activator shows, by route key `namespace/name`.
pub type Queue = BTreeMap<String, RouteCount>;

/// Name of an activator: the address of its pod.
pub type Pod = String;

/// What rates are taken over until a route says otherwise.
const WINDOW: Duration = Duration::from_mins(1);
const GRANULARITY: Duration = Duration::from_secs(1);

/// The sum. Its size is bounded by the activators that are listed and the routes they show.
#[derive(Debug)]
pub struct Counts {
    pods: BTreeMap<Pod, Queue>,
    stale: BTreeSet<Pod>,
    rates: HashMap<String, Window>,
    /// When arrivals were last heard of by push.
    pushed: HashMap<String, Duration>,
    hold: Duration,
    last: Option<Duration>,
}

impl Counts {
    /// Nothing is known yet. A route whose arrival was pushed counts as active for `hold` at least, so that a request
    /// that is answered between two looks wakes too.
    pub fn new(hold: Duration) -> Self {
        Self {
            pods: BTreeMap::new(),
            stale: BTreeSet::new(),
            rates: HashMap::new(),
            pushed: HashMap::new(),
            hold,
            last: None,
        }
    }

    /// Takes a look at all listed activators at `now`; `None` did not answer. False where none did: nothing changes.
    pub fn take(&mut self, now: Duration, looks: BTreeMap<Pod, Option<Queue>>) -> bool {
        if looks.values().all(Option::is_none) {
            self.stale = looks.into_keys().collect();
            return false;
        }
        let mut arrivals: HashMap<String, u64> = HashMap::new();
        self.pods.retain(|pod, _| looks.contains_key(pod));
        self.stale.clear();
        for (pod, look) in looks {
            let Some(queue) = look else {
                self.stale.insert(pod);
                continue;
            };
            if let Some(before) = self.pods.get(&pod) {
                for (route, count) in &queue {
                    *arrivals.entry(route.clone()).or_default() += delta(before.get(route), *count);
                }
            }
            self.pods.insert(pod, queue);
        }
        self.record(now, &arrivals);
        self.last = Some(now);
        true
    }

    fn record(&mut self, now: Duration, arrivals: &HashMap<String, u64>) {
        let known: HashSet<&String> = self.pods.values().flat_map(BTreeMap::keys).collect();
        self.rates.retain(|route, _| known.contains(route));
        for route in known {
            let window = self
                .rates
                .entry(route.clone())
                .or_insert_with(|| Window::new(WINDOW, GRANULARITY));
            window.record(now, arrivals.get(route).copied().unwrap_or(0));
        }
        let hold = self.hold;
        self.pushed.retain(|_, at| now.saturating_sub(*at) <= hold);
    }

    /// A request arrived at a route that had none, says an activator at `now`.
    pub fn pushed(&mut self, now: Duration, route: &str) {
        self.pushed.insert(route.to_owned(), now);
    }

    /// Whether an arrival at the route was pushed a moment ago.
    pub fn was_pushed(&self, now: Duration, route: &str) -> bool {
        self.pushed
            .get(route)
            .is_some_and(|at| now.saturating_sub(*at) <= self.hold)
    }

    /// Requests in flight and waiting of a route over all activators; 0 for one that none shows.
    pub fn concurrency(&self, route: &str) -> u64 {
        self.pods.values().filter_map(|queue| queue.get(route)).map(floor).sum()
    }

    /// The same over all routes.
    pub fn total_concurrency(&self) -> u64 {
        self.pods.values().flat_map(BTreeMap::values).map(floor).sum()
    }

    /// Arrivals per granularity over a window. The first call with other settings than before begins anew.
    pub fn rate(&mut self, now: Duration, route: &str, window: Duration, granularity: Duration) -> f64 {
        let rate = self
            .rates
            .entry(route.to_owned())
            .or_insert_with(|| Window::new(window, granularity));
        if !rate.is_of(window, granularity) {
            *rate = Window::new(window, granularity);
        }
        rate.average(now)
    }

    /// Activators that did not answer the last look.
    pub fn stale(&self) -> &BTreeSet<Pod> {
        &self.stale
    }

    /// Activators whose counts are in the sums.
    pub fn pods(&self) -> usize {
        self.pods.len()
    }

    /// Whether a look succeeded within `limit` before `now`.
    pub fn is_fresh(&self, now: Duration, limit: Duration) -> bool {
        self.last.is_some_and(|last| now.saturating_sub(last) <= limit)
    }
}

fn floor(count: &RouteCount) -> u64 {
    u64::try_from(count.concurrency).unwrap_or(0)
}

fn delta(before: Option<&RouteCount>, now: RouteCount) -> u64 {
    let Some(before) = before else { return 0 };
    let grown = now
        .request_count
        .checked_sub(before.request_count)
        .filter(|grown| *grown >= 0);
    u64::try_from(grown.unwrap_or(now.request_count)).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &str = "default/app";

    fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn queue(concurrency: i64, request_count: i64) -> Option<Queue> {
        let count = RouteCount {
            concurrency,
            request_count,
        };
        Some(BTreeMap::from([(KEY.to_owned(), count)]))
    }

    fn look(pods: &[(&str, Option<Queue>)]) -> BTreeMap<Pod, Option<Queue>> {
        pods.iter()
            .map(|(pod, queue)| ((*pod).to_owned(), queue.clone()))
            .collect()
    }

    fn counts() -> Counts {
        Counts::new(seconds(2))
    }

    /// The body of the add-on's `/queue`, and what Go's decoder makes of other cases.
    #[test]
    fn add_on_queue_bodies_are_read() {
        let body = r#"{"default/app":{"Concurrency":3,"RequestCount":42},"b/c":{"concurrency":1,"RPS":4.5}}"#;
        let queue: Queue = serde_json::from_str(body).unwrap();
        assert_eq!(
            queue[KEY],
            RouteCount {
                concurrency: 3,
                request_count: 42
            }
        );
        assert_eq!(
            queue["b/c"],
            RouteCount {
                concurrency: 1,
                request_count: 0
            }
        );
    }

    /// Add-on unit test `TestFetchAndSaveCounts_MultiPodLifecycle`.
    #[test]
    fn add_on_multi_pod_lifecycle() {
        let mut counts = counts();
        assert!(counts.take(seconds(1), look(&[("a", queue(2, 10)), ("b", queue(3, 20))])));
        assert_eq!((counts.concurrency(KEY), counts.total_concurrency()), (5, 5));
        assert!(counts.take(seconds(2), look(&[("b", queue(4, 21))])));
        assert_eq!((counts.concurrency(KEY), counts.pods()), (4, 1));
        assert_eq!(counts.concurrency("default/other"), 0);
    }

    /// Add-on unit tests `CachedUnreachablePod` and `PartialFailure`.
    #[test]
    fn add_on_an_unreachable_pod_counts_with_its_last_concurrency_and_is_marked() {
        let mut counts = counts();
        counts.take(seconds(1), look(&[("a", queue(2, 10)), ("b", queue(3, 20))]));
        assert!(counts.take(seconds(2), look(&[("a", queue(1, 11)), ("b", None)])));
        assert_eq!(counts.concurrency(KEY), 4);
        assert_eq!(counts.stale().iter().collect::<Vec<_>>(), ["b"]);
        // b's arrivals while it was away come with its next answer.
        counts.take(seconds(3), look(&[("a", queue(1, 11)), ("b", queue(0, 25))]));
        assert_eq!(counts.rate(seconds(3), KEY, WINDOW, GRANULARITY), 2.0);
        assert!(counts.stale().is_empty());
    }

    /// Add-on unit test `AllPodsUnreachable`.
    #[test]
    fn add_on_where_no_pod_answers_old_values_stay_and_health_goes() {
        let mut counts = counts();
        counts.take(seconds(1), look(&[("a", queue(2, 10))]));
        assert!(counts.is_fresh(seconds(2), seconds(1)));
        assert!(!counts.take(seconds(2), look(&[("a", None)])));
        assert!(!counts.take(seconds(3), look(&[])));
        assert_eq!(counts.concurrency(KEY), 2);
        assert!(!counts.is_fresh(seconds(3), seconds(1)));
    }

    /// Add-on unit tests `RateComputation` and `CounterReset`.
    #[test]
    fn add_on_rates_are_differences_and_a_counter_that_fell_counts_whole() {
        let mut counts = counts();
        counts.take(seconds(1), look(&[("a", queue(0, 1_000))]));
        assert_eq!(counts.rate(seconds(1), KEY, WINDOW, GRANULARITY), 0.0);
        counts.take(seconds(2), look(&[("a", queue(0, 1_010))]));
        assert_eq!(counts.rate(seconds(2), KEY, WINDOW, GRANULARITY), 5.0);
        counts.take(seconds(3), look(&[("a", queue(0, 5))]));
        assert_eq!(counts.rate(seconds(3), KEY, WINDOW, GRANULARITY), 5.0);
    }

    #[test]
    fn other_settings_of_a_window_begin_anew() {
        let mut counts = counts();
        counts.take(seconds(1), look(&[("a", queue(0, 0))]));
        counts.take(seconds(2), look(&[("a", queue(0, 10))]));
        assert_eq!(counts.rate(seconds(2), KEY, seconds(10), GRANULARITY), 0.0);
        counts.take(seconds(3), look(&[("a", queue(0, 14))]));
        assert_eq!(counts.rate(seconds(3), KEY, seconds(10), GRANULARITY), 4.0);
    }

    #[test]
    fn a_pushed_arrival_counts_for_a_while() {
        let mut counts = counts();
        counts.pushed(seconds(5), KEY);
        assert!(counts.was_pushed(seconds(7), KEY));
        assert!(!counts.was_pushed(seconds(8), KEY));
        assert!(!counts.was_pushed(seconds(5), "default/other"));
    }

    #[test]
    fn a_negative_concurrency_is_zero() {
        let mut counts = counts();
        counts.take(seconds(1), look(&[("a", queue(-3, 0)), ("b", queue(2, 0))]));
        assert_eq!(counts.concurrency(KEY), 2);
    }
}
