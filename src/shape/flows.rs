//! What the tree remembers of each flow, and the lists in which flows wait.
//!
//! A waiting flow is in two lists at once: its key's, by turn, and its class's, by age. The lists are
//! linked through the flows themselves, so removing a flow costs the same wherever it stands.
//!
//! Pure. This file must not know who is served when.

use slab::Slab;

use super::bucket::Nanos;

/// A flow's place in the slab.
pub(super) type FlowId = usize;

/// Every flow of a tree.
pub(super) type Flows = Slab<Slot>;

/// One flow.
#[derive(Debug, Clone)]
pub(super) struct Slot {
    /// Its class's index.
    pub(super) leaf: usize,
    /// Its key's index in its class.
    pub(super) key: usize,
    /// Bytes that it waits to move; 0: it does not wait.
    pub(super) want: usize,
    /// Bytes that it may move now; 0: it has no permit.
    pub(super) permit: usize,
    /// Of `permit`, the bytes that were charged: all or, in a class without limits, none.
    pub(super) charged: usize,
    /// Since when it waits.
    pub(super) waiting_since: Nanos,
    /// When the last permit was granted.
    pub(super) granted_at: Nanos,
    /// The height of the class that lent `permit`: limits-at from there upward were charged.
    pub(super) lender_height: u8,
    /// It asked again within [`HOLD`](super::fair_queue::HOLD) after the last grant.
    pub(super) asks_again_fast: bool,
    links: [Neighbours; 2],
}

impl Slot {
    /// A flow that has no permit and does not wait.
    pub(super) fn new(leaf: usize, key: usize) -> Self {
        Self {
            leaf,
            key,
            want: 0,
            permit: 0,
            charged: 0,
            waiting_since: 0,
            granted_at: 0,
            lender_height: 0,
            asks_again_fast: false,
            links: [Neighbours::default(); 2],
        }
    }
}

/// A flow's neighbours in a list.
#[derive(Debug, Clone, Copy, Default)]
struct Neighbours {
    before: Option<FlowId>,
    after: Option<FlowId>,
}

/// Which of a flow's lists.
#[derive(Debug, Clone, Copy)]
pub(super) enum ListKind {
    /// Its key's: who is next.
    Turn = 0,
    /// Its class's: who has waited longest.
    Age = 1,
}

/// A list of flows, first in, first out.
#[derive(Debug)]
pub(super) struct List {
    kind: ListKind,
    first: Option<FlowId>,
    last: Option<FlowId>,
}

impl List {
    /// An empty list.
    pub(super) fn new(kind: ListKind) -> Self {
        Self { kind, first: None, last: None }
    }

    /// The flow that was added first.
    pub(super) fn first(&self) -> Option<FlowId> {
        self.first
    }

    /// Adds a flow that is in no list of this kind.
    pub(super) fn push(&mut self, flows: &mut Flows, id: FlowId) {
        let kind = self.kind as usize;
        flows[id].links[kind] = Neighbours { before: self.last, after: None };
        match self.last {
            Some(last) => flows[last].links[kind].after = Some(id),
            None => self.first = Some(id),
        }
        self.last = Some(id);
    }

    /// Takes out a flow that is in this list.
    pub(super) fn remove(&mut self, flows: &mut Flows, id: FlowId) {
        let kind = self.kind as usize;
        let Neighbours { before, after } = std::mem::take(&mut flows[id].links[kind]);
        match before {
            Some(before) => flows[before].links[kind].after = after,
            None => self.first = after,
        }
        match after {
            Some(after) => flows[after].links[kind].before = before,
            None => self.last = before,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::VecDeque;

    proptest! {
        #[test]
        fn a_list_is_a_queue_that_any_flow_may_leave(steps in prop::collection::vec((any::<bool>(), 0_usize..8), 0..100)) {
            let mut flows = Flows::new();
            let ids: Vec<_> = (0..8).map(|_| flows.insert(Slot::new(0, 0))).collect();
            let (mut list, mut other) = (List::new(ListKind::Age), List::new(ListKind::Turn));
            ids.iter().for_each(|id| other.push(&mut flows, *id));
            let mut model = VecDeque::new();
            for (push, id) in steps {
                match model.iter().position(|there| *there == id) {
                    None if push => {
                        list.push(&mut flows, id);
                        model.push_back(id);
                    }
                    Some(at) if !push => {
                        list.remove(&mut flows, id);
                        model.remove(at);
                    }
                    _ => {}
                }
                prop_assert_eq!(list.first(), model.front().copied());
                prop_assert_eq!(other.first(), Some(0));
            }
            while let Some(id) = list.first() {
                prop_assert_eq!(model.pop_front(), Some(id));
                list.remove(&mut flows, id);
            }
            prop_assert!(model.is_empty() && list.last.is_none());
        }
    }
}
