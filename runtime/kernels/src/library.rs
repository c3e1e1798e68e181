//! Whether shared libraries of the system can be opened: what a GPU's driver and compiler consist of.

/// Opens the first of these libraries that can be opened, as the system's loader finds them, and keeps it open for good.
///
/// # Errors
/// What the loader said of the last of them; the empty string where the list is empty.
pub fn open(names: &[&str]) -> Result<(), String> {
    let mut reason = String::new();
    for name in names {
        // SAFETY: running the library's initialisers is all that this does. They are those of the vendor's driver and compiler,
        // which the process is about to use, and closing it again is avoided by forgetting it.
        match unsafe { libloading::Library::new(*name) } {
            Ok(library) => {
                std::mem::forget(library);
                return Ok(());
            }
            Err(error) => {
                // What the loader said is the error's source.
                let said = std::error::Error::source(&error).map_or_else(|| error.to_string(), ToString::to_string);
                reason = if said.contains(name) {
                    said
                } else {
                    format!("{name}: {said}")
                };
            }
        }
    }
    Err(reason)
}

#[cfg(test)]
mod tests {
    use super::open;

    #[test]
    fn a_library_that_is_not_there_is_named() {
        let reason = open(&["libpilotlight_has_no_such_library.so.1"]).expect_err("there is none");
        assert!(reason.contains("libpilotlight_has_no_such_library"), "{reason}");
    }

    #[test]
    fn one_of_several_is_enough() {
        assert_eq!(open(&["libpilotlight_has_no_such_library.so.1", "libc.so.6"]), Ok(()));
    }
}
