//! Namespaces, programs that hold sockets, and the two rooms under test.

use std::io::{BufRead as _, BufReader};
use std::net::SocketAddr;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::Arc;

use portreeve::netlink::SocketTable;
use portreeve::packet::{FiveTuple, Protocol};
use portreeve::process::{Identity, Socket};
use portreeve::procfs::{Options, Processes};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::thread::UnshareFlags;

const PATIENCE: Timespec = Timespec { tv_sec: 20, tv_nsec: 0 };

/// Runs a test in a network namespace of its own: loopback is up, and everything else goes to a TUN that nobody reads.
pub(super) fn in_namespace(test: impl FnOnce() + Send + 'static) {
    let thread = std::thread::spawn(move || {
        // SAFETY: NEWNET changes the calling thread's network namespace only; no descriptor table or memory is unshared.
        unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWNET) }.expect("root can make a network namespace");
        for line in [
            "link set lo up",
            "tuntap add dev silent0 mode tun",
            "link set silent0 up",
            "address add 10.9.0.2/24 dev silent0",
            "address add fd09::2/64 dev silent0 nodad",
            "route add default dev silent0",
            "-6 route add default dev silent0",
        ] {
            ip(line);
        }
        test();
    });
    if let Err(panic) = thread.join() {
        std::panic::resume_unwind(panic);
    }
}

/// Changes the namespace of this thread.
pub(super) fn ip(line: &str) {
    let status = Command::new("ip").args(line.split(' ')).status().expect("iproute2 is installed");
    assert!(status.success(), "ip {line}");
}

/// A program that says a line when it is ready; ended when dropped.
pub(super) struct Program {
    child: Child,
    stdin: ChildStdin,
    stdout: BufReader<ChildStdout>,
    /// The first line it said.
    pub(super) said: String,
}

impl Program {
    pub(super) fn start(command: &mut Command) -> Self {
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("the program starts");
        let stdin = child.stdin.take().expect("piped");
        let stdout = BufReader::new(child.stdout.take().expect("piped"));
        let mut program = Self { child, stdin, stdout, said: String::new() };
        program.said = program.next_line();
        program
    }

    /// A Python program; `socket` and `os` are imported, `say(...)` prints a line, `end()` waits for
    /// [`Self::go_on`], reading no more than that one line: the next is for the program that it may become.
    pub(super) fn python(code: &str) -> Self {
        Self::start(Command::new("python3").args(["-c", &python(code)]))
    }

    pub(super) fn pid(&self) -> u32 {
        self.child.id()
    }

    pub(super) fn next_line(&mut self) -> String {
        self.wait_for_words();
        let mut line = String::new();
        self.stdout.read_line(&mut line).expect("the program speaks");
        assert!(!line.is_empty(), "the program ended before it was ready");
        line.trim_end().to_owned()
    }

    /// A program that never speaks fails its test instead of stopping all.
    fn wait_for_words(&self) {
        let mut fds = [PollFd::new(self.stdout.get_ref(), PollFlags::IN)];
        let spoke = !self.stdout.buffer().is_empty() || poll(&mut fds, Some(&PATIENCE)).is_ok_and(|ready| ready > 0);
        assert!(spoke, "the program says nothing");
    }

    /// True when a line comes, be it an empty one.
    pub(super) fn next_line_may_be_empty(&mut self) -> bool {
        self.wait_for_words();
        let mut line = String::new();
        self.stdout.read_line(&mut line).is_ok_and(|length| length > 0)
    }

    /// Lets a program that waits for a line go on.
    pub(super) fn go_on(&mut self) {
        use std::io::Write as _;
        self.stdin.write_all(b"\n").expect("the program listens");
    }

    /// The local end that the program said.
    pub(super) fn local(&self) -> SocketAddr {
        self.said.parse().expect("the program said its address")
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ended = self.child.kill();
        let _status = self.child.wait();
    }
}

/// Wraps code with what every program here needs.
pub(super) fn python(code: &str) -> String {
    let head = "import os, socket, sys\n\
        say = lambda *words: print(*words, flush=True)\n\
        end = lambda: os.read(0, 1)\n\
        def name(s):\n  a = s.getsockname()\n  h = a[0].removeprefix('::ffff:')\n  return f'[{h}]:{a[1]}' if ':' in h else f'{h}:{a[1]}'\n";
    format!("{head}{code}\n")
}

pub(super) fn tuple(protocol: Protocol, local: SocketAddr, remote: &str) -> FiveTuple {
    FiveTuple { protocol, local, remote: remote.parse().expect("an address") }
}

pub(super) fn table() -> SocketTable {
    SocketTable::open().expect("sock_diag is there")
}

pub(super) fn processes() -> Processes {
    Processes::new(Options::default())
}

/// The socket of a flow, which must have one.
pub(super) fn owner(tuple: &FiveTuple) -> Socket {
    table().owner(tuple).expect("the kernel answers").unwrap_or_else(|| panic!("nobody owns {tuple}"))
}

/// The only holder of a flow's socket.
pub(super) fn only_holder(processes: &Processes, socket: &Socket) -> Arc<Identity> {
    let mut found = processes.find(socket);
    let names: Vec<_> = found.iter().map(|identity| (identity.pid, identity.to_string())).collect();
    assert_eq!(found.len(), 1, "{names:?}");
    found.remove(0)
}
