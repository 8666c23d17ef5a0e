//! The kernel of a network namespace, over one socket for the life of the process.
//!
//! A batch is one `sendmsg`; the kernel works through it before the call returns, so its complaints are waiting
//! when we look, and silence means that it was taken. The socket is never closed in between: closing one after
//! something was deleted waits for the kernel to be done with it, and would give up the ownership of the table.

use std::io;
use std::time::Duration;

use nix::errno::Errno;

use super::conntrack::{self, Gone};
use super::decode::{Reply, TableFacts, replies};
use super::encode;
use super::model::{Batch, Element, Op, TableFlags};
use super::port::{Netlink, Port};
use super::probe;
use super::watch::Watch;
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
/// How often a batch is sent again that the kernel broke off because of a signal.
const INTERRUPTIONS: u32 = 10;

/// The kernel of the network namespace in which it was opened.
#[derive(Debug)]
pub struct Kernel<P = Netlink> {
    port: P,
    flags: TableFlags,
    /// Where tables cannot be kept from others: what they did to one.
    watch: Option<Watch<P>>,
    answer: Vec<u8>,
}

impl Kernel {
    /// Opens the socket and finds out what the kernel can do. Fails, and names the modules, when
    /// something is missing without which there is no data path. Needs `CAP_NET_ADMIN`.
    pub fn open() -> Result<Self, ApplyError> {
        let mut kernel = Self::over(Netlink::open().map_err(ApplyError::Receive)?);
        kernel.flags = kernel.probe_flags()?;
        if !kernel.flags.owner {
            kernel.watch = Some(kernel.watch()?);
        }
        probe::check(&mut kernel)?;
        Ok(kernel)
    }

    /// Opens the socket and makes tables that everybody may change, as on a kernel that knows no ownership.
    pub fn open_without_ownership() -> Result<Self, ApplyError> {
        let mut kernel = Self::over(Netlink::open().map_err(ApplyError::Receive)?);
        kernel.watch = Some(kernel.watch()?);
        probe::check(&mut kernel)?;
        Ok(kernel)
    }

    /// Waits as [`kernel::Kernel::grace`] says.
    pub fn grace() {
        /// Far longer than any packet is under way: for kernels that do not tell.
        const LONG_ENOUGH: Duration = Duration::from_millis(100);
        if let Err(error) = landfall_sys::wait_for_readers() {
            tracing::debug!(%error, "the kernel does not say when packets under way are through");
            std::thread::sleep(LONG_ENOUGH);
        }
    }

    fn watch(&self) -> Result<Watch<Netlink>, ApplyError> {
        let port = Netlink::listen().map_err(ApplyError::Receive)?;
        Ok(Watch::new(port, self.port.number()))
    }
}

impl<P: Port> Kernel<P> {
    /// A kernel behind a port, as one that knows no ownership of tables, and without anybody who watches.
    pub const fn over(port: P) -> Self {
        Self { port, flags: TableFlags { owner: false, persist: false }, watch: None, answer: Vec::new() }
    }

    /// The same, with a port that hears of changes.
    #[must_use]
    pub fn watching(mut self, listener: P) -> Self {
        self.watch = Some(Watch::new(listener, self.port.number()));
        self
    }

    /// Whether the kernel takes the flags owner (5.12) and persist (6.9): tried on a table that is gone again in
    /// the same transaction. Owner without persist would take the table down with the process, so it is both or
    /// neither.
    fn probe_flags(&mut self) -> Result<TableFlags, ApplyError> {
        let flags = TableFlags { owner: true, persist: true };
        let mut probe = Batch::new(format!("landfall-probe-{}", self.port.number()));
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
        let room = (bytes.len() * BUFFER_FACTOR).next_power_of_two().max(LEAST_BUFFER);
        let answers = (operations * ANSWER_COST).next_power_of_two().clamp(LEAST_BUFFER, MOST_ANSWERS);
        let sent = self.port.make_room(room, answers).and_then(|()| {
            loop {
                match self.port.send(bytes) {
                    // Interrupted before anything was handed over.
                    Err(error) if errno_of(&error) == Errno::EINTR => {}
                    sent => return sent,
                }
            }
        });
        sent.map_err(|source| ApplyError::Send { bytes: bytes.len(), source })
    }

    /// Hands the waiting answers to `see` until there is none left.
    fn drain(&mut self, mut see: impl FnMut(Reply)) -> Result<(), Errno> {
        receive(&mut self.port, &mut self.answer, |bytes| replies(bytes).for_each(&mut see))
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
            (true, Some(port)) if port == self.port.number() => Owner::Us,
            (true, Some(_)) => Owner::Other,
        }
    }
}

impl<P: Port> Kernel<P> {
    /// Sends a batch once.
    fn attempt(&mut self, batch: &Batch, bytes: &[u8]) -> Result<Applied, ApplyError> {
        // Nothing may be left over from before: an old answer would be taken for one to this batch.
        let _ = self.drain(|_| {});
        self.listen()?;
        let before = self.generation()?;
        self.send(bytes, batch.operations())?;
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
            Ok(()) => {}
            // Answers were lost. They are complaints, so the batch was probably refused, but only the generation
            // knows; and even that may have been moved on by somebody else meanwhile.
            Err(Errno::ENOBUFS) => {
                let _ = self.drain(|_| {});
                return if self.generation()? == before {
                    Err(ApplyError::Receive(Errno::ENOBUFS.into()))
                } else {
                    Err(ApplyError::Unclear)
                };
            }
            Err(errno) => return Err(ApplyError::Receive(errno.into())),
        }
        let heard = self.watch.as_ref().is_some_and(|watch| !watch.foreign(&batch.table));
        let made = batch.ops.iter().any(|op| matches!(op, Op::AddTable(_)));
        // A large batch of our own does not fit into the watch's buffer, and is what was lost if it alone happened.
        if !self.listen()?
            && (heard || made)
            && self.generation()? == before.wrapping_add(1)
            && let Some(watch) = &mut self.watch
        {
            watch.lost_our_own(&batch.table);
        }
        Ok(Applied { bytes: bytes.len() })
    }

    /// Takes in what others did to the table, where that is possible. Whether nothing was lost.
    fn listen(&mut self) -> Result<bool, ApplyError> {
        let Some(watch) = &mut self.watch else { return Ok(true) };
        watch.listen(&mut self.answer).map_err(|errno| ApplyError::Receive(errno.into()))
    }
}

impl<P: Port> kernel::Kernel for Kernel<P> {
    fn apply(&mut self, batch: &Batch) -> Result<Applied, ApplyError> {
        let bytes = encode::batch(batch);
        let mut left = INTERRUPTIONS;
        loop {
            match self.attempt(batch, &bytes) {
                Err(ApplyError::Rejected { source, .. }) if left > 0 && errno_of(&source) == Errno::EINTR => {
                    left -= 1;
                }
                outcome => return outcome,
            }
        }
    }

    fn inspect(&mut self, name: &str) -> Result<Inspection, ApplyError> {
        let generation = self.generation()?;
        self.listen()?;
        let pick = |reply| match reply {
            Reply::Table(facts) if facts.name == name => Some(facts),
            _ => None,
        };
        let table = match self.ask(&encode::get_table(name), "the table", pick)? {
            Ok(facts) => {
                Some(TableState { handle: facts.handle, uses: facts.uses, owner: self.owner(&facts) })
            }
            Err(Errno::ENOENT) => None,
            Err(errno) => return Err(ApplyError::Receive(errno.into())),
        };
        let foreign = self.watch.as_ref().is_some_and(|watch| watch.foreign(name));
        Ok(Inspection { generation, table, foreign })
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
        Kernel::<Netlink>::grace();
    }

    fn forget(&mut self, gone: &Gone) -> Result<(), ApplyError> {
        for listing in conntrack::listings(gone) {
            self.send(&conntrack::list(&listing), 1)?;
            let mut deletions = Vec::new();
            let mut refused = None;
            receive(&mut self.port, &mut self.answer, |bytes| {
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

/// Hands what has arrived at a port to `see`, datagram by datagram, until nothing is waiting. A list is made by the
/// kernel while it is received, so this ends at its end.
pub(super) fn receive<P: Port>(
    port: &mut P,
    buffer: &mut Vec<u8>,
    mut see: impl FnMut(&[u8]),
) -> Result<(), Errno> {
    loop {
        buffer.clear();
        buffer.reserve(ANSWER);
        match port.receive(buffer) {
            Ok(()) => see(buffer),
            Err(error) => match errno_of(&error) {
                Errno::EAGAIN => return Ok(()),
                Errno::EINTR => {}
                errno => return Err(errno),
            },
        }
    }
}

/// The error about the operation with that number: numbers begin at 1, 0 is the frame of the batch, by which the kernel
/// names what it finds only when it takes the batch.
fn rejected(batch: &Batch, seq: u32, errno: i32, detail: Option<String>) -> ApplyError {
    let index = seq.checked_sub(1).and_then(|index| usize::try_from(index).ok()).unwrap_or(usize::MAX);
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

#[cfg(test)]
#[path = "socket_tests.rs"]
mod tests;
