//! The offload ioctl (`TUNSETOFFLOAD`, Linux include/uapi/linux/if_tun.h).

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

/// What the device may hand over and take unfinished.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Offloads {
    /// Checksums and TCP segmentation.
    Tcp,
    /// UDP segmentation too (kernel 6.2 and newer).
    TcpAndUdp,
}

const TUNSETOFFLOAD: libc::c_ulong = 0x4004_54d0;
const CSUM: libc::c_ulong = 0x01;
const TSO4: libc::c_ulong = 0x02;
const TSO6: libc::c_ulong = 0x04;
const USO4: libc::c_ulong = 0x20;
const USO6: libc::c_ulong = 0x40;

/// Asks for checksum offload, TCP segmentation and, where the kernel has it, UDP segmentation.
pub(super) fn enable(fd: BorrowedFd<'_>) -> io::Result<Offloads> {
    if set(fd, CSUM | TSO4 | TSO6 | USO4 | USO6).is_ok() {
        return Ok(Offloads::TcpAndUdp);
    }
    set(fd, CSUM | TSO4 | TSO6)?;
    Ok(Offloads::Tcp)
}

fn set(fd: BorrowedFd<'_>, mask: libc::c_ulong) -> io::Result<()> {
    // SAFETY: the descriptor is open for the whole call and TUNSETOFFLOAD takes an integer, no pointer.
    let result = unsafe { libc::ioctl(fd.as_raw_fd(), TUNSETOFFLOAD, mask) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
