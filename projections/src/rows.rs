//! The rows of one table that a projection holds in memory: read at most once, changed in place, written once a batch.
//!
//! A leader is the only writer of its tables, so what it holds after a commit is what the table holds. When it is fenced off or a
//! write fails, the whole projection is dropped with everything it held.

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    hash::Hash,
};

/// Rows by key. `None` is a row that is known not to exist.
#[derive(Debug)]
pub(crate) struct Rows<K, R> {
    held: HashMap<K, Option<R>>,
    wanted: HashSet<K>,
    changed: BTreeSet<K>,
}

impl<K, R> Default for Rows<K, R> {
    fn default() -> Self {
        Self { held: HashMap::new(), wanted: HashSet::new(), changed: BTreeSet::new() }
    }
}

impl<K: Clone + Eq + Hash + Ord, R> Rows<K, R> {
    /// The row will be needed.
    pub(crate) fn want(&mut self, key: K) {
        if !self.held.contains_key(&key) {
            self.wanted.insert(key);
        }
    }

    /// The row cannot exist yet, because this is the first event of its stream: it need not be looked for.
    pub(crate) fn want_new(&mut self, key: K) {
        if !self.wanted.contains(&key) {
            self.held.entry(key).or_insert(None);
        }
    }

    /// The same, where another statement may have found some of them meanwhile.
    pub(crate) fn take_wanted_absent(&mut self) -> Vec<K> {
        let held = &self.held;
        self.wanted.retain(|key| !held.contains_key(key));
        self.take_wanted()
    }

    /// The keys to look for now. All of them count as absent until they are [`found`](Self::found).
    pub(crate) fn take_wanted(&mut self) -> Vec<K> {
        let wanted: Vec<K> = self.wanted.drain().collect();
        for key in &wanted {
            self.held.insert(key.clone(), None);
        }
        wanted
    }

    /// A row as its table holds it.
    pub(crate) fn found(&mut self, key: K, row: R) {
        self.held.insert(key, Some(row));
    }

    /// The row, to look at.
    pub(crate) fn get(&self, key: &K) -> Option<&R> {
        self.held.get(key).and_then(Option::as_ref)
    }

    /// The row, to change.
    pub(crate) fn edit(&mut self, key: &K) -> Option<&mut R> {
        let row = self.held.get_mut(key).and_then(Option::as_mut)?;
        if !self.changed.contains(key) {
            self.changed.insert(key.clone());
        }
        Some(row)
    }

    /// A new row, or another one in its place.
    pub(crate) fn put(&mut self, key: K, row: R) {
        self.changed.insert(key.clone());
        self.held.insert(key, Some(row));
    }

    /// The row goes.
    pub(crate) fn remove(&mut self, key: &K) {
        self.changed.insert(key.clone());
        self.held.insert(key.clone(), None);
    }

    /// All rows that are held under such keys go.
    pub(crate) fn remove_if(&mut self, is_such: impl Fn(&K) -> bool) {
        let such: Vec<K> = self.held.keys().filter(|key| is_such(key)).cloned().collect();
        for key in &such {
            self.remove(key);
        }
    }

    /// The changed rows, sorted by key.
    pub(crate) fn changed(&self) -> Vec<(&K, &R)> {
        self.changed.iter().filter_map(|key| Some((key, self.get(key)?))).collect()
    }

    /// The keys of rows that went, sorted.
    pub(crate) fn removed(&self) -> Vec<K> {
        self.changed.iter().filter(|key| self.get(key).is_none()).cloned().collect()
    }

    /// The changes are in the table: `settle` brings each written row to the form that is held from now on. Everything is let
    /// go when more than `limit` rows are held, because memory is bounded and reading a row again is cheap.
    pub(crate) fn written(&mut self, limit: usize, mut settle: impl FnMut(&mut R)) {
        let changed = std::mem::take(&mut self.changed);
        if self.held.len() > limit {
            self.held.clear();
            return;
        }
        for key in &changed {
            if let Some(Some(row)) = self.held.get_mut(key) {
                settle(row);
            }
        }
    }

    /// How many keys are held.
    pub(crate) fn len(&self) -> usize {
        self.held.len()
    }
}

/// Every value of one column of some rows, as the parameter of a statement over `unnest`.
macro_rules! column {
    ($rows:expr, $($value:tt)+) => {
        $rows.iter().map($($value)+).collect::<Vec<_>>()
    };
}
pub(crate) use column;

#[cfg(test)]
mod tests {
    use super::Rows;

    #[test]
    fn a_row_is_looked_for_once() {
        let mut rows: Rows<u8, &str> = Rows::default();
        rows.want(1);
        rows.want(1);
        assert_eq!(rows.take_wanted(), [1]);
        rows.found(1, "one");
        rows.want(1);
        assert!(rows.take_wanted().is_empty());
        assert_eq!(rows.get(&1), Some(&"one"));
    }

    #[test]
    fn a_row_known_to_be_new_is_not_looked_for() {
        let mut rows: Rows<u8, &str> = Rows::default();
        rows.want_new(1);
        rows.want(1);
        assert!(rows.take_wanted().is_empty());
        assert_eq!(rows.get(&1), None);
    }

    #[test]
    fn changes_come_sorted_and_once() {
        let mut rows: Rows<u8, &str> = Rows::default();
        rows.put(2, "two");
        rows.put(1, "one");
        rows.put(3, "three");
        rows.remove(&3);
        *rows.edit(&2).expect("it was put") = "zwei";
        assert_eq!(rows.changed(), [(&1, &"one"), (&2, &"zwei")]);
        assert_eq!(rows.removed(), [3]);
        rows.written(10, |_| ());
        assert!(rows.changed().is_empty() && rows.removed().is_empty());
        assert_eq!(rows.len(), 3);
    }

    #[test]
    fn more_rows_than_the_limit_are_let_go() {
        let mut rows: Rows<u8, &str> = Rows::default();
        rows.put(1, "one");
        rows.put(2, "two");
        rows.written(1, |_| ());
        assert_eq!(rows.len(), 0);
    }
}
