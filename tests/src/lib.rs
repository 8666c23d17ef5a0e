//! Real Kubernetes clusters on one machine.
//!
//! A lab is a LAN (a bridge) in network namespaces of its own, with a control plane, a registry, two clients and
//! any number of nodes on it. Everything in it is real: etcd, the API server, kubelets, containerd, kube-proxy,
//! Helm. A node is a set of namespaces whose first process starts its services, so that a power cut, a pulled
//! cable or a dead switch port are one call. `docs/lab.md` says what is real and what is not.
//!
//! The program `lab` and the tests use the same code: [`Lab`] is a lab, [`Host`] a host of it, [`wait`] waits.

mod access;
pub mod arena;
mod capture;
pub mod cgroup;
pub mod client;
mod command;
pub mod contender;
mod control;
mod down;
mod error;
mod fault;
mod host;
mod http;
pub mod init;
mod lab;
mod netns;
mod node;
pub mod objects;
mod oci;
mod pki;
mod plan;
mod preflight;
pub mod product;
pub mod reaper;
pub mod recorder;
mod registry;
mod report;
pub mod responder;
mod shared;
pub mod spawn;
mod state;
mod toolchain;
pub mod wait;

pub use capture::{ArpCapture, ArpFrame};
pub use error::{Error, Result};
pub use fault::Fault;
pub use host::Host;
pub use http::Response;
pub use lab::{Lab, Options};
pub use oci::write_program_image;
pub use plan::{Families, HostName, KubeProxy, LabName, mac_text};
pub use preflight::root;
pub use shared::TestNs;
pub use toolchain::{Toolchain, cache_folder, checkout};
