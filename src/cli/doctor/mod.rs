//! `portreeve doctor`: what this machine lacks, and the remedy for each.
//!
//! Keeps one rule: it looks and changes nothing. It needs no running Portreeve.

mod checks;

use std::fs;
use std::path::{Path, PathBuf};

use serde::Serialize;

use super::{Exit, Json, out};
use crate::bpf::ClosedSockets;
use crate::config::Config;
use crate::config::paths::Places;
use crate::netlink::Conntrack;

/// What one check found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct Finding {
    check: &'static str,
    state: Health,
    found: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    remedy: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Health {
    Good,
    /// Worth knowing; nothing fails for it.
    Note,
    /// `exec` or `up` fails without it.
    Missing,
}

impl Finding {
    fn good(check: &'static str, found: impl Into<String>) -> Self {
        Self { check, state: Health::Good, found: found.into(), remedy: None }
    }

    fn note(check: &'static str, found: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { check, state: Health::Note, found: found.into(), remedy: Some(remedy.into()) }
    }

    fn missing(check: &'static str, found: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { check, state: Health::Missing, found: found.into(), remedy: Some(remedy.into()) }
    }
}

pub(super) fn run(Json { json }: Json) -> Exit {
    let findings = findings(&Places::of_this_process());
    let exit = if findings.iter().any(|finding| finding.state == Health::Missing) { Exit::Failed } else { Exit::Done };
    if json { out::print_json(&findings, exit) } else { out::print(&screen(&findings), exit) }
}

fn findings(places: &Places) -> Vec<Finding> {
    let is_root = places.uid == 0;
    vec![
        checks::kernel(&rustix::system::uname().release().to_string_lossy()),
        checks::tun_node(Path::new("/dev/net/tun")),
        checks::user_namespaces(is_root, &|name| sysctl(name)),
        checks::network_namespaces(&|name| sysctl(name)),
        checks::privilege(&fs::read_to_string("/proc/self/status").unwrap_or_default()),
        checks::closed_sockets(ClosedSockets::probe()),
        checks::program("nft", &search_path(), "`up` cannot guard without it: install the package nftables"),
        checks::ipv6(&|name| sysctl(name)),
        checks::conntrack(Conntrack::read()),
        checks::descriptors(rustix::process::getrlimit(rustix::process::Resource::Nofile)),
        configuration(places),
    ]
}

/// A value below /proc/sys; None when this kernel does not have it.
fn sysctl(name: &str) -> Option<String> {
    fs::read_to_string(Path::new("/proc/sys").join(name)).ok().map(|text| text.trim().to_owned())
}

/// PATH, and the folders that an ordinary user's PATH lacks.
fn search_path() -> Vec<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).chain(["/usr/sbin", "/sbin"].map(PathBuf::from)).collect()
}

fn configuration(places: &Places) -> Finding {
    let file = places.config_file();
    match Config::load(places) {
        Ok(_) if file.exists() => Finding::good("configuration", format!("{} is legal", file.display())),
        Ok(_) => Finding::good("configuration", format!("{} is not there: defaults hold", file.display())),
        Err(error) => Finding::missing("configuration", error.to_string(), "mend the file; until then nothing starts"),
    }
}

fn screen(findings: &[Finding]) -> String {
    let width = findings.iter().map(|finding| finding.check.len()).max().unwrap_or(0);
    let mut text = String::new();
    for Finding { check, state, found, remedy } in findings {
        let mark = match state {
            Health::Good => "ok  ",
            Health::Note => "note",
            Health::Missing => "MISS",
        };
        text.push_str(&format!("{mark}  {check:width$}  {found}\n"));
        if let Some(remedy) = remedy {
            text.push_str(&format!("      {:width$}  -> {remedy}\n", ""));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_finding_that_is_not_good_names_a_remedy() {
        for finding in findings(&Places::default()) {
            assert_eq!(finding.state == Health::Good, finding.remedy.is_none(), "{finding:?}");
            assert!(!finding.found.is_empty());
        }
    }

    #[test]
    fn a_faulty_configuration_is_found_with_its_place() {
        let dir = tempfile::tempdir().expect("a temporary folder can be made");
        let file = dir.path().join("p.toml");
        fs::write(&file, "\nlevle = 1\n").expect("the folder is ours");
        let finding = configuration(&Places { config_override: Some(file), ..Places::default() });
        assert_eq!(finding.state, Health::Missing);
        assert!(finding.found.contains("p.toml:2:1: unknown key `levle`; did you mean `level`?"), "{}", finding.found);
    }

    #[test]
    fn the_screen_puts_each_remedy_below_its_finding() {
        let text = screen(&[Finding::good("a", "fine"), Finding::missing("longer", "gone", "bring it back")]);
        assert_eq!(text, "ok    a       fine\nMISS  longer  gone\n              -> bring it back\n");
    }
}
