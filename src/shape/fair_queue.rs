//! How a class is divided among those that use it: start-time fair queueing (Goyal, Vin, Cheng, 1996)
//! by key, in bytes, so that neither many connections nor large requests get more.
//!
//! Each key has a start tag: the bytes that it was served, as virtual time. The key with the lowest tag
//! among those that wait is next. A key that comes back keeps its tag, but is at most [`CREDIT`] behind
//! the others.
//!
//! The hold: an asynchronous writer has one request outstanding, so after each grant its key looks idle,
//! and others would take its turn. A key that has just been emptied keeps its place for up to [`HOLD`],
//! if its flow asked again that fast the last time.
//!
//! Pure: time is a parameter. This file must not know of other classes or of the class's own limits.

use std::collections::{BTreeSet, HashMap};
use std::net::IpAddr;
use std::ops::Bound;
use std::sync::Arc;

use slab::Slab;

use super::bucket::{Bucket, Cost, MILLISECOND, Nanos};
use super::flows::{FlowId, Flows, List, ListKind};
use super::settings::Pcq;

/// How long a place is kept: several times what a task takes to be woken and to write 16 KB.
pub(super) const HOLD: Nanos = MILLISECOND;

/// How many bytes a key may be behind and still catch up: as many as it may have missed while its task
/// was woken, but not what it did not ask for.
pub(super) const CREDIT: u64 = 64 << 10;

/// Who counts as one in a class.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) enum FairKey {
    /// A client's address.
    Address(IpAddr),
    /// A user.
    User(Arc<str>),
    /// The flow itself.
    Flow,
}

/// Whose turn it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Turn {
    /// This flow's.
    Flow(FlowId),
    /// It is kept until then, for a key that is expected to ask again.
    Held(Nanos),
    /// Nobody's before then: every key that waits has used up its own rate.
    At(Nanos),
    /// Nobody waits.
    Idle,
}

/// The flows of one class, by key.
#[derive(Debug)]
pub(super) struct FairQueue {
    pcq: Pcq,
    cost: Cost,
    keys: Slab<Key>,
    /// Keys that several flows can share.
    shared: HashMap<FairKey, usize>,
    /// Keys that may be served or are held, by tag.
    ready: BTreeSet<(u64, usize)>,
    /// Keys that have used up their rate, by when they may be served again.
    parked: BTreeSet<(Nanos, usize)>,
    /// The tag of the key that was served last.
    virtual_time: u64,
    /// Waiting flows, the oldest first.
    by_age: List,
}

/// What is known of a key and its flows.
#[derive(Debug)]
struct Key {
    key: FairKey,
    flows: usize,
    /// Waiting flows, the next one first.
    by_turn: List,
    waiting: usize,
    /// The next start tag.
    tag: u64,
    place: Place,
    /// Until when it keeps its place though it does not wait.
    held_until: Nanos,
    /// pcq-rate.
    bucket: Option<Bucket>,
}

/// Which queue a key is in, and where.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    Out,
    Ready(u64),
    Parked(Nanos),
}

impl FairQueue {
    pub(super) fn new(pcq: Pcq, cost: Cost) -> Self {
        Self {
            pcq,
            cost,
            keys: Slab::new(),
            shared: HashMap::new(),
            ready: BTreeSet::new(),
            parked: BTreeSet::new(),
            virtual_time: 0,
            by_age: List::new(ListKind::Age),
        }
    }

    /// Adds a flow with that key. Returns the key's index.
    pub(super) fn add_flow(&mut self, key: FairKey, now: Nanos) -> usize {
        if let Some(at) = self.shared.get(&key) {
            self.keys[*at].flows += 1;
            return *at;
        }
        let rate = self.pcq.rate;
        let at = self.keys.insert(Key {
            key: key.clone(),
            flows: 1,
            by_turn: List::new(ListKind::Turn),
            waiting: 0,
            // A client that connects anew for every request gains neither credit nor burst by it.
            tag: self.virtual_time,
            place: Place::Out,
            held_until: 0,
            bucket: (rate.bits() > 0).then(|| Bucket::empty(rate, self.cost, now)),
        });
        if key != FairKey::Flow {
            self.shared.insert(key, at);
        }
        at
    }

    /// Removes a flow of a key; the flow does not wait.
    pub(super) fn remove_flow(&mut self, at: usize) {
        self.keys[at].flows -= 1;
        if self.keys[at].flows == 0 {
            self.take_out(at);
            let key = self.keys.remove(at);
            self.shared.remove(&key.key);
        }
    }

    /// A flow begins to wait.
    pub(super) fn enqueue(&mut self, flows: &mut Flows, id: FlowId, now: Nanos) {
        self.by_age.push(flows, id);
        let at = flows[id].key;
        let key = &mut self.keys[at];
        key.by_turn.push(flows, id);
        key.waiting += 1;
        key.tag = key.tag.max(self.virtual_time.saturating_sub(CREDIT));
        self.place(at, now);
    }

    /// A flow no longer waits, though it was not served.
    pub(super) fn cancel(&mut self, flows: &mut Flows, id: FlowId, now: Nanos) {
        self.dequeue(flows, id);
        self.place(flows[id].key, now);
    }

    /// Whose turn it is at `now`. Without `holding`, nobody's place is kept.
    pub(super) fn turn(&mut self, now: Nanos, holding: bool) -> Turn {
        while let Some((at, key)) = self.parked.first().copied()
            && at <= now
        {
            let lowest = self.virtual_time.saturating_sub(CREDIT);
            self.keys[key].tag = self.keys[key].tag.max(lowest);
            self.place(key, now);
        }
        let mut passed_over = None;
        loop {
            // Held keys that are passed over are no more than were served within a hold.
            let next = match passed_over {
                None => self.ready.first(),
                Some(key) => self.ready.range((Bound::Excluded(key), Bound::Unbounded)).next(),
            };
            let Some((tag, at)) = next.copied() else { break };
            let key = &self.keys[at];
            if let Some(flow) = key.by_turn.first() {
                return Turn::Flow(flow);
            }
            if key.held_until <= now {
                self.take_out(at);
            } else if holding {
                return Turn::Held(key.held_until);
            }
            passed_over = Some((tag, at));
        }
        match (self.parked.first(), self.ready.first()) {
            (Some((at, _)), _) => Turn::At(*at),
            // Only held keys are left, and nobody waits that their hold could keep back.
            (None, Some((_, key))) => Turn::At(self.keys[*key].held_until),
            (None, None) => Turn::Idle,
        }
    }

    /// The flow that has waited longest.
    pub(super) fn oldest(&self) -> Option<FlowId> {
        self.by_age.first()
    }

    /// The pcq-rate of a key in bits per second, and how many of its flows wait.
    pub(super) fn key_limit(&self, at: usize) -> Option<(u64, usize)> {
        let key = &self.keys[at];
        key.bucket.as_ref().map(|bucket| (bucket.rate().bits(), key.waiting))
    }

    /// A waiting flow is granted `bytes`, because it is its turn or out of turn.
    pub(super) fn serve(
        &mut self,
        flows: &mut Flows,
        id: FlowId,
        bytes: usize,
        in_turn: bool,
        now: Nanos,
    ) {
        self.dequeue(flows, id);
        let at = flows[id].key;
        let key = &mut self.keys[at];
        if in_turn {
            self.virtual_time = self.virtual_time.max(key.tag);
        }
        key.tag += bytes as u64;
        if let Some(bucket) = &mut key.bucket {
            bucket.charge(bytes, now);
        }
        let hold = flows[id].asks_again_fast && key.waiting == 0;
        key.held_until = if hold { now.saturating_add(HOLD) } else { 0 };
        self.place(at, now);
    }

    /// A flow gives back `bytes` of what it was granted. Its socket is full, or it is being removed, so
    /// it is not expected to ask again.
    pub(super) fn refund(&mut self, at: usize, bytes: usize, granted_at: Nanos, now: Nanos) {
        let key = &mut self.keys[at];
        key.tag = key.tag.saturating_sub(bytes as u64);
        key.held_until = 0;
        if let Some(bucket) = &mut key.bucket {
            bucket.refund(bytes, granted_at);
        }
        self.place(at, now);
    }

    /// Another pcq-rate and cost, for flows that wait as well. The classifier stays.
    pub(super) fn retune(&mut self, pcq: Pcq, cost: Cost, now: Nanos) {
        if (pcq.rate, cost) == (self.pcq.rate, self.cost) {
            return;
        }
        (self.pcq.rate, self.cost) = (pcq.rate, cost);
        let keys: Vec<usize> = self.keys.iter().map(|(at, _)| at).collect();
        for at in keys {
            match &mut self.keys[at].bucket {
                _ if pcq.rate.bits() == 0 => self.keys[at].bucket = None,
                Some(bucket) => bucket.retune(pcq.rate, None, cost, now),
                none => *none = Some(Bucket::empty(pcq.rate, cost, now)),
            }
            self.place(at, now);
        }
    }

    /// Takes a flow out of the lists of those that wait.
    fn dequeue(&mut self, flows: &mut Flows, id: FlowId) {
        self.by_age.remove(flows, id);
        let key = &mut self.keys[flows[id].key];
        key.by_turn.remove(flows, id);
        key.waiting -= 1;
    }

    /// Puts a key into the queue where it belongs now, or takes it out.
    fn place(&mut self, at: usize, now: Nanos) {
        let key = &self.keys[at];
        let parked_until = key.bucket.as_ref().map(Bucket::ready_at).filter(|ready| *ready > now);
        let place = match parked_until {
            _ if key.waiting == 0 && key.held_until <= now => Place::Out,
            Some(until) if key.waiting > 0 => Place::Parked(until),
            // A key that could not be served is not held.
            Some(_) => Place::Out,
            None => Place::Ready(key.tag),
        };
        if place != key.place {
            self.take_out(at);
            match place {
                Place::Out => {}
                Place::Ready(tag) => _ = self.ready.insert((tag, at)),
                Place::Parked(until) => _ = self.parked.insert((until, at)),
            }
            self.keys[at].place = place;
        }
    }

    /// Takes a key out of the queue that it is in.
    fn take_out(&mut self, at: usize) {
        match std::mem::replace(&mut self.keys[at].place, Place::Out) {
            Place::Out => {}
            Place::Ready(tag) => _ = self.ready.remove(&(tag, at)),
            Place::Parked(until) => _ = self.parked.remove(&(until, at)),
        }
    }
}
