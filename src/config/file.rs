//! `portreeve.toml` → [`Config`].
//!
//! Keeps one rule: parse, don't validate. What an upstream or a group entry *means* is for the rooms that use them; that it can
//! mean something is checked here, where its line and column are known.
//!
//! ```toml
//! level = "dynamic"                           # at start
//! queues = 2                                  # of the TUN, each with a thread; else half as many as there are cores, or two
//! express = true                              # under `up` the kernel alone carries accepted TCP connections on; else the router
//!
//! [dns]
//! upstream = ["tls://192.0.2.53#dns.example.com", "192.0.2.1"]   # in this order; else the system's resolvers
//! private  = ["corp.example.com"]                                # may have private addresses: a company's own, a hotel's login
//!
//! [groups]
//! work = [".example.com", "192.0.2.0/24"]     # `@work` in endpoint rules
//!
//! [geo]
//! country = "/usr/share/GeoIP/country.mmdb"
//! asn = "/usr/share/GeoIP/asn.mmdb"
//! ```

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read};
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::str::FromStr;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::Fault;
use super::fault::nearest;
use super::paths::Places;
use crate::profile::{Level, Setup};

/// A longer file is no configuration that a person wrote.
const MAX_BYTES: u64 = 1024 * 1024;

/// More threads than these only take turns.
const MAX_QUEUES: usize = 4;

const SCHEMES: [&str; 5] = ["udp", "tcp", "tls", "https", "quic"];

/// The configuration of this machine, legal by type.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Config {
    /// The level at start.
    pub level: Level,
    /// The TUN's queues; None: as many as serve this machine well.
    pub queues: Option<usize>,
    /// Under `up` the kernel alone carries accepted TCP connections on.
    pub express: bool,
    pub dns: Dns,
    /// `@name` of endpoint rules → entities, as typed.
    pub groups: BTreeMap<String, Vec<String>>,
    pub geo: Geo,
}

/// `[dns]`
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Dns {
    /// `ADDRESS`, `ADDRESS:PORT` or `udp|tcp|tls|https|quic://ADDRESS[:PORT][/PATH][#NAME]`. Empty: the system's resolvers.
    pub upstream: Vec<String>,
    /// Zones below which answers may hold private addresses.
    pub private: Vec<String>,
}

/// `[geo]`: MMDB files. Absolute paths.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Geo {
    pub country: Option<PathBuf>,
    pub asn: Option<PathBuf>,
}

/// Why there is no configuration.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    #[error("read {}: {source}", path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error("{} is larger than 1 MiB; a configuration is a few lines of TOML", path.display())]
    TooLarge { path: PathBuf },
    #[error("{}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))]
    Faults(Vec<Fault>),
}

impl Config {
    /// Reads the configuration file of `places`. The default file may be missing, one that was named may not.
    ///
    /// # Errors
    ///
    /// The file cannot be read, or it has faults: all of them.
    pub fn load(places: &Places) -> Result<Self, ConfigError> {
        let path = places.config_file();
        let text = match read(&path) {
            Err(ConfigError::Read { source, .. })
                if source.kind() == io::ErrorKind::NotFound && places.config_override.is_none() =>
            {
                return Ok(Self::default());
            }
            other => other?,
        };
        Self::parse(&path, &text).map_err(ConfigError::Faults)
    }

    /// # Errors
    ///
    /// All faults of the text, in its order.
    pub fn parse(path: &Path, text: &str) -> Result<Self, Vec<Fault>> {
        let (root, errors) = DeTable::parse_recoverable(text);
        let mut reader = Reader { path, text, faults: Vec::new() };
        for error in errors {
            reader.fault(
                error.span().unwrap_or(0..0),
                error.message().to_owned(),
                "the file must be TOML (https://toml.io)".to_owned(),
            );
        }
        let mut config = Self::default();
        reader.root(root.get_ref(), &mut config);
        if reader.faults.is_empty() {
            return Ok(config);
        }
        reader.faults.sort_by_key(|fault| (fault.line, fault.column));
        Err(reader.faults)
    }
}

fn read(path: &Path) -> Result<String, ConfigError> {
    let failed = |source| ConfigError::Read { path: path.to_path_buf(), source };
    let mut text = String::new();
    File::open(path).map_err(failed)?.take(MAX_BYTES + 1).read_to_string(&mut text).map_err(failed)?;
    if u64::try_from(text.len()).is_ok_and(|length| length > MAX_BYTES) {
        return Err(ConfigError::TooLarge { path: path.to_path_buf() });
    }
    Ok(text)
}

type Key<'a> = Spanned<std::borrow::Cow<'a, str>>;
type Value<'a> = Spanned<DeValue<'a>>;

/// Walks the parsed file and collects what is wrong.
struct Reader<'a> {
    path: &'a Path,
    text: &'a str,
    faults: Vec<Fault>,
}

impl Reader<'_> {
    fn fault(&mut self, span: std::ops::Range<usize>, what: String, hint: String) {
        self.faults.push(Fault::at(self.path, self.text, span, what, hint));
    }

    fn root(&mut self, table: &DeTable<'_>, config: &mut Config) {
        for (key, value) in table {
            match key.get_ref().as_ref() {
                "level" => config.level = self.level(value).unwrap_or_default(),
                "queues" => config.queues = self.queues(value),
                "express" => config.express = self.yes_or_no(value),
                "dns" => self.table(value, "dns", |reader, table| reader.dns(table, &mut config.dns)),
                "groups" => self.table(value, "groups", |reader, table| reader.groups(table, &mut config.groups)),
                "geo" => self.table(value, "geo", |reader, table| reader.geo(table, &mut config.geo)),
                _ => self.unknown(key, &["level", "queues", "express", "dns", "groups", "geo"]),
            }
        }
    }

    fn dns(&mut self, table: &DeTable<'_>, dns: &mut Dns) {
        for (key, value) in table {
            match key.get_ref().as_ref() {
                "upstream" => {
                    dns.upstream = self.texts(value, |text| {
                        upstream_can_be(text).then_some(()).ok_or("an upstream is an address, ADDRESS:PORT, or one of udp, tcp, tls, https and quic://ADDRESS[:PORT][/PATH][#NAME]")
                    });
                }
                "private" => {
                    dns.private = self.texts(value, |text| {
                        private_can_be(text).then_some(()).ok_or("a zone is a name that somebody owns, such as corp.example.com")
                    });
                }
                _ => self.unknown(key, &["upstream", "private"]),
            }
        }
    }

    fn groups(&mut self, table: &DeTable<'_>, groups: &mut BTreeMap<String, Vec<String>>) {
        for (key, value) in table {
            let name = key.get_ref().as_ref();
            if name.is_empty() || !name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_') {
                self.fault(
                    key.span(),
                    format!("`{}` is no name for a group", name.escape_debug()),
                    "use letters, digits, `-` and `_`".to_owned(),
                );
                continue;
            }
            let entries = self.texts(value, |text| {
                (!text.trim().is_empty() && !text.starts_with('@'))
                    .then_some(())
                    .ok_or("an entry is an entity as in an endpoint rule, and no other group")
            });
            groups.insert(name.to_owned(), entries);
        }
    }

    fn geo(&mut self, table: &DeTable<'_>, geo: &mut Geo) {
        for (key, value) in table {
            match key.get_ref().as_ref() {
                "country" => geo.country = self.file(value),
                "asn" => geo.asn = self.file(value),
                _ => self.unknown(key, &["country", "asn"]),
            }
        }
    }

    fn unknown(&mut self, key: &Key<'_>, known: &[&str]) {
        let typed = key.get_ref();
        self.fault(key.span(), format!("unknown key `{}`", typed.escape_debug()), nearest(typed, known));
    }

    fn table(&mut self, value: &Value<'_>, name: &str, walk: impl FnOnce(&mut Self, &DeTable<'_>)) {
        match value.get_ref() {
            DeValue::Table(table) => walk(self, table),
            other => {
                let what = format!("`{name}` is {}", kind(other));
                self.fault(value.span(), what, format!("it is a table: write [{name}]"));
            }
        }
    }

    fn string<'v>(&mut self, value: &'v Value<'_>) -> Option<&'v str> {
        match value.get_ref() {
            DeValue::String(text) => Some(text.as_ref()),
            other => {
                self.fault(value.span(), format!("here is {}", kind(other)), "a text in quotes belongs here".to_owned());
                None
            }
        }
    }

    fn level(&mut self, value: &Value<'_>) -> Option<Level> {
        let text = self.string(value)?;
        let level = Level::from_str(text);
        if level.is_err() {
            let what = format!("`{}` is no security level", text.escape_debug());
            self.fault(value.span(), what, "levels are dynamic, secure and fortress".to_owned());
        }
        level.ok()
    }

    fn queues(&mut self, value: &Value<'_>) -> Option<usize> {
        let number = match value.get_ref() {
            DeValue::Integer(number) => usize::from_str_radix(number.as_str(), number.radix()).ok(),
            _ => None,
        };
        let queues = number.filter(|number| (1..=MAX_QUEUES).contains(number));
        if queues.is_none() {
            self.fault(
                value.span(),
                "this is no number of queues".to_owned(),
                format!("a number from 1 to {MAX_QUEUES} belongs here"),
            );
        }
        queues
    }

    fn yes_or_no(&mut self, value: &Value<'_>) -> bool {
        match value.get_ref() {
            DeValue::Boolean(yes) => *yes,
            other => {
                self.fault(value.span(), format!("here is {}", kind(other)), "true or false belongs here".to_owned());
                false
            }
        }
    }

    fn file(&mut self, value: &Value<'_>) -> Option<PathBuf> {
        let path = PathBuf::from(self.string(value)?);
        if !path.is_absolute() {
            let what = format!("`{}` is no absolute path", path.display().to_string().escape_debug());
            self.fault(value.span(), what, "begin with /, since the router may be started anywhere".to_owned());
            return None;
        }
        Some(path)
    }

    fn texts(&mut self, value: &Value<'_>, legal: impl Fn(&str) -> Result<(), &'static str>) -> Vec<String> {
        let DeValue::Array(items) = value.get_ref() else {
            self.fault(
                value.span(),
                format!("here is {}", kind(value.get_ref())),
                "a list of texts belongs here: [\"…\", \"…\"]".to_owned(),
            );
            return Vec::new();
        };
        let mut texts = Vec::new();
        for item in items {
            let Some(text) = self.string(item) else { continue };
            match legal(text) {
                Ok(()) => texts.push(text.to_owned()),
                Err(hint) => self.fault(item.span(), format!("`{}` does not fit here", text.escape_debug()), hint.to_owned()),
            }
        }
        texts
    }
}

fn kind(value: &DeValue<'_>) -> &'static str {
    match value {
        DeValue::String(_) => "a text",
        DeValue::Integer(_) | DeValue::Float(_) => "a number",
        DeValue::Boolean(_) => "true or false",
        DeValue::Datetime(_) => "a date",
        DeValue::Array(_) => "a list",
        DeValue::Table(_) => "a table",
    }
}

/// A name below a public suffix.
fn private_can_be(text: &str) -> bool {
    text.parse().is_ok_and(|zone| Setup::default().add_private_zone(zone).is_ok())
}

/// Whether the text has the form of an upstream: a resolver must be named by address, since nobody could resolve its name.
fn upstream_can_be(text: &str) -> bool {
    let (scheme, rest) = text.split_once("://").unwrap_or(("udp", text));
    let address = rest.split(['/', '#']).next().unwrap_or_default();
    let bracketed = address.strip_prefix('[').and_then(|inner| inner.strip_suffix(']'));
    SCHEMES.contains(&scheme)
        && !text.contains(char::is_whitespace)
        && (IpAddr::from_str(address).is_ok()
            || SocketAddr::from_str(address).is_ok_and(|socket| socket.port() != 0)
            || bracketed.is_some_and(|inner| Ipv6Addr::from_str(inner).is_ok()))
}

#[cfg(test)]
mod tests;
