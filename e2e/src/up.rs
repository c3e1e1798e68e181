//! The platform under test: `pilotlight up` on a folder of its own and on free ports.

use std::{
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Output, Stdio},
    thread,
    time::Duration,
};

use rustix::process::Signal;
use serde_json::Value;
use tempfile::TempDir;

use crate::{
    Manifest,
    client::{self, Reply},
    places,
    processes::{self, Runtime},
    wait::{LIMIT, eventually, until},
};

/// How to start `up`.
#[derive(Clone, Debug, Default)]
pub struct Settings {
    /// Manifests that are there before it starts, a file each.
    pub manifests: Vec<Manifest>,
    /// Whether the committed examples are there as well.
    pub examples: bool,
    /// Further arguments of `up`.
    pub args: Vec<String>,
    /// Variables of its environment beside the test's own.
    pub env: Vec<(String, String)>,
}

/// A running `pilotlight up`. Dropping it kills the process, whose runtimes end with it, and removes its folder; when the
/// test panics, it first prints the last of what the platform wrote and how it saw its services.
pub struct Up {
    child: Child,
    folder: TempDir,
    http: SocketAddr,
    admin: SocketAddr,
}

impl Up {
    /// Starts it with these manifests and waits until each of them is deployed.
    pub async fn with(manifests: impl IntoIterator<Item = Manifest>) -> Self {
        Self::start(Settings {
            manifests: manifests.into_iter().collect(),
            ..Settings::default()
        })
        .await
    }

    /// Starts it and waits until every service of `settings` is deployed.
    pub async fn start(settings: Settings) -> Self {
        let up = Self::start_only(&settings).await;
        for manifest in &settings.manifests {
            up.deployed(manifest.name()).await;
        }
        if settings.examples {
            for name in ["iris", "iris-forest", "digits"] {
                up.deployed(name).await;
            }
        }
        up
    }

    /// Starts it and waits until it listens, not until its services are deployed.
    pub async fn start_only(settings: &Settings) -> Self {
        let folder = TempDir::with_prefix("pilotlight-e2e-").expect("a temporary folder");
        let services = folder.path().join("services");
        fs::create_dir(&services).expect("the folder is ours");
        if settings.examples {
            places::copy_examples(&services);
        }
        for manifest in &settings.manifests {
            let path = services.join(format!("{}.yaml", manifest.name()));
            fs::write(path, manifest.yaml()).expect("the folder is ours");
        }
        let file = |name| fs::File::create(folder.path().join(name)).expect("the folder is ours");
        let child = Command::new(places::binary())
            .arg("up")
            .arg(&services)
            .args(["--http-address", "127.0.0.1:0", "--admin-address", "127.0.0.1:0"])
            .args(&settings.args)
            .envs(settings.env.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null())
            .stdout(file("stdout"))
            .stderr(file("stderr"))
            .spawn()
            .unwrap_or_else(|error| panic!("{}: {error}", places::binary().display()));
        let nowhere = SocketAddr::from(([127, 0, 0, 1], 0));
        let mut up = Self {
            child,
            folder,
            http: nowhere,
            admin: nowhere,
        };
        (up.http, up.admin) = eventually("`up` tells its addresses", LIMIT, async || {
            up.written("stdout").lines().find_map(addresses)
        })
        .await;
        up
    }

    /// The process id of `up`.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The folder that it watches.
    pub fn services_folder(&self) -> PathBuf {
        self.folder.path().join("services")
    }

    /// A folder beside the watched one, for the test's own files.
    pub fn scratch(&self) -> &Path {
        self.folder.path()
    }

    /// The address for requests.
    pub fn http(&self) -> SocketAddr {
        self.http
    }

    /// The admin address.
    pub fn admin(&self) -> SocketAddr {
        self.admin
    }

    /// The URL of `path` at the address for requests.
    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.http)
    }

    /// The URL that `name` answers V1 predictions at, by the model's name.
    pub fn predict_url(&self, name: &str) -> String {
        self.url(&format!("/v1/models/{name}:predict"))
    }

    /// The URL that `name` answers V2 inference at, by the model's name.
    pub fn infer_url(&self, name: &str) -> String {
        self.url(&format!("/v2/models/{name}/infer"))
    }

    /// `GET path` at the admin address.
    pub async fn admin_get(&self, path: &str) -> Reply {
        client::get(&format!("http://{}{path}", self.admin)).await
    }

    /// The metrics of the admin address.
    pub async fn metrics(&self) -> String {
        self.admin_get("/metrics").await.text()
    }

    /// Every service as the admin API shows it.
    pub async fn services(&self) -> Vec<Value> {
        let items = self.admin_get("/api/v1/services").await.json();
        items["items"].as_array().cloned().unwrap_or_default()
    }

    /// The service `name` as the admin API shows it. `None` when there is none.
    pub async fn service(&self, name: &str) -> Option<Value> {
        self.services().await.into_iter().find(|item| item["name"] == name)
    }

    /// Waits until the service `name` is there and ready to be asked, asleep or not.
    pub async fn deployed(&self, name: &str) {
        let what = format!("{name} is deployed");
        until(&what, LIMIT, async || {
            self.service(name).await.is_some_and(|item| item["ready"] == true)
        })
        .await;
    }

    /// Writes a manifest into the watched folder, as an editor that saves a file does: a new file takes the old one's place.
    pub fn save(&self, manifest: &Manifest) {
        self.save_text(&format!("{}.yaml", manifest.name()), &manifest.yaml());
    }

    /// Writes any text into the watched folder in the same way.
    pub fn save_text(&self, name: &str, text: &str) {
        let draft = self.folder.path().join(format!("{name}.draft"));
        fs::write(&draft, text).expect("the folder is ours");
        fs::rename(draft, self.services_folder().join(name)).expect("the folder is ours");
    }

    /// Removes a file from the watched folder.
    pub fn remove(&self, name: &str) {
        fs::remove_file(self.services_folder().join(name)).expect("the file was there");
    }

    /// The runtime processes, of all services.
    pub fn runtimes(&self) -> Vec<Runtime> {
        processes::runtimes(self.pid())
    }

    /// The runtime processes of the service `name`.
    pub fn runtimes_of(&self, name: &str) -> Vec<Runtime> {
        let prefix = format!("{name}=");
        let all = self.runtimes().into_iter();
        all.filter(|runtime| runtime.model.starts_with(&prefix)).collect()
    }

    /// Waits until `up` has no child process of any kind, and returns how long that took.
    pub async fn no_process_left(&self, limit: Duration) -> Duration {
        until("no process is left", limit, async || {
            processes::children(self.pid()).is_empty()
        })
        .await
    }

    /// Runs a subcommand of the binary against this platform and waits for its end.
    pub async fn cli(&self, args: &[&str]) -> Output {
        let mut command = tokio::process::Command::new(places::binary());
        command
            .args(args)
            .env("PILOTLIGHT_SERVER", format!("http://{}", self.admin));
        let run = tokio::time::timeout(LIMIT, command.kill_on_drop(true).output());
        run.await
            .unwrap_or_else(|_| panic!("{args:?} does not end"))
            .expect("the binary starts")
    }

    /// Sends a signal to `up`.
    pub fn signal(&self, signal: Signal) {
        processes::signal(self.pid(), signal);
    }

    /// Waits for the end of `up`.
    pub async fn ended(&mut self, limit: Duration) -> ExitStatus {
        let child = &mut self.child;
        eventually("`up` ends", limit, async || child.try_wait().expect("it is our child")).await
    }

    /// What `up` wrote so far, standard output and then standard error.
    pub fn log(&self) -> String {
        self.written("stdout") + &self.written("stderr")
    }

    fn written(&self, name: &str) -> String {
        let bytes = fs::read(self.folder.path().join(name)).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    fn tell(&self) {
        const LINES: usize = 60;
        for name in ["stdout", "stderr"] {
            let text = self.written(name);
            let lines: Vec<&str> = text.lines().collect();
            let tail = lines[lines.len().saturating_sub(LINES)..].join("\n");
            eprintln!("--- {name} of `up`, {} lines, the last of them:\n{tail}", lines.len());
        }
        eprintln!("--- children of `up`: {:?}", self.runtimes());
        // The runtime of the panicking test is no longer to be used; curl needs none.
        let url = format!("http://{}/api/v1/services", self.admin);
        let answer = Command::new("curl")
            .args(["--silent", "--max-time", "5", &url])
            .output();
        let answer = answer.map(|output| String::from_utf8_lossy(&output.stdout).into_owned());
        eprintln!("--- {url}:\n{}", answer.unwrap_or_else(|error| error.to_string()));
    }
}

impl Drop for Up {
    fn drop(&mut self) {
        if thread::panicking() {
            self.tell();
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Both addresses from `up`'s line about them: `serving http://A admin http://B`, or `https` for the first.
fn addresses(line: &str) -> Option<(SocketAddr, SocketAddr)> {
    let (_, addresses) = line.strip_prefix("serving ")?.split_once("://")?;
    let (http, admin) = addresses.split_once(" admin http://")?;
    Some((
        http.trim().parse().ok()?,
        admin.split_whitespace().next()?.parse().ok()?,
    ))
}
