use std::{fs, time::Duration};

use tempfile::TempDir;

use super::*;

fn document(name: &str, model: &str) -> String {
    format!(
        "apiVersion: serving.kserve.io/v1beta1\nkind: InferenceService\nmetadata: {{name: {name}}}\n\
         spec: {{predictor: {{model: {{modelFormat: {{name: onnx}}, storageUri: {model}}}}}}}\n"
    )
}

struct Place {
    directory: TempDir,
    source: Source,
}

impl Place {
    fn with(files: &[(&str, &str)]) -> Self {
        let directory = tempfile::tempdir().unwrap();
        for (name, text) in files {
            fs::write(directory.path().join(name), text).unwrap();
        }
        let source = open(directory.path());
        Self { directory, source }
    }

    fn write(&mut self, name: &str, text: &str) {
        fs::write(self.path(name), text).unwrap();
        self.source.work(None);
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn declared(&self) -> Arc<Declared> {
        self.source.declared().borrow().clone()
    }

    fn names(&self) -> Vec<String> {
        self.declared()
            .services
            .keys()
            .map(|key| key.trim_start_matches("default/").to_owned())
            .collect()
    }

    fn apply(&mut self, text: &str) -> Result<Vec<Outcome>, Refusal> {
        let applied = self.source.apply(text, &self.path("stdin"))?;
        Ok(applied.objects.into_iter().map(|(_, _, outcome)| outcome).collect())
    }
}

fn open(directory: &Path) -> Source {
    let config = SourceConfig {
        empty_grace: Duration::ZERO,
        ..SourceConfig::for_directory(directory)
    };
    Source::open(config, "example.com").unwrap()
}

#[test]
fn manifests_of_a_directory_are_declared_and_other_files_are_not() {
    let (a, b) = (document("a", "a.onnx"), document("b", "b.onnx"));
    let place = Place::with(&[
        ("a.yaml", &a),
        ("b.yml", &b),
        (".hidden.yaml", &a),
        ("readme.md", "text"),
    ]);
    assert_eq!(place.names(), ["a", "b"]);
    assert_eq!(place.declared().faults, []);
}

#[test]
fn a_bad_document_changes_nothing_that_was_declared() {
    let both = format!("{}---\n{}", document("a", "a.onnx"), document("b", "b.onnx"));
    let mut place = Place::with(&[("both.yaml", &both)]);
    let before = place.declared();
    place.write("both.yaml", &both.replace("{name: b}", "{name: b, labels: [}"));
    assert_eq!(place.declared().services, before.services);
    assert!(!place.declared().faults.is_empty());
    let changed = format!("{}---\n{}", document("a", "other.onnx"), "kind: Unknown\n");
    place.write("both.yaml", &changed);
    assert_eq!(place.names(), ["a", "b"], "b stays while the file has a fault");
    assert_ne!(
        place.declared().services["default/a"],
        before.services["default/a"],
        "a good document takes effect"
    );
    place.write("both.yaml", &document("a", "other.onnx"));
    assert_eq!(place.names(), ["a"]);
    assert_eq!(place.declared().faults, []);
}

#[test]
fn a_deleted_file_takes_its_services_away() {
    let mut place = Place::with(&[
        ("a.yaml", &document("a", "a.onnx")),
        ("b.yaml", &document("b", "b.onnx")),
    ]);
    fs::remove_file(place.path("a.yaml")).unwrap();
    place.source.work(None);
    assert_eq!(place.names(), ["b"]);
}

#[test]
fn a_renamed_file_keeps_its_service() {
    let mut place = Place::with(&[("a.yaml", &document("a", "a.onnx"))]);
    fs::rename(place.path("a.yaml"), place.path("z.yaml")).unwrap();
    place.source.work(None);
    assert_eq!(
        (place.names(), place.declared().faults.len()),
        (vec!["a".to_owned()], 0)
    );
}

#[test]
fn an_emptied_file_is_taken_for_one_that_is_being_written() {
    let mut place = Place::with(&[("a.yaml", &document("a", "a.onnx"))]);
    let config = SourceConfig::for_directory(place.directory.path());
    place.source = Source::open(
        SourceConfig {
            empty_grace: Duration::from_mins(10),
            ..config
        },
        "example.com",
    )
    .unwrap();
    place.write("a.yaml", "");
    assert_eq!(place.names(), ["a"]);
    assert!(place.source.files.settles_at().is_some());
    place.write("a.yaml", &document("a", "new.onnx"));
    assert!(place.source.files.settles_at().is_none());
    let mut place = Place::with(&[("a.yaml", &document("a", "a.onnx"))]);
    place.write("a.yaml", "");
    assert_eq!(place.names(), [""; 0], "after its grace it is empty");
}

#[test]
fn a_taken_name_stays_with_whoever_has_it() {
    let mut place = Place::with(&[("m.yaml", &document("a", "a.onnx"))]);
    place.write("first-by-name.yaml", &document("a", "other.onnx"));
    let declared = place.declared();
    assert_eq!(declared.services["default/a"].source.file, place.path("m.yaml"));
    assert_eq!(declared.faults[0].file, place.path("first-by-name.yaml"));
    fs::remove_file(place.path("m.yaml")).unwrap();
    place.source.work(None);
    assert_eq!(
        place.declared().services["default/a"].source.file,
        place.path("first-by-name.yaml")
    );
}

#[test]
fn a_changed_model_file_is_a_new_generation_and_nothing_else_is() {
    let mut place = Place::with(&[("a.yaml", &document("a", "a.onnx"))]);
    let generation = place.declared().generation;
    place.source.work(None);
    assert_eq!(place.declared().generation, generation);
    place.write("a.onnx", "model");
    assert_eq!(place.declared().generation, generation + 1);
    place.write("a.onnx", "another model");
    assert_eq!(place.declared().generation, generation + 2);
    place.write("unrelated.txt", "text");
    assert_eq!(place.declared().generation, generation + 2);
}

#[test]
fn applied_objects_survive_a_restart_with_absolute_paths() {
    let mut place = Place::with(&[]);
    assert_eq!(
        place.apply(&document("a", "models/a.onnx")).unwrap(),
        [Outcome::Created]
    );
    assert_eq!(
        place.apply(&document("a", "models/a.onnx")).unwrap(),
        [Outcome::Unchanged]
    );
    assert_eq!(
        place.apply(&document("a", "models/b.onnx")).unwrap(),
        [Outcome::Configured]
    );
    let again = open(place.directory.path());
    let declared = again.declared().borrow().clone();
    let expected = pilotlight_manifests::Storage::Local(place.path("models/b.onnx"));
    assert_eq!(declared.services["default/a"].storage, expected);
    assert_eq!(
        declared.services["default/a"].source.file,
        place.path(".pilotlight/objects/default_a.json")
    );
}

#[test]
fn an_apply_is_all_or_nothing() {
    let mut place = Place::with(&[]);
    let text = format!("{}---\nkind: Unknown\n", document("a", "a.onnx"));
    assert!(matches!(place.apply(&text), Err(Refusal::Faults(faults)) if !faults.is_empty()));
    assert_eq!(place.names(), [""; 0]);
    assert!(matches!(place.apply("# nothing\n"), Err(Refusal::Empty)));
}

#[test]
fn an_apply_that_collides_is_refused() {
    let mut place = Place::with(&[(
        "a-b.yaml",
        &document("a-b", "a.onnx").replace("{name: a-b}", "{name: a-b, namespace: c}"),
    )]);
    let colliding = document("a", "a.onnx").replace("{name: a}", "{name: a, namespace: b-c}");
    assert!(matches!(place.apply(&colliding), Err(Refusal::Faults(faults)) if faults.len() == 1));
}

#[test]
fn a_hand_written_document_is_neither_applied_over_nor_deleted() {
    let mut place = Place::with(&[("a.yaml", &document("a", "a.onnx"))]);
    let refused = place.source.delete("default/a").unwrap_err();
    assert!(refused.to_string().contains("a.yaml"), "{refused}");
    assert!(matches!(
        place.apply(&document("a", "b.onnx")),
        Err(Refusal::DeclaredInFile { .. })
    ));
    assert!(matches!(
        place.source.delete("default/nobody"),
        Err(Refusal::NotFound(_))
    ));
    assert_eq!(place.names(), ["a"]);
}

#[test]
fn a_deleted_object_is_gone_after_a_restart_too() {
    let mut place = Place::with(&[]);
    place.apply(&document("a", "a.onnx")).unwrap();
    place.source.delete("default/a").unwrap();
    assert_eq!(place.names(), [""; 0]);
    assert!(open(place.directory.path()).declared().borrow().services.is_empty());
}

#[test]
fn a_missing_directory_and_one_that_is_none_are_named() {
    let place = Place::with(&[("file", "")]);
    let error = |path: PathBuf| {
        Source::open(SourceConfig::for_directory(path), "x")
            .err()
            .unwrap()
            .to_string()
    };
    assert!(
        error(place.path("nowhere"))
            .ends_with("nowhere: no such directory; give the directory that holds the manifests")
    );
    assert!(error(place.path("file")).contains("file: not a directory"));
}

#[test]
fn a_state_directory_that_cannot_be_written_is_named_and_changes_nothing() {
    let mut place = Place::with(&[]);
    fs::write(place.path(".pilotlight"), "a file is in the way").unwrap();
    let refused = place.apply(&document("a", "a.onnx")).unwrap_err();
    assert!(
        refused.to_string().contains("the state directory must be writable"),
        "{refused}"
    );
    assert_eq!(place.names(), [""; 0]);
}

#[test]
fn a_full_disk_is_told_apart() {
    let error = Error::state(Path::new("/x"), std::io::Error::from(std::io::ErrorKind::StorageFull));
    assert_eq!(
        error.to_string(),
        "/x: no space left on the device; nothing was changed"
    );
}

/// The one test of the watch itself: on the real clock, as the system tells of real files.
#[tokio::test(flavor = "multi_thread")]
async fn changes_of_files_are_seen_within_a_second() {
    let place = Place::with(&[("a.yaml", &document("a", "models/a.onnx"))]);
    fs::create_dir(place.path("models")).unwrap();
    let source = open(place.directory.path());
    let (mut declared, shutdown) = (source.declared(), CancellationToken::new());
    let running = tokio::spawn(source.run(shutdown.clone()));
    let mut change = async |what: &str| {
        let seen = tokio::time::timeout(Duration::from_secs(10), declared.changed()).await;
        seen.unwrap_or_else(|_| panic!("{what} is not seen")).unwrap();
        let keys: Vec<String> = declared
            .borrow_and_update()
            .services
            .keys()
            .map(ToString::to_string)
            .collect();
        keys
    };
    // The watch begins with the task; what happens before is found at the next look.
    tokio::time::sleep(Duration::from_millis(300)).await;
    let begin = std::time::SystemTime::now();
    fs::write(place.path("b.new"), document("b", "b.onnx")).unwrap();
    fs::rename(place.path("b.new"), place.path("b.yaml")).unwrap();
    assert_eq!(change("a renamed file").await, ["default/a", "default/b"]);
    fs::write(place.path("models/a.onnx"), "model").unwrap();
    change("a model").await;
    fs::remove_file(place.path("a.yaml")).unwrap();
    assert_eq!(change("a deleted file").await, ["default/b"]);
    assert!(
        begin.elapsed().unwrap() < Duration::from_secs(3),
        "each within a second"
    );
    shutdown.cancel();
    running.await.unwrap();
}
