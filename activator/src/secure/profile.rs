//! Versions, cipher suites and curves of TLS, by the names that Go and its programs use.

use rustls::{
    CipherSuite, NamedGroup, SupportedProtocolVersion,
    crypto::{CryptoProvider, ring},
    version::{TLS12, TLS13},
};

/// Names that programs in Go know and this provider does not: suites in CBC mode, and curves. They are passed over.
const ELSEWHERE: [&str; 8] = [
    "TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA",
    "TLS_ECDHE_ECDSA_WITH_AES_256_CBC_SHA",
    "TLS_ECDHE_RSA_WITH_AES_128_CBC_SHA",
    "TLS_ECDHE_RSA_WITH_AES_256_CBC_SHA",
    "CurveP521",
    "P-521",
    "X25519MLKEM768",
    "SecP256r1MLKEM768",
];

/// A version of TLS.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum TlsVersion {
    /// 1.2.
    V1_2,
    /// 1.3.
    V1_3,
}

/// What of TLS is spoken. The default is all that is safe: 1.2 and 1.3 with the provider's suites and curves.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TlsProfile {
    least: Option<TlsVersion>,
    most: Option<TlsVersion>,
    /// Of TLS 1.2; those of 1.3 are not chosen. Empty is all.
    suites: Vec<CipherSuite>,
    /// Empty is all.
    groups: Vec<NamedGroup>,
}

/// A value that can't be followed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProfileError {
    /// Another version.
    #[error("`{0}` is no version of TLS spoken here: 1.2 or 1.3")]
    Version(String),
    /// A name that nobody has.
    #[error("`{0}` is no cipher suite or curve")]
    Unknown(String),
    /// Names of which none is spoken here.
    #[error("none of `{0}` is spoken here")]
    None(String),
    /// The least version is above the highest.
    #[error("the least version is above the highest")]
    Reversed,
}

impl TlsProfile {
    /// Reads versions (`1.2`, `1.3`) and lists of names with commas, of suites for TLS 1.2 and of curves; an empty text is the
    /// default. Suites of TLS 1.3 are known and have no effect, as in Go; names that this provider does not have are passed over
    /// and logged, unless no other is left.
    ///
    /// # Errors
    /// Where a version or a name is unknown, where none is left, and where no version is.
    pub fn read(least: &str, most: &str, suites: &str, curves: &str) -> Result<Self, ProfileError> {
        let (least, most) = (version(least)?, version(most)?);
        if let (Some(least), Some(most)) = (least, most)
            && least > most
        {
            return Err(ProfileError::Reversed);
        }
        let provider = ring::default_provider();
        let suite = |name: &str| {
            let known = provider.cipher_suites.iter().map(rustls::SupportedCipherSuite::suite);
            let of_1_3 = name.replacen("TLS_", "TLS13_", 1);
            let mut known = known.filter(|suite| suite.as_str().is_some_and(|known| known == name || known == of_1_3));
            known.next()
        };
        let group = |name: &str| {
            Some(match name {
                "CurveP256" | "P-256" => NamedGroup::secp256r1,
                "CurveP384" | "P-384" => NamedGroup::secp384r1,
                "X25519" => NamedGroup::X25519,
                _ => return None,
            })
        };
        Ok(Self {
            least,
            most,
            suites: names(suites, suite)?,
            groups: names(curves, group)?,
        })
    }

    /// The provider with what is spoken.
    pub(super) fn provider(&self) -> CryptoProvider {
        let mut provider = ring::default_provider();
        if !self.suites.is_empty() {
            let of_1_3 = |suite: &rustls::SupportedCipherSuite| suite.tls13().is_some();
            provider
                .cipher_suites
                .retain(|suite| of_1_3(suite) || self.suites.contains(&suite.suite()));
        }
        if !self.groups.is_empty() {
            provider.kx_groups.retain(|group| self.groups.contains(&group.name()));
            // The order asked for is that of preference.
            let place = |name| self.groups.iter().position(|group| *group == name);
            provider.kx_groups.sort_by_key(|group| place(group.name()));
        }
        provider
    }

    /// The versions that are spoken.
    pub(super) fn versions(&self) -> Vec<&'static SupportedProtocolVersion> {
        let all = [(TlsVersion::V1_3, &TLS13), (TlsVersion::V1_2, &TLS12)];
        let within = |version: TlsVersion| {
            self.least.is_none_or(|least| version >= least) && self.most.is_none_or(|most| version <= most)
        };
        all.into_iter()
            .filter_map(|(version, spoken)| within(version).then_some(spoken))
            .collect()
    }
}

fn version(text: &str) -> Result<Option<TlsVersion>, ProfileError> {
    match text {
        "" => Ok(None),
        "1.2" => Ok(Some(TlsVersion::V1_2)),
        "1.3" => Ok(Some(TlsVersion::V1_3)),
        other => Err(ProfileError::Version(other.to_owned())),
    }
}

/// The known ones of a list.
fn names<T>(list: &str, known: impl Fn(&str) -> Option<T>) -> Result<Vec<T>, ProfileError> {
    let mut found = Vec::new();
    let mut asked = false;
    for name in list.split(',').map(str::trim).filter(|name| !name.is_empty()) {
        asked = true;
        match known(name) {
            Some(known) => found.push(known),
            None if ELSEWHERE.contains(&name) => tracing::warn!(name, "this part of TLS is not spoken here"),
            None => return Err(ProfileError::Unknown(name.to_owned())),
        }
    }
    if asked && found.is_empty() {
        return Err(ProfileError::None(list.to_owned()));
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_those_between_the_least_and_the_highest() {
        let count = |least: &str, most: &str| TlsProfile::read(least, most, "", "").map(|read| read.versions().len());
        assert_eq!(count("", ""), Ok(2));
        assert_eq!(
            (count("1.3", ""), count("", "1.2"), count("1.2", "1.3")),
            (Ok(1), Ok(1), Ok(2))
        );
        assert_eq!(count("1.3", "1.2"), Err(ProfileError::Reversed));
        assert_eq!(count("1.1", ""), Err(ProfileError::Version("1.1".to_owned())));
    }

    /// Add-on unit tests `TestBuildTLSConfig_*`: names of Go, TLS 1.3's suites without effect, unknown ones refused.
    #[test]
    fn add_on_suites_and_curves_have_gos_names() {
        let suite = "TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256";
        let list = format!("{suite}, TLS_AES_128_GCM_SHA256, TLS_ECDHE_RSA_WITH_AES_128_CBC_SHA,");
        let provider = TlsProfile::read("", "", &list, "P-384,X25519").unwrap().provider();
        let of_1_2 = provider.cipher_suites.iter().filter(|suite| suite.tls13().is_none());
        let of_1_2: Vec<&str> = of_1_2.filter_map(|found| found.suite().as_str()).collect();
        assert_eq!(of_1_2, [suite]);
        assert_eq!(provider.cipher_suites.len(), 4, "those of 1.3 stay");
        let groups: Vec<NamedGroup> = provider.kx_groups.iter().map(|group| group.name()).collect();
        assert_eq!(groups, [NamedGroup::secp384r1, NamedGroup::X25519]);
        let unknown = TlsProfile::read("", "", "TLS_NONSENSE", "");
        assert_eq!(unknown, Err(ProfileError::Unknown("TLS_NONSENSE".to_owned())));
        assert!(matches!(
            TlsProfile::read("", "", "", "P-521"),
            Err(ProfileError::None(_))
        ));
    }
}
