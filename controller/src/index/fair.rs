//! Who is served next: namespaces take turns, so that a busy one does not keep another waiting.

use std::collections::{BTreeSet, HashMap, VecDeque};

use landfall_core::name::{Namespace, ServiceKey};

/// A place in line: when the Service was created (in Unix seconds, and the version in which it was seen first), and
/// which one it is.
pub(super) type Place = ((i64, u64), ServiceKey);

/// Services that wait to be written. In a namespace the oldest goes first.
#[derive(Debug, Default)]
pub(super) struct Fair {
    lines: HashMap<Namespace, BTreeSet<Place>>,
    turns: VecDeque<Namespace>,
}

impl Fair {
    /// Puts a Service in line; once is enough.
    pub(super) fn push(&mut self, place: Place) {
        let namespace = place.1.namespace.clone();
        let line = self.lines.entry(namespace.clone()).or_default();
        if line.is_empty() {
            self.turns.push_back(namespace);
        }
        line.insert(place);
    }

    /// The next one.
    pub(super) fn pop(&mut self) -> Option<Place> {
        loop {
            let namespace = self.turns.pop_front()?;
            let Some(line) = self.lines.get_mut(&namespace) else { continue };
            let next = line.pop_first();
            if line.is_empty() {
                self.lines.remove(&namespace);
            } else {
                self.turns.push_back(namespace);
            }
            if next.is_some() {
                return next;
            }
        }
    }

    /// Takes a Service out of line.
    pub(super) fn remove(&mut self, place: &Place) {
        if let Some(line) = self.lines.get_mut(&place.1.namespace) {
            line.remove(place);
            if line.is_empty() {
                self.lines.remove(&place.1.namespace);
                self.turns.retain(|turn| *turn != place.1.namespace);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(created: i64, namespace: &str, name: &str) -> Place {
        ((created, 0), ServiceKey::new(namespace, name))
    }

    #[test]
    fn namespaces_take_turns_and_the_oldest_of_each_goes_first() {
        let mut fair = Fair::default();
        for n in (0..100).rev() {
            fair.push(place(n, "busy", &format!("s{n}")));
        }
        fair.push(place(1_000, "quiet", "late"));
        fair.push(place(5, "busy", "s5"));
        let order: Vec<Place> = std::iter::from_fn(|| fair.pop()).collect();
        assert_eq!(order.len(), 101, "nobody twice");
        assert_eq!(order[0], place(0, "busy", "s0"));
        assert_eq!(order[1], place(1_000, "quiet", "late"), "not behind all of the busy one's");
        assert!(order.iter().filter(|(_, key)| key.namespace.as_str() == "busy").is_sorted());
    }

    #[test]
    fn who_leaves_the_line_leaves_no_turn_behind() {
        let mut fair = Fair::default();
        fair.push(place(1, "a", "x"));
        fair.push(place(2, "b", "y"));
        fair.remove(&place(1, "a", "x"));
        fair.remove(&place(9, "c", "none"));
        fair.push(place(3, "a", "z"));
        assert_eq!(fair.pop(), Some(place(2, "b", "y")));
        assert_eq!(fair.pop(), Some(place(3, "a", "z")));
        assert_eq!(fair.pop(), None);
    }
}
