//! The instructions that the programs in the kernel are made of, as far as they need them.
//!
//! Keeps one rule: jumps lead forward, so that every program ends.

use super::sys::Map;

pub(super) const STACK: R = R(10);

/// `struct bpf_insn`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub(super) struct Instruction {
    code: u8,
    registers: u8,
    offset: i16,
    immediate: i32,
}

/// A register. R0: what a call gives; R1 to R5: what it is given, lost with it; R6 to R9 stay; R10: the end of the stack.
#[derive(Clone, Copy)]
pub(super) struct R(pub(super) u8);

/// Lengths of memory that is read and written (`BPF_SIZE`).
#[derive(Clone, Copy)]
pub(super) enum Len {
    One,
    Two,
    Four,
    Eight,
}

impl Len {
    fn code(self) -> u8 {
        match self {
            Self::One => 0x10,
            Self::Two => 0x08,
            Self::Four => 0x00,
            Self::Eight => 0x18,
        }
    }
}

/// `enum bpf_func_id`.
#[derive(Clone, Copy)]
pub(super) enum Helper {
    MapLookup,
    MapUpdate,
    PidAndThread,
    UserAndGroup,
    LoadBytes,
    SocketCookie,
    Processor,
    ReadKernel,
    NetnsCookie,
    SinceBoot,
    CurrentTask,
    ReadUser,
    ReadKernelText,
}

impl Helper {
    fn number(self) -> i32 {
        match self {
            Self::MapLookup => 1,
            Self::MapUpdate => 2,
            Self::Processor => 8,
            Self::PidAndThread => 14,
            Self::UserAndGroup => 15,
            Self::SocketCookie => 46,
            Self::LoadBytes => 68,
            Self::ReadKernel => 113,
            Self::NetnsCookie => 122,
            Self::SinceBoot => 125,
            Self::CurrentTask => 35,
            Self::ReadUser => 112,
            Self::ReadKernelText => 115,
        }
    }
}

/// A jump forward that has not been told where to yet.
pub(super) struct Jump(usize);

/// A program while it is written.
#[derive(Default)]
pub(super) struct Code(Vec<Instruction>);

impl Code {
    fn push(&mut self, code: u8, to: R, from: R, offset: i16, immediate: i32) -> &mut Self {
        // Two bit fields of one byte, which follow the byte order (include/uapi/linux/bpf.h).
        let registers = if cfg!(target_endian = "little") { from.0 << 4 | to.0 } else { to.0 << 4 | from.0 };
        self.0.push(Instruction { code, registers, offset, immediate });
        self
    }

    pub(super) fn copy(&mut self, to: R, from: R) -> &mut Self {
        self.push(0xbf, to, from, 0, 0)
    }

    pub(super) fn set(&mut self, to: R, value: i32) -> &mut Self {
        self.push(0xb7, to, R(0), 0, value)
    }

    /// All 64 bits (`BPF_LD_IMM64`).
    pub(super) fn set_wide(&mut self, to: R, value: u64) -> &mut Self {
        let [a, b, c, d, e, f, g, h] = value.to_le_bytes();
        self.push(0x18, to, R(0), 0, i32::from_le_bytes([a, b, c, d])).push(0, R(0), R(0), 0, i32::from_le_bytes([e, f, g, h]))
    }

    pub(super) fn add(&mut self, to: R, value: i16) -> &mut Self {
        self.push(0x07, to, R(0), 0, value.into())
    }

    pub(super) fn add_both(&mut self, to: R, from: R) -> &mut Self {
        self.push(0x0f, to, from, 0, 0)
    }

    pub(super) fn subtract(&mut self, to: R, from: R) -> &mut Self {
        self.push(0x1f, to, from, 0, 0)
    }

    pub(super) fn or(&mut self, to: R, from: R) -> &mut Self {
        self.push(0x4f, to, from, 0, 0)
    }

    pub(super) fn and(&mut self, to: R, value: i32) -> &mut Self {
        self.push(0x57, to, R(0), 0, value)
    }

    pub(super) fn shift_left(&mut self, to: R, bits: i32) -> &mut Self {
        self.push(0x67, to, R(0), 0, bits)
    }

    pub(super) fn shift_right(&mut self, to: R, bits: i32) -> &mut Self {
        self.push(0x77, to, R(0), 0, bits)
    }

    /// The lower 16 bits in the network's order; nothing else stays (`BPF_TO_BE`).
    pub(super) fn network_order(&mut self, of: R) -> &mut Self {
        self.push(0xdc, of, R(0), 0, 16)
    }

    /// Eight bytes become `new` if they are what R0 is, which then becomes what they were (`BPF_CMPXCHG`).
    pub(super) fn exchange(&mut self, at: R, offset: i16, new: R) -> &mut Self {
        self.push(0xdb, at, new, offset, 0xf1)
    }

    pub(super) fn upper_half(&mut self, of: R) -> &mut Self {
        self.shift_right(of, 32)
    }

    pub(super) fn load(&mut self, len: Len, to: R, from: R, offset: i16) -> &mut Self {
        self.push(0x61 | len.code(), to, from, offset, 0)
    }

    pub(super) fn store(&mut self, len: Len, to: R, offset: i16, from: R) -> &mut Self {
        self.push(0x63 | len.code(), to, from, offset, 0)
    }

    pub(super) fn call(&mut self, helper: Helper) -> &mut Self {
        self.push(0x85, R(0), R(0), 0, helper.number())
    }

    /// R1 becomes a map and R2 the place of a key (`BPF_PSEUDO_MAP_FD`).
    pub(super) fn map_and_key(&mut self, map: &Map, key: i16) -> &mut Self {
        self.push(0x18, R(1), R(1), 0, map.number()).push(0, R(0), R(0), 0, 0);
        self.copy(R(2), STACK).add(R(2), key)
    }

    /// Writes the value that stands at `value` under the key that stands at `key`.
    pub(super) fn update(&mut self, map: &Map, key: i16, value: i16) -> &mut Self {
        self.map_and_key(map, key).copy(R(3), STACK).add(R(3), value).set(R(4), 0).call(Helper::MapUpdate)
    }

    fn jump(&mut self, code: u8, one: R, other: R, value: i32) -> Jump {
        self.push(code, one, other, 0, value);
        Jump(self.0.len() - 1)
    }

    pub(super) fn jump_if(&mut self, one: R, value: i32) -> Jump {
        self.jump(0x15, one, R(0), value)
    }

    pub(super) fn jump_unless(&mut self, one: R, value: i32) -> Jump {
        self.jump(0x55, one, R(0), value)
    }

    pub(super) fn jump_if_same(&mut self, one: R, other: R) -> Jump {
        self.jump(0x1d, one, other, 0)
    }

    pub(super) fn jump_unless_same(&mut self, one: R, other: R) -> Jump {
        self.jump(0x5d, one, other, 0)
    }

    pub(super) fn jump_if_less(&mut self, one: R, other: R) -> Jump {
        self.jump(0xad, one, other, 0)
    }

    /// As a number without a sign.
    pub(super) fn jump_if_more(&mut self, one: R, value: i16) -> Jump {
        self.jump(0x25, one, R(0), value.into())
    }

    /// As a number with a sign.
    pub(super) fn jump_unless_positive(&mut self, one: R) -> Jump {
        self.jump(0xd5, one, R(0), 0)
    }

    pub(super) fn jump_over(&mut self) -> Jump {
        self.jump(0x05, R(0), R(0), 0)
    }

    /// What comes next is where these jumps lead.
    pub(super) fn land(&mut self, jumps: impl IntoIterator<Item = Jump>) -> &mut Self {
        for Jump(at) in jumps {
            let over = i16::try_from(self.0.len() - at - 1).unwrap_or(i16::MAX);
            if let Some(jump) = self.0.get_mut(at) {
                jump.offset = over;
            }
        }
        self
    }

    pub(super) fn leave(&mut self, value: i32) -> &mut Self {
        self.set(R(0), value).push(0x95, R(0), R(0), 0, 0)
    }

    pub(super) fn end(mut self, value: i32) -> Vec<Instruction> {
        self.leave(value);
        self.0
    }
}
