//! UDP ports that several programs have (`tests/data/lab/sharing.py`), and sockets that one passes on to another.

use crate::enclosed::exec_as_nobody;
use crate::harness::{Lab, Profiles, Router, Running, Way, closing, sharing};

in_all_ways! {
    programs_that_share_a_port_and_are_all_accepted_are_heard,
}

through_a_router! {
    a_refused_program_is_so_from_the_port_of_an_accepted_one_too,
    a_socket_that_a_refused_program_passed_on_is_its_own_still,
    a_refused_program_is_so_by_a_socket_that_a_stranger_holds_too,
    a_refused_program_is_so_when_it_executes_an_accepted_one_at_once,
    an_heir_that_executed_a_program_has_no_socket_of_a_maker_that_is_gone,
}

const SERVERS: [&str; 2] = [Lab::SERVER_4, Lab::SERVER_6];
const PORT: &str = "9100";
/// Of one program, for one server.
const SENT: usize = 16;

fn collector(lab: &Lab) -> Running {
    let mut server = lab.internet().spawn(closing(&["collect", PORT]));
    assert_eq!(server.line(), "collecting");
    server
}

/// What came in until now. The gateway, where no router is, says when to stop.
fn collected(lab: &Lab, server: Running, address: &str) -> Vec<String> {
    let end = format!("echo end >/dev/udp/{address}/{PORT}");
    lab.gateway().run(["bash", "-c", &end]).expect_success();
    let (status, told) = server.finish();
    assert!(status.success());
    serde_json::from_str(&told).unwrap_or_else(|error| panic!("{error}: {told}"))
}

fn count(told: &[String], word: &str) -> usize {
    told.iter().filter(|said| said.starts_with(word)).count()
}

fn programs_that_share_a_port_and_are_all_accepted_are_heard(way: Way) {
    let lab = Lab::new();
    let profiles = Profiles::accepting();
    let other = lab.copy_of("/usr/bin/python3", "other");
    let router = Router::start(&lab, way, &profiles);
    for address in SERVERS {
        let server = collector(&lab);
        router.run(sharing(&["share", address, PORT, &other.to_string_lossy()])).expect_success();
        let told = collected(&lab, server, address);
        let counts = ["mine", "again", "other"].map(|word| count(&told, word));
        assert_eq!(counts, [SENT / 2, SENT / 2, SENT], "{way:?}, {address}: {told:?}");
    }
}

fn a_refused_program_is_so_from_the_port_of_an_accepted_one_too(way: Way) {
    let lab = Lab::new();
    let profiles = Profiles::accepting();
    let other = lab.copy_of("/usr/bin/python3", "other");
    profiles.user("other", &other, "endpoints = [\"- *\"]");
    let router = Router::start(&lab, way, &profiles);
    for address in SERVERS {
        let server = collector(&lab);
        router.run(sharing(&["share", address, PORT, &other.to_string_lossy()])).expect_success();
        let told = collected(&lab, server, address);
        let counts = ["mine", "again", "other"].map(|word| count(&told, word));
        assert_eq!(counts, [SENT / 2, SENT / 2, 0], "{way:?}, {address}: {told:?}");
    }
}

/// Without the kernel's notes of who sends all sockets of a port count. A socket that is closed at once is not there any more, and within a
/// quarter of a second another program's first datagram may be taken for one that is not connected.
#[test]
fn an_ordinary_users_refused_program_is_so_too() {
    let lab = Lab::new();
    let other = lab.copy_of("/usr/bin/python3", "other");
    for refused in [false, true] {
        let profiles = Profiles::accepting();
        if refused {
            profiles.user("other", &other, "endpoints = [\"- *\"]");
        }
        for address in SERVERS {
            let server = collector(&lab);
            let share = sharing(&["share", address, PORT, &other.to_string_lossy(), "0.4"]);
            let words: Vec<&str> = ["--"].into_iter().chain(share.iter().map(String::as_str)).collect();
            exec_as_nobody(&lab, &profiles, &words).expect_success();
            let told = collected(&lab, server, address);
            let counts = ["mine", "other"].map(|word| count(&told, word));
            // Once the other one has the port first.
            let expected = if refused { [SENT / 4 - 1, 0] } else { [SENT / 4, SENT / 2] };
            assert_eq!(counts, expected, "{address}: {told:?}");
        }
    }
}

/// Makes a socket, waits until that is old, and has another program, which has just talked to a server by a socket of its own, connect it.
const PASSED_ON: &str = "
import socket, subprocess, sys, time
address, other = sys.argv[1:3]
s = socket.socket(socket.AF_INET6 if ':' in address else socket.AF_INET, socket.SOCK_STREAM)
time.sleep(1.5)
subprocess.run([other, '-c', sys.argv[3], address, str(s.fileno())], pass_fds=[s.fileno()], check=True)
";

/// What the other program is told, by its own socket and by the passed one.
const PASSED: &str = "
import errno, socket, sys
family = socket.AF_INET6 if ':' in sys.argv[1] else socket.AF_INET
for fd in [None, int(sys.argv[2])]:
    s = socket.socket(family, socket.SOCK_STREAM, fileno=fd)
    s.settimeout(5)
    try: s.connect((sys.argv[1], 7)); print('OK', flush=True)
    except OSError as error: print(errno.errorcode[error.errno], flush=True)
";

fn a_socket_that_a_refused_program_passed_on_is_its_own_still(way: Way) {
    let lab = Lab::new();
    let [maker, other] = ["maker", "other"].map(|name| lab.copy_of("/usr/bin/python3", name).to_string_lossy().into_owned());
    for (refused, said) in [(false, "OK\nOK\n"), (true, "OK\nECONNREFUSED\n")] {
        let profiles = Profiles::accepting();
        if refused {
            profiles.user("maker", maker.as_ref(), "endpoints = [\"- *\"]");
        }
        let router = Router::start(&lab, way, &profiles);
        for address in SERVERS {
            let told = router.run([maker.as_str(), "-c", PASSED_ON, address, &other, PASSED]).expect_success();
            assert_eq!(told, said, "{way:?}, {address}, refused: {refused}");
        }
    }
}

/// Has a program that is no child of its own hold its socket, at another number, and sends by it once it is old.
const HELD_TOO: &str = "
import errno, os, socket, sys, time
address, other = sys.argv[1:3]
family = socket.AF_INET6 if ':' in address else socket.AF_INET
for kind in [socket.SOCK_STREAM, socket.SOCK_DGRAM]:
    s = socket.socket(family, kind)
    s.settimeout(1)
    runs, run = os.pipe()
    if os.fork() == 0:
        if os.fork() == 0:
            os.dup2(s.fileno(), 50)
            s.close()
            os.set_inheritable(run, True)
            os.execv(other, [other, '-c', f'import os, time; os.close({run}); time.sleep(5)'])
        os._exit(0)
    os.close(run)
    os.wait()
    os.read(runs, 1)
    time.sleep(1.5)
    try:
        s.connect((address, 7))
        s.send(b'x')
        print(s.recv(1).decode(), flush=True)
    except OSError as error:
        print('refused', flush=True)
";

fn a_refused_program_is_so_by_a_socket_that_a_stranger_holds_too(way: Way) {
    let lab = Lab::new();
    let [maker, other] = ["maker", "other"].map(|name| lab.copy_of("/usr/bin/python3", name).to_string_lossy().into_owned());
    for (refused, said) in [(false, "x\nx\n"), (true, "refused\nrefused\n")] {
        let profiles = Profiles::accepting();
        if refused {
            profiles.user("maker", maker.as_ref(), "endpoints = [\"- *\"]");
        }
        let router = Router::start(&lab, way, &profiles);
        for address in SERVERS {
            let told = router.run([maker.as_str(), "-c", HELD_TOO, address, &other]).expect_success();
            assert_eq!(told, said, "{way:?}, {address}, refused: {refused}");
        }
    }
}

/// Sends a datagram and becomes another program with the socket open, many times.
const BECOMES: &str = "
import os, socket, sys, time
address, port, other = sys.argv[1:4]
for _ in range(100):
    if os.fork() == 0:
        s = socket.socket(socket.AF_INET6 if ':' in address else socket.AF_INET, socket.SOCK_DGRAM)
        s.set_inheritable(True)
        s.sendto(b'before', (address, int(port)))
        os.execv(other, [other, '-c', 'import time; time.sleep(0.2)'])
    time.sleep(0.005)
while True:
    try: os.wait()
    except ChildProcessError: break
";

fn a_refused_program_is_so_when_it_executes_an_accepted_one_at_once(way: Way) {
    let lab = Lab::new();
    let [maker, other] = ["maker", "other"].map(|name| lab.copy_of("/usr/bin/python3", name).to_string_lossy().into_owned());
    let profiles = Profiles::accepting();
    profiles.user("maker", maker.as_ref(), "endpoints = [\"- *\"]");
    let router = Router::start(&lab, way, &profiles);
    for address in SERVERS {
        let server = collector(&lab);
        router.run([maker.as_str(), "-c", BECOMES, address, PORT, &other]).expect_success();
        let told = collected(&lab, server, address);
        assert_eq!(count(&told, "before"), 0, "{way:?}, {address}");
    }
}

/// A child of a program that is gone goes on with its socket, as itself (a daemon) or as another program.
const HEIR: &str = "
import os, socket, sys, time
address = sys.argv[1]
def connect(s, maker):
    while os.getppid() == maker: time.sleep(0.01)
    s.settimeout(5)
    try: s.connect((address, 7)); said = 'OK'
    except OSError: said = 'refused'
    os.write(3, said.encode())
if len(sys.argv) > 2:
    connect(socket.socket(fileno=int(sys.argv[3])), int(sys.argv[2]))
for executes in [False, True] if len(sys.argv) == 2 else []:
    out, end = os.pipe()
    if os.fork() == 0:
        os.close(out)
        s = socket.socket(socket.AF_INET6 if ':' in address else socket.AF_INET)
        os.dup2(s.fileno(), 50)
        os.dup2(end, 3)
        maker = os.getpid()
        if os.fork() == 0:
            if executes: os.execv(sys.executable, [sys.executable, '-c', CODE, address, str(maker), '50'])
            connect(socket.socket(fileno=50), maker)
        os._exit(0)
    os.close(end)
    print(os.read(out, 99).decode(), flush=True)
";

fn an_heir_that_executed_a_program_has_no_socket_of_a_maker_that_is_gone(way: Way) {
    let lab = Lab::new();
    let profiles = Profiles::accepting();
    let router = Router::start(&lab, way, &profiles);
    let code = format!("CODE = '''{HEIR}'''\n{HEIR}");
    for address in SERVERS {
        let told = router.run(["/usr/bin/python3", "-c", &code, address]).expect_success();
        assert_eq!(told, "OK\nrefused\n", "{way:?}, {address}");
    }
}
