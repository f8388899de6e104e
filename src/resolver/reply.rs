//! What the program is told, before it is bytes.
//!
//! Keeps one rule: a refusal looks the same whatever its cause (an address that is refused at once, or no such name), and its
//! cause goes beside it as an Extended DNS Error (RFC 8914).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use hickory_proto::op::{Query, ResponseCode};
use hickory_proto::rr::rdata::opt::EdnsOption;
use hickory_proto::rr::{RData, Record, RecordType};

use super::sift::Sifted;
use crate::verdict::Reason;

/// A refused address: the program's connect to it is a flow that is blocked with the reason of the name.
const REFUSED_V4: Ipv4Addr = Ipv4Addr::new(0, 0, 0, 17);
const REFUSED_V6: Ipv6Addr = Ipv6Addr::new(0, 0, 0, 0, 0, 0, 0, 0x17);
/// Seconds that a refusal may be remembered: a changed profile holds at once.
const REFUSED_TTL: u32 = 1;
/// Seconds that an address of our own may be remembered.
const LOCAL_TTL: u32 = 60;
/// The EDNS option of Extended DNS Errors (RFC 8914 §2).
const EDE_OPTION: u16 = 15;
/// Bytes of text in an Extended DNS Error; a reason with a long path is cut there.
const MAX_NOTE: usize = 200;

/// The INFO-CODE of an Extended DNS Error (RFC 8914 §4).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum NoteCode {
    Other,
    Blocked,
    Filtered,
    NotSupported,
    NoReachableAuthority,
}

impl NoteCode {
    fn number(self) -> u16 {
        match self {
            Self::Other => 0,
            Self::Blocked => 15,
            Self::Filtered => 17,
            Self::NotSupported => 21,
            Self::NoReachableAuthority => 22,
        }
    }
}

/// An Extended DNS Error.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Note {
    pub(super) code: NoteCode,
    pub(super) text: String,
}

impl Note {
    pub(super) fn option(&self) -> EdnsOption {
        let mut bytes = self.code.number().to_be_bytes().to_vec();
        let end = (0..=MAX_NOTE.min(self.text.len())).rev().find(|at| self.text.is_char_boundary(*at));
        bytes.extend_from_slice(self.text.get(..end.unwrap_or(0)).unwrap_or_default().as_bytes());
        EdnsOption::Unknown(EDE_OPTION, bytes)
    }
}

/// Code, records and cause.
#[derive(Clone, Debug)]
pub(super) struct Reply {
    pub(super) code: ResponseCode,
    pub(super) answers: Vec<Record>,
    pub(super) authorities: Vec<Record>,
    /// The upstream vouched for all of it (the AD bit).
    pub(super) authentic: bool,
    pub(super) note: Option<Note>,
}

impl Reply {
    pub(super) fn sifted(sifted: Sifted, code: ResponseCode) -> Self {
        let Sifted { answers, authorities, authentic, sightings: _, chain: _ } = sifted;
        Self { code, answers, authorities, authentic, note: None }
    }

    /// No such name or no such records, as an upstream said or as we know.
    pub(super) fn nothing(code: ResponseCode, authorities: Vec<Record>) -> Self {
        Self { code, answers: Vec::new(), authorities, authentic: false, note: None }
    }

    /// A failure that is not a verdict.
    pub(super) fn failed(code: ResponseCode, note: NoteCode, text: &str) -> Self {
        let note = Note { code: note, text: text.to_owned() };
        Self { note: Some(note), ..Self::nothing(code, Vec::new()) }
    }

    /// A refusal by verdict.
    pub(super) fn refused(query: &Query, code: NoteCode, reason: &Reason) -> Self {
        let note = Some(Note { code, text: reason.to_string() });
        let address = match query.query_type() {
            RecordType::A => IpAddr::V4(REFUSED_V4),
            RecordType::AAAA => IpAddr::V6(REFUSED_V6),
            _ => return Self { note, ..Self::nothing(ResponseCode::NXDomain, Vec::new()) },
        };
        let answers = vec![record(query, REFUSED_TTL, address)];
        Self { answers, note, ..Self::nothing(ResponseCode::NoError, Vec::new()) }
    }

    /// Those of our own addresses that fit the question's type.
    pub(super) fn addresses(query: &Query, addresses: &[IpAddr]) -> Self {
        let fits = |address: &&IpAddr| match query.query_type() {
            RecordType::A => address.is_ipv4(),
            RecordType::AAAA => address.is_ipv6(),
            other => other == RecordType::ANY,
        };
        let answers = addresses.iter().filter(fits).map(|address| record(query, LOCAL_TTL, *address)).collect();
        Self { answers, ..Self::nothing(ResponseCode::NoError, Vec::new()) }
    }
}

fn record(query: &Query, ttl: u32, address: IpAddr) -> Record {
    let data = match address {
        IpAddr::V4(v4) => RData::A(v4.into()),
        IpAddr::V6(v6) => RData::AAAA(v6.into()),
    };
    Record::from_rdata(query.name().clone(), ttl, data)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_reason_is_cut_between_characters() {
        let note = Note { code: NoteCode::Blocked, text: "ä".repeat(MAX_NOTE) };
        let EdnsOption::Unknown(option, bytes) = note.option() else { panic!("an unknown option") };
        assert_eq!(option, EDE_OPTION);
        let (code, text) = bytes.split_at(2);
        assert_eq!(code, [0, 15]);
        assert_eq!(std::str::from_utf8(text), Ok("ä".repeat(MAX_NOTE / 2).as_str()));
    }
}
