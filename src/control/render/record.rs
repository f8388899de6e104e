//! Flows and events: one line each, or rows of a table.

use super::text::{Colour, Paint, amount, clock, count, escape, program, tail, widths};
use crate::control::{Closed, Event};
use crate::flow::{Direction, Record};

const PROGRAM_WIDTH: usize = 20;
const TARGET_WIDTH: usize = 48;

/// One record as one line without an end: time, verdict, program, target, reason, and for a flow that ended what became of it.
#[must_use]
pub fn record_line(record: &Record, colour: Colour) -> String {
    let pid = record.pid.map(|pid| format!("[{pid}]")).unwrap_or_default();
    let who = format!("{}{pid}", program(record.exe.as_deref()));
    let mut line = format!(
        "{} {} {} {}",
        clock(record.end.unwrap_or(record.start)),
        colour.verdict(&record.verdict, 6),
        colour.paint(Paint::Bold, &who),
        target_with_address(record),
    );
    line.push_str(&colour.paint(Paint::Dim, &format!("  {}", reason(record))));
    if let Some(end) = ending(record) {
        line.push_str(&format!("  {end}"));
    }
    line
}

/// One record as one line of JSON without an end, as `flows --json` and `exec --record` have it.
#[must_use]
pub fn record_json(record: &Record) -> String {
    // Texts, numbers and nulls: there is nothing in a record that JSON cannot hold.
    serde_json::to_string(record).unwrap_or_default()
}

/// One event as one line; None for what a person need not see: a flow that was opened gets its line with the verdict, and a refused
/// flow has nothing to tell at its end.
#[must_use]
pub fn event_line(event: &Event, colour: Colour) -> Option<String> {
    match event {
        Event::Opened(_) => None,
        Event::Ended(record) if record.verdict != "accept" => None,
        Event::Decided(record) | Event::Ended(record) | Event::Question(record) => Some(record_line(record, colour)),
        Event::Prompt(prompt) => {
            let name = prompt.name.as_deref().unwrap_or(&prompt.dst);
            let ask = colour.verdict("ask", 6);
            let who = colour.paint(Paint::Bold, &escape(&prompt.program).to_string());
            let (id, proto) = (prompt.id, escape(&prompt.proto));
            Some(format!(
                "{} {ask} {who} -> {} {proto}  `portreeve prompt allow {id}` or `deny {id}`",
                clock(prompt.since_ms),
                escape(name),
            ))
        }
        Event::PromptClosed { id, how } => Some(format!("prompt {id} {}", closed(*how))),
        Event::Level(level) => Some(format!("the security level is {level} now")),
        Event::Reloaded(reloaded) => Some(format!(
            "profiles were read again: {}, {} cut",
            count(u64::try_from(reloaded.profiles).unwrap_or(u64::MAX), "profile"),
            count(reloaded.cut, "flow")
        )),
        Event::Notice(text) => Some(escape(text).to_string()),
    }
}

/// The table of `flows`, a heading first; an empty list says so.
#[must_use]
pub fn flows_table(records: &[Record], colour: Colour) -> String {
    if records.is_empty() {
        return "no flows yet\n".to_owned();
    }
    let heading = ["TIME", "PROGRAM", "TARGET", "PROTO", "VERDICT", "UP", "DOWN", "REASON"].map(ToOwned::to_owned);
    let mut rows = vec![heading];
    rows.extend(records.iter().map(|record| {
        [
            clock(record.start),
            tail(&program(record.exe.as_deref()), PROGRAM_WIDTH),
            tail(&target(record), TARGET_WIDTH),
            escape(&record.proto).to_string(),
            escape(&record.verdict).to_string(),
            traffic(record, record.bytes_up),
            traffic(record, record.bytes_down),
            reason(record),
        ]
    }));
    let widths = widths(&rows);
    let mut text = String::new();
    for (nth, row) in rows.iter().enumerate() {
        let line = table_row(row, &widths, nth > 0, colour);
        let line = line.trim_end();
        text.push_str(&if nth == 0 { colour.paint(Paint::Bold, line) } else { line.to_owned() });
        text.push('\n');
    }
    text
}

fn table_row(row: &[String; 8], widths: &[usize; 8], is_flow: bool, colour: Colour) -> String {
    let [time, program, target, proto, verdict, up, down, reason] = row;
    let [w_time, w_program, w_target, w_proto, w_verdict, w_up, w_down, _] = *widths;
    let verdict = if is_flow { colour.verdict(verdict, w_verdict) } else { format!("{verdict:w_verdict$}") };
    format!(
        "{time:w_time$}  {program:w_program$}  {target:w_target$}  {proto:w_proto$}  {verdict}  {up:>w_up$}  {down:>w_down$}  {reason}"
    )
}

/// Name or address with the port; for an inbound flow who came, and to which port of ours.
fn target(record: &Record) -> String {
    let shown = match (record.direction, &record.name) {
        (_, Some(name)) if record.proto == "dns" => name.clone(),
        (Direction::Outbound, Some(name)) => format!("{name}{}", port(&record.dst)),
        (Direction::Outbound, None) => record.dst.clone(),
        (Direction::Inbound, _) => match port(&record.dst).as_str() {
            "" => format!("from {}", record.src),
            port => format!("from {} to {port}", record.src),
        },
    };
    escape(&shown).to_string()
}

/// The target with the address behind a name, for lines that have room.
fn target_with_address(record: &Record) -> String {
    let proto = escape(&record.proto);
    match (record.direction, &record.name) {
        (_, Some(name)) if record.proto == "dns" => format!("asks for {}", escape(name)),
        (Direction::Outbound, Some(_)) => format!("-> {} ({}) {proto}", target(record), escape(&record.dst)),
        (Direction::Outbound, None) => format!("-> {} {proto}", target(record)),
        (Direction::Inbound, _) => format!("<- {} on {} {proto}", escape(&record.src), escape(&record.dst)),
    }
}

/// `:443` of `203.0.113.10:443` and `[2001:db8::10]:443`; nothing of a bare address.
fn port(address: &str) -> String {
    address.parse::<std::net::SocketAddr>().map(|socket| format!(":{}", socket.port())).unwrap_or_default()
}

fn reason(record: &Record) -> String {
    match &record.rule {
        Some(rule) => format!("{}: {}", escape(&record.check), escape(rule)),
        None => escape(&record.check).to_string(),
    }
}

fn traffic(record: &Record, bytes: u64) -> String {
    if record.proto == "dns" || (record.verdict != "accept" && bytes == 0) { "-".to_owned() } else { amount(bytes) }
}

fn ending(record: &Record) -> Option<String> {
    record.end?;
    if record.verdict != "accept" || record.proto == "dns" {
        return record.outcome.as_ref().map(|outcome| escape(outcome).to_string());
    }
    let outcome = escape(record.outcome.as_deref().unwrap_or("ended"));
    Some(format!("{outcome}, {} up, {} down", amount(record.bytes_up), amount(record.bytes_down)))
}

fn closed(how: Closed) -> &'static str {
    match how {
        Closed::Allowed => "was allowed",
        Closed::Denied => "was denied",
        Closed::Expired => "got no answer in time: blocked",
        Closed::Gone => "is no longer needed",
    }
}

#[cfg(test)]
mod tests {
    use super::super::sample;
    use super::*;
    use crate::control::Reloaded;
    use crate::profile::Level;

    /// Everything after the time, which depends on the zone of the machine.
    fn after_time(line: &str) -> &str {
        line.split_once(' ').map_or("", |(_, rest)| rest)
    }

    #[test]
    fn a_flow_that_ended_tells_all() {
        assert_eq!(
            after_time(&record_line(&sample::record(), Colour::Never)),
            "accept curl[4711] -> example.com:443 (203.0.113.10:443) tcp  endpoints: + .example.com (user/curl.toml:4)  closed, 1.2 kB up, \
             104 MB down"
        );
    }

    #[test]
    fn a_record_as_json_is_one_line_with_the_keys_of_the_design() {
        let line = record_json(&Record { name: Some("two\nlines".to_owned()), ..sample::record() });
        assert!(!line.contains('\n'));
        for key in ["id", "start", "end", "direction", "proto", "src", "dst", "name", "exe", "pid", "uid", "profile"] {
            assert!(line.contains(&format!("\"{key}\":")), "{key}");
        }
        for key in ["confidence", "verdict", "check", "rule", "lane", "bytes_up", "bytes_down", "rtt_us"] {
            assert!(line.contains(&format!("\"{key}\":")), "{key}");
        }
    }

    #[test]
    fn a_refused_flow_tells_why() {
        let record = sample::refused();
        assert_eq!(
            after_time(&record_line(&record, Colour::Never)),
            "block  ssh[99] -> [2001:db8::10]:22 tcp  scope: internet = false (fallback.toml:3)"
        );
    }

    #[test]
    fn an_inbound_flow_shows_who_came_and_to_which_port() {
        let base = Record { direction: Direction::Inbound, src: "192.0.2.7:5353".to_owned(), ..sample::refused() };
        for (dst, shown) in [("192.0.2.2:22", "from 192.0.2.7:5353 to :22"), ("192.0.2.2", "from 192.0.2.7:5353")] {
            let table = flows_table(&[Record { dst: dst.to_owned(), ..base.clone() }], Colour::Never);
            assert!(table.contains(&format!("  {shown}  ")), "{table}");
        }
    }

    #[test]
    fn a_question_shows_the_name_alone() {
        let record = Record { proto: "dns".to_owned(), end: Some(1), outcome: None, ..sample::record() };
        let line = record_line(&record, Colour::Never);
        assert_eq!(after_time(&line), "accept curl[4711] asks for example.com  endpoints: + .example.com (user/curl.toml:4)");
    }

    #[test]
    fn colours_come_only_when_asked_for() {
        assert!(!record_line(&sample::record(), Colour::Never).contains('\x1b'));
        assert!(record_line(&sample::record(), Colour::Ansi).contains("\x1b[32maccept\x1b[0m"));
        assert!(record_line(&sample::refused(), Colour::Ansi).contains("\x1b[31mblock \x1b[0m"));
    }

    #[test]
    fn no_field_of_a_record_reaches_the_terminal_raw() {
        let evil = || Some("\x1b]0;x\x07\u{202e}".to_owned());
        let bare = || "\x1b]0;x\x07\u{202e}\n".to_owned();
        let base = sample::record();
        for record in [
            Record { exe: evil(), name: evil(), rule: evil(), outcome: evil(), ..base.clone() },
            Record { dst: bare(), src: bare(), proto: bare(), check: bare(), verdict: bare(), name: None, ..base.clone() },
            Record { direction: Direction::Inbound, dst: bare(), src: bare(), ..base },
        ] {
            for text in
                [record_line(&record, Colour::Never), flows_table(std::slice::from_ref(&record), Colour::Never).replace('\n', "")]
            {
                assert!(!text.chars().any(|c| c.is_control() || c == '\u{202e}'), "{text:?}");
            }
        }
    }

    #[test]
    fn the_table_is_aligned_and_has_a_heading() {
        let table = flows_table(&[sample::record(), sample::refused()], Colour::Never);
        let lines: Vec<&str> = table.lines().collect();
        let column = |line: &str, word: &str| line.find(word);
        assert_eq!(lines.len(), 3);
        assert_eq!(column(lines[0], "PROGRAM"), column(lines[1], "curl"));
        assert_eq!(column(lines[0], "TARGET"), column(lines[2], "[2001:db8::10]:22"));
        assert_eq!(column(lines[0], "VERDICT"), column(lines[1], "accept"));
        assert_eq!(column(lines[0], "VERDICT"), column(lines[2], "block"));
        assert_eq!(column(lines[0], "REASON"), column(lines[2], "scope:"));
        assert!(lines[1].contains("1.2 kB  104 MB"), "{}", lines[1]);
        assert_eq!(flows_table(&[], Colour::Never), "no flows yet\n");
    }

    #[test]
    fn a_monitor_shows_each_flow_when_it_is_judged_and_when_it_ends() {
        let line = |event| event_line(&event, Colour::Never);
        assert_eq!(line(Event::Opened(sample::record())), None);
        assert_eq!(line(Event::Ended(sample::refused())), None, "a refusal was shown when it was decided");
        assert!(line(Event::Decided(sample::refused())).is_some());
        assert!(line(Event::Ended(sample::record())).is_some());
        assert_eq!(line(Event::Level(Level::Fortress)).as_deref(), Some("the security level is fortress now"));
        assert_eq!(
            line(Event::PromptClosed { id: 3, how: Closed::Expired }).as_deref(),
            Some("prompt 3 got no answer in time: blocked")
        );
        let reloaded = Reloaded { profiles: 1, epoch: 4, cut: 2 };
        assert_eq!(line(Event::Reloaded(reloaded)).as_deref(), Some("profiles were read again: 1 profile, 2 flows cut"));
    }

    #[test]
    fn a_prompt_says_what_to_type_and_hides_tricks() {
        let mut prompt = sample::prompt();
        prompt.name = Some("moc.\u{202e}elpmaxe".to_owned());
        let line = event_line(&Event::Prompt(prompt), Colour::Never).expect("prompts are shown");
        assert!(line.ends_with("ask    curl -> moc.\\u{202e}elpmaxe tcp  `portreeve prompt allow 5` or `deny 5`"), "{line}");
    }
}
