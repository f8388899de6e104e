//! The binary: hands the command line to `cli`, and to the verbs that start a router the functions of `app` that do it.

use std::process::ExitCode;

use portreeve::app;
use portreeve::cli::{self, Starters};
use portreeve::enclosure::{INNER_VERB, inner_main, wait_for_children};

fn main() -> ExitCode {
    wait_for_children();
    // The enclosure's keeper must have one thread: none may be started before this.
    if std::env::args_os().nth(1).is_some_and(|verb| verb == INNER_VERB) {
        inner_main();
    }
    cli::main(Starters { exec: app::exec, up: app::up, level_features: app::level_features, setup: app::setup })
}
