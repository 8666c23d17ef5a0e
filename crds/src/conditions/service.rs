//! The conditions of a Service.

use super::{Condition, Reason};

/// Whether the Service has an address.
pub const ALLOCATED: Condition = Condition {
    object: "Service",
    type_: "landfall.dev/Allocated",
    about: "Whether the Service has an address. A Service that waits is looked at again as soon as what is in its way \
            changes, those that wait longest first.",
    reasons: &[
        Reason { status: true, name: "Allocated", meaning: "It has what it asks for.", action: "" },
        Reason {
            status: true,
            name: "SecondFamilyUnavailable",
            meaning: "It has an address of one family; the message says why not of the second. That one is added when \
                      it can be had.",
            action: "Add addresses of the family to a pool that may serve it.",
        },
        Reason {
            status: true,
            name: "RequestedAddressUnavailable",
            meaning: "It keeps its address; another one, or another pool, was asked for and the message says what is in \
                      the way.",
            action: "Remove the obstacle, or the request.",
        },
        Reason {
            status: true,
            name: "OutsidePool",
            meaning: "Its address is in no usable pool any more: the pool is gone, was made smaller or is not `Ready`, \
                      or the address belongs to the cluster itself by now. It keeps it; nobody else gets it.",
            action: "Add the address to a pool, correct the pool, or ask for another address.",
        },
        Reason {
            status: true,
            name: "SharingConflict",
            meaning: "It shares its address, and its key or a port was changed so that it clashes with the Service that \
                      the message names. It keeps the address; for a port that both \
                      have, the older Service answers.",
            action: "Set key and port right, or ask for another address (`landfall.dev/addresses`).",
        },
        Reason {
            status: true,
            name: "NodePortsExhausted",
            meaning: "It has its address, but the range that the message names has no free port left for its NodePorts.",
            action: "Widen the `nodePortRange` of the pool, or release ports.",
        },
        Reason {
            status: true,
            name: "NodePortRangeInvalid",
            meaning: "It has its address, but the API server refuses NodePorts of the range that the message names.",
            action: "Choose a `nodePortRange` within the API server's `--service-node-port-range`.",
        },
        Reason {
            status: false,
            name: "NoPool",
            meaning: "There is no usable AddressPool.",
            action: "Create one.",
        },
        Reason {
            status: false,
            name: "NoPoolForFamily",
            meaning: "No pool with `autoAssign` has addresses of the family.",
            action: "Add some, or name a pool.",
        },
        Reason {
            status: false,
            name: "NoMatchingPool",
            meaning: "There are pools, but none of them serves this namespace and these labels.",
            action: "Look at `namespaces`, `namespaceSelector` and `serviceSelectors` of the pools.",
        },
        Reason {
            status: false,
            name: "PoolsFull",
            meaning: "The pools that the message names are full.",
            action: "Add addresses, or delete a Service.",
        },
        Reason {
            status: false,
            name: "QuotaExceeded",
            meaning: "The namespace holds as many addresses of the pool as `maxAddressesPerNamespace` allows; the \
                      message names pool, namespace and number.",
            action: "Delete a Service of the namespace, share an address, or raise the limit.",
        },
        Reason {
            status: false,
            name: "UnknownPool",
            meaning: "The pool asked for does not exist.",
            action: "Create it, or name another one.",
        },
        Reason {
            status: false,
            name: "PoolNotReady",
            meaning: "The pool asked for is not `Ready`; the message repeats why.",
            action: "Correct the pool.",
        },
        Reason {
            status: false,
            name: "PoolNotAllowed",
            meaning: "The pool asked for, or the pool of the address asked for, does not serve this namespace or these \
                      labels.",
            action: "Ask for another one, or have the pool serve this Service.",
        },
        Reason {
            status: false,
            name: "PoolLacksFamily",
            meaning: "The pool asked for has no address of the family.",
            action: "Add some, or change the families of the Service.",
        },
        Reason {
            status: false,
            name: "AddressOutsidePools",
            meaning: "The address asked for is in no pool.",
            action: "Add it to a pool, or ask for another one.",
        },
        Reason {
            status: false,
            name: "AddressNotInPool",
            meaning: "The address asked for is not in the pool asked for.",
            action: "Remove one of the two requests.",
        },
        Reason {
            status: false,
            name: "AddressLeftOut",
            meaning: "The address asked for is left out by `exclude` or `avoidBuggyIPs` of its pool.",
            action: "Ask for another one, or change the pool.",
        },
        Reason {
            status: false,
            name: "AddressTaken",
            meaning: "The address asked for belongs to the cluster itself: to a node, or to a network of pods or \
                      Services, which the message names.",
            action: "Ask for another one.",
        },
        Reason {
            status: false,
            name: "AddressReserved",
            meaning: "The address asked for is held for somebody else by the AddressReservation that the message names.",
            action: "Ask for another one, or change the reservation.",
        },
        Reason {
            status: false,
            name: "AddressQuarantined",
            meaning: "The address asked for was freed a moment ago and rests until the time in the message.",
            action: "Wait, ask for another one, or lower the `quarantine` of the pool.",
        },
        Reason {
            status: false,
            name: "AddressInUse",
            meaning: "Another Service, which the message names, has the address asked for.",
            action: "Ask for another one, or share it: give both the same sharing key.",
        },
        Reason {
            status: false,
            name: "SharingKeyDiffers",
            meaning: "The Service that has the address asked for, which the message names, shares it under another key.",
            action: "Use its key, or ask for another address.",
        },
        Reason {
            status: false,
            name: "SharingPortConflict",
            meaning: "A Service with the same sharing key, which the message names, has the same protocol and port.",
            action: "Change the port or the key.",
        },
        Reason {
            status: false,
            name: "SharingNotAllowed",
            meaning: "The address is shared by Services of another namespace, which the message names, and the pool \
                      allows sharing inside a namespace only.",
            action: "Use another key or address, or set `sharing: Cluster` in the pool.",
        },
        Reason {
            status: false,
            name: "InvalidRequest",
            meaning: "The field or annotation that the message names makes no sense.",
            action: "Correct it.",
        },
    ],
};

/// Whether the addresses are announced.
pub const ANNOUNCED: Condition = Condition {
    object: "Service",
    type_: "landfall.dev/Announced",
    about: "Whether each of its addresses is announced on the LAN, by which node and on which interface. There as long \
            as the Service has an address.",
    reasons: &[
        Reason {
            status: true,
            name: "Announced",
            meaning: "A node announces each address; the message names node and interface.",
            action: "",
        },
        Reason {
            status: false,
            name: "NotAnnounced",
            meaning: "No node announces the address that the message names.",
            action: "Look for a node with a running speaker, that an L2Advertisement selects, with an interface in the \
                     subnet of the address, and with a ready endpoint if `externalTrafficPolicy` is `Local`.",
        },
    ],
};

/// Whether every node carries the traffic.
pub const PROGRAMMED: Condition = Condition {
    object: "Service",
    type_: "landfall.dev/Programmed",
    about: "Whether the kernel of every node has the Service as it is now. There as long as the Service has an address.",
    reasons: &[
        Reason { status: true, name: "Programmed", meaning: "Every node has it.", action: "" },
        Reason {
            status: false,
            name: "NotProgrammed",
            meaning: "The nodes that the message names do not have it yet, or cannot.",
            action: "If it lasts, look at the SpeakerStatus and the log of the speaker on those nodes.",
        },
    ],
};

/// Whether the source ranges hold on every node.
pub const SOURCE_RANGES_ENFORCED: Condition = Condition {
    object: "Service",
    type_: "landfall.dev/SourceRangesEnforced",
    about: "Whether every node lets in those sources only that the Service allows. There on a Service with \
            `spec.loadBalancerSourceRanges` or the annotation `service.beta.kubernetes.io/load-balancer-source-ranges`.",
    reasons: &[
        Reason {
            status: true,
            name: "Enforced",
            meaning: "Every node enforces the ranges as they are now.",
            action: "",
        },
        Reason {
            status: false,
            name: "NotEnforced",
            meaning: "The nodes that the message names still go by older ranges.",
            action: "If it lasts, look at the SpeakerStatus and the log of the speaker on those nodes.",
        },
    ],
};
