//! What Landfall needs of the system and no safe wrapper offers: binding an `AF_PACKET` socket to an interface,
//! locking its filter, waiting for a socket in tokio, and waiting for what the kernel is in the middle of. All `unsafe` of the project is in this file.

use std::io;
use std::os::fd::AsRawFd;

use tokio::io::unix::AsyncFd;

use socket2::{Domain, Protocol, SockAddr, SockAddrStorage, SockFilter, Socket, Type};

/// Opens a raw packet socket that receives frames of one Ethernet type from one interface.
///
/// The socket is made with protocol 0, which receives nothing; the filter is attached and locked
/// (`SO_LOCK_FILTER`: nobody can remove or replace it, not even this process) before it is bound. So not a single
/// frame arrives that the filter has not let pass. It is non-blocking and closed on exec.
///
/// `index` is the interface's number, `ethertype` the protocol in host order (packet(7)).
pub fn packet_socket(index: u32, ethertype: u16, filter: &[SockFilter]) -> io::Result<Socket> {
    let socket = Socket::new(Domain::PACKET, Type::RAW.nonblocking(), Some(Protocol::from(0)))?;
    socket.attach_filter(filter)?;
    lock_filter(&socket)?;
    socket.bind(&link_address(index, ethertype)?)?;
    Ok(socket)
}

/// Waits until everything that the kernel was in the middle of under RCU when this was called is over, packets
/// on their way through netfilter's rules among it: one grace period, some milliseconds (membarrier(2),
/// `MEMBARRIER_CMD_GLOBAL`, which is `synchronize_rcu()` in `kernel/sched/membarrier.c`).
///
/// Fails where the kernel runs without its scheduling clock (`nohz_full`) or a seccomp filter forbids the call.
#[allow(unsafe_code, reason = "neither socket2 nor nix knows membarrier")]
pub fn wait_for_readers() -> io::Result<()> {
    const MEMBARRIER_CMD_GLOBAL: libc::c_int = 1;
    // SAFETY: the call takes three integers and touches no memory of this process.
    let outcome = unsafe { libc::syscall(libc::SYS_membarrier, MEMBARRIER_CMD_GLOBAL, 0, 0) };
    if outcome == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Forbids any later change of the filter of a socket (socket(7), `SO_LOCK_FILTER`).
#[allow(unsafe_code, reason = "neither socket2 nor nix knows SO_LOCK_FILTER")]
fn lock_filter(socket: &Socket) -> io::Result<()> {
    let on: libc::c_int = 1;
    let len = length_of::<libc::c_int>();
    // SAFETY: the descriptor is open for as long as `socket` is borrowed; the option takes an int, and `on` is one
    // that lives until the call returns.
    let outcome = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_LOCK_FILTER,
            (&raw const on).cast(),
            len,
        )
    };
    if outcome == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// The size of a type as system calls want it.
#[allow(clippy::cast_possible_truncation, reason = "no type handed to a system call has four gigabytes")]
const fn length_of<T>() -> libc::socklen_t {
    size_of::<T>() as libc::socklen_t
}

/// The address of an interface in the packet family, restricted to one Ethernet type (packet(7)).
#[allow(unsafe_code, reason = "no safe wrapper makes a sockaddr_ll")]
fn link_address(index: u32, ethertype: u16) -> io::Result<SockAddr> {
    let index = i32::try_from(index).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
    let family = u16::try_from(libc::AF_PACKET).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
    let mut storage = SockAddrStorage::zeroed();
    {
        // SAFETY: the storage is zeroed and sockaddr_ll is plain old data for which all zeroes are valid; socket2
        // asserts that it fits.
        let link = unsafe { storage.view_as::<libc::sockaddr_ll>() };
        link.sll_family = family;
        link.sll_protocol = ethertype.to_be();
        link.sll_ifindex = index;
    }
    // SAFETY: the first `sockaddr_ll` bytes of the storage have just been filled in for the family they name.
    Ok(unsafe { SockAddr::new(storage, length_of::<libc::sockaddr_ll>()) })
}

/// A non-blocking socket of any kind registered with the tokio reactor.
///
/// `tokio::io::unix::AsyncFd::register` is unsafe because nothing keeps its owner from closing or replacing the
/// descriptor while it is registered. Here nothing can: the socket is only ever lent out immutably.
#[derive(Debug)]
pub struct AsyncSocket(AsyncFd<Socket>);

impl AsyncSocket {
    /// Registers a socket and makes it non-blocking. Must be called in a tokio runtime with I/O enabled.
    #[allow(unsafe_code, reason = "tokio offers no safe way to register a socket it does not know")]
    pub fn new(socket: Socket) -> io::Result<Self> {
        socket.set_nonblocking(true)?;
        // SAFETY: the socket owns its open descriptor, moves into the registration and stays there until it is
        // dropped; this type hands out `&Socket` only, through which it can be neither closed nor replaced.
        let registered = unsafe { AsyncFd::register(socket) };
        Ok(Self(registered?))
    }

    /// The socket, for calls that never wait.
    #[must_use]
    pub fn socket(&self) -> &Socket {
        self.0.get_ref()
    }

    /// Calls `read` whenever the socket has something to read, until it returns anything but
    /// [`io::ErrorKind::WouldBlock`]. Dropping the future in between loses nothing.
    pub async fn read_with<T>(&self, mut read: impl FnMut(&Socket) -> io::Result<T>) -> io::Result<T> {
        loop {
            let mut ready = self.0.readable().await?;
            if let Ok(outcome) = ready.try_io(|registered| read(registered.get_ref())) {
                return outcome;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_interface_number_beyond_the_kernels_range_is_refused() {
        assert_eq!(link_address(u32::MAX, 0x0806).unwrap_err().kind(), io::ErrorKind::InvalidInput);
    }

    #[test]
    fn the_address_names_family_protocol_and_interface() {
        let address = link_address(7, 0x0806).unwrap();
        assert_eq!(i32::from(address.family()), libc::AF_PACKET);
        assert_eq!(address.len() as usize, size_of::<libc::sockaddr_ll>());
    }
}
