use std::collections::BTreeSet;
use std::num::NonZeroU16;

use landfall_core::endpoints::Target;
use landfall_core::frontend::{Admission, Frontend, FrontendKey, Route, Spread};
use landfall_core::name::ServiceKey;
use landfall_core::service::Protocol;

use super::*;
use crate::datapath::DataPath;
use crate::fake::FakeKernel;

#[test]
fn a_kernel_that_has_everything_passes_and_nothing_is_left_in_it() {
    let mut kernel = FakeKernel::new();
    check(&mut kernel).unwrap();
    assert!(kernel.table(TABLE).is_none() && kernel.applied.is_empty());
}

#[test]
fn what_is_missing_is_named_with_its_module() {
    for (expression, module) in [
        ("counter", "nft_counter"),
        ("ct", "nft_ct"),
        ("fib", "nft_fib_inet"),
        ("hash", "nft_hash"),
        ("nat", "nft_nat"),
        ("masq", "nft_masq"),
        ("redir", "nft_redir"),
        ("reject", "nft_reject_inet"),
    ] {
        let error = check(&mut FakeKernel::new().without(expression)).unwrap_err();
        let ApplyError::Lacks(lacks) = &error else { panic!("{error}") };
        assert!(lacks.iter().all(|lack| lack.module == module), "{expression}: {lacks:?}");
        assert!(error.to_string().contains(&format!("(module {module})")), "{error}");
    }
}

#[test]
fn several_missing_modules_are_named_together() {
    let error = check(&mut FakeKernel::new().without("fib").without("hash")).unwrap_err().to_string();
    assert!(error.contains("nft_fib_inet") && error.contains("nft_hash"), "{error}");
}

#[test]
fn that_we_may_not_ask_is_not_taken_for_a_missing_module() {
    let mut kernel = FakeKernel::new();
    kernel.fail_next(Errno::EPERM);
    assert!(matches!(check(&mut kernel), Err(ApplyError::Rejected { .. })));
}

#[test]
fn every_expression_of_the_data_path_is_tried() {
    let mut path = DataPath::new(FakeKernel::new(), 1);
    let port = NonZeroU16::new(80).unwrap();
    let target = Target { addr: "10.244.1.5".parse().unwrap(), port };
    let front = Frontend {
        owned: true,
        admission: Admission::Anyone,
        spread: Spread::Client,
        affinity: Some(10_800),
        route: Route::Cluster { targets: Box::from([target]) },
        draining: Box::default(),
        lost: Box::default(),
    };
    let key = FrontendKey { addr: "192.0.2.100".parse().unwrap(), protocol: Protocol::Tcp, port };
    path.set_service(&ServiceKey::new("shop", "web"), vec![(key, front)]);
    path.commit().unwrap();
    let names = |ops: &[Op]| -> BTreeSet<&'static str> {
        let exprs = ops.iter().flat_map(|op| match op {
            Op::AddRule(_, exprs) => exprs.as_slice(),
            _ => &[],
        });
        exprs.map(Expr::name).collect()
    };
    let used: BTreeSet<_> = path.kernel().applied.iter().flat_map(|batch| names(&batch.ops)).collect();
    let tried: BTreeSet<_> = needs().iter().flat_map(|need| names(&need.ops)).collect();
    assert!(used.is_subset(&tried), "{used:?} {tried:?}");
    assert!(used.len() > 8, "{used:?}");
}
