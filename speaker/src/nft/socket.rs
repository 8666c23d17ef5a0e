//! The only place that opens `NETLINK_NETFILTER`: one socket for the life of the process.
//!
//! A batch is one `sendmsg`; the kernel works through it before the call returns, so its complaints are waiting
//! when we look, and silence means that it was taken. The socket is never closed in between: closing one after
//! something was deleted waits for the kernel to be done with it, and would give up the ownership of the table.

use std::io;
use std::os::fd::AsFd;
use std::time::Duration;

use netlink_sys::constants::NETLINK_NETFILTER;
use netlink_sys::{Socket, SocketAddr};
use nix::errno::Errno;
use nix::sys::socket::sockopt::{RcvBufForce, SndBufForce};
use nix::sys::socket::{MsgFlags, setsockopt};

use super::conntrack::{self, Gone};
use super::decode::{Reply, TableFacts, replies};
use super::encode;
use super::model::{Batch, Element, Op, TableFlags};
use crate::kernel::{self, Applied, ApplyError, Inspection, Owner, TableState};

/// Room for one datagram of answers: the kernel fills at most 32 KiB at a time, an error is far smaller.
const ANSWER: usize = 64 * 1024;
/// The send buffer is never below this.
const LEAST_BUFFER: usize = 1 << 20;
/// The kernel accounts the memory a message takes, not its length: twice the length is always enough.
const BUFFER_FACTOR: usize = 2;
/// Each refused operation is answered; one answer takes about this much of the receive buffer.
const ANSWER_COST: usize = 1024;
/// At most so much memory for answers: beyond it the first ones, which are the interesting ones, have long come.
const MOST_ANSWERS: usize = 64 << 20;

/// The kernel of the network namespace in which it was opened.
#[derive(Debug)]
pub struct Kernel {
    socket: Socket,
    /// The address the kernel knows the socket by; it names the owner of a table.
    port: u32,
    send_buffer: usize,
    receive_buffer: usize,
    flags: TableFlags,
    answer: Vec<u8>,
}

impl Kernel {
    /// Opens the socket and finds out what the kernel can do. Needs `CAP_NET_ADMIN`.
    pub fn open() -> Result<Self, ApplyError> {
        let mut kernel = Self::open_without_ownership()?;
        kernel.flags = kernel.probe_flags()?;
        Ok(kernel)
    }

    /// Opens the socket and makes tables that everybody may change, as on a kernel that knows no ownership.
    pub fn open_without_ownership() -> Result<Self, ApplyError> {
        let open = || -> io::Result<(Socket, u32)> {
            let mut socket = Socket::new(NETLINK_NETFILTER)?;
            let port = socket.bind_auto()?.port_number();
            socket.set_non_blocking(true)?;
            // Errors then carry the kernel's words, and not the whole request.
            socket.set_ext_ack(true)?;
            socket.set_cap_ack(true)?;
            Ok((socket, port))
        };
        let (socket, port) = open().map_err(ApplyError::Receive)?;
        Ok(Self {
            socket,
            port,
            send_buffer: 0,
            receive_buffer: 0,
            flags: TableFlags::default(),
            answer: Vec::with_capacity(ANSWER),
        })
    }

    /// Whether the kernel takes the flags owner (5.12) and persist (6.9): tried on a table that is gone again in
    /// the same transaction. Owner without persist would take the table down with the process, so it is both or
    /// neither.
    fn probe_flags(&mut self) -> Result<TableFlags, ApplyError> {
        let flags = TableFlags { owner: true, persist: true };
        let mut probe = Batch::new(format!("landfall-probe-{}", self.port));
        probe.ops = vec![Op::AddTable(flags), Op::DeleteTable];
        match kernel::Kernel::apply(self, &probe) {
            Ok(_) => Ok(flags),
            Err(ApplyError::Rejected { source, .. })
                if matches!(errno_of(&source), Errno::EOPNOTSUPP | Errno::EINVAL) =>
            {
                Ok(TableFlags::default())
            }
            Err(error) => Err(error),
        }
    }

    fn send(&mut self, bytes: &[u8], operations: usize) -> Result<(), ApplyError> {
        self.size_buffers(bytes.len(), operations)
            .map_err(|source| ApplyError::Send { bytes: bytes.len(), source })?;
        self.socket
            .send_to(bytes, &SocketAddr::new(0, 0), 0)
            .map(|_| ())
            .map_err(|source| ApplyError::Send { bytes: bytes.len(), source })
    }

    /// Grows the socket's buffers to what a batch needs. The `FORCE` forms may exceed the host's limits.
    fn size_buffers(&mut self, bytes: usize, operations: usize) -> io::Result<()> {
        let send = (bytes * BUFFER_FACTOR).next_power_of_two().max(LEAST_BUFFER);
        if send > self.send_buffer {
            setsockopt(&self.socket.as_fd(), SndBufForce, &send)?;
            self.send_buffer = send;
        }
        let receive = (operations * ANSWER_COST).next_power_of_two().clamp(LEAST_BUFFER, MOST_ANSWERS);
        if receive > self.receive_buffer {
            setsockopt(&self.socket.as_fd(), RcvBufForce, &receive)?;
            self.receive_buffer = receive;
        }
        Ok(())
    }

    /// Hands what the kernel has sent to `see`, datagram by datagram, until nothing is waiting. A list is made by
    /// the kernel while it is received, so this ends at its end.
    fn receive(&mut self, mut see: impl FnMut(&[u8])) -> Result<(), Errno> {
        loop {
            self.answer.clear();
            self.answer.reserve(ANSWER);
            match self.socket.recv(&mut self.answer, MsgFlags::MSG_DONTWAIT.bits()) {
                Ok(_) => see(&self.answer),
                Err(error) => match errno_of(&error) {
                    Errno::EAGAIN => return Ok(()),
                    Errno::EINTR => {}
                    errno => return Err(errno),
                },
            }
        }
    }

    /// Hands the waiting answers to `see` until there is none left.
    fn drain(&mut self, mut see: impl FnMut(Reply)) -> Result<(), Errno> {
        self.receive(|bytes| replies(bytes).for_each(&mut see))
    }

    /// Asks one question and returns the first answer that `pick` wants, or the error the kernel ended it with.
    fn ask<T>(
        &mut self,
        request: &[u8],
        what: &'static str,
        pick: impl Fn(Reply) -> Option<T>,
    ) -> Result<Result<T, Errno>, ApplyError> {
        self.send(request, 1)?;
        let mut answer = None;
        self.drain(|reply| {
            let found = error(&reply).map(Err).or_else(|| pick(reply).map(Ok));
            if answer.is_none() {
                answer = found;
            }
        })
        .map_err(|errno| ApplyError::Receive(errno.into()))?;
        answer.ok_or(ApplyError::Unexpected(what))
    }

    fn generation(&mut self) -> Result<u32, ApplyError> {
        let pick = |reply| match reply {
            Reply::Generation(generation) => Some(generation),
            _ => None,
        };
        self.ask(&encode::get_generation(), "the generation", pick)?
            .map_err(|errno| ApplyError::Receive(errno.into()))
    }

    fn owner(&self, facts: &TableFacts) -> Owner {
        match (facts.flags.owner, facts.owner) {
            (false, _) => Owner::Anybody,
            (true, None) => Owner::Orphan,
            (true, Some(port)) if port == self.port => Owner::Us,
            (true, Some(_)) => Owner::Other,
        }
    }
}

impl kernel::Kernel for Kernel {
    fn apply(&mut self, batch: &Batch) -> Result<Applied, ApplyError> {
        let bytes = encode::batch(batch);
        // Nothing may be left over from before: an old answer would be taken for one to this batch.
        let _ = self.drain(|_| {});
        let before = self.generation()?;
        self.send(&bytes, batch.operations())?;
        let mut first: Option<(u32, i32, Option<String>)> = None;
        let drained = self.drain(|reply| {
            if let Reply::Ended { seq, errno, detail } = reply
                && errno != 0
                && first.is_none()
            {
                first = Some((seq, errno, detail));
            }
        });
        if let Some((seq, errno, detail)) = first {
            return Err(rejected(batch, seq, errno, detail));
        }
        match drained {
            Ok(()) => Ok(Applied { bytes: bytes.len() }),
            // Answers were lost. They are complaints, so the batch was probably refused, but only the generation
            // knows; and even that may have been moved on by somebody else meanwhile.
            Err(Errno::ENOBUFS) => {
                let _ = self.drain(|_| {});
                if self.generation()? == before {
                    Err(ApplyError::Receive(Errno::ENOBUFS.into()))
                } else {
                    Err(ApplyError::Unclear)
                }
            }
            Err(errno) => Err(ApplyError::Receive(errno.into())),
        }
    }

    fn inspect(&mut self, table: &str) -> Result<Inspection, ApplyError> {
        let generation = self.generation()?;
        let pick = |reply| match reply {
            Reply::Table(facts) if facts.name == table => Some(facts),
            _ => None,
        };
        let table = match self.ask(&encode::get_table(table), "the table", pick)? {
            Ok(facts) => {
                Some(TableState { handle: facts.handle, uses: facts.uses, owner: self.owner(&facts) })
            }
            Err(Errno::ENOENT) => None,
            Err(errno) => return Err(ApplyError::Receive(errno.into())),
        };
        Ok(Inspection { generation, table })
    }

    fn elements(&mut self, table: &str, set: &str) -> Result<Vec<Element>, ApplyError> {
        self.send(&encode::get_elements(table, set), 1)?;
        let mut elements = Vec::new();
        let mut refused = None;
        self.drain(|reply| match reply {
            Reply::Elements(mut more) => elements.append(&mut more),
            other => refused = refused.or_else(|| error(&other)),
        })
        .map_err(|errno| ApplyError::Receive(errno.into()))?;
        match refused {
            None => Ok(elements),
            Some(Errno::ENOENT) => Ok(Vec::new()),
            Some(errno) => Err(ApplyError::Receive(errno.into())),
        }
    }

    fn table_flags(&self) -> TableFlags {
        self.flags
    }

    fn grace() {
        /// Far longer than any packet is under way: for kernels that do not tell.
        const LONG_ENOUGH: Duration = Duration::from_millis(100);
        if let Err(error) = landfall_sys::wait_for_readers() {
            tracing::debug!(%error, "the kernel does not say when packets under way are through");
            std::thread::sleep(LONG_ENOUGH);
        }
    }

    fn forget(&mut self, gone: &Gone) -> Result<(), ApplyError> {
        for listing in conntrack::listings(gone) {
            self.send(&conntrack::list(&listing), 1)?;
            let mut deletions = Vec::new();
            let mut refused = None;
            self.receive(|bytes| {
                deletions.append(&mut conntrack::deletions(bytes, gone));
                refused = refused.or_else(|| replies(bytes).find_map(|reply| error(&reply)));
            })
            .map_err(|errno| ApplyError::Receive(errno.into()))?;
            if let Some(errno) = refused {
                return Err(ApplyError::Receive(errno.into()));
            }
            for deletion in deletions {
                let pick = |reply| matches!(reply, Reply::Ended { errno: 0, .. }).then_some(());
                match self.ask(&deletion, "the end of a connection", pick)? {
                    // It may have ended by itself meanwhile.
                    Ok(()) | Err(Errno::ENOENT) => {}
                    Err(errno) => return Err(ApplyError::Receive(errno.into())),
                }
            }
        }
        Ok(())
    }
}

/// The error about the operation with that number: numbers begin at 1, 0 is the frame of the batch.
fn rejected(batch: &Batch, seq: u32, errno: i32, detail: Option<String>) -> ApplyError {
    let index = usize::try_from(seq.saturating_sub(1)).unwrap_or(usize::MAX);
    let operation = batch.ops.get(index).map_or_else(|| "the batch itself".to_owned(), ToString::to_string);
    ApplyError::Rejected { index, operation, detail, source: io::Error::from_raw_os_error(errno) }
}

/// The error of a reply that is one.
fn error(reply: &Reply) -> Option<Errno> {
    match reply {
        Reply::Ended { errno, .. } if *errno != 0 => Some(Errno::from_raw(*errno)),
        _ => None,
    }
}

fn errno_of(error: &io::Error) -> Errno {
    error.raw_os_error().map_or(Errno::UnknownErrno, Errno::from_raw)
}
