//! A speaker's record as a Lease object, there and back. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta, OwnerReference};
use landfall_core::claim::Publication;
use landfall_core::name::NodeName;
use landfall_core::roster::Record;

use super::Identity;

/// Picks the Leases of speakers among those of the namespace.
pub(super) const SELECTOR: &str = "landfall.dev/speaker=true";
const LABEL: (&str, &str) = ("landfall.dev/speaker", "true");
/// Annotation: the subnets the speaker can announce in, as `INTERFACE=SUBNET` with blanks between.
const SEGMENTS: &str = "landfall.dev/segments";
/// Annotation: the nodes whose speakers it believes dead, with blanks between.
const BELIEVED_DEAD: &str = "landfall.dev/believed-dead";
/// A Lease of so many seconds; in step with `Timing::dead_after`, and only for people who look at it.
const DURATION_S: i32 = 4;

/// The name of a node's Lease.
pub(super) fn lease_name(node: &NodeName) -> String {
    format!("landfall-speaker-{node}")
}

/// The Lease that says: alive now, and this is what I see. `run` is the moment this run of the speaker began.
pub(super) fn lease(identity: &Identity, run: Timestamp, now: Timestamp, said: &Publication) -> Lease {
    let dead: Vec<&str> = said.dead.iter().map(NodeName::as_str).collect();
    let annotations = [(SEGMENTS, said.segments.to_string()), (BELIEVED_DEAD, dead.join(" "))];
    let owner = identity.node_uid.as_ref().map(|uid| OwnerReference {
        api_version: "v1".to_owned(),
        kind: "Node".to_owned(),
        name: identity.node.to_string(),
        uid: uid.clone(),
        ..OwnerReference::default()
    });
    Lease {
        metadata: ObjectMeta {
            name: Some(lease_name(&identity.node)),
            namespace: Some(identity.namespace.to_string()),
            labels: Some(BTreeMap::from([(LABEL.0.to_owned(), LABEL.1.to_owned())])),
            annotations: Some(annotations.map(|(key, value)| (key.to_owned(), value)).into()),
            owner_references: owner.map(|owner| vec![owner]),
            ..ObjectMeta::default()
        },
        spec: Some(LeaseSpec {
            holder_identity: Some(identity.node.to_string()),
            lease_duration_seconds: Some(DURATION_S),
            acquire_time: Some(MicroTime(run)),
            renew_time: Some(MicroTime(now)),
            ..LeaseSpec::default()
        }),
    }
}

/// What a Lease says, or `None` when it is not one of a speaker. A part that cannot be read counts as not said.
pub(super) fn record(lease: &Lease) -> Option<Record> {
    let spec = lease.spec.as_ref()?;
    let node = NodeName::new(spec.holder_identity.as_deref()?);
    // The name is what only the node itself may write to; a Lease that speaks for another is no speaker's.
    if lease.metadata.name.as_deref() != Some(lease_name(&node).as_str()) {
        return None;
    }
    let run = run_mark(spec.acquire_time.as_ref()?.0);
    let renewed = spec.renew_time.as_ref()?.0.as_microsecond();
    let said =
        |key| lease.metadata.annotations.as_ref().and_then(|all| all.get(key)).map_or("", String::as_str);
    let segments = said(SEGMENTS).parse().unwrap_or_else(|error| {
        tracing::warn!(%node, %error, "a speaker's Lease has damaged segments");
        landfall_core::segment::Segments::default()
    });
    let dead: BTreeSet<NodeName> = said(BELIEVED_DEAD).split_whitespace().map(NodeName::from).collect();
    // Both times come from the same clock and are never compared with another: only a difference counts.
    Some(Record { node, mark: Arc::from(format!("{run}/{renewed}")), run, segments, dead })
}

/// The mark of a run of the speaker, by the moment it began: to the microsecond, since a Lease keeps no more.
pub(super) fn run_mark(run: Timestamp) -> Arc<str> {
    Arc::from(run.as_microsecond().to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use landfall_core::name::Namespace;

    fn identity() -> Identity {
        Identity {
            namespace: Namespace::new("landfall-system"),
            node: NodeName::new("n1"),
            node_uid: Some("6f1c".to_owned()),
        }
    }

    fn said() -> Publication {
        Publication {
            segments: "eth0=192.0.2.0/24 eth0=2001:db8:50::/64".parse().unwrap(),
            dead: ["n2", "n3"].map(NodeName::new).into(),
        }
    }

    fn at(second: i64) -> Timestamp {
        Timestamp::new(1_700_000_000 + second, 123_456_789).unwrap()
    }

    #[test]
    fn what_a_lease_says_goes_there_and_back() {
        for said in [said(), Publication::default()] {
            let lease = lease(&identity(), at(0), at(9), &said);
            let stored = serde_json::from_value(serde_json::to_value(&lease).unwrap()).unwrap();
            let found = record(&stored).unwrap();
            assert_eq!(found.node, NodeName::new("n1"));
            assert_eq!((found.segments, found.dead), (said.segments, said.dead));
            assert_eq!(found.run, run_mark(at(0)));
        }
    }

    #[test]
    fn the_mark_changes_with_each_renewal_and_each_run() {
        let mark = |run, now| record(&lease(&identity(), at(run), at(now), &said())).unwrap().mark;
        assert_eq!(mark(0, 9), mark(0, 9));
        assert_ne!(mark(0, 9), mark(0, 10));
        assert_ne!(mark(0, 9), mark(1, 9));
    }

    #[test]
    fn the_lease_is_called_after_the_node_and_goes_with_it() {
        let lease = lease(&identity(), at(0), at(9), &said());
        assert_eq!(lease.metadata.name.as_deref(), Some("landfall-speaker-n1"));
        let owner = &lease.metadata.owner_references.unwrap()[0];
        assert_eq!((owner.kind.as_str(), owner.name.as_str(), owner.uid.as_str()), ("Node", "n1", "6f1c"));
    }

    #[test]
    fn a_lease_that_speaks_for_another_node_is_ignored() {
        let mut lease = lease(&identity(), at(0), at(9), &said());
        lease.metadata.name = Some("landfall-speaker-n2".to_owned());
        assert_eq!(record(&lease), None);
        lease.metadata.name = Some("landfall-controller".to_owned());
        assert_eq!(record(&lease), None);
    }

    #[test]
    fn damaged_segments_count_as_none() {
        let mut lease = lease(&identity(), at(0), at(9), &said());
        lease.metadata.annotations.as_mut().unwrap().insert(SEGMENTS.to_owned(), "eth0".to_owned());
        assert_eq!(record(&lease).unwrap().segments.to_string(), "");
    }
}
