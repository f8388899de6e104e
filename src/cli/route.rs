//! `portreeve route show`: the routing plan as `ip`, `nft` and `sysctl` commands, and what leaves without a verdict.
//!
//! Keeps one rule: changes nothing and needs no privilege.

use std::io::Write;
use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::{Exit, out};
use crate::netlink::{EXEMPTIONS, Exclude, Exemption, FRAMES, Host, Mark, Plan, RouteSocket, commands};

/// Show the routing plan.
#[derive(Args, Clone, Debug)]
pub struct RouteArgs {
    #[command(subcommand)]
    pub verb: RouteVerb,
}

/// What to do with the plan.
#[derive(Clone, Debug, Subcommand)]
pub enum RouteVerb {
    /// Print the plan as commands that do here what `up` does.
    Show(ShowArgs),
}

/// Which plan, and how to print it.
#[derive(Args, Clone, Debug)]
pub struct ShowArgs {
    /// A plan file instead of the embedded one.
    #[arg(long, value_name = "FILE")]
    pub plan: Option<PathBuf>,
    /// Print one JSON object.
    #[arg(long)]
    pub json: bool,
}

/// Runs the verb for the caller's network namespace.
#[must_use]
pub fn run(args: &RouteArgs) -> Exit {
    let RouteVerb::Show(show) = &args.verb;
    let plan = match show.plan.as_deref().map_or_else(|| Ok(Plan::default()), Plan::load) {
        Ok(plan) => plan,
        Err(fault) => {
            return out::report_faults([fault]);
        }
    };
    match describe(&plan, show.json) {
        Ok(text) => {
            // A reader that stopped reading is no failure.
            let _ = std::io::stdout().lock().write_all(text.as_bytes());
            Exit::Done
        }
        Err(error) => out::complain(&error.to_string(), Exit::Failed),
    }
}

fn describe(plan: &Plan, json: bool) -> Result<String, Box<dyn std::error::Error>> {
    let host = Host::read(&mut RouteSocket::open()?)?;
    let mark = plan.mark.map_or_else(Mark::random, Ok)?;
    let lines = commands(plan, &host, mark);
    Ok(if json { as_json(plan, &lines) } else { as_script(plan, &lines) })
}

fn as_json(plan: &Plan, lines: &[String]) -> String {
    let Plan { device, addresses, table, priority, mark: _, failure, exclude, dns, express: _ } = plan;
    let Exclude { networks, interfaces, users } = exclude;
    let value = serde_json::json!({
        "device": device, "addresses": addresses, "table": table, "priority": priority, "failure": failure,
        "exclude": { "networks": networks, "interfaces": interfaces, "users": users }, "stubs": dns.stubs,
        "exemptions": exemptions().collect::<Vec<_>>(), "commands": lines,
    });
    format!("{value}\n")
}

fn exemptions() -> impl Iterator<Item = Exemption> {
    EXEMPTIONS.into_iter().chain(FRAMES)
}

/// A shell script; what is not a command is a comment.
fn as_script(plan: &Plan, lines: &[String]) -> String {
    let mut text = "# Leaves without a verdict:\n".to_owned();
    for exemption in exemptions() {
        text += &format!("#   {}: {} ({})\n", exemption.name, exemption.rule, exemption.why);
    }
    if plan.mark.is_none() {
        text += "# The mark is random at each start; this is one of many.\n";
    }
    lines.iter().fold(text, |text, line| text + line + "\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_script_names_every_exemption_and_why() {
        let text = as_script(&Plan::default(), &["ip rule".to_owned()]);
        for exemption in exemptions() {
            assert!(text.contains(exemption.rule) && text.contains(exemption.why));
        }
        assert!(text.ends_with("ip rule\n"));
    }

    #[test]
    fn json_is_one_line_with_the_commands() {
        let text = as_json(&Plan::default(), &["ip rule".to_owned()]);
        let value: serde_json::Value = serde_json::from_str(text.trim_end()).expect("JSON");
        assert_eq!(text.lines().count(), 1);
        assert_eq!(value["commands"][0], "ip rule");
        assert_eq!(value["failure"], "closed");
        assert_eq!(value["exemptions"].as_array().map(Vec::len), Some(exemptions().count()));
    }

    #[test]
    fn a_faulty_plan_is_a_configuration_fault() {
        let show = ShowArgs { plan: Some("/nonexistent/plan.toml".into()), json: false };
        assert_eq!(run(&RouteArgs { verb: RouteVerb::Show(show) }), Exit::Configuration);
    }
}
