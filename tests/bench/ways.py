"""The lab's hosts, and the ways out of its laptop: a shell behind each router, and what that router's processes use.

Rule: every way gets the same commands from the same kind of shell, and every command has an end.
"""

import contextlib
import itertools
import json
import os
import pathlib
import select
import shlex
import subprocess
import time

SERVER4, SERVER6 = "203.0.113.10", "2001:db8::10"
SILENT = "203.0.113.66"
TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")

ACCEPT_ALL = """name = "Fallback"
mode = "blacklist"
[scope]
internet = true
lan = true
localhost = true
[flags]
peer_to_peer = true
"""


class Failure(Exception):
    """Why there is no figure."""


def first_line(pipe, seconds, what):
    """The first line from an unbuffered pipe (a buffer would hide from select what it holds), within a time."""
    if not select.select([pipe], [], [], seconds)[0]:
        raise Failure(f"{what}: nothing was said in {seconds} s")
    return pipe.readline().decode()


def machine_cpu():
    """Seconds of CPU that this machine has spent on anything."""
    fields = [int(word) for word in pathlib.Path("/proc/stat").read_text().splitlines()[0].split()[1:]]
    # user, nice, system, irq, softirq; neither idle nor stolen time, and user holds the guests' (proc(5)).
    return sum(fields[i] for i in (0, 1, 2, 5, 6)) / TICKS_PER_SECOND


def machine_load(seconds=0.3):
    """Share of this machine that is busy now."""
    before = machine_cpu()
    time.sleep(seconds)
    return (machine_cpu() - before) / seconds / os.cpu_count()


class Lab:
    """The namespaces of scripts/lab, and servers on the internet host."""

    def __init__(self, options):
        self.options = options
        # A traffic server takes five ports.
        self.ports = itertools.count(20_000, 5)

    def words(self, host, words):
        return [self.options.lab, "run", self.options.name, host, *words]

    def run(self, host, words):
        done = subprocess.run(self.words(host, words), capture_output=True, text=True, timeout=60)
        if done.returncode != 0:
            raise Failure(f"{' '.join(words)}: {(done.stderr.strip() or done.stdout.strip())[-300:]}")
        return done.stdout

    @contextlib.contextmanager
    def server(self, words, ready):
        """A server on the internet host, from the line that says it is ready until the end of the block."""
        server = subprocess.Popen(self.words("internet", words), stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, bufsize=0)
        try:
            line = "-"
            while line and ready not in line:
                line = first_line(server.stdout, 5, words[0])
            if not line:
                raise Failure(f"{words[0]} on the internet host ended")
            yield
        finally:
            server.kill()
            server.wait()

    def traffic_server(self, port):
        return self.server([f"{self.options.work}/traffic", "serve", port, SERVER4, SERVER6], "serving")

    def laptop_pids(self):
        return subprocess.run(["ip", "netns", "pids", f"laptop-{self.options.name}"], capture_output=True, text=True).stdout.split()


class Way:
    """A shell whose commands reach a server in one way; `open` starts router and server anew. What another way left in TIME-WAIT at its
    server is nothing to this one: a SYN from the same port may seem older there, since the clock of its timestamps is another."""

    def __init__(self, lab, name):
        self.lab, self.name, self.options = lab, name, lab.options
        self.number = itertools.count()
        self.shell, self.is_up, self.server, self.port = None, False, contextlib.ExitStack(), None
        self.least = None
        self.profiles = pathlib.Path(self.options.work) / "profiles"
        self.profiles.mkdir(exist_ok=True)
        (self.profiles / "fallback.toml").write_text(ACCEPT_ALL)

    @property
    def has_router(self):
        return self.name != "direct"

    def open(self):
        self.port = str(next(self.lab.ports))
        self.server.enter_context(self.lab.traffic_server(self.port))
        prefix = {
            "pasta": "pasta --config-net --quiet --runas 0 --no-map-gw -t none -u none -T none -U none --".split(),
            "exec": [self.options.binary, "exec", "--profiles", str(self.profiles), "--"],
        }.get(self.name, [])
        if self.name in ("up", "express"):
            config = pathlib.Path(self.options.work) / "portreeve.toml"
            config.write_text(f"express = {'true' if self.name == 'express' else 'false'}\n")
            # In the background, as a service: in the foreground it would print a line a flow.
            self.lab.run("laptop", ["env", f"PORTREEVE_CONFIG={config}", self.options.binary, "up", "--profiles", str(self.profiles)])
            self.is_up = True
        if self.name == "least":
            self.open_least()
        words = self.lab.words("laptop", [*prefix, "bash", "--norc", "--noprofile"])
        self.shell = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, bufsize=0)
        # A namespace that the way makes takes over the host's choice, and a pacing one would decide every row.
        self.tell("sysctl -qw net.ipv4.tcp_congestion_control=reno >/dev/null 2>&1; echo $?", 10)
        for server in (SERVER4, SERVER6):
            self.wait_for(server)

    def open_least(self):
        """The router of tests/bench/least, and the routes that it leaves to its caller."""
        words = self.lab.words("laptop", [f"{self.options.work}/least", "2"])
        self.least = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, bufsize=0)
        if first_line(self.least.stdout, 5, "least").strip() != "ready":
            raise Failure("least: no TUN device")
        for line in (
            "addr add 198.18.9.1/32 dev least0",
            "link set least0 mtu 1500 txqueuelen 4000 up",
            "route add default dev least0 src 198.18.9.1 table 100",
            "rule add priority 100 not fwmark 1 lookup 100",
        ):
            self.lab.run("laptop", ["ip", "-4", *line.split()])

    def wait_for(self, server):
        """Until the first flow gets through. A family that never does shows in its own rows."""
        for _ in range(30):
            with contextlib.suppress(Failure):
                self.json(["trips", "tcp", server, self.port, "0"])
                return
            time.sleep(0.1)

    def close(self):
        try:
            self.close_router()
        finally:
            self.server.close()

    def close_router(self):
        if self.shell:
            self.shell.stdin.close()
            try:
                self.shell.wait(timeout=10)
            except subprocess.TimeoutExpired:
                self.shell.kill()
                self.shell.wait()
            self.shell.stdout.close()
            self.shell = None
        if self.is_up:
            self.is_up = False
            self.lab.run("laptop", [self.options.binary, "down"])
        if self.least:
            least, self.least = self.least, None
            with contextlib.suppress(Failure):
                self.lab.run("laptop", ["ip", "-4", "rule", "del", "priority", "100"])
            least.stdin.close()
            least.kill()
            least.wait()
            least.stdout.close()

    def tell(self, line, seconds):
        """Gives the shell a line that echoes once; what it echoed."""
        try:
            self.shell.stdin.write(f"{line}\n".encode())
            told = first_line(self.shell.stdout, seconds, "the shell behind the router")
        except BrokenPipeError:
            told = ""
        if not told:
            raise Failure("the router ended")
        return told.strip()

    def run(self, words, timeout=60):
        """Runs a command in this way: its output."""
        base = f"{self.options.work}/{self.name}-{next(self.number)}"
        code = self.tell(f"timeout -k 1 {timeout} {shlex.join(words)} </dev/null >{base}.out 2>{base}.err; echo $?", timeout + 10)
        output = pathlib.Path(f"{base}.out").read_text()
        if code != "0":
            cause = "timed out" if code in ("124", "137") else pathlib.Path(f"{base}.err").read_text().strip()[-200:]
            # iperf3 -J tells what went wrong in its output.
            raise Failure(f"{' '.join(words[:2])}: {cause or self.json_error(output) or f'exit code {code}'}")
        return output

    @staticmethod
    def json_error(output):
        with contextlib.suppress(json.JSONDecodeError):
            return json.loads(output).get("error")

    def json(self, words, timeout=60):
        """What the traffic program says."""
        return json.loads(self.run([f"{self.options.work}/traffic", *words], timeout))

    @contextlib.contextmanager
    def held(self, words, timeout=60, program="traffic"):
        """The traffic program beside what follows; gives what it says first, ends it with its input."""
        base = f"{self.options.work}/{self.name}-{next(self.number)}"
        os.mkfifo(f"{base}.in")
        command = shlex.join([f"{self.options.work}/{program}", *words])
        # Opened for both ways, the pipe does not keep the shell waiting for a writer, nor us for a reader.
        pipe = os.open(f"{base}.in", os.O_RDWR)
        try:
            begun = f"{{ timeout -k 1 600 {command} <{base}.in >{base}.out 2>{base}.err; echo $? >{base}.code; }}"
            process = self.tell(f"{begun} & echo $!", 10)
            output, code = pathlib.Path(f"{base}.out"), pathlib.Path(f"{base}.code")
            end = time.monotonic() + timeout
            while not (output.exists() and output.read_text().endswith("\n")):
                if code.exists():
                    raise Failure(f"{words[0]}: {pathlib.Path(f'{base}.err').read_text().strip()[-200:] or 'ended at once'}")
                if time.monotonic() > end:
                    raise Failure(f"{words[0]}: not ready in {timeout} s")
                time.sleep(0.02)
            yield json.loads(output.read_text())
            os.close(pipe)
            pipe = None
            self.tell(f"wait {process}; echo $?", 30)
        finally:
            if pipe is not None:
                os.close(pipe)

    def router_pids(self):
        """The router's processes: those in the laptop's namespace that run its program."""
        if not self.has_router:
            return []
        found = []
        for pid in self.lab.laptop_pids():
            with contextlib.suppress(OSError):
                program = pathlib.Path(f"/proc/{pid}/exe").readlink()
                ours = str(program) == os.path.realpath(self.options.binary)
                peers = {"pasta": ("pasta", "passt"), "least": ("least",)}.get(self.name)
                if program.name.startswith(peers) if peers else ours:
                    found.append(pid)
        if not found:
            raise Failure("no process of the router is there")
        return found

    def router_ticks(self):
        total = 0
        for pid in self.router_pids():
            # The name of a program may hold spaces: proc(5), /proc/pid/stat.
            fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
            total += int(fields[11]) + int(fields[12])
        return total

    def router_cpu(self):
        """Seconds of CPU that the router's processes have spent."""
        return self.router_ticks() / TICKS_PER_SECOND

    def router_kib(self):
        """Resident memory of the router's processes."""
        total = 0
        for pid in self.router_pids():
            for line in pathlib.Path(f"/proc/{pid}/status").read_text().splitlines():
                if line.startswith("VmRSS:"):
                    total += int(line.split()[1])
        return total
