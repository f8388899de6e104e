//! The letters of names in an answer: as the program wrote them.
//!
//! An upstream writes what an answer's names share with the question in the case of the question (RFC 1035 §4.1.4: by a pointer to it),
//! and ours go out in random case. Keeps one rule: no name becomes another one; what is compared ignores case, and so does DNS.

use hickory_proto::rr::{Name, RData, Record};

/// Writes the end of each name that is an end of `asked`, too, as it is there.
pub(super) fn restore<'a>(records: impl Iterator<Item = &'a mut Record>, asked: &Name) {
    for record in records {
        write(&mut record.name, asked);
        match &mut record.data {
            RData::CNAME(target) => write(&mut target.0, asked),
            RData::NS(target) => write(&mut target.0, asked),
            RData::PTR(target) => write(&mut target.0, asked),
            RData::MX(mx) => write(&mut mx.exchange, asked),
            RData::SRV(srv) => write(&mut srv.target, asked),
            RData::NAPTR(naptr) => write(&mut naptr.replacement, asked),
            RData::SVCB(svcb) => write(&mut svcb.target_name, asked),
            RData::HTTPS(https) => write(&mut https.0.target_name, asked),
            RData::SOA(soa) => [&mut soa.mname, &mut soa.rname].into_iter().for_each(|name| write(name, asked)),
            _ => {}
        }
    }
}

fn write(name: &mut Name, asked: &Name) {
    let (labels, wanted): (Vec<&[u8]>, Vec<&[u8]>) = (name.iter().collect(), asked.iter().collect());
    let is_same = |(one, other): &(&&[u8], &&[u8])| one.eq_ignore_ascii_case(other);
    let shared = labels.iter().rev().zip(wanted.iter().rev()).take_while(is_same).count();
    let [own, end] = [labels.len() - shared, wanted.len() - shared];
    let written = labels.iter().take(own).chain(wanted.iter().skip(end)).copied();
    // A name of the same lengths is one as well.
    if let Ok(mut written) = Name::from_labels(written) {
        written.set_fqdn(name.is_fqdn());
        *name = written;
    }
}

#[cfg(test)]
mod tests {
    use hickory_proto::rr::rdata::{CNAME, MX, SOA};

    use super::*;

    fn name(text: &str) -> Name {
        Name::from_ascii(text).expect("a name")
    }

    #[test]
    fn what_a_name_shares_with_the_question_is_written_as_there_and_nothing_else_is() {
        for (said, asked, expected) in [
            ("wWw.eXample.CoM.", "www.Example.com.", "www.Example.com."),
            ("V4.eXaMple.CoM.", "www.example.com.", "V4.example.com."),
            ("Other.NET.", "www.example.com.", "Other.NET."),
            ("CoM.", "www.example.com.", "com."),
            (".", "www.example.com.", "."),
            ("a.wWw.eXample.com.", "www.example.com.", "a.www.example.com."),
        ] {
            let mut said = name(said);
            write(&mut said, &name(asked));
            assert!(said.eq_case(&name(expected)) && said.is_fqdn(), "{said} for {asked}");
        }
    }

    #[test]
    fn names_are_written_so_inside_of_records_too() {
        let owner = || name("MaIl.ExAmPlE.org.");
        let soa = SOA::new(name("ns.ExAmPlE.org."), name("who.ExAmPlE.org."), 1, 2, 3, 4, 5);
        let mut records =
            [RData::CNAME(CNAME(name("a.ExAmPlE.org."))), RData::MX(MX::new(10, name("mx.ExAmPlE.org."))), RData::SOA(soa)]
                .map(|data| Record::from_rdata(owner(), 60, data));
        restore(records.iter_mut(), &name("mail.example.org."));
        let text = format!("{records:?}");
        assert!(!text.contains("ExAmPlE") && !text.contains("MaIl"), "{text}");
    }
}
