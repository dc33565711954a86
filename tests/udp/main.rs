//! The Tokio layer over real sockets on the loopback interface: that sockets are sockets. What the network does to sessions
//! is simulated elsewhere. Nothing here is decided by how fast the machine is: deadlines only end a test that hangs.

mod addresses;
mod connecting;
mod endings;
#[cfg(target_os = "linux")]
mod icmp;
mod proxies;

use std::{
    future::Future,
    net::{SocketAddr, UdpSocket},
    sync::Arc,
    time::Duration,
};

use bytes::{Bytes, BytesMut};

use futures_util::{FutureExt, SinkExt, StreamExt};
use soe_core::{HookError, RequestFilter, StatusReply};
use soe_tokio::{
    AdmissionConfig, Channel, ConnectError, DisconnectReason, Incoming, ListenerConfig, Message, MessageHook, Origin,
    QueryError, ReliableChannel, SendError, SessionConfig, SessionError, SocketConfig, SoeConnector, SoeListener,
    SoeSession,
};
use tokio::time::timeout;
use tokio_util::codec::BytesCodec;

const NAME: &str = "UdpTest";

fn config() -> SessionConfig {
    SessionConfig::new(NAME).expect("the defaults are valid")
}

async fn listen() -> SoeListener {
    SoeListener::bind("127.0.0.1:0", config()).await.expect("loopback can be bound")
}

/// A hang is the only failure that time decides.
async fn soon<T>(what: &str, future: impl Future<Output = T>) -> T {
    match timeout(Duration::from_secs(30), future).await {
        Ok(done) => done,
        Err(_) => panic!("{what}: nothing happened for 30 seconds"),
    }
}

async fn incoming(listener: &SoeListener) -> Incoming {
    soon("accept", listener.accept()).await.expect("the listener lives")
}

async fn connect(to: SocketAddr) -> SoeSession {
    soon("connect", SoeSession::connect(to, config())).await.expect("the server answers")
}

/// Both ends of one session.
async fn pair(listener: &SoeListener) -> (SoeSession, SoeSession) {
    let (client, server) = tokio::join!(connect(listener.local_addr()), incoming(listener));
    (client, server.accept())
}

async fn receive(session: &mut SoeSession) -> Bytes {
    soon("receive", session.recv()).await.expect("the session lives").expect("the session is well").payload
}

/// Returns every message on the channel it came on, until the session ends.
async fn echo(mut session: SoeSession) {
    while let Some(Ok(message)) = session.recv().await {
        if session.send(message).await.is_err() {
            break;
        }
    }
}

#[tokio::test]
async fn messages_travel_both_ways_on_every_channel() {
    let listener = listen().await;
    let (mut client, server) = pair(&listener).await;
    assert_eq!(client.peer_addr(), listener.local_addr());
    assert_eq!(server.peer_addr().port(), client.local_addr().port());
    assert_eq!(server.session_id(), client.session_id());
    tokio::spawn(echo(server));
    let reliable = ReliableChannel::ALL.map(Channel::from);
    for channel in reliable.into_iter().chain([Channel::Unreliable]) {
        client.send(Message::new(channel, &b"there and back"[..])).await.expect("open");
        let back = soon("echo", client.recv()).await.expect("open").expect("well");
        assert_eq!((back.channel, &back.payload[..]), (channel, &b"there and back"[..]));
    }
}

#[tokio::test]
async fn what_is_shared_can_be_printed_without_end() {
    let listener = listen().await;
    let (client, server) = pair(&listener).await;
    let printed = format!("{listener:?} {client:?} {server:?}");
    assert!(printed.len() < 2_000, "{printed}");
}

#[tokio::test]
async fn a_panicking_request_filter_spoils_that_request_alone() {
    let filter = RequestFilter::Predicate(Arc::new(|request| {
        assert!(request.protocol_name != "Fatal", "a filter of the application panics");
        true
    }));
    let admission = AdmissionConfig::builder(config()).filter(filter).build().expect("valid");
    let listener = SoeListener::bind("127.0.0.1:0", admission).await.expect("loopback can be bound");
    let fatal = SessionConfig::builder("Fatal").connect_timeout(Duration::from_millis(200)).build().expect("valid");
    soon("time-out", SoeSession::connect(listener.local_addr(), fatal)).await.expect_err("nobody answers");
    pair(&listener).await;
}

#[tokio::test]
async fn a_large_message_arrives_whole() {
    let listener = listen().await;
    let (mut client, server) = pair(&listener).await;
    tokio::spawn(echo(server));
    let sent: Vec<u8> = (0..50_000_u32).map(|i| (i * 7 + i / 251) as u8).collect();
    client.send(sent.clone()).await.expect("open");
    assert_eq!(receive(&mut client).await, sent);
}

#[tokio::test]
async fn an_incoming_session_says_what_the_client_asked_for() {
    let listener = listen().await;
    let (client, incoming) = tokio::join!(connect(listener.local_addr()), incoming(&listener));
    assert_eq!(incoming.protocol_name(), NAME);
    assert_eq!(incoming.version(), 3);
    assert_eq!(incoming.session_id(), client.session_id());
    assert_eq!(incoming.peer_addr().port(), client.local_addr().port());
}

#[tokio::test]
async fn a_refused_client_reads_the_reason() {
    let listener = listen().await;
    let (client, incoming) = tokio::join!(connect(listener.local_addr()), incoming(&listener));
    incoming.refuse(DisconnectReason::Other(77));
    let closed = soon("closed", client.closed()).await.expect("served");
    assert_eq!((closed.reason, closed.origin), (DisconnectReason::Other(77), Origin::Peer));
}

#[tokio::test]
async fn dropping_an_incoming_session_refuses_it() {
    let listener = listen().await;
    let (client, incoming) = tokio::join!(connect(listener.local_addr()), incoming(&listener));
    drop(incoming);
    let closed = soon("closed", client.closed()).await.expect("served");
    assert_eq!(closed.origin, Origin::Peer);
}

#[tokio::test]
async fn an_ignored_client_hears_nothing() {
    let listener = listen().await;
    let (client, incoming) = tokio::join!(connect(listener.local_addr()), incoming(&listener));
    incoming.ignore();
    let (next, _accepted) = pair(&listener).await;
    assert_ne!(next.session_id(), client.session_id());
    assert!(client.closed().now_or_never().is_none());
}

#[tokio::test]
async fn a_listener_is_a_stream_of_incoming_sessions() {
    let mut listener = listen().await;
    let address = listener.local_addr();
    let (_client, next) = tokio::join!(connect(address), soon("stream", listener.next()));
    assert_eq!(next.map(|incoming| incoming.protocol_name().to_owned()).as_deref(), Some(NAME));
}

#[tokio::test]
async fn connecting_to_silence_times_out() {
    let silent = UdpSocket::bind("127.0.0.1:0").expect("loopback can be bound");
    let config = SessionConfig::builder(NAME).connect_timeout(Duration::from_millis(300)).build().expect("valid");
    let address = silent.local_addr().expect("bound");
    let error = soon("time-out", SoeSession::connect(address, config)).await.expect_err("nobody answers");
    assert!(matches!(&error, ConnectError::Closed(closed) if closed.origin == Origin::Transport), "{error}");
}

#[tokio::test]
async fn a_connect_that_is_given_up_frees_its_address() {
    let silent = UdpSocket::bind("127.0.0.1:0").expect("loopback can be bound");
    let address = silent.local_addr().expect("bound");
    let connector = SoeConnector::bind("127.0.0.1:0").await.expect("loopback can be bound");
    for _ in 0..3 {
        let mut attempt = Box::pin(connector.connect(address, config()));
        while attempt.as_mut().now_or_never().is_none() && connector.stats().datagrams_sent == 0 {
            tokio::task::yield_now().await;
        }
        let second = soon("second", connector.connect(address, config())).await;
        assert!(matches!(second, Err(ConnectError::Occupied(taken)) if taken == address));
    }
}

#[tokio::test]
async fn one_socket_opens_sessions_to_several_servers() {
    let (one, two) = (listen().await, listen().await);
    let connector = SoeConnector::bind("127.0.0.1:0").await.expect("loopback can be bound");
    for listener in [&one, &two] {
        let (client, server) = tokio::join!(connector.connect(listener.local_addr(), config()), incoming(listener));
        let mut client = client.expect("the server answers");
        assert_eq!(client.local_addr(), connector.local_addr());
        tokio::spawn(echo(server.accept()));
        client.send(&b"hello"[..]).await.expect("open");
        assert_eq!(receive(&mut client).await, &b"hello"[..]);
    }
}

#[tokio::test]
async fn host_names_and_ipv6_work() {
    let listener = SoeListener::bind("localhost:0", config()).await.expect("loopback can be bound");
    let to = ("localhost", listener.local_addr().port());
    let (client, _server) = tokio::join!(SoeSession::connect(to, config()), incoming(&listener));
    client.expect("the server answers");

    let Ok(listener) = SoeListener::bind("[::1]:0", config()).await else { return };
    let (client, server) = pair(&listener).await;
    assert!(client.peer_addr().is_ipv6() && server.peer_addr().is_ipv6());
}

#[tokio::test]
async fn an_ipv4_client_of_a_dual_stack_listener_keeps_its_address() {
    let Ok(listener) = SoeListener::bind("[::]:0", config()).await else { return };
    let to = SocketAddr::from(([127, 0, 0, 1], listener.local_addr().port()));
    let (client, server) = tokio::join!(connect(to), incoming(&listener));
    assert_eq!(server.peer_addr(), SocketAddr::from(([127, 0, 0, 1], client.local_addr().port())));
}

#[tokio::test]
async fn a_clean_close_ends_both_streams_after_the_last_message() {
    let listener = listen().await;
    let (mut client, mut server) = pair(&listener).await;
    for number in 0..100_u8 {
        client.send(vec![number; 300]).await.expect("open");
    }
    let closed = soon("close", client.close(DisconnectReason::Application)).await.expect("served");
    assert_eq!((closed.reason, closed.origin), (DisconnectReason::Application, Origin::Local));
    for number in 0..100_u8 {
        assert_eq!(receive(&mut server).await, vec![number; 300]);
    }
    assert!(soon("end", server.recv()).await.is_none());
    assert!(soon("end", client.recv()).await.is_none());
    let closed = soon("closed", server.closed()).await.expect("served");
    assert_eq!((closed.reason, closed.origin), (DisconnectReason::Application, Origin::Peer));
    assert!(matches!(server.send(&b"too late"[..]).await, Err(SessionError::Closed(_))));
    assert!(matches!(server.try_send(&b"too late"[..]), Err(SendError::Closed(_))));
}

#[tokio::test]
async fn a_failure_is_one_error_after_the_last_message() {
    let listener = listen().await;
    let (mut client, mut server) = pair(&listener).await;
    client.send(&b"last words"[..]).await.expect("open");
    soon("close", client.close(DisconnectReason::CorruptPacket)).await.expect("served");
    assert_eq!(receive(&mut server).await, &b"last words"[..]);
    let error = soon("error", server.recv()).await.expect("an error comes first").expect_err("the client complained");
    assert!(matches!(error, SessionError::Closed(closed) if closed.reason == DisconnectReason::CorruptPacket));
    assert!(soon("end", server.recv()).await.is_none());
}

#[tokio::test]
async fn dropping_a_session_delivers_what_was_queued() {
    let listener = listen().await;
    let (mut client, mut server) = pair(&listener).await;
    for number in 0..50_u8 {
        client.send(vec![number; 1000]).await.expect("open");
    }
    drop(client);
    for number in 0..50_u8 {
        assert_eq!(receive(&mut server).await, vec![number; 1000]);
    }
    assert!(soon("end", server.recv()).await.is_none());
}

#[tokio::test]
async fn a_cancelled_receive_loses_nothing() {
    let listener = listen().await;
    let (mut client, mut server) = pair(&listener).await;
    let mut cancelled = 0;
    for number in 0..200_u32 {
        if server.recv().now_or_never().is_none() {
            cancelled += 1;
        }
        client.send(number.to_be_bytes().to_vec()).await.expect("open");
        assert_eq!(receive(&mut server).await, number.to_be_bytes().to_vec());
    }
    assert!(cancelled > 0, "no receive was ever cancelled");
}

#[tokio::test]
async fn a_cancelled_accept_loses_no_session() {
    let listener = listen().await;
    assert!(listener.accept().now_or_never().is_none());
    let (_client, _server) = pair(&listener).await;
}

#[tokio::test]
async fn the_halves_work_apart_and_fit_together_again() {
    let listener = listen().await;
    let (client, server) = pair(&listener).await;
    tokio::spawn(echo(server));
    let (mut send, mut recv) = client.split();
    let sender = tokio::spawn(async move {
        for number in 0..500_u32 {
            send.send(number.to_be_bytes().to_vec()).await.expect("open");
        }
        send
    });
    for number in 0..500_u32 {
        let message = soon("echo", recv.recv()).await.expect("open").expect("well");
        assert_eq!(message.payload, number.to_be_bytes().to_vec());
    }
    let send = soon("sender", sender).await.expect("the sender lives");
    let (_, foreign) = pair(&listener).await.0.split();
    let (send, _) = match send.reunite(foreign) {
        Err(error) => (error.0, error.1),
        Ok(_) => panic!("halves of different sessions were joined"),
    };
    let mut whole = send.reunite(recv).expect("the halves belong together");
    whole.send(&b"whole"[..]).await.expect("open");
    assert_eq!(receive(&mut whole).await, &b"whole"[..]);
}

#[tokio::test]
async fn either_half_can_close_the_session() {
    let listener = listen().await;
    let (client, mut server) = pair(&listener).await;
    let (send, recv) = client.split();
    soon("close", recv.close(DisconnectReason::Application)).await.expect("served");
    assert_eq!(soon("closed", send.closed()).await.expect("served").origin, Origin::Local);
    assert!(soon("end", server.recv()).await.is_none());
}

#[tokio::test]
async fn a_codec_speaks_in_items() {
    let listener = listen().await;
    let (client, server) = pair(&listener).await;
    tokio::spawn(echo(server));
    let mut framed = client.framed(BytesCodec::new()).on_channel(ReliableChannel::TWO);
    SinkExt::<Bytes>::send(&mut framed, Bytes::from_static(b"an item")).await.expect("open");
    let item = soon("item", framed.next()).await.expect("open").expect("well");
    assert_eq!(item, BytesMut::from(&b"an item"[..]));
    assert_eq!(framed.received_on(), Channel::Reliable(ReliableChannel::TWO));
}

#[tokio::test]
async fn flushed_means_that_the_kernel_has_it() {
    let listener = listen().await;
    let connector = SoeConnector::bind("127.0.0.1:0").await.expect("loopback can be bound");
    let (client, server) = tokio::join!(connector.connect(listener.local_addr(), config()), incoming(&listener));
    let mut client = client.expect("the server answers");
    let _server = server.accept();
    soon("flush", client.flushed()).await.expect("open");
    let before = connector.stats().bytes_sent;
    client.feed(Message::unreliable(vec![1; 200])).await.expect("open");
    soon("flush", client.flushed()).await.expect("open");
    assert!(connector.stats().bytes_sent >= before + 200);
}

#[tokio::test]
async fn keys_apply_from_the_next_message_on() {
    let listener = listen().await;
    let (mut client, mut server) = pair(&listener).await;
    client.send(&b"plain"[..]).await.expect("open");
    client.set_send_key(Some(b"a shared secret")).expect("a good key");
    client.send(&b"secret"[..]).await.expect("open");
    client.set_send_key(None).expect("off");
    client.send(&b"plain again"[..]).await.expect("open");
    assert_eq!(receive(&mut server).await, &b"plain"[..]);
    server.set_recv_key(Some(b"a shared secret")).expect("a good key");
    assert_eq!(receive(&mut server).await, &b"secret"[..]);
    server.set_recv_key(None).expect("off");
    assert_eq!(receive(&mut server).await, &b"plain again"[..]);
}

#[tokio::test]
async fn a_slow_reader_holds_up_its_own_peer_and_nobody_else() {
    let listener = listen().await;
    let (mut fast, fast_server) = pair(&listener).await;
    tokio::spawn(echo(fast_server));
    let (mut slow, mut unread) = pair(&listener).await;
    let sender = tokio::spawn(async move {
        for number in 0..10_000_u32 {
            let mut message = vec![0; 1000];
            message[..4].copy_from_slice(&number.to_be_bytes());
            slow.send(message).await.expect("open");
        }
        slow
    });
    for number in 0..1_000_u32 {
        fast.send(number.to_be_bytes().to_vec()).await.expect("open");
        assert_eq!(receive(&mut fast).await, number.to_be_bytes().to_vec());
    }
    assert!(!sender.is_finished(), "10 MB were taken without a reader");
    for number in 0..10_000_u32 {
        assert_eq!(receive(&mut unread).await[..4], number.to_be_bytes());
    }
    soon("sender", sender).await.expect("the sender lives");
}

#[tokio::test]
async fn ready_promises_room_for_one_message() {
    let listener = listen().await;
    let (mut client, mut server) = pair(&listener).await;
    let mut sent = 0;
    let message = loop {
        match client.try_send(vec![7; 10_000]) {
            Ok(()) => sent += 1,
            Err(SendError::Blocked(message)) => break message,
            Err(error) => panic!("{error}"),
        }
    };
    let reader = tokio::spawn(async move {
        for _ in 0..=sent {
            assert_eq!(receive(&mut server).await.len(), 10_000);
        }
    });
    soon("room", client.ready()).await.expect("open");
    client.try_send(message).expect("there is room");
    soon("reader", reader).await.expect("everything arrived");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_sessions_share_a_socket() {
    const SESSIONS: usize = 200;
    let listener = listen().await;
    let address = listener.local_addr();
    let server = tokio::spawn(async move {
        for _ in 0..SESSIONS {
            tokio::spawn(echo(incoming(&listener).await.accept()));
        }
        listener
    });
    let clients: Vec<_> = (0..SESSIONS)
        .map(|client| {
            tokio::spawn(async move {
                let mut session = connect(address).await;
                for number in 0..20 {
                    let text = format!("client {client}, message {number}");
                    session.send(text.clone()).await.expect("open");
                    assert_eq!(receive(&mut session).await, text);
                }
            })
        })
        .collect();
    for client in clients {
        soon("client", client).await.expect("every echo was right");
    }
    soon("server", server).await.expect("everybody was accepted");
}

#[tokio::test]
async fn the_backlog_is_bounded_and_the_clients_come_again() {
    let listener =
        SoeListener::bind("127.0.0.1:0", AdmissionConfig::builder(config()).accept_backlog(1).build().expect("valid"))
            .await
            .expect("bound");
    let address = listener.local_addr();
    let clients: Vec<_> = (0..3_u8)
        .map(|number| {
            tokio::spawn(async move {
                let mut client = connect(address).await;
                client.send(vec![number]).await.expect("open");
                assert_eq!(receive(&mut client).await, vec![number]);
            })
        })
        .collect();
    soon("knocks", async {
        while listener.stats().socket.datagrams_received < 6 {
            tokio::time::sleep(Duration::from_millis(5)).await;
            assert!(listener.stats().endpoint.admission.opened <= 1);
        }
    })
    .await;
    for _ in 0..3 {
        tokio::spawn(echo(incoming(&listener).await.accept()));
    }
    for client in clients {
        soon("client", client).await.expect("the echo was right");
    }
}

#[tokio::test]
async fn hostile_datagrams_disturb_no_session() {
    let listener = listen().await;
    let address = listener.local_addr();
    let (mut client, server) = pair(&listener).await;
    tokio::spawn(echo(server));
    let hostile = UdpSocket::bind("127.0.0.1:0").expect("loopback can be bound");
    let datagrams: [&[u8]; 12] = [
        b"",
        b"\0",
        b"x",
        b"\x00\x1d",
        b"\x00\x01",
        b"\x00\x01\x00\x00\x00\x03\x00\x00\x00\x01\x00\x00\x00\x00",
        b"\x00\x02\x00\x00\x00\x01\x00\x00\x00\x00\x09\x07\x07\xff\xff\xff\xff",
        b"\x00\x03\xff\xff\xff\xff\xff\xff\xff",
        b"\x00\x05\x00\x00\x00\x00\x00\x06",
        b"\x00\x09\xff\xff\xff",
        b"\x00\x19\xff\xff\xff\xff\xff\xff\xff\xff",
        b"\x00\x1e\x00\x00\x00\x00\x00\x00\x00\x00",
    ];
    for number in 0..2_000_u32 {
        hostile.send_to(datagrams[number as usize % datagrams.len()], address).expect("loopback takes it");
        if number % 10 == 0 {
            client.send(number.to_be_bytes().to_vec()).await.expect("open");
            assert_eq!(receive(&mut client).await, number.to_be_bytes().to_vec());
        }
    }
    assert!(listener.stats().socket.datagrams_received >= 2_000);
}

#[tokio::test]
async fn sessions_outlive_their_listener_and_newcomers_are_turned_away() {
    let listener = listen().await;
    let address = listener.local_addr();
    let (mut client, server) = pair(&listener).await;
    drop(listener);
    tokio::spawn(echo(server));
    client.send(&b"still here"[..]).await.expect("open");
    assert_eq!(receive(&mut client).await, &b"still here"[..]);
    if let Ok(newcomer) = soon("newcomer", SoeSession::connect(address, config())).await {
        assert_eq!(soon("closed", newcomer.closed()).await.expect("served").origin, Origin::Peer);
    }
}

#[tokio::test]
async fn the_socket_is_free_again_after_the_last_session() {
    let listener = listen().await;
    let address = listener.local_addr();
    let (client, server) = pair(&listener).await;
    drop((listener, server, client));
    soon("rebind", async {
        while SoeListener::bind(address, config()).await.is_err() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
}

#[tokio::test]
async fn a_shutdown_delivers_what_is_queued_and_says_so() {
    let listener = listen().await;
    let address = listener.local_addr();
    let (mut client, mut server) = pair(&listener).await;
    for number in 0..100_u8 {
        server.send(vec![number; 500]).await.expect("open");
    }
    let reader = tokio::spawn(async move {
        for number in 0..100_u8 {
            assert_eq!(receive(&mut client).await, vec![number; 500]);
        }
        assert!(soon("end", client.recv()).await.is_none());
    });
    let report = soon("shutdown", listener.shutdown(Duration::from_secs(20))).await;
    assert_eq!((report.clean, report.cut_off, report.messages_lost), (1, 0, 0), "{report:?}");
    assert_eq!(report.sessions.len(), 1);
    soon("reader", reader).await.expect("everything arrived");
    assert!(soon("end", server.recv()).await.is_none());
    SoeListener::bind(address, config()).await.expect("the socket is free");
}

#[tokio::test]
async fn a_shutdown_cuts_off_who_does_not_read_and_counts_what_was_lost() {
    let listener = listen().await;
    let narrow = config().to_builder().recv_buffer(10_000).recv_window(64).build().expect("valid");
    let address = listener.local_addr();
    let (client, server) = tokio::join!(SoeSession::connect(address, narrow), incoming(&listener));
    let (_unread, mut server) = (client.expect("the server answers"), server.accept());
    let mut queued = 0;
    while server.try_send(vec![1; 1_000]).is_ok() {
        queued += 1;
    }
    let report = soon("shutdown", listener.shutdown(Duration::from_millis(500))).await;
    drop(server);
    assert_eq!((report.clean, report.cut_off), (0, 1), "{report:?}");
    assert!(report.messages_lost > 0 && report.messages_lost <= queued, "{report:?}");
}

/// Panics on the third message.
#[derive(Debug)]
struct Fragile(u32);

impl MessageHook for Fragile {
    fn seal(&mut self, message: BytesMut) -> BytesMut {
        self.0 += 1;
        assert!(self.0 < 3, "a hook of the application panics");
        message
    }

    fn open(&mut self, message: Bytes, _: usize) -> Result<Bytes, HookError> {
        Ok(message)
    }
}

#[tokio::test]
async fn a_panicking_hook_ends_its_own_session_only() {
    let listener = listen().await;
    let (mut well, well_server) = pair(&listener).await;
    tokio::spawn(echo(well_server));
    let (mut fragile, mut server) = pair(&listener).await;
    fragile.set_send_hook(ReliableChannel::ZERO, Some(Box::new(Fragile(0))));
    let task = tokio::spawn(async move {
        for _ in 0..3 {
            fragile.send(&b"message"[..]).await.expect("open");
            fragile.flushed().await.expect("open");
        }
    });
    assert!(soon("task", task).await.is_err(), "the hook's panic is the application's own");
    assert_eq!(receive(&mut server).await, &b"message"[..]);
    soon("end", async { while server.recv().await.is_some() {} }).await;
    well.send(&b"well"[..]).await.expect("open");
    assert_eq!(receive(&mut well).await, &b"well"[..]);
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn a_vanished_server_is_noticed_by_its_icmp_errors() {
    let listener = listen().await;
    let (mut client, server) = pair(&listener).await;
    server.abort(DisconnectReason::Application, false);
    soon("shutdown", listener.shutdown(Duration::ZERO)).await;
    let error = soon("error", async {
        loop {
            let _ = client.try_send(&b"anybody there?"[..]);
            if let Ok(next) = timeout(Duration::from_millis(100), client.recv()).await {
                break next;
            }
        }
    })
    .await;
    let error = error.expect("an error comes before the end").expect_err("nobody is there");
    assert!(matches!(error, SessionError::Closed(closed) if closed.reason == DisconnectReason::IcmpError), "{error}");
    assert!(client.recv().await.is_none());
}

#[test]
fn the_end_of_the_runtime_ends_its_sessions() {
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let (mut client, server) = runtime.block_on(async { pair(&listen().await).await });
    drop(runtime);
    let other = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    other.block_on(async {
        let end = soon("end", client.recv()).await;
        assert!(matches!(end, Some(Err(SessionError::Stopped))));
        assert!(soon("end", client.recv()).await.is_none());
        assert_eq!(soon("closed", server.closed()).await, None);
        assert_eq!(soon("closed", client.closed()).await, None);
    });
}

#[tokio::test]
async fn a_server_says_what_it_says_of_itself_to_whoever_asks() {
    let status = StatusReply::new(|from| Some(format!("open to {}", from.ip()).into()));
    let admission = AdmissionConfig::builder(config()).server_status(Some(status)).build().expect("valid");
    let listener = SoeListener::bind("127.0.0.1:0", admission).await.expect("loopback can be bound");
    let connector = SoeConnector::bind("127.0.0.1:0").await.expect("loopback can be bound");
    let ask = || connector.query_status(listener.local_addr(), Duration::from_secs(30));
    assert_eq!(ask().await.expect("it answers"), "open to 127.0.0.1");
    // A session to the same server does not take the answer.
    let session = connector.connect(listener.local_addr(), config()).await.expect("the server answers");
    let (one, other) = tokio::join!(ask(), ask());
    assert_eq!(one.expect("it answers"), other.expect("it answers"));
    drop(session);
}

#[tokio::test]
async fn a_server_that_says_nothing_of_itself_is_waited_for_no_longer_than_told() {
    let listener = listen().await;
    let connector = SoeConnector::bind("127.0.0.1:0").await.expect("loopback can be bound");
    let asked = connector.query_status(listener.local_addr(), Duration::from_millis(700)).await;
    assert!(matches!(asked, Err(QueryError::Timeout)), "{asked:?}");
    let ipv6 = "[::1]:1".parse().expect("an address");
    let asked = connector.query_status(ipv6, Duration::from_secs(30)).await;
    assert!(matches!(asked, Err(QueryError::Unreachable(_))), "{asked:?}");
}

#[cfg(target_os = "linux")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn several_sockets_on_one_port_share_the_sessions() {
    let sharded = ListenerConfig::new(config()).shards(4);
    let listener = SoeListener::bind("127.0.0.1:0", sharded).await.expect("loopback can be bound");
    let mut clients = Vec::new();
    for _ in 0..64 {
        let (client, server) = pair(&listener).await;
        tokio::spawn(echo(server));
        clients.push(client);
    }
    for (number, client) in (0_u8..).zip(&mut clients) {
        client.send(vec![number; 2_000]).await.expect("open");
    }
    for (number, client) in (0_u8..).zip(&mut clients) {
        assert_eq!(receive(client).await, vec![number; 2_000]);
    }
    let stats = listener.stats();
    assert_eq!((stats.socket.sessions, stats.endpoint.admission.opened), (64, 64));
    assert_eq!(stats.shards.iter().map(|shard| shard.sessions).sum::<usize>(), 64);
    let busy = stats.shards.iter().filter(|shard| shard.sessions > 0 && shard.datagrams_received > 0).count();
    assert_eq!((stats.shards.len(), busy), (4, 4), "{:?}", stats.shards);
    let address = listener.local_addr();
    let report = soon("shutdown", listener.shutdown(Duration::from_secs(20))).await;
    assert_eq!((report.clean, report.cut_off), (64, 0), "{report:?}");
    UdpSocket::bind(address).expect("every socket is closed");
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn a_listener_of_several_sockets_connects_from_its_port_whichever_socket_the_answers_reach() {
    let sharded = ListenerConfig::new(config()).shards(4);
    let here = SoeListener::bind("127.0.0.1:0", sharded).await.expect("loopback can be bound");
    for number in 0..16_u8 {
        let there = listen().await;
        let (client, server) = tokio::join!(here.connect(there.local_addr(), config()), incoming(&there));
        let (mut client, server) = (client.expect("the server answers"), server.accept());
        assert_eq!(server.peer_addr(), here.local_addr());
        tokio::spawn(echo(server));
        client.send(vec![number; 2_000]).await.expect("open");
        assert_eq!(receive(&mut client).await, vec![number; 2_000]);
    }
}

#[tokio::test]
async fn a_port_that_others_use_is_not_shared_by_accident() {
    let listener = listen().await;
    let sharded = ListenerConfig::new(config()).shards(2);
    SoeListener::bind(listener.local_addr(), sharded).await.expect_err("the first did not offer to share");
    SoeListener::bind("127.0.0.1:0", ListenerConfig::new(config()).shards(257)).await.expect_err("too many");
}

#[tokio::test]
async fn who_looks_for_the_next_datagram_instead_of_sleeping_serves_all_the_same() {
    let busy = SocketConfig::default().busy_poll(Duration::from_millis(1));
    let listener = SoeListener::bind("127.0.0.1:0", ListenerConfig::new(config()).socket(busy.clone())).await;
    let listener = listener.expect("loopback can be bound");
    let connector = SoeConnector::bind_with("127.0.0.1:0", busy).await.expect("loopback can be bound");
    let (client, server) = tokio::join!(connector.connect(listener.local_addr(), config()), incoming(&listener));
    let mut client = client.expect("the listener accepts");
    // The application shares its only thread with both drivers, and gets its turn.
    tokio::spawn(echo(server.accept()));
    for number in 0..100_u8 {
        client.send(vec![number; 700]).await.expect("open");
        assert_eq!(receive(&mut client).await, vec![number; 700]);
    }
    let report = soon("shutdown", listener.shutdown(Duration::from_secs(20))).await;
    assert_eq!((report.clean, report.cut_off), (1, 0), "{report:?}");
}

#[tokio::test]
async fn a_session_that_fills_the_memory_of_all_has_to_go_and_nobody_else() {
    let limit = ListenerConfig::new(config()).memory_limit(2 << 20);
    let listener = SoeListener::bind("127.0.0.1:0", limit).await.expect("loopback can be bound");
    let (mut honest, server) = pair(&listener).await;
    tokio::spawn(echo(server));
    // Neither application reads: the bytes stay with the listener, up to a receive buffer each.
    let (first, held_back) = pair(&listener).await;
    let (second, also_held_back) = pair(&listener).await;
    let fill = |mut session: SoeSession| async move {
        while session.try_send(Message::reliable(vec![7; 60_000])).is_ok() || session.ready().await.is_ok() {
            tokio::task::yield_now().await;
        }
        session.closed().await
    };
    let closed = soon("one of the two has to go", async {
        tokio::select! { closed = fill(first) => closed, closed = fill(second) => closed }
    });
    let closed = closed.await.expect("the runtime lives");
    assert_eq!((closed.reason, closed.origin), (DisconnectReason::ReliableOverflow, Origin::Peer), "{closed}");
    assert!(listener.stats().memory_overflows >= 1, "{:?}", listener.stats());
    honest.send(&b"still here"[..]).await.expect("open");
    assert_eq!(receive(&mut honest).await, &b"still here"[..]);
    // The listener's own application does not take that for a polite end.
    let (ended, closed) = soon("the end of one", async {
        let (one, other) = (held_back, also_held_back);
        let (mut ended, rest) = if one.closed().now_or_never().is_some() { (one, other) } else { (other, one) };
        let closed = ended.closed().await;
        let mut end = None;
        while let Some(next) = ended.recv().await {
            end = next.err();
        }
        drop(rest);
        (end, closed)
    })
    .await;
    assert!(closed.is_some_and(|closed| !closed.is_clean() && closed.origin == Origin::Transport), "{closed:?}");
    assert!(matches!(ended, Some(SessionError::Closed(end)) if end.reason == DisconnectReason::ReliableOverflow));
}

#[tokio::test]
async fn limits_change_while_the_listener_runs() {
    let listener = listen().await;
    let (_first, _first_server) = pair(&listener).await;
    let limits = |sessions| AdmissionConfig::builder(config()).max_sessions(sessions).build().expect("valid");
    listener.set_limits(&limits(1));
    let refused = SoeSession::connect(listener.local_addr(), config()).await;
    let refused = refused.map(|_| ()).expect_err("the listener is full");
    assert!(refused.to_string().contains("refused"), "{refused}");
    assert!(listener.stats().endpoint.admission.over_capacity >= 1);
    listener.set_limits(&limits(2));
    let _second = pair(&listener).await;
}
