//! The verbs. This file is the tree of flags; each verb's work stands in a file of its own and returns an [`Exit`].
//!
//! Keeps one rule: what a verb says goes to stdout, why it failed to stderr, and the exit code tells the cause (DESIGN.md §10). A reader
//! that hangs up (`portreeve flows | head`) is no failure.

mod args;
pub mod case;
pub mod check;
pub mod cleanup;
mod completions;
mod doctor;
mod down;
mod exit;
pub mod explain;
mod flows;
mod level;
mod locate;
pub mod log;
mod monitor;
mod out;
mod prompt;
mod reload;
pub mod route;
mod status;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

pub use args::{ExecArgs, UpArgs};
pub use exit::Exit;
pub use level::LevelArgs;
pub use out::{complain, remark, report_faults};

pub use prompt::PromptCommand;

use crate::profile::Setup;
use locate::Wanted;

/// What most people come for.
const EXAMPLES: &str = "\
Examples:
  portreeve exec -v -- curl https://example.com/   one program, without root
  sudo portreeve up                                the whole machine; `down` takes it back
  portreeve flows                                  what was accepted and refused, and by which rule
  portreeve explain --exe /usr/bin/curl --to example.com:443";

/// An application firewall: every flow is attributed to its program, judged by its profile, and forwarded or refused
#[derive(Clone, Debug, Parser)]
#[command(name = "portreeve", version, max_term_width = 100, arg_required_else_help = true, after_help = EXAMPLES)]
pub struct Cli {
    /// The control socket to speak to, or to make
    #[arg(long, global = true, value_name = "PATH", env = "PORTREEVE_SOCKET", hide_env_values = true)]
    pub socket: Option<PathBuf>,

    #[command(subcommand)]
    pub command: Command,
}

#[derive(Clone, Debug, Subcommand)]
pub enum Command {
    /// Run one command and its children behind the firewall; nothing of this machine's network changes
    #[command(override_usage = "portreeve exec [OPTIONS] -- <CMD>...")]
    Exec(ExecArgs),
    /// Put the whole machine behind the firewall
    Up(UpArgs),
    /// Undo `up` completely
    Down,
    /// `down` when active, else `up`
    Toggle(UpArgs),
    /// Show whether and how Portreeve is active
    Status(Json),
    /// Show open and recent flows with program, name, verdict and rule
    Flows(Json),
    /// Show flows as they are judged
    Monitor(Json),
    /// Show or set the security level
    Level(LevelArgs),
    /// Read the profiles again, all or nothing
    Reload(Json),
    /// Answer flows that are held
    #[command(subcommand)]
    Prompt(PromptCommand),
    /// Decide a case without a daemon and say why
    Explain(explain::ExplainArgs),
    /// Run a profile set's `expect` cases and look for rules that cannot work
    Check(check::CheckArgs),
    /// Show what a route plan installs, as ip and nft commands
    Route(route::RouteArgs),
    /// Undo what a killed router left behind
    Cleanup(cleanup::CleanupArgs),
    /// Check what this machine lacks and name the remedies
    Doctor(Json),
    /// Print a shell's completion script
    Completions { shell: clap_complete::Shell },
}

/// How to print.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::Args)]
pub struct Json {
    /// Print JSON, one object a line
    #[arg(long)]
    pub json: bool,
}

/// What other rooms do for the verbs. The binary puts it together.
#[derive(Clone, Copy, Debug)]
pub struct Starters {
    pub exec: fn(ExecArgs) -> Exit,
    pub up: fn(UpArgs) -> Exit,
    /// The table of `level --features`, as text or as JSON, with its last line ended.
    pub level_features: fn(Json) -> String,
    /// What the configuration tells the rules: groups, countries; or its faults.
    pub setup: fn() -> Result<Setup, Vec<String>>,
}

/// Reads the command line of this process and does what it says.
#[must_use]
pub fn main(starters: Starters) -> ExitCode {
    match Cli::try_parse() {
        Ok(cli) => run(cli, starters).into(),
        Err(error) => {
            // Help and version come as errors, too; they go to stdout and are none.
            let _ = error.print();
            let exit = if error.use_stderr() { Exit::Usage } else { Exit::Done };
            exit.into()
        }
    }
}

/// Does what the command line says.
#[must_use]
pub fn run(cli: Cli, starters: Starters) -> Exit {
    let Cli { socket, command } = cli;
    match command {
        Command::Exec(args) => {
            log::start(log::Loudness::ForExec(args.verbose));
            (starters.exec)(ExecArgs { socket, ..args })
        }
        Command::Up(args) => up(UpArgs { socket, ..args }, starters),
        Command::Toggle(args) => down::toggle(UpArgs { socket, ..args }, |args| up(args, starters)),
        Command::Down => down::run(&Wanted::machine(socket)),
        Command::Status(json) => status::run(&Wanted::any(socket), json),
        Command::Flows(json) => flows::run(&Wanted::any(socket), json),
        Command::Monitor(json) => monitor::run(&Wanted::any(socket), json),
        Command::Level(args) => level::run(&Wanted::any(socket), args, starters.level_features),
        Command::Reload(json) => reload::run(&Wanted::any(socket), json),
        Command::Prompt(command) => prompt::run(&Wanted::any(socket), command),
        Command::Explain(args) => with_setup(starters, |setup| explain::run(args, setup)),
        Command::Check(args) => with_setup(starters, |setup| check::run(&args, setup)),
        Command::Route(args) => route::run(&args),
        Command::Cleanup(args) => cleanup::run(&args, socket.as_deref()),
        Command::Doctor(json) => doctor::run(json),
        Command::Completions { shell } => completions::run(shell),
    }
}

fn with_setup(starters: Starters, verb: impl FnOnce(Setup) -> Exit) -> Exit {
    match (starters.setup)() {
        Ok(setup) => verb(setup),
        Err(faults) => report_faults(faults),
    }
}

fn up(args: UpArgs, starters: Starters) -> Exit {
    log::start(log::Loudness::ForUp(args.verbose));
    (starters.up)(args)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::profile::Level;
    use clap::CommandFactory;

    fn parse(line: &str) -> Result<Cli, clap::Error> {
        Cli::try_parse_from(std::iter::once("portreeve").chain(line.split_whitespace()))
    }

    fn exec(line: &str) -> ExecArgs {
        match parse(line).map(|cli| cli.command) {
            Ok(Command::Exec(args)) => args,
            other => panic!("{line}: {other:?}"),
        }
    }

    #[test]
    fn the_tree_of_flags_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn exec_takes_its_flags_before_the_command_and_none_of_the_commands() {
        let args = exec("exec --profiles p --level secure --record r.jsonl --host-loopback -vv -- curl -v --json --socket x");
        assert_eq!(args.profiles, Some("p".into()));
        assert_eq!(args.level, Some(Level::Secure));
        assert_eq!(args.record, Some("r.jsonl".into()));
        assert!(args.host_loopback);
        assert_eq!(args.verbose, 2);
        assert_eq!(args.command, ["curl", "-v", "--json", "--socket", "x"]);
        assert_eq!(exec("exec curl -v -- x").command, ["curl", "-v", "--", "x"], "the first -- may be left out");
    }

    #[test]
    fn wrong_usage_is_refused() {
        for line in [
            "exec",
            "exec --",
            "exec --profile p -- true",
            "exec --level high -- true",
            "up now",
            "up --level",
            "down --json",
            "prompt",
            "prompt allow",
            "prompt allow five",
            "prompt allow -1",
            "level high",
            "level secure fortress",
            "completions tcsh",
            "statsu",
        ] {
            let error = parse(line).map(|cli| panic!("{line}: {cli:?}")).unwrap_or_else(|error| error);
            assert!(error.use_stderr(), "{line}: {error}");
            assert_eq!(error.exit_code(), 2, "{line}");
        }
    }

    #[test]
    fn an_unknown_level_names_the_levels() {
        let error = parse("up --level high").map(|cli| panic!("{cli:?}")).unwrap_or_else(|error| error);
        assert!(error.to_string().contains("dynamic, secure, fortress"), "{error}");
    }

    #[test]
    fn the_socket_can_be_named_before_and_after_the_verb() {
        for line in ["--socket /s status --json", "status --socket /s --json"] {
            let cli = parse(line).expect("the flag is global");
            assert_eq!(cli.socket, Some("/s".into()), "{line}");
            assert!(matches!(cli.command, Command::Status(Json { json: true })), "{line}");
        }
    }

    #[test]
    fn every_read_verb_takes_json() {
        for verb in ["status", "flows", "monitor", "level", "reload", "prompt list", "doctor"] {
            parse(&format!("{verb} --json")).expect(verb);
        }
    }
}
