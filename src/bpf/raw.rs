//! What is noted of raw sockets that are closed, and who may have sent a packet by one.
//!
//! A raw socket has no port and sends under any, and whole packets of any protocol (`IP_HDRINCL`, raw(7)), so every process that closed one of a
//! family since a packet was sent can have sent it. Keeps one rule: all of them are told, or that it is uncertain.

use std::time::Duration;

use super::record::{Sender, part};

/// The key of a note, in the machine's byte order.
pub(super) const PID: i16 = 0;
pub(super) const FAMILY: i16 = 4;
pub(super) const PROTOCOL: i16 = 8;
/// Always 0.
pub(super) const NOTHING: i16 = 12;
/// When the process executed its program, as far as was seen.
pub(super) const EXECUTED: i16 = 16;
pub(super) const KEY: i16 = 24;
pub(super) const KEY_LEN: usize = 24;
/// Its value.
pub(super) const MADE: i16 = 0;
pub(super) const CLOSED: i16 = 8;
pub(super) const UID: i16 = 16;
pub(super) const VALUE: i16 = 24;
pub(super) const VALUE_LEN: usize = 24;

/// `AF_INET`, `AF_INET6`.
const FAMILIES: [u32; 2] = [2, 10];
/// Who closed a socket is known for so long: a packet waits in the TUN, perhaps for its turn or for a neighbour, and then for its search.
const KEPT: Duration = Duration::from_secs(15);
/// And no more than these are kept.
const MOST: usize = 1024;
/// In nanoseconds: between two clocks, and on the way into the TUN's queue.
const SLACK: u64 = 5_000_000;

/// A process that closed a raw socket which it had made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RawSender {
    /// Of the last such socket; its cookie is not known.
    pub sender: Sender,
    /// When the process executed its program, in nanoseconds since boot; 0: never, as far as was seen.
    pub executed: u64,
}

/// A note.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Note {
    /// PID 0: the process that closed the socket is not the one that made it, or not the only one that may have held it.
    by: RawSender,
    family: u32,
    protocol: u32,
    closed: u64,
}

impl Note {
    pub(super) fn read(key: &[u8; KEY_LEN], value: &[u8; VALUE_LEN]) -> Option<Self> {
        let sender = Sender {
            pid: u32::from_ne_bytes(part(key, PID)?),
            uid: u32::from_ne_bytes(part(value, UID)?),
            cookie: 0,
            made: u64::from_ne_bytes(part(value, MADE)?),
        };
        Some(Self {
            by: RawSender { sender, executed: u64::from_ne_bytes(part(key, EXECUTED)?) },
            family: u32::from_ne_bytes(part(key, FAMILY)?),
            protocol: u32::from_ne_bytes(part(key, PROTOCOL)?),
            closed: u64::from_ne_bytes(part(value, CLOSED)?),
        })
    }

    /// What one note is kept of: process, program, family, protocol.
    fn of(&self) -> (u32, u64, u32, u32) {
        (self.by.sender.pid, self.by.executed, self.family, self.protocol)
    }
}

/// Who closed raw sockets lately. The default: nobody did.
#[derive(Clone, Debug, Default)]
pub struct RawNotes {
    notes: Vec<Note>,
    /// When a note found no room last, or one was closed that is forgotten; 0: never.
    lost: u64,
}

impl RawNotes {
    /// Takes what was noted since the last time.
    pub(super) fn take(&mut self, new: impl Iterator<Item = Note>, lost: u64, now: u64) {
        self.lost = self.lost.max(lost);
        for note in new {
            // The last of one program stands for all.
            self.notes.retain(|old| old.of() != note.of());
            self.notes.push(note);
        }
        self.notes.sort_by_key(|note| note.closed);
        let more = self.notes.len().saturating_sub(MOST);
        let old = self.notes.iter().take_while(|note| !is_recent(note.closed, now)).count();
        let forgotten = self.notes.drain(..more.max(old)).map(|note| note.closed).max();
        self.lost = self.lost.max(forgotten.unwrap_or_default());
    }

    /// The processes whose closed raw sockets can have sent a packet of this family after `since`, in nanoseconds since boot. None: that is
    /// uncertain.
    #[must_use]
    pub fn senders(&self, is_v4: bool, since: u64) -> Option<Vec<RawSender>> {
        let since = since.saturating_sub(SLACK);
        if self.lost != 0 && self.lost >= since {
            return None;
        }
        let family = if is_v4 { FAMILIES[0] } else { FAMILIES[1] };
        let mut senders: Vec<RawSender> = Vec::new();
        for note in self.notes.iter().filter(|note| note.closed >= since && note.family == family) {
            if note.by.sender.pid == 0 {
                return None;
            }
            // The last of one program stands for all.
            senders.retain(|sender| (sender.sender.pid, sender.executed) != (note.by.sender.pid, note.by.executed));
            senders.push(note.by);
        }
        senders.sort_unstable_by_key(|sender| (sender.sender.pid, sender.executed));
        Some(senders)
    }
}

/// The clocks of two processors may differ by a little.
fn is_recent(at: u64, now: u64) -> bool {
    Duration::from_nanos(now.saturating_sub(at)) < KEPT
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: u64 = 60_000_000_000;
    const SECOND: u64 = 1_000_000_000;

    fn note(pid: u32, is_v4: bool, protocol: u32, closed: u64) -> Note {
        let words = |words: &[u32]| words.iter().flat_map(|word| word.to_ne_bytes()).collect::<Vec<u8>>();
        let key = [words(&[pid, FAMILIES[usize::from(!is_v4)], protocol, 0]), 7_u64.to_ne_bytes().to_vec()].concat();
        let value = [(closed - 1).to_ne_bytes().to_vec(), closed.to_ne_bytes().to_vec(), words(&[1000, 0])].concat();
        Note::read(&key.try_into().expect("a key"), &value.try_into().expect("a value")).expect("long enough")
    }

    fn pids(notes: &RawNotes, is_v4: bool, since: u64) -> Option<Vec<u32>> {
        let senders = notes.senders(is_v4, since)?;
        assert!(senders.iter().all(|sender| sender.executed == 7 && sender.sender.uid == 1000));
        Some(senders.iter().map(|sender| sender.sender.pid).collect())
    }

    fn noted(notes: &[Note]) -> RawNotes {
        let mut all = RawNotes::default();
        all.take(notes.iter().copied(), 0, NOW);
        all
    }

    /// What has the header written by its sender may be of any protocol.
    #[test]
    fn whoever_closed_a_socket_of_the_family_may_have_sent_whatever_its_protocol_is() {
        for is_v4 in [true, false] {
            let notes = noted(&[
                note(5, is_v4, 6, NOW - 1),
                note(4, is_v4, 255, NOW - 2),
                note(6, is_v4, 1, NOW - 1),
                note(7, !is_v4, 255, NOW - 1),
                note(8, is_v4, 6, NOW - SECOND),
                note(5, is_v4, 255, NOW - 3),
            ]);
            assert_eq!(pids(&notes, is_v4, NOW - SECOND / 2), Some(vec![4, 5, 6]), "each once");
            assert_eq!(pids(&notes, is_v4, NOW - SECOND), Some(vec![4, 5, 6, 8]));
            assert_eq!(pids(&notes, is_v4, NOW + SECOND), Some(vec![]));
        }
    }

    #[test]
    fn whoever_closed_a_socket_while_a_packet_waited_for_its_search_may_have_sent_it() {
        let (mut notes, sent) = (noted(&[note(5, true, 6, NOW)]), NOW - 1);
        for waited in [SECOND / 2, 3 * SECOND, 9 * SECOND] {
            notes.take(std::iter::once(note(6, true, 6, NOW + waited)), 0, NOW + waited);
            assert_eq!(pids(&notes, true, sent), Some(vec![5, 6]));
        }
        notes.take(std::iter::empty(), 0, NOW + 20 * SECOND);
        assert_eq!(pids(&notes, true, sent), None, "who it was is forgotten");
        assert_eq!(pids(&notes, true, NOW + SECOND), Some(vec![6]), "it was closed before");
        notes.take(std::iter::empty(), 0, NOW + 40 * SECOND);
        assert_eq!(notes.notes.len(), 0, "old ones are forgotten");
    }

    #[test]
    fn socket_that_another_process_may_have_held_and_a_note_without_room_make_uncertain_what_was_sent_before() {
        let notes = noted(&[note(5, true, 6, NOW - 1), note(0, true, 6, NOW - 1)]);
        assert_eq!(pids(&notes, true, NOW - 1), None);
        assert_eq!(pids(&notes, true, NOW + SECOND), Some(vec![]));
        assert_eq!(pids(&notes, false, NOW - 1), Some(vec![]));
        let mut notes = noted(&[note(5, true, 6, NOW - 1)]);
        notes.take(std::iter::empty(), NOW, NOW + SECOND / 2);
        assert_eq!(pids(&notes, true, NOW), None);
        notes.take(std::iter::once(note(5, true, 6, NOW + SECOND)), NOW, NOW + SECOND);
        assert_eq!(pids(&notes, true, NOW + SECOND), Some(vec![5]));
        assert_eq!(notes.notes.len(), 1, "one program has one");
    }

    #[test]
    fn more_than_can_be_kept_are_forgotten_the_oldest_first() {
        let many = (1_u32..).zip(NOW..).take(MOST + 10).map(|(pid, closed)| note(pid, true, 6, closed));
        let mut notes = RawNotes::default();
        notes.take(many, 0, NOW + SECOND);
        assert_eq!((notes.notes.len(), notes.lost), (MOST, NOW + 9));
    }

    #[test]
    fn whoever_had_closed_its_socket_before_a_packet_was_sent_did_not_send_it() {
        let mut notes = noted(&[note(0, true, 6, NOW - SECOND / 2), note(5, true, 6, NOW - 1)]);
        let senders = |notes: &RawNotes, since| notes.senders(true, since).map(|senders| senders.len());
        assert_eq!(senders(&notes, NOW - SECOND / 2), None);
        assert_eq!(senders(&notes, NOW - SECOND / 4), Some(1));
        assert_eq!(senders(&notes, NOW + 1), Some(1), "clocks differ");
        notes.take(std::iter::empty(), NOW - SECOND / 3, NOW);
        assert_eq!((senders(&notes, NOW - SECOND / 3), senders(&notes, NOW - SECOND / 4)), (None, Some(1)));
    }

    #[test]
    fn notes_have_the_lengths_that_the_programs_write() {
        assert_eq!((usize::try_from(KEY), usize::try_from(VALUE)), (Ok(KEY_LEN), Ok(VALUE_LEN)));
    }
}
