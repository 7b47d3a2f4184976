//! The keys of the demo's bucket. s3s-fs stores objects under other names, so it cannot list them.
//!
//! Invariant: a listing is in the order of the keys' UTF-8 bytes, as S3's is, and the next page begins
//! right after the last entry of a page. It must not know where objects are stored.

use std::collections::BTreeSet;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Entries of a page at most, as S3 has it.
const PAGE: usize = 1000;

/// All keys.
#[derive(Default)]
pub(super) struct Keys {
    keys: Mutex<BTreeSet<String>>,
}

/// A part of a listing.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Page {
    /// Objects' keys.
    pub(super) keys: Vec<String>,
    /// Common prefixes, each of which stands for several keys and ends in the delimiter.
    pub(super) prefixes: Vec<String>,
    /// The last entry, if more follow.
    pub(super) next: Option<String>,
}

impl Keys {
    pub(super) fn add(&self, key: &str) {
        self.lock().insert(key.to_owned());
    }

    pub(super) fn remove(&self, key: &str) {
        self.lock().remove(key);
    }

    /// The keys that begin with `prefix` and come after `after`; those that contain `delimiter` after the
    /// prefix are grouped by it. At most `most` entries.
    pub(super) fn page(
        &self,
        prefix: &str,
        delimiter: Option<&str>,
        after: Option<&str>,
        most: Option<i32>,
    ) -> Page {
        let most = most.and_then(|most| usize::try_from(most).ok()).unwrap_or(PAGE).min(PAGE);
        let mut page = Page::default();
        let mut last: Option<String> = None;
        for key in self.lock().iter().filter(|key| key.starts_with(prefix)) {
            let delimiter = delimiter.filter(|delimiter| !delimiter.is_empty());
            let rolled = delimiter.and_then(|delimiter| {
                let end = key[prefix.len()..].find(delimiter)?;
                Some(&key[..prefix.len() + end + delimiter.len()])
            });
            let entry = rolled.unwrap_or(key);
            if after.is_some_and(|after| entry <= after) || last.as_deref() == Some(entry) {
                continue;
            }
            if page.keys.len() + page.prefixes.len() == most {
                page.next = last;
                break;
            }
            last = Some(entry.to_owned());
            let list = if rolled.is_some() { &mut page.prefixes } else { &mut page.keys };
            list.push(entry.to_owned());
        }
        page
    }

    fn lock(&self) -> MutexGuard<'_, BTreeSet<String>> {
        // A panic leaves a valid set behind.
        self.keys.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_follow_each_other_without_gaps() {
        let keys = Keys::default();
        for key in ["a", "d/1", "d/2", "d/e/3", "e/1", "z"] {
            keys.add(key);
        }
        keys.add("gone");
        keys.remove("gone");
        let page = keys.page("", Some("/"), None, None);
        assert_eq!(
            (page.keys, page.prefixes),
            (vec!["a".into(), "z".into()], vec!["d/".into(), "e/".into()])
        );
        let page = keys.page("d/", Some("/"), None, None);
        assert_eq!(
            (page.keys, page.prefixes),
            (vec!["d/1".into(), "d/2".into()], vec!["d/e/".into()])
        );
        let (mut all, mut after): (Vec<String>, Option<String>) = (Vec::new(), None);
        loop {
            let page = keys.page("", None, after.as_deref(), Some(2));
            all.extend(page.keys);
            after = page.next;
            if after.is_none() {
                break;
            }
        }
        assert_eq!(all, ["a", "d/1", "d/2", "d/e/3", "e/1", "z"]);
    }
}
