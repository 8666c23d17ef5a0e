//! The conditions of a `SpeakerStatus`.

use super::{Condition, Reason};

/// Whether the node lets the traffic of Services pass.
pub const HOST_READY: Condition = Condition {
    object: "SpeakerStatus",
    type_: "HostReady",
    about: "Whether anything on the node stands in the way of traffic that its speaker directs. Written by that speaker, \
            which looks every minute; each reason is also that of an Event on the Node. With several the message names \
            all of them, and the reason is that of the first.",
    reasons: &[
        Reason { status: true, name: "Ready", meaning: "Nothing is known of.", action: "" },
        Reason {
            status: false,
            name: "ForwardingOff",
            meaning: "The kernel parameter that the message names keeps the node from forwarding packets to pods.",
            action: "Set it on the node, or have the speaker do it: `speaker.sysctls` in the chart's values.",
        },
        Reason {
            status: false,
            name: "StrictReversePath",
            meaning: "Strict reverse-path filtering drops packets of clients behind a router on an interface that the \
                      node's default route does not lead through.",
            action: "Set `rp_filter` of the interface to 2 (loose), or have the speaker do it.",
        },
        Reason {
            status: false,
            name: "ConntrackFull",
            meaning: "The kernel's table of connections is full, so new ones are dropped.",
            action: "Raise `net.netfilter.nf_conntrack_max`.",
        },
        Reason {
            status: false,
            name: "ForeignFilter",
            meaning: "The chain that the message names, in a table that is not Landfall's, drops what the node forwards to \
                      its pods or their answers.",
            action: "Let packets to and from the networks of the pods pass in that chain.",
        },
    ],
};
