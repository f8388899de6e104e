//! A device with several queues, one for each thread that reads it (`IFF_MULTI_QUEUE`, Documentation/networking/tuntap.rst).
//!
//! The kernel gives all packets of one conversation to one queue. The crate `tun` opens one queue only; this module does the same
//! by the plain ioctl where there are more.

use std::fs::OpenOptions;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;

const TUNSETIFF: libc::c_ulong = 0x4004_54ca;
/// `IFF_TUN | IFF_NO_PI | IFF_VNET_HDR | IFF_MULTI_QUEUE`.
const FLAGS: u16 = 0x0001 | 0x1000 | 0x4000 | 0x0100;
/// `IFF_TUN_EXCL`: the device must not be there yet, or another router's packets would be ours.
const EXCLUSIVE: u16 = 0x8000;
/// `IFNAMSIZ`, the end of the string included.
const NAME_LEN: usize = 16;

/// `struct ifreq` as far as TUNSETIFF reads it; the kernel copies 40 bytes.
#[repr(C)]
struct Request {
    name: [u8; NAME_LEN],
    flags: u16,
    rest: [u8; 22],
}

/// Opens one queue more of the device `name`, or with `first` makes the device.
pub(super) fn open(name: &str, first: bool) -> io::Result<OwnedFd> {
    let mut request = Request { name: [0; NAME_LEN], flags: if first { FLAGS | EXCLUSIVE } else { FLAGS }, rest: [0; 22] };
    if name.len() >= NAME_LEN {
        return Err(io::Error::from_raw_os_error(libc::ENAMETOOLONG));
    }
    request.name.iter_mut().zip(name.bytes()).for_each(|(to, from)| *to = from);
    let file = OpenOptions::new().read(true).write(true).custom_flags(libc::O_CLOEXEC).open("/dev/net/tun")?;
    // SAFETY: the descriptor is open for the whole call; the pointer is to a request of the size that the kernel copies.
    let result = unsafe { libc::ioctl(file.as_raw_fd(), TUNSETIFF, &raw mut request) };
    if result == 0 { Ok(file.into()) } else { Err(io::Error::last_os_error()) }
}
