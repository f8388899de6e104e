//! The plan as commands that a person or a script can run: `ip`, `nft`, `sysctl`.
//!
//! Keeps one rule: made from the same texts as `up` itself, so what is shown is what is done. Two differences: the device is a
//! persistent one, and the live tables have no owner, since a shell that ends would take them along.

use super::Mark;
use super::bare::BareLinks;
use super::front::{FRONT, MEANWHILE};
use super::guard::{self, Guard};
use super::host::Host;
use super::plan::{Failure, Plan};
use super::rule::{FAMILIES, Family, LOCAL, Rule, Selector};
use super::setup::{TX_QUEUE_LEN, settings_of, settings_of_host};
use super::steer::{self, ELSEWHERE_METRIC, LAST_METRIC};
use super::ways::EVERYWHERE;

/// The commands that give this host the plan, in order. A line may hold a whole nft script as a here-document.
#[must_use]
pub fn commands(plan: &Plan, host: &Host, mark: Mark) -> Vec<String> {
    let device = &plan.device;
    let mut lines = vec![format!("ip tuntap add dev {device} mode tun vnet_hdr")];
    // With slashes, since a link's name may hold dots.
    lines.extend(settings_of(device, host.ipv6).iter().map(|(path, value)| format!("sysctl -w net/{path}={value}")));
    lines.push(format!("ip link set {device} mtu {} txqueuelen {} multicast off up", host.uplink_mtu(device), TX_QUEUE_LEN));
    for net in host.fitting(&plan.addresses, device) {
        let nodad = if net.addr().is_ipv6() { " nodad" } else { "" };
        lines.push(format!("ip addr add {net} dev {device}{nodad}"));
    }
    lines.extend(table(plan, host));
    let bare = BareLinks::default();
    let guard = Guard { plan, host, mark, bare: &bare };
    bare.follow(guard.guarded_links());
    lines.push(here_document(&guard.live(false)));
    if !plan.dns.stubs.is_empty() {
        lines.push(here_document(&guard::stubs(plan, mark, plan.dns.port, false)));
    }
    lines.push(here_document(&guard.plain().replace("\tflags owner\n", "")));
    lines.extend(settings_of_host(host).map(|(path, value)| format!("sysctl -w net/{path}={value}")));
    let rules = steer::rules(plan, host, mark).into_iter().filter(|rule| host.ipv6 || rule.family == Family::Ipv4);
    let (front, others): (Vec<Rule>, Vec<Rule>) = rules.partition(|rule| rule.priority == FRONT);
    lines.extend(before_local(&front));
    lines.extend(others.iter().map(|rule| command("add", rule)));
    lines
}

/// As [`super::front`] does it.
fn before_local(rules: &[Rule]) -> Vec<String> {
    if rules.is_empty() {
        return Vec::new();
    }
    let local = |priority| Rule { family: Family::Ipv6, priority, selector: Selector::default(), table: LOCAL };
    let [first, meanwhile] = [FRONT, MEANWHILE].map(local);
    let mut lines = vec![command("add", &meanwhile), command("del", &first)];
    lines.extend(rules.iter().map(|rule| command("add", rule)));
    lines.extend([command("add", &first), command("del", &meanwhile)]);
    lines
}

fn command(verb: &str, rule: &Rule) -> String {
    format!("ip {} rule {verb} {}", rule.family.option(), rule.words())
}

fn table(plan: &Plan, host: &Host) -> Vec<String> {
    let Plan { device, table, failure, .. } = plan;
    let mut lines = Vec::new();
    let mut add =
        |option: &str, route: String| lines.push(format!("ip {option} route add {route} table {table} protocol kernel"));
    for family in FAMILIES.into_iter().filter(|family| host.ipv6 || *family == Family::Ipv4) {
        let option = family.option();
        match family {
            Family::Ipv4 => add(option, format!("default dev {device} scope global")),
            Family::Ipv6 => {
                let reach = steer::reach(host, device);
                reach.iter().for_each(|net| add(option, format!("{net} dev {device}")));
                if !reach.contains(&EVERYWHERE) {
                    add(option, format!("throw default metric {ELSEWHERE_METRIC}"));
                }
            }
        }
        match failure {
            Failure::Closed => add(option, format!("unreachable default metric {LAST_METRIC}")),
            Failure::Open => {}
        }
    }
    lines.extend(host.ipv6.then(|| format!("ip -6 route flush exact {} dev {device} table local", steer::GROUPS_6)));
    lines
}

fn here_document(script: &str) -> String {
    format!("nft -f - <<'END'\n{script}END")
}
