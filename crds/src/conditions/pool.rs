//! The conditions of an `AddressPool`.

use super::{Condition, Reason};

/// Whether the pool can be used.
pub const POOL_READY: Condition = Condition {
    object: "AddressPool",
    type_: "Ready",
    about: "Whether the pool can be used.",
    reasons: &[
        Reason { status: true, name: "Ready", meaning: "The pool can be used.", action: "" },
        Reason {
            status: false,
            name: "InvalidAddresses",
            meaning: "The field that the message names cannot be used; for example, an IPv6 range is reversed. \
                      Services keep the addresses that they have from it.",
            action: "Correct the field.",
        },
        Reason {
            status: false,
            name: "NoAddresses",
            meaning: "Every address of it is left out by `exclude` or `avoidBuggyIPs`, or belongs to an older pool or \
                      to the cluster itself.",
            action: "Add addresses, or look at `Overlapping`.",
        },
    ],
};

/// Whether addresses of the pool belong to somebody else.
pub const OVERLAPPING: Condition = Condition {
    object: "AddressPool",
    type_: "Overlapping",
    about: "Whether addresses of the pool belong to an older pool or to the cluster itself. The rest of the pool works \
            all the same, and no other object is affected.",
    reasons: &[
        Reason {
            status: true,
            name: "SharesAddresses",
            meaning: "An older pool, which the message names, declares some of the addresses. They stay with the older \
                      pool.",
            action: "Remove them from one of the two.",
        },
        Reason {
            status: true,
            name: "ClusterAddresses",
            meaning: "Some of the addresses are those of a node, or lie in a network of pods or Services, which the \
                      message names. They are never given.",
            action: "Remove them from the pool, or list them in `exclude`.",
        },
        Reason {
            status: false,
            name: "NoOverlap",
            meaning: "None of its addresses belongs to anybody else.",
            action: "",
        },
    ],
};

/// Whether the pool has addresses left.
pub const EXHAUSTED: Condition = Condition {
    object: "AddressPool",
    type_: "Exhausted",
    about: "Whether the pool has no address left to give.",
    reasons: &[
        Reason {
            status: true,
            name: "NoAddressLeft",
            meaning: "Every address of the family that the message names is in use, reserved or resting.",
            action: "Add addresses, or delete Services that are not needed.",
        },
        Reason { status: false, name: "AddressesLeft", meaning: "There are addresses left.", action: "" },
    ],
};

/// Whether somebody else on the LAN uses an address of the pool.
pub const ADDRESS_CONFLICT: Condition = Condition {
    object: "AddressPool",
    type_: "AddressConflict",
    about: "Whether somebody else on the LAN uses an address of the pool.",
    reasons: &[
        Reason {
            status: true,
            name: "ForeignMac",
            meaning: "A device that is no node of the cluster answers for the address that the message names, with the \
                      MAC and on the interface named there.",
            action: "Give the device another address, or list the address in `exclude`.",
        },
        Reason {
            status: false,
            name: "NoConflict",
            meaning: "No node has seen that. The nodes do not look for it yet, so this is always the reason.",
            action: "",
        },
    ],
};
