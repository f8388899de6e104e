//! Where the fields of the kernel's structures are: its own description of its types, `/sys/kernel/btf/vmlinux`.
//!
//! The format is `include/uapi/linux/btf.h`: a header, then types, each with a tail that depends on its kind, then names.
//!
//! Keeps one rule: what is not found, or is not as expected, has no place. Nothing is assumed of another kernel.

use std::collections::HashMap;

/// Where the kernel describes itself.
pub(super) const PATH: &str = "/sys/kernel/btf/vmlinux";

const MAGIC: u16 = 0xeb9f;
const STRUCT: u32 = 4;
const UNION: u32 = 5;
/// Structures within one another, at most.
const DEPTH: usize = 8;

/// One type: where its tail is, how many parts that has, and of which kind it is.
#[derive(Clone, Copy)]
struct Type {
    tail: usize,
    parts: usize,
    kind: u32,
    /// Offsets of members are in the lower 24 bits.
    has_bit_fields: bool,
}

/// The structures of a kernel.
pub(super) struct Structures<'a> {
    types: Vec<Type>,
    by_name: HashMap<&'a [u8], Type>,
    bytes: &'a [u8],
    names: &'a [u8],
}

impl<'a> Structures<'a> {
    /// Those of `wanted`, by name. None: the description is broken.
    pub(super) fn read(bytes: &'a [u8], wanted: &[&str]) -> Option<Self> {
        let word = |at: usize| Some(u32::from_ne_bytes(*bytes.get(at..)?.first_chunk()?));
        let size = |at| usize::try_from(word(at)?).ok();
        if u16::from_ne_bytes(*bytes.first_chunk()?) != MAGIC {
            return None;
        }
        let header = size(4)?;
        let (begin, len) = (header.checked_add(size(8)?)?, size(12)?);
        let names = bytes.get(header.checked_add(size(16)?)?..)?.get(..size(20)?)?;
        let end = begin.checked_add(len).filter(|end| *end <= bytes.len())?;
        // Number 0 is no type.
        let (mut types, mut by_name, mut at) =
            (vec![Type { tail: 0, parts: 0, kind: 0, has_bit_fields: false }], HashMap::new(), begin);
        while at < end {
            let (name, info) = (size(at)?, word(at + 4)?);
            let (parts, kind) = (usize::try_from(info & 0xffff).ok()?, info >> 24 & 0x1f);
            let one = Type { tail: at + 12, parts, kind, has_bit_fields: info >> 31 == 1 };
            if kind == STRUCT && parts > 0 {
                let name = text(names, name)?;
                if wanted.iter().any(|wanted| wanted.as_bytes() == name) {
                    by_name.entry(name).or_insert(one);
                }
            }
            types.push(one);
            at = one.tail.checked_add(tail_len(kind, parts)?)?;
        }
        Some(Self { types, by_name, bytes, names })
    }

    /// Where a field is, in bytes; `file.f_path.dentry` is that of a structure within.
    pub(super) fn offset(&self, path: &str) -> Option<i16> {
        let mut parts = path.split('.');
        let mut of = *self.by_name.get(parts.next()?.as_bytes())?;
        let mut bits = 0;
        for field in parts {
            let (more, within) = self.member(of, field.as_bytes(), DEPTH)?;
            bits += more;
            of = within.unwrap_or(Type { tail: 0, parts: 0, kind: 0, has_bit_fields: false });
        }
        (bits % 8 == 0).then(|| i16::try_from(bits / 8).ok()).flatten()
    }

    /// A member's place in bits, also within members without a name, and its type.
    fn member(&self, of: Type, name: &[u8], depth: usize) -> Option<(u32, Option<Type>)> {
        if !matches!(of.kind, STRUCT | UNION) || depth == 0 {
            return None;
        }
        (0..of.parts).find_map(|index| {
            let at = self.bytes.get(of.tail + index * 12..)?;
            let word = |at: &[u8]| Some(u32::from_ne_bytes(*at.first_chunk()?));
            let (own, kind, offset) = (word(at)?, word(at.get(4..)?)?, word(at.get(8..)?)?);
            let offset = if of.has_bit_fields { offset & 0x00ff_ffff } else { offset };
            let within = self.types.get(usize::try_from(kind).ok()?).copied();
            match text(self.names, usize::try_from(own).ok()?)? {
                b"" => self.member(within?, name, depth - 1).map(|(more, within)| (offset + more, within)),
                own => (own == name).then_some((offset, within)),
            }
        })
    }
}

fn text(names: &[u8], at: usize) -> Option<&[u8]> {
    names.get(at..)?.split(|byte| *byte == 0).next()
}

/// Bytes behind the twelve that each type begins with (`enum` of `BTF_KIND_…`).
fn tail_len(kind: u32, parts: usize) -> Option<usize> {
    match kind {
        1 | 14 | 17 => Some(4),
        2 | 7..=12 | 16 | 18 => Some(0),
        3 => Some(12),
        STRUCT | UNION | 15 | 19 => Some(parts * 12),
        6 | 13 => Some(parts * 8),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A structure `outer` with a number at 8, and behind it at 16 one without a name that has `deep` at 4, of which the type is `inner`
    /// with `last` at 3.
    fn described() -> Vec<u8> {
        let names = b"\0outer\0number\0deep\0inner\0last\0";
        let types: [&[u32]; 4] = [
            &[0, 1 << 24, 8, 64],
            &[19, 4 << 24 | 1, 8, 25, 1, 24],
            &[0, 5 << 24 | 1, 16, 14, 2, 32],
            &[1, 4 << 24 | 2, 32, 7, 1, 64, 0, 3, 128],
        ];
        let types: Vec<u8> = types.concat().into_iter().flat_map(u32::to_ne_bytes).collect();
        let len = |len: usize| u32::try_from(len).expect("small").to_ne_bytes();
        let mut bytes =
            [&MAGIC.to_ne_bytes()[..], &[1, 0], &len(24), &len(0), &len(types.len()), &len(types.len()), &len(names.len())]
                .concat();
        bytes.extend(types);
        bytes.extend_from_slice(names);
        bytes
    }

    #[test]
    fn fields_are_found_also_within_members_without_a_name() {
        let bytes = described();
        let structures = Structures::read(&bytes, &["outer", "inner"]).expect("well-formed");
        for (path, at) in
            [("outer.number", Some(8)), ("outer.deep", Some(20)), ("outer.deep.last", Some(23)), ("inner.last", Some(3))]
        {
            assert_eq!(structures.offset(path), at, "{path}");
        }
        for path in ["outer.last", "outer.number.last", "other.number", "outer.", ""] {
            assert_eq!(structures.offset(path).filter(|_| path.contains('.')), None, "{path}");
        }
        assert_eq!(Structures::read(&bytes, &["outer"]).expect("well-formed").offset("inner.last"), None, "it was not wanted");
    }

    #[test]
    fn broken_description_has_no_places_and_ends() {
        let bytes = described();
        for len in 0..bytes.len() {
            let _ = Structures::read(&bytes[..len], &["outer"]).map(|structures| structures.offset("outer.deep.last"));
        }
        for at in 0..bytes.len() {
            for byte in [0, 1, 0x7f, 0xff] {
                let mut broken = bytes.clone();
                broken[at] = byte;
                let _ = Structures::read(&broken, &["outer"]).map(|structures| structures.offset("outer.deep.last"));
            }
        }
        assert!(Structures::read(b"", &[]).is_none());
    }
}
