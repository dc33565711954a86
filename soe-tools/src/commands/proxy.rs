//! `soe proxy`.

use std::{
    fs::File,
    future::pending,
    io::{self, BufRead, BufWriter, IsTerminal, Write},
    net::SocketAddr,
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    thread,
    time::Duration,
};

use clap::Args;
use tokio::net::{TcpListener, lookup_host};

use crate::{
    Exit,
    link::{Impairment, Profile, Spec},
    proxy::{
        CaptureFile, DatagramLines, Event, Observer, ProxyConfig, ProxyHandle, ProxyServer, ProxyStatus, Seen,
        serve_control, summary_line, table,
    },
    units,
};

/// A lag proxy: passes UDP datagrams between clients and a server on as a bad link would.
///
/// Clients come to --listen. Each gets a port of its own towards --to, so that the server tells them apart.
#[derive(Args, Debug)]
#[command(after_long_help = HELP)]
#[non_exhaustive]
pub struct Proxy {
    /// Where clients come, such as 127.0.0.1:20061; port 0 takes a free one and prints it.
    #[arg(long, value_name = "ADDR")]
    pub listen: SocketAddr,
    /// The server, such as login.example.org:20042.
    #[arg(long, value_name = "HOST:PORT")]
    pub to: String,
    /// A link with a name, both ways.
    #[arg(long, value_name = "NAME")]
    pub profile: Option<Profile>,
    /// Changes to the link both ways, such as loss=5%,delay=40ms.
    #[arg(long, value_name = "SPEC")]
    pub link: Option<Spec>,
    /// Changes to the link to the server, after --link.
    #[arg(long, value_name = "SPEC")]
    pub up: Option<Spec>,
    /// Changes to the link to the clients, after --link.
    #[arg(long, value_name = "SPEC")]
    pub down: Option<Spec>,
    /// Decides all chances: the same seed loses the same datagrams, counted per client and direction.
    #[arg(long, default_value_t = 0, value_name = "N")]
    pub seed: u64,
    /// Gives each client a new port towards the server this often, as a router that forgets does.
    #[arg(long, value_parser = units::duration, value_name = "TIME")]
    pub rebind_every: Option<Duration>,
    /// Clients at a time; the datagrams of others are ignored.
    #[arg(long, default_value_t = 1024, value_name = "N")]
    pub max_clients: usize,
    /// A client is forgotten when nothing has come from either side for so long.
    #[arg(long, value_parser = units::duration, default_value = "2m", value_name = "TIME")]
    pub idle: Duration,
    /// Ends the proxy after this time.
    #[arg(long, value_parser = units::duration, value_name = "TIME")]
    pub duration: Option<Duration>,
    /// Takes commands over TCP here too, on a loopback address; port 0 takes a free one and prints it.
    #[arg(long, value_name = "ADDR")]
    pub control: Option<SocketAddr>,
    /// Writes all datagrams into a pcapng file: as they come in, and as they go out, each with the real addresses.
    #[arg(long, value_name = "FILE")]
    pub capture: Option<PathBuf>,
    /// Prints a line for each datagram that comes in: what it is and what becomes of it.
    #[arg(long)]
    pub decode: bool,
    /// Prints how things stood at the end as JSON, and nothing else on standard output.
    #[arg(long)]
    pub json: bool,
    /// How often to print how things stand. [default: 500ms on a terminal, as a table; 5s elsewhere, as a line]
    #[arg(long, value_parser = units::duration, value_name = "TIME")]
    pub every: Option<Duration>,
}

const HELP: &str = "\
SPEC is a list such as loss=5%,delay=40ms; what is not named stays as it is:
  loss=SHARE                      each datagram is lost with this probability: 5% or 0.05
  burst=SHARE/LENGTH              a share is lost in bursts of LENGTH datagrams on average
  gilbert=ENTER/LEAVE/GOOD/BAD    the same model, Gilbert-Elliott, by its four probabilities
  delay=TIME jitter=TIME          40ms, 1.5s, 250us; jitter alone does not change the order
  reorder=SHARE/TIME              a share is held back by up to TIME, others overtake it
  duplicate=SHARE corrupt=SHARE
  rate=BITS/QUEUE                 a bottleneck: 56kbit/32kB, 1mbit/256kB; 0 takes it away
  blackout=TIME/PERIOD            nothing passes for TIME, once in each PERIOD; 0 ends it
  mtu=BYTES                       longer datagrams are lost; 0 takes it away
  none                            everything passes at once from here on

Profiles:
  clean          everything passes at once
  wifi-bad       a crowded wireless network: 5 % lost in bursts, up to 40 ms of jitter, some overtaken
  mobile         a moving phone: 40 ms, 30 ms of jitter, 1 % lost in bursts, a handover of 800 ms every minute
  lag-switch     a player who cuts his own upload for 1.5 s out of every 10 s
  transatlantic  a good line across an ocean: 45 ms each way, 0.1 % lost
  dial-up        a modem: 90 ms, 33.6 kbit/s up and 48 kbit/s down, three seconds of queue

Commands, a line each, on standard input and over --control:
  set [CLIENT] [up|down] SPEC        such as: set #2 up loss=5%
  profile [CLIENT] NAME
  blackout [CLIENT] [up|down] TIME   nothing passes for TIME, beginning now
  rebind [CLIENT]                    a new port towards the server
  show, json                         how things stand
  help, quit
CLIENT is a number such as #2, or an address; without it all are meant, and set and profile also apply to those to come.

Times are kept to a millisecond: a datagram leaves up to one millisecond late.

Exit codes: 0 after Ctrl-C, quit or --duration; 1 if a socket or a file failed; 2 for wrong arguments.";

/// Runs until Ctrl-C, `quit`, or the end of `--duration`.
///
/// # Errors
/// If a socket or a file fails.
pub fn run(command: &Proxy) -> io::Result<Exit> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let result = runtime.block_on(serve(command));
    // The thread that reads standard input cannot be stopped; the end of the process ends it.
    runtime.shutdown_background();
    result
}

async fn serve(command: &Proxy) -> io::Result<Exit> {
    let to = lookup_host(&*command.to)
        .await?
        .next()
        .ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, format!("{} has no address", command.to)))?;
    let config = config(command);
    if let Err(error) = config.validate() {
        eprintln!("soe: {error}");
        return Ok(Exit::Usage);
    }
    let server = ProxyServer::bind(command.listen, to, config).await?;
    let is_live = !command.json && !command.decode && io::stdout().is_terminal();
    let screen = Screen::new(command.json, is_live);
    screen.say(&format!("listening on {}", server.local_addr()?))?;
    let handle = server.handle();
    let listener = match command.control {
        Some(address) => {
            let listener = TcpListener::bind(address).await?;
            screen.say(&format!("control on {}", listener.local_addr()?))?;
            Some(listener)
        }
        None => None,
    };
    let commands = (handle.clone(), screen.clone());
    thread::spawn(move || follow_standard_input(&commands.0, &commands.1));
    let capture = command
        .capture
        .as_ref()
        .map(|path| File::create(path).and_then(|file| CaptureFile::new(BufWriter::new(file))))
        .transpose()?;
    let lines = command.decode.then(|| DatagramLines::new(screen.clone()));
    let mut shown = Shown { screen, is_quiet: command.json || command.decode, capture, lines };
    let period = command.every.unwrap_or(if is_live { LIVE } else { PLAIN });
    let status = {
        let run = server.run(&mut shown, period);
        tokio::pin!(run);
        tokio::select! {
            status = &mut run => status?,
            ended = watch(command.duration, listener, &handle) => {
                ended?;
                let (status, _) = tokio::join!(run, handle.command("quit"));
                status?
            }
        }
    };
    if let Some(capture) = shown.capture.take() {
        capture.finish()?;
    }
    if command.json {
        println!("{}", serde_json::to_string(&status)?);
    } else {
        shown.screen.say(table(&status, usize::MAX).trim_end())?;
    }
    Ok(Exit::Done)
}

/// Waits for Ctrl-C or the end of the time, and serves commands over TCP meanwhile.
async fn watch(duration: Option<Duration>, control: Option<TcpListener>, handle: &ProxyHandle) -> io::Result<()> {
    let control = async {
        match control {
            Some(listener) => serve_control(listener, handle.clone()).await,
            None => pending().await,
        }
    };
    tokio::select! {
        interrupted = tokio::signal::ctrl_c() => interrupted,
        () = tokio::time::sleep(duration.unwrap_or(Duration::MAX)) => Ok(()),
        failed = control => failed,
    }
}

fn config(command: &Proxy) -> ProxyConfig {
    let mut config = ProxyConfig::default();
    if let Some(profile) = command.profile {
        (config.up, config.down) = (profile.up(), profile.down());
    }
    let change = |spec: &Option<Spec>, impairment: &mut Impairment| {
        if let Some(spec) = spec {
            spec.apply(impairment);
        }
    };
    change(&command.link, &mut config.up);
    change(&command.link, &mut config.down);
    change(&command.up, &mut config.up);
    change(&command.down, &mut config.down);
    (config.seed, config.max_clients, config.idle_timeout) = (command.seed, command.max_clients, command.idle);
    config.rebind_every = command.rebind_every;
    config
}

fn follow_standard_input(handle: &ProxyHandle, screen: &Screen) {
    for line in io::stdin().lock().lines() {
        let Ok(line) = line else { return };
        screen.typed();
        if line.trim().is_empty() {
            continue;
        }
        let answer = handle.blocking_command(&*line).unwrap_or_else(|error| format!("error: {error}"));
        if screen.say(answer.trim_end()).is_err() {
            return;
        }
    }
}

/// What is printed: lines, and on a terminal a table below them that is drawn over itself.
#[derive(Clone, Debug)]
struct Screen {
    /// Lines that the table takes.
    drawn: Arc<Mutex<usize>>,
    to_stderr: bool,
    is_live: bool,
}

impl Screen {
    fn new(to_stderr: bool, is_live: bool) -> Self {
        Self { drawn: Arc::default(), to_stderr, is_live }
    }

    fn drawn(&self) -> MutexGuard<'_, usize> {
        self.drawn.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn put(&self, text: &str) -> io::Result<()> {
        let text = text.as_bytes();
        if self.to_stderr { io::stderr().write_all(text) } else { io::stdout().write_all(text) }
    }

    fn say(&self, line: &str) -> io::Result<()> {
        let mut drawn = self.drawn();
        let clear = clear(*drawn);
        *drawn = 0;
        self.put(&format!("{clear}{line}\n"))
    }

    fn draw(&self, table: &str) -> io::Result<()> {
        let mut drawn = self.drawn();
        let clear = clear(*drawn);
        *drawn = table.lines().count();
        // A line that wraps would take two: what does not fit is cut by the terminal meanwhile.
        self.put(&format!("{clear}\x1b[?7l{table}\x1b[?7h"))
    }

    /// The terminal has echoed a line below the table.
    fn typed(&self) {
        if self.is_live {
            *self.drawn() += 1;
        }
    }
}

/// What is written is whole lines.
impl Write for Screen {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.to_stderr { io::stderr().write(bytes) } else { io::stdout().write(bytes) }
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.to_stderr { io::stderr().flush() } else { io::stdout().flush() }
    }
}

/// Up by so many lines, and everything below is erased.
fn clear(lines: usize) -> String {
    if lines == 0 { String::new() } else { format!("\x1b[{lines}A\x1b[J") }
}

struct Shown {
    screen: Screen,
    is_quiet: bool,
    capture: Option<CaptureFile<BufWriter<File>>>,
    lines: Option<DatagramLines<Screen>>,
}

impl Observer for Shown {
    fn datagram(&mut self, seen: &Seen<'_>) -> io::Result<()> {
        if let Some(capture) = &mut self.capture {
            capture.datagram(seen)?;
        }
        self.lines.as_mut().map_or(Ok(()), |lines| lines.datagram(seen))
    }

    fn event(&mut self, event: &Event) -> io::Result<()> {
        if let Some(lines) = &mut self.lines {
            lines.event(event)?;
        }
        match event {
            Event::Opened(client, address) => self.screen.say(&format!("{client} from {address}")),
            Event::Rebound(client) => self.screen.say(&format!("{client} has a new port")),
            Event::Closed(client) => self.screen.say(&format!("{client} is forgotten")),
        }
    }

    fn status(&mut self, status: &ProxyStatus) -> io::Result<()> {
        if let Some(capture) = &mut self.capture {
            capture.status(status)?;
        }
        if self.screen.is_live {
            self.screen.draw(&table(status, ROWS))
        } else if self.is_quiet {
            Ok(())
        } else {
            self.screen.say(&summary_line(status))
        }
    }
}

/// How often the table is drawn.
const LIVE: Duration = Duration::from_millis(500);
/// How often a line is printed.
const PLAIN: Duration = Duration::from_secs(5);
/// Clients in the live table.
const ROWS: usize = 12;
