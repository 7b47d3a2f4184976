//! The tree with simulated time: clients that ask again some time after each grant, and a timer that
//! is as coarse as a real one.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::net::Ipv4Addr;

use proptest::prelude::*;

use super::*;
use crate::shape::bucket::{MILLISECOND, SECOND};
use crate::shape::settings::Pcq;
use crate::units::ByteSize;

const MICROSECOND: Nanos = 1_000;

fn mbit(mbit: u64) -> Rate {
    Rate::from_bits(mbit * 1_000_000)
}

fn kbit(kbit: u64) -> Rate {
    Rate::from_bits(kbit * 1_000)
}

fn class(name: &str, parent: Option<&str>, limit_at: Rate, max: Option<Rate>) -> ClassSettings {
    let parent = parent.map(Into::into);
    ClassSettings { parent, limit_at, max_limit: max, ..ClassSettings::new(name) }
}

/// One class of that rate.
fn one(max: Rate, classifier: Classifier) -> Settings {
    let pcq = Pcq { classifier, rate: Rate::ZERO };
    let class = ClassSettings { pcq, ..class("all", None, Rate::ZERO, Some(max)) };
    Settings { classes: vec![class], ..Settings::default() }
}

/// The tree that most people need first: regular traffic goes first, uploads get the rest.
fn shared_20_mbit() -> Settings {
    shared_link(20)
}

/// That tree on a link of `link` Mbit/s.
fn shared_link(link: u64) -> Settings {
    let (most, all) = (mbit(link - link / 20), Some(mbit(link)));
    let top = class("upload", None, Rate::ZERO, all);
    let regular = class("regular", Some("upload"), most, all);
    let bulk = class("bulk", Some("upload"), mbit(link / 20), all);
    let regular = ClassSettings { priority: Priority::new(2).unwrap(), ..regular };
    Settings { classes: vec![top, regular, bulk], ..Settings::default() }
}

/// What a client asks for, and when.
#[derive(Clone, Copy)]
struct Habit {
    /// What it asks for each time.
    want: usize,
    /// How long after a grant it asks again.
    pause: Nanos,
    /// When it begins, and when it asks no more.
    from: Nanos,
    until: Nanos,
}

const GREEDY: Habit = Habit { want: 16 << 10, pause: 50 * MICROSECOND, from: 0, until: Nanos::MAX };

struct Client {
    flow: FlowId,
    habit: Habit,
    class: usize,
    bytes: u64,
    asked: Option<Nanos>,
    longest: Nanos,
}

struct Simulation {
    settings: Settings,
    tree: Tree,
    now: Nanos,
    clients: Vec<Client>,
    /// Whose a flow is.
    whose: Vec<usize>,
    asking: BinaryHeap<Reverse<(Nanos, usize)>>,
    /// When, by which class, how many bytes.
    log: Vec<(Nanos, usize, u64)>,
}

impl Simulation {
    fn new(settings: Settings) -> Self {
        let ceilings: Vec<_> = settings.classes.iter().map(|class| class.max_limit).collect();
        let tree = Tree::new(&settings, &ceilings, 0);
        let (clients, whose, log) = (Vec::new(), Vec::new(), Vec::new());
        Self { settings, tree, now: 0, clients, whose, asking: BinaryHeap::new(), log }
    }

    fn client(&mut self, class: &str, address: u32, habit: Habit) -> usize {
        let class = self.settings.classes.iter().position(|one| *one.name == *class).unwrap();
        let address = IpAddr::V4(Ipv4Addr::from(address));
        let flow = self.tree.add_flow(class, address, None, self.now);
        self.clients.push(Client { flow, habit, class, bytes: 0, asked: None, longest: 0 });
        let index = self.clients.len() - 1;
        assert_eq!(flow, self.whose.len(), "flows are numbered");
        self.whose.push(index);
        self.asking.push(Reverse((habit.from.max(self.now), index)));
        index
    }

    fn clients(&mut self, class: &str, count: u32, habit: Habit) -> Vec<usize> {
        (0..count).map(|address| self.client(class, address, habit)).collect()
    }

    fn change(&mut self, change: impl FnOnce(&mut Settings)) {
        change(&mut self.settings);
        let ceilings: Vec<_> = self.settings.classes.iter().map(|class| class.max_limit).collect();
        self.tree.apply(&self.settings, &ceilings, self.now);
        for root in self.tree.roots() {
            self.dispatch(Some(root));
        }
    }

    fn run(&mut self, end: Nanos) {
        loop {
            // tokio's timers are 1 ms coarse, and late rather than early.
            let timer = self.tree.deadline().map(|at| at.div_ceil(MILLISECOND) * MILLISECOND);
            let asks = self.asking.peek().map(|Reverse((at, _))| *at);
            let Some(next) = timer.into_iter().chain(asks).min().filter(|at| *at < end) else {
                self.now = end;
                return;
            };
            self.now = self.now.max(next);
            if asks.is_some_and(|at| at <= self.now) {
                let Some(Reverse((_, index))) = self.asking.pop() else { continue };
                self.ask(index);
            } else {
                let mut granted = Vec::new();
                self.tree.dispatch_due(self.now, &mut granted);
                self.note(&granted);
            }
        }
    }

    fn ask(&mut self, index: usize) {
        let Client { flow, habit, .. } = self.clients[index];
        if self.now >= habit.until {
            return;
        }
        self.clients[index].asked = Some(self.now);
        let root = self.tree.request(flow, habit.want, self.now);
        match root {
            None => self.note(&[flow]),
            root => self.dispatch(root),
        }
    }

    fn dispatch(&mut self, root: Option<usize>) {
        let mut granted = Vec::new();
        if let Some(root) = root {
            self.tree.dispatch(root, self.now, &mut granted);
        }
        self.note(&granted);
    }

    fn note(&mut self, granted: &[FlowId]) {
        for flow in granted {
            let index = self.whose[*flow];
            let bytes = self.tree.permit_of(*flow);
            assert!(bytes > 0);
            self.tree.spend(*flow, bytes, self.now);
            let client = &mut self.clients[index];
            client.bytes += bytes as u64;
            let asked = client.asked.take().expect("it waits");
            client.longest = client.longest.max(self.now - asked);
            self.log.push((self.now, client.class, bytes as u64));
            self.asking.push(Reverse((self.now + client.habit.pause, index)));
        }
    }

    fn bytes(&self, clients: &[usize]) -> Vec<u64> {
        clients.iter().map(|index| self.clients[*index].bytes).collect()
    }

    /// Bits per second of a class between two times.
    fn rate(&self, name: &str, from: Nanos, until: Nanos) -> u64 {
        let class = self.settings.classes.iter().position(|one| *one.name == *name).unwrap();
        let within = |(at, of, _): &&(Nanos, usize, u64)| {
            let below = self.tree.path(*of).any(|above| above == class);
            below && (from..until).contains(at)
        };
        let bytes: u64 = self.log.iter().filter(within).map(|(_, _, bytes)| bytes).sum();
        bytes * 8 * SECOND / (until - from)
    }

    /// The longest that anybody has waited, those that still wait included.
    fn longest_wait(&self) -> Nanos {
        let waits = self
            .clients
            .iter()
            .map(|client| client.longest.max(client.asked.map_or(0, |since| self.now - since)));
        waits.max().unwrap_or(0)
    }

    /// The most bytes by which a class exceeded its rate in any window.
    fn excess(&self, class: usize, rate: Rate) -> u64 {
        // As a leaky bucket: what has piled up beyond what the rate carried off.
        let (mut pile, mut last, mut most) = (0_u128, 0, 0);
        for (at, of, bytes) in &self.log {
            if self.tree.path(*of).any(|above| above == class) {
                let carried = u128::from(at - last) * u128::from(rate.bits());
                let bits = u128::from(bytes * 8) * u128::from(SECOND);
                pile = pile.saturating_sub(carried) + bits;
                (last, most) = (*at, most.max(pile));
            }
        }
        u64::try_from(most / 8 / u128::from(SECOND)).unwrap()
    }
}

fn jain(bytes: &[u64]) -> f64 {
    let sum: f64 = bytes.iter().map(|bytes| *bytes as f64).sum();
    let squares: f64 = bytes.iter().map(|bytes| (*bytes as f64).powi(2)).sum();
    sum * sum / (bytes.len() as f64 * squares)
}

fn ratio(one: u64, other: u64) -> f64 {
    one as f64 / other as f64
}

#[test]
fn the_rate_is_the_max_limit() {
    for rate in [1, 2, 5, 10, 20, 50, 100, 200, 500, 1000] {
        for flows in [1, 4, 30] {
            let mut simulation = Simulation::new(one(mbit(rate), Classifier::Connection));
            simulation.clients("all", flows, Habit { want: 64 << 10, ..GREEDY });
            simulation.run(11 * SECOND);
            let got = simulation.rate("all", SECOND, 11 * SECOND);
            let off = ratio(got, rate * 1_000_000) - 1.0;
            assert!(off.abs() <= 0.005, "{rate} Mbit/s, {flows} flows: {off:+.4}");
        }
    }
}

#[test]
fn flows_get_equal_shares() {
    for (flows, least) in [(16, 0.999), (256, 0.99)] {
        let mut simulation = Simulation::new(one(mbit(100), Classifier::Connection));
        let clients = simulation.clients("all", flows, GREEDY);
        simulation.run(10 * SECOND);
        let jain = jain(&simulation.bytes(&clients));
        assert!(jain >= least, "{flows} flows: {jain}");
    }
}

#[test]
fn ten_connections_get_no_more_than_one() {
    for rate in [5, 20, 100, 1000] {
        let mut simulation = Simulation::new(one(mbit(rate), Classifier::SrcAddress));
        let single = simulation.client("all", 1, GREEDY);
        let many: Vec<_> = (0..10).map(|_| simulation.client("all", 2, GREEDY)).collect();
        simulation.run(10 * SECOND);
        let (single, many) = (simulation.bytes(&[single])[0], simulation.bytes(&many));
        let share = ratio(single, many.iter().sum());
        assert!((0.95..=1.05).contains(&share), "{rate} Mbit/s: {share}");
    }
}

#[test]
fn small_requests_get_as_much_as_large_ones() {
    for rate in [5, 20, 100] {
        let mut simulation = Simulation::new(one(mbit(rate), Classifier::Connection));
        let small = simulation.client("all", 1, Habit { want: 1000, ..GREEDY });
        let large = simulation.client("all", 2, Habit { want: 64 << 10, ..GREEDY });
        simulation.run(10 * SECOND);
        let bytes = simulation.bytes(&[small, large]);
        let share = ratio(bytes[0], bytes[1]);
        assert!((0.95..=1.05).contains(&share), "{rate} Mbit/s: {share}");
    }
}

#[test]
fn pcq_rate_caps_each_key_and_wastes_nothing() {
    let mut settings = one(mbit(20), Classifier::SrcAddress);
    settings.classes[0].pcq.rate = mbit(3);
    let mut simulation = Simulation::new(settings);
    let first: Vec<_> = (0..4).map(|_| simulation.client("all", 1, GREEDY)).collect();
    let second = simulation.client("all", 2, GREEDY);
    simulation.run(10 * SECOND);
    for bytes in [simulation.bytes(&first).iter().sum(), simulation.bytes(&[second])[0]] {
        let rate = ratio(bytes * 8, 10 * 3_000_000);
        assert!((0.99..=1.01).contains(&rate), "{rate}");
    }
}

#[test]
fn regular_traffic_goes_first_and_bulk_gets_the_rest() {
    // However long the regular writer takes to come back, within what is waited for and can be sent.
    for (link, pause) in [(20, 50), (20, 950), (100, 50), (100, 500), (200, 50), (200, 300)] {
        regular_traffic_beside_bulk(link, pause * MICROSECOND);
    }
}

fn regular_traffic_beside_bulk(link: u64, pause: Nanos) {
    let mut simulation = Simulation::new(shared_link(link));
    simulation.clients("bulk", 4, GREEDY);
    let regular = Habit { from: 10 * SECOND, until: 20 * SECOND, pause, ..GREEDY };
    simulation.client("regular", 9, regular);
    simulation.run(30 * SECOND);
    // In thousandths of the link.
    let part = |class, from, until| simulation.rate(class, from, until) / (link * 1_000);
    let alone = part("bulk", SECOND, 10 * SECOND);
    assert!((995..=1005).contains(&alone), "alone: {alone}");
    let contended = part("bulk", 10 * SECOND, 20 * SECOND);
    // limit-at and 2 % of the parent.
    assert!((47..=70).contains(&contended), "{link} Mbit/s, {pause} ns: {contended}");
    let regular = part("regular", 10 * SECOND, 20 * SECOND);
    assert!(regular >= 930, "regular: {regular}");
    // It yields within 130 ms and borrows back within 150 ms, as HTB does.
    let yielding = part("bulk", 10 * SECOND + 130 * MILLISECOND, 10 * SECOND + 630 * MILLISECOND);
    assert!(yielding <= 75, "yielding: {yielding}");
    let back = part("bulk", 20 * SECOND + 150 * MILLISECOND, 20 * SECOND + 650 * MILLISECOND);
    assert!(back >= 950, "back: {back}");
    assert!(simulation.excess(0, mbit(link)) <= link * 1_250 + chunk(mbit(link)) as u64);
}

#[test]
fn a_writer_that_is_late_keeps_its_place_only_as_long_as_nothing_is_lost() {
    // Its next request comes 0.9 ms after each grant, so it takes 145 Mbit/s at most.
    let slow = Habit { pause: 900 * MICROSECOND, ..GREEDY };
    let mut simulation = Simulation::new(one(mbit(999), Classifier::Connection));
    let slow = simulation.client("all", 1, slow);
    let greedy = simulation.clients("all", 4, GREEDY);
    simulation.run(5 * SECOND);
    let all = simulation.rate("all", SECOND, 5 * SECOND);
    assert!(all >= 990_000_000, "{all}");
    assert!(simulation.bytes(&[slow])[0] * 8 / 5 >= 100_000_000);
    assert!(simulation.bytes(&greedy).iter().sum::<u64>() * 8 / 5 >= 800_000_000);
}

#[test]
fn what_is_lent_goes_by_priority_and_in_equal_shares_among_equals() {
    let mut settings = shared_20_mbit();
    let more = |name: &str, priority| ClassSettings {
        priority: Priority::new(priority).unwrap(),
        ..class(name, Some("upload"), mbit(1), None)
    };
    settings.classes[1].limit_at = mbit(4);
    settings.classes.extend([more("a", 3), more("b", 3)]);
    let mut simulation = Simulation::new(settings);
    simulation.clients("bulk", 2, GREEDY);
    simulation.clients("a", 5, GREEDY);
    simulation.client("b", 9, GREEDY);
    simulation.run(10 * SECOND);
    let rate = |class| simulation.rate(class, SECOND, 10 * SECOND);
    let near = |got: u64, due: u64| ((got as f64) / (due as f64) - 1.0).abs() < 0.03;
    assert!(near(rate("bulk"), 1_000_000), "{}", rate("bulk"));
    assert!(near(rate("a"), 9_500_000), "{}", rate("a"));
    assert!(near(rate("b"), 9_500_000), "{}", rate("b"));
}

#[test]
fn another_priority_puts_a_class_beside_its_new_equals_at_once() {
    let mut settings = shared_20_mbit();
    settings.classes[1].limit_at = mbit(1);
    settings.classes[2].priority = Priority::new(8).unwrap();
    let mut simulation = Simulation::new(settings);
    // Bulk borrows far more than regular will for a long time.
    simulation.clients("bulk", 4, GREEDY);
    simulation.clients("regular", 4, Habit { from: 20 * SECOND, ..GREEDY });
    simulation.run(21 * SECOND);
    simulation.change(|settings| settings.classes[2].priority = Priority::new(2).unwrap());
    simulation.run(24 * SECOND);
    let rate = |class| simulation.rate(class, 22 * SECOND, 24 * SECOND);
    let share = rate("bulk") as f64 / rate("regular") as f64;
    assert!((0.95..1.05).contains(&share), "{share}");
}

#[test]
fn a_class_without_limits_never_waits() {
    let free = class("free", None, Rate::ZERO, None);
    let settings = Settings { classes: vec![free], ..Settings::default() };
    let mut simulation = Simulation::new(settings);
    simulation.clients("free", 3, GREEDY);
    simulation.run(SECOND / 10);
    assert_eq!(simulation.longest_wait(), 0);
    assert!(simulation.rate("free", 0, SECOND / 10) > 5_000_000_000);
}

#[test]
fn rates_change_under_flows_that_wait() {
    let mut simulation = Simulation::new(one(mbit(20), Classifier::Connection));
    simulation.clients("all", 4, GREEDY);
    for (second, rate) in [(0, 20), (5, 1), (10, 20), (15, 100), (20, 1)] {
        simulation.change(|settings| settings.classes[0].max_limit = Some(mbit(rate)));
        simulation.run((second + 5) * SECOND);
        let from = second * SECOND + 500 * MILLISECOND;
        let got = simulation.rate("all", from, (second + 5) * SECOND);
        assert!((ratio(got, rate * 1_000_000) - 1.0).abs() < 0.02, "{rate}: {got}");
        let first = simulation.rate("all", second * SECOND, from);
        assert!(first <= rate * 1_030_000 + 100_000, "{rate}: {first} in the first 500 ms");
    }
    simulation.change(|settings| settings.classes[0].max_limit = None);
    simulation.run(25 * SECOND + 10 * MILLISECOND);
    assert!(simulation.rate("all", 25 * SECOND, 25 * SECOND + 10 * MILLISECOND) > 1_000_000_000);
}

#[test]
fn whoever_waits_gets_something_within_15_s() {
    // A class without a guarantee, below one that takes all.
    let mut settings = shared_20_mbit();
    settings.classes[2].limit_at = Rate::ZERO;
    let mut simulation = Simulation::new(settings);
    simulation.clients("regular", 3, GREEDY);
    simulation.clients("bulk", 50, GREEDY);
    simulation.run(60 * SECOND);
    assert!(simulation.longest_wait() < 15 * SECOND, "{}", simulation.longest_wait());
    let bulk = simulation.rate("bulk", 10 * SECOND, 60 * SECOND);
    assert!(bulk > 0 && bulk <= 400_000, "a 64th of the parent at most: {bulk}");
    let (bulk, regular) = (simulation.tree.nodes[2].counters, simulation.tree.nodes[1].counters);
    assert!(bulk.trickles > 100 && bulk.starved > 50 * 9 * SECOND && regular.trickles == 0);
}

#[test]
fn ten_thousand_flows_are_kept_alive() {
    for rate in [kbit(20), mbit(1), mbit(20)] {
        let mut simulation = Simulation::new(one(rate, Classifier::SrcAddress));
        // One client has half of them, so that its flows would wait far longer than the others'.
        let habit = Habit { from: SECOND, ..GREEDY };
        let clients: Vec<_> =
            (0..10_000_u32).map(|n| simulation.client("all", n.min(5_000), habit)).collect();
        simulation.run(50 * SECOND);
        let longest = simulation.longest_wait();
        assert!(longest < 15 * SECOND, "{rate}: {} ms", longest / MILLISECOND);
        assert!(simulation.bytes(&clients).iter().all(|bytes| *bytes > 0));
    }
}

#[test]
fn a_flow_that_goes_gives_back_what_it_had_and_its_turn() {
    let mut tree = Tree::new(&one(mbit(8), Classifier::Connection), &[Some(mbit(8))], 0);
    let address = IpAddr::V4(Ipv4Addr::LOCALHOST);
    let flows: Vec<_> = (0..20).map(|_| tree.add_flow(0, address, None, 0)).collect();
    let mut granted = Vec::new();
    for flow in &flows {
        tree.request(*flow, 1000, 0);
    }
    tree.dispatch(0, 0, &mut granted);
    assert_eq!(granted, flows[..11], "10 ms, and one more");
    // The next in turn goes, then one that had a permit.
    tree.remove_flow(flows[11], 0);
    granted.clear();
    let root = tree.remove_flow(flows[0], 0);
    tree.dispatch(root, 0, &mut granted);
    assert_eq!(granted, [flows[12]]);
    assert_eq!(tree.spend(flows[1], 400, 0), Some(0));
    tree.dispatch(0, 0, &mut granted);
    assert_eq!((granted.len(), tree.deadline()), (1, Some(400 * MICROSECOND)));
    for flow in flows[1..11].iter().chain(&flows[12..]) {
        tree.remove_flow(*flow, 0);
    }
    let (counters, _) = tree.counters(0, 0);
    assert_eq!((counters.flows, counters.waiting, counters.bytes), (0, 0, 400));
    assert!(tree.flows.is_empty());
}

/// A class of a tree of random shape: its parent, guarantee and ceiling in kbit/s, priority, burst and
/// key rate.
type Plan = (usize, u64, Option<u64>, u8, Option<u64>, u64);

fn trees() -> impl Strategy<Value = Vec<Plan>> {
    let class = (
        0_usize..100,
        0_u64..3_000,
        prop::option::of(100_u64..50_000),
        1_u8..9,
        prop::option::of(0_u64..100_000),
        prop_oneof![3 => Just(0_u64), 1 => 50_u64..5_000],
    );
    prop::collection::vec(class, 1..8)
}

fn plant(plan: &[Plan]) -> Settings {
    let classes =
        plan.iter().enumerate().map(|(at, (parent, guarantee, max, priority, burst, key))| {
            let parent = (at > 0).then(|| format!("c{}", parent % at));
            ClassSettings {
                priority: Priority::new(*priority).unwrap(),
                burst: burst.map(ByteSize::new),
                pcq: Pcq { classifier: Classifier::SrcAddress, rate: kbit(*key) },
                ..class(&format!("c{at}"), parent.as_deref(), kbit(*guarantee), max.map(kbit))
            }
        });
    Settings { classes: classes.collect(), ..Settings::default() }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    /// Over-committed trees too: what is guaranteed may be nonsense, the ceilings still hold.
    #[test]
    fn no_ceiling_is_exceeded_and_nobody_starves(
        plan in trees(),
        habits in prop::collection::vec((0_usize..100, 0_u32..4, 1_usize..70_000, 0_u64..3_000, 0_u64..5), 1..40),
    ) {
        let settings = plant(&plan);
        let leaves: Vec<_> = {
            let tree = Tree::new(&settings, &vec![None; plan.len()], 0);
            (0..plan.len()).filter(|at| tree.is_leaf(*at)).collect()
        };
        let mut simulation = Simulation::new(settings);
        for (leaf, address, want, pause, from) in habits {
            let name = Arc::clone(&simulation.settings.classes[leaves[leaf % leaves.len()]].name);
            // Without limits nobody waits, and a client that never pauses would never end.
            let pause = pause * MICROSECOND + if plan.iter().any(|class| class.2.is_none()) { MILLISECOND } else { 0 };
            let habit = Habit { want, pause, from: from * SECOND, until: Nanos::MAX };
            simulation.client(&name, address, habit);
        }
        simulation.run(25 * SECOND);
        prop_assert!(simulation.longest_wait() < 15 * SECOND, "{}", simulation.longest_wait());
        for (at, class) in simulation.settings.classes.iter().enumerate() {
            if let Some(max) = class.max_limit {
                let burst = class.burst.map_or(max.bits() / 800, ByteSize::bytes);
                let excess = simulation.excess(at, max);
                let most = burst + chunk(max) as u64 + 1;
                prop_assert!(excess <= most, "{}: {excess} of {most}", class.name);
            }
        }
    }
}
