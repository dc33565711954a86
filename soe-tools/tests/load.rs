//! The load over real sockets, against a listener in this process.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    process::Command,
    sync::{
        atomic::{AtomicBool, Ordering},
        mpsc,
    },
    time::{Duration, Instant},
};

use soe_tokio::{Channel, Closed, DisconnectReason, ReliableChannel, SessionConfig, SoeListener, SoeSession};
use soe_tools::load::{self, Condition, LoadConfig, LoadError, LoadReport};
use tokio::{runtime::Runtime, task::JoinSet};

const LOCAL: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 0);

fn session() -> SessionConfig {
    SessionConfig::new("Echo").unwrap()
}

/// What a server does with its clients.
#[derive(Clone, Copy, PartialEq)]
enum Habit {
    Echo,
    /// Answers nothing for this long from the first message on, and then all at once.
    Stall(Duration),
    /// Ends each session when its tenth message has come.
    Hang,
    /// Flips a bit in each message.
    Damage,
}

/// A server on threads of its own, for as long as the value is there.
struct Server {
    address: SocketAddr,
    /// Something for each message that it has sent back.
    echoed: mpsc::Receiver<()>,
    /// How each session ended.
    closed: mpsc::Receiver<Closed>,
    _runtime: Runtime,
}

impl Server {
    fn start(habit: Habit) -> Self {
        Self::with(habit, session())
    }

    fn with(habit: Habit, session: SessionConfig) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let listener = runtime.block_on(SoeListener::bind(LOCAL, session)).unwrap();
        let address = listener.local_addr();
        let ((echoes, echoed), (endings, closed)) = (mpsc::channel(), mpsc::channel());
        runtime.spawn(async move {
            let mut sessions = JoinSet::new();
            while let Some(incoming) = listener.accept().await {
                let session = incoming.accept();
                sessions.spawn(serve(session, habit, echoes.clone(), endings.clone()));
            }
        });
        Self { address, echoed, closed, _runtime: runtime }
    }
}

async fn serve(mut session: SoeSession, habit: Habit, echoed: mpsc::Sender<()>, endings: mpsc::Sender<Closed>) {
    echo(&mut session, habit, &echoed).await;
    if let Some(closed) = session.closed().await {
        let _ = endings.send(closed);
    }
}

async fn echo(session: &mut SoeSession, habit: Habit, echoed: &mpsc::Sender<()>) {
    let mut count = 0;
    while let Some(Ok(mut message)) = session.recv().await {
        count += 1;
        match habit {
            Habit::Stall(time) if count == 1 => tokio::time::sleep(time).await,
            Habit::Hang if count == 10 => {
                session.close(DisconnectReason::Application).await;
                return;
            }
            Habit::Damage => {
                let mut payload = message.payload.to_vec();
                payload[15] ^= 1;
                message.payload = payload.into();
            }
            _ => {}
        }
        if session.send(message).await.is_err() {
            return;
        }
        // Most tests do not ask.
        let _ = echoed.send(());
    }
}

fn config(server: &Server) -> LoadConfig {
    let mut config = LoadConfig::new(server.address, session());
    config.ramp_up = Duration::from_millis(500);
    config.duration = Duration::from_secs(1);
    // On a busy machine everything takes long, and nothing here is about how long.
    config.drain = Duration::from_secs(60);
    config
}

fn run(config: &LoadConfig) -> LoadReport {
    load::run(config, &AtomicBool::new(false), |_| {}).unwrap()
}

#[test]
fn hundreds_of_clients_get_every_message_back() {
    let server = Server::start(Habit::Echo);
    let mut config = config(&server);
    (config.clients, config.rate, config.threads) = (300, 20.0, 2);
    config.sizes = vec![16, 200, 1_000];
    config.channels = ReliableChannel::ALL.map(Channel::from).to_vec();
    let report = run(&config);
    assert_eq!((report.clients, report.connected, report.failed()), (300, 300, 0), "{report:?}");
    assert_eq!((report.lost(), report.wrong, report.repeated), (0, 0, 0), "{report:?}");
    assert_eq!((report.sent, report.echoed), (report.due, report.due));
    // At most 20 a second for one second and the whole ramp-up, for each of them.
    assert!((1..=300 * 31).contains(&report.due), "{}", report.due);
    assert_eq!((report.rtt().count(), report.connect().count()), (report.due, 300));
    assert!(report.rtt().min() <= report.rtt().percentile(50.0) && report.rtt().percentile(50.0) <= report.rtt().max());
}

#[test]
fn unreliable_messages_come_back_too() {
    let server = Server::start(Habit::Echo);
    let mut config = config(&server);
    (config.clients, config.channels) = (50, vec![Channel::Unreliable, Channel::Ordered]);
    config.drain = Duration::from_secs(2);
    let report = run(&config);
    assert_eq!((report.connected, report.wrong), (50, 0));
    // Nothing promises that none is lost.
    assert!(report.loss() < 0.5 && report.echoed > 0, "{report:?}");
}

#[test]
fn a_server_that_stalls_is_seen_by_every_message_that_was_due_meanwhile() {
    let stall = Duration::from_millis(800);
    let server = Server::start(Habit::Stall(stall));
    let mut config = config(&server);
    (config.clients, config.rate) = (10, 50.0);
    let report = run(&config);
    assert_eq!(report.lost(), 0, "{report:?}");
    // A client that waited for each answer would have one slow message in dozens. Here a message is due every 20 ms: of the
    // 40 in the stall, half wait for more than 400 ms.
    let slow = Duration::from_millis(400);
    let share = (0..100).filter(|percent| report.rtt().percentile(f64::from(*percent)) >= slow).count();
    assert!(share >= 20, "{share} % of the messages were slow: {report:?}");
    assert!(report.rtt().max() >= Duration::from_millis(750));
}

#[test]
fn a_message_that_the_transport_takes_late_counts_from_when_it_was_due() {
    let stall = Duration::from_millis(800);
    // The server takes a few messages while it stalls, and the clients keep no more than a few.
    let server =
        Server::with(Habit::Stall(stall), session().to_builder().recv_buffer(400).recv_window(4).build().unwrap());
    let mut config = config(&server);
    (config.clients, config.rate) = (10, 200.0);
    config.session = session().to_builder().send_buffer(400).send_window(4).build().unwrap();
    let report = run(&config);
    assert_eq!((report.lost(), report.sent), (0, report.due), "{report:?}");
    // The stall was felt where the messages come from, and it is in their round trips all the same.
    assert!(report.lag().max() >= Duration::from_millis(400), "{:?}", report.lag().max());
    let slow = Duration::from_millis(400);
    let share = (0..100).filter(|percent| report.rtt().percentile(f64::from(*percent)) >= slow).count();
    assert!(share >= 20, "{share} % of the messages were slow: {report:?}");
}

#[test]
fn sessions_that_end_early_and_damaged_messages_are_counted() {
    let server = Server::start(Habit::Hang);
    let mut load = config(&server);
    (load.clients, load.rate, load.duration) = (20, 200.0, Duration::from_secs(2));
    let report = run(&load);
    assert_eq!((report.connected, report.failed()), (20, 20), "{report:?}");
    assert!(report.ended_early.keys().all(|reason| reason.contains("the peer")), "{report:?}");
    assert!(report.lost() >= 20 * (report.due / 20 - 10), "{report:?}");

    let server = Server::start(Habit::Damage);
    let mut load = config(&server);
    (load.clients, load.drain) = (5, Duration::from_secs(1));
    let report = run(&load);
    assert!(report.wrong > 0 && report.echoed == 0, "{report:?}");
    assert_eq!(report.loss(), 1.0);
}

#[test]
fn nobody_answers_where_nobody_is() {
    let socket = std::net::UdpSocket::bind(LOCAL).unwrap();
    let mut config = LoadConfig::new(socket.local_addr().unwrap(), {
        session().to_builder().connect_timeout(Duration::from_millis(300)).build().unwrap()
    });
    (config.clients, config.drain) = (5, Duration::from_secs(60));
    (config.ramp_up, config.duration) = (Duration::ZERO, Duration::from_secs(1));
    let report = run(&config);
    assert_eq!((report.connected, report.failed(), report.due), (0, 5, 0), "{report:?}");
    assert!("rtt.p99>1h".parse::<Condition>().unwrap().judge(&report).failed);
}

#[test]
fn a_stop_closes_the_clients_and_reports_what_was_measured() {
    let server = Server::start(Habit::Echo);
    let mut config = config(&server);
    config.duration = Duration::from_secs(3_600);
    let (stop, started) = (AtomicBool::new(false), Instant::now());
    let report = load::run(&config, &stop, |progress| {
        if progress.echoed > 0 {
            stop.store(true, Ordering::Relaxed);
        }
    })
    .unwrap();
    assert!(started.elapsed() < Duration::from_secs(600));
    assert!(report.is_interrupted && report.echoed > 0 && report.failed() == 0, "{report:?}");
    assert!(report.due < 100 * 10 * 600, "{}", report.due);
}

#[test]
fn what_is_refused_by_the_configuration_sends_nothing() {
    let mut config = LoadConfig::new(([192, 0, 2, 1], 9).into(), session());
    let error = load::run(&config, &AtomicBool::new(false), |_| {}).unwrap_err();
    assert!(matches!(error, LoadError::NotMine(_)), "{error}");
    config.target = LOCAL;
    config.rate = 1e9;
    let error = load::run(&config, &AtomicBool::new(false), |_| {}).unwrap_err();
    assert!(matches!(error, LoadError::Config(_)), "{error}");
}

fn soe(arguments: &[&str]) -> (Option<i32>, String, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_soe")).arg("load").args(arguments).output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (output.status.code(), text(output.stdout), text(output.stderr))
}

#[test]
fn the_program_reports_and_says_by_its_exit_code_whether_a_condition_holds() {
    let server = Server::start(Habit::Echo);
    let target = server.address.to_string();
    let with = |more: &[&'static str]| {
        let common = ["--protocol", "Echo", "--clients", "20", "--duration", "2s", "--drain", "60s"];
        let arguments: Vec<&str> = [&target[..]].into_iter().chain(common).chain(more.iter().copied()).collect();
        soe(&arguments)
    };
    let (code, stdout, _) = with(&["--json", "--fail-if", "rtt.p99>1h", "--fail-if", "failed>0", "--channels", "0,3"]);
    assert_eq!(code, Some(0), "{stdout}");
    let report: serde_json::Value = serde_json::from_str(&stdout).unwrap();
    assert_eq!((&report["connected"], &report["lost"]), (&20.into(), &0.into()), "{report}");
    assert_eq!(report["fail_if"][0]["failed"], false, "{report}");
    assert!(report["rtt_ms"]["p99"].as_f64().unwrap() > 0.0, "{report}");

    let (code, stdout, _) = with(&["--fail-if", "rtt.min<1h"]);
    assert_eq!(code, Some(5), "{stdout}");
    assert!(stdout.contains("FAILED rtt.min<1h"), "{stdout}");

    let (code, stdout, _) = with(&["--protocol", "Another", "--fail-if", "failed>100%"]);
    assert_eq!(code, Some(2), "given twice: {stdout}");
}

#[test]
fn the_program_refuses_what_it_may_not_do() {
    for (arguments, complaint) in [
        (&["192.0.2.1:9"][..], "--target-is-mine"),
        (&["127.0.0.1:9", "--clients", "1000", "--rate", "1000"][..], "over the cap"),
        (&["127.0.0.1:9", "--fail-if", "rtt.p99"][..], "has no comparison"),
        (&["127.0.0.1:9", "--channels", "4"][..], "a channel is 0, 1, 2, 3"),
    ] {
        let (code, _, stderr) = soe(arguments);
        assert_eq!(code, Some(2), "{stderr}");
        assert!(stderr.contains(complaint), "{stderr}");
    }
}

#[cfg(unix)]
#[test]
fn the_program_says_where_the_sockets_end() {
    let server = Server::start(Habit::Echo);
    let mut command = Command::new("sh");
    command.args(["-c", "ulimit -n 40; exec \"$0\" load \"$1\" --protocol Echo --clients 100"]);
    let output = command.args([env!("CARGO_BIN_EXE_soe"), &server.address.to_string()]).output().unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{stderr}");
    assert!(stderr.contains("`ulimit -n`"), "{stderr}");
    // Those that had got a session have told the server that they go.
    let closed = server.closed.recv_timeout(Duration::from_secs(120)).unwrap();
    assert!(closed.is_clean(), "{closed}");
}

#[cfg(unix)]
#[test]
fn an_interrupted_program_closes_its_clients_and_reports() {
    let server = Server::start(Habit::Echo);
    let mut command = Command::new(env!("CARGO_BIN_EXE_soe"));
    command.args(["load", &server.address.to_string(), "--protocol", "Echo", "--clients", "5", "--duration", "1h"]);
    command.args(["--json"]).stdout(std::process::Stdio::piped());
    let child = command.spawn().unwrap();
    // The server has an echo of somebody: the program is at work.
    server.echoed.recv_timeout(Duration::from_secs(120)).unwrap();
    let killed = Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap();
    assert!(killed.success());
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(0));
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((&report["interrupted"], &report["failed"]), (&true.into(), &0.into()), "{report}");
}

#[cfg(target_os = "linux")]
#[test]
fn a_client_takes_at_most_four_kilobytes() {
    let server = Server::start(Habit::Echo);
    let target = server.address.to_string();
    let arguments = ["--protocol", "Echo", "--clients", "2000", "--rate", "0.2", "--ramp-up", "4s"];
    let more = ["--duration", "1s", "--drain", "60s", "--json"];
    let arguments: Vec<&str> = [&target[..]].into_iter().chain(arguments).chain(more).collect();
    let (code, stdout, stderr) = soe(&arguments);
    assert_eq!(code, Some(0), "{stderr}");
    let report: serde_json::Value = serde_json::from_str(&stdout).unwrap();
    assert_eq!(report["connected"], 2_000, "{report}");
    let bytes = report["memory_per_client"].as_u64().unwrap();
    assert!((500..=4_096).contains(&bytes), "{bytes} bytes per client");
}
