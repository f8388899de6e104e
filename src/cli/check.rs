//! `portreeve check`: reads a profile set, runs its `[[expect]]` cases and reports what looks like a mistake.
//!
//! Keeps one rule: a lint never fails a set, a fault or a case that comes out differently always does.

use std::io::{self, BufWriter, Write};
use std::path::PathBuf;

use clap::Args;
use serde::Serialize;

use super::Exit;
use super::case::{Asked, Judge};
use super::explain::{load, report_faults};
use crate::process::HomePath;
use crate::profile::{Expect, Fault, Policy, Profile, Setup, lints};

/// Reads profiles, runs their `[[expect]]` cases and tells what looks like a mistake
#[derive(Args, Clone, Debug)]
pub struct CheckArgs {
    /// A profile set that replaces all others
    #[arg(long, value_name = "DIR")]
    pub profiles: Option<PathBuf>,
    /// Answer in JSON
    #[arg(long)]
    pub json: bool,
}

/// A program in no folder that any profile speaks of.
const SOME_PROGRAM: &str = "/nonexistent/program";

/// What a check found.
#[derive(Debug, Default, Serialize)]
struct Report {
    profiles: usize,
    cases: usize,
    faults: Vec<Line>,
    failures: Vec<Line>,
    lints: Vec<Line>,
}

#[derive(Debug, Serialize)]
struct Line {
    file: String,
    line: u32,
    column: u32,
    what: String,
    hint: String,
}

impl From<&Fault> for Line {
    fn from(fault: &Fault) -> Self {
        let Fault { file, line, column, what, hint } = fault;
        Self { file: file.display().to_string(), line: *line, column: *column, what: what.clone(), hint: hint.clone() }
    }
}

/// Runs the verb; `setup` comes from the configuration.
#[must_use]
pub fn run(args: &CheckArgs, setup: Setup) -> Exit {
    let mut out = BufWriter::new(io::stdout().lock());
    let done = match load(args.profiles.as_deref(), setup) {
        Err(faults) => {
            let report = Report { faults: faults.iter().map(Line::from).collect(), ..Report::default() };
            let written = if args.json { write_json(&mut out, &report) } else { Ok(()) };
            written.map(|()| report_faults(&faults))
        }
        Ok(policy) => check(&policy, args.json, &mut out),
    };
    match done.and_then(|exit| out.flush().map(|()| exit)) {
        Ok(exit) => exit,
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Exit::Done,
        Err(error) => {
            let _ = writeln!(io::stderr(), "check: {error}");
            Exit::Failed
        }
    }
}

fn check(policy: &Policy, json: bool, out: &mut impl Write) -> io::Result<Exit> {
    let failures = run_cases(policy);
    let lints = lints(policy);
    let exit = if failures.is_empty() { Exit::Done } else { Exit::Failed };
    let (profiles, cases) = (policy.profiles().count(), policy.profiles().map(|profile| profile.expects.len()).sum());
    if json {
        let lines = |list: &[Fault]| list.iter().map(Line::from).collect();
        let report = Report { profiles, cases, faults: Vec::new(), failures: lines(&failures), lints: lines(&lints) };
        write_json(out, &report)?;
        return Ok(exit);
    }
    for lint in &lints {
        writeln!(out, "{lint}")?;
    }
    for failure in &failures {
        writeln!(out, "{failure}")?;
    }
    let passed = cases.saturating_sub(failures.len());
    writeln!(out, "{profiles} profiles, {passed} of {cases} cases as expected, {} lints", lints.len())?;
    Ok(exit)
}

fn write_json(out: &mut impl Write, report: &Report) -> io::Result<()> {
    serde_json::to_writer(&mut *out, report)?;
    out.write_all(b"\n")
}

/// The cases that come out differently.
fn run_cases(policy: &Policy) -> Vec<Fault> {
    let mut judge = Judge::new(policy);
    let mut failures = Vec::new();
    for profile in policy.profiles() {
        for expect in &profile.expects {
            if let Err(what) = run_case(&mut judge, profile, expect) {
                let hint = "correct the rules or the case";
                failures.push(Fault { line: expect.line, ..Fault::of_file(&profile.file, what, hint) });
            }
        }
    }
    failures
}

fn run_case(judge: &mut Judge<'_>, profile: &Profile, expect: &Expect) -> Result<(), String> {
    let decision = judge.decide(&asked(profile, expect)).map_err(|error| format!("the case makes no sense: {error}"))?;
    let Expect { to, verdict, check, level, .. } = expect;
    let (found, by) = (decision.verdict.to_string(), decision.reason.check.to_string());
    if found == *verdict && check.as_ref().is_none_or(|check| *check == by) {
        return Ok(());
    }
    let wanted = check.as_ref().map_or_else(|| verdict.clone(), |check| format!("{verdict} by {check}"));
    Err(format!("{to} at {level} should be {wanted} but is {found}: {}", decision.reason))
}

/// The case for a program that the profile is for.
fn asked(profile: &Profile, expect: &Expect) -> Asked {
    let matching = &profile.matching;
    let own = match (matching.paths.first(), matching.prefixes.first()) {
        (Some(path), _) => some_path(path, ""),
        (None, Some(prefix)) => some_path(prefix, "program"),
        (None, None) => PathBuf::from(SOME_PROGRAM),
    };
    let tag = matching.tags.first().filter(|_| matching.paths.is_empty() && matching.prefixes.is_empty());
    Asked {
        exe: Some(expect.exe.as_ref().map_or(own, PathBuf::from)),
        uid: expect.uid,
        cmdline: expect.cmdline.clone(),
        tag: tag.map(|tag| tag.0.clone()).into_iter().collect(),
        to: expect.to.clone(),
        proto: expect.proto.clone(),
        name: expect.name.clone(),
        inbound: expect.inbound,
        question: expect.question,
        level: expect.level,
    }
}

/// A path that the entry fits, in some user's home where it speaks of homes.
fn some_path(entry: &HomePath, below: &str) -> PathBuf {
    let path = match entry {
        HomePath::Plain(path) => path.clone(),
        HomePath::Home(path) => PathBuf::from("/home/someone").join(path),
    };
    if below.is_empty() { path } else { path.join(below) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::profile::{File, Kind, Layer};

    fn report(text: &str) -> (String, Exit) {
        let file = File { kind: Kind::Profile(Layer::User), path: "user/x.toml".into(), text: text.to_owned() };
        let policy = Policy::compile(&[file], Setup::default()).expect("a valid set");
        let mut out = Vec::new();
        let exit = check(&policy, false, &mut out).expect("writing to memory");
        (String::from_utf8(out).expect("text"), exit)
    }

    #[test]
    fn the_shipped_set_passes_its_own_cases_without_a_lint() {
        let set = crate::store::read_default(&[]).expect("the shipped set");
        let setup = Setup { geo: Some(crate::store::GeoData::embedded()), ..Setup::default() };
        let policy = set.compile(setup).unwrap_or_else(|faults| panic!("{faults:#?}"));
        let mut out = Vec::new();
        let exit = check(&policy, false, &mut out).expect("writing to memory");
        let text = String::from_utf8(out).expect("text");
        assert_eq!((exit, text.lines().count()), (Exit::Done, 1), "{text}");
    }

    const PROFILE: &str =
        "name = \"x\"\nendpoints = [\"+ .example.com\", \"- *\"]\n[match]\nprefix = [\"~/x\"]\n[scope]\ninternet = true\n";

    #[test]
    fn cases_run_for_a_program_of_the_profile() {
        let cases = "[[expect]]\nto = \"www.example.com:443\"\nverdict = \"accept\"\n[[expect]]\nto = \"a.test:1\"\nverdict = \"block\"\n";
        let (text, exit) = report(&format!("{PROFILE}{cases}"));
        assert_eq!((exit, text.as_str()), (Exit::Done, "1 profiles, 2 of 2 cases as expected, 0 lints\n"));
    }

    #[test]
    fn a_case_that_comes_out_differently_fails_the_check_and_names_its_line() {
        let (text, exit) = report(&format!("{PROFILE}[[expect]]\nto = \"a.test:1\"\nverdict = \"accept\"\n"));
        assert_eq!(exit, Exit::Failed);
        assert!(
            text.starts_with("user/x.toml:7:1: a.test:1 at dynamic should be accept but is block: endpoints `- *` of x"),
            "{text}"
        );
    }
}
