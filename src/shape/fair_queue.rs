//! How a class is divided among those that use it: start-time fair queueing (Goyal, Vin, Cheng, 1996)
//! by key, in bytes, so that neither many connections nor large requests get more.
//!
//! Each key has a tag: the bytes that it was served, as virtual time. The lowest tag among those that
//! wait is next. A key that comes back keeps its tag, but no more than [`CREDIT`] behind the others.
//!
//! The hold: who writes asynchronously has one request outstanding, so after each grant its key looks
//! idle, and others take its turn. A key that emptied keeps its place for up to [`HOLD`] if the flow
//! came back that fast the last time.
//!
//! Pure: time is a parameter. It must not know of other classes or of the class's own limits.

use std::collections::{BTreeSet, HashMap};
use std::net::IpAddr;
use std::ops::Bound;
use std::sync::Arc;

use slab::Slab;

use super::bucket::{Bucket, Cost, MILLISECOND, Nanos};
use super::flows::{FlowId, Flows, Kind, List};
use super::settings::Pcq;

/// How long a place is kept: several times what a task takes to be woken and write 16 KB.
pub(super) const HOLD: Nanos = MILLISECOND;

/// How many bytes a key may be behind and still catch up: what was missed during a wake-up, not what
/// was not wanted while it slept.
pub(super) const CREDIT: u64 = 64 << 10;

/// Who is one in a class.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) enum Party {
    /// A client's address.
    Address(IpAddr),
    /// A user.
    User(Arc<str>),
    /// The flow itself.
    Alone,
}

/// Whose turn it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Turn {
    /// This flow's.
    Flow(FlowId),
    /// Somebody's who is expected back by then.
    Held(Nanos),
    /// Nobody's before then: all that wait have used up their own rate.
    At(Nanos),
    /// Nobody waits.
    Idle,
}

/// The flows of one class.
#[derive(Debug)]
pub(super) struct FairQueue {
    pcq: Pcq,
    cost: Cost,
    keys: Slab<Key>,
    parties: HashMap<Party, usize>,
    /// Keys that may be served or are held, by tag.
    ready: BTreeSet<(u64, usize)>,
    /// Keys that have used up their rate, by when they may be served again.
    parked: BTreeSet<(Nanos, usize)>,
    /// The tag of the key that was served last: virtual time.
    passed: u64,
    /// Waiting flows, the oldest first.
    ages: List,
}

/// All flows of one party.
#[derive(Debug)]
struct Key {
    party: Party,
    flows: usize,
    /// Waiting flows, the next one first.
    turns: List,
    waiting: usize,
    /// The next tag.
    tag: u64,
    place: Place,
    /// Until when it keeps its place though it does not wait.
    held: Nanos,
    /// pcq-rate.
    bucket: Option<Bucket>,
}

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
            parties: HashMap::new(),
            ready: BTreeSet::new(),
            parked: BTreeSet::new(),
            passed: 0,
            ages: List::new(Kind::Age),
        }
    }

    /// Adds a flow of a party; returns its key.
    pub(super) fn join(&mut self, party: Party, now: Nanos) -> usize {
        if let Some(key) = self.parties.get(&party) {
            self.keys[*key].flows += 1;
            return *key;
        }
        let rate = self.pcq.rate;
        let key = self.keys.insert(Key {
            party: party.clone(),
            flows: 1,
            turns: List::new(Kind::Turn),
            waiting: 0,
            // Whoever connects anew for every request gains neither credit nor burst by it.
            tag: self.passed,
            place: Place::Out,
            held: 0,
            bucket: (rate.bits() > 0).then(|| Bucket::empty(rate, self.cost, now)),
        });
        if party != Party::Alone {
            self.parties.insert(party, key);
        }
        key
    }

    /// Removes a flow, which does not wait.
    pub(super) fn leave(&mut self, key: usize) {
        self.keys[key].flows -= 1;
        if self.keys[key].flows == 0 {
            self.take_out(key);
            let key = self.keys.remove(key);
            self.parties.remove(&key.party);
        }
    }

    /// A flow begins to wait.
    pub(super) fn push(&mut self, flows: &mut Flows, id: FlowId, now: Nanos) {
        self.ages.push(flows, id);
        let at = flows[id].key;
        let key = &mut self.keys[at];
        key.turns.push(flows, id);
        key.waiting += 1;
        key.tag = key.tag.max(self.passed.saturating_sub(CREDIT));
        self.put(at, now);
    }

    /// A flow waits no more, without having been served.
    pub(super) fn cancel(&mut self, flows: &mut Flows, id: FlowId, now: Nanos) {
        self.unlink(flows, id);
        self.put(flows[id].key, now);
    }

    /// Whose turn it is at `now`. Without `holding`, nobody's place is kept.
    pub(super) fn turn(&mut self, now: Nanos, holding: bool) -> Turn {
        while let Some((at, key)) = self.parked.first().copied()
            && at <= now
        {
            let floor = self.passed.saturating_sub(CREDIT);
            self.keys[key].tag = self.keys[key].tag.max(floor);
            self.put(key, now);
        }
        let mut past = None;
        loop {
            // Keys that are held and passed over: no more than were granted something within a hold.
            let next = match past {
                None => self.ready.first(),
                Some(past) => self.ready.range((Bound::Excluded(past), Bound::Unbounded)).next(),
            };
            let Some((tag, at)) = next.copied() else { break };
            let key = &self.keys[at];
            if let Some(flow) = key.turns.first() {
                return Turn::Flow(flow);
            }
            if key.held <= now {
                self.take_out(at);
            } else if holding {
                return Turn::Held(key.held);
            }
            past = Some((tag, at));
        }
        match (self.parked.first(), self.ready.first()) {
            (Some((at, _)), _) => Turn::At(*at),
            // All that are left are held, and nothing is held for the others.
            (None, Some((_, key))) => Turn::At(self.keys[*key].held),
            (None, None) => Turn::Idle,
        }
    }

    /// The flow that has waited longest.
    pub(super) fn oldest(&self) -> Option<FlowId> {
        self.ages.first()
    }

    /// What the key of a flow never exceeds, and how many of its flows wait.
    pub(super) fn key_limit(&self, key: usize) -> Option<(u64, usize)> {
        let key = &self.keys[key];
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
        self.unlink(flows, id);
        let at = flows[id].key;
        let key = &mut self.keys[at];
        if in_turn {
            self.passed = self.passed.max(key.tag);
        }
        key.tag += bytes as u64;
        if let Some(bucket) = &mut key.bucket {
            bucket.charge(bytes, now);
        }
        key.held = if flows[id].quick && key.waiting == 0 { now.saturating_add(HOLD) } else { 0 };
        self.put(at, now);
    }

    /// A flow gives back `bytes` of what it was granted: its socket is full, or it is gone, so it is
    /// not expected back.
    pub(super) fn refund(&mut self, at: usize, bytes: usize, granted: Nanos, now: Nanos) {
        let key = &mut self.keys[at];
        key.tag = key.tag.saturating_sub(bytes as u64);
        key.held = 0;
        if let Some(bucket) = &mut key.bucket {
            bucket.refund(bytes, granted);
        }
        self.put(at, now);
    }

    /// Other settings, for flows that wait too. The classifier stays.
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
            self.put(at, now);
        }
    }

    fn unlink(&mut self, flows: &mut Flows, id: FlowId) {
        self.ages.remove(flows, id);
        let key = &mut self.keys[flows[id].key];
        key.turns.remove(flows, id);
        key.waiting -= 1;
    }

    /// Puts a key where it belongs.
    fn put(&mut self, at: usize, now: Nanos) {
        let key = &self.keys[at];
        let parked = key.bucket.as_ref().map(Bucket::ready_at).filter(|ready| *ready > now);
        let place = match parked {
            _ if key.waiting == 0 && key.held <= now => Place::Out,
            Some(ready) if key.waiting > 0 => Place::Parked(ready),
            // Nobody waits for one that could not be served.
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

    fn take_out(&mut self, at: usize) {
        match std::mem::replace(&mut self.keys[at].place, Place::Out) {
            Place::Out => {}
            Place::Ready(tag) => _ = self.ready.remove(&(tag, at)),
            Place::Parked(until) => _ = self.parked.remove(&(until, at)),
        }
    }
}
