//! What the security level switches: the one table of protections.
//!
//! Keeps one rule: every protection is a list of levels, and each list contains Fortress (tested).

use std::fmt::Write as _;

use super::level::{Level, Levels};

/// A protection and the levels in which it is on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Feature {
    pub name: &'static str,
    pub levels: Levels,
    /// What carries it out.
    pub engine: Engine,
}

/// What carries a protection out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Engine {
    /// A check of the decision.
    Decision,
    /// The shipped Fallback profile, which can be overridden profile by profile.
    ShippedProfiles,
    /// The resolver.
    Resolver,
    /// Nothing yet.
    Missing,
}

const ALWAYS: Levels = Levels::ALL;
const FROM_SECURE: Levels = Levels { dynamic: false, secure: true, fortress: true };
const FORTRESS: Levels = Levels { dynamic: false, secure: false, fortress: true };

const fn feature(name: &'static str, levels: Levels, engine: Engine) -> Feature {
    Feature { name, levels, engine }
}

/// STUN and TURN, which lead peers around names, are refused.
pub const STUN_REFUSED: Feature = feature("STUN and TURN refused", FORTRESS, Engine::Decision);
/// Names asked of the whole local network are not asked.
pub const PLAIN_DNS_REFUSED: Feature =
    feature("plain DNS upstream refused where an encrypted one is configured", FROM_SECURE, Engine::Resolver);

pub const MULTICAST_DNS_REFUSED: Feature = feature("mDNS and LLMNR refused", FROM_SECURE, Engine::Decision);

/// All protections.
pub const FEATURES: [Feature; 14] = [
    feature("private addresses filtered from answers for public names (rebinding)", ALWAYS, Engine::Decision),
    feature("refused names and scopes filtered from answers", ALWAYS, Engine::Decision),
    feature("DNS over TLS, QUIC and HTTPS beside our own refused", ALWAYS, Engine::Decision),
    feature("unattributed packets refused", ALWAYS, Engine::Decision),
    feature("Fallback's mode is whitelist", FORTRESS, Engine::ShippedProfiles),
    feature("LAN refused", FROM_SECURE, Engine::ShippedProfiles),
    feature("peers without a name refused", FROM_SECURE, Engine::ShippedProfiles),
    feature("inbound services of shipped profiles refused", FROM_SECURE, Engine::ShippedProfiles),
    MULTICAST_DNS_REFUSED,
    feature("special-use names kept from the network's resolvers", FROM_SECURE, Engine::Missing),
    PLAIN_DNS_REFUSED,
    feature("the network's own resolvers refused", FORTRESS, Engine::Missing),
    STUN_REFUSED,
    feature("ECH hints filtered from answers", FORTRESS, Engine::Missing),
];

impl Feature {
    /// Whether the protection is on at a level in force.
    #[must_use]
    pub fn is_on(&self, level: Level) -> bool {
        *self.levels.at(level)
    }
}

/// The table of `portreeve level --features`.
#[must_use]
pub fn features_table() -> String {
    let width = FEATURES.iter().map(|feature| feature.name.chars().count()).max().unwrap_or(0);
    let mut table = format!("{:width$}  dynamic  secure  fortress\n", "protection");
    for feature in &FEATURES {
        let [dynamic, secure, fortress] = Level::ALL.map(|level| if feature.is_on(level) { "on" } else { "-" });
        let engine = match feature.engine {
            Engine::Decision | Engine::Resolver => "",
            Engine::ShippedProfiles => "  by the shipped profiles",
            Engine::Missing => "  not built yet",
        };
        // Writing to a String cannot fail.
        let _ = writeln!(table, "{:width$}  {dynamic:<7}  {secure:<6}  {fortress:<8}{engine}", feature.name);
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_protection_is_on_in_fortress_and_never_weaker_at_a_higher_level() {
        for feature in &FEATURES {
            assert!(feature.is_on(Level::Fortress), "{}", feature.name);
            assert!(!feature.is_on(Level::Dynamic) || feature.is_on(Level::Secure), "{}", feature.name);
        }
    }

    #[test]
    fn the_table_shows_each_protection_and_marks_what_is_missing() {
        let table = features_table();
        assert_eq!(table.lines().count(), FEATURES.len() + 1);
        let missing = FEATURES.iter().filter(|feature| feature.engine == Engine::Missing).count();
        assert_eq!(table.matches("not built yet").count(), missing);
        assert!(table.contains("STUN and TURN refused"));
    }
}
