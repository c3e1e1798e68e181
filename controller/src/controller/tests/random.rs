//! Whatever happens, in whatever order: what always has to hold.

use proptest::prelude::*;

use super::*;

/// Something that happens to a running service.
#[derive(Clone, Debug)]
enum Happening {
    Wake,
    /// The replica of this place answers its probe.
    Ready(usize),
    Kill(usize),
    Busy(usize, bool),
    Load(u64),
    Seconds(u64),
    Model(u8),
    Bounds(u32, u32),
    Removed,
}

fn happenings() -> impl Strategy<Value = Vec<Happening>> {
    let one = prop_oneof![
        3 => Just(Happening::Wake),
        6 => (0_usize..8).prop_map(Happening::Ready),
        2 => (0_usize..8).prop_map(Happening::Kill),
        4 => (0_usize..8, any::<bool>()).prop_map(|(place, busy)| Happening::Busy(place, busy)),
        2 => (0_u64..400).prop_map(Happening::Load),
        4 => (1_u64..90).prop_map(Happening::Seconds),
        2 => (0_u8..3).prop_map(Happening::Model),
        1 => (0_u32..3, 3_u32..5).prop_map(|(least, most)| Happening::Bounds(least, most)),
        1 => Just(Happening::Removed),
    ];
    proptest::collection::vec(one, 1..40)
}

/// Plays one sequence; what has to hold after each step and at the end is in here.
async fn play(happenings: Vec<Happening>) {
    // Without the limits after which something is ended all the same.
    let config = Config {
        start_timeout: Duration::from_hours(24),
        drain_limit: Duration::from_hours(24),
        ..Config::default()
    };
    let world = World::configured(config, |_| {}).await;
    let (mut busy, mut bounds) = (std::collections::BTreeSet::new(), (0, 4));
    let declare = |bounds: (u32, u32)| {
        world.declare(|service| {
            service.scaling.min_replicas = bounds.0;
            service.scaling.max_replicas = Some(bounds.1);
        });
    };
    let mut known = 0;
    for happening in happenings {
        let running = world.running();
        let at = |place: usize| running.get(place % running.len().max(1)).cloned();
        match happening {
            Happening::Wake => drop(world.wakes.wake(&world.id).await),
            Happening::Ready(place) => at(place).iter().for_each(|id| world.traffic.tell_ready(&world.id, id)),
            Happening::Kill(place) => at(place).iter().for_each(|id| world.platform.kill(&world.id, id)),
            Happening::Busy(place, is) => {
                if let Some(id) = at(place) {
                    world.traffic.busy(&id, is);
                    if is {
                        busy.insert(id)
                    } else {
                        busy.remove(&id)
                    };
                }
            }
            Happening::Load(requests) => world.traffic.load(&world.id, requests, 0),
            Happening::Seconds(seconds) => world.seconds(seconds).await,
            Happening::Model(version) => {
                world.write_model(&"v".repeat(usize::from(version) + 1));
                declare(bounds);
            }
            Happening::Bounds(least, most) => {
                bounds = (least, most);
                declare(bounds);
            }
            Happening::Removed => world.publish(Vec::new()),
        }
        world.settle().await;
        let ended = world.platform.ended();
        for id in &ended[known..] {
            assert!(!busy.contains(id), "{id} was ended with requests in flight");
            assert!(world.traffic.sealed().contains(id), "{id} was ended without a seal");
        }
        known = ended.len();
    }
    for id in &busy {
        world.traffic.busy(id, false);
    }
    world.traffic.load(&world.id, 0, 0);
    declare(bounds);
    for _ in 0..150 {
        world.all_ready().await;
        world.seconds(2).await;
    }
    let running = world.platform.running(&world.id);
    assert_eq!(running.len() as u32, bounds.0, "at rest the minimum runs");
    let revision = world.status().revision;
    assert!(
        running
            .iter()
            .all(|replica| Some(&replica.revision) == revision.as_ref())
    );
    assert_eq!(world.wake().await, Ok(()));
    world.all_ready().await;
    assert!(
        world.status().ready && world.status().replicas.ready > 0,
        "{:?}",
        world.status()
    );
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn whatever_happens_nothing_busy_is_ended_and_at_rest_all_is_as_declared(happenings in happenings()) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
        runtime.block_on(play(happenings));
    }
}
