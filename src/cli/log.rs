//! The router's own log, on stderr.
//!
//! `PORTREEVE_LOG` takes directives as tracing-subscriber's `EnvFilter` has them (`debug`, `portreeve::resolver=trace`) and wins over
//! `-v`. What our own rooms write at INFO carries no names and addresses; other crates are heard from WARN on.

use std::io::{self, IsTerminal as _};

use tracing_subscriber::EnvFilter;

/// The variable that says what is logged.
pub const ENV: &str = "PORTREEVE_LOG";

/// How much is logged, from the number of `-v`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Loudness {
    /// The terminal belongs to the command: warnings alone until asked.
    ForExec(u8),
    ForUp(u8),
}

impl Loudness {
    fn directives(self) -> &'static str {
        match self {
            // hickory names hosts and peers in its warnings.
            Self::ForExec(0) => "warn,hickory_net=off,hickory_proto=off,hickory_resolver=off,hickory_server=off",
            Self::ForExec(1) | Self::ForUp(0) => {
                "warn,portreeve=info,hickory_net=off,hickory_proto=off,hickory_resolver=off,hickory_server=off"
            }
            Self::ForExec(2) | Self::ForUp(1) => "warn,portreeve=debug",
            Self::ForExec(_) | Self::ForUp(_) => "info,portreeve=trace",
        }
    }
}

/// Starts the log of this process. The first call counts, later ones change nothing.
pub fn start(loudness: Loudness) {
    let wanted = std::env::var(ENV).ok().filter(|text| !text.is_empty());
    let (filter, complaint) = filter(loudness, wanted.as_deref());
    // Nobody can be told that nobody can be told: it would be said on stderr, by a macro that panics where that is full or closed.
    let log =
        tracing_subscriber::fmt().with_env_filter(filter).with_writer(io::stderr).with_target(false).log_internal_errors(false);
    let started = log.with_ansi(io::stderr().is_terminal()).try_init();
    if let (Ok(()), Some(complaint)) = (started, complaint) {
        tracing::warn!("{complaint}");
    }
}

fn filter(loudness: Loudness, wanted: Option<&str>) -> (EnvFilter, Option<String>) {
    match wanted.map(EnvFilter::try_new) {
        Some(Ok(filter)) => (filter, None),
        Some(Err(error)) => (EnvFilter::new(loudness.directives()), Some(format!("{ENV} is not understood: {error}"))),
        None => (EnvFilter::new(loudness.directives()), None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_loudness_is_a_legal_filter() {
        for v in 0..=4 {
            for loudness in [Loudness::ForExec(v), Loudness::ForUp(v)] {
                assert!(EnvFilter::try_new(loudness.directives()).is_ok(), "{loudness:?}");
            }
        }
    }

    #[test]
    fn the_variable_wins_and_nonsense_is_said() {
        let (filter, complaint) = filter(Loudness::ForExec(0), Some("portreeve::router=trace"));
        assert_eq!((filter.to_string().as_str(), complaint), ("portreeve::router=trace", None));
        let (filter, complaint) = super::filter(Loudness::ForExec(0), Some("a=b=c"));
        assert_eq!(filter.to_string(), EnvFilter::new(Loudness::ForExec(0).directives()).to_string());
        assert!(complaint.is_some_and(|text| text.starts_with("PORTREEVE_LOG is not understood")));
    }
}
