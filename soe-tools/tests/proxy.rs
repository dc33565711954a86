//! The lag proxy over real sockets.

use std::{
    io::{self, BufRead, BufReader, Write},
    net::SocketAddr,
    process::{Command, Stdio},
    time::Duration,
};

use soe_tokio::{SessionConfig, SoeListener, SoeSession};
use soe_tools::{
    capture::{CaptureReader, Extracted, Item},
    link::Profile,
    proxy::{Event, Observer, ProxyConfig, ProxyHandle, ProxyServer, ProxyStatus, serve_control},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream, UdpSocket},
    task::JoinHandle,
    time::timeout,
};

/// Far longer than anything here takes on a busy machine.
const PATIENCE: Duration = Duration::from_secs(120);
const LOCAL: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 0);

fn config(up: &str, down: &str) -> ProxyConfig {
    let mut config = ProxyConfig::default();
    (config.up, config.down) = (up.parse().unwrap(), down.parse().unwrap());
    config
}

struct Running {
    address: SocketAddr,
    handle: ProxyHandle,
    task: JoinHandle<io::Result<ProxyStatus>>,
}

impl Running {
    async fn start(to: SocketAddr, config: ProxyConfig) -> Self {
        Self::observed(to, config, ()).await
    }

    async fn observed(to: SocketAddr, config: ProxyConfig, mut observer: impl Observer + Send + 'static) -> Self {
        let server = ProxyServer::bind(LOCAL, to, config).await.unwrap();
        let (address, handle) = (server.local_addr().unwrap(), server.handle());
        let task = tokio::spawn(async move { server.run(&mut observer, PATIENCE).await });
        Self { address, handle, task }
    }

    async fn quit(self) -> ProxyStatus {
        self.handle.command("quit").await.unwrap();
        self.task.await.unwrap().unwrap()
    }

    async fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.handle.command("json").await.unwrap()).unwrap()
    }
}

async fn receive(socket: &UdpSocket) -> (Vec<u8>, SocketAddr) {
    let mut buf = [0; 2048];
    let (length, from) = timeout(PATIENCE, socket.recv_from(&mut buf)).await.unwrap().unwrap();
    (buf[..length].to_vec(), from)
}

#[tokio::test]
async fn each_client_has_a_port_of_its_own_and_gets_its_own_answers() {
    let server = UdpSocket::bind(LOCAL).await.unwrap();
    let proxy = Running::start(server.local_addr().unwrap(), config("delay=2ms", "delay=1ms")).await;
    let clients = [UdpSocket::bind(LOCAL).await.unwrap(), UdpSocket::bind(LOCAL).await.unwrap()];
    let mut ports = Vec::new();
    for (n, client) in clients.iter().enumerate() {
        client.send_to(&[n as u8; 3], proxy.address).await.unwrap();
        let (datagram, from) = receive(&server).await;
        assert_eq!(datagram, [n as u8; 3]);
        ports.push(from);
    }
    assert_ne!(ports[0], ports[1]);
    for (n, port) in ports.iter().enumerate().rev() {
        server.send_to(&[b'a', n as u8], *port).await.unwrap();
    }
    for (n, client) in clients.iter().enumerate() {
        assert_eq!(receive(client).await, (vec![b'a', n as u8], proxy.address));
    }
    let status = proxy.quit().await;
    assert_eq!((status.clients.len(), status.up.counters.offered, status.down.counters.offered), (2, 2, 2));
}

#[tokio::test]
async fn what_the_counters_say_is_lost_is_what_does_not_arrive() {
    const BATCH: u64 = 100;
    const DATAGRAMS: u64 = 100_000;
    let server = UdpSocket::bind(LOCAL).await.unwrap();
    let proxy = Running::start(server.local_addr().unwrap(), config("loss=4%,burst=3%/3", "none")).await;
    let client = UdpSocket::bind(LOCAL).await.unwrap();
    client.connect(proxy.address).await.unwrap();
    let (mut buf, mut received, mut sent) = ([0; 16], 0, 0);
    while sent < DATAGRAMS {
        for _ in 0..BATCH {
            client.send(&[0; 8]).await.unwrap();
        }
        sent += BATCH;
        // So few wait at a time that no buffer of the system can be full.
        timeout(PATIENCE, async {
            loop {
                while server.try_recv(&mut buf).is_ok() {
                    received += 1;
                }
                let up = &proxy.json().await["up"];
                let (offered, lost) = (up["offered"].as_u64().unwrap(), up["lost"].as_u64().unwrap());
                if offered == sent && received + lost == sent {
                    break;
                }
                tokio::task::yield_now().await;
            }
        })
        .await
        .unwrap();
    }
    let status = proxy.quit().await;
    let (achieved, target) = (1.0 - received as f64 / DATAGRAMS as f64, 1.0 - 0.96 * 0.97);
    assert!((achieved - target).abs() < 0.005, "{achieved} lost, not {target}");
    assert_eq!(status.up.lost, DATAGRAMS - received);
}

/// Which of 1,000 numbered datagrams arrive, when `batch` of them are sent at a time.
async fn arrivals(seed: u64, up: &str, batch: u64) -> Vec<u64> {
    let server = UdpSocket::bind(LOCAL).await.unwrap();
    let mut config = config(up, "none");
    config.seed = seed;
    let proxy = Running::start(server.local_addr().unwrap(), config).await;
    let client = UdpSocket::bind(LOCAL).await.unwrap();
    client.connect(proxy.address).await.unwrap();
    let mut numbers = Vec::new();
    for first in (0..1_000).step_by(batch as usize) {
        for number in first..first + batch {
            client.send(&number.to_be_bytes()).await.unwrap();
        }
        timeout(PATIENCE, async {
            loop {
                let mut buf = [0; 8];
                while server.try_recv(&mut buf).is_ok() {
                    numbers.push(u64::from_be_bytes(buf));
                }
                let up = &proxy.json().await["up"];
                let (offered, lost) = (up["offered"].as_u64().unwrap(), up["lost"].as_u64().unwrap());
                if offered == first + batch && numbers.len() as u64 + lost == offered {
                    break;
                }
                tokio::task::yield_now().await;
            }
        })
        .await
        .unwrap();
    }
    proxy.quit().await;
    numbers.sort_unstable();
    numbers
}

#[tokio::test]
async fn a_seed_loses_the_same_datagrams_at_any_pace_and_under_any_delay() {
    let first = arrivals(3, "loss=10%,burst=10%/3", 50).await;
    assert!(first.len() > 700 && first.len() < 900, "{}", first.len());
    assert_eq!(arrivals(3, "loss=10%,burst=10%/3,delay=2ms,reorder=10%/3ms", 20).await, first);
    assert_ne!(arrivals(4, "loss=10%,burst=10%/3", 50).await, first);
}

#[tokio::test]
async fn a_session_survives_bad_wifi_and_a_change_of_its_port() {
    let session = SessionConfig::new("Echo").unwrap();
    let listener = SoeListener::bind(LOCAL, session.clone()).await.unwrap();
    let server = listener.local_addr();
    let echo = tokio::spawn(async move {
        let mut session = listener.accept().await.unwrap().accept();
        while let Some(Ok(message)) = session.recv().await {
            session.send(message).await.unwrap();
        }
        drop(listener);
    });
    let wifi: Profile = "wifi-bad".parse().unwrap();
    let mut config = ProxyConfig::default();
    (config.up, config.down, config.seed) = (wifi.up(), wifi.down(), 11);
    let proxy = Running::start(server, config).await;
    let mut client = timeout(PATIENCE, SoeSession::connect(proxy.address, session)).await.unwrap().unwrap();
    for n in 0..60_u16 {
        if n == 30 {
            proxy.handle.command("rebind").await.unwrap();
        }
        client.send(vec![n as u8 + 1; 700]).await.unwrap();
        let message = timeout(PATIENCE, client.recv()).await.unwrap().unwrap().unwrap();
        assert_eq!(message.payload, vec![n as u8 + 1; 700]);
    }
    let status = proxy.quit().await;
    assert_eq!(status.clients[0].rebinds, 1);
    assert!(status.up.lost + status.down.lost > 0, "{status:?}");
    drop(client);
    echo.abort();
}

#[tokio::test]
async fn a_new_port_is_what_the_server_sees() {
    let server = UdpSocket::bind(LOCAL).await.unwrap();
    let proxy = Running::start(server.local_addr().unwrap(), ProxyConfig::default()).await;
    let client = UdpSocket::bind(LOCAL).await.unwrap();
    client.send_to(b"1", proxy.address).await.unwrap();
    let (_, before) = receive(&server).await;
    proxy.handle.command("rebind #1").await.unwrap();
    client.send_to(b"2", proxy.address).await.unwrap();
    let (_, after) = receive(&server).await;
    assert_ne!(before.port(), after.port());
    // The old port is closed: what is sent there is lost.
    server.send_to(b"old", before).await.unwrap();
    server.send_to(b"new", after).await.unwrap();
    assert_eq!(receive(&client).await.0, b"new");
    proxy.quit().await;
}

#[tokio::test]
async fn commands_over_tcp_are_answered_and_taken_from_this_machine_only() {
    let server = UdpSocket::bind(LOCAL).await.unwrap();
    let proxy = Running::start(server.local_addr().unwrap(), ProxyConfig::default()).await;
    let listener = TcpListener::bind(LOCAL).await.unwrap();
    let address = listener.local_addr().unwrap();
    let control = tokio::spawn(serve_control(listener, proxy.handle.clone()));
    let mut stream = TcpStream::connect(address).await.unwrap();
    for (line, answer) in [
        ("set up loss=100%\n", "changed: 0 clients and those to come\n\n"),
        ("nonsense\n", "error: 'nonsense' is not one of set, profile, blackout, rebind, show, json, help, quit\n\n"),
        ("quit\n", "bye\n\n"),
    ] {
        stream.write_all(line.as_bytes()).await.unwrap();
        let mut buf = vec![0; answer.len()];
        timeout(PATIENCE, stream.read_exact(&mut buf)).await.unwrap().unwrap();
        assert_eq!(String::from_utf8(buf).unwrap(), answer);
    }
    proxy.task.await.unwrap().unwrap();
    control.abort();

    let public = TcpListener::bind("0.0.0.0:0").await.unwrap();
    let error = serve_control(public, proxy.handle).await.unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
}

#[tokio::test]
async fn clients_that_are_forgotten_give_their_sockets_back() {
    struct Closed(tokio::sync::mpsc::UnboundedSender<()>);
    impl Observer for Closed {
        fn event(&mut self, event: &Event) -> io::Result<()> {
            if matches!(event, Event::Closed(_)) {
                let _ = self.0.send(());
            }
            Ok(())
        }
    }
    let server = UdpSocket::bind(LOCAL).await.unwrap();
    let (sender, mut closed) = tokio::sync::mpsc::unbounded_channel();
    let mut config = ProxyConfig::default();
    config.idle_timeout = Duration::from_millis(50);
    let proxy = Running::observed(server.local_addr().unwrap(), config, Closed(sender)).await;
    let client = UdpSocket::bind(LOCAL).await.unwrap();
    client.send_to(b"hello", proxy.address).await.unwrap();
    let (_, port) = receive(&server).await;
    timeout(PATIENCE, closed.recv()).await.unwrap().unwrap();
    // The port is free again as soon as the task that read it has ended.
    timeout(PATIENCE, async {
        while UdpSocket::bind(port).await.is_err() {
            tokio::task::yield_now().await;
        }
    })
    .await
    .unwrap();
    assert_eq!(proxy.quit().await.clients_seen, 1);
}

/// Starts `soe proxy` with these arguments. Returns it with the address that it listens on.
fn spawn(to: SocketAddr, arguments: &[&str], json: bool) -> (std::process::Child, SocketAddr) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_soe"));
    command.args(["proxy", "--listen", "127.0.0.1:0", "--to", &to.to_string()]).args(arguments);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut line = String::new();
    if json {
        BufReader::new(child.stderr.as_mut().unwrap()).read_line(&mut line).unwrap();
    } else {
        BufReader::new(child.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
    }
    let address = line.trim().strip_prefix("listening on ").unwrap().parse().unwrap();
    (child, address)
}

#[test]
fn the_program_takes_commands_captures_and_reports() {
    let server = std::net::UdpSocket::bind(LOCAL).unwrap();
    server.set_read_timeout(Some(PATIENCE)).unwrap();
    let client = std::net::UdpSocket::bind(LOCAL).unwrap();
    let file = std::env::temp_dir().join(format!("soe-proxy-{}.pcapng", std::process::id()));
    let arguments = ["--json", "--seed", "5", "--link", "delay=1ms", "--capture", file.to_str().unwrap()];
    let (mut child, address) = spawn(server.local_addr().unwrap(), &arguments, true);
    client.send_to(b"first", address).unwrap();
    let mut buf = [0; 64];
    let (length, port) = server.recv_from(&mut buf).unwrap();
    assert_eq!(&buf[..length], b"first");
    let mut stdin = child.stdin.take().unwrap();
    stdin.write_all(b"set up loss=100%\n").unwrap();
    let mut stderr = BufReader::new(child.stderr.as_mut().unwrap());
    let mut line = String::new();
    while !line.contains("changed: 1 clients and those to come") {
        line.clear();
        assert!(stderr.read_line(&mut line).unwrap() > 0, "no answer to the command");
    }
    client.send_to(b"second", address).unwrap();
    // Both ways through the same loop: when the answer is there, the loss has been counted.
    server.send_to(b"answer", port).unwrap();
    client.set_read_timeout(Some(PATIENCE)).unwrap();
    assert_eq!(client.recv_from(&mut buf).unwrap(), (6, address));
    stdin.write_all(b"json\nquit\n").unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(0));
    let status: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(status["seed"], 5);
    assert_eq!(status["down"]["offered"], 1);

    let capture = std::fs::read(&file).unwrap();
    std::fs::remove_file(&file).unwrap();
    let mut reader = CaptureReader::new(&capture[..]).unwrap();
    let mut seen = Vec::new();
    while let Some(item) = reader.next().unwrap() {
        let Item::Frame(frame) = item else { continue };
        let Extracted::Datagram(datagram) = frame.extract() else { panic!("not a datagram: {frame:?}") };
        seen.push((datagram.from, datagram.to, datagram.payload.to_vec()));
    }
    let (client, server) = (client.local_addr().unwrap(), server.local_addr().unwrap());
    assert_eq!(seen[0], (client, address, b"first".to_vec()));
    assert_eq!(seen[1], (port, server, b"first".to_vec()));
    assert!(seen.contains(&(server, port, b"answer".to_vec())), "{seen:?}");
    assert!(seen.contains(&(address, client, b"answer".to_vec())), "{seen:?}");
    let text = String::from_utf8_lossy(&capture);
    assert!(text.contains("after 1.0 ms"), "no comment on what was delayed");
}

/// The lines of `soe proxy --decode` while a session opens, sends a message and closes.
#[test]
fn the_program_says_of_each_datagram_what_it_is_and_what_becomes_of_it() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let session = SessionConfig::new("Echo").unwrap();
    let listener = runtime.block_on(SoeListener::bind(LOCAL, session.clone())).unwrap();
    let (mut child, address) = spawn(listener.local_addr(), &["--decode", "--link", "delay=3ms"], false);
    runtime.block_on(async {
        let client = async {
            let mut client = SoeSession::connect(address, session).await.unwrap();
            client.send("hello").await.unwrap();
            assert_eq!(client.recv().await.unwrap().unwrap().payload, "hello");
        };
        let server = async {
            let mut session = listener.accept().await.unwrap().accept();
            let message = session.recv().await.unwrap().unwrap();
            session.send(message).await.unwrap();
            session
        };
        timeout(PATIENCE, async { tokio::join!(client, server) }).await.unwrap();
    });
    let stranger = std::net::UdpSocket::bind(LOCAL).unwrap();
    child.stdin.as_mut().unwrap().write_all(b"set loss=100%\n").unwrap();
    let (mut lines, mut is_set) = (Vec::new(), false);
    for line in BufReader::new(child.stdout.take().unwrap()).lines() {
        let line = line.unwrap();
        if !is_set && line.starts_with("changed: ") {
            is_set = true;
            stranger.send_to(&[0xAB; 7], address).unwrap();
        }
        let is_last = line.contains("  7 B  ") || line.contains(" 7 B  lost");
        lines.push(line);
        if is_last {
            break;
        }
    }
    drop(child.stdin.take());
    child.kill().unwrap();
    child.wait().unwrap();
    let has = |parts: &[&str]| lines.iter().any(|line| parts.iter().all(|part| line.contains(part)));
    assert!(has(&["#1 up", "after 3.0 ms", "SessionRequest"]), "{lines:#?}");
    assert!(has(&["#1 down", "after 3.0 ms", "SessionResponse"]), "{lines:#?}");
    assert!(has(&["#1 up", "after 3.0 ms", "Reliable"]), "{lines:#?}");
    assert!(has(&["#2 up", "7 B", "lost: random", "not understood"]), "{lines:#?}");
}

#[test]
fn the_program_says_how_it_ended_by_its_exit_code() {
    let server = std::net::UdpSocket::bind(LOCAL).unwrap();
    let (child, _) = spawn(server.local_addr().unwrap(), &["--duration", "10ms"], false);
    assert_eq!(child.wait_with_output().unwrap().status.code(), Some(0));

    let run = |arguments: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_soe"));
        command.arg("proxy").args(arguments).stdin(Stdio::null()).output().unwrap()
    };
    let taken = server.local_addr().unwrap().to_string();
    let failed = run(&["--listen", &taken, "--to", "127.0.0.1:9"]);
    assert_eq!(failed.status.code(), Some(1), "{failed:?}");
    for wrong in [["--link", "loss=5"], ["--profile", "nope"], ["--idle", "1"], ["--rebind-every", "0"]] {
        let failed = run(&["--listen", "127.0.0.1:0", "--to", "127.0.0.1:9", wrong[0], wrong[1]]);
        assert_eq!(failed.status.code(), Some(2), "{failed:?}");
    }
    let public = run(&["--listen", "127.0.0.1:0", "--to", "127.0.0.1:9", "--control", "0.0.0.0:0"]);
    assert_eq!(public.status.code(), Some(1), "{public:?}");
}

#[cfg(unix)]
#[test]
fn more_clients_than_there_are_sockets_leave_the_others_alone() {
    let server = std::net::UdpSocket::bind(LOCAL).unwrap();
    server.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut command = Command::new("sh");
    command.args(["-c", "ulimit -n 40; exec \"$0\" proxy --listen 127.0.0.1:0 --to \"$1\" --json"]);
    command.args([env!("CARGO_BIN_EXE_soe"), &server.local_addr().unwrap().to_string()]);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(child.stderr.as_mut().unwrap()).read_line(&mut line).unwrap();
    let address: SocketAddr = line.trim().strip_prefix("listening on ").unwrap().parse().unwrap();
    let clients: Vec<_> = (0..60).map(|_| std::net::UdpSocket::bind(LOCAL).unwrap()).collect();
    for (number, client) in clients.iter().enumerate() {
        client.send_to(&[number as u8], address).unwrap();
    }
    // The first one is served before and after there were too many.
    clients[0].send_to(b"still here", address).unwrap();
    let mut buf = [0; 64];
    loop {
        let (length, _) = server.recv_from(&mut buf).unwrap();
        if &buf[..length] == b"still here" {
            break;
        }
    }
    child.stdin.take().unwrap().write_all(b"quit\n").unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let status: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert!(status["no_room"].as_u64().unwrap() > 10, "{status}");
    assert!(status["clients"].as_array().unwrap().len() > 10, "{status}");
}
