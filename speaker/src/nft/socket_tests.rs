//! The kernel's answers, and the lack of them, on a socket that a test holds the other end of.

use std::collections::VecDeque;
use std::num::NonZeroU16;

use landfall_core::endpoints::Target;
use landfall_core::frontend::{Admission, FrontendKey};
use landfall_core::service::Protocol;

use super::super::numbers::{INET, SUBSYS, msg};
use super::super::wire::{Header, Messages, NLMSG_ERROR, Writer};
use super::*;
use crate::kernel::Kernel as _;
use crate::nft::conntrack::{Kept, Stay};

/// What happens at each send: the error it ends with, or what can be received afterwards.
type Turn = Result<Vec<Result<Vec<u8>, Errno>>, Errno>;

#[derive(Debug, Default)]
struct Script {
    turns: VecDeque<Turn>,
    waiting: VecDeque<Result<Vec<u8>, Errno>>,
    sent: usize,
}

impl Port for Script {
    fn number(&self) -> u32 {
        7
    }

    fn send(&mut self, _: &[u8]) -> io::Result<()> {
        self.sent += 1;
        self.waiting.extend(self.turns.pop_front().expect("something is sent that was not foreseen")?);
        Ok(())
    }

    fn receive(&mut self, buffer: &mut Vec<u8>) -> io::Result<()> {
        buffer.extend(self.waiting.pop_front().unwrap_or(Err(Errno::EAGAIN))?);
        Ok(())
    }

    fn make_room(&mut self, _: usize, _: usize) -> io::Result<()> {
        Ok(())
    }
}

fn kernel(turns: Vec<Turn>) -> Kernel<Script> {
    Kernel::over(Script { turns: turns.into(), ..Script::default() })
}

/// The answer to a question for the generation.
fn generation(number: u32) -> Vec<Result<Vec<u8>, Errno>> {
    let mut writer = Writer::default();
    let kind = SUBSYS | msg::NEWGEN;
    let header = Header { kind, flags: 0, seq: 1, family: INET, version: 0, resource: 0 };
    writer.message(header, |w| w.be32(1, number));
    vec![Ok(writer.into_bytes())]
}

/// The refusal of the message with that number.
fn refusal(seq: u32, errno: Errno) -> Vec<u8> {
    let mut bytes = Vec::new();
    bytes.extend(36_u32.to_ne_bytes());
    bytes.extend(NLMSG_ERROR.to_ne_bytes());
    bytes.extend([0; 2]);
    bytes.extend(seq.to_ne_bytes());
    bytes.extend([0; 4]);
    bytes.extend((-(errno as i32)).to_ne_bytes());
    bytes.extend([0; 16]);
    assert_eq!(Messages::new(&bytes).count(), 1);
    bytes
}

fn batch() -> Batch {
    let mut batch = Batch::new("landfall");
    batch.ops = vec![Op::AddTable(TableFlags::default()), Op::AddChain("c".into(), None)];
    batch
}

#[test]
fn silence_means_that_the_batch_was_taken() {
    assert!(kernel(vec![Ok(generation(1)), Ok(vec![])]).apply(&batch()).is_ok());
}

#[test]
fn lost_answers_to_a_batch_that_was_not_taken_are_an_error_that_changed_nothing() {
    // ENOBUFS, and the generation is what it was.
    let mut kernel = kernel(vec![Ok(generation(5)), Ok(vec![Err(Errno::ENOBUFS)]), Ok(generation(5))]);
    let error = kernel.apply(&batch()).unwrap_err();
    assert!(matches!(error, ApplyError::Receive(_)), "{error:?}");
}

#[test]
fn lost_answers_to_a_batch_that_may_have_been_taken_leave_it_open() {
    // ENOBUFS, and the generation has moved on: by this batch or by somebody else's.
    let answers = vec![Err(Errno::ENOBUFS), Ok(refusal(9, Errno::EINVAL))];
    let mut kernel = kernel(vec![Ok(generation(5)), Ok(answers), Ok(generation(6))]);
    let error = kernel.apply(&batch()).unwrap_err();
    assert!(matches!(error, ApplyError::Unclear), "{error:?}");
}

#[test]
fn a_complaint_that_did_arrive_counts_though_others_were_lost() {
    let mut kernel =
        kernel(vec![Ok(generation(5)), Ok(vec![Ok(refusal(2, Errno::EEXIST)), Err(Errno::ENOBUFS)])]);
    let error = kernel.apply(&batch()).unwrap_err();
    assert!(matches!(error, ApplyError::Rejected { index: 1, .. }), "{error:?}");
    assert!(error.is_verdict());
}

#[test]
fn a_kernel_without_memory_has_not_judged_the_batch() {
    // ENOMEM for a message, and for the batch as a whole.
    for (seq, says) in [(2, "add chain c"), (0, "the batch itself")] {
        let mut kernel = kernel(vec![Ok(generation(5)), Ok(vec![Ok(refusal(seq, Errno::ENOMEM))])]);
        let error = kernel.apply(&batch()).unwrap_err();
        assert!(!error.is_verdict() && error.to_string().contains(says), "{error}");
    }
    // And for the request before it is one.
    for errno in [Errno::ENOMEM, Errno::ENOBUFS] {
        let error = kernel(vec![Ok(generation(5)), Err(errno)]).apply(&batch()).unwrap_err();
        assert!(matches!(error, ApplyError::Send { .. }) && !error.is_verdict(), "{error:?}");
    }
}

#[test]
fn an_interruption_is_no_outcome() {
    // EINTR while sending, while receiving, and as the kernel's answer to the batch: it is sent again.
    let mut kernel = kernel(vec![
        Err(Errno::EINTR),
        Ok(generation(5)),
        Err(Errno::EINTR),
        Ok(vec![Err(Errno::EINTR), Ok(refusal(0, Errno::EINTR))]),
        Ok(generation(5)),
        Ok(vec![Err(Errno::EINTR)]),
    ]);
    kernel.apply(&batch()).unwrap();
    assert_eq!(kernel.port.sent, 6);
}

#[test]
fn an_interrupted_list_of_connections_goes_on() {
    // S131
    for (vip, pod) in [("192.0.2.100", "10.244.1.11"), ("2001:db8:50::100", "fd00:244:1::11")] {
        let front = FrontendKey {
            addr: vip.parse().unwrap(),
            protocol: Protocol::Udp,
            port: NonZeroU16::new(53).unwrap(),
        };
        let kept = Target { addr: pod.parse().unwrap(), port: NonZeroU16::new(5353).unwrap() };
        let stay = Stay { endpoints: Kept::Only([kept].into()), sources: Admission::Anyone };
        let end = refusal(1, Errno::UnknownErrno);
        let mut kernel = kernel(vec![
            Err(Errno::EINTR),
            Ok(vec![Err(Errno::EINTR), Ok(end.clone()), Err(Errno::EINTR), Ok(end)]),
        ]);
        kernel.forget(&Gone::from([(front, stay)])).unwrap();
        assert_eq!((kernel.port.sent, kernel.port.waiting.len()), (2, 0), "{vip}");
    }
}

#[test]
fn interruptions_without_end_are_an_error() {
    let turns = (0..=INTERRUPTIONS).flat_map(|_| [Ok(generation(5)), Ok(vec![Ok(refusal(0, Errno::EINTR))])]);
    let error = kernel(turns.collect()).apply(&batch()).unwrap_err();
    assert!(matches!(error, ApplyError::Rejected { .. }) && !error.is_verdict(), "{error:?}");
}

#[test]
fn our_own_large_batch_is_not_taken_for_somebody_elses_when_the_watch_overflows() {
    for (after, foreign) in [(6, false), (7, true)] {
        // Nothing waits when the batch is sent, and then more than fits.
        let listener =
            Script { waiting: [Err(Errno::EAGAIN), Err(Errno::ENOBUFS)].into(), ..Script::default() };
        let mut kernel =
            kernel(vec![Ok(generation(5)), Ok(vec![]), Ok(generation(after))]).watching(listener);
        kernel.apply(&batch()).unwrap();
        assert_eq!(kernel.watch.as_ref().unwrap().foreign("landfall"), foreign, "generation {after}");
    }
}
