//! A file of `labels/`: which names and networks carry a label, and what is never held against it.
//!
//! ```toml
//! label    = "tracker"
//! names    = [".tracker.example"]
//! networks = ["192.0.2.0/24"]
//! unbreak  = ["needed.tracker.example"]
//! ```

use std::path::Path;

use ipnet::IpNet;

use super::document::{Document, Placed};
use super::entity::{Entity, is_word};
use super::fault::{Fault, Faults};
use super::labels::{Label, Labels};

const KEYS: [&str; 4] = ["label", "names", "networks", "unbreak"];

/// Adds the file's entries to `labels`; returns its faults.
#[must_use]
pub(super) fn read_labels(labels: &mut Labels, file: &Path, text: &str) -> Vec<Fault> {
    if text.trim().is_empty() {
        return Vec::new();
    }
    let (document, entries) = Document::parse(text, Faults::new(file, text));
    let top = document.top(&entries, &KEYS);
    let name = top.string("label");
    match &name {
        Some(name) if !is_word(&name.value) => {
            document.fault(&name.span, format!("`{}` is no label", name.value), "write a word such as \"tracker\"");
        }
        None if top.key_span("label").is_none() && !document.is_broken => {
            document.fault(&(0..0), "the file names no label", "write label = \"tracker\" in the first line");
        }
        Some(_) | None => {}
    }
    let list = |key| top.strings(key).map(|list| list.value).unwrap_or_default();
    let mut label = Label::default();
    entries_of(&document, &list("names"), &mut label);
    entries_of(&document, &list("networks"), &mut label);
    let mut unbreak = Label::default();
    entries_of(&document, &list("unbreak"), &mut unbreak);
    if let Some(name) = name {
        labels.add(&name.value, label, unbreak);
    }
    document.faults.into_inner().into_list()
}

/// Sorts entries into names and networks.
fn entries_of(document: &Document<'_>, list: &[Placed<String>], label: &mut Label) {
    for text in list {
        match text.value.trim().parse() {
            Ok(Entity::Domain(pattern)) => label.names.push(pattern),
            Ok(Entity::Ip(address)) => label.networks.push(IpNet::from(address)),
            Ok(Entity::Net(net)) => label.networks.push(net),
            Ok(_) | Err(_) => {
                document.fault(
                    &text.span,
                    format!("`{}` is no name or network", text.value),
                    "write .example.com or 192.0.2.0/24",
                );
            }
        }
    }
}
