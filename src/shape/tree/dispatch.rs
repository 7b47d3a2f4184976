//! Who is next: the lowest (level, priority, virtual time) of all classes that may send.
//!
//! Level 0 is a class within its own limit-at; else the level is the height of the nearest class above
//! that has rate to spare. So every guarantee is kept before anything is lent, and what is lent goes by
//! priority, and in equal shares among equals.
//!
//! Starvation: what is lent may never reach a class without a guarantee. A flow that has waited for
//! [`STARVED`] is served before everybody else as soon as the max-limits on its path allow it, but
//! with a trickle: `R × 10 s / 64 / n` bytes, where R is the lowest max-limit on its path, and n the
//! flows that wait for the same, so that all trickles together take a 64th of R. That is at least 64
//! bytes or, where these are too many, `R × 4 s / n`: all n flows are served within 4 s, even if they
//! began to wait at once, and with the grants that are on their way before (at most half a second's
//! rate each) before 15 s are over. 10,000 flows at 20 Mbit/s: 64 bytes each take 256 ms of every
//! 10 s. They can all be kept alive down to R = 20 kbit/s, where the trickle is one byte.

use super::{Node, Tree};
use crate::shape::bucket::{Bucket, Nanos, SECOND};
use crate::shape::fair_queue::{CREDIT, HOLD, Turn};
use crate::shape::flows::FlowId;

/// After so long a wait a flow gets a trickle. S3 gives up on an upload after about 20 s of silence.
const STARVED: Nanos = 10 * SECOND;

/// All trickles together take this fraction of a max-limit.
const TRICKLES: u64 = 64;
/// The least trickle in bytes where the rate allows it.
const TRICKLE: u64 = 64;
/// Seconds within which all flows that starve at a time are served.
const ROUND: u64 = 4;

/// So long before a limit has its whole burst no place is kept any more: what is waited for may be
/// a hold late, and the timer 1 ms.
const SLACK: Nanos = 2 * HOLD;

/// Where a leaf stands in the order, the lowest first.
type Rank = (u8, u8, u64, usize);

/// What a leaf could do now.
enum Offer {
    /// Its turn is this flow's, lent by this class.
    Serve(Rank, FlowId, usize),
    /// Its place is kept until then.
    Hold(Rank, Nanos),
    /// Nothing before then.
    Later(Nanos),
    /// Nothing at all.
    Idle,
}

/// What the max-limits above a leaf say.
struct Room {
    /// When all of them allow a grant.
    ready_at: Nanos,
    /// All of them are about to have their whole burst: more is lost than gained by waiting.
    all_full: bool,
    /// One that is shared with others is: its rate is lost if nobody uses it.
    shared_full: bool,
    /// The first time at which another one will be.
    full_at: Nanos,
    /// The nearest class that has rate to spare.
    lender: usize,
}

impl Tree {
    /// Grants whatever may be granted in the tree of `top`, adds who got it to `granted`, and notes
    /// when to come back.
    pub(in crate::shape) fn dispatch(&mut self, top: usize, now: Nanos, granted: &mut Vec<FlowId>) {
        loop {
            let mut best: Option<(Rank, FlowId, usize)> = None;
            let mut hold: Option<(Rank, Nanos)> = None;
            let mut urgent: Option<(Nanos, FlowId)> = None;
            let mut deadline: Option<Nanos> = None;
            let mut index = 0;
            while let Some(leaf) = self.nodes[top].crown.active.get(index).copied() {
                let room = self.room(leaf, now);
                let starving = self.starving(leaf, now).filter(|_| room.ready_at <= now);
                urgent = [urgent, starving].into_iter().flatten().min();
                match self.offer(leaf, &room, now) {
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
                        self.nodes[top].crown.active.swap_remove(index);
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
                    self.nodes[top].crown.deadline = deadline.into_iter().chain(until).min();
                    return;
                }
            };
            granted.push(flow);
        }
    }

    /// Dispatches every tree whose time has come.
    pub(in crate::shape) fn dispatch_due(&mut self, now: Nanos, granted: &mut Vec<FlowId>) {
        for top in 0..self.nodes.len() {
            if self.nodes[top].crown.deadline.is_some_and(|deadline| deadline <= now) {
                self.dispatch(top, now, granted);
            }
        }
    }

    /// The flow of a leaf that has waited too long, and since when.
    fn starving(&self, leaf: usize, now: Nanos) -> Option<(Nanos, FlowId)> {
        let oldest = self.nodes[leaf].leaf.as_ref()?.fair.oldest()?;
        let since = self.flows[oldest].since;
        (now.saturating_sub(since) >= STARVED).then_some((since, oldest))
    }

    fn room(&self, leaf: usize, now: Nanos) -> Room {
        let mut room = Room {
            ready_at: 0,
            all_full: true,
            shared_full: false,
            full_at: Nanos::MAX,
            lender: self.nodes[leaf].top,
        };
        let mut lent = false;
        for at in self.path(leaf) {
            let node = &self.nodes[at];
            if let Some(max) = &node.max {
                let full_at = max.full_at().saturating_sub(SLACK);
                let full = full_at <= now;
                room.ready_at = room.ready_at.max(max.ready_at());
                room.all_full &= full;
                room.shared_full |= full && at != leaf;
                if !full {
                    room.full_at = room.full_at.min(full_at);
                }
            }
            let spare = |limit: &Bucket| limit.ready_at() <= now;
            if !lent && node.limit.as_ref().is_some_and(spare) {
                (room.lender, lent) = (at, true);
            }
        }
        room
    }

    fn offer(&mut self, at: usize, room: &Room, now: Nanos) -> Offer {
        let (top, priority) = (self.nodes[at].top, self.nodes[at].priority);
        let level = self.nodes[room.lender].height;
        let Some(leaf) = &mut self.nodes[at].leaf else { return Offer::Idle };
        // A place is kept only while nothing is lost by it: while some limit on the path still fills.
        let turn = leaf.fair.turn(now, !room.all_full);
        let kind = usize::from(level == 0);
        let tag = leaf.tags[kind];
        let start = tag
            .max(self.nodes[top].crown.passed[kind][usize::from(priority)].saturating_sub(CREDIT));
        let rank = (level, priority, start, at);
        match turn {
            Turn::Idle => Offer::Idle,
            Turn::At(until) => Offer::Later(until),
            Turn::Flow(_) | Turn::Held(_) if room.ready_at > now => Offer::Later(room.ready_at),
            Turn::Flow(flow) => Offer::Serve(rank, flow, room.lender),
            Turn::Held(until) if room.shared_full => Offer::Later(until.min(room.full_at)),
            Turn::Held(until) => Offer::Hold(rank, until.min(room.full_at)),
        }
    }

    /// Grants a waiting flow a full chunk, lent by `lender`, or out of turn a trickle.
    fn grant(&mut self, id: FlowId, lender: Option<usize>, now: Nanos) {
        let class = self.flows[id].leaf;
        let (top, priority) = (self.nodes[class].top, usize::from(self.nodes[class].priority));
        // A trickle uses up nobody's guarantee.
        let lent_from = lender.map_or(u8::MAX, |lender| self.nodes[lender].height);
        let bytes = match lender {
            Some(_) => self.chunk(id),
            None => self.trickle(id),
        };
        let slot = &mut self.flows[id];
        let waited = now.saturating_sub(slot.since);
        slot.want = 0;
        slot.granted = now;
        slot.lent_from = lent_from;
        (slot.leave, slot.charged) = (bytes, bytes);
        self.each_above(class, |node: &mut Node| {
            let limit = node.limit.as_mut().filter(|_| node.height >= lent_from);
            node.max.iter_mut().chain(limit).for_each(|bucket| bucket.charge(bytes, now));
            node.tally.served(waited, lender.is_none());
        });
        let kind = usize::from(lent_from == 0);
        let passed = self.nodes[top].crown.passed[kind][priority];
        let Some(leaf) = &mut self.nodes[class].leaf else { return };
        let start = leaf.tags[kind].max(passed.saturating_sub(CREDIT));
        leaf.tags[kind] = start + bytes as u64;
        leaf.fair.serve(&mut self.flows, id, bytes, lender.is_some(), now);
        if lender.is_some() {
            self.nodes[top].crown.passed[kind][priority] = passed.max(start);
        }
    }

    fn chunk(&self, id: FlowId) -> usize {
        let slot = &self.flows[id];
        let most = self.nodes[slot.leaf].leaf.as_ref().map_or(1, |leaf| leaf.chunk);
        slot.want.min(most)
    }

    /// See the head of this file. Rates are below 2^40, so the products are below 2^44.
    fn trickle(&self, id: FlowId) -> usize {
        let slot = &self.flows[id];
        let above = self.path(slot.leaf).filter_map(|at| {
            let node = &self.nodes[at];
            Some((node.max.as_ref()?.rate().bits(), node.tally.waiting))
        });
        let key =
            self.nodes[slot.leaf].leaf.as_ref().and_then(|leaf| leaf.fair.key_limit(slot.key));
        let share = |(bits, waiting): (u64, usize)| {
            let each = |seconds: u64| bits * seconds / 8 / (waiting.max(1) as u64);
            (each(STARVED / SECOND) / TRICKLES).max(each(ROUND).min(TRICKLE))
        };
        let bytes = above.chain(key).map(share).min().unwrap_or(TRICKLE).max(1);
        self.chunk(id).min(usize::try_from(bytes).unwrap_or(usize::MAX))
    }
}
