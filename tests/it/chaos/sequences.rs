//! Packets, identities, sockets' fates, answers, rules and time, in any order, into the router.

use std::path::PathBuf;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use portreeve::flow::{FlowId, Owner, Service, State};
use portreeve::names::Asker;
use portreeve::packet::{Checksums, IpPacket};
use portreeve::process::{Confidence, Exe, Identity};
use portreeve::profile::{File, Kind, Layer, Level, Policy, Setup};
use portreeve::router::{Config, Failure, Input, Output, Router, Rules};
use portreeve::verdict::{Answer, Epoch};

fn policies() -> &'static [Arc<Policy>] {
    static POLICIES: OnceLock<Vec<Arc<Policy>>> = OnceLock::new();
    POLICIES.get_or_init(|| {
        let compile = |mode| {
            let text = format!("name = \"f\"\nmode = \"{mode}\"\n[scope]\ninternet = true\n[flags]\npeer_to_peer = true\n");
            let file = File { kind: Kind::Profile(Layer::Fallback), path: PathBuf::from("fallback.toml"), text };
            Arc::new(Policy::compile(&[file], Setup::default()).expect("a valid profile"))
        };
        ["blacklist", "prompt", "whitelist"].map(compile).into()
    })
}

fn owner(policy: &Policy, inode: u64) -> Owner {
    let exe = Exe { path: PathBuf::from(format!("/usr/bin/{inode}")), device: 1, inode, path_is_ours: true };
    let unknown = Identity::tagged("fuzz:program", Some(1000));
    let identity = Arc::new(Identity { exe: Some(exe), tags: Vec::new(), confidence: Confidence::Exact, ..unknown });
    let asker = Asker::Program { device: 1, inode, uid: 1000 };
    Owner { subject: policy.subject(identity, &|_| true), asker, names: Vec::new() }
}

fn drain(router: &mut Router, flows: &mut Vec<FlowId>) {
    while let Some(output) = router.poll_output() {
        match output {
            Output::Identify(id) => flows.push(id),
            Output::Open { permit, .. } => assert_eq!(permit.epoch(), router.rules().epoch),
            Output::Deliver(id) => {
                let flow = router.flow(id).expect("a flow that lives");
                let permitted = flow.permit.is_some_and(|permit| permit.epoch() == router.rules().epoch);
                assert!(flow.state() == State::Open && (permitted || flow.service == Service::Dns));
            }
            _ => {}
        }
    }
    flows.retain(|id| router.flow(*id).is_some());
}

pub(super) fn run(bytes: &[u8]) {
    let mut now = Instant::now();
    let policy = |n: u8| policies()[usize::from(n) % policies().len()].clone();
    let mut config = Config::new((now, 0), 1);
    (config.max_flows, config.max_pending, config.max_parked) = (16, 8, 4096);
    let mut router = Router::new(config, Rules { policy: policy(0), level: Level::Dynamic, epoch: Epoch(1) });
    let (mut flows, mut rest) = (Vec::new(), bytes);
    while let [op, arg, tail @ ..] = rest {
        rest = tail;
        let flow = flows.get(usize::from(*arg) % flows.len().max(1)).copied();
        match (op % 8, flow) {
            (0 | 1, _) => {
                let (packet, tail) = tail.split_at(usize::from(*arg).min(tail.len()));
                rest = tail;
                if let Ok(packet) = IpPacket::parse(packet, Checksums::Unfinished) {
                    router.handle(Input::Packet(&packet), now);
                }
            }
            (2, Some(flow)) => {
                let owners = (0..u64::from(op >> 6)).map(|n| owner(&router.rules().policy, n)).collect();
                router.handle(Input::Identified { flow, owners }, now);
            }
            (3, Some(flow)) => router.handle(Input::Opened(flow), now),
            (4, Some(flow)) if op & 8 == 0 => router.handle(Input::Failed { flow, failure: Failure::Refused }, now),
            (4, Some(flow)) => router.handle(Input::Ended { flow, outcome: "closed" }, now),
            (5, _) => {
                let answer = if op & 8 == 0 { Answer::Allow } else { Answer::Deny };
                router.handle(Input::Answered { prompt: u64::from(*arg), answer }, now);
            }
            (6, _) => {
                let (policy, epoch) = (policy(*arg), Epoch(router.rules().epoch.0 + 1));
                let rules = Rules { policy: policy.clone(), level: Level::Dynamic, epoch };
                let subject = |identity: &Arc<Identity>| policy.subject(identity.clone(), &|_| true);
                router.handle(Input::Rules { rules, subject: &subject }, now);
            }
            (_, _) => {
                now += Duration::from_secs(u64::from(*arg));
                router.handle(Input::Timeout, now);
                assert!(router.poll_timeout().is_none_or(|at| at > now));
            }
        }
        drain(&mut router, &mut flows);
        let parked: usize = flows.iter().filter_map(|id| router.flow(*id)).map(|flow| flow.parked().bytes()).sum();
        assert!(flows.len() <= 16 && router.population().1 <= 8 && parked <= 4096);
    }
}
