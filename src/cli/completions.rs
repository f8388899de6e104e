//! `portreeve completions SHELL`

use clap::CommandFactory;

use super::{Cli, Exit, out};

pub(super) fn run(shell: clap_complete::Shell) -> Exit {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "portreeve", &mut script);
    out::print(&String::from_utf8_lossy(&script), Exit::Done)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_shell_gets_a_script_that_knows_the_verbs() {
        for shell in [clap_complete::Shell::Bash, clap_complete::Shell::Zsh, clap_complete::Shell::Fish] {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "portreeve", &mut script);
            let script = String::from_utf8(script).expect("scripts are text");
            for verb in ["exec", "monitor", "toggle"] {
                assert!(script.contains(verb), "{shell} {verb}");
            }
        }
    }
}
