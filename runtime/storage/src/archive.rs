//! Unpacks tar, tar.gz and zip: hostile input. Nothing is written outside of the folder, no link is made, and neither the
//! entries nor their bytes pass the limits.

use std::{
    fs::{self, File},
    io::{self, BufReader, Read},
    path::{Component, Path, PathBuf},
};

/// A kind of archive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Tar,
    TarGz,
    Zip,
}

/// By its name, or, where that says nothing, by the content type that an HTTP server gave. As KServe does.
pub(crate) fn kind(name: &str, content_type: Option<&str>) -> Option<Kind> {
    let name = name.to_ascii_lowercase();
    let ends = |end: &str| name.ends_with(end);
    if ends(".tar.gz") || ends(".tgz") {
        return Some(Kind::TarGz);
    }
    if ends(".tar") {
        return Some(Kind::Tar);
    }
    if ends(".zip") {
        return Some(Kind::Zip);
    }
    if name.contains('.') {
        return None;
    }
    match content_type?.split(';').next()?.trim() {
        "application/zip" | "application/x-zip-compressed" | "application/zip-compressed" => Some(Kind::Zip),
        "application/x-tar" | "application/x-gtar" => Some(Kind::Tar),
        "application/gzip" | "application/x-gzip" => Some(Kind::TarGz),
        _ => None,
    }
}

/// What an archive may become.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    /// Bytes of all files.
    pub(crate) bytes: u64,
    /// Files and folders.
    pub(crate) entries: usize,
}

/// Why it wasn't unpacked.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Refusal {
    #[error("the entry {0:?} leads out of the archive")]
    Escapes(String),
    #[error("the entry {0:?} is neither a file nor a folder; links are not unpacked")]
    Special(String),
    #[error("it holds the entry {0:?} twice")]
    Twice(String),
    #[error("it has more than {0} entries")]
    Entries(usize),
    #[error("it unpacks to more than {0} bytes")]
    Bytes(u64),
    #[error("it is damaged or of another kind: {0}")]
    Damaged(String),
    #[error("{0}")]
    Disk(io::Error),
}

/// Unpacks into a folder, which is there. Files of macOS's own (`__MACOSX`, `._*`) are left out.
pub(crate) fn unpack(archive: &Path, kind: Kind, folder: &Path, limits: Limits) -> Result<(), Refusal> {
    let file = BufReader::new(File::open(archive).map_err(Refusal::Disk)?);
    let mut target = Target {
        folder,
        limits,
        bytes: 0,
        entries: 0,
    };
    match kind {
        Kind::Tar => tar(file, &mut target),
        Kind::TarGz => tar(flate2::read::MultiGzDecoder::new(file), &mut target),
        Kind::Zip => zip(file, &mut target),
    }
}

struct Target<'a> {
    folder: &'a Path,
    limits: Limits,
    bytes: u64,
    entries: usize,
}

impl Target<'_> {
    /// Where an entry goes; `None` for one that is left out.
    fn path(&mut self, name: &Path) -> Result<Option<PathBuf>, Refusal> {
        self.entries += 1;
        if self.entries > self.limits.entries {
            return Err(Refusal::Entries(self.limits.entries));
        }
        let mut path = self.folder.to_owned();
        let mut left_out = true;
        for component in name.components() {
            match component {
                Component::Normal(part) => {
                    let part = part.to_string_lossy();
                    if part == "__MACOSX" || part.starts_with("._") {
                        return Ok(None);
                    }
                    path.push(&*part);
                    left_out = false;
                }
                Component::CurDir => {}
                Component::ParentDir | Component::RootDir | Component::Prefix(_) => {
                    return Err(Refusal::Escapes(name.display().to_string()));
                }
            }
        }
        Ok((!left_out).then_some(path))
    }

    fn file(&mut self, path: &Path, content: &mut impl Read) -> Result<(), Refusal> {
        if let Some(parent) = path.parent() {
            make_folder(parent)?;
        }
        // No link is ever made here, so this can't write through one.
        let mut file = File::create_new(path).map_err(|error| match error.kind() {
            io::ErrorKind::AlreadyExists => {
                let name = path.strip_prefix(self.folder).unwrap_or(path);
                Refusal::Twice(name.display().to_string())
            }
            _ => Refusal::Disk(error),
        })?;
        let left = self.limits.bytes - self.bytes;
        let mut chunk = vec![0; 256 << 10];
        let mut written = 0;
        loop {
            let read = match content.read(&mut chunk) {
                Ok(0) => break,
                Ok(read) => read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(Refusal::Damaged(error.to_string())),
            };
            written += read as u64;
            if written > left {
                return Err(Refusal::Bytes(self.limits.bytes));
            }
            io::Write::write_all(&mut file, &chunk[..read]).map_err(Refusal::Disk)?;
        }
        self.bytes += written;
        file.sync_all().map_err(Refusal::Disk)
    }
}

fn make_folder(path: &Path) -> Result<(), Refusal> {
    fs::create_dir_all(path).map_err(Refusal::Disk)
}

fn tar(reader: impl Read, target: &mut Target<'_>) -> Result<(), Refusal> {
    let damaged = |error: io::Error| Refusal::Damaged(error.to_string());
    let mut archive = tar::Archive::new(reader);
    let mut any = false;
    for entry in archive.entries().map_err(damaged)? {
        let mut entry = entry.map_err(damaged)?;
        any = true;
        let name = entry.path().map_err(damaged)?.into_owned();
        let Some(path) = target.path(&name)? else { continue };
        match entry.header().entry_type() {
            tar::EntryType::Directory => make_folder(&path)?,
            tar::EntryType::Regular | tar::EntryType::Continuous => target.file(&path, &mut entry)?,
            tar::EntryType::XGlobalHeader => {}
            _ => return Err(Refusal::Special(name.display().to_string())),
        }
    }
    // The reader of tars takes any zeros for an empty one.
    if any {
        Ok(())
    } else {
        Err(Refusal::Damaged("it has no entry".to_owned()))
    }
}

fn zip(reader: BufReader<File>, target: &mut Target<'_>) -> Result<(), Refusal> {
    let damaged = |error: zip::result::ZipError| Refusal::Damaged(error.to_string());
    let mut archive = zip::ZipArchive::new(reader).map_err(damaged)?;
    for index in 0..archive.len() {
        let mut entry = archive.by_index(index).map_err(damaged)?;
        let name = entry.name().map_err(damaged)?.into_owned();
        let Some(path) = target.path(Path::new(&name.replace('\\', "/")))? else {
            continue;
        };
        if entry.is_dir() {
            make_folder(&path)?;
        } else if entry.is_file() {
            target.file(&path, &mut entry)?;
        } else {
            return Err(Refusal::Special(name));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    const LIMITS: Limits = Limits {
        bytes: 1000,
        entries: 10,
    };

    fn unpacked(name: &str, content: &[u8], limits: Limits) -> (tempfile::TempDir, Result<(), Refusal>) {
        let folder = tempfile::tempdir().unwrap();
        let (archive, target) = (folder.path().join(name), folder.path().join("target"));
        fs::write(&archive, content).unwrap();
        fs::create_dir(&target).unwrap();
        let result = unpack(&archive, kind(name, None).unwrap(), &target, limits);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 2, "something escaped");
        (folder, result)
    }

    /// A tar with entries whose names no writer would write.
    fn tar_of(entries: &[(&str, tar::EntryType, &[u8])]) -> Vec<u8> {
        let mut builder = tar::Builder::new(Vec::new());
        for (name, kind, content) in entries {
            let mut header = tar::Header::new_ustar();
            header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
            header.set_entry_type(*kind);
            header.set_size(content.len() as u64);
            header.set_mode(0o644);
            if kind.is_symlink() || kind.is_hard_link() {
                header.set_link_name("/etc/passwd").unwrap();
            }
            header.set_cksum();
            builder.append(&header, *content).unwrap();
        }
        builder.into_inner().unwrap()
    }

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    fn zip_of(entries: &[(&str, &[u8])]) -> Vec<u8> {
        let mut writer = zip::ZipWriter::new(io::Cursor::new(Vec::new()));
        for (name, content) in entries {
            writer
                .start_file(*name, zip::write::SimpleFileOptions::default())
                .unwrap();
            writer.write_all(content).unwrap();
        }
        writer.finish().unwrap().into_inner()
    }

    const FILE: tar::EntryType = tar::EntryType::Regular;

    #[test]
    fn files_and_folders_come_out_as_they_went_in() {
        let tar = tar_of(&[
            ("./", tar::EntryType::Directory, b""),
            ("./iris/", tar::EntryType::Directory, b""),
            ("./iris/model.onnx", FILE, b"model"),
            ("./iris/._model.onnx", FILE, b"macOS"),
        ]);
        let zip = zip_of(&[("iris/model.onnx", b"model"), ("__MACOSX/iris/model.onnx", b"macOS")]);
        for (name, content) in [
            ("m.tar", tar.clone()),
            ("m.tar.gz", gzip(&tar)),
            ("m.TGZ", gzip(&tar)),
            ("m.zip", zip),
        ] {
            let (folder, result) = unpacked(name, &content, LIMITS);
            result.unwrap();
            let found = crate::one_file(&folder.path().join("target"), "onnx").unwrap();
            assert_eq!(fs::read(found).unwrap(), b"model", "{name}");
        }
    }

    #[test]
    fn nothing_is_written_outside_of_the_folder() {
        for name in ["../evil.onnx", "/tmp/evil.onnx", "a/../../evil.onnx"] {
            let (_, result) = unpacked("m.tar", &tar_of(&[(name, FILE, b"x")]), LIMITS);
            assert!(matches!(result, Err(Refusal::Escapes(_))), "{name}: {result:?}");
            let (_, result) = unpacked("m.zip", &zip_of(&[(name, b"x")]), LIMITS);
            assert!(matches!(result, Err(Refusal::Escapes(_))), "{name}: {result:?}");
        }
        let (_, result) = unpacked("m.zip", &zip_of(&[("..\\evil.onnx", b"x")]), LIMITS);
        assert!(matches!(result, Err(Refusal::Escapes(_))), "{result:?}");
    }

    #[test]
    fn links_and_devices_are_refused() {
        use tar::EntryType as T;
        for kind in [T::Symlink, T::Link, T::Char, T::Fifo] {
            let (_, result) = unpacked("m.tar", &tar_of(&[("model.onnx", kind, b"")]), LIMITS);
            assert!(matches!(result, Err(Refusal::Special(_))), "{kind:?}: {result:?}");
        }
    }

    #[test]
    fn a_small_archive_that_unpacks_to_a_large_one_is_refused() {
        let bomb = tar_of(&[("a", FILE, &[0; 600]), ("b", FILE, &[0; 600])]);
        let (_, result) = unpacked("m.tar.gz", &gzip(&bomb), LIMITS);
        assert!(matches!(result, Err(Refusal::Bytes(1000))), "{result:?}");
        let (_, result) = unpacked("m.zip", &zip_of(&[("a", &vec![0; 100_000])]), LIMITS);
        assert!(matches!(result, Err(Refusal::Bytes(1000))), "{result:?}");
        let names: Vec<String> = (0..11).map(|index| format!("{index}.txt")).collect();
        let many: Vec<_> = names.iter().map(|name| (name.as_str(), FILE, &b""[..])).collect();
        let (_, result) = unpacked("m.tar", &tar_of(&many), LIMITS);
        assert!(matches!(result, Err(Refusal::Entries(10))), "{result:?}");
    }

    #[test]
    fn what_is_damaged_is_refused_and_never_panics() {
        let good = gzip(&tar_of(&[("a", FILE, b"content")]));
        for (name, content) in [
            ("m.tar.gz", &good[..good.len() / 2]),
            (
                "m.tar",
                b"this is no tar but long enough to be taken for one".as_slice(),
            ),
            ("m.zip", b"PK\x03\x04 and nothing more"),
            ("m.tar", &[0; 1024]),
        ] {
            let (_, result) = unpacked(name, content, LIMITS);
            assert!(matches!(result, Err(Refusal::Damaged(_))), "{name}: {result:?}");
        }
        let (_, result) = unpacked("m.tar", &tar_of(&[("a", FILE, b"1"), ("a", FILE, b"2")]), LIMITS);
        assert!(matches!(result, Err(Refusal::Twice(_))), "{result:?}");
    }

    #[test]
    fn the_name_goes_before_the_content_type() {
        assert_eq!(kind("m.onnx", Some("application/zip")), None);
        assert_eq!(kind("m.TAR.GZ", None), Some(Kind::TarGz));
        assert_eq!(kind("download", Some("application/x-tar; charset=x")), Some(Kind::Tar));
        assert_eq!(kind("download", Some("application/octet-stream")), None);
    }
}
