//! The line between the processes of an enclosure: whole messages and descriptors over a seqpacket socket pair.
//!
//! Keeps one rule: the end of a line is the death of its other side; each side takes that for an order to end. Carries no
//! packets and nothing of the command, which travels as plain arguments so that the kernel's own limits hold for it.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, SocketFlags, SocketType, recvmsg, sendmsg, socketpair,
};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use super::{CommandStatus, EncloseError};

/// What the outer process wants of the first process.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Order {
    Start,
    /// For the command's group where the outer process's group had it too; else for the command where it may be `alone`.
    Signal {
        number: i32,
        alone: bool,
    },
}

/// Whom a signal is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum To {
    /// The command alone.
    Process,
    /// The command's process group.
    Group,
}

/// What the outer process is told. After `Ready` there is one more at most, `Ended`.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Report {
    /// The first process, numbered as the outer process sees it.
    Born {
        init_pid: u32,
    },
    Refused(EncloseError),
    /// Carries the sock_diag socket, the rtnetlink socket, the TUN's queues, then the listeners: `udp` datagram, `tcp` stream ones.
    Ready {
        queues: usize,
        udp: usize,
        tcp: usize,
        /// Why ssh may refuse root's files of its configuration.
        ssh_fault: Option<String>,
    },
    Ended(CommandStatus),
}

/// What the first process tells its keeper.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Need {
    /// The command is about to start: does it get the terminal?
    Terminal,
    /// The command was stopped by this signal.
    Stopped(i32),
    Continued,
    /// The outer process has this signal: has its group, too?
    Whom {
        number: i32,
        alone: bool,
    },
    /// The command has ended, by this signal if any.
    Over {
        signal: Option<i32>,
    },
}

/// What the keeper tells the first process.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Grant {
    /// The id maps are written.
    Maps,
    /// The answer to [`Need::Terminal`].
    Terminal(bool),
    /// The answer to [`Need::Whom`].
    Signal { number: i32, to: To },
    /// The job was told to stop.
    Stop,
    /// The job goes on; the command gets the terminal where this says so.
    Resume { terminal: bool },
    /// The terminal is back where it was; the answer to [`Need::Over`].
    Over,
}

/// Longer messages do not exist: the longest is an error sentence.
const MESSAGE_LIMIT: usize = 16 * 1024;

/// Descriptors in one message at most (`SCM_MAX_FD` is 253).
const DESCRIPTOR_LIMIT: usize = 64;

/// One end.
#[derive(Debug)]
pub(super) struct Line(OwnedFd);

impl Line {
    pub(super) fn pair() -> io::Result<(Self, Self)> {
        let (here, there) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
        Ok((Self(here), Self(there)))
    }

    pub(super) fn adopt(fd: OwnedFd) -> Self {
        Self(fd)
    }

    pub(super) fn send<T: Serialize>(&self, message: &T) -> io::Result<()> {
        self.send_with(message, &[])
    }

    /// Sends a message with descriptors. Blocks while the other side is busy.
    pub(super) fn send_with<T: Serialize>(&self, message: &T, fds: &[BorrowedFd<'_>]) -> io::Result<()> {
        let bytes = serde_json::to_vec(message)?;
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTOR_LIMIT))];
        let mut ancillary = SendAncillaryBuffer::new(&mut space);
        if fds.len() > DESCRIPTOR_LIMIT || !fds.is_empty() && !ancillary.push(SendAncillaryMessage::ScmRights(fds)) {
            return Err(io::Error::other("more descriptors than one message takes"));
        }
        sendmsg(&self.0, &[IoSlice::new(&bytes)], &mut ancillary, SendFlags::NOSIGNAL)?;
        Ok(())
    }

    /// Receives one message; `None` when the other side is gone. Blocks, also where the descriptor is set not to.
    pub(super) fn receive<T: DeserializeOwned>(&self) -> io::Result<Option<(T, Vec<OwnedFd>)>> {
        let mut bytes = vec![0; MESSAGE_LIMIT];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTOR_LIMIT))];
        let mut ancillary = RecvAncillaryBuffer::new(&mut space);
        let received = loop {
            let mut into = [IoSliceMut::new(&mut bytes)];
            match recvmsg(&self.0, &mut into, &mut ancillary, RecvFlags::CMSG_CLOEXEC) {
                Err(rustix::io::Errno::INTR) => {}
                Err(rustix::io::Errno::AGAIN) => wait_readable(self.0.as_fd())?,
                Err(rustix::io::Errno::CONNRESET) => return Ok(None),
                other => break other?,
            }
        };
        if received.bytes == 0 {
            return Ok(None);
        }
        if received.flags.intersects(ReturnFlags::TRUNC | ReturnFlags::CTRUNC) {
            return Err(io::Error::other("a message was cut short; too few free descriptors are one cause (ulimit -n)"));
        }
        let mut fds = Vec::new();
        for message in ancillary.drain() {
            if let RecvAncillaryMessage::ScmRights(passed) = message {
                fds.extend(passed);
            }
        }
        let message = serde_json::from_slice(bytes.get(..received.bytes).unwrap_or_default())?;
        Ok(Some((message, fds)))
    }
}

impl AsFd for Line {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

fn wait_readable(fd: BorrowedFd<'_>) -> io::Result<()> {
    use rustix::event::{PollFd, PollFlags, poll};
    match poll(&mut [PollFd::from_borrowed_fd(fd, PollFlags::IN)], None) {
        Ok(_) | Err(rustix::io::Errno::INTR) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_arrives_whole_with_its_descriptors() {
        let (here, there) = Line::pair().expect("a pair");
        let file = tempfile::tempfile().expect("a file");
        here.send_with(&Report::Ready { queues: 1, udp: 3, tcp: 2, ssh_fault: None }, &[file.as_fd(), file.as_fd()])
            .expect("sent");
        let (report, fds) = there.receive::<Report>().expect("received").expect("a message");
        assert!(matches!(report, Report::Ready { queues: 1, udp: 3, tcp: 2, ssh_fault: None }));
        assert_eq!(fds.len(), 2);
    }

    #[test]
    fn the_end_of_the_other_side_is_none_and_sending_to_it_an_error() {
        let (here, there) = Line::pair().expect("a pair");
        drop(there);
        assert!(here.receive::<Report>().expect("no error").is_none());
        assert!(here.send(&Order::Start).is_err());
    }

    #[test]
    fn more_descriptors_than_a_message_takes_are_refused() {
        let (here, _there) = Line::pair().expect("a pair");
        let file = tempfile::tempfile().expect("a file");
        let many = vec![file.as_fd(); DESCRIPTOR_LIMIT + 1];
        assert!(here.send_with(&Order::Start, &many).is_err());
    }

    #[test]
    fn a_message_that_is_not_ours_is_an_error() {
        let (here, there) = Line::pair().expect("a pair");
        here.send(&"nonsense").expect("sent");
        assert!(there.receive::<Order>().is_err());
    }
}
