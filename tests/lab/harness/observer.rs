//! The eavesdropper on the gateway's link: what really left the laptop.
//!
//! Rule: a capture is judged by the exact destinations that may be in it, and an empty one is a failure. Neighbour
//! discovery, which every host speaks, is left out; everything else counts, whoever sent it.

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader};
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use etherparse::{Icmpv6Slice, NetSlice, SlicedPacket, TransportSlice};
use rustix::process::{Pid, Signal, kill_process};

use super::Lab;

/// How long an expected packet may take from the link into the file on a busy machine.
const PATIENCE: Duration = Duration::from_secs(10);

/// Where a packet that left the laptop was going.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Seen {
    pub(crate) protocol: &'static str,
    pub(crate) destination: IpAddr,
    /// The destination's port; None where the protocol has none.
    pub(crate) port: Option<u16>,
}

impl Seen {
    pub(crate) fn tcp(destination: &str, port: u16) -> Self {
        Self { protocol: "TCP", destination: address(destination), port: Some(port) }
    }

    pub(crate) fn udp(destination: &str, port: u16) -> Self {
        Self { protocol: "UDP", destination: address(destination), port: Some(port) }
    }

    /// The questions that the laptop's resolver configuration allows.
    pub(crate) fn questions() -> [Self; 4] {
        let [four, six] = [Lab::RESOLVER_4, Lab::RESOLVER_6];
        [Self::udp(four, 53), Self::udp(six, 53), Self::tcp(four, 53), Self::tcp(six, 53)]
    }
}

fn address(text: &str) -> IpAddr {
    text.parse().unwrap_or_else(|_| panic!("'{text}' is no address"))
}

/// A running capture.
pub(crate) struct Capture {
    tcpdump: Child,
    file: PathBuf,
}

impl Capture {
    /// Starts to listen; packets sent after this returns are seen.
    pub(crate) fn start(lab: &Lab, name: &str) -> Self {
        let file = lab.dir().join(format!("{name}.pcap"));
        let mut tcpdump = Command::new("ip")
            .args(["netns", "exec", lab.gateway().namespace(), "tcpdump", "-i", "lan0", "-Q", "in", "-nn", "-U"])
            .args(["--immediate-mode", "-Z", "root", "-w"])
            .arg(&file)
            .stderr(Stdio::piped())
            .spawn()
            .expect("tcpdump starts");
        let mut messages = BufReader::new(tcpdump.stderr.take().expect("stderr is piped"));
        let mut line = String::new();
        while !line.contains("listening on") {
            line.clear();
            let read = messages.read_line(&mut line).expect("tcpdump writes text");
            assert!(read > 0, "tcpdump ended before it listened");
        }
        Self { tcpdump, file }
    }

    /// Ends the capture once nothing more comes.
    ///
    /// # Panics
    /// Where nothing was seen: an empty capture proves nothing.
    fn stop(mut self) -> BTreeSet<Seen> {
        self.settle();
        let pid = i32::try_from(self.tcpdump.id()).ok().and_then(Pid::from_raw).expect("a child has a PID");
        kill_process(pid, Signal::INT).expect("tcpdump runs");
        self.tcpdump.wait().expect("tcpdump ends");
        let seen = read(&self.file);
        assert!(!seen.is_empty(), "the capture is empty and proves nothing");
        seen
    }

    /// Waits until no frame was written for a while: tcpdump drops at its signal what it has not read by then.
    fn settle(&self) {
        let length = || std::fs::metadata(&self.file).map_or(0, |file| file.len());
        let mut before = length();
        loop {
            std::thread::sleep(Duration::from_millis(100));
            let now = length();
            if now == before {
                break;
            }
            before = now;
        }
    }

    /// Ends the capture once it is as expected, or this is in vain.
    pub(crate) fn stop_when(self, is_expected: impl Fn(&BTreeSet<Seen>) -> bool) -> BTreeSet<Seen> {
        let deadline = Instant::now() + PATIENCE;
        while !is_expected(&read(&self.file)) && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(20));
        }
        self.stop()
    }

    /// Ends the capture and demands that nothing but `allowed` left, and that all of `expected` did.
    ///
    /// Whoever sends the expected packets last knows that what was sent before them was seen, too.
    pub(crate) fn stop_with_only(self, expected: &[Seen], allowed: &[Seen]) {
        let seen = self.stop_when(|seen| expected.iter().all(|wanted| seen.contains(wanted)));
        for wanted in expected {
            assert!(seen.contains(wanted), "the positive control {wanted:?} is missing in {seen:?}");
        }
        let strangers: Vec<_> = seen.iter().filter(|one| !expected.contains(one) && !allowed.contains(one)).collect();
        assert!(strangers.is_empty(), "these left the laptop: {strangers:?}");
    }
}

impl Drop for Capture {
    fn drop(&mut self) {
        let _ = self.tcpdump.kill();
        let _ = self.tcpdump.wait();
    }
}

/// Reads a pcap file of Ethernet frames: a head of 24 bytes, then records with heads of 16 (draft-ietf-opsawg-pcap §4–5).
fn read(file: &Path) -> BTreeSet<Seen> {
    let bytes = std::fs::read(file).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
    let mut rest = bytes.get(24..).unwrap_or_default();
    let mut seen = BTreeSet::new();
    while let Some((head, body)) = rest.split_at_checked(16) {
        let length = head.get(8..12).and_then(|field| field.try_into().ok()).map_or(0, u32::from_ne_bytes);
        let Some((frame, next)) = body.split_at_checked(usize::try_from(length).unwrap_or(usize::MAX)) else { break };
        seen.extend(meaning(frame));
        rest = next;
    }
    seen
}

/// What the frame carries; None for ARP and neighbour discovery.
fn meaning(frame: &[u8]) -> Option<Seen> {
    let Ok(packet) = SlicedPacket::from_ethernet(frame) else {
        return Some(Seen { protocol: "malformed", destination: IpAddr::from([0, 0, 0, 0]), port: None });
    };
    let (destination, number) = match packet.net? {
        NetSlice::Ipv4(ip) => (IpAddr::from(ip.header().destination()), ip.payload_ip_number()),
        NetSlice::Ipv6(ip) => (IpAddr::from(ip.header().destination()), ip.payload().ip_number),
        NetSlice::Arp(_) => return None,
    };
    let seen = |protocol, port| Some(Seen { protocol, destination, port });
    match packet.transport {
        Some(TransportSlice::Tcp(tcp)) => seen("TCP", Some(tcp.destination_port())),
        Some(TransportSlice::Udp(udp)) => seen("UDP", Some(udp.destination_port())),
        Some(TransportSlice::Icmpv4(_)) => seen("ICMP", None),
        Some(TransportSlice::Icmpv6(icmp)) if is_neighbour_discovery(&icmp) => None,
        Some(TransportSlice::Icmpv6(_)) => seen("ICMPv6", None),
        Some(TransportSlice::Igmp(_)) => seen("IGMP", None),
        None => seen(number.keyword_str().unwrap_or("other"), None),
    }
}

/// Multicast listener discovery (RFC 2710, 3810) and neighbour discovery (RFC 4861).
fn is_neighbour_discovery(icmp: &Icmpv6Slice<'_>) -> bool {
    matches!(icmp.type_u8(), 130..=136 | 143)
}

#[test]
fn a_capture_tells_what_left_from_what_did_not() {
    let lab = Lab::new();
    let capture = Capture::start(&lab, "control");
    lab.laptop().run(["curl", "-sS", "http://203.0.113.10/hello"]).expect_success();
    lab.laptop().run(["curl", "-sS", "http://[2001:db8::11]/hello"]).expect_success();
    lab.laptop().run(["ping", "-c1", "-q", "198.51.100.10"]).expect_success();
    let ping = Seen { protocol: "ICMP", destination: address("198.51.100.10"), port: None };
    let wanted = BTreeSet::from([ping, Seen::tcp("203.0.113.10", 80), Seen::tcp("2001:db8::11", 80)]);
    assert_eq!(capture.stop_when(|seen| wanted.is_subset(seen)), wanted);
}

#[test]
#[should_panic(expected = "the capture is empty")]
fn an_empty_capture_is_a_failure() {
    let lab = Lab::new();
    Capture::start(&lab, "empty").stop();
}
