//! The processes of the proof: NATS, the login server, the zones.

use std::{
    collections::BTreeMap,
    env,
    net::{SocketAddr, TcpListener},
    path::PathBuf,
    process::Stdio,
    sync::{Arc, Mutex},
    time::Duration,
};

use tokio::{
    io::{AsyncBufReadExt, AsyncRead, BufReader},
    process::{Child, Command},
    sync::oneshot,
};

use crate::{Error, bus::Bus, tickets::new_id};

const CONFIG: &str = include_str!("../../nats.conf");
const USERS: [&str; 5] = ["operator", "login", "z1", "z2", "z3"];
pub(super) const ZONES: [&str; 3] = ["z1", "z2", "z3"];

#[derive(Debug)]
pub(super) struct Cluster {
    folder: PathBuf,
    port: u16,
    passwords: BTreeMap<&'static str, String>,
    nats: Option<Child>,
    /// By name: `login` and the zones.
    servers: BTreeMap<&'static str, Child>,
    pub(super) login: SocketAddr,
    log: Log,
}

/// What all processes have said.
type Log = Arc<Mutex<Vec<String>>>;

impl Cluster {
    /// Starts everything.
    pub(super) async fn start() -> Result<Self, Error> {
        let folder = env::temp_dir().join(format!("soe-cluster-{}", new_id()));
        std::fs::create_dir_all(&folder)?;
        std::fs::write(folder.join("nats.conf"), CONFIG)?;
        // Free at this moment, and on loopback only.
        let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        // A letter first: the configuration reads digits as a number.
        let passwords = USERS.map(|user| (user, format!("p{}", new_id()))).into();
        let login = SocketAddr::from(([127, 0, 0, 1], 0));
        let (servers, log) = Default::default();
        let mut cluster = Self { folder, port, passwords, nats: None, servers, login, log };
        cluster.start_nats().await?;
        crate::setup::create(&cluster.bus("operator").await?).await?;
        cluster.login = cluster.start_server("login").await?;
        for zone in ZONES {
            cluster.start_server(zone).await?;
        }
        // Or the first zone gets everybody.
        for _ in 0..200 {
            if ZONES.iter().all(|zone| cluster.has_said("login", &format!("zone {zone} has appeared"))) {
                return Ok(cluster);
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        Err("the login server has not seen all zones".into())
    }

    /// A connection of the proof's own, under one of the users.
    pub(super) async fn bus(&self, user: &'static str) -> Result<Bus, Error> {
        Bus::connect_to(&self.url(), user, &self.passwords[user]).await
    }

    fn url(&self) -> String {
        format!("nats://127.0.0.1:{}", self.port)
    }

    pub(super) async fn start_nats(&mut self) -> Result<(), Error> {
        let mut command = Command::new(nats_server().ok_or("nats-server is not installed")?);
        command.arg("--config").arg(self.folder.join("nats.conf")).arg("--store_dir").arg(self.folder.join("store"));
        command.args(["--addr", "127.0.0.1", "--port", &self.port.to_string()]);
        for (user, password) in &self.passwords {
            command.env(format!("{}_PASSWORD", user.to_uppercase()), password);
        }
        let (child, _) = self.spawn("nats", command)?;
        self.nats = Some(child);
        for _ in 0..100 {
            if tokio::net::TcpStream::connect(("127.0.0.1", self.port)).await.is_ok() {
                return Ok(());
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        Err("nats-server does not listen".into())
    }

    /// Kills NATS, which gets no chance to put anything in order.
    pub(super) async fn kill_nats(&mut self) -> Result<(), Error> {
        if let Some(mut nats) = self.nats.take() {
            nats.kill().await?;
        }
        Ok(())
    }

    /// Starts the login server or a zone; the address that it listens on.
    pub(super) async fn start_server(&mut self, name: &'static str) -> Result<SocketAddr, Error> {
        let mut command = Command::new(env::current_exe()?);
        match name {
            "login" => command.arg("login"),
            zone => command.args(["zone", zone]),
        };
        command.env("NATS_URL", self.url()).env("NATS_PASSWORD", &self.passwords[name]);
        let (child, listening) = self.spawn(name, command)?;
        self.servers.insert(name, child);
        Ok(tokio::time::timeout(Duration::from_secs(20), listening).await??)
    }

    /// SIGKILL.
    pub(super) async fn kill(&mut self, name: &str) -> Result<(), Error> {
        if let Some(mut server) = self.servers.remove(name) {
            server.kill().await?;
        }
        Ok(())
    }

    /// Waits until a server has ended by itself; whether it was content.
    pub(super) async fn ended(&mut self, name: &str) -> Result<bool, Error> {
        let Some(mut server) = self.servers.remove(name) else { return Err("it does not run".into()) };
        Ok(tokio::time::timeout(Duration::from_secs(60), server.wait()).await??.success())
    }

    /// Whether somebody has said this.
    pub(super) fn has_said(&self, who: &str, what: &str) -> bool {
        self.log().iter().any(|line| line.starts_with(who) && line.contains(what))
    }

    /// The last lines that the processes have said.
    pub(super) fn last_lines(&self, count: usize) -> Vec<String> {
        let log = self.log();
        log[log.len().saturating_sub(count)..].to_vec()
    }

    fn log(&self) -> std::sync::MutexGuard<'_, Vec<String>> {
        self.log.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    fn spawn(&self, name: &str, mut command: Command) -> Result<(Child, oneshot::Receiver<SocketAddr>), Error> {
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
        let mut child = command.spawn()?;
        let (said, listening) = oneshot::channel();
        let output = child.stdout.take().ok_or("no output")?;
        tokio::spawn(keep(name.into(), output, Arc::clone(&self.log), Some(said)));
        let errors = child.stderr.take().ok_or("no output")?;
        tokio::spawn(keep(name.into(), errors, Arc::clone(&self.log), None));
        Ok((child, listening))
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

/// Keeps what a process says, and finds out where it listens.
async fn keep(
    name: String,
    output: impl AsyncRead + Unpin,
    log: Log,
    mut listening: Option<oneshot::Sender<SocketAddr>>,
) {
    let mut lines = BufReader::new(output).lines();
    while let Ok(Some(line)) = lines.next_line().await {
        if let Some(address) = line.strip_prefix("listening on ").and_then(|address| address.parse().ok())
            && let Some(listening) = listening.take()
        {
            let _ = listening.send(address);
        }
        log.lock().unwrap_or_else(std::sync::PoisonError::into_inner).push(format!("{name}: {line}"));
    }
}

/// Where nats-server is: in the path, or where Debian installs it.
pub(super) fn nats_server() -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    let folders = env::split_paths(&path).chain(["/usr/sbin".into(), "/usr/local/bin".into()]);
    folders.map(|folder| folder.join("nats-server")).find(|program| program.is_file())
}
