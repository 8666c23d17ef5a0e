//! The types of the API group `landfall.dev/v1beta1` as they travel, their definitions for the API server, and
//! the way from them to the types of `landfall-core`.

pub mod class;
pub mod conditions;
pub mod convert;
pub mod l2;
pub mod manifest;
pub mod pool;
pub mod reservation;
pub(crate) mod selector;
pub mod speaker_status;
pub mod text;

pub use l2::{L2Advertisement, L2AdvertisementSpec};
pub use pool::{
    AddressCount, AddressPool, AddressPoolSpec, AddressPoolStatus, ConflictDetection, DirectReturn,
    OnRemoval, RestingAddress, Sharing, SourceRangesOnNodePort,
};
pub use reservation::{
    AddressReservation, AddressReservationSpec, AddressReservationStatus, IpFamily, ServiceRef,
};
pub use speaker_status::{
    DataPathException, DataPathStatus, PeerStatus, SpeakerStatus, SpeakerStatusSpec, SpeakerStatusStatus,
    Watermark,
};
pub use text::{AddressText, DurationText, IpText, PortRangeText};
