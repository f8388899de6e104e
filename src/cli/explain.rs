//! `portreeve explain`: decides a case without a daemon and prints the walk.

use std::io::{self, BufRead, BufWriter, Write};
use std::path::PathBuf;

use clap::Args;
use serde::Serialize;
use serde_json::json;

use super::Exit;
use super::case::{Asked, Judge};
use crate::profile::{Fault, Layer, Level, Policy, Setup};
use crate::store;
use crate::verdict::{Check, Decision, Lane, Step, Verdict};

/// Decides a case without a daemon and prints the walk
#[derive(Args, Clone, Debug)]
pub struct ExplainArgs {
    /// The program, as a full path; it is not looked up on disk
    #[arg(long, value_name = "PATH", required_unless_present_any = ["tag", "batch"])]
    pub exe: Option<PathBuf>,
    /// The user who runs it (unknown if not given)
    #[arg(long, value_name = "N")]
    pub uid: Option<u32>,
    /// Its whole command line
    #[arg(long, value_name = "TEXT", allow_hyphen_values = true)]
    pub cmdline: Option<String>,
    /// A tag of the program, such as unit:ssh.service; may be repeated
    #[arg(long, value_name = "KIND:VALUE")]
    pub tag: Vec<String>,
    /// The other end; a bare name counts as an Internet address known by it
    #[arg(long, value_name = "HOST|IP[:PORT]", required_unless_present = "batch")]
    pub to: Option<String>,
    /// The protocol
    #[arg(long, value_name = "PROTOCOL", default_value = "TCP")]
    pub proto: String,
    /// The name that the program learned the address by
    #[arg(long)]
    pub name: Option<String>,
    /// The flow is opened from outside: --to is the remote address and the local port
    #[arg(long, conflicts_with = "question")]
    pub inbound: bool,
    /// A DNS question instead of a flow
    #[arg(long)]
    pub question: bool,
    /// The system's security level
    #[arg(long, value_name = "LEVEL", default_value_t)]
    pub level: Level,
    /// Read cases as JSON lines from standard input and answer in JSON lines
    #[arg(long, value_name = "-", value_parser = ["-"], conflicts_with_all = ["exe", "to", "tag"])]
    pub batch: Option<String>,
    /// A profile set that replaces all others
    #[arg(long, value_name = "DIR")]
    pub profiles: Option<PathBuf>,
    /// Answer in JSON
    #[arg(long)]
    pub json: bool,
}

/// Runs the verb; `setup` comes from the configuration.
#[must_use]
pub fn run(args: ExplainArgs, setup: Setup) -> Exit {
    let policy = match load(args.profiles.as_deref(), setup) {
        Ok(policy) => policy,
        Err(faults) => return report_faults(&faults),
    };
    let mut out = BufWriter::new(io::stdout().lock());
    let done = if args.batch.is_some() {
        answer_batch(&policy, io::stdin().lock(), &mut out)
    } else {
        answer_one(&policy, args, &mut out)
    };
    match done.and_then(|exit| out.flush().map(|()| exit)) {
        Ok(exit) => exit,
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Exit::Done,
        Err(error) => {
            let _ = writeln!(io::stderr(), "explain: {error}");
            Exit::Failed
        }
    }
}

/// Loads the set in `dir`, or the default one.
pub(super) fn load(dir: Option<&std::path::Path>, setup: Setup) -> Result<Policy, Vec<Fault>> {
    match dir {
        Some(dir) => store::load_set(dir, setup),
        None => store::load_default(!rustix::process::geteuid().is_root(), setup),
    }
}

/// Prints faults one a line.
pub(super) fn report_faults(faults: &[Fault]) -> Exit {
    let mut err = BufWriter::new(io::stderr().lock());
    for fault in faults {
        let _ = writeln!(err, "{fault}");
    }
    let _ = err.flush();
    Exit::Configuration
}

fn answer_one(policy: &Policy, args: ExplainArgs, out: &mut impl Write) -> io::Result<Exit> {
    let ExplainArgs { exe, uid, cmdline, tag, to, proto, name, inbound, question, level, batch: _, profiles: _, json } = args;
    let to = to.unwrap_or_default();
    let asked = Asked { exe, uid, cmdline, tag, to, proto: Some(proto), name, inbound, question, level };
    let (decision, steps) = match Judge::new(policy).explain(&asked) {
        Ok(explained) => explained,
        Err(error) => {
            writeln!(io::stderr(), "explain: {error}")?;
            return Ok(Exit::Usage);
        }
    };
    if json {
        write_json(out, &Answer::new(&decision, &steps))?;
    } else {
        write_text(out, &asked, &decision, &steps)?;
    }
    Ok(match decision.verdict {
        Verdict::Accept => Exit::Done,
        Verdict::Ask => Exit::Ask,
        Verdict::Block | Verdict::Drop => Exit::Refused,
    })
}

/// One line out for each line in, in order. A line that cannot be read is a refusal that says why.
fn answer_batch(policy: &Policy, input: impl BufRead, out: &mut impl Write) -> io::Result<Exit> {
    let mut judge = Judge::new(policy);
    let mut exit = Exit::Done;
    for line in input.split(b'\n') {
        let line = line?;
        let answer = serde_json::from_slice::<Asked>(&line).map_err(|error| error.to_string());
        match answer.and_then(|asked| judge.explain(&asked).map_err(|error| error.to_string())) {
            Ok((decision, steps)) => write_json(out, &Answer::new(&decision, &steps))?,
            Err(error) => {
                exit = Exit::Usage;
                write_json(out, &json!({ "verdict": Verdict::Block, "error": error }))?;
            }
        }
    }
    Ok(exit)
}

/// The answer in JSON.
#[derive(Serialize)]
struct Answer<'a> {
    verdict: Verdict,
    /// Null where nothing leaves.
    lane: Option<Lane>,
    check: Check,
    layer: Option<Layer>,
    profile: Option<&'a str>,
    rule: Option<&'a str>,
    file: Option<String>,
    line: Option<u32>,
    trace: &'a [Step],
}

impl<'a> Answer<'a> {
    fn new(decision: &'a Decision, steps: &'a [Step]) -> Self {
        let reason = &decision.reason;
        let leaves = matches!(decision.verdict, Verdict::Accept | Verdict::Ask);
        Self {
            verdict: decision.verdict,
            lane: leaves.then_some(decision.lane),
            check: reason.check,
            layer: reason.layer,
            profile: reason.profile.as_deref(),
            rule: reason.rule.as_deref(),
            file: reason.file.as_ref().map(|file| file.display().to_string()),
            line: reason.line,
            trace: steps,
        }
    }
}

fn write_json(out: &mut impl Write, value: &impl Serialize) -> io::Result<()> {
    serde_json::to_writer(&mut *out, value)?;
    out.write_all(b"\n")
}

fn write_text(out: &mut impl Write, asked: &Asked, decision: &Decision, steps: &[Step]) -> io::Result<()> {
    let what = if asked.question {
        "question"
    } else if asked.inbound {
        "inbound"
    } else {
        "outbound"
    };
    let program = asked.exe.as_ref().map_or_else(|| asked.tag.join(" "), |exe| exe.display().to_string());
    let proto = asked.proto.as_deref().filter(|_| !asked.question).unwrap_or("");
    writeln!(out, "{}: {what} {} {proto} by {program} at {}", decision.verdict, asked.to, asked.level)?;
    writeln!(out, "reason: {}", decision.reason)?;
    for step in steps {
        writeln!(out, "  {:<16} {:<7} {}", step.check, step.outcome, step.note)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::profile::{File, Kind};

    fn policy() -> Policy {
        let file = |kind, path: &str, text: &str| File { kind, path: path.into(), text: text.to_owned() };
        let files = [
            file(
                Kind::Profile(Layer::User),
                "user/curl.toml",
                "name = \"curl\"\nendpoints = [\n  \"+ .example.com TCP/443\",\n  \"- *\",\n]\n[match]\npath = [\"/usr/bin/curl\"]\n",
            ),
            file(Kind::Profile(Layer::Fallback), "fallback.toml", "mode = \"prompt\"\n[scope]\ninternet = true\n"),
        ];
        Policy::compile(&files, Setup::default()).expect("a valid set")
    }

    fn batch(input: &str) -> (Vec<serde_json::Value>, Exit) {
        let mut out = Vec::new();
        let exit = answer_batch(&policy(), input.as_bytes(), &mut out).expect("writing to memory");
        let text = String::from_utf8(out).expect("JSON is text");
        (text.lines().map(|line| serde_json::from_str(line).expect("a JSON line")).collect(), exit)
    }

    #[derive(clap::Parser)]
    struct Flags {
        #[command(flatten)]
        explain: ExplainArgs,
    }

    fn flags(line: &str) -> Option<ExplainArgs> {
        let words = std::iter::once("explain").chain(line.split(' ').filter(|word| !word.is_empty()));
        <Flags as clap::Parser>::try_parse_from(words).ok().map(|flags| flags.explain)
    }

    #[test]
    fn the_flags_are_those_of_the_documentation() {
        let all = "--exe /usr/bin/x --uid 7 --cmdline --fast --tag unit:a --tag snap:b --to [2001:db8::1]:443 --proto udp --name a.example \
                   --inbound --level secure --profiles /p --json";
        let args = flags(all).expect("valid flags");
        assert_eq!((args.uid, args.tag.len(), args.level, args.inbound, args.json), (Some(7), 2, Level::Secure, true, true));
        for fine in [
            "--exe /x --to a",
            "--tag unit:a --to a",
            "--exe /x --to a --question",
            "--batch -",
            "--batch - --profiles /p --json",
        ] {
            assert!(flags(fine).is_some(), "{fine}");
        }
        for wrong in [
            "",
            "--exe /x",
            "--to a",
            "--exe /x --to a --level paranoid",
            "--exe /x --to a --inbound --question",
            "--exe /x --to a --uid -1",
            "--exe /x --to a --port 1",
            "--batch file",
            "--batch - --to a",
        ] {
            assert!(flags(wrong).is_none(), "{wrong} should be refused");
        }
    }

    #[test]
    fn a_batch_answers_line_by_line_with_the_rule_and_its_place() {
        let (answers, exit) = batch(concat!(
            r#"{"exe":"/usr/bin/curl","to":"www.example.com:443"}"#,
            "\n",
            r#"{"exe":"/usr/bin/curl","to":"example.org:443","uid":1000,"level":"secure"}"#,
            "\n",
            r#"{"exe":"/usr/bin/other","to":"example.org:443","tag":"unit:x.service"}"#,
            "\n",
        ));
        assert_eq!(exit, Exit::Done);
        let keys = ["verdict", "lane", "check", "layer", "profile", "rule", "file", "line"];
        let rows: Vec<String> = answers.iter().map(|a| keys.map(|key| a[key].to_string().replace('"', "")).join(" ")).collect();
        assert_eq!(
            rows,
            [
                "accept direct endpoints user curl + .example.com TCP/443 user/curl.toml 3",
                "block null endpoints user curl - * user/curl.toml 4",
                "ask direct mode fallback fallback mode = \\prompt\\ fallback.toml 1",
            ]
        );
        assert!(answers.iter().all(|answer| answer["trace"].as_array().is_some_and(|steps| steps.len() > 5)));
    }

    #[test]
    fn a_line_that_cannot_be_read_is_a_refusal_in_its_place() {
        let (answers, exit) =
            batch("nonsense\n{\"exe\":\"/x\",\"to\":\"a..b\"}\n{\"exe\":\"/x\",\"too\":\"a\"}\n{\"exe\":\"/x\",\"to\":\"a\"}\n");
        assert_eq!(exit, Exit::Usage);
        let refused: Vec<bool> =
            answers.iter().map(|answer| answer["error"].is_string() && answer["verdict"] == "block").collect();
        assert_eq!(refused, [true, true, true, false]);
    }
}
