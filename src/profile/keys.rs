//! Every key of a profile with its help text: the one place that the command line, the page and the manual read.

/// One key of a profile file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Key {
    /// The table that holds it; empty for the top.
    pub table: &'static str,
    pub name: &'static str,
    pub help: &'static str,
}

const fn key(table: &'static str, name: &'static str, help: &'static str) -> Key {
    Key { table, name, help }
}

/// All keys in the order of the documentation.
pub const KEYS: &[Key] = &[
    key("", "name", "The profile's id, unique in its layer."),
    key("", "level", "Minimum security level for this program: dynamic, secure or fortress."),
    key("", "mode", "What happens to flows that no rule speaks of: whitelist, prompt or blacklist; or one word per level."),
    key("", "endpoints", "Rules for outbound flows; the first that matches decides."),
    key("", "service_endpoints", "Rules for inbound flows; the first that matches decides."),
    key("", "domain_whitelist", "Only these domains may be reached; empty means no restriction."),
    key("", "connect_ports", "Only these remote ports may be reached, such as TCP/443; empty means no restriction."),
    key("", "listen_ports", "Only these local ports may be served; empty means no restriction. Needs the service flag."),
    key("", "match", "Which programs this profile is for."),
    key("", "scope", "Which parts of the world may be reached."),
    key("", "flags", "Switches for basic behaviour."),
    key("", "labels", "Labels that are refused."),
    key("", "framework", "Finds the real actor behind a program."),
    key("", "expect", "Cases with their verdict, run by `portreeve check`."),
    key("match", "path", "Full paths of programs; `~/` stands for every user's home."),
    key("match", "prefix", "Folders; the longest that fits counts."),
    key("match", "cmdline", "Regular expressions over the command line; they only narrow a path or prefix."),
    key("match", "tag", "Tags such as flatpak:org.example.App or unit:ssh.service."),
    key("scope", "internet", "The program may reach the Internet."),
    key("scope", "lan", "The program may reach the local network."),
    key("scope", "localhost", "The program may reach this host."),
    key("flags", "related", "In prompt mode, domains that are related to the program are accepted without asking."),
    key("flags", "strict", "Only domains that are related to the program may be reached."),
    key("flags", "gateway", "The destinations are the user's choice: lifts strict, and peer_to_peer for literal addresses."),
    key("flags", "peer_to_peer", "The program may reach addresses that it did not learn from DNS."),
    key("flags", "service", "The program may accept inbound flows."),
    key("flags", "independent", "Stamp profiles do not count."),
    key("flags", "require_gate17", "Flows leave by the gate or not at all."),
    key("flags", "run_as", "Who may run the program: system, admin or user."),
    key("labels", "block", "Names and addresses with these labels are refused."),
    key("framework", "find", "Regular expression over the whole command line."),
    key("framework", "build", "Path built from the groups of `find`; alternatives are separated by |."),
    key("framework", "virtual", "The built path need not exist."),
    key("framework", "parent_level", "Look at the parent (1), the grandparent (2), … instead."),
    key("framework", "merge_with_parent", "Show the flows under that parent."),
    key("expect", "to", "HOST or address, with :PORT where the protocol has ports."),
    key("expect", "verdict", "accept, block, drop or ask."),
    key("expect", "check", "The check that must conclude."),
    key("expect", "proto", "The protocol; TCP if not given."),
    key("expect", "name", "The name that the program learned the address by."),
    key("expect", "level", "The system's level; dynamic if not given."),
    key("expect", "inbound", "The flow is opened from outside; the port is the local one."),
    key("expect", "question", "A DNS question instead of a flow."),
    key("expect", "uid", "The user who runs the program."),
    key("expect", "exe", "The program, where the profile does not name one."),
    key("expect", "cmdline", "The command line of the program."),
];

/// The names of the keys of one table.
#[must_use]
pub(super) fn names(table: &str) -> Vec<&'static str> {
    KEYS.iter().filter(|key| key.table == table).map(|key| key.name).collect()
}
