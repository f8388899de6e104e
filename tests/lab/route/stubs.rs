//! The redirect of loopback resolvers to ours.

use super::laptop::{Laptop, MARK, plan_with, program};

/// Answers each datagram and each connection with its own port.
const RESOLVER: &str = r#"
import socket, sys, threading
port = int(sys.argv[1])
def serve(host, family):
    u = socket.socket(family, socket.SOCK_DGRAM); u.bind((host, port))
    t = socket.socket(family); t.bind((host, port)); t.listen()
    def udp():
        while True:
            _, peer = u.recvfrom(512); u.sendto(str(port).encode(), peer)
    def tcp():
        while True:
            c, _ = t.accept(); c.sendall(str(port).encode()); c.close()
    for loop in (udp, tcp): threading.Thread(target=loop, daemon=True).start()
for host in sys.argv[2:]: serve(host, socket.AF_INET6 if ":" in host else socket.AF_INET)
print("ready!", flush=True)
threading.Event().wait()
"#;

/// Asks port 53 of a stub over UDP and TCP, from connected sockets, so that the answer must come from the stub.
const ASK: &str = r#"
import socket, sys
to, mark = sys.argv[1], int(sys.argv[2])
for kind in (socket.SOCK_DGRAM, socket.SOCK_STREAM):
    s = socket.socket(socket.AF_INET6 if ":" in to else socket.AF_INET, kind)
    if mark: s.setsockopt(socket.SOL_SOCKET, 36, mark)
    s.settimeout(20)
    try:
        s.connect((to, 53)); s.send(b"?"); print(s.recv(100).decode())
    except OSError as error:
        print(type(error).__name__)
"#;

struct Resolver(std::process::Child);

impl Resolver {
    fn start(laptop: &Laptop, port: u16, hosts: &str) -> Self {
        let path = program(laptop.dir.path(), "resolver.py", RESOLVER);
        let mut command = laptop.inner.command("python3");
        command.arg(path).arg(port.to_string()).args(hosts.split(' ')).stdout(std::process::Stdio::piped());
        let mut child = command.spawn().expect("python3");
        let mut line = [0; 6];
        std::io::Read::read_exact(child.stdout.as_mut().expect("a pipe"), &mut line).expect("the resolver is ready");
        Self(child)
    }
}

impl Drop for Resolver {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn questions_to_a_loopback_stub_end_in_our_resolver_except_our_own() {
    let laptop = Laptop::new();
    let path = program(laptop.dir.path(), "ask.py", ASK);
    let ask = |to: &str, mark: u32| laptop.inner.run(&format!("python3 {path} {to} {mark}"));
    let _stub = Resolver::start(&laptop, 53, "127.0.0.53 127.0.0.2 ::1");
    let _ours = Resolver::start(&laptop, 5300, "127.0.0.1 ::1");
    let before = laptop.snapshot();
    let mut installed = laptop.up(&plan_with("[dns]\nstubs = [\"127.0.0.53\", \"::1\"]\nport = 5300\n")).expect("up");
    for stub in ["127.0.0.53", "::1"] {
        assert_eq!(ask(stub, 0), "53\n53\n", "{stub} before the redirect");
    }
    laptop.inner.inside(|| installed.redirect_stubs(5300)).expect("redirect");
    for stub in ["127.0.0.53", "::1"] {
        assert_eq!(ask(stub, 0), "5300\n5300\n", "{stub}");
        assert_eq!(ask(stub, MARK), "53\n53\n", "our own question to {stub}");
    }
    assert_eq!(ask("127.0.0.2", 0), "53\n53\n", "the plan does not name it");
    laptop.inner.inside(|| installed.remove()).expect("removed");
    super::laptop::assert_same(&laptop.snapshot(), &before);
    assert_eq!(ask("127.0.0.53", 0), "53\n53\n");
}
