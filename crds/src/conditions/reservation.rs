//! The condition of an `AddressReservation`.

use super::{Condition, Reason};

/// Whether the address is held.
pub const RESERVATION_READY: Condition = Condition {
    object: "AddressReservation",
    type_: "Ready",
    about: "Whether the address is held for the Services that the reservation names.",
    reasons: &[
        Reason {
            status: true,
            name: "Held",
            meaning: "The address is held; none of those Services has it at the moment.",
            action: "",
        },
        Reason {
            status: true,
            name: "InUse",
            meaning: "One of those Services has it: see `status.usedBy` and `status.since`.",
            action: "",
        },
        Reason {
            status: false,
            name: "InvalidSpec",
            meaning: "The field that the message names cannot be read.",
            action: "Correct the field.",
        },
        Reason {
            status: false,
            name: "AddressOutsidePools",
            meaning: "The address is in no pool, or its pool leaves it out.",
            action: "Add it to a pool, or reserve another one.",
        },
        Reason {
            status: false,
            name: "AddressInUse",
            meaning: "A Service that the reservation is not for, which the message names, has the address. It keeps it; \
                      once it is free it is held.",
            action: "Delete that Service, have it ask for another address, or reserve another one.",
        },
        Reason {
            status: false,
            name: "AddressReserved",
            meaning: "An older AddressReservation, which the message names, holds the same address.",
            action: "Delete one of the two.",
        },
        Reason {
            status: false,
            name: "UnknownPool",
            meaning: "The pool does not exist.",
            action: "Create it, or name another one.",
        },
        Reason {
            status: false,
            name: "PoolFull",
            meaning: "The pool has no free address of the family. The next one to become free is held.",
            action: "Add addresses to the pool.",
        },
    ],
};
