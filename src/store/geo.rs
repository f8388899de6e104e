//! Country and AS data: MMDB files that the user names, else the registries' own data for countries inside the binary.
//!
//! Keeps one rule: a lookup that fails is no data, and a rule without data denies.

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use maxminddb::{Reader, path};

use crate::profile::{Country, Fault, Geo};

/// The data in use.
#[derive(Debug, Default)]
pub struct GeoData {
    /// None: the registries' data.
    country: Option<Database>,
    /// None: no data.
    asn: Option<Database>,
}

#[derive(Debug)]
struct Database {
    path: PathBuf,
    reader: Reader<Vec<u8>>,
}

impl Database {
    fn open(path: &Path) -> Result<Self, Fault> {
        let failed = |error: maxminddb::MaxMindDbError| {
            Fault::of_file(
                path,
                format!("cannot be read as an MMDB database: {error}"),
                "name a country or AS database in MMDB form",
            )
        };
        Ok(Self { path: path.to_owned(), reader: Reader::open_readfile(path).map_err(failed)? })
    }
}

impl GeoData {
    /// Opens the databases that are named.
    ///
    /// # Errors
    ///
    /// The database that cannot be read.
    pub fn open(country: Option<&Path>, asn: Option<&Path>) -> Result<Self, Fault> {
        Ok(Self { country: country.map(Database::open).transpose()?, asn: asn.map(Database::open).transpose()? })
    }

    /// The data inside the binary, ready to be given to a policy.
    #[must_use]
    pub fn embedded() -> Arc<dyn Geo> {
        Arc::new(Self::default())
    }

    /// Where the data comes from, for `status` and `doctor`.
    #[must_use]
    pub fn describe(&self) -> String {
        let named = |database: &Option<Database>, otherwise: &str| {
            database.as_ref().map_or_else(|| otherwise.to_owned(), |database| database.path.display().to_string())
        };
        format!(
            "countries: {}; AS numbers: {}",
            named(&self.country, "registries' data in the binary"),
            named(&self.asn, "no data, rules deny")
        )
    }
}

impl Geo for GeoData {
    fn country(&self, address: IpAddr) -> Option<Country> {
        let Some(database) = &self.country else { return Country::new(iptocc::country_code(address)?) };
        let code: Option<&str> = database.reader.lookup(address).ok()?.decode_path(&path!["country", "iso_code"]).ok()?;
        Country::new(code?)
    }

    fn asn(&self, address: IpAddr) -> Option<u32> {
        let found = self.asn.as_ref()?.reader.lookup(address).ok()?;
        found.decode_path(&path!["autonomous_system_number"]).ok()?
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn countries_are_known_without_any_file_and_as_numbers_are_not() {
        let geo = GeoData::default();
        for (address, code) in
            [("193.0.6.139", Some("NL")), ("2001:67c:2e8::1", Some("NL")), ("192.0.2.1", None), ("10.0.0.1", None)]
        {
            let found = geo.country(address.parse().expect("an address"));
            assert_eq!(found, code.and_then(Country::new), "{address}");
        }
        assert_eq!(geo.asn(IpAddr::from([193, 0, 6, 139])), None);
        assert!(geo.describe().contains("no data"));
    }

    #[test]
    fn a_file_that_is_no_database_is_a_fault_that_names_it() {
        let file = tempfile::NamedTempFile::new().expect("a temporary file");
        let fault = GeoData::open(Some(file.path()), None).expect_err("an empty file is no database").to_string();
        assert!(fault.starts_with(&*file.path().to_string_lossy()) && fault.contains("MMDB"), "{fault}");
    }
}
