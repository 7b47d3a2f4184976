//! The classes, what each may do now, and what is charged for it.
//!
//! [`Tree::request`] puts a flow into its class's queue, [`dispatch`](self::dispatch) grants every permit
//! that may be granted and says when to dispatch again, [`Tree::spend`] takes back what was not used.
//!
//! Invariants:
//! - a grant is charged to the max-limit of its class and of every class above, and is made only while
//!   all of them allow it;
//! - a limit-at is charged only in the lending class and those above it, as in Linux's HTB: what a class
//!   borrows does not use up its own guarantee;
//! - a class without a max-limit anywhere above it never waits.
//!
//! Pure: time is a parameter. This room must not know of tasks, wakers or sockets.

mod dispatch;
#[cfg(test)]
mod tests;

use std::net::IpAddr;
use std::sync::Arc;

use super::bucket::{Bucket, Cost, Nanos};
use super::counters::ClassCounters;
use super::fair_queue::{FairKey, FairQueue};
use super::flows::{FlowId, Flows, Slot};
use super::settings::{ClassSettings, Classifier, Count, Priority, Settings};
use crate::units::Rate;

/// The most bytes of one grant: 64 KiB from 1 Gbit/s up, where a smaller one costs too much CPU.
pub(super) const MAX_FAST_CHUNK: usize = 64 << 10;
/// The most bytes of one grant below 1 Gbit/s: a TLS record, and what a socket takes at a time.
const MAX_CHUNK: usize = 16 << 10;
/// The least bytes of one grant, where the rate allows it: a full segment.
const MIN_CHUNK: usize = 1460;

/// All classes and all their flows.
#[derive(Debug)]
pub(super) struct Tree {
    nodes: Vec<Node>,
    flows: Flows,
    cost: Cost,
}

/// One class.
#[derive(Debug)]
struct Node {
    parent: Option<usize>,
    /// The class at the root of this one's tree.
    root: usize,
    /// Steps down to the farthest leaf.
    height: u8,
    priority: u8,
    /// The ceiling in force.
    max: Option<Bucket>,
    /// limit-at. None at a root, which shares with nobody and lends its whole rate.
    guarantee: Option<Bucket>,
    counters: ClassCounters,
    /// What only a leaf has.
    leaf: Option<Leaf>,
    /// What only a root has; unused in other classes.
    root_state: Root,
}

/// What a class without children has: flows may be added to it.
#[derive(Debug)]
struct Leaf {
    queue: FairQueue,
    classifier: Classifier,
    /// It is in its root's list of active leaves.
    active: bool,
    /// Something may make its flows wait.
    limited: bool,
    /// The most bytes of a grant.
    chunk: usize,
    /// Start tags, as virtual time in bytes: of what it was lent, and of what it got by its guarantee.
    tags: [u64; 2],
}

/// What the root of a tree knows of its leaves.
#[derive(Debug, Default)]
struct Root {
    /// Leaves with flows that wait or are expected to ask again.
    active: Vec<usize>,
    /// The virtual time of each of a leaf's tags, by priority.
    virtual_time: [[u64; Priority::COUNT]; 2],
    /// When to dispatch again.
    deadline: Option<Nanos>,
}

impl Tree {
    /// A tree of `settings`, which have no faults. `ceilings` are those in force, by class.
    pub(super) fn new(settings: &Settings, ceilings: &[Option<Rate>], now: Nanos) -> Self {
        let cost = cost(settings.count);
        let classes = &settings.classes;
        let parent = |class: &ClassSettings| {
            let name = class.parent.as_ref()?;
            classes.iter().position(|other| other.name == *name)
        };
        let parents: Vec<_> = classes.iter().map(parent).collect();
        let nodes = classes.iter().enumerate().map(|(at, class)| Node {
            parent: parents[at],
            root: path(&parents, at).last().unwrap_or(at),
            height: 0,
            priority: class.priority.number() - 1,
            max: None,
            guarantee: None,
            counters: ClassCounters::default(),
            leaf: (!parents.contains(&Some(at))).then_some(Leaf {
                queue: FairQueue::new(class.pcq, cost),
                classifier: class.pcq.classifier,
                active: false,
                limited: false,
                chunk: MAX_FAST_CHUNK,
                tags: [0; 2],
            }),
            root_state: Root::default(),
        });
        let mut tree = Self { nodes: nodes.collect(), flows: Flows::new(), cost };
        for leaf in 0..tree.nodes.len() {
            if tree.nodes[leaf].leaf.is_some() {
                for (height, above) in path(&parents, leaf).enumerate() {
                    let height = u8::try_from(height).unwrap_or(u8::MAX);
                    tree.nodes[above].height = tree.nodes[above].height.max(height);
                }
            }
        }
        tree.apply(settings, ceilings, now);
        tree
    }

    /// Other rates, priorities and costs for the same classes, for flows that wait as well. Every tree is
    /// to be dispatched afterwards.
    pub(super) fn apply(&mut self, settings: &Settings, ceilings: &[Option<Rate>], now: Nanos) {
        let cost = cost(settings.count);
        for ((node, class), ceiling) in self.nodes.iter_mut().zip(&settings.classes).zip(ceilings) {
            let burst = class.burst.map(|burst| burst.bytes());
            set_rate(&mut node.max, *ceiling, burst, cost, now);
            let shares = node.parent.is_some();
            let guarantee = (class.limit_at.bits() > 0 && shares).then_some(class.limit_at);
            set_rate(&mut node.guarantee, guarantee, None, cost, now);
            if let Some(leaf) = &mut node.leaf {
                leaf.queue.retune(class.pcq, cost, now);
            }
        }
        self.cost = cost;
        for (at, class) in settings.classes.iter().enumerate() {
            self.set_priority(at, class.priority.number() - 1);
        }
        for (at, class) in settings.classes.iter().enumerate() {
            let limits = self.path(at).filter_map(|above| self.nodes[above].max.as_ref());
            let own = (class.pcq.rate.bits() > 0).then_some(class.pcq.rate);
            let lowest = limits.map(Bucket::rate).chain(own).min();
            if let Some(leaf) = &mut self.nodes[at].leaf {
                leaf.limited = lowest.is_some();
                leaf.chunk = lowest.map_or(MAX_FAST_CHUNK, chunk);
            }
        }
    }

    /// Gives a class another priority. Virtual times of two priorities have nothing in common, so the
    /// class takes over that of its new equals: with its old one it might wait for hours.
    fn set_priority(&mut self, class: usize, priority: u8) {
        let node = &self.nodes[class];
        if node.priority == priority {
            return;
        }
        let times = self.nodes[node.root].root_state.virtual_time;
        let times = times.map(|times| times[usize::from(priority)]);
        self.nodes[class].priority = priority;
        if let Some(leaf) = &mut self.nodes[class].leaf {
            leaf.tags = times;
        }
    }

    /// The roots of all trees.
    pub(super) fn roots(&self) -> Vec<usize> {
        (0..self.nodes.len()).filter(|at| self.nodes[*at].parent.is_none()).collect()
    }

    /// When the tree of `root` is to be dispatched again.
    pub(super) fn deadline_of(&self, root: usize) -> Option<Nanos> {
        self.nodes[root].root_state.deadline
    }

    /// The earliest time at which some tree is to be dispatched again.
    pub(super) fn deadline(&self) -> Option<Nanos> {
        self.nodes.iter().filter_map(|node| node.root_state.deadline).min()
    }

    /// Whether a class has no children.
    pub(super) fn is_leaf(&self, class: usize) -> bool {
        self.nodes[class].leaf.is_some()
    }

    /// Adds a flow to a leaf.
    pub(super) fn add_flow(
        &mut self,
        class: usize,
        client: IpAddr,
        user: Option<&Arc<str>>,
        now: Nanos,
    ) -> FlowId {
        let leaf = self.nodes[class].leaf.as_mut().expect("flows are added to leaves alone");
        let key = match (leaf.classifier, user) {
            (Classifier::Connection, _) => FairKey::Flow,
            (Classifier::User, Some(user)) => FairKey::User(Arc::clone(user)),
            (Classifier::User | Classifier::SrcAddress, _) => {
                FairKey::Address(client.to_canonical())
            }
        };
        let key = leaf.queue.add_flow(key, now);
        self.for_path(class, |node| node.counters.flows += 1);
        self.flows.insert(Slot::new(class, key))
    }

    /// Removes a flow; its permit is given back. Returns the root of the tree that is to be dispatched.
    pub(super) fn remove_flow(&mut self, id: FlowId, now: Nanos) -> usize {
        if self.flows[id].permit > 0 {
            self.spend(id, 0, now);
        }
        let (class, key) = (self.flows[id].leaf, self.flows[id].key);
        if self.flows[id].want > 0 {
            self.for_path(class, |node| node.counters.waiting -= 1);
            if let Some(leaf) = &mut self.nodes[class].leaf {
                leaf.queue.cancel(&mut self.flows, id, now);
            }
        }
        if let Some(leaf) = &mut self.nodes[class].leaf {
            leaf.queue.remove_flow(key);
        }
        self.for_path(class, |node| node.counters.flows -= 1);
        self.flows.remove(id);
        self.nodes[class].root
    }

    /// A flow asks for a permit to move up to `want` bytes, at least 1. If it has one already, nothing
    /// happens; else it waits. Returns the root of the tree that is to be dispatched.
    pub(super) fn request(&mut self, id: FlowId, want: usize, now: Nanos) -> Option<usize> {
        let slot = &mut self.flows[id];
        if slot.permit > 0 {
            return None;
        }
        let want = want.max(1);
        if slot.want > 0 {
            slot.want = want;
            return None;
        }
        let class = slot.leaf;
        let root = self.nodes[class].root;
        let leaf = self.nodes[class].leaf.as_mut()?;
        if !leaf.limited {
            (slot.permit, slot.charged) = (want.min(MAX_FAST_CHUNK), 0);
            return None;
        }
        slot.want = want;
        slot.waiting_since = now;
        slot.asks_again_fast = now.saturating_sub(slot.granted_at) <= super::fair_queue::HOLD;
        leaf.queue.enqueue(&mut self.flows, id, now);
        if !std::mem::replace(&mut leaf.active, true) {
            self.nodes[root].root_state.active.push(class);
        }
        self.for_path(class, |node| node.counters.waiting += 1);
        Some(root)
    }

    /// The bytes of a flow's permit; 0 if it has none and has to wait.
    pub(super) fn permit_of(&self, id: FlowId) -> usize {
        self.flows[id].permit
    }

    /// A flow has moved `used` bytes of its permit. The rest is given back; if there is any, returns the
    /// root of the tree that is to be dispatched.
    pub(super) fn spend(&mut self, id: FlowId, used: usize, now: Nanos) -> Option<usize> {
        let slot = &mut self.flows[id];
        let used = used.min(slot.permit);
        let back = (slot.permit - used).min(slot.charged);
        slot.permit = 0;
        let (class, key) = (slot.leaf, slot.key);
        let (granted_at, lender_height) = (slot.granted_at, slot.lender_height);
        self.for_path(class, |node| node.counters.count_moved(used, now));
        if back == 0 {
            return None;
        }
        self.for_path(class, |node| {
            let guarantee = node.guarantee.as_mut().filter(|_| node.height >= lender_height);
            node.max.iter_mut().chain(guarantee).for_each(|bucket| bucket.refund(back, granted_at));
        });
        let leaf = self.nodes[class].leaf.as_mut()?;
        let tag = &mut leaf.tags[usize::from(lender_height == 0)];
        *tag = tag.saturating_sub(back as u64);
        leaf.queue.refund(key, back, granted_at, now);
        Some(self.nodes[class].root)
    }

    /// The counts of a class, and its rate in bytes per second.
    pub(super) fn counters(&mut self, class: usize, now: Nanos) -> (ClassCounters, u64) {
        let counters = &mut self.nodes[class].counters;
        let rate = counters.rate(now);
        (*counters, rate)
    }

    /// A class and all above it, from the bottom up.
    fn path(&self, class: usize) -> impl Iterator<Item = usize> {
        std::iter::successors(Some(class), |at| self.nodes[*at].parent)
    }

    /// Does something to a class and all above it, from the bottom up.
    fn for_path(&mut self, class: usize, mut act: impl FnMut(&mut Node)) {
        let mut at = Some(class);
        while let Some(class) = at {
            let node = &mut self.nodes[class];
            act(node);
            at = node.parent;
        }
    }
}

/// A class and all above it, from the bottom up.
fn path(parents: &[Option<usize>], class: usize) -> impl Iterator<Item = usize> {
    std::iter::successors(Some(class), |at| parents[*at])
}

fn cost(count: Count) -> Cost {
    match count {
        Count::Payload => Cost::PAYLOAD,
        Count::Wire => Cost::WIRE,
    }
}

/// Gives a bucket another rate. It may not be there yet, or not be needed any more.
fn set_rate(
    bucket: &mut Option<Bucket>,
    rate: Option<Rate>,
    burst: Option<u64>,
    cost: Cost,
    now: Nanos,
) {
    match (bucket.as_mut(), rate) {
        (_, None) => *bucket = None,
        (Some(bucket), Some(rate)) => bucket.retune(rate, burst, cost, now),
        (None, Some(rate)) => *bucket = Some(Bucket::new(rate, burst, cost, now)),
    }
}

/// The most bytes of one grant at that rate: 2 ms of it, within the bounds above, but never more than
/// half a second's, so that the next grant of a slow class comes no later.
fn chunk(rate: Rate) -> usize {
    let bytes = |time: u64| usize::try_from(rate.bits() / 8 / time).unwrap_or(usize::MAX);
    if rate.bits() >= 1_000_000_000 {
        return MAX_FAST_CHUNK;
    }
    bytes(500).clamp(MIN_CHUNK, MAX_CHUNK).min(bytes(2)).max(1)
}
