//! The stores: what is at a URI, and its bytes. One try each; who asks decides about another one.

mod cloud;
mod settings;
mod web;

use std::ops::Range;

use bytes::Bytes;
use futures_util::stream::BoxStream;

use self::{cloud::Cloud, web::Web};
use crate::{
    config::Config,
    uri::{Kind, Uri},
};

/// Why one try failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// There is nothing.
    NotFound,
    /// Credentials are missing or don't suffice.
    Denied(String),
    /// The object is another one than was listed.
    Changed,
    /// It may pass by itself.
    Transient(String),
    /// It will not.
    Refused(String),
    /// More objects than allowed.
    TooMany,
    /// More bytes than the cache may hold; how many are known of.
    TooLarge(u64),
    /// This machine's disk.
    Disk(String),
}

/// Bytes on their way.
pub(crate) type Bytestream = BoxStream<'static, Result<Bytes, Fault>>;

/// One object of a listing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Object {
    /// Where it goes, relative to what was asked for: names parted by slashes, none of them `.` or `..`.
    pub(crate) name: String,
    /// The store's own name of it; empty with http.
    pub(crate) key: String,
    /// Its length, where the store tells it.
    pub(crate) size: Option<u64>,
    /// What changes when its content does, where the store tells it.
    pub(crate) version: Option<String>,
    /// Whether parts of it can be asked for, and a change in between is noticed.
    pub(crate) ranges: bool,
}

/// What is at a URI.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Listing {
    /// At least one, by name.
    pub(crate) objects: Vec<Object>,
    /// The URI names this one object, not a folder of objects.
    pub(crate) single: bool,
    /// The content type of a single object, where the store tells it.
    pub(crate) content_type: Option<String>,
}

impl Listing {
    /// The bytes of all objects; `None` where one isn't told.
    pub(crate) fn bytes(&self) -> Option<u64> {
        self.objects.iter().map(|object| object.size).sum()
    }

    /// Text that changes when any content does; `None` where the store doesn't tell.
    pub(crate) fn version(&self) -> Option<String> {
        let lines: Option<Vec<String>> = self
            .objects
            .iter()
            .map(|object| {
                let version = object.version.as_ref()?;
                Some(format!("{}\0{}\0{version}\n", object.name, object.size.unwrap_or(0)))
            })
            .collect();
        Some(crate::digest::sha256(lines?.concat().as_bytes()))
    }
}

/// A way to one store.
pub(crate) enum Source {
    /// An object store.
    Cloud(Cloud),
    /// An HTTP server.
    Web(Web),
}

impl Source {
    /// The ways to try, one after the other: with the credentials that the environment gives, or, where it gives none,
    /// with those of the machine and then with none, which is what public buckets want.
    pub(crate) fn ways(uri: &Uri, config: &Config) -> Result<Vec<Self>, Fault> {
        crate::install_tls_provider();
        match uri.kind() {
            Kind::Web => Ok(vec![Self::Web(Web::open(uri, config)?)]),
            _ => Ok(Cloud::ways(uri, config)?.into_iter().map(Self::Cloud).collect()),
        }
    }

    /// What is at the URI.
    pub(crate) async fn list(&self) -> Result<Listing, Fault> {
        match self {
            Self::Cloud(cloud) => cloud.list().await,
            Self::Web(web) => web.list().await,
        }
    }

    /// The bytes of an object, or of a range of it.
    pub(crate) async fn read(&self, object: &Object, range: Option<Range<u64>>) -> Result<Bytestream, Fault> {
        match self {
            Self::Cloud(cloud) => cloud.read(object, range).await,
            Self::Web(web) => web.read(object, range).await,
        }
    }
}

/// Whether a name may become a path below a folder of ours.
pub(crate) fn is_safe(name: &str) -> bool {
    !name.is_empty()
        && name
            .split('/')
            .all(|part| !part.is_empty() && part != "." && part != ".." && !part.contains('\0') && part.len() <= 255)
}
