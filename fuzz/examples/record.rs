//! Takes the seeds from the running kernel: what it answers in a network namespace made for it. Run it as root.
//!
//! ```text
//! cargo run -p landfall-fuzz --example record
//! ```

use std::fs;
use std::net::{SocketAddr, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, ensure};
use landfall_core::addr::Family;
use landfall_speaker::kernel::Kernel as _;
use landfall_speaker::l2::arp::Arp;
use landfall_speaker::link::Mac;
use landfall_speaker::nft::model::{Base, Batch, ChainKind, Ct, Expr, Hook, Op, Reg, TableFlags};
use landfall_speaker::nft::port::{Netlink, Port};
use landfall_speaker::nft::{self, conntrack, encode};
use landfall_speaker::{datapath::DataPath, fake::FakeKernel};
use netlink_sys::protocols::NETLINK_ROUTE;
use netlink_sys::{Socket, SocketAddr as NetlinkAddr};
use nix::sched::{CloneFlags, unshare};

fn main() -> anyhow::Result<()> {
    unshare(CloneFlags::CLONE_NEWNET).context("a network namespace of its own (run as root)")?;
    let up = Command::new("ip").args(["link", "set", "lo", "up"]).status()?;
    ensure!(up.success(), "ip failed");
    arp()?;
    tables()?;
    connections()?;
    links()
}

fn write(target: &str, name: &str, bytes: &[u8]) -> anyhow::Result<()> {
    let folder: PathBuf = Path::new(env!("CARGO_MANIFEST_DIR")).join("seeds").join(target);
    fs::create_dir_all(&folder)?;
    // Longer ones are cut before they are damaged.
    Ok(fs::write(folder.join(name), bytes.get(..4096).unwrap_or(bytes))?)
}

fn arp() -> anyhow::Result<()> {
    let mac = Mac([2, 0, 0, 0, 0, 0x11]);
    let [request, reply] = Arp::gratuitous([192, 0, 2, 100].into(), mac);
    write("arp", "request", &request.encode(Mac::BROADCAST))?;
    let mut padded = reply.encode(mac).to_vec();
    padded.resize(60, 0);
    write("arp", "reply-padded", &padded)
}

/// Everything that waits at a port.
fn answers(port: &mut Netlink) -> Vec<Vec<u8>> {
    let mut all = Vec::new();
    loop {
        let mut answer = Vec::with_capacity(64 << 10);
        if port.receive(&mut answer).is_err() {
            return all;
        }
        all.push(answer);
    }
}

fn tables() -> anyhow::Result<()> {
    let mut listener = Netlink::listen()?;
    let mut kernel = nft::Kernel::open()?;
    let mut path = DataPath::new(FakeKernel::new(), 1);
    path.commit()?;
    let whole = path.kernel().applied.pop().context("a batch")?;
    kernel.apply(&whole)?;
    let small = small(kernel.table_flags());
    write("nft_batch", "small", &encode::batch(&small))?;
    // A batch has to be whole, so these are parts of a table.
    let part = |wanted: fn(&Op) -> bool| {
        let ops = whole.ops.iter().filter(|op| wanted(op)).take(10).cloned().collect();
        encode::batch(&Batch { table: whole.table.clone(), ops })
    };
    write("nft_batch", "sets", &part(|op| matches!(op, Op::AddSet(_))))?;
    write("nft_batch", "rules", &part(|op| matches!(op, Op::AddRule(..))))?;
    write("nft_batch", "elements", &part(|op| matches!(op, Op::Insert { .. })))?;
    for (number, change) in answers(&mut listener).iter().take(3).enumerate() {
        write("nft_changes", &format!("change-{number}"), change)?;
    }
    let mut asker = Netlink::open()?;
    let refused = Batch { table: "landfall".into(), ops: vec![Op::DeleteChain("nowhere".into())] };
    for (name, request) in [
        ("generation", encode::get_generation()),
        ("table", encode::get_table("landfall")),
        ("no-table", encode::get_table("nowhere")),
        ("refused", encode::batch(&refused)),
    ] {
        asker.send(&request)?;
        write("nft_answers", name, &answers(&mut asker).concat())?;
    }
    Ok(())
}

/// A table with one rule of several expressions.
fn small(flags: TableFlags) -> Batch {
    let base = Base { kind: ChainKind::Filter, hook: Hook::Output, priority: 0 };
    let exprs = vec![
        Expr::Ct(Ct::State, Reg(0)),
        Expr::Ct(Ct::OriginalDestination(Family::V6), Reg(1)),
        Expr::Counter,
    ];
    let ops = vec![
        Op::AddTable(flags),
        Op::AddChain("c".into(), Some(base)),
        Op::AddRule("c".into(), exprs),
        Op::DeleteChain("c".into()),
    ];
    Batch { table: "small".into(), ops }
}

fn connections() -> anyhow::Result<()> {
    // A rule that asks for the state makes the kernel follow connections.
    let mut kernel = nft::Kernel::open()?;
    let mut batch = small(kernel.table_flags());
    batch.ops.pop();
    kernel.apply(&batch)?;
    for to in ["127.0.0.1:53", "[::1]:53"] {
        let to: SocketAddr = to.parse()?;
        let _server = UdpSocket::bind(to)?;
        UdpSocket::bind((to.ip(), 0))?.send_to(b"seed", to)?;
    }
    let mut port = Netlink::open()?;
    let lists = conntrack::listings(&landfall_fuzz::gone()).iter().map(conntrack::list).collect::<Vec<_>>();
    for (number, request) in lists.iter().enumerate() {
        port.send(request)?;
        write("conntrack", &format!("list-{number}"), &answers(&mut port).concat())?;
    }
    Ok(())
}

fn links() -> anyhow::Result<()> {
    // struct nlmsghdr, then struct ifinfomsg or ifaddrmsg: dumps of RTM_GETLINK (18) and RTM_GETADDR (22).
    for (name, kind, body) in [("links", 18_u16, 16_usize), ("addresses", 22, 8)] {
        let mut socket = Socket::new(NETLINK_ROUTE)?;
        socket.bind_auto()?;
        let mut request = u32::try_from(16 + body)?.to_ne_bytes().to_vec();
        request.extend(kind.to_ne_bytes());
        request.extend(0x301_u16.to_ne_bytes());
        request.extend(vec![0; 8 + body]);
        socket.send_to(&request, &NetlinkAddr::new(0, 0), 0)?;
        let (answer, _) = socket.recv_from_full()?;
        // One message to a seed: that is how they are read.
        let mut rest = answer.as_slice();
        let mut number = 0;
        while let Some(len) = rest.first_chunk().map(|len| u32::from_ne_bytes(*len)) {
            let len = usize::try_from(len)?;
            let message = rest.get(..len).filter(|_| len >= 16).context("an answer that is cut off")?;
            write("links", &format!("{name}-{number}"), message)?;
            rest = rest.get(len.next_multiple_of(4)..).unwrap_or_default();
            number += 1;
        }
    }
    Ok(())
}
