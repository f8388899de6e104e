//! Local servers keep answering, strict reverse-path filters or not, whenever they become strict.

use super::laptop::{Laptop, MARK, plan, program};

/// Listens on TCP and echoes one line for each connection.
const SERVER: &str = r#"
import socket, sys
s = socket.socket(socket.AF_INET6)
s.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
s.bind(("::", 7000)); s.listen()
print("ready", flush=True)
while True:
    c, _ = s.accept()
    c.sendall(c.recv(100)); c.close()
"#;

/// Asks the server, and then a port where nobody listens. Prints what came of both.
const CLIENT: &str = r#"
import socket, sys
def ask(port):
    try:
        with socket.create_connection((sys.argv[1], port), 20) as s:
            s.sendall(b"hello"); return s.recv(100).decode()
    except OSError as error:
        return type(error).__name__
print(ask(7000), ask(7001))
"#;

struct Server(std::process::Child);

impl Server {
    fn start(laptop: &Laptop) -> Self {
        let path = program(laptop.dir.path(), "server.py", SERVER);
        let mut command = laptop.inner.command("python3");
        let mut child = command.arg(path).stdout(std::process::Stdio::piped()).spawn().expect("python3");
        let mut line = [0; 6];
        std::io::Read::read_exact(child.stdout.as_mut().expect("a pipe"), &mut line).expect("the server is ready");
        Self(child)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn asked_from_outside(laptop: &Laptop, to: &str) -> String {
    let path = program(laptop.dir.path(), "client.py", CLIENT);
    laptop.gateway.run(&format!("python3 {path} {to}")).trim().to_owned()
}

#[test]
fn a_local_server_answers_and_a_closed_port_refuses_under_up() {
    for filter in [0, 1, 2] {
        let laptop = Laptop::new();
        laptop.inner.run(&format!("sysctl -qw net.ipv4.conf.all.rp_filter={filter}"));
        let _server = Server::start(&laptop);
        for to in ["10.9.0.2", "fd09::2"] {
            assert_eq!(asked_from_outside(&laptop, to), "hello ConnectionRefusedError", "control: {to}");
        }
        let installed = laptop.up(&plan()).expect("up");
        for to in ["10.9.0.2", "fd09::2"] {
            assert_eq!(asked_from_outside(&laptop, to), "hello ConnectionRefusedError", "rp_filter {filter}: {to}");
        }
        laptop.inner.inside(|| drop(installed));
    }
}

#[test]
fn a_strict_filter_lets_the_answers_of_marked_sockets_in_and_is_restored() {
    let laptop = Laptop::new();
    laptop.inner.run("sysctl -qw net.ipv4.conf.v0.rp_filter=1");
    let before = laptop.snapshot();
    let installed = laptop.up(&plan()).expect("up");
    assert_eq!(laptop.inner.run("sysctl -n net.ipv4.conf.all.src_valid_mark").trim(), "1");
    for to in ["203.0.113.10", "2001:db8::10", "10.9.0.1"] {
        assert!(laptop.pings(&format!("-m {MARK}"), to), "{to}");
    }
    // Control: the setting is what does it.
    laptop.inner.run("sysctl -qw net.ipv4.conf.all.src_valid_mark=0");
    assert!(!laptop.pings(&format!("-m {MARK}"), "203.0.113.10"));
    laptop.inner.run("sysctl -qw net.ipv4.conf.all.src_valid_mark=1");
    laptop.inner.inside(|| installed.remove()).expect("removed");
    super::laptop::assert_same(&laptop.snapshot(), &before);
}

#[test]
fn a_strict_filter_keeps_answering_arp() {
    let laptop = Laptop::new();
    laptop.inner.run("sysctl -qw net.ipv4.conf.all.rp_filter=1");
    let installed = laptop.up(&plan()).expect("up");
    laptop.gateway.run("ip neigh flush all");
    assert!(laptop.is_reached("10.9.0.2"));
    laptop.inner.inside(|| drop(installed));
}

#[test]
fn a_filter_that_becomes_strict_later_lets_the_answers_in_and_keeps_answering_arp() {
    let laptop = Laptop::new();
    laptop.inner.run("sysctl -qw net.ipv4.conf.all.rp_filter=0 net.ipv4.conf.default.rp_filter=0 net.ipv4.conf.v0.rp_filter=0");
    let before = laptop.snapshot();
    let installed = laptop.up(&plan()).expect("up");
    laptop.inner.run("sysctl -qw net.ipv4.conf.all.rp_filter=1");
    for to in ["203.0.113.10", "2001:db8::10", "10.9.0.1"] {
        assert!(laptop.pings(&format!("-m {MARK}"), to), "{to}");
    }
    laptop.gateway.run("ip neigh flush all");
    assert!(laptop.is_reached("10.9.0.2"));
    laptop.inner.run("sysctl -qw net.ipv4.conf.all.rp_filter=0");
    laptop.inner.inside(|| installed.remove()).expect("removed");
    super::laptop::assert_same(&laptop.snapshot(), &before);
}
