//! What looks like a mistake although it is no fault.
//!
//! Keeps one rule: a lint is only told, it never changes what a set means.

use std::sync::Arc;

use super::entity::Entity;
use super::fault::Fault;
use super::labels::Labels;
use super::policy::Policy;
use super::rule::Rule;
use super::scope::Scope;
use super::settings::{Flag, Mode, Profile};
use super::source::{Held, Layer, Source};
use super::transport::Transport;
use crate::names::Pattern;
use crate::process::HomePath;

/// Comparing each rule with each before it grows with the square; no person reads lints of longer lists.
const MAX_COMPARED: usize = 2000;

/// All lints of a set, in the order of its profiles.
#[must_use]
pub fn lints(policy: &Policy) -> Vec<Fault> {
    let mut found = Vec::new();
    let profiles: Vec<&Arc<Profile>> = policy.profiles().collect();
    for (index, profile) in profiles.iter().enumerate() {
        matching(profile, &mut found);
        flags(profile, &mut found);
        for list in [&profile.endpoints, &profile.service_endpoints] {
            for rule in list.rules() {
                never(rule, policy, &mut found);
            }
            shadowed(list.rules(), &mut found);
        }
        labels(profile, &policy.world().labels, &mut found);
        for other in profiles.iter().take(index) {
            ties(profile, other, &mut found);
        }
    }
    found
}

fn at(source: &Source, what: impl Into<String>, hint: &str) -> Fault {
    Fault { line: source.line, ..Fault::of_file(&source.file, what, hint) }
}

fn of_profile(profile: &Profile, what: impl Into<String>, hint: &str) -> Fault {
    Fault { line: profile.line, column: profile.column, ..Fault::of_file(&profile.file, what, hint) }
}

/// `[match]` entries that fit nothing.
fn matching(profile: &Profile, found: &mut Vec<Fault>) {
    if matches!(profile.layer, Layer::Global | Layer::Fallback) {
        return;
    }
    let own = &profile.matching;
    let has_path = !own.paths.is_empty() || !own.prefixes.is_empty();
    if !has_path && own.tags.is_empty() {
        found.push(of_profile(profile, "the profile fits no program", "write [match] with path, prefix or tag"));
    } else if !has_path && !own.cmdlines.is_empty() {
        found.push(of_profile(
            profile,
            "`cmdline` has no effect without a path or prefix",
            "add path or prefix, or remove cmdline",
        ));
    }
    for path in own.paths.iter().chain(&own.prefixes) {
        if let HomePath::Plain(path) = path
            && !path.is_absolute()
        {
            let what = format!("`{}` is no full path and fits only a virtual name of that text", path.display());
            found.push(of_profile(profile, what, "write the path from the root"));
        }
    }
}

/// Settings that nothing reads.
fn flags(profile: &Profile, found: &mut Vec<Fault>) {
    let is_on = |flag: Flag| profile.flags.of(flag).as_ref().is_some_and(|held| held.value != super::level::Levels::NONE);
    let shared = matches!(profile.layer, Layer::Global | Layer::Fallback);
    if profile.layer == Layer::Stamp
        && let Some(level) = &profile.level
    {
        found.push(at(&level.source, "a Stamp profile has no say in the minimum level", "remove level"));
    }
    let prompts = profile.mode.dynamic.iter().chain(&profile.mode.secure).chain(&profile.mode.fortress);
    let modes: Vec<Mode> = prompts.map(|held| held.value).collect();
    if !shared
        && is_on(Flag::Related)
        && !modes.is_empty()
        && !modes.contains(&Mode::Prompt)
        && let Some(held) = profile.flags.of(Flag::Related)
    {
        found.push(at(&held.source, "`related` has no effect without mode prompt", "set mode = \"prompt\" or remove related"));
    }
    if is_on(Flag::Gateway)
        && is_on(Flag::Strict)
        && let Some(held) = profile.flags.of(Flag::Strict)
    {
        found.push(at(&held.source, "`strict` has no effect beside gateway", "remove one of them"));
    }
    let refuses_service = profile.flags.of(Flag::Service).as_ref().is_some_and(|held| held.value == super::level::Levels::NONE);
    if refuses_service && let Some(ports) = &profile.listen_ports {
        found.push(at(&ports.source, "`listen_ports` has no effect without the service flag", "set service = true or remove it"));
    }
}

/// Rules that can never match.
fn never(rule: &Held<Rule>, policy: &Policy, found: &mut Vec<Fault>) {
    let world = policy.world();
    let lint = match &rule.value.entity {
        Entity::Ip(address) if Scope::of(*address).is_none() => {
            Some(("the address is invalid, so the rule never matches", "remove it"))
        }
        Entity::Group(group) if !world.groups.contains_key(group) => Some((
            "no such group is configured, so the rule denies whatever its verdict",
            "define it under [groups] of the configuration",
        )),
        Entity::Labels(names) if names.iter().any(|name| !world.labels.knows(name)) => {
            Some(("no file of labels/ defines this label, so it never matches", "add labels/NAME.toml"))
        }
        Entity::Domain(Pattern::Exact(name)) if looks_like_code(name.as_str()) => Some((
            "this is a domain; countries, continents and AS are written in capitals",
            "write AT, C:EU or AS15169, or .at for a zone",
        )),
        Entity::As(_) if world.geo.asn([193, 0, 6, 139].into()).is_none() => {
            Some(("there are no data of AS numbers, so the rule denies whatever its verdict", "name a database under [geo]"))
        }
        _ => None,
    };
    found.extend(lint.map(|(what, hint)| at(&rule.source, format!("`{}`: {what}", rule.source.text), hint)));
}

fn looks_like_code(name: &str) -> bool {
    let digits = |rest: &str| !rest.is_empty() && rest.bytes().all(|b| b.is_ascii_digit());
    name.len() == 2 || name.strip_prefix("as").is_some_and(digits)
}

/// Rules that an earlier rule of the same list leaves nothing to.
fn shadowed(rules: &[Held<Rule>], found: &mut Vec<Fault>) {
    for (index, later) in rules.iter().enumerate().take(MAX_COMPARED) {
        let earlier = rules.iter().take(index).find(|earlier| covers(&earlier.value, &later.value));
        if let Some(earlier) = earlier {
            let (rule, by, line) = (&later.source.text, &earlier.source.text, earlier.source.line);
            let what = format!("`{rule}` never matches: `{by}` in line {line} matches first");
            found.push(at(&later.source, what, "remove it or move it up"));
        }
    }
}

fn covers(earlier: &Rule, later: &Rule) -> bool {
    covers_transport(earlier.transport.as_ref(), later.transport.as_ref()) && covers_entity(&earlier.entity, &later.entity)
}

fn covers_transport(earlier: Option<&Transport>, later: Option<&Transport>) -> bool {
    let (earlier, later) = match (earlier, later) {
        (None, _) => return true,
        (Some(_), None) => return false,
        (Some(earlier), Some(later)) => (earlier, later),
    };
    let protocol = earlier.protocol.is_none() || earlier.protocol == later.protocol;
    let ports = match (&earlier.ports, &later.ports) {
        (None, _) => true,
        (Some(_), None) => false,
        (Some(earlier), Some(later)) => earlier.start() <= later.start() && earlier.end() >= later.end(),
    };
    protocol && ports
}

fn covers_entity(earlier: &Entity, later: &Entity) -> bool {
    match (earlier, later) {
        (Entity::Any, _) => true,
        (Entity::Net(net), Entity::Ip(address)) => net.contains(address),
        (Entity::Net(net), Entity::Net(other)) => net.contains(other),
        (Entity::Scopes(scopes), Entity::Ip(address)) => Scope::of(*address).is_some_and(|scope| scopes.contains(&scope)),
        (Entity::Scopes(scopes), Entity::Scopes(others)) => others.iter().all(|scope| scopes.contains(scope)),
        (Entity::Scopes(scopes), Entity::Country(_) | Entity::Continent(_) | Entity::As(_)) => scopes.contains(&Scope::Internet),
        (Entity::Labels(labels), Entity::Labels(others)) => others.iter().all(|label| labels.contains(label)),
        (Entity::Domain(pattern), Entity::Domain(other)) => covers_pattern(pattern, other),
        (earlier, later) => earlier == later,
    }
}

fn covers_pattern(earlier: &Pattern, later: &Pattern) -> bool {
    match (earlier, later) {
        (Pattern::Zone(zone), Pattern::Below(other)) => zone == other || earlier.matches(other),
        (Pattern::Below(zone), Pattern::Below(other)) => zone == other || earlier.matches(other),
        (_, Pattern::Exact(name)) => earlier.matches(name),
        (Pattern::Zone(_) | Pattern::Below(_), Pattern::Zone(other)) => earlier.matches(other),
        (Pattern::Suffix(end), Pattern::Zone(other) | Pattern::Below(other)) => other.as_str().ends_with(&**end),
        (Pattern::Suffix(end), Pattern::Suffix(other)) => other.ends_with(&**end),
        (Pattern::Prefix(start), Pattern::Prefix(other)) => other.starts_with(&**start),
        (Pattern::Contains(part), Pattern::Contains(other) | Pattern::Suffix(other) | Pattern::Prefix(other)) => {
            other.contains(&**part)
        }
        (earlier, later) => earlier == later,
    }
}

/// Labels that no file defines.
fn labels(profile: &Profile, labels: &Labels, found: &mut Vec<Fault>) {
    let Some(blocked) = &profile.blocked_labels else { return };
    for label in blocked.value.iter().filter(|label| !labels.knows(label)) {
        found.push(at(
            &blocked.source,
            format!("no file of labels/ defines `{label}`"),
            "add labels/NAME.toml or remove the label",
        ));
    }
}

/// Two profiles of one layer that fit the same program equally well.
fn ties(profile: &Profile, other: &Profile, found: &mut Vec<Fault>) {
    if profile.layer != other.layer || matches!(profile.layer, Layer::Global | Layer::Fallback) {
        return;
    }
    let (own, their) = (&profile.matching, &other.matching);
    let paths = own.paths.iter().find(|path| their.paths.contains(path)).map(show);
    let prefixes = own.prefixes.iter().find(|prefix| their.prefixes.contains(prefix)).map(show);
    let tags = own.tags.iter().find(|tag| their.tags.contains(tag)).map(|tag| tag.0.clone());
    if let Some(shared) = paths.or(tags).or(prefixes) {
        let what = format!("`{}` and `{}` tie for `{shared}`: both count, the stricter setting holds", profile.name, other.name);
        found.push(of_profile(profile, what, "make one of them more specific"));
    }
}

fn show(path: &HomePath) -> String {
    match path {
        HomePath::Plain(path) => path.display().to_string(),
        HomePath::Home(path) => format!("~/{}", path.display()),
    }
}

#[cfg(test)]
mod tests {
    use super::super::policy::{File, Kind, Setup};
    use super::*;

    fn lint(files: &[(&str, &str)]) -> Vec<String> {
        let file = |(path, text): &(&str, &str)| {
            let layer = if path.starts_with("stamp") { Layer::Stamp } else { Layer::User };
            File { kind: Kind::Profile(layer), path: path.into(), text: (*text).to_owned() }
        };
        let files: Vec<File> = files.iter().map(file).collect();
        lints(&Policy::compile(&files, Setup::default()).expect("a valid set")).iter().map(ToString::to_string).collect()
    }

    fn lint_rules(rules: &str) -> Vec<String> {
        lint(&[("user/x.toml", &format!("name = \"x\"\nendpoints = [{rules}]\n[match]\npath = [\"/x\"]\n"))])
    }

    #[test]
    fn shadowed_rules_are_told_with_the_rule_before() {
        for (rules, count) in [
            (r#""- *", "+ LAN""#, 1),
            (r#""+ LAN TCP/22", "+ LAN""#, 0),
            (r#""+ .example.com", "- www.example.com TCP/80", "- example.com""#, 2),
            (r#""+ *.example.com", "- .example.com", "- example.com""#, 1),
            (r#""- 10.0.0.0/8", "+ 10.1.0.0/16", "+ 10.1.1.1", "+ 11.0.0.0/8""#, 2),
            (r#""- * TCP/80-90", "+ * TCP/85", "+ * UDP/85", "+ * */85""#, 1),
            (r#""+ Internet", "- AT", "- 192.0.2.1", "- 10.0.0.1""#, 2),
            (r#""- *ads*", "+ *myads.example", "+ ads*", "+ *ad*""#, 2),
        ] {
            let lints: Vec<String> = lint_rules(rules).into_iter().filter(|lint| lint.contains("matches first")).collect();
            assert_eq!(lints.len(), count, "{rules}: {lints:?}");
        }
    }

    #[test]
    fn rules_that_can_never_match_are_told() {
        for rule in ["+ 0.0.0.1", "- ::17", "+ @nobody", "- L:tracker", "+ de", "- as15169", "+ AS15169"] {
            assert_eq!(lint_rules(&format!("\"{rule}\"")).len(), 1, "{rule}");
        }
        assert!(lint_rules(r#""+ AT", "- C:EU", "+ .de", "? LAN""#).is_empty());
    }

    #[test]
    fn profiles_that_fit_nothing_or_tie_are_told() {
        assert_eq!(lint(&[("user/x.toml", "name = \"x\"")]).len(), 1);
        assert_eq!(lint(&[("user/x.toml", "name = \"x\"\n[match]\ncmdline = [\"x\"]\ntag = [\"unit:x\"]")]).len(), 1);
        assert_eq!(lint(&[("user/x.toml", "name = \"x\"\n[match]\npath = [\"curl\"]")]).len(), 1);
        let tie = |other: &str| {
            lint(&[
                ("user/x.toml", "name = \"x\"\n[match]\npath = [\"/x\", \"/y\"]\nprefix = [\"/opt\"]"),
                ("user/y.toml", &format!("name = \"y\"\n[match]\n{other}")),
            ])
        };
        assert_eq!(tie("path = [\"/y\"]").len(), 1);
        assert_eq!(tie("prefix = [\"/opt/\"]").len(), 1);
        assert_eq!(tie("path = [\"/z\"]"), Vec::<String>::new());
    }

    #[test]
    fn settings_without_effect_are_told() {
        for (layer, settings) in [
            ("stamp", "level = \"secure\"\n[match]\npath = [\"/x\"]"),
            ("user", "mode = \"blacklist\"\n[match]\npath = [\"/x\"]\n[flags]\nrelated = true"),
            ("user", "[match]\npath = [\"/x\"]\n[flags]\nstrict = true\ngateway = true"),
            ("user", "listen_ports = [\"TCP/22\"]\n[match]\npath = [\"/x\"]\n[flags]\nservice = false"),
            ("user", "[match]\npath = [\"/x\"]\n[labels]\nblock = [\"tracker\"]"),
        ] {
            let lints = lint(&[(&format!("{layer}/x.toml"), &format!("name = \"x\"\n{settings}"))]);
            assert_eq!(lints.len(), 1, "{settings}: {lints:?}");
        }
    }
}
