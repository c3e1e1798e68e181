//! Fetches models from where their manifests say that they are.
