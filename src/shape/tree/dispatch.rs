//! Who is next: the lowest (level, priority, virtual time) of all classes that may send.
//!
//! The level of a class within its own limit-at is 0. Otherwise it is the height of the nearest class
//! above that has rate to spare. So every guarantee is kept before anything is lent; what is lent goes by
//! priority, and in equal shares among classes of one priority.
//!
//! Starvation: a class without a guarantee may be lent nothing for ever. A flow that has waited for
//! [`STARVED_AFTER`] is served before all others as soon as the max-limits on its path allow it, but with
//! a trickle: `R × 10 s / 64 / n` bytes, where R is the lowest max-limit on its path and n the number of
//! flows that wait for the same limit, so that all trickles together take a 64th of R. A trickle is at
//! least 64 bytes or, where n such trickles would take longer than 4 s, `R × 4 s / n`. So all n flows are
//! served within 4 s even if they began to wait at the same time, and within 15 s of their requests, with
//! the grants made before them (at most half a second's rate each). 10,000 flows at 20 Mbit/s: 64 bytes
//! each take 256 ms of every 10 s. All of them are kept alive down to R = 20 kbit/s, where the trickle is
//! one byte.

use super::{Node, Tree};
use crate::shape::bucket::{Bucket, Nanos, SECOND};
use crate::shape::fair_queue::{CREDIT, HOLD, Turn};
use crate::shape::flows::FlowId;

/// A flow that has waited for so long gets a trickle. S3 gives up on an upload after about 20 s of
/// silence.
const STARVED_AFTER: Nanos = 10 * SECOND;

/// All trickles together take one part in so many of a max-limit.
const TRICKLE_PARTS: u64 = 64;
/// The least trickle in bytes, where the rate allows it.
const MIN_TRICKLE: u64 = 64;
/// Seconds within which all flows that starve at the same time are served.
const TRICKLE_ROUND: u64 = 4;

/// How long before a limit has its whole burst again places are no longer kept: the flow that a place is
/// kept for may ask a whole hold later, and the timer may be 1 ms late.
const SLACK: Nanos = 2 * HOLD;

/// Where a leaf stands in the order, the lowest first: level, priority, virtual time, index.
type Rank = (u8, u8, u64, usize);

/// What a leaf can do now.
enum Offer {
    /// Serve this flow, with rate that this class lends.
    Serve(Rank, FlowId, usize),
    /// Keep its place until then.
    Hold(Rank, Nanos),
    /// Nothing before then.
    Later(Nanos),
    /// Nothing at all.
    Idle,
}

/// What the limits of a leaf and of the classes above it allow.
struct Headroom {
    /// When all max-limits allow a grant.
    ready_at: Nanos,
    /// Every max-limit is about to have its whole burst: its rate is lost if nothing is granted.
    all_full: bool,
    /// A max-limit of a class above is about to have its whole burst, so another leaf should use it.
    shared_full: bool,
    /// When the next max-limit will be about to have its whole burst.
    full_at: Nanos,
    /// The nearest class that has rate to spare; the root if none has.
    lender: usize,
}

impl Tree {
    /// Grants every permit that may be granted in the tree of `root`, adds the flows that got one to
    /// `granted`, and notes when to dispatch again.
    pub(in crate::shape) fn dispatch(
        &mut self,
        root: usize,
        now: Nanos,
        granted: &mut Vec<FlowId>,
    ) {
        loop {
            let mut best: Option<(Rank, FlowId, usize)> = None;
            let mut hold: Option<(Rank, Nanos)> = None;
            let mut urgent: Option<(Nanos, FlowId)> = None;
            let mut deadline: Option<Nanos> = None;
            let mut index = 0;
            while let Some(leaf) = self.nodes[root].root_state.active.get(index).copied() {
                let headroom = self.headroom(leaf, now);
                let starving = self.starving(leaf, now).filter(|_| headroom.ready_at <= now);
                urgent = [urgent, starving].into_iter().flatten().min();
                match self.offer(leaf, &headroom, now) {
                    Offer::Serve(rank, flow, lender) => {
                        if best.is_none_or(|(lowest, ..)| rank < lowest) {
                            best = Some((rank, flow, lender));
                        }
                    }
                    Offer::Hold(rank, until) => {
                        if hold.is_none_or(|(lowest, _)| rank < lowest) {
                            hold = Some((rank, until));
                        }
                    }
                    Offer::Later(at) => deadline = Some(deadline.map_or(at, |other| other.min(at))),
                    Offer::Idle => {
                        self.nodes[root].root_state.active.swap_remove(index);
                        if let Some(leaf) = &mut self.nodes[leaf].leaf {
                            leaf.active = false;
                        }
                        continue;
                    }
                }
                index += 1;
            }
            let held = hold.filter(|(rank, _)| best.is_none_or(|(lowest, ..)| *rank < lowest));
            let flow = match (urgent, held, best) {
                (Some((_, flow)), ..) => {
                    self.grant(flow, None, now);
                    flow
                }
                (None, None, Some((_, flow, lender))) => {
                    self.grant(flow, Some(lender), now);
                    flow
                }
                (None, held, _) => {
                    let until = held.map(|(_, until)| until);
                    self.nodes[root].root_state.deadline = deadline.into_iter().chain(until).min();
                    return;
                }
            };
            granted.push(flow);
        }
    }

    /// Dispatches every tree whose time has come.
    pub(in crate::shape) fn dispatch_due(&mut self, now: Nanos, granted: &mut Vec<FlowId>) {
        for root in 0..self.nodes.len() {
            if self.nodes[root].root_state.deadline.is_some_and(|deadline| deadline <= now) {
                self.dispatch(root, now, granted);
            }
        }
    }

    /// The flow of a leaf that has waited for too long, if there is one, and since when.
    fn starving(&self, leaf: usize, now: Nanos) -> Option<(Nanos, FlowId)> {
        let oldest = self.nodes[leaf].leaf.as_ref()?.queue.oldest()?;
        let since = self.flows[oldest].waiting_since;
        (now.saturating_sub(since) >= STARVED_AFTER).then_some((since, oldest))
    }

    fn headroom(&self, leaf: usize, now: Nanos) -> Headroom {
        let mut headroom = Headroom {
            ready_at: 0,
            all_full: true,
            shared_full: false,
            full_at: Nanos::MAX,
            lender: self.nodes[leaf].root,
        };
        let mut found = false;
        for at in self.path(leaf) {
            let node = &self.nodes[at];
            if let Some(max) = &node.max {
                let full_at = max.full_at().saturating_sub(SLACK);
                let full = full_at <= now;
                headroom.ready_at = headroom.ready_at.max(max.ready_at());
                headroom.all_full &= full;
                headroom.shared_full |= full && at != leaf;
                if !full {
                    headroom.full_at = headroom.full_at.min(full_at);
                }
            }
            let spare = |limit: &Bucket| limit.ready_at() <= now;
            if !found && node.guarantee.as_ref().is_some_and(spare) {
                (headroom.lender, found) = (at, true);
            }
        }
        headroom
    }

    /// What a leaf can do now, and its rank among those of its tree.
    fn offer(&mut self, at: usize, headroom: &Headroom, now: Nanos) -> Offer {
        let (root, priority) = (self.nodes[at].root, self.nodes[at].priority);
        let level = self.nodes[headroom.lender].height;
        let Some(leaf) = &mut self.nodes[at].leaf else { return Offer::Idle };
        // A place is kept only while no rate is lost by it: while some limit on the path still fills up.
        let turn = leaf.queue.turn(now, !headroom.all_full);
        let kind = usize::from(level == 0);
        let tag = leaf.tags[kind];
        let virtual_time = self.nodes[root].root_state.virtual_time[kind][usize::from(priority)];
        let start = tag.max(virtual_time.saturating_sub(CREDIT));
        let rank = (level, priority, start, at);
        match turn {
            Turn::Idle => Offer::Idle,
            Turn::At(until) => Offer::Later(until),
            Turn::Flow(_) | Turn::Held(_) if headroom.ready_at > now => {
                Offer::Later(headroom.ready_at)
            }
            Turn::Flow(flow) => Offer::Serve(rank, flow, headroom.lender),
            Turn::Held(until) if headroom.shared_full => Offer::Later(until.min(headroom.full_at)),
            Turn::Held(until) => Offer::Hold(rank, until.min(headroom.full_at)),
        }
    }

    /// Grants a waiting flow a full chunk that `lender` lends or, without one, a trickle out of turn.
    fn grant(&mut self, id: FlowId, lender: Option<usize>, now: Nanos) {
        let class = self.flows[id].leaf;
        let (root, priority) = (self.nodes[class].root, usize::from(self.nodes[class].priority));
        // A trickle uses up no guarantee.
        let lender_height = lender.map_or(u8::MAX, |lender| self.nodes[lender].height);
        let bytes = match lender {
            Some(_) => self.chunk(id),
            None => self.trickle(id),
        };
        let slot = &mut self.flows[id];
        let waited = now.saturating_sub(slot.waiting_since);
        slot.want = 0;
        slot.granted_at = now;
        slot.lender_height = lender_height;
        (slot.permit, slot.charged) = (bytes, bytes);
        self.for_path(class, |node: &mut Node| {
            let guarantee = node.guarantee.as_mut().filter(|_| node.height >= lender_height);
            node.max.iter_mut().chain(guarantee).for_each(|bucket| bucket.charge(bytes, now));
            node.counters.count_grant(waited, lender.is_none());
        });
        let kind = usize::from(lender_height == 0);
        let virtual_time = self.nodes[root].root_state.virtual_time[kind][priority];
        let Some(leaf) = &mut self.nodes[class].leaf else { return };
        let start = leaf.tags[kind].max(virtual_time.saturating_sub(CREDIT));
        leaf.tags[kind] = start + bytes as u64;
        leaf.queue.serve(&mut self.flows, id, bytes, lender.is_some(), now);
        if lender.is_some() {
            self.nodes[root].root_state.virtual_time[kind][priority] = virtual_time.max(start);
        }
    }

    /// The bytes of a grant in turn: what the flow wants, up to its class's chunk.
    fn chunk(&self, id: FlowId) -> usize {
        let slot = &self.flows[id];
        let most = self.nodes[slot.leaf].leaf.as_ref().map_or(1, |leaf| leaf.chunk);
        slot.want.min(most)
    }

    /// The bytes of a grant out of turn; see the head of this file. Rates are below 2^40, so the products
    /// are below 2^44.
    fn trickle(&self, id: FlowId) -> usize {
        let slot = &self.flows[id];
        let above = self.path(slot.leaf).filter_map(|at| {
            let node = &self.nodes[at];
            Some((node.max.as_ref()?.rate().bits(), node.counters.waiting))
        });
        let key =
            self.nodes[slot.leaf].leaf.as_ref().and_then(|leaf| leaf.queue.key_limit(slot.key));
        let share = |(bits, waiting): (u64, usize)| {
            let each = |seconds: u64| bits * seconds / 8 / (waiting.max(1) as u64);
            (each(STARVED_AFTER / SECOND) / TRICKLE_PARTS).max(each(TRICKLE_ROUND).min(MIN_TRICKLE))
        };
        let bytes = above.chain(key).map(share).min().unwrap_or(MIN_TRICKLE).max(1);
        self.chunk(id).min(usize::try_from(bytes).unwrap_or(usize::MAX))
    }
}
