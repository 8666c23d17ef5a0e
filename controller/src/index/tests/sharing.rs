//! Services that share an address, and those that would.

use super::*;

/// A Service with one port; `key` lets it share.
fn put(world: &mut Server, name: &str, port: u16, key: bool) {
    let mut spec = v4();
    spec["ports"][0]["port"] = json!(port);
    let key = if key { json!("key") } else { json!(null) };
    world.put_with(name, spec, &json!({"landfall.dev/sharing-key": key}));
}

#[test]
fn who_waits_is_served_when_another_one_begins_to_share() {
    // A44
    let mut world = Server::new(&["192.0.2.0/32"]);
    put(&mut world, "holder", 80, false);
    world.quiet();
    put(&mut world, "waits", 81, true);
    world.quiet();
    assert_eq!(world.reason("waits"), "PoolsFull");
    put(&mut world, "holder", 80, true);
    world.quiet();
    assert_eq!(world.addresses("waits"), ["192.0.2.0"]);
}

#[test]
fn who_finds_its_port_taken_is_served_by_an_address_of_its_own_when_there_is_one() {
    // A43
    let mut world = Server::new(&["192.0.2.0/31"]);
    put(&mut world, "other", 80, false);
    put(&mut world, "holder", 81, true);
    world.quiet();
    put(&mut world, "waits", 81, true);
    world.quiet();
    assert_eq!(world.reason("waits"), "SharingPortConflict");
    world.delete("other");
    world.quiet();
    assert_eq!(world.addresses("waits"), ["192.0.2.0"]);
}

#[test]
fn a_restart_moves_nobody_when_one_of_them_does_not_share_any_more() {
    // A61
    for changed in ["first", "second"] {
        let mut world = Server::new(&["192.0.2.0/30"]);
        put(&mut world, "first", 80, true);
        world.quiet();
        put(&mut world, "second", 81, true);
        world.quiet();
        put(&mut world, changed, if changed == "first" { 80 } else { 81 }, false);
        world.restart();
        world.quiet();
        for name in ["first", "second"] {
            assert_eq!(world.addresses(name), ["192.0.2.0"], "{changed} has changed");
            let expected = if name == changed { "SharingConflict" } else { "Allocated" };
            assert_eq!(world.reason(name), expected, "{name}, {changed} has changed");
        }
    }
}
