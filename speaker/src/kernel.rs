//! What the data path needs of a kernel: take a batch as a whole or not at all, and say what is there.
//!
//! [`crate::nft::Kernel`] is the real one, [`crate::fake::FakeKernel`] keeps the same rules in memory; one suite of
//! tests holds both to the same contract.

use std::fmt;
use std::io;
use std::sync::Arc;

use nix::errno::Errno;

use crate::nft::conntrack::Gone;
use crate::nft::model::{Batch, Element, Op, TableFlags};

/// The name of a chain that no table has.
const NOWHERE: &str = "nowhere";

/// A kernel, or something that behaves like one, in one network namespace.
pub trait Kernel: fmt::Debug {
    /// Applies a batch: all of it, atomically for every packet, or nothing.
    fn apply(&mut self, batch: &Batch) -> Result<Applied, ApplyError>;

    /// Whether the kernel would take a batch; it changes nothing, and no packet sees any of it.
    ///
    /// The kernel works through a whole batch before it takes it, so one is sent that is bound to fail at its very
    /// end. What it finds only while it takes a batch (a loop of chains, no memory) it does not tell here.
    fn would_take(&mut self, batch: &Batch) -> Result<(), ApplyError> {
        let mut trial = batch.clone();
        trial.ops.push(Op::DeleteChain(Arc::from(NOWHERE)));
        match self.apply(&trial) {
            Err(ApplyError::Rejected { index, .. }) if index == batch.ops.len() => Ok(()),
            Err(error) => Err(error),
            Ok(_) => Err(ApplyError::Unexpected("the end of a trial")),
        }
    }

    /// Looks at a table without reading its contents; costs the same however large it is.
    fn inspect(&mut self, table: &str) -> Result<Inspection, ApplyError>;

    /// The elements of a set or map, in any order; none when it is not there. While packets add to it some may be
    /// missing and some come twice. Costs as much as there are.
    fn elements(&mut self, table: &str, set: &str) -> Result<Vec<Element>, ApplyError>;

    /// The flags the kernel takes for a table: those that keep others from changing it, or none.
    fn table_flags(&self) -> TableFlags;

    /// Waits until no packet is on its way any more that has met the rules as they were before: every packet that
    /// is then in the middle of the rules has begun after all batches applied so far. Takes milliseconds.
    fn grace()
    where
        Self: Sized;

    /// Forgets the connections of front ends that must not stay; how many is not told. None is no error.
    fn forget(&mut self, gone: &Gone) -> Result<(), ApplyError>;
}

/// A batch that the kernel has taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Applied {
    /// How many bytes were sent.
    pub bytes: usize,
}

/// What is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Inspection {
    /// The generation of the network namespace's rule set: another one after every transaction, whoever made it.
    pub generation: u32,
    /// The table, if it is there.
    pub table: Option<TableState>,
    /// Whether somebody else has changed the table since this process made it, or that cannot be told. Never where
    /// the kernel keeps others from it.
    pub foreign: bool,
}

/// A table that is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TableState {
    /// Unique in the network namespace: a table deleted and made anew has another one.
    pub handle: u64,
    /// How many chains, sets and other objects it has.
    pub uses: u32,
    /// Who may change it.
    pub owner: Owner,
}

/// Who may change a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Owner {
    /// Everybody who may change tables at all.
    Anybody,
    /// Only this process, through the socket it holds.
    Us,
    /// Only another process that is still alive.
    Other,
    /// The process that owned it is gone: whoever comes next may take it over.
    Orphan,
}

/// Why a batch, or a question, came to nothing. Nothing has changed then, except where it says so.
#[derive(Debug, thiserror::Error)]
pub enum ApplyError {
    /// The kernel refused an operation.
    #[error("the kernel rejected operation {index} of the batch ({operation}{})", note(.detail.as_deref()))]
    Rejected {
        /// Which operation, counted from 0.
        index: usize,
        /// What it was.
        operation: String,
        /// The kernel's own words, if it had any.
        detail: Option<String>,
        /// The error number.
        #[source]
        source: io::Error,
    },
    /// The batch did not reach the kernel.
    #[error("cannot send {bytes} bytes to the kernel")]
    Send {
        /// Its length.
        bytes: usize,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The kernel's answer could not be received.
    #[error("cannot receive the kernel's answer")]
    Receive(#[source] io::Error),
    /// Answers were lost, and the kernel may or may not have taken the batch.
    #[error("the kernel's answers were lost, the batch may have been applied")]
    Unclear,
    /// The kernel lacks something without which there is no data path.
    #[error("the kernel lacks what the data path needs: {}; load these modules or use a kernel that has them", list(.0))]
    Lacks(Vec<Lack>),
    /// The kernel answered something else, or nothing.
    #[error("the kernel did not answer as expected when asked for {0}")]
    Unexpected(&'static str),
}

/// Something that a kernel lacks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lack {
    /// What it is, as `nft` calls it.
    pub what: &'static str,
    /// The kernel module that has it.
    pub module: &'static str,
}

fn list(lacks: &[Lack]) -> String {
    let texts: Vec<String> =
        lacks.iter().map(|lack| format!("{} (module {})", lack.what, lack.module)).collect();
    texts.join(", ")
}

impl ApplyError {
    /// Whether the kernel found something wrong with what a batch is made of; and not just now had no memory for it, or
    /// keeps the table for somebody else.
    #[must_use]
    pub fn is_verdict(&self) -> bool {
        const PASSING: [Errno; 5] =
            [Errno::ENOMEM, Errno::ENOBUFS, Errno::EINTR, Errno::EAGAIN, Errno::EPERM];
        match self {
            Self::Rejected { source, .. } => {
                !PASSING.iter().any(|errno| source.raw_os_error() == Some(*errno as i32))
            }
            _ => false,
        }
    }
}

fn note(detail: Option<&str>) -> String {
    detail.map(|text| format!(": {text}")).unwrap_or_default()
}

/// An error with all its causes in one line.
#[must_use]
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}
