//! The questions that wait for a person.
//!
//! Keeps one rule: one question is put once, however many shards have flows that wait for its answer.

use std::collections::BTreeMap;

use crate::control::Prompt;

#[derive(Debug, Default)]
pub(super) struct Prompts(BTreeMap<u64, Waiting>);

#[derive(Debug)]
struct Waiting {
    prompt: Prompt,
    is_put: bool,
}

impl Prompts {
    /// Adds a question; true when it must be put to a person, and not only wait for the answer to one that is put already.
    pub(super) fn add(&mut self, prompt: Prompt) -> bool {
        let is_put = !self.put().any(|other| is_same(other, &prompt));
        self.0.insert(prompt.id, Waiting { prompt, is_put });
        is_put
    }

    /// Ends a question; whether it was put, and another shard's that must be put in its place, as `goes_on` says.
    pub(super) fn end(&mut self, id: u64, goes_on: bool) -> (bool, Option<Prompt>) {
        let Some(Waiting { prompt, is_put }) = self.0.remove(&id) else { return (false, None) };
        let heir = || {
            let heir = self.0.values_mut().find(|other| is_same(&other.prompt, &prompt))?;
            heir.is_put = true;
            Some(heir.prompt.clone())
        };
        (is_put, (is_put && goes_on).then(heir).flatten())
    }

    /// The questions that are put, the oldest first.
    pub(super) fn put(&self) -> impl Iterator<Item = &Prompt> {
        self.0.values().filter(|waiting| waiting.is_put).map(|waiting| &waiting.prompt)
    }
}

/// The same program asks for the same name, or for the same address where no name is known.
fn is_same(one: &Prompt, other: &Prompt) -> bool {
    let host = |prompt: &Prompt| match &prompt.name {
        Some(name) => name.clone(),
        None => prompt.dst.rsplit_once(':').map_or_else(|| prompt.dst.clone(), |(host, _)| host.to_owned()),
    };
    (&one.program, &one.exe, one.uid, host(one)) == (&other.program, &other.exe, other.uid, host(other))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn prompt(id: u64, program: &str, dst: &str) -> Prompt {
        Prompt {
            id,
            program: program.to_owned(),
            exe: None,
            pid: None,
            uid: None,
            name: None,
            dst: dst.to_owned(),
            proto: "tcp".to_owned(),
            since_ms: 0,
            deadline_ms: 0,
        }
    }

    #[test]
    fn a_question_that_waits_in_two_shards_is_put_once() {
        for dst in ["203.0.113.10", "[2001:db8::10]"] {
            let mut prompts = Prompts::default();
            assert!(prompts.add(prompt(1, "curl", &format!("{dst}:80"))));
            assert!(!prompts.add(prompt(2, "curl", &format!("{dst}:443"))));
            assert!(prompts.add(prompt(3, "wget", &format!("{dst}:80"))));
            assert_eq!(prompts.put().map(|p| p.id).collect::<Vec<_>>(), [1, 3]);
            assert_eq!(prompts.end(2, true), (false, None));
            assert_eq!(prompts.end(1, false), (true, None));
        }
    }

    #[test]
    fn a_question_whose_first_flow_has_gone_is_put_for_the_others() {
        let mut prompts = Prompts::default();
        prompts.add(prompt(1, "curl", "203.0.113.10:80"));
        prompts.add(prompt(2, "curl", "203.0.113.10:80"));
        let (was_put, heir) = prompts.end(1, true);
        assert_eq!((was_put, heir.map(|p| p.id)), (true, Some(2)));
        assert_eq!(prompts.put().map(|p| p.id).collect::<Vec<_>>(), [2]);
        assert_eq!(prompts.end(7, true), (false, None));
    }
}
