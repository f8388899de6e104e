//! Flags of the verbs that start a router.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::ValueEnum;
use clap::builder::PossibleValue;

use crate::profile::Level;

/// Levels by name, so that help and completions list them.
impl ValueEnum for Level {
    fn value_variants<'a>() -> &'a [Self] {
        &Self::ALL
    }

    fn to_possible_value(&self) -> Option<PossibleValue> {
        Some(PossibleValue::new(match self {
            Self::Dynamic => "dynamic",
            Self::Secure => "secure",
            Self::Fortress => "fortress",
        }))
    }
}

/// `portreeve exec`.
#[derive(Clone, Debug, PartialEq, Eq, clap::Args)]
pub struct ExecArgs {
    /// A profile set that replaces all others
    #[arg(long, value_name = "DIR")]
    pub profiles: Option<PathBuf>,

    /// Start at this security level
    #[arg(long)]
    pub level: Option<Level>,

    /// Write one JSON line for each flow that ends and each DNS question
    #[arg(long, value_name = "FILE")]
    pub record: Option<PathBuf>,

    /// Make this host's own loopback services reachable as host.portreeve.internal (169.254.17.1, fd17::1)
    #[arg(long)]
    pub host_loopback: bool,

    /// Print each verdict with its reason; -vv and -vvv print more of the router's own log
    #[arg(short, long, action = clap::ArgAction::Count)]
    pub verbose: u8,

    /// Where the control socket is made. Default: $XDG_RUNTIME_DIR/portreeve/exec-PID.sock
    #[arg(skip)]
    pub socket: Option<PathBuf>,

    /// The program and its arguments
    #[arg(value_name = "CMD", required = true, trailing_var_arg = true)]
    pub command: Vec<OsString>,
}

/// `portreeve up`.
#[derive(Clone, Debug, Default, PartialEq, Eq, clap::Args)]
pub struct UpArgs {
    /// A route plan instead of the shipped one
    #[arg(long, value_name = "FILE")]
    pub plan: Option<PathBuf>,

    /// A profile set that replaces all others
    #[arg(long, value_name = "DIR")]
    pub profiles: Option<PathBuf>,

    /// Start at this security level
    #[arg(long)]
    pub level: Option<Level>,

    /// Stay in this terminal and print each verdict with its reason
    #[arg(long)]
    pub foreground: bool,

    /// More of the router's own log; with --foreground it goes to the terminal
    #[arg(short, long, action = clap::ArgAction::Count)]
    pub verbose: u8,

    /// Where the control socket is made. Default: /run/portreeve/portreeve.sock
    #[arg(skip)]
    pub socket: Option<PathBuf>,
}
