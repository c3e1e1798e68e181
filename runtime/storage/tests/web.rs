//! Fetching from an HTTP server on loopback that breaks off, stalls, refuses and changes its mind.

mod support;

use std::{fs, path::Path, sync::Arc, time::Duration};

use pilotlight_storage::{Config, Error, Fetcher, Progress, Uri};
use sha2::{Digest as _, Sha256};
use support::{Behaviour, Server};

/// Small parts, so that small contents have several, and short pauses.
fn config(folder: &Path) -> Config {
    Config {
        environment: [("HOME", "/nonexistent")].into_iter().collect(),
        part_bytes: 1000,
        retry_pause: Duration::from_millis(1),
        retry_pause_max: Duration::from_millis(2),
        idle_timeout: Duration::from_millis(500),
        ..Config::new(folder)
    }
}

struct Place {
    folder: tempfile::TempDir,
    fetcher: Fetcher,
}

impl Place {
    fn new() -> Self {
        Self::with(|_| {})
    }

    fn with(change: impl FnOnce(&mut Config)) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut config = config(folder.path());
        change(&mut config);
        let fetcher = Fetcher::new(config);
        Self { folder, fetcher }
    }

    async fn fetch(&self, uri: &str) -> Result<pilotlight_storage::Fetched, Error> {
        self.fetcher.fetch(&uri.parse::<Uri>()?, None).await
    }

    /// Downloads, whole or in part, that are in the cache's folder.
    fn leftovers(&self) -> usize {
        fs::read_dir(self.folder.path().join("scratch")).unwrap().count()
    }

    fn models(&self) -> usize {
        let models = fs::read_dir(self.folder.path().join("models")).unwrap();
        models.filter(|entry| entry.as_ref().unwrap().path().is_dir()).count()
    }
}

fn content(bytes: usize) -> Vec<u8> {
    (0..bytes).map(|index| (index * 7 + index / 251) as u8).collect()
}

fn sha256(bytes: &[u8]) -> String {
    format!("{:x}", Sha256::digest(bytes))
}

#[tokio::test]
async fn a_large_object_comes_in_parts_and_is_whole() {
    let server = Server::start(content(10_500)).await;
    let place = Place::new();
    let fetched = place.fetch(&server.uri("iris.onnx")).await.unwrap();
    assert_eq!(fs::read(fetched.path()).unwrap(), content(10_500));
    assert_eq!(fetched.path().file_name().unwrap(), "iris.onnx");
    assert_eq!(fetched.digest(), sha256(&content(10_500)));
    let ranges = server.ranges();
    assert_eq!(ranges.len(), 12, "a look and 11 parts: {ranges:?}");
    assert_eq!(place.leftovers(), 0);
}

#[tokio::test]
async fn what_did_not_change_is_not_fetched_again_and_what_did_is() {
    let server = Server::start(content(3_000)).await;
    let place = Place::new();
    let first = place.fetch(&server.uri("m.onnx")).await.unwrap();
    let before = server.ranges().len();
    let second = place.fetch(&server.uri("m.onnx")).await.unwrap();
    assert_eq!((first.path(), first.digest()), (second.path(), second.digest()));
    assert_eq!(server.ranges().len(), before + 1, "one look");
    server.put(content(3_001));
    let third = place.fetch(&server.uri("m.onnx")).await.unwrap();
    assert_ne!(third.digest(), second.digest());
    assert!(
        second.path().is_file(),
        "a former content stays for as long as it is in use"
    );
}

#[tokio::test]
async fn a_transfer_that_breaks_off_goes_on_where_it_was() {
    let server = Server::start(content(5_000)).await;
    server.behave(Behaviour {
        cut_after: Some(100),
        cuts: 20,
        ..Behaviour::default()
    });
    let place = Place::with(|config| config.part_bytes = 5_000);
    let fetched = place.fetch(&server.uri("m.onnx")).await.unwrap();
    assert_eq!(fs::read(fetched.path()).unwrap(), content(5_000));
    let starts: Vec<_> = server.ranges().into_iter().flatten().map(|(start, _)| start).collect();
    // The look may be cut as well; after it each try begins where the former ended.
    assert!(starts.windows(2).all(|pair| pair[0] <= pair[1]), "{starts:?}");
    assert!(starts.contains(&100) && starts.contains(&1_500), "{starts:?}");
}

#[tokio::test]
async fn a_download_that_fails_for_good_leaves_nothing() {
    let server = Server::start(content(5_000)).await;
    let place = Place::with(|config| config.tries = 3);
    server.behave(Behaviour {
        cut_after: Some(0),
        cuts: usize::MAX,
        spare_looks: true,
        ..Behaviour::default()
    });
    let error = place.fetch(&server.uri("m.onnx")).await.unwrap_err();
    assert!(matches!(error, Error::Unreachable { tries: 3, .. }), "{error:?}");
    assert_eq!((place.leftovers(), place.models()), (0, 0));
    server.behave(Behaviour::default());
    place.fetch(&server.uri("m.onnx")).await.unwrap();
}

#[tokio::test]
async fn a_fetch_that_is_given_up_leaves_nothing() {
    let server = Server::start(content(5_000)).await;
    server.behave(Behaviour {
        stall_after: Some(100),
        spare_looks: true,
        ..Behaviour::default()
    });
    let place = Place::with(|config| config.idle_timeout = Duration::from_mins(1));
    let (uri, started) = (server.uri("m.onnx").parse::<Uri>().unwrap(), server.served());
    let fetch = place.fetcher.fetch(&uri, None);
    tokio::select! {
        _ = fetch => panic!("the server stalls"),
        () = started => {}
    }
    // The folder goes with the fetch; writes that were on their way keep it for a moment.
    let gone = async {
        while place.leftovers() > 0 {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), gone).await.unwrap();
    assert_eq!(place.models(), 0);
}

#[tokio::test]
async fn a_server_that_falls_silent_has_failed() {
    let server = Server::start(content(2_000)).await;
    server.behave(Behaviour {
        stall_after: Some(100),
        spare_looks: true,
        ..Behaviour::default()
    });
    let place = Place::with(|config| {
        config.tries = 1;
        config.idle_timeout = Duration::from_millis(100);
    });
    let error = place.fetch(&server.uri("m.onnx")).await.unwrap_err();
    assert!(matches!(error, Error::Unreachable { .. }), "{error:?}");
}

#[tokio::test]
async fn busy_servers_are_asked_again_and_refusals_are_final() {
    let server = Server::start(content(500)).await;
    let place = Place::new();
    server.behave(Behaviour {
        statuses: vec![503, 429, 500],
        ..Behaviour::default()
    });
    place.fetch(&server.uri("m.onnx")).await.unwrap();
    for (status, code) in [
        (404, "not-found"),
        (403, "access-denied"),
        (401, "access-denied"),
        (400, "refused"),
    ] {
        let before = server.ranges().len();
        server.behave(Behaviour {
            statuses: vec![status],
            ..Behaviour::default()
        });
        let error = place.fetch(&server.uri("other.onnx?sig=hidden")).await.unwrap_err();
        assert_eq!(error.code(), code, "{error}");
        assert!(
            !error.to_string().contains("hidden") && error.to_string().contains("/other.onnx"),
            "{error}"
        );
        assert_eq!(server.ranges().len(), before + 1);
    }
}

#[tokio::test]
async fn an_unreachable_store_is_no_reason_to_stop_serving_what_was_fetched() {
    let server = Server::start(content(2_000)).await;
    let (place, uri) = (Place::with(|config| config.tries = 2), server.uri("m.onnx"));
    let first = place.fetch(&uri).await.unwrap();
    server.behave(Behaviour {
        statuses: vec![503; 10],
        ..Behaviour::default()
    });
    assert_eq!(place.fetch(&uri).await.unwrap().digest(), first.digest());
    let error = place.fetch(&server.uri("never-seen.onnx")).await.unwrap_err();
    assert!(matches!(error, Error::Unreachable { tries: 2, .. }), "{error:?}");
}

#[tokio::test]
async fn servers_without_ranges_or_lengths_or_versions_do_too() {
    for behaviour in [
        Behaviour {
            no_ranges: true,
            ..Behaviour::default()
        },
        Behaviour {
            no_ranges: true,
            no_length: true,
            ..Behaviour::default()
        },
        Behaviour {
            no_etag: true,
            ..Behaviour::default()
        },
    ] {
        let server = Server::start(content(4_321)).await;
        server.behave(behaviour.clone());
        let place = Place::new();
        let fetched = place.fetch(&server.uri("m.onnx")).await.unwrap();
        assert_eq!(fs::read(fetched.path()).unwrap(), content(4_321), "{behaviour:?}");
    }
}

#[tokio::test]
async fn a_broken_answer_without_ranges_is_fetched_anew() {
    let server = Server::start(content(4_000)).await;
    server.behave(Behaviour {
        no_ranges: true,
        cut_after: Some(2_000),
        cuts: 3,
        ..Behaviour::default()
    });
    let place = Place::new();
    let fetched = place.fetch(&server.uri("m.onnx")).await.unwrap();
    assert_eq!(fs::read(fetched.path()).unwrap(), content(4_000));
}

#[tokio::test]
async fn an_object_that_changes_under_the_fetch_is_never_mixed() {
    let server = Server::start(content(5_000)).await;
    server.behave(Behaviour {
        change_after: Some((3, vec![9; 5_000])),
        ..Behaviour::default()
    });
    let place = Place::with(|config| config.transfers = 1);
    let fetched = place.fetch(&server.uri("m.onnx")).await.unwrap();
    assert_eq!(fs::read(fetched.path()).unwrap(), vec![9; 5_000]);
}

#[tokio::test]
async fn a_checksum_is_demanded_and_makes_the_store_unnecessary() {
    let server = Server::start(content(2_000)).await;
    let (place, uri) = (Place::new(), server.uri("m.onnx"));
    let error = place
        .fetch(&format!("{uri}#sha256={}", "0".repeat(64)))
        .await
        .unwrap_err();
    assert!(
        matches!(&error, Error::Checksum { found, .. } if *found == sha256(&content(2_000))),
        "{error:?}"
    );
    assert_eq!((place.leftovers(), place.models()), (0, 0));
    let right = format!("{uri}#sha256={}", sha256(&content(2_000)));
    place.fetch(&right).await.unwrap();
    let before = server.ranges().len();
    place.fetch(&right).await.unwrap();
    assert_eq!(server.ranges().len(), before);
}

#[tokio::test]
async fn what_does_not_fit_is_refused_before_it_is_fetched() {
    let server = Server::start(content(5_000)).await;
    let place = Place::with(|config| config.limit_bytes = 4_999);
    let error = place.fetch(&server.uri("m.onnx")).await.unwrap_err();
    assert_eq!(
        error,
        Error::TooLarge {
            uri: server.uri("m.onnx"),
            bytes: 5_000,
            limit: 4_999
        }
    );
    assert_eq!(server.ranges().len(), 1, "one look");
    // A server that doesn't tell the length is stopped on the way.
    server.behave(Behaviour {
        no_ranges: true,
        no_length: true,
        ..Behaviour::default()
    });
    let error = place.fetch(&server.uri("m.onnx")).await.unwrap_err();
    assert_eq!(error.code(), "no-room", "{error}");
    assert_eq!(place.leftovers(), 0);
}

#[tokio::test]
async fn two_fetches_of_one_uri_are_one_download() {
    let server = Server::start(content(9_000)).await;
    let folder = tempfile::tempdir().unwrap();
    // Two fetchers are as two processes: they share the folder and nothing else.
    let (a, b) = (Fetcher::new(config(folder.path())), Fetcher::new(config(folder.path())));
    let uri: Uri = server.uri("m.onnx").parse().unwrap();
    let other = uri.clone();
    let a = tokio::spawn(async move { a.fetch(&other, None).await });
    let (a, b) = tokio::join!(a, b.fetch(&uri, None));
    assert_eq!(a.unwrap().unwrap().path(), b.unwrap().path());
    assert_eq!(server.ranges().len(), 11, "two looks and nine parts");
}

#[tokio::test]
async fn progress_is_told() {
    let server = Server::start(content(5_000)).await;
    let place = Place::new();
    let seen: Arc<std::sync::Mutex<Vec<Progress>>> = Arc::default();
    let watch = {
        let seen = seen.clone();
        Arc::new(move |progress| seen.lock().unwrap().push(progress))
    };
    let uri = server.uri("m.onnx").parse().unwrap();
    place.fetcher.fetch(&uri, Some(watch)).await.unwrap();
    let last = seen.lock().unwrap().iter().map(|progress| progress.done).max();
    assert_eq!(last, Some(5_000));
    assert!(
        seen.lock()
            .unwrap()
            .iter()
            .all(|progress| progress.total == Some(5_000))
    );
}

#[tokio::test]
async fn an_archive_is_unpacked() {
    let mut builder = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_gnu();
    header.set_size(5);
    header.set_mode(0o644);
    builder
        .append_data(&mut header, "iris/model.onnx", &b"model"[..])
        .unwrap();
    let server = Server::start(builder.into_inner().unwrap()).await;
    let place = Place::new();
    let fetched = place.fetch(&server.uri("iris.tar")).await.unwrap();
    let model = pilotlight_storage::one_file(fetched.path(), "onnx").unwrap();
    assert_eq!(fs::read(model).unwrap(), b"model");
    assert_eq!(
        fs::read_dir(fetched.path()).unwrap().count(),
        1,
        "the archive itself is not kept"
    );
}

#[tokio::test]
async fn headers_of_a_host_come_from_the_environment() {
    let server = Server::start(content(100)).await;
    server.behave(Behaviour {
        wants: Some("authorization: Bearer sesame".to_owned()),
        ..Behaviour::default()
    });
    let error = Place::new().fetch(&server.uri("m.onnx")).await.unwrap_err();
    assert_eq!(error.code(), "access-denied");
    let place = Place::with(|config| {
        config.environment = [("127.0.0.1-headers", r#"{"Authorization": "Bearer sesame"}"#)]
            .into_iter()
            .collect();
    });
    place.fetch(&server.uri("m.onnx")).await.unwrap();
}
