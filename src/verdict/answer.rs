//! Which addresses an answer may hold.
//!
//! Keeps one rule: what the program could not reach it is not told.

use std::net::IpAddr;

use super::outcome::{NO_DATA, search_layers};
use super::{Check, Reason};
use crate::names::Name;
use crate::profile::{Flag, Found, Level, Peer, Policy, RuleVerdict, Scope, Subject, embedded};

/// The name under which `exec` shows the host's own loopback services.
pub const HOST_LOOPBACK_NAME: &str = "host.portreeve.internal";

/// Names that no public registry hands out (RFC 6761, RFC 6762, RFC 8375, and ICANN's reservation of `internal`), so that a
/// private address is what one expects there.
const PRIVATE_ZONES: [&str; 13] = [
    "local",
    "localhost",
    "internal",
    "home.arpa",
    "in-addr.arpa",
    "ip6.arpa",
    "lan",
    "home",
    "corp",
    "private",
    "intranet",
    "test",
    "example",
];

/// Whether the answer to a question of `subject` for `name` may hold `address`: rebinding, scopes and addresses that the program
/// may not use are filtered out.
///
/// # Errors
///
/// The reason why the address must not be told.
pub fn answer_allowed(policy: &Policy, subject: &Subject, level: Level, name: &Name, address: IpAddr) -> Result<(), Reason> {
    let address = embedded(address);
    let view = subject.view(subject.level(level));
    let scope = Scope::of(address);
    let (flag, unset) = match scope {
        None => return Err(Reason::because(Check::Scope, "the address is invalid")),
        Some(Scope::Localhost) => (Flag::Localhost, "localhost is set by no layer"),
        Some(Scope::Lan) if is_host_loopback(name) => (Flag::Localhost, "localhost is set by no layer"),
        Some(Scope::Lan) => (Flag::Lan, "lan is set by no layer"),
        Some(Scope::Internet) => (Flag::Internet, "internet is set by no layer"),
    };
    if scope != Some(Scope::Internet) && is_public(name) && !policy.world().is_private(name) {
        return Err(Reason::because(
            Check::Scope,
            "a private address for a public name (rebinding); private in [dns] of portreeve.toml excepts zones",
        ));
    }
    let switch = view.flags.of(flag);
    if !switch.on {
        let source = switch.source.as_ref();
        return Err(source.map_or_else(|| Reason::because(Check::Scope, unset), |source| Reason::at(Check::Scope, source)));
    }
    denied_by_rule(policy, subject, level, name, address).map_or(Ok(()), Err)
}

/// The rule that denies this address under this name whatever protocol and port.
fn denied_by_rule(policy: &Policy, subject: &Subject, level: Level, name: &Name, address: IpAddr) -> Option<Reason> {
    let view = subject.view(subject.level(level));
    let peer = Peer { name: Some(name), chain: &[], address: Some(address), scope: Scope::of(address), transport: None };
    match search_layers(subject, view, |profile| &profile.endpoints, &peer, policy.world()).found {
        Found::Nothing => None,
        Found::NoData(rule) => Some(Reason { note: Some(NO_DATA), ..Reason::at(Check::Endpoints, &rule.source) }),
        Found::Rule(rule) => match rule.value.verdict {
            RuleVerdict::Deny => Some(Reason::at(Check::Endpoints, &rule.source)),
            RuleVerdict::Permit | RuleVerdict::Ask => None,
        },
    }
}

fn is_host_loopback(name: &Name) -> bool {
    name.as_str() == HOST_LOOPBACK_NAME
}

/// Whether anyone on the Internet could own the name.
fn is_public(name: &Name) -> bool {
    let text = name.as_str();
    let is_private =
        PRIVATE_ZONES.iter().any(|zone| text.strip_suffix(zone).is_some_and(|rest| rest.is_empty() || rest.ends_with('.')));
    !is_private && psl::suffix(text.as_bytes()).is_some_and(|suffix| suffix.is_known())
}
