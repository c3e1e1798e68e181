//! From variables to the settings of a store's client: those of each cloud's SDK, and those that KServe gives to its
//! storage initializer.

use object_store::{
    ClientOptions,
    aws::{AmazonS3Builder, AmazonS3ConfigKey},
    azure::{AzureConfigKey, MicrosoftAzureBuilder},
    gcp::{GoogleCloudStorageBuilder, GoogleConfigKey},
};

use crate::{
    config::{Config, Environment},
    uri::Uri,
};

/// Timeouts: none over a whole answer, since models are large, but one over silence.
fn client(config: &Config) -> ClientOptions {
    ClientOptions::new()
        .with_timeout_disabled()
        .with_connect_timeout(config.connect_timeout)
        .with_read_timeout(config.idle_timeout)
}

/// For a store at this endpoint: plain HTTP has no use for certificates, and machines without any exist.
fn for_endpoint(options: ClientOptions, endpoint: &str) -> ClientOptions {
    if endpoint.starts_with("http://") {
        options.with_allow_http(true).with_no_system_certificates(true)
    } else {
        options
    }
}

/// With the further root certificates of a PEM file.
fn with_bundle(options: ClientOptions, path: &str) -> Result<ClientOptions, String> {
    let pem = std::fs::read(path).map_err(|error| format!("the certificates {path}: {error}"))?;
    let all = object_store::Certificate::from_pem_bundle(&pem)
        .map_err(|error| format!("the certificates {path}: {error}"))?;
    Ok(all.into_iter().fold(options, ClientOptions::with_root_certificate))
}

/// A client of S3 for the bucket of `uri`.
pub(super) fn s3(uri: &Uri, config: &Config) -> Result<AmazonS3Builder, String> {
    let env = &config.environment;
    let mut builder = AmazonS3Builder::new().with_url(uri.url().as_str());
    for (name, value) in env
        .iter()
        .filter(|(name, value)| name.starts_with("AWS_") && !value.is_empty())
    {
        if let Ok(key) = name.to_ascii_lowercase().parse::<AmazonS3ConfigKey>() {
            builder = builder.with_config(key, value);
        }
    }
    let mut options = client(config);
    let endpoint = s3_endpoint(env);
    if let Some(endpoint) = &endpoint {
        options = for_endpoint(options, endpoint);
        builder = builder.with_endpoint(endpoint.as_str());
    }
    if env.is_false("S3_VERIFY_SSL") {
        options = options.with_allow_invalid_certificates(true);
    } else if let Some(bundle) = env.get("AWS_CA_BUNDLE") {
        options = with_bundle(options, bundle)?;
    }
    if env.is_true("S3_USER_VIRTUAL_BUCKET") || env.is_true("S3_USE_ACCELERATE") {
        builder = builder.with_virtual_hosted_style_request(true);
    }
    if env.is_true("awsAnonymousCredential") {
        builder = builder.with_skip_signature(true);
    }
    Ok(builder.with_client_options(options))
}

/// `AWS_ENDPOINT_URL_S3` and `AWS_ENDPOINT_URL` are URLs; `S3_ENDPOINT` is a host, with `S3_USE_HTTPS` beside it.
fn s3_endpoint(env: &Environment) -> Option<String> {
    let url = ["AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ENDPOINT"]
        .iter()
        .find_map(|name| env.get(name));
    if let Some(url) = url {
        return Some(url.trim_end_matches('/').to_owned());
    }
    if let Some(host) = env.get("S3_ENDPOINT") {
        let host = host.trim_end_matches('/');
        if host.contains("://") {
            return Some(host.to_owned());
        }
        let scheme = if env.is_false("S3_USE_HTTPS") { "http" } else { "https" };
        return Some(format!("{scheme}://{host}"));
    }
    env.is_true("S3_USE_ACCELERATE")
        .then(|| "https://s3-accelerate.amazonaws.com".to_owned())
}

/// Whether the environment says how to sign, or that nothing is to be signed.
pub(super) fn s3_says(env: &Environment) -> bool {
    [
        "AWS_ACCESS_KEY_ID",
        "AWS_WEB_IDENTITY_TOKEN_FILE",
        "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
        "AWS_CONTAINER_CREDENTIALS_FULL_URI",
        "AWS_SKIP_SIGNATURE",
        "awsAnonymousCredential",
    ]
    .iter()
    .any(|name| env.get(name).is_some())
}

/// A client of Google Cloud Storage for the bucket of `uri`.
pub(super) fn gcs(uri: &Uri, config: &Config) -> GoogleCloudStorageBuilder {
    let env = &config.environment;
    let mut builder = GoogleCloudStorageBuilder::new().with_url(uri.url().as_str());
    let ours = |name: &str| name.starts_with("GOOGLE_") || name == "SERVICE_ACCOUNT";
    for (name, value) in env.iter().filter(|(name, value)| ours(name) && !value.is_empty()) {
        if let Ok(key) = name.to_ascii_lowercase().parse::<GoogleConfigKey>() {
            builder = builder.with_config(key, value);
        }
    }
    let mut options = client(config);
    if let Some(base) = env.get("GOOGLE_BASE_URL").or(env.get("STORAGE_EMULATOR_HOST")) {
        let base = if base.contains("://") {
            base.to_owned()
        } else {
            format!("http://{base}")
        };
        options = for_endpoint(options, &base);
        builder = builder.with_base_url(base.trim_end_matches('/'));
    }
    builder.with_client_options(options)
}

/// As [`s3_says`].
pub(super) fn gcs_says(env: &Environment) -> bool {
    let file = env.get("HOME").is_some_and(|home| {
        std::path::Path::new(home)
            .join(".config/gcloud/application_default_credentials.json")
            .exists()
    });
    file || [
        "GOOGLE_APPLICATION_CREDENTIALS",
        "GOOGLE_SERVICE_ACCOUNT",
        "GOOGLE_SERVICE_ACCOUNT_PATH",
        "GOOGLE_SERVICE_ACCOUNT_KEY",
        "SERVICE_ACCOUNT",
        "GOOGLE_BEARER_TOKEN",
        "GOOGLE_SKIP_SIGNATURE",
    ]
    .iter()
    .any(|name| env.get(name).is_some())
}

/// A client of Azure's storage for the container of `uri`.
pub(super) fn azure(uri: &Uri, config: &Config) -> MicrosoftAzureBuilder {
    let env = &config.environment;
    let mut builder = MicrosoftAzureBuilder::new().with_url(uri.url().as_str());
    for (name, value) in env.iter().filter(|(_, value)| !value.is_empty()) {
        // AZ_CLIENT_ID and its like are KServe's older names.
        let name = match name.strip_prefix("AZ_") {
            Some(rest) => format!("azure_{}", rest.to_ascii_lowercase()),
            None if name.starts_with("AZURE_") => name.to_ascii_lowercase(),
            None => continue,
        };
        if let Ok(key) = name.parse::<AzureConfigKey>() {
            builder = builder.with_config(key, value);
        }
    }
    let mut options = client(config);
    if let Some(endpoint) = env.get("AZURE_STORAGE_ENDPOINT").or(env.get("AZURE_ENDPOINT")) {
        options = for_endpoint(options, endpoint);
    }
    builder.with_client_options(options)
}

/// As [`s3_says`].
pub(super) fn azure_says(env: &Environment) -> bool {
    [
        "AZURE_STORAGE_ACCOUNT_KEY",
        "AZURE_STORAGE_ACCESS_KEY",
        "AZURE_STORAGE_MASTER_KEY",
        "AZURE_STORAGE_SAS_KEY",
        "AZURE_STORAGE_SAS_TOKEN",
        "AZURE_STORAGE_TOKEN",
        "AZURE_CLIENT_ID",
        "AZURE_STORAGE_CLIENT_ID",
        "AZ_CLIENT_ID",
        "AZURE_SKIP_SIGNATURE",
        "AZURE_STORAGE_USE_EMULATOR",
    ]
    .iter()
    .any(|name| env.get(name).is_some())
}

#[cfg(test)]
mod tests {
    use object_store::azure::AzureConfigKey;

    use super::*;

    fn config<const N: usize>(environment: [(&str, &str); N]) -> Config {
        let mut config = Config::new("/cache");
        config.environment = environment.into_iter().collect();
        config
    }

    #[test]
    fn kserves_names_lead_to_the_endpoint() {
        let endpoint = |environment: &[(&str, &str)]| s3_endpoint(&environment.iter().copied().collect());
        for (environment, expected) in [
            (
                &[("AWS_ENDPOINT_URL", "http://minio:9000/")][..],
                Some("http://minio:9000"),
            ),
            (
                &[("S3_ENDPOINT", "minio:9000"), ("S3_USE_HTTPS", "0")],
                Some("http://minio:9000"),
            ),
            (
                &[("S3_ENDPOINT", "minio:9000"), ("S3_USE_HTTPS", "1")],
                Some("https://minio:9000"),
            ),
            (&[("S3_ENDPOINT", "minio:9000")], Some("https://minio:9000")),
            (
                &[("S3_USE_ACCELERATE", "true")],
                Some("https://s3-accelerate.amazonaws.com"),
            ),
            (&[("AWS_ENDPOINT_URL", "")], None),
        ] {
            assert_eq!(endpoint(environment).as_deref(), expected, "{environment:?}");
        }
    }

    #[test]
    fn credentials_come_from_the_environment_of_each_cloud() {
        let uri: Uri = "s3://bucket/m.onnx".parse().unwrap();
        let settings = s3(
            &uri,
            &config([
                ("AWS_ACCESS_KEY_ID", "id"),
                ("AWS_SECRET_ACCESS_KEY", "key"),
                ("AWS_DEFAULT_REGION", "eu-west-1"),
            ]),
        )
        .unwrap();
        let value = |key: AmazonS3ConfigKey| settings.get_config_value(&key);
        assert_eq!(value(AmazonS3ConfigKey::AccessKeyId).as_deref(), Some("id"));
        assert_eq!(value(AmazonS3ConfigKey::SecretAccessKey).as_deref(), Some("key"));
        assert_eq!(value(AmazonS3ConfigKey::Region).as_deref(), Some("eu-west-1"));

        let uri: Uri = "az://container/m.onnx".parse().unwrap();
        let settings = azure(
            &uri,
            &config([("AZ_CLIENT_ID", "id"), ("AZURE_STORAGE_ACCOUNT_NAME", "acc")]),
        );
        assert_eq!(
            settings.get_config_value(&AzureConfigKey::ClientId).as_deref(),
            Some("id")
        );
        assert_eq!(
            settings.get_config_value(&AzureConfigKey::AccountName).as_deref(),
            Some("acc")
        );

        let uri: Uri = "gs://bucket/m.onnx".parse().unwrap();
        let settings = gcs(&uri, &config([("GOOGLE_SERVICE_ACCOUNT", "/key.json")]));
        assert_eq!(
            settings.get_config_value(&GoogleConfigKey::ServiceAccount).as_deref(),
            Some("/key.json")
        );
    }

    #[test]
    fn a_bundle_that_is_not_there_is_named() {
        let uri: Uri = "s3://bucket/m.onnx".parse().unwrap();
        let error = s3(&uri, &config([("AWS_CA_BUNDLE", "/nowhere/ca.pem")])).err().unwrap();
        assert!(error.contains("/nowhere/ca.pem"), "{error}");
        assert!(
            s3(
                &uri,
                &config([("AWS_CA_BUNDLE", "/nowhere/ca.pem"), ("S3_VERIFY_SSL", "0")])
            )
            .is_ok()
        );
    }
}
