//! The routing plan: what `routes/*.toml` says → what `up` installs.
//!
//! Keeps one rule: a [`Plan`] exists only after every key of its file was understood. Does not look at the host.

use std::fmt;
use std::net::IpAddr;
use std::path::Path;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use toml::Spanned;

use super::Mark;
use super::front::MEANWHILE;
use super::steer::BEFORE;

/// The plan that `up` uses when none is given.
pub const DEFAULT: &str = include_str!("../../routes/default.toml");

/// The table numbers that the kernel keeps for itself: unspec, default, main, local.
const KERNEL_TABLES: [u32; 4] = [0, 253, 254, 255];

/// Rules from here on belong to the kernel (`main` and `default`); ours must come before.
pub(super) const KERNEL_PRIORITY: u32 = 32766;

/// Rules before the plan's own need room, behind what [`super::front`] needs.
pub(super) const LEAST_PRIORITY: u32 = BEFORE + MEANWHILE + 1;

/// What a file says, as typed.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawPlan {
    device: Spanned<String>,
    addresses: Vec<Spanned<String>>,
    table: Spanned<i64>,
    priority: Spanned<i64>,
    mark: Option<Spanned<i64>>,
    #[serde(default)]
    failure: Failure,
    #[serde(default)]
    exclude: RawExclude,
    #[serde(default)]
    dns: RawDns,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct RawExclude {
    networks: Vec<Spanned<String>>,
    interfaces: Vec<Spanned<String>>,
    users: Vec<Spanned<i64>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct RawDns {
    stubs: Vec<Spanned<String>>,
    port: Option<Spanned<i64>>,
}

/// What remains when the router was killed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Failure {
    /// Everything is refused until `up`, `cleanup` or reboot.
    #[default]
    Closed,
    /// Everything passes as if we had never been there.
    Open,
}

/// A routing plan whose every key was understood.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    pub device: String,
    pub addresses: Vec<IpNet>,
    pub table: u32,
    pub priority: u32,
    /// `None`: random at each `up`.
    pub mark: Option<Mark>,
    pub failure: Failure,
    pub exclude: Exclude,
    pub dns: Dns,
    /// The kernel alone carries accepted connections on; not of the file, but of the configuration.
    pub express: bool,
}

/// What passes unjudged.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Exclude {
    pub networks: Vec<IpNet>,
    pub interfaces: Vec<String>,
    pub users: Vec<u32>,
}

/// Which loopback resolvers end in ours.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Dns {
    /// Loopback addresses whose port 53 is redirected.
    pub stubs: Vec<IpAddr>,
    /// The port on 127.0.0.1 and ::1 where our resolver listens for them.
    pub port: u16,
}

/// The first fault of a plan: `FILE:LINE:COL: what is wrong; what would be right`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct PlanFault {
    pub file: String,
    pub line: usize,
    pub column: usize,
    pub what: String,
}

impl fmt::Display for PlanFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { file, line, column, what } = self;
        write!(f, "{file}:{line}:{column}: {what}")
    }
}

impl Plan {
    /// Reads a plan file.
    ///
    /// # Errors
    ///
    /// The file cannot be read, or its first fault.
    pub fn load(path: &Path) -> Result<Self, PlanFault> {
        let file = path.display().to_string();
        match std::fs::read_to_string(path) {
            Ok(text) => Self::parse(&text, &file),
            Err(error) => Err(PlanFault { file, line: 1, column: 1, what: format!("the plan cannot be read: {error}") }),
        }
    }

    /// Reads a plan from `text`; `file` is named in the fault.
    ///
    /// # Errors
    ///
    /// The first fault.
    pub fn parse(text: &str, file: &str) -> Result<Self, PlanFault> {
        let fault = |(at, what): (usize, String)| {
            let (line, column) = position(text, at);
            PlanFault { file: file.to_owned(), line, column, what }
        };
        let raw: RawPlan = toml::from_str(text).map_err(|error| {
            let at = error.span().map_or(0, |span| span.start);
            fault((at, format!("{}; routes/default.toml shows every key", error.message())))
        })?;
        Self::check(raw).map_err(fault)
    }

    fn check(raw: RawPlan) -> Result<Self, (usize, String)> {
        let RawPlan { device, addresses, table, priority, mark, failure, exclude, dns } = raw;
        Ok(Self {
            device: link_name(device)?,
            addresses: own_addresses(addresses)?,
            table: number(&table, "a table number from 1 to 4294967295 except 253 to 255", |n| !KERNEL_TABLES.contains(&n))?,
            priority: number(&priority, "a rule priority from 5 to 32765", |n| (LEAST_PRIORITY..KERNEL_PRIORITY).contains(&n))?,
            mark: mark.map(|mark| Mark::new(*mark.get_ref()).map_err(|e| at(&mark, e.to_string()))).transpose()?,
            failure,
            exclude: Exclude {
                networks: all(exclude.networks, |n| parsed(n, "a network such as 192.0.2.0/24 or 2001:db8::/32"))?,
                interfaces: all(exclude.interfaces, link_name)?,
                users: all(exclude.users, |uid| number(&uid, "a user id", |uid| uid != u32::MAX))?,
            },
            dns: Dns { port: port(dns.port.as_ref(), &dns.stubs)?, stubs: all(dns.stubs, stub)? },
            express: false,
        })
    }
}

impl Default for Plan {
    /// The embedded `routes/default.toml`.
    fn default() -> Self {
        Self::parse(DEFAULT, "routes/default.toml").expect("a unit test parses the embedded plan")
    }
}

type Fault = (usize, String);

fn at<T>(spanned: &Spanned<T>, what: String) -> Fault {
    (spanned.span().start, what)
}

fn all<T, U>(list: Vec<T>, parse: impl Fn(T) -> Result<U, Fault>) -> Result<Vec<U>, Fault> {
    list.into_iter().map(parse).collect()
}

fn parsed<T: std::str::FromStr>(text: Spanned<String>, right: &str) -> Result<T, Fault> {
    text.get_ref().parse().map_err(|_| at(&text, format!("{:?} is not understood; write {right}", text.get_ref())))
}

fn number(value: &Spanned<i64>, right: &str, legal: impl Fn(u32) -> bool) -> Result<u32, Fault> {
    let found = u32::try_from(*value.get_ref()).ok().filter(|n| legal(*n));
    found.ok_or_else(|| at(value, format!("{} is not possible; write {right}", value.get_ref())))
}

/// Names that the kernel takes (`dev_valid_name`) and that can be written in an nft string.
fn link_name(name: Spanned<String>) -> Result<String, Fault> {
    let text = name.get_ref();
    let legal = |c: char| c.is_ascii_graphic() && !matches!(c, '/' | ':' | '"' | '*' | '\\');
    if text.is_empty()
        || text.len() > 15
        || text == "lo"
        || !text.starts_with(|c: char| c.is_ascii_alphanumeric())
        || !text.chars().all(legal)
    {
        return Err(at(&name, format!("{text:?} is no name for a link; write 1 to 15 letters, digits, '-', '_' or '.', not lo")));
    }
    Ok(name.into_inner())
}

fn own_addresses(list: Vec<Spanned<String>>) -> Result<Vec<IpNet>, Fault> {
    let addresses: Vec<IpNet> = all(list, |text| {
        let start = text.span().start;
        let net: IpNet = parsed(text, "an address with its prefix length such as 198.18.0.1/32")?;
        let usable = !net.addr().is_loopback() && !net.addr().is_multicast() && !net.addr().is_unspecified();
        if usable {
            Ok(net)
        } else {
            Err((start, format!("{net} cannot be an address of the device; write one such as 198.18.0.1/32")))
        }
    })?;
    if addresses.iter().any(|net| net.addr().is_ipv4()) {
        Ok(addresses)
    } else {
        Err((0, "the device has no IPv4 address; add one to addresses such as 198.18.0.1/32".to_owned()))
    }
}

fn stub(text: Spanned<String>) -> Result<IpAddr, Fault> {
    let start = text.span().start;
    let address: IpAddr = parsed(text, "a loopback address such as 127.0.0.53")?;
    if address.is_loopback() {
        Ok(address)
    } else {
        Err((start, format!("{address} is not on loopback; only such need a redirect")))
    }
}

fn port(port: Option<&Spanned<i64>>, stubs: &[Spanned<String>]) -> Result<u16, Fault> {
    match (port, stubs.first()) {
        (Some(port), _) => {
            let found = u16::try_from(*port.get_ref()).ok().filter(|n| *n != 0 && *n != 53);
            found.ok_or_else(|| at(port, format!("{} is no port for the resolver; write 1 to 65535 except 53", port.get_ref())))
        }
        (None, Some(stub)) => Err(at(stub, "stubs need a port to be redirected to; write port = 17053 beside them".to_owned())),
        (None, None) => Ok(17053),
    }
}

/// Line and column, counted from 1, of a byte offset.
fn position(text: &str, offset: usize) -> (usize, usize) {
    let before = text.get(..offset).unwrap_or(text);
    let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
    (before.matches('\n').count() + 1, before[line_start..].chars().count() + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINIMAL: &str = "device = \"portreeve0\"\naddresses = [\"198.18.0.1/32\"]\ntable = 17\npriority = 1700\n";

    #[test]
    fn the_embedded_plan_is_closed_and_has_an_address_of_each_family() {
        let plan = Plan::default();
        assert_eq!(plan.failure, Failure::Closed);
        assert_eq!(plan.addresses.iter().map(|net| net.addr().is_ipv4()).collect::<Vec<_>>(), [true, false]);
        assert!(plan.addresses.iter().all(|net| net.prefix_len() == net.max_prefix_len()));
        assert_eq!(plan.mark, None);
    }

    #[test]
    fn a_short_plan_is_closed_and_excludes_nothing() {
        let plan = Plan::parse(MINIMAL, "p.toml").expect("a plan");
        assert_eq!((plan.failure, plan.exclude, plan.dns.stubs.len()), (Failure::Closed, Exclude::default(), 0));
    }

    #[test]
    fn every_key_is_understood() {
        let text = format!(
            "mark = 0x2a000000\nfailure = \"open\"\n{MINIMAL}[exclude]\nnetworks = [\"192.0.2.0/24\", \"2001:db8::/32\"]\n\
             interfaces = [\"docker0\"]\nusers = [0, 1000]\n[dns]\nstubs = [\"127.0.0.53\", \"::1\"]\nport = 5300\n"
        );
        let plan = Plan::parse(&text, "p.toml").expect("a plan");
        assert_eq!(plan.mark.map(Mark::value), Some(0x2a00_0000));
        assert_eq!(plan.failure, Failure::Open);
        assert_eq!((plan.exclude.networks.len(), plan.exclude.users.as_slice()), (2, [0, 1000].as_slice()));
        assert_eq!((plan.dns.stubs.len(), plan.dns.port), (2, 5300));
    }

    #[test]
    fn a_fault_names_file_line_and_column_and_what_would_be_right() {
        let cases = [
            ("colour = 1\n", "p.toml:5:1: unknown field `colour`"),
            ("mark = 0x2a000001\n", "p.toml:5:8: 0x2a000001 is no mark; only the top byte"),
            ("mark = -1\n", "p.toml:5:8: "),
            ("failure = \"ajar\"\n", "p.toml:5:11: unknown variant `ajar`"),
            ("[exclude]\nnetworks = [\"192.0.2.0/33\"]\n", "p.toml:6:13: \"192.0.2.0/33\" is not understood; write a network"),
            ("[exclude]\ninterfaces = [\"a b\"]\n", "p.toml:6:15: \"a b\" is no name"),
            ("[exclude]\ninterfaces = [\"lo\"]\n", "p.toml:6:15: \"lo\" is no name"),
            ("[exclude]\nusers = [-1]\n", "p.toml:6:10: -1 is not possible; write a user id"),
            ("[dns]\nstubs = [\"192.0.2.53\"]\nport = 5300\n", "p.toml:6:10: 192.0.2.53 is not on loopback"),
            ("[dns]\nstubs = [\"127.0.0.53\"]\n", "p.toml:6:10: stubs need a port"),
            ("[dns]\nport = 53\n", "p.toml:6:8: 53 is no port"),
            ("table = 18\n", "p.toml:5:1: duplicate key"),
        ];
        for (extra, expected) in cases {
            let fault = Plan::parse(&format!("{MINIMAL}{extra}"), "p.toml").expect_err(extra).to_string();
            assert!(fault.starts_with(expected), "{fault}");
        }
    }

    #[test]
    fn values_that_the_kernel_keeps_are_refused() {
        for (from, to) in [
            ("table = 17", "table = 254"),
            ("table = 17", "table = 0"),
            ("priority = 1700", "priority = 32766"),
            ("priority = 1700", "priority = 4"),
            ("\"portreeve0\"", "\"lo\""),
            ("\"portreeve0\"", "\"a-name-that-is-too-long\""),
            ("\"portreeve0\"", "\"quote\\\"\""),
            ("198.18.0.1/32", "127.0.0.1/8"),
            ("198.18.0.1/32", "2001:2::1/128"),
            ("198.18.0.1/32", "198.18.0.1"),
        ] {
            let text = MINIMAL.replace(from, to);
            assert!(Plan::parse(&text, "p.toml").is_err(), "{to}");
        }
    }

    #[test]
    fn a_plan_that_cannot_be_read_is_a_fault() {
        let fault = Plan::load(Path::new("/nonexistent/plan.toml")).expect_err("no file");
        assert!(fault.to_string().starts_with("/nonexistent/plan.toml:1:1: the plan cannot be read: "));
    }
}
