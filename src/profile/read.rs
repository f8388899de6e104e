//! A profile file → a valid [`Profile`], or all of its faults.
//!
//! Keeps one rule: one fault anywhere in a file and there is no profile. Does not look at other files.

use std::ops::Range;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;

use regex::{Regex, RegexBuilder};

use super::document::{Document, Placed, Table};
use super::fault::{Fault, Faults, nearest};
use super::keys;
use super::level::{Level, PerLevel};
use super::list::RuleList;
use super::rule::Rule;
use super::settings::{Expect, Flag, Mode, PerFlag, Profile, RunAs};
use super::source::{Held, Layer, Source};
use crate::process::{Framework, HomePath, Matching, Tag, check_template};

/// The kinds of tags that `[match] tag` may name.
const TAG_KINDS: [&str; 7] = ["flatpak", "snap", "appimage", "unit", "container", "script", "portreeve"];
/// A pattern that compiles to more than this is no honest command line pattern.
const MAX_REGEX_BYTES: usize = 256 * 1024;

/// Reads one file of `layer`; None when it holds nothing but blanks, which masks a vendor's file of the same name.
///
/// # Errors
///
/// All faults of the file.
pub fn read_profile(layer: Layer, file: &Path, text: &str) -> Result<Option<Profile>, Vec<Fault>> {
    if text.trim().is_empty() {
        return Ok(None);
    }
    let (document, entries) = Document::parse(text, Faults::new(file, text));
    let reader = Reader { document: &document, layer, file: Arc::new(file.to_owned()), profile: Arc::from("") };
    let profile =
        if document.faults.borrow().is_empty() { reader.profile(&document.top(&entries, &keys::names(""))) } else { None };
    let faults = document.faults.into_inner();
    match profile {
        Some(profile) if faults.is_empty() => Ok(Some(profile)),
        Some(_) | None => Err(faults.into_list()),
    }
}

struct Reader<'d, 'a> {
    document: &'d Document<'a>,
    layer: Layer,
    file: Arc<PathBuf>,
    profile: Arc<str>,
}

impl Reader<'_, '_> {
    fn profile(mut self, top: &Table<'_, '_>) -> Option<Profile> {
        let (name, (line, column)) = self.name(top);
        self.profile = Arc::clone(&name);
        let matching = self.matching(top);
        let scope = top.table("scope", "[scope]", &keys::names("scope"));
        let flags = top.table("flags", "[flags]", &keys::names("flags"));
        let labels = top.table("labels", "[labels]", &keys::names("labels"));
        Some(Profile {
            name,
            layer: self.layer,
            file: Arc::clone(&self.file),
            line,
            column,
            matching,
            level: top.string("level").and_then(|text| Some(self.held(&text, self.document.level(&text)?))),
            mode: self.modes(top),
            flags: PerFlag::from_fn(|flag| {
                let table = match flag {
                    Flag::Internet | Flag::Lan | Flag::Localhost => scope,
                    _ => flags,
                };
                let levels = table?.levels(flag.key())?;
                Some(self.held(&levels, levels.value))
            }),
            run_as: flags
                .and_then(|flags| flags.string("run_as"))
                .and_then(|text| Some(self.held(&text, self.word(&text, "run_as", &RunAs::ALL)?))),
            endpoints: self.rules(top, "endpoints"),
            service_endpoints: self.rules(top, "service_endpoints"),
            domain_whitelist: self.list(top, "domain_whitelist", "write a domain such as example.com or *.example.org"),
            connect_ports: self.list(top, "connect_ports", "write a port such as TCP/443 or UDP/50000-60000"),
            listen_ports: self.list(top, "listen_ports", "write a port such as TCP/22"),
            blocked_labels: labels.and_then(|labels| self.labels(&labels)),
            framework: self.framework(top),
            expects: self.expects(top),
        })
    }

    fn source(&self, span: &Range<usize>, text: &str) -> Source {
        Source {
            layer: self.layer,
            profile: Arc::clone(&self.profile),
            text: Arc::from(text),
            file: Arc::clone(&self.file),
            line: self.document.faults.borrow().line(span.start),
        }
    }

    fn held<T, V>(&self, placed: &Placed<T>, value: V) -> Held<V> {
        Held { value, source: self.source(&placed.span, &placed.text) }
    }

    /// Global and Fallback have one file each, so their name may be left out.
    fn name(&self, top: &Table<'_, '_>) -> (Arc<str>, (u32, u32)) {
        let Some(name) = top.string("name") else {
            if matches!(self.layer, Layer::User | Layer::Stamp) && top.key_span("name").is_none() {
                self.document.fault(&(0..0), "the profile has no name", "write name = \"…\" in the first line");
            }
            return (Arc::from(self.layer.as_str()), (1, 1));
        };
        if name.value.trim().is_empty() || name.value.chars().any(char::is_control) {
            self.document.fault(&name.span, "the name is empty or holds control characters", "write a name such as \"curl\"");
        }
        (Arc::from(name.value), self.document.faults.borrow().place(name.span.start))
    }

    fn matching(&self, top: &Table<'_, '_>) -> Matching {
        let Some(table) = top.table("match", "[match]", &keys::names("match")) else { return Matching::default() };
        if matches!(self.layer, Layer::Global | Layer::Fallback) {
            let span = top.key_span("match").unwrap_or(0..0);
            self.document.fault(&span, format!("the {} profile is for all programs", self.layer.as_str()), "remove [match]");
        }
        let each = |key| table.strings(key).map(|list| list.value).unwrap_or_default();
        Matching {
            paths: each("path").iter().filter_map(|text| self.path(text)).collect(),
            prefixes: each("prefix").iter().filter_map(|text| self.path(text)).collect(),
            cmdlines: each("cmdline").iter().filter_map(|text| self.regex(text)).collect(),
            tags: each("tag").iter().filter_map(|text| self.tag(text)).collect(),
        }
    }

    fn path(&self, text: &Placed<String>) -> Option<HomePath> {
        let typed = &text.value;
        let bad = if typed.is_empty() {
            Some("the path is empty")
        } else if typed.split('/').any(|part| part == "..") {
            Some("the path holds `..`")
        } else if typed.starts_with('~') && !typed.starts_with("~/") {
            Some("the path names one user's home by `~`")
        } else if typed.contains(['*', '?', '\0']) {
            Some("the path holds a wildcard")
        } else {
            None
        };
        match bad {
            Some(what) => {
                self.document.fault(&text.span, what, "write a full path such as /usr/bin/curl or ~/bin/tool");
                None
            }
            None => Some(HomePath::new(typed)),
        }
    }

    fn regex(&self, text: &Placed<String>) -> Option<Regex> {
        match RegexBuilder::new(&text.value).size_limit(MAX_REGEX_BYTES).build() {
            Ok(regex) => Some(regex),
            Err(error) => {
                let error = error.to_string();
                let what = error.lines().last().unwrap_or("").trim_start_matches("error: ").to_owned();
                self.document.fault(
                    &text.span,
                    format!("the regular expression is faulty: {what}"),
                    "see docs.rs/regex for the syntax",
                );
                None
            }
        }
    }

    fn tag(&self, text: &Placed<String>) -> Option<Tag> {
        let kind = text.value.split_once(':').filter(|(_, value)| !value.is_empty()).map(|(kind, _)| kind);
        if kind.is_some_and(|kind| TAG_KINDS.contains(&kind)) {
            return Some(Tag(text.value.clone()));
        }
        let hint = kind.and_then(|kind| nearest(kind, TAG_KINDS)).map_or_else(
            || format!("write KIND:VALUE, where KIND is one of {}", TAG_KINDS.join(", ")),
            |near| format!("did you mean `{near}:`?"),
        );
        self.document.fault(&text.span, format!("`{}` is no tag", text.value), hint);
        None
    }

    fn word<T: Copy + ToString>(&self, text: &Placed<String>, what: &str, all: &[T]) -> Option<T> {
        if let Some(found) = all.iter().find(|one| one.to_string() == text.value) {
            return Some(*found);
        }
        let forms: Vec<String> = all.iter().map(ToString::to_string).collect();
        let hint = nearest(&text.value, forms.iter().map(String::as_str))
            .map_or_else(|| format!("write one of {}", forms.join(", ")), |near| format!("did you mean `{near}`?"));
        self.document.fault(&text.span, format!("`{}` is no {what}", text.value), hint);
        None
    }

    fn modes(&self, top: &Table<'_, '_>) -> PerLevel<Option<Held<Mode>>> {
        if let Some(table) = top.table_if_any("mode", "mode", &["dynamic", "secure", "fortress"]) {
            return PerLevel::from_fn(|level| {
                let text = table.string(&level.to_string())?;
                let mode = self.word(&text, "mode", &Mode::ALL)?;
                Some(Held { value: mode, source: self.source(&text.span, &format!("mode.{}", text.text)) })
            });
        }
        let held = top.string("mode").and_then(|text| Some(self.held(&text, self.word(&text, "mode", &Mode::ALL)?)));
        PerLevel::from_fn(|_| held.clone())
    }

    fn rules(&self, top: &Table<'_, '_>, key: &str) -> RuleList {
        let mut rules = Vec::new();
        for text in top.strings(key).map(|list| list.value).unwrap_or_default() {
            match text.value.parse::<Rule>() {
                Ok(rule) => rules.push(Held { value: rule, source: self.source(&text.span, text.value.trim()) }),
                Err(error) => self.split_fault(&text.span, &error.to_string(), ""),
            }
        }
        RuleList::new(rules)
    }

    /// Error texts of the small grammars are "what; what would be right".
    fn split_fault(&self, span: &Range<usize>, error: &str, hint: &str) {
        match error.split_once("; ") {
            Some((what, right)) => self.document.fault(span, what, right),
            None => self.document.fault(span, error, hint),
        }
    }

    fn list<T>(&self, top: &Table<'_, '_>, key: &str, hint: &str) -> Option<Held<Vec<T>>>
    where
        T: FromStr<Err: ToString>,
    {
        let list = top.strings(key)?;
        let mut values = Vec::with_capacity(list.value.len());
        for text in &list.value {
            match text.value.trim().parse::<T>() {
                Ok(value) => values.push(value),
                Err(error) => self.split_fault(&text.span, &error.to_string(), hint),
            }
        }
        Some(self.held(&list, values))
    }

    fn labels(&self, table: &Table<'_, '_>) -> Option<Held<Vec<Box<str>>>> {
        let list = table.strings("block")?;
        for text in list.value.iter().filter(|text| !super::entity::is_word(&text.value)) {
            self.document.fault(&text.span, format!("`{}` is no label", text.value), "write a label such as \"tracker\"");
        }
        let names = list.value.iter().map(|text| Box::from(text.value.as_str())).collect();
        Some(self.held(&list, names))
    }

    fn framework(&self, top: &Table<'_, '_>) -> Option<Held<Framework>> {
        let table = top.table("framework", "[framework]", &keys::names("framework"))?;
        let span = top.key_span("framework").unwrap_or(0..0);
        let (find, build) = (table.string("find"), table.string("build"));
        let (parent, merge) = (table.number("parent_level", 1..=64), table.boolean("merge_with_parent"));
        let is_virtual = table.boolean("virtual").is_some_and(|on| on.value);
        let framework = match (find, build, parent) {
            (Some(find), Some(build), None) => self.script(&find, &build, is_virtual)?,
            (None, None, Some(level)) => Framework::Parent { level: level.value, merge: merge.is_some_and(|on| on.value) },
            _ => {
                self.document.fault(&span, "the framework is incomplete or mixed", "write find and build, or parent_level");
                return None;
            }
        };
        Some(Held { value: framework, source: self.source(&span, "[framework]") })
    }

    fn script(&self, find: &Placed<String>, build: &Placed<String>, is_virtual: bool) -> Option<Framework> {
        let regex = self.regex(find)?;
        if regex.captures_len() < 2 {
            self.document.fault(&find.span, "`find` has no group", "put the part that names the script in parentheses");
        }
        let build_list: Vec<String> = build.value.split('|').map(|part| part.trim().to_owned()).collect();
        for template in &build_list {
            if let Err(part) = check_template(template, &regex) {
                let hint = format!("write {{1}} to {{{}}} or {{CWD}}", regex.captures_len().saturating_sub(1));
                self.document.fault(&build.span, format!("`{part}` stands for nothing"), hint);
            } else if template.is_empty() {
                self.document.fault(&build.span, "an alternative of `build` is empty", "write {1} or {CWD}/{1}");
            }
        }
        Some(Framework::Script { find: regex, build: build_list, is_virtual })
    }

    fn expects(&self, top: &Table<'_, '_>) -> Vec<Expect> {
        let tables = top.tables("expect", "[[expect]]", &keys::names("expect"));
        tables.into_iter().filter_map(|(span, table)| self.expect(&span, &table)).collect()
    }

    fn expect(&self, span: &Range<usize>, table: &Table<'_, '_>) -> Option<Expect> {
        let text = |key| table.string(key).map(|text| text.value);
        let on = |key| table.boolean(key).is_some_and(|on| on.value);
        let level = table.string("level").map_or(Some(Level::Dynamic), |text| self.document.level(&text));
        let verdict = table.string("verdict");
        let verdict = verdict.and_then(|text| self.word(&text, "verdict", &["accept", "block", "drop", "ask"]));
        let to = table.string("to");
        for key in ["to", "verdict"] {
            if table.key_span(key).is_none() {
                self.document.fault(
                    span,
                    format!("the case has no `{key}`"),
                    "write to = \"example.com:443\" and verdict = \"accept\"",
                );
            }
        }
        Some(Expect {
            to: to?.value,
            verdict: verdict?.to_owned(),
            check: text("check"),
            proto: text("proto"),
            name: text("name"),
            level: level?,
            inbound: on("inbound"),
            question: on("question"),
            uid: table.number("uid", 0..=u32::MAX).map(|number| number.value),
            exe: text("exe"),
            cmdline: text("cmdline"),
            line: self.document.faults.borrow().line(span.start),
        })
    }
}
