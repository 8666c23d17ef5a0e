//! Things that exist while something uses them.

use std::collections::HashMap;
use std::hash::Hash;

/// How many users each thing has, and what came and went since the last settlement.
#[derive(Debug)]
pub(super) struct Counts<K> {
    users: HashMap<K, u32>,
    /// Whether a thing that was touched existed at the last settlement.
    touched: HashMap<K, bool>,
}

impl<K> Default for Counts<K> {
    fn default() -> Self {
        Self { users: HashMap::new(), touched: HashMap::new() }
    }
}

impl<K: Copy + Eq + Hash + Ord> Counts<K> {
    /// One user more.
    pub(super) fn hold(&mut self, key: K) {
        let users = self.users.entry(key).or_insert(0);
        self.touched.entry(key).or_insert(*users > 0);
        *users += 1;
    }

    /// Whether nothing has a user.
    pub(super) fn is_empty(&self) -> bool {
        self.users.is_empty()
    }

    /// One user less.
    pub(super) fn release(&mut self, key: K) {
        if let Some(users) = self.users.get_mut(&key) {
            self.touched.entry(key).or_insert(true);
            *users -= 1;
            if *users == 0 {
                self.users.remove(&key);
            }
        }
    }

    /// What came and what went since the last call, sorted.
    pub(super) fn settle(&mut self) -> (Vec<K>, Vec<K>) {
        let mut came = Vec::new();
        let mut went = Vec::new();
        for (key, existed) in self.touched.drain() {
            match (existed, self.users.contains_key(&key)) {
                (false, true) => came.push(key),
                (true, false) => went.push(key),
                _ => {}
            }
        }
        came.sort_unstable();
        went.sort_unstable();
        (came, went)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_first_user_brings_and_only_the_last_one_takes() {
        let mut counts = Counts::default();
        counts.hold('a');
        counts.hold('a');
        counts.hold('b');
        counts.release('b');
        assert_eq!(counts.settle(), (vec!['a'], vec![]), "b came and went unseen");
        counts.release('a');
        assert_eq!(counts.settle(), (vec![], vec![]));
        counts.release('a');
        counts.release('a');
        assert_eq!(counts.settle(), (vec![], vec!['a']));
    }
}
