//! The TUN device: opened with a virtio header and every offload that the kernel gives, read and written whole.
//!
//! Keeps one rule: super-packets stay whole; nothing here splits, merges or checksums. Addresses, routes and link state are
//! `netlink`'s work. The crate `tun` creates the device; it has no ioctl for offloads, so a module of our own adds that one.

mod offload;
mod several;

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, IntoRawFd, OwnedFd};

pub use offload::Offloads;

/// The name of our device, under `up` and inside `exec` alike.
pub const DEVICE_NAME: &str = "portreeve0";

/// Queues at most: more threads than these only take turns.
const MAX_QUEUES: usize = 4;

/// How many queues, each with a thread of its own, serve this machine well: half as many as there are cores, as programs want theirs, but
/// two where there are two. Measured on two cores, a second queue carries eight streams a quarter faster for less work, and costs one
/// stream no more than a tenth; short connections see no difference.
#[must_use]
pub fn queues() -> usize {
    std::thread::available_parallelism().map_or(1, |cores| (cores.get() / 2).clamp(cores.get().min(2), MAX_QUEUES))
}

/// Bytes of the virtio header in front of each packet (`TUNSETVNETHDRSZ` default, `struct virtio_net_hdr`).
pub const VNET_HEADER_LEN: usize = 10;

/// One queue of a TUN device. Non-blocking.
#[derive(Debug)]
pub struct Queue {
    fd: OwnedFd,
}

/// Why the device could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error(
        "/dev/net/tun does not exist; load the kernel module tun (`modprobe tun`) or make the node (`mknod /dev/net/tun c 10 200`)"
    )]
    Missing,
    #[error("/dev/net/tun is mode {mode:04o}; 0666 is usual: chmod 0666 /dev/net/tun")]
    Mode { mode: u32 },
    #[error("the TUN device {name} needs CAP_NET_ADMIN in this network namespace; run as root")]
    Privilege { name: String },
    #[error("the TUN device {name} exists already and is in use; is another Portreeve running? `portreeve down` ends it")]
    Busy { name: String },
    #[error("open the TUN device {name}: {source}")]
    Kernel { name: String, source: io::Error },
}

impl Queue {
    /// Creates the device `name` in the calling thread's network namespace with `IFF_VNET_HDR` and all offloads.
    ///
    /// # Errors
    ///
    /// The node is missing or closed to us, the privilege is missing, the device is in use, or the kernel refuses an offload.
    pub fn open(name: &str) -> Result<Self, OpenError> {
        let mut config = tun::Configuration::default();
        config.tun_name(name).platform_config(|platform| {
            // "Root privileges" means "configure addresses too" there; that is netlink's work.
            platform.vnet_hdr(true).ensure_root_privileges(false);
        });
        let device = tun::create(&config).map_err(|error| explain(name, io::Error::from(error)))?;
        // SAFETY: `into_raw_fd` gives up ownership of an open descriptor; nobody else closes it.
        let fd = unsafe { OwnedFd::from_raw_fd(device.into_raw_fd()) };
        offload::enable(fd.as_fd()).map_err(|source| OpenError::Kernel { name: name.to_owned(), source })?;
        Self::adopt(fd).map_err(|source| OpenError::Kernel { name: name.to_owned(), source })
    }

    /// As [`Queue::open`], with as many queues as threads shall read the device.
    ///
    /// # Errors
    ///
    /// As [`Queue::open`].
    pub fn open_several(name: &str, count: usize) -> Result<Vec<Self>, OpenError> {
        if count <= 1 {
            return Ok(vec![Self::open(name)?]);
        }
        let open = |number: usize| {
            let fd = several::open(name, number == 0).map_err(|error| explain(name, error))?;
            let opened = offload::enable(fd.as_fd()).and_then(|_| Self::adopt(fd));
            opened.map_err(|source| OpenError::Kernel { name: name.to_owned(), source })
        };
        (0..count).map(open).collect()
    }

    /// Takes over a queue that was opened elsewhere (inside an enclosure) by [`Queue::open`].
    ///
    /// # Errors
    ///
    /// The descriptor cannot be made non-blocking.
    pub fn adopt(fd: OwnedFd) -> io::Result<Self> {
        rustix::io::ioctl_fionbio(&fd, true)?;
        Ok(Self { fd })
    }

    /// Gives the descriptor away, for passing it to another process.
    #[must_use]
    pub fn into_fd(self) -> OwnedFd {
        self.fd
    }

    /// Reads one packet: [`VNET_HEADER_LEN`] bytes of virtio header, then the IP packet. Returns the bytes read.
    ///
    /// # Errors
    ///
    /// `WouldBlock` when the queue is empty; anything else means that the device is gone.
    pub fn read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        Ok(rustix::io::read(&self.fd, buffer)?)
    }

    /// Writes one packet with its virtio header in front.
    ///
    /// # Errors
    ///
    /// The kernel refused the packet or the device is gone.
    pub fn write(&self, packet: &[u8]) -> io::Result<usize> {
        Ok(rustix::io::write(&self.fd, packet)?)
    }

    /// As [`Queue::write`], for a packet whose bytes lie apart from its headers.
    ///
    /// # Errors
    ///
    /// As [`Queue::write`].
    pub fn write_both(&self, headers: &[u8], bytes: &[u8]) -> io::Result<usize> {
        Ok(rustix::io::writev(&self.fd, &[io::IoSlice::new(headers), io::IoSlice::new(bytes)])?)
    }
}

impl AsRawFd for Queue {
    fn as_raw_fd(&self) -> std::os::fd::RawFd {
        self.fd.as_raw_fd()
    }
}

impl AsFd for Queue {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

fn explain(name: &str, source: io::Error) -> OpenError {
    use std::os::unix::fs::MetadataExt;
    let name = name.to_owned();
    match (source.raw_os_error(), std::fs::metadata("/dev/net/tun")) {
        (_, Err(error)) if error.kind() == io::ErrorKind::NotFound => OpenError::Missing,
        (Some(libc::EACCES), Ok(meta)) => OpenError::Mode { mode: meta.mode() & 0o7777 },
        (Some(libc::EPERM), _) => OpenError::Privilege { name },
        (Some(libc::EBUSY), _) => OpenError::Busy { name },
        _ => OpenError::Kernel { name, source },
    }
}
