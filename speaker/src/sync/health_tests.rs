//! What the loop tells those who ask after the health of this node.

use crate::convert::HealthCheck;
use crate::health_check::State;

use super::tests::{DEADLINE, Rig, VIPS, facts, key, rig};
use super::*;
use crate::view::{Change, Observed};

async fn asked(rig: &mut Rig, what: &str, condition: impl Fn(&State) -> bool) {
    let met = async {
        // Numbers change without a notification.
        while !condition(&rig.health.borrow()) {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    assert!(tokio::time::timeout(DEADLINE, met).await.is_ok(), "{what}: {:?}", rig.health.borrow());
}

#[tokio::test]
async fn a_health_check_follows_its_service() {
    // S119
    for vip in VIPS {
        let mut rig = rig();
        let mut web = facts("web", vip);
        let port = std::num::NonZeroU16::new(30_400).unwrap();
        web.health_check = Some(HealthCheck { port, v4: true, v6: true });
        rig.report(Observed::Service(Change::Set(key("web"), web.clone()), 7)).await;
        rig.listed(&["web"]).await;
        asked(&mut rig, "opened", |state| state.checks.get(&key("web")).is_some_and(|c| c.port == port))
            .await;
        assert!(rig.health.borrow().pending.is_some(), "the kernel does not have it yet");

        let batch = rig.batch().await;
        rig.commit(batch).await;
        asked(&mut rig, "committed", |state| state.pending.is_none() && state.updated.is_some()).await;

        web.health_check = None;
        rig.report(Observed::Service(Change::Set(key("web"), web), 8)).await;
        asked(&mut rig, "closed", |state| state.checks.is_empty()).await;
        let refused = Report::Refused { services: vec![key("web")], reason: "no".to_owned() };
        rig.reports.send(refused).await.unwrap();
        asked(&mut rig, "refused", |state| state.pending.is_some()).await;
    }
}
