//! The status as one screen, and the open prompts.

use super::text::{Colour, Paint, count, date, escape, program, span, tail, widths};
use crate::control::{OlderFlow, Prompt, State, Status, Way};
use crate::flow::Direction;

const LABEL_WIDTH: usize = 10;
const NAME_WIDTH: usize = 60;
/// Older flows that fit the screen.
const OLDER_LINES: usize = 10;

/// The state of a running Portreeve; `now` in milliseconds since the Unix epoch.
#[must_use]
pub fn status_screen(status: &Status, now: u64, colour: Colour) -> String {
    let state = match status.state {
        State::Active => colour.paint(Paint::Green, "active"),
        State::Inactive => colour.paint(Paint::Red, "not active"),
    };
    let way = match status.way {
        Way::Up => "for this machine",
        Way::Exec => "around one command",
    };
    let running = span(now.saturating_sub(status.since));
    let mut text = format!("{} is {state} {way}, level {}\n", colour.paint(Paint::Bold, "Portreeve"), status.level);
    for (label, value) in rows(status, &running) {
        text.push_str(&format!("  {label:LABEL_WIDTH$}{value}\n"));
    }
    for note in &status.notes {
        text.push_str(&format!("  {} {}\n", colour.paint(Paint::Yellow, "note:"), escape(note)));
    }
    text.push_str(&older(&status.older, colour));
    text.push_str(&counters(status));
    text
}

fn rows(status: &Status, running: &str) -> Vec<(&'static str, String)> {
    let mut rows = vec![
        ("since", format!("{} ({running}), PID {}, version {}", date(status.since), status.pid, escape(&status.version))),
        ("profiles", profiles(status)),
        ("flows", flows(status)),
        ("device", format!("{}, MTU {}, {}", escape(&status.device), status.mtu, list(&status.addresses, "no address"))),
        ("DNS", format!("asks {}", list(&status.dns_upstreams, "whom the program asks"))),
        ("inbound", if status.inbound_judged { "judged".to_owned() } else { "new inbound flows are not judged yet".to_owned() }),
    ];
    if !status.older.is_empty() {
        let open = status.older.iter().filter(|flow| flow.open).count();
        rows.push(("older", format!("{open} beside the router, {} ended", status.older.len() - open)));
    }
    if let Some(plan) = &status.plan {
        rows.push(("plan", escape(plan).to_string()));
    }
    rows.push(("socket", escape(&status.socket.display().to_string()).to_string()));
    rows
}

fn profiles(status: &Status) -> String {
    let sources: Vec<String> =
        status.profiles.iter().map(|source| format!("{} from {}", source.profiles, escape(&source.from))).collect();
    if sources.is_empty() { "none: everything is refused".to_owned() } else { sources.join(", ") }
}

fn flows(status: &Status) -> String {
    let prompts = match status.prompts {
        0 => String::new(),
        prompts => format!(", {} (`portreeve prompt list`)", count(prompts, "open prompt")),
    };
    format!("{} open, {} undecided{prompts}", status.flows_open, status.flows_pending)
}

/// Flows that are older than Portreeve, one a line.
fn older(flows: &[OlderFlow], colour: Colour) -> String {
    let line = |flow: &OlderFlow| {
        let pid = flow.pid.map(|pid| format!("[{pid}]")).unwrap_or_default();
        let (verdict, who) = (colour.verdict(&flow.verdict, 6), program(flow.exe.as_deref()));
        let way = match flow.direction {
            Direction::Outbound => format!("{} -> {}", escape(&flow.src), escape(&flow.dst)),
            Direction::Inbound => format!("{} <- {}", escape(&flow.dst), escape(&flow.src)),
        };
        format!("  older  {verdict} {who}{pid} {way} {}\n", escape(&flow.proto))
    };
    let mut text: String = flows.iter().take(OLDER_LINES).map(line).collect();
    if flows.len() > OLDER_LINES {
        text.push_str(&format!("  older  … {} more; `portreeve status --json` lists them\n", flows.len() - OLDER_LINES));
    }
    text
}

fn list(texts: &[String], none: &str) -> String {
    if texts.is_empty() { none.to_owned() } else { escape(&texts.join(", ")).to_string() }
}

/// Counters that counted something, two columns.
fn counters(status: &Status) -> String {
    let counted: Vec<[String; 2]> = status
        .counters
        .iter()
        .filter(|(_, number)| **number > 0)
        .map(|(name, number)| [escape(name).to_string(), number.to_string()])
        .collect();
    let [w_name, w_number] = widths(&counted);
    let mut text = String::new();
    for [name, number] in &counted {
        text.push_str(&format!("  {name:w_name$}  {number:>w_number$}\n"));
    }
    if text.is_empty() { text } else { format!("\n{text}") }
}

/// Open prompts with what to type; `now` in milliseconds since the Unix epoch.
#[must_use]
pub fn prompts_table(prompts: &[Prompt], now: u64, colour: Colour) -> String {
    if prompts.is_empty() {
        return "nobody waits for an answer\n".to_owned();
    }
    let heading = ["ID", "PROGRAM", "WANTS", "PROTO", "PID", "UID", "LEFT"].map(ToOwned::to_owned);
    let mut rows = vec![heading];
    rows.extend(prompts.iter().map(|prompt| prompt_row(prompt, now)));
    let widths = widths(&rows);
    let mut text = String::new();
    for (nth, row) in rows.iter().enumerate() {
        let line = row.iter().zip(widths).map(|(cell, width)| format!("{cell:width$}")).collect::<Vec<_>>().join("  ");
        let line = line.trim_end();
        text.push_str(&if nth == 0 { colour.paint(Paint::Bold, line) } else { line.to_owned() });
        text.push('\n');
    }
    text.push_str("\n`portreeve prompt allow ID` or `portreeve prompt deny ID`; no answer blocks\n");
    text
}

fn prompt_row(prompt: &Prompt, now: u64) -> [String; 7] {
    let wanted = match &prompt.name {
        Some(name) => format!("{} ({})", escape(name), escape(&prompt.dst)),
        None => escape(&prompt.dst).to_string(),
    };
    let number = |number: Option<u32>| number.map_or_else(|| "?".to_owned(), |number| number.to_string());
    let who = if prompt.program.is_empty() { program(prompt.exe.as_deref()) } else { escape(&prompt.program).to_string() };
    [
        prompt.id.to_string(),
        tail(&who, 24),
        tail(&wanted, NAME_WIDTH),
        escape(&prompt.proto).to_string(),
        number(prompt.pid),
        number(prompt.uid),
        span(prompt.deadline_ms.saturating_sub(now)),
    ]
}

#[cfg(test)]
mod tests {
    use super::super::sample;
    use super::*;

    #[test]
    fn the_status_is_one_screen_and_says_what_is_not_judged() {
        let screen = status_screen(&sample::status(), 1_700_000_300_000, Colour::Never);
        let lines: Vec<&str> = screen.lines().collect();
        assert_eq!(lines[0], "Portreeve is active for this machine, level secure");
        assert!(lines[1].starts_with("  since     ") && lines[1].ends_with(" (5 min), PID 321, version 0.1.0"), "{}", lines[1]);
        assert_eq!(
            lines[2..],
            [
                "  profiles  14 from shipped, 1 from /etc/portreeve/profiles",
                "  flows     12 open, 1 undecided, 1 open prompt (`portreeve prompt list`)",
                "  device    portreeve0, MTU 1500, 198.18.0.1/32, 2001:db8::1/128",
                "  DNS       asks 192.0.2.53",
                "  inbound   new inbound flows are not judged yet",
                "  older     1 beside the router, 1 ended",
                "  plan      routes/default.toml",
                "  socket    /run/portreeve/portreeve.sock",
                "  note: country rules have no data: they refuse",
                "  older  accept curl[4711] 10.9.0.2:40000 -> 203.0.113.10:443 tcp",
                "  older  block  curl[4711] 10.9.0.2:40000 -> 203.0.113.10:443 tcp",
                "",
                "  packets_in  1000",
            ]
        );
    }

    #[test]
    fn an_empty_profile_set_is_said_to_refuse_everything() {
        let status = Status { profiles: Vec::new(), ..sample::status() };
        assert!(status_screen(&status, 0, Colour::Never).contains("profiles  none: everything is refused"));
    }

    #[test]
    fn older_flows_are_listed_as_far_as_they_fit_and_nothing_is_if_there_are_none() {
        let mut status = Status { older: vec![sample::older("accept"); 12], ..sample::status() };
        let screen = status_screen(&status, 0, Colour::Never);
        assert!(screen.contains("  older  … 2 more"), "{screen}");
        status.older = vec![OlderFlow { direction: Direction::Inbound, exe: None, ..sample::older("accept") }];
        assert!(status_screen(&status, 0, Colour::Never).contains("?[4711] 203.0.113.10:443 <- 10.9.0.2:40000 tcp"));
        status.older.clear();
        assert!(!status_screen(&status, 0, Colour::Never).contains("older"));
    }

    #[test]
    fn prompts_are_a_table_with_what_to_type() {
        let table = prompts_table(&[sample::prompt()], 1_700_000_015_000, Colour::Never);
        let lines: Vec<&str> = table.lines().collect();
        assert_eq!(lines[0], "ID  PROGRAM  WANTS                           PROTO  PID   UID   LEFT");
        assert_eq!(lines[1], "5   curl     example.com (203.0.113.10:443)  tcp    4711  1000  45 s");
        assert!(lines[3].contains("portreeve prompt allow ID"));
        assert_eq!(prompts_table(&[], 0, Colour::Never), "nobody waits for an answer\n");
    }

    #[test]
    fn a_prompt_cannot_forge_another_line() {
        let mut prompt = sample::prompt();
        prompt.program = "good\n6   bad".to_owned();
        prompt.name = Some("\u{202e}moc.live".to_owned());
        let table = prompts_table(&[prompt], 0, Colour::Never);
        assert_eq!(table.lines().count(), 4, "{table}");
        assert!(table.contains("good\\n6   bad") && table.contains("\\u{202e}moc.live"), "{table}");
    }
}
