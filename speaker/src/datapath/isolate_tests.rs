use std::net::IpAddr;
use std::num::NonZeroU16;

use landfall_core::addr::AddrRange;
use landfall_core::endpoints::Target;
use landfall_core::frontend::{Admission, Frontend, FrontendKey, Route, Spread};
use landfall_core::service::Protocol;
use nix::errno::Errno;

use super::*;
use crate::fake::FakeKernel;

/// The network of the addresses, of their endpoints, and what ends an address.
const FAMILIES: [(&str, &str); 2] = [("192.0.2.", "10.0.0.5"), ("2001:db8::", "fd00::5")];

fn service(index: usize) -> ServiceKey {
    ServiceKey::new("shop", format!("s{index}"))
}

fn key(family: (&str, &str), index: usize) -> FrontendKey {
    let port = NonZeroU16::new(80).unwrap();
    FrontendKey { addr: format!("{}{index}", family.0).parse().unwrap(), protocol: Protocol::Tcp, port }
}

/// A Service; a bad one has the same range twice, which no kernel takes and which cannot come from users.
fn stage(path: &mut DataPath<FakeKernel>, family: (&str, &str), index: usize, bad: bool) {
    let addr: IpAddr = family.1.parse().unwrap();
    let range = AddrRange::new(addr, addr).unwrap();
    let target = Target { addr, port: NonZeroU16::new(8080).unwrap() };
    let admission = if bad { Admission::Ranges(Arc::from([range, range])) } else { Admission::Anyone };
    let route = Route::Cluster { targets: Box::from([target]) };
    let front = Frontend {
        owned: true,
        admission,
        spread: Spread::Flow,
        affinity: None,
        route,
        draining: Box::default(),
        lost: Box::default(),
    };
    path.set_service(&service(index), vec![(key(family, index), front)]);
}

/// Services 0 to 39, of which the given ones are bad.
fn path(family: (&str, &str), bad: &[usize]) -> DataPath<FakeKernel> {
    let mut path = DataPath::new(FakeKernel::new(), 7);
    (0..40).for_each(|index| stage(&mut path, family, index, bad.contains(&index)));
    path
}

fn refused(path: &DataPath<FakeKernel>) -> Vec<ServiceKey> {
    path.refused().keys().cloned().collect()
}

#[test]
fn a_bad_service_stays_out_of_the_first_table_and_the_others_go_in() {
    // S139
    for family in FAMILIES {
        let mut path = path(family, &[7, 30]);
        path.commit().unwrap();
        assert_eq!(refused(&path), [service(30), service(7)]);
        assert_eq!(path.len(), 38);
        assert!(path.refused()[&service(7)].contains("insert into set src"), "{:?}", path.refused());
        assert!(path.kernel().table(TRIAL).is_none());
    }
}

#[test]
fn a_bad_change_takes_out_its_service_only() {
    for family in FAMILIES {
        let mut path = path(family, &[]);
        path.commit().unwrap();
        stage(&mut path, family, 3, true);
        stage(&mut path, family, 50, false);
        path.commit().unwrap();
        assert_eq!(refused(&path), [service(3)]);
        assert!(!path.owns(&key(family, 3)) && path.owns(&key(family, 50)) && path.len() == 40);
        // The next ones are updates as if nothing had been.
        stage(&mut path, family, 51, false);
        assert!(!path.commit().unwrap().full);
    }
}

#[test]
fn a_refused_service_goes_in_when_it_has_changed() {
    for family in FAMILIES {
        let mut path = path(family, &[3]);
        path.commit().unwrap();
        stage(&mut path, family, 3, false);
        assert!(!path.commit().unwrap().full);
        assert!(path.refused().is_empty() && path.owns(&key(family, 3)));
    }
}

#[test]
fn a_refused_service_that_goes_leaves_nothing() {
    for family in FAMILIES {
        let mut path = path(family, &[3]);
        path.commit().unwrap();
        path.remove_service(&service(3));
        path.commit().unwrap();
        assert!(path.refused().is_empty() && path.len() == 39);
    }
}

#[test]
fn a_refused_service_is_tried_again_without_touching_the_table() {
    for family in FAMILIES {
        let mut path = path(family, &[3]);
        path.commit().unwrap();
        let batches = path.kernel().applied.len();
        path.retry_refused().unwrap();
        assert_eq!((refused(&path), path.kernel().applied.len()), (vec![service(3)], batches));
        // The kernel was at fault, and is no more.
        path.refused.insert(service(4), String::new());
        path.retry_refused().unwrap();
        assert_eq!(refused(&path), [service(3)]);
        assert!(path.is_incomplete());
    }
}

#[test]
fn what_the_kernel_refuses_without_services_too_is_no_services_fault() {
    for family in FAMILIES {
        let mut path = path(family, &[]);
        path.kernel = FakeKernel::new().without("masq");
        assert!(path.commit().unwrap_err().is_verdict());
        assert!(path.refused().is_empty());
    }
}

#[test]
fn a_lack_of_memory_is_no_services_fault() {
    for errno in [Errno::ENOMEM, Errno::ENOBUFS, Errno::EPERM] {
        let mut path = path(FAMILIES[0], &[]);
        path.kernel().fail_next(errno);
        path.commit().unwrap_err();
        assert!(path.refused().is_empty());
        path.commit().unwrap();
        assert_eq!(path.len(), 40);
    }
}

#[test]
fn when_nearly_all_are_bad_the_search_ends() {
    let mut path = DataPath::new(FakeKernel::new(), 7);
    for index in 0..240 {
        stage(&mut path, FAMILIES[0], index, index != 5);
    }
    path.commit().unwrap();
    assert!(path.refused().len() >= SINGLED_OUT && path.len() <= 1);
}
