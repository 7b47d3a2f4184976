//! The classes, what each may do now, and what is charged for it.
//!
//! [`Tree::request`] puts a flow into its class's queue, [`dispatch`](self::dispatch) grants whatever
//! may be granted and says when to come back, [`Tree::spend`] takes back what was not used.
//!
//! Invariants:
//! - a grant is charged to the max-limit of its class and of every class above, and is made only while
//!   all of them allow it;
//! - a limit-at is charged only from the class that lends upward, as Linux's HTB does: what a class
//!   borrows does not use up its guarantee;
//! - a class without a max-limit anywhere above it never waits.
//!
//! Pure: time is a parameter. It must not know of tasks, wakers or sockets.

mod dispatch;
#[cfg(test)]
mod tests;

use std::net::IpAddr;
use std::sync::Arc;

use super::bucket::{Bucket, Cost, Nanos};
use super::counters::ClassCounters;
use super::fair_queue::{FairQueue, Party};
use super::flows::{FlowId, Flows, Slot};
use super::settings::{ClassSettings, Classifier, Count, Priority, Settings};
use crate::units::Rate;

/// The most bytes of one grant: 64 KiB from 1 Gbit/s up, where a smaller one costs too much CPU.
pub(super) const LARGEST: usize = 64 << 10;
/// The most bytes of one grant below that: a TLS record, and what a socket takes at a time.
const LARGE: usize = 16 << 10;
/// The least, where the rate allows: a full segment.
const SEGMENT: usize = 1460;

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
    /// The class at the top of this one's tree.
    top: usize,
    /// Steps down to the farthest leaf.
    height: u8,
    priority: u8,
    max: Option<Bucket>,
    /// The guarantee. None at the top, which shares with nobody and lends all it has.
    limit: Option<Bucket>,
    tally: ClassCounters,
    /// What only leaves have.
    leaf: Option<Leaf>,
    /// What only tops have.
    crown: Crown,
}

/// What a class has that flows may join.
#[derive(Debug)]
struct Leaf {
    fair: FairQueue,
    classifier: Classifier,
    /// It stands in its crown's list.
    active: bool,
    /// Something may make its flows wait.
    limited: bool,
    /// The most bytes of a grant.
    chunk: usize,
    /// Virtual time of what it was lent, and of what it got by its guarantee.
    tags: [u64; 2],
}

/// What the top of a tree knows of its leaves.
#[derive(Debug, Default)]
struct Crown {
    /// Leaves with flows that wait or are expected back.
    active: Vec<usize>,
    /// Virtual time for each of a leaf's tags, by priority.
    passed: [[u64; Priority::COUNT]; 2],
    /// When to dispatch again.
    deadline: Option<Nanos>,
}

impl Tree {
    /// A tree of `settings`, which have no faults. `ceilings` are the max-limits in force.
    pub(super) fn new(settings: &Settings, ceilings: &[Option<Rate>], now: Nanos) -> Self {
        let cost = cost(settings.count);
        let classes = &settings.classes;
        let parent = |class: &ClassSettings| {
            let name = class.parent.as_ref()?;
            classes.iter().position(|other| other.name == *name)
        };
        let parents: Vec<_> = classes.iter().map(parent).collect();
        let nodes = classes.iter().enumerate().map(|(at, class)| {
            let fair = FairQueue::new(class.pcq, cost);
            Node {
                parent: parents[at],
                top: path(&parents, at).last().unwrap_or(at),
                height: 0,
                priority: class.priority.number() - 1,
                max: None,
                limit: None,
                tally: ClassCounters::default(),
                leaf: (!parents.contains(&Some(at))).then_some(Leaf {
                    fair,
                    classifier: class.pcq.classifier,
                    active: false,
                    limited: false,
                    chunk: LARGEST,
                    tags: [0; 2],
                }),
                crown: Crown::default(),
            }
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

    /// Other rates, priorities and costs for the same classes, for flows that wait as well: every tree
    /// is to be dispatched.
    pub(super) fn apply(&mut self, settings: &Settings, ceilings: &[Option<Rate>], now: Nanos) {
        let cost = cost(settings.count);
        for ((node, class), ceiling) in self.nodes.iter_mut().zip(&settings.classes).zip(ceilings) {
            let burst = class.burst.map(|burst| burst.bytes());
            tune(&mut node.max, *ceiling, burst, cost, now);
            let shares = node.parent.is_some();
            let guarantee = (class.limit_at.bits() > 0 && shares).then_some(class.limit_at);
            tune(&mut node.limit, guarantee, None, cost, now);
            if let Some(leaf) = &mut node.leaf {
                leaf.fair.retune(class.pcq, cost, now);
            }
        }
        self.cost = cost;
        for (at, class) in settings.classes.iter().enumerate() {
            self.rank(at, class.priority.number() - 1);
        }
        for (at, class) in settings.classes.iter().enumerate() {
            let limits = self.path(at).filter_map(|above| self.nodes[above].max.as_ref());
            let own = (class.pcq.rate.bits() > 0).then_some(class.pcq.rate);
            let lowest = limits.map(Bucket::rate).chain(own).min();
            if let Some(leaf) = &mut self.nodes[at].leaf {
                leaf.limited = lowest.is_some();
                leaf.chunk = lowest.map_or(LARGEST, chunk);
            }
        }
    }

    /// Gives a class another priority. Virtual times of two priorities have nothing in common, so the
    /// class joins its new equals where they are: with its old time it might wait for hours.
    fn rank(&mut self, class: usize, priority: u8) {
        let node = &self.nodes[class];
        if node.priority == priority {
            return;
        }
        let passed = self.nodes[node.top].crown.passed.map(|passed| passed[usize::from(priority)]);
        self.nodes[class].priority = priority;
        if let Some(leaf) = &mut self.nodes[class].leaf {
            leaf.tags = passed;
        }
    }

    /// The tops of all trees.
    pub(super) fn tops(&self) -> Vec<usize> {
        (0..self.nodes.len()).filter(|at| self.nodes[*at].parent.is_none()).collect()
    }

    /// When the tree of `top` is to be dispatched again.
    pub(super) fn deadline_of(&self, top: usize) -> Option<Nanos> {
        self.nodes[top].crown.deadline
    }

    /// The earliest time at which some tree is to be dispatched again.
    pub(super) fn deadline(&self) -> Option<Nanos> {
        self.nodes.iter().filter_map(|node| node.crown.deadline).min()
    }

    /// Whether a class has no children.
    pub(super) fn is_leaf(&self, class: usize) -> bool {
        self.nodes[class].leaf.is_some()
    }

    /// Adds a flow to a leaf.
    pub(super) fn join(
        &mut self,
        class: usize,
        client: IpAddr,
        user: Option<&Arc<str>>,
        now: Nanos,
    ) -> FlowId {
        let leaf = self.nodes[class].leaf.as_mut().expect("flows join leaves alone");
        let party = match (leaf.classifier, user) {
            (Classifier::Connection, _) => Party::Alone,
            (Classifier::User, Some(user)) => Party::User(Arc::clone(user)),
            (Classifier::User | Classifier::SrcAddress, _) => Party::Address(client.to_canonical()),
        };
        let key = leaf.fair.join(party, now);
        self.each_above(class, |node| node.tally.flows += 1);
        self.flows.insert(Slot::new(class, key))
    }

    /// Removes a flow; what it had leave for is given back. Returns the tree that is to be dispatched.
    pub(super) fn leave(&mut self, id: FlowId, now: Nanos) -> usize {
        if self.flows[id].leave > 0 {
            self.spend(id, 0, now);
        }
        let (class, key) = (self.flows[id].leaf, self.flows[id].key);
        if self.flows[id].want > 0 {
            self.each_above(class, |node| node.tally.waiting -= 1);
            if let Some(leaf) = &mut self.nodes[class].leaf {
                leaf.fair.cancel(&mut self.flows, id, now);
            }
        }
        if let Some(leaf) = &mut self.nodes[class].leaf {
            leaf.fair.leave(key);
        }
        self.each_above(class, |node| node.tally.flows -= 1);
        self.flows.remove(id);
        self.nodes[class].top
    }

    /// A flow asks for leave to move up to `want` bytes, at least 1. If it has some already, nothing
    /// happens; else it waits. Returns the tree that is to be dispatched.
    pub(super) fn request(&mut self, id: FlowId, want: usize, now: Nanos) -> Option<usize> {
        let slot = &mut self.flows[id];
        if slot.leave > 0 {
            return None;
        }
        let want = want.max(1);
        if slot.want > 0 {
            slot.want = want;
            return None;
        }
        let class = slot.leaf;
        let top = self.nodes[class].top;
        let leaf = self.nodes[class].leaf.as_mut()?;
        if !leaf.limited {
            (slot.leave, slot.charged) = (want.min(LARGEST), 0);
            return None;
        }
        slot.want = want;
        slot.since = now;
        slot.quick = now.saturating_sub(slot.granted) <= super::fair_queue::HOLD;
        leaf.fair.push(&mut self.flows, id, now);
        if !std::mem::replace(&mut leaf.active, true) {
            self.nodes[top].crown.active.push(class);
        }
        self.each_above(class, |node| node.tally.waiting += 1);
        Some(top)
    }

    /// What a flow may move now; 0 if it has to wait.
    pub(super) fn leave_of(&self, id: FlowId) -> usize {
        self.flows[id].leave
    }

    /// A flow has moved `used` bytes of its leave. The rest is given back; if there is any, the tree
    /// that is to be dispatched is returned.
    pub(super) fn spend(&mut self, id: FlowId, used: usize, now: Nanos) -> Option<usize> {
        let slot = &mut self.flows[id];
        let used = used.min(slot.leave);
        let back = (slot.leave - used).min(slot.charged);
        slot.leave = 0;
        let (class, key, granted, lent_from) = (slot.leaf, slot.key, slot.granted, slot.lent_from);
        self.each_above(class, |node| node.tally.used(used, now));
        if back == 0 {
            return None;
        }
        self.each_above(class, |node| {
            let limit = node.limit.as_mut().filter(|_| node.height >= lent_from);
            node.max.iter_mut().chain(limit).for_each(|bucket| bucket.refund(back, granted));
        });
        let leaf = self.nodes[class].leaf.as_mut()?;
        let tag = &mut leaf.tags[usize::from(lent_from == 0)];
        *tag = tag.saturating_sub(back as u64);
        leaf.fair.refund(key, back, granted, now);
        Some(self.nodes[class].top)
    }

    /// The counts of a class, and its rate in bytes per second.
    pub(super) fn tally(&mut self, class: usize, now: Nanos) -> (ClassCounters, u64) {
        let tally = &mut self.nodes[class].tally;
        let rate = tally.rate(now);
        (*tally, rate)
    }

    /// A class and all above it, from the bottom up.
    fn path(&self, class: usize) -> impl Iterator<Item = usize> {
        std::iter::successors(Some(class), |at| self.nodes[*at].parent)
    }

    fn each_above(&mut self, class: usize, mut act: impl FnMut(&mut Node)) {
        let mut at = Some(class);
        while let Some(class) = at {
            let node = &mut self.nodes[class];
            act(node);
            at = node.parent;
        }
    }
}

fn path(parents: &[Option<usize>], class: usize) -> impl Iterator<Item = usize> {
    std::iter::successors(Some(class), |at| parents[*at])
}

fn cost(count: Count) -> Cost {
    match count {
        Count::Payload => Cost::PAYLOAD,
        Count::Wire => Cost::WIRE,
    }
}

/// Puts a rate into a bucket that may not be there yet, or not be wanted any more.
fn tune(
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
/// half a second's, so that a slow class has not to wait longer for its next one.
fn chunk(rate: Rate) -> usize {
    let bytes = |time: u64| usize::try_from(rate.bits() / 8 / time).unwrap_or(usize::MAX);
    if rate.bits() >= 1_000_000_000 {
        return LARGEST;
    }
    bytes(500).clamp(SEGMENT, LARGE).min(bytes(2)).max(1)
}
