//! Where an address is registered. The data comes from outside; which continent a country lies in is known here.

use std::fmt;
use std::net::IpAddr;

use super::entity::{Continent, Country};

/// Answers from registry data. `None` means: no data, and a rule that needs it is then a match error.
pub trait Geo: fmt::Debug + Send + Sync {
    fn country(&self, address: IpAddr) -> Option<Country>;
    fn asn(&self, address: IpAddr) -> Option<u32>;
}

/// Knows nothing.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoGeo;

impl Geo for NoGeo {
    fn country(&self, _: IpAddr) -> Option<Country> {
        None
    }

    fn asn(&self, _: IpAddr) -> Option<u32> {
        None
    }
}

/// Countries (ISO 3166-1, with the registries' EU and the user-assigned XK) by continent, as GeoNames has them.
const COUNTRIES: [(Continent, &str); 7] = [
    (
        Continent::Africa,
        "AO BF BI BJ BW CD CF CG CI CM CV DJ DZ EG EH ER ET GA GH GM GN GQ GW KE KM LR LS LY MA MG ML MR MU MW MZ NA NE NG RE RW SC SD \
         SH SL SN SO SS ST SZ TD TG TN TZ UG YT ZA ZM ZW",
    ),
    (Continent::Antarctica, "AQ BV GS HM TF"),
    (
        Continent::Asia,
        "AE AF AM AZ BD BH BN BT CC CN GE HK ID IL IN IO IQ IR JO JP KG KH KP KR KW KZ LA LB LK MM MN MO MV MY NP OM PH PK PS QA SA SG \
         SY TH TJ TM TR TW UZ VN YE",
    ),
    (
        Continent::Europe,
        "AD AL AT AX BA BE BG BY CH CY CZ DE DK EE ES EU FI FO FR GB GG GI GR HR HU IE IM IS IT JE LI LT LU LV MC MD ME MK MT NL NO PL \
         PT RO RS RU SE SI SJ SK SM UA VA XK",
    ),
    (
        Continent::NorthAmerica,
        "AG AI AW BB BL BM BQ BS BZ CA CR CU CW DM DO GD GL GP GT HN HT JM KN KY LC MF MQ MS MX NI PA PM PR SV SX TC TT US VC VG VI",
    ),
    (Continent::Oceania, "AS AU CK CX FJ FM GU KI MH MP NC NF NR NU NZ PF PG PN PW SB TK TL TO TV UM VU WF WS"),
    (Continent::SouthAmerica, "AR BO BR CL CO EC FK GF GY PE PY SR UY VE"),
];

impl Continent {
    /// The continent of a country; None for codes that are no country.
    #[must_use]
    pub fn of(country: Country) -> Option<Self> {
        let lists = |(_, list): &&(Self, &str)| list.split(' ').any(|code| Country::new(code) == Some(country));
        COUNTRIES.iter().find(lists).map(|(continent, _)| *continent)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn countries_lie_on_one_continent() {
        for (code, continent) in
            [("AT", Some("EU")), ("US", Some("NA")), ("AS", Some("OC")), ("ZA", Some("AF")), ("ZZ", None), ("JP", Some("AS"))]
        {
            let country = Country::new(code).expect("two capitals");
            assert_eq!(Continent::of(country).map(Continent::code), continent, "{code}");
        }
        let mut all: Vec<&str> = COUNTRIES.iter().flat_map(|(_, list)| list.split(' ')).collect();
        let count = all.len();
        all.sort_unstable();
        all.dedup();
        assert_eq!(all.len(), count, "a country stands twice");
        assert_eq!(count, 251);
    }
}
