//! The binary: hands the command line to `cli`, and to the verbs that start a router the functions of `app` that do it.

use std::process::ExitCode;

use portreeve::cli::{self, ExecArgs, Exit, Json, Starters, UpArgs};

fn main() -> ExitCode {
    cli::main(Starters { exec, up, level_features })
}

fn exec(_: ExecArgs) -> Exit {
    no_router()
}

fn up(_: UpArgs) -> Exit {
    no_router()
}

fn no_router() -> Exit {
    cli::complain("this build has no router yet", Exit::Failed)
}

fn level_features(_: Json) -> String {
    "no room has registered what a level switches\n".to_owned()
}
