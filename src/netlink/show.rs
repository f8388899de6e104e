//! The plan as commands that a person or a script can run: `ip`, `nft`, `sysctl`.
//!
//! Keeps one rule: made from the same texts as `up` itself, so what is shown is what is done. Two differences: the device is a
//! persistent one, and the live tables have no owner, since a shell that ends would take them along.

use super::Mark;
use super::guard::{self, Guard};
use super::host::Host;
use super::plan::{Failure, Plan};
use super::steer::{self, FAMILIES, LAST_METRIC};

/// The commands that give this host the plan, in order. A line may hold a whole nft script as a here-document.
#[must_use]
pub fn commands(plan: &Plan, host: &Host, mark: Mark) -> Vec<String> {
    let device = &plan.device;
    let mut lines = vec![format!("ip tuntap add dev {device} mode tun vnet_hdr")];
    if host.ipv6 {
        // With slashes, since a link's name may hold dots.
        lines.push(format!("sysctl -w net/ipv6/conf/{device}/disable_ipv6=0"));
    }
    lines.push(format!("ip link set {device} mtu {} txqueuelen {} up", host.uplink_mtu(device), super::setup::TX_QUEUE_LEN));
    for net in host.fitting(&plan.addresses, device) {
        let nodad = if net.addr().is_ipv6() { " nodad" } else { "" };
        lines.push(format!("ip addr add {net} dev {device}{nodad}"));
    }
    lines.extend(table(plan, host));
    let guard = Guard { plan, host, mark };
    lines.push(here_document(&guard.live(false)));
    if !plan.dns.stubs.is_empty() {
        lines.push(here_document(&guard::stubs(plan, mark, plan.dns.port, false)));
    }
    lines.push(here_document(&guard.plain().replace("\tflags owner\n", "")));
    if host.strict {
        lines.push("sysctl -w net.ipv4.conf.all.src_valid_mark=1".to_owned());
    }
    let rules = steer::rules(plan, host, mark).into_iter().filter(|rule| host.ipv6 || rule.family == steer::Family::Ipv4);
    lines.extend(rules.map(|rule| format!("ip {} rule add {}", rule.family.option(), rule.words())));
    lines
}

fn table(plan: &Plan, host: &Host) -> Vec<String> {
    let Plan { device, table, failure, .. } = plan;
    let mut lines = Vec::new();
    for family in FAMILIES.into_iter().filter(|family| host.ipv6 || *family == steer::Family::Ipv4) {
        let option = family.option();
        lines.push(format!("ip {option} route add default dev {device} table {table} protocol kernel"));
        match failure {
            Failure::Closed => lines
                .push(format!("ip {option} route add unreachable default metric {LAST_METRIC} table {table} protocol kernel")),
            Failure::Open => {}
        }
    }
    lines
}

fn here_document(script: &str) -> String {
    format!("nft -f - <<'END'\n{script}END")
}
