//! Finding the real actor behind a program: the script of an interpreter, or a parent in the process tree.
//!
//! Keeps one rule: when no better actor is found, the program stays what it is. Does not look at any file; whether a path
//! exists is answered from outside.

use std::path::{Path, PathBuf};

use regex::{Captures, Regex};

use super::fingerprint::tidy;

/// The `[framework]` table of a profile.
#[derive(Clone, Debug)]
pub enum Framework {
    /// Down the tree: what does the interpreter run?
    Script {
        /// Runs over the whole command line.
        find: Regex,
        /// Templates, tried from left to right.
        build: Vec<String>,
        /// The result need not exist.
        is_virtual: bool,
    },
    /// Up the tree: 1 is the parent.
    Parent { level: u32, merge: bool },
}

/// What a template may refer to besides the groups.
#[derive(Clone, Copy, Debug)]
pub struct Surroundings<'a> {
    pub cwd: Option<&'a Path>,
    pub home: Option<&'a Path>,
}

/// The first path that `build` makes from `cmdline` and that is acceptable.
#[must_use]
pub fn rewrite(
    find: &Regex,
    build: &[String],
    is_virtual: bool,
    cmdline: &str,
    around: Surroundings<'_>,
    exists: &dyn Fn(&Path) -> bool,
) -> Option<PathBuf> {
    let groups = find.captures(cmdline)?;
    build.iter().filter_map(|template| fill(template, &groups, around)).find_map(|text| accept(&text, is_virtual, around, exists))
}

/// Replaces `{1}`…`{n}` and `{CWD}`. A group that took no part or an unknown working directory leaves no result.
fn fill(template: &str, groups: &Captures<'_>, around: Surroundings<'_>) -> Option<String> {
    let mut text = String::with_capacity(template.len());
    let mut rest = template;
    while let Some((before, after)) = rest.split_once('{') {
        let (key, after) = after.split_once('}')?;
        text.push_str(before);
        match key {
            "CWD" => text.push_str(around.cwd?.to_str()?),
            number => text.push_str(groups.get(number.parse().ok()?)?.as_str()),
        }
        rest = after;
    }
    text.push_str(rest);
    Some(text)
}

fn accept(text: &str, is_virtual: bool, around: Surroundings<'_>, exists: &dyn Fn(&Path) -> bool) -> Option<PathBuf> {
    let path = match text.strip_prefix("~/") {
        Some(below) => around.home?.join(below),
        None => PathBuf::from(text),
    };
    if is_virtual {
        return (!text.is_empty()).then(|| if path.is_absolute() { tidy(&path) } else { path });
    }
    let path = tidy(&path);
    (path.is_absolute() && exists(&path)).then_some(path)
}

/// Faults of a template: what is between braces must be CWD or a group that `find` has.
///
/// # Errors
///
/// The part that cannot be replaced.
pub fn check_template(template: &str, find: &Regex) -> Result<(), String> {
    let mut rest = template;
    while let Some((_, after)) = rest.split_once('{') {
        let (key, after) = after.split_once('}').ok_or_else(|| format!("{{{after}"))?;
        let known = key == "CWD" || key.parse().is_ok_and(|n: usize| n >= 1 && n < find.captures_len());
        if !known {
            return Err(format!("{{{key}}}"));
        }
        rest = after;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const PYTHON: &str = r"^\S*python[0-9.]*\s+(\S+)";

    fn run(build: &str, is_virtual: bool, cmdline: &str, existing: &[&str]) -> Option<PathBuf> {
        let find = Regex::new(PYTHON).expect("a regular expression");
        let build: Vec<String> = build.split('|').map(str::to_owned).collect();
        let around = Surroundings { cwd: Some(Path::new("/work")), home: Some(Path::new("/home/ann")) };
        rewrite(&find, &build, is_virtual, cmdline, around, &|path| existing.iter().any(|e| Path::new(e) == path))
    }

    #[test]
    fn alternatives_are_tried_from_left_to_right() {
        let built = |cmdline, existing: &[&str]| run("{1}|{CWD}/{1}", false, cmdline, existing);
        assert_eq!(built("python3 /opt/tool.py -v", &["/opt/tool.py"]), Some("/opt/tool.py".into()));
        assert_eq!(built("/usr/bin/python3.12 tool.py", &["/work/tool.py"]), Some("/work/tool.py".into()));
        assert_eq!(built("python3 ../x/./tool.py", &["/x/tool.py"]), Some("/x/tool.py".into()));
    }

    #[test]
    fn without_a_match_or_an_existing_path_nothing_is_rewritten() {
        assert_eq!(run("{1}|{CWD}/{1}", false, "python3 tool.py", &[]), None);
        assert_eq!(run("{1}", false, "ruby tool.rb", &["tool.rb"]), None);
        assert_eq!(run("{1}", false, "python3 tool.py", &["tool.py"]), None, "a relative result is not acceptable");
    }

    #[test]
    fn virtual_results_need_not_exist_and_home_is_expanded() {
        assert_eq!(run("python:{1}", true, "python3 tool.py", &[]), Some("python:tool.py".into()));
        assert_eq!(run("~/{1}", false, "python3 tool.py", &["/home/ann/tool.py"]), Some("/home/ann/tool.py".into()));
    }

    #[test]
    fn templates_speak_only_of_groups_that_exist() {
        let find = Regex::new(PYTHON).expect("a regular expression");
        for (template, fine) in
            [("{1}", true), ("{CWD}/{1}", true), ("{2}", false), ("{0}", false), ("{x}", false), ("{1", false)]
        {
            assert_eq!(check_template(template, &find).is_ok(), fine, "{template}");
        }
    }
}
