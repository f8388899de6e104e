//! The programs that run in the kernel when sockets are made and closed and programs executed.
//!
//! Keeps one rule: a program for sockets returns 1, which lets the kernel go on as without it; it writes to our maps alone. What is neither
//! UDP nor raw costs a comparison or two when it is closed.

use super::code::{Code, Helper, Instruction, Jump, Len, R, STACK};
use super::portrait::Portraits;
use super::raw;
use super::record::{
    CLOSED, COOKIE, ENDS_4, ENDS_6, FAMILY, MADE, MADE_AT, MADE_CLOSED, MADE_PID, MADE_ROOM, MADE_UID, OTHER, PID, RECORD, UID,
};
use super::sys::Map;

/// `struct bpf_sock`, the programs' view of a socket: `family`, `type`, `protocol`.
const SOCK_FAMILY: i16 = 4;
const SOCK_TYPE: i16 = 8;
const SOCK_PROTOCOL: i16 = 12;
/// `struct sock_common` begins with the ends of IPv4, its ports last; those of IPv6 follow behind `skc_net`. So it has been since Linux
/// 3.13 on machines of 64 bits; where it is otherwise, the trial at the start fails, and we are without.
const COMMON_ENDS_6: i16 = 56;
const ENDS_4_LEN: i32 = 16;
const ENDS_6_LEN: i32 = 32;
/// Behind the ends of IPv4: the local port, in the machine's order.
const PORT: i16 = ENDS_4 + 14;
const UDP: i32 = 17;
/// `SOCK_RAW`.
const RAW: i32 = 3;

/// Places for the last changes of processes, by the lower half of their numbers.
pub(super) const CHANGES: u32 = 1 << 16;

/// What the programs for sockets write to.
#[derive(Clone, Copy, Debug)]
pub(super) struct Notes<'a> {
    pub(super) made: &'a Map,
    pub(super) closed: &'a Map,
    pub(super) executed: &'a Map,
    pub(super) forked: &'a Map,
    pub(super) raw: &'a Map,
    pub(super) raw_lost: &'a Map,
}

/// Whose sockets are noted: those of one network namespace, but for those of one process.
#[derive(Clone, Copy, Debug)]
pub(super) struct Watched {
    /// By its cookie.
    pub(super) netns: u64,
    /// 0: of every process.
    pub(super) but_of: u32,
}

/// Goes on with watched sockets alone; R6 is the socket.
fn of_watched(code: &mut Code, Watched { netns, but_of }: Watched) -> [Jump; 2] {
    code.copy(R(1), R(6)).call(Helper::NetnsCookie).set_wide(R(1), netns);
    let elsewhere = code.jump_unless_same(R(0), R(1));
    code.call(Helper::PidAndThread).upper_half(R(0));
    [elsewhere, code.jump_if(R(0), i32::try_from(but_of).unwrap_or(0))]
}

/// Notes who makes a socket, under its cookie, and portrays who makes one of UDP.
pub(super) fn of_made(watched: Watched, made: &Map, portraits: Option<&Portraits>) -> Vec<Instruction> {
    const KEY: i16 = -8;
    const VALUE: i16 = KEY - MADE_ROOM;
    let mut code = Code::default();
    code.copy(R(6), R(1));
    let others = of_watched(&mut code, watched);
    code.copy(R(1), R(6)).call(Helper::SocketCookie).store(Len::Eight, STACK, KEY, R(0));
    code.call(Helper::SinceBoot).store(Len::Eight, STACK, VALUE + MADE_AT, R(0));
    code.call(Helper::PidAndThread).upper_half(R(0)).store(Len::Four, STACK, VALUE + MADE_PID, R(0));
    code.call(Helper::UserAndGroup).store(Len::Four, STACK, VALUE + MADE_UID, R(0));
    code.set(R(0), 0).store(Len::Eight, STACK, VALUE + MADE_CLOSED, R(0));
    code.update(made, KEY, VALUE);
    if let Some(portraits) = portraits {
        code.load(Len::Four, R(1), R(6), SOCK_PROTOCOL);
        let of_another_kind = code.jump_unless(R(1), UDP);
        portraits.draw(&mut code, KEY);
        code.land([of_another_kind]);
    }
    code.land(others);
    code.end(1)
}

/// Where a record is written, and below it its key.
const VALUE: i16 = -RECORD;
const KEY: i16 = VALUE - 8;

/// Notes who closes a socket: of UDP under its port, a raw one under its process.
pub(super) fn of_released(watched: Watched, notes: Notes<'_>) -> Vec<Instruction> {
    let mut code = Code::default();
    code.copy(R(6), R(1)).load(Len::Four, R(1), R(6), SOCK_TYPE);
    let raw = code.jump_if(R(1), RAW);
    code.load(Len::Four, R(1), R(6), SOCK_PROTOCOL);
    let of_another_kind = code.jump_unless(R(1), UDP);
    note_closed(&mut code, watched, notes);
    code.land([of_another_kind]).leave(1).land([raw]);
    note_closed_raw(&mut code, watched, notes);
    code.end(1)
}

/// The PID stays 0 where another process made it, or one of before our start: also such a record takes the place of an earlier one, whose
/// process did not send what this socket sent.
fn note_closed(code: &mut Code, watched: Watched, Notes { made, closed, .. }: Notes<'_>) {
    let others = of_watched(code, watched);
    code.set(R(0), 0);
    for word in (VALUE..0).step_by(8) {
        code.store(Len::Eight, STACK, word, R(0));
    }
    code.copy(R(1), STACK).add(R(1), VALUE + ENDS_4).set(R(2), ENDS_4_LEN).copy(R(3), R(6)).call(Helper::ReadKernel);
    code.load(Len::Two, R(7), STACK, VALUE + PORT);
    let without_port = code.jump_if(R(7), 0);
    code.copy(R(1), STACK).add(R(1), VALUE + ENDS_6).set(R(2), ENDS_6_LEN).copy(R(3), R(6)).add(R(3), COMMON_ENDS_6);
    code.call(Helper::ReadKernel);
    code.load(Len::Four, R(1), R(6), SOCK_FAMILY).store(Len::Four, STACK, VALUE + FAMILY, R(1));
    code.call(Helper::SinceBoot).store(Len::Eight, STACK, VALUE + CLOSED, R(0)).store(Len::Four, STACK, KEY, R(7));
    code.copy(R(1), R(6)).call(Helper::SocketCookie).store(Len::Eight, STACK, VALUE + COOKIE, R(0));
    note_maker(code, made);
    note_other(code, closed);
    code.update(closed, KEY, VALUE).land(others.into_iter().chain([without_port]));
}

/// One note for each process, program, family and protocol, of the last such socket. The PID stays 0 as above, and where the process has begun
/// another since: that one had the socket, too. A map that is full takes no more: then is noted when.
fn note_closed_raw(code: &mut Code, watched: Watched, Notes { made, executed, forked, raw, raw_lost, .. }: Notes<'_>) {
    const COOKIE: i16 = -8;
    const VALUE: i16 = COOKIE - raw::VALUE;
    const KEY: i16 = VALUE - raw::KEY;
    let others = of_watched(code, watched);
    code.set(R(0), 0);
    for word in (KEY..0).step_by(8) {
        code.store(Len::Eight, STACK, word, R(0));
    }
    code.load(Len::Four, R(1), R(6), SOCK_FAMILY).store(Len::Four, STACK, KEY + raw::FAMILY, R(1));
    code.load(Len::Four, R(1), R(6), SOCK_PROTOCOL).store(Len::Four, STACK, KEY + raw::PROTOCOL, R(1));
    code.call(Helper::SinceBoot).store(Len::Eight, STACK, VALUE + raw::CLOSED, R(0));
    code.copy(R(1), R(6)).call(Helper::SocketCookie).store(Len::Eight, STACK, COOKIE, R(0));
    code.map_and_key(made, COOKIE).call(Helper::MapLookup);
    let unknown = code.jump_if(R(0), 0);
    code.copy(R(8), R(0)).call(Helper::PidAndThread).upper_half(R(0)).load(Len::Four, R(1), R(8), MADE_PID);
    let of_another = code.jump_unless_same(R(0), R(1));
    code.store(Len::Four, STACK, KEY + raw::PID, R(0));
    code.load(Len::Four, R(1), R(8), MADE_UID).store(Len::Four, STACK, VALUE + raw::UID, R(1));
    code.load(Len::Eight, R(1), R(8), MADE_AT).store(Len::Eight, STACK, VALUE + raw::MADE, R(1));
    code.map_and_key(forked, KEY + raw::PID).call(Helper::MapLookup);
    let begun_none = code.jump_if(R(0), 0);
    code.load(Len::Eight, R(1), R(0), 0).load(Len::Eight, R(2), R(8), MADE_AT);
    let begun_before = code.jump_if_less(R(1), R(2));
    code.set(R(1), 0).store(Len::Four, STACK, KEY + raw::PID, R(1)).land([begun_none, begun_before]);
    code.map_and_key(executed, KEY + raw::PID).call(Helper::MapLookup);
    let never = code.jump_if(R(0), 0);
    code.load(Len::Eight, R(1), R(0), 0).store(Len::Eight, STACK, KEY + raw::EXECUTED, R(1));
    code.land([unknown, of_another, never]).update(raw, KEY, VALUE);
    let noted = code.jump_if(R(0), 0);
    code.update(raw_lost, KEY + raw::NOTHING, VALUE + raw::CLOSED).land(others.into_iter().chain([noted]));
}

/// The process that closes a socket, where it is the one that made it; of that socket is noted, too, that it is closed by it.
fn note_maker(code: &mut Code, made: &Map) {
    code.map_and_key(made, VALUE + COOKIE).call(Helper::MapLookup);
    let unknown = code.jump_if(R(0), 0);
    code.copy(R(8), R(0)).call(Helper::PidAndThread).upper_half(R(0)).load(Len::Four, R(1), R(8), MADE_PID);
    let of_another = code.jump_unless_same(R(0), R(1));
    code.store(Len::Four, STACK, VALUE + PID, R(0));
    code.load(Len::Four, R(1), R(8), MADE_UID).store(Len::Four, STACK, VALUE + UID, R(1));
    code.load(Len::Eight, R(1), R(8), MADE_AT).store(Len::Eight, STACK, VALUE + MADE, R(1));
    code.load(Len::Eight, R(1), STACK, VALUE + CLOSED).store(Len::Eight, R(8), MADE_CLOSED, R(1)).land([unknown, of_another]);
}

/// When another process has closed a socket of this port last.
fn note_other(code: &mut Code, closed: &Map) {
    code.map_and_key(closed, KEY).call(Helper::MapLookup);
    let first = code.jump_if(R(0), 0);
    code.load(Len::Eight, R(2), R(0), OTHER).load(Len::Four, R(3), R(0), PID).load(Len::Four, R(1), STACK, VALUE + PID);
    let same = code.jump_if_same(R(1), R(3));
    code.load(Len::Eight, R(2), R(0), CLOSED).land([same]);
    code.store(Len::Eight, STACK, VALUE + OTHER, R(2)).land([first]);
}

/// Notes when a process executes a program: at the end of that, or that it is at it.
pub(super) fn of_executed(executed: &Map, changed: &Map, is_over: bool) -> Vec<Instruction> {
    note_time(executed, is_over.then_some(changed))
}

/// Notes when a process begins another one, or a thread: the kernel runs this in the one that does.
pub(super) fn of_forked(forked: &Map, changed: &Map) -> Vec<Instruction> {
    note_time(forked, Some(changed))
}

/// Notes the time under the process: now, also among the changes, or later than whatever.
fn note_time(map: &Map, changed: Option<&Map>) -> Vec<Instruction> {
    const KEY: i16 = -4;
    const VALUE: i16 = -16;
    let mut code = Code::default();
    code.call(Helper::PidAndThread).upper_half(R(0)).store(Len::Four, STACK, KEY, R(0));
    if changed.is_some() {
        code.call(Helper::SinceBoot);
    } else {
        code.set(R(0), -1);
    }
    code.store(Len::Eight, STACK, VALUE, R(0)).update(map, KEY, VALUE);
    if let Some(changed) = changed {
        note_change(&mut code, changed, KEY, VALUE);
    }
    code.end(0)
}

/// Notes the time that stands at `value` as that of the last change of all processes with this lower half of their number.
fn note_change(code: &mut Code, changed: &Map, key: i16, value: i16) {
    /// Times that it is tried again while others write it.
    const TRIES: usize = 4;
    code.load(Len::Four, R(1), STACK, key).and(R(1), CHANGES.cast_signed() - 1).store(Len::Four, STACK, key, R(1));
    code.map_and_key(changed, key).call(Helper::MapLookup);
    let none = code.jump_if(R(0), 0);
    code.copy(R(6), R(0)).load(Len::Eight, R(7), STACK, value);
    let mut done = Vec::new();
    for _ in 0..TRIES {
        code.load(Len::Eight, R(8), R(6), 0);
        done.push(code.jump_if_less(R(7), R(8)));
        code.copy(R(0), R(8)).exchange(R(6), 0, R(7));
        done.push(code.jump_if_same(R(0), R(8)));
    }
    code.store(Len::Eight, R(6), 0, R(7)).land(done).land([none]);
}
