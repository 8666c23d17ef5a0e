//! The only place that opens `NETLINK_NETFILTER`.
//!
//! [`Port`] is what the rest needs of a socket, so that tests can put one in its place that loses answers or is
//! interrupted.

use std::fmt;
use std::io;
use std::os::fd::AsFd;

use netlink_sys::constants::NETLINK_NETFILTER;
use netlink_sys::{Socket, SocketAddr};
use nix::sys::socket::sockopt::{RcvBufForce, SndBufForce};
use nix::sys::socket::{MsgFlags, setsockopt};

/// `NFNLGRP_NFTABLES`: every change of the rule set, whoever makes it (`linux/netfilter/nfnetlink_compat.h`).
const CHANGES: u32 = 7;
/// Room for changes of others between two looks, in bytes. What does not fit is told as lost.
const CHANGES_BUFFER: usize = 4 << 20;

/// A netlink socket to netfilter that never waits.
pub trait Port: fmt::Debug {
    /// The number the kernel knows it by.
    fn number(&self) -> u32;

    /// Sends a message or a whole batch; the kernel has worked through it when this returns.
    fn send(&mut self, bytes: &[u8]) -> io::Result<()>;

    /// Receives one datagram into `buffer`, which is empty and has room. [`io::ErrorKind::WouldBlock`]: none waits.
    fn receive(&mut self, buffer: &mut Vec<u8>) -> io::Result<()>;

    /// Grows the buffers to so many bytes for what is sent and for what is received; they never shrink.
    fn make_room(&mut self, send: usize, receive: usize) -> io::Result<()>;
}

/// The kernel's own, in the network namespace in which it was opened.
#[derive(Debug)]
pub struct Netlink {
    socket: Socket,
    number: u32,
    send_buffer: usize,
    receive_buffer: usize,
}

impl Netlink {
    /// One to ask and to change with.
    pub fn open() -> io::Result<Self> {
        let mut socket = Socket::new(NETLINK_NETFILTER)?;
        let number = socket.bind_auto()?.port_number();
        socket.set_non_blocking(true)?;
        // Errors then carry the kernel's words, and not the whole request.
        socket.set_ext_ack(true)?;
        socket.set_cap_ack(true)?;
        Ok(Self { socket, number, send_buffer: 0, receive_buffer: 0 })
    }

    /// One that hears of every change of the rule set from now on.
    pub fn listen() -> io::Result<Self> {
        let mut port = Self::open()?;
        port.make_room(0, CHANGES_BUFFER)?;
        port.socket.add_membership(CHANGES)?;
        Ok(port)
    }
}

impl Port for Netlink {
    fn number(&self) -> u32 {
        self.number
    }

    fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.socket.send_to(bytes, &SocketAddr::new(0, 0), 0).map(drop)
    }

    fn receive(&mut self, buffer: &mut Vec<u8>) -> io::Result<()> {
        self.socket.recv(buffer, MsgFlags::MSG_DONTWAIT.bits()).map(drop)
    }

    /// The `FORCE` forms may exceed the host's limits.
    fn make_room(&mut self, send: usize, receive: usize) -> io::Result<()> {
        if send > self.send_buffer {
            setsockopt(&self.socket.as_fd(), SndBufForce, &send)?;
            self.send_buffer = send;
        }
        if receive > self.receive_buffer {
            setsockopt(&self.socket.as_fd(), RcvBufForce, &receive)?;
            self.receive_buffer = receive;
        }
        Ok(())
    }
}
