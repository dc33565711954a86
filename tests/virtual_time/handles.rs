//! What others than a session's owner do with it: handles, broadcasts, events, data beside it.

use std::{collections::HashMap, future::poll_fn, time::Duration};

use bytes::BytesMut;
use futures_util::{SinkExt, StreamExt};
use soe_testing::{LinkProfile, Network};
use soe_tokio::{
    Channel, DisconnectReason, Message, ReliableChannel, SendError, SessionConfig, SessionError, SessionEvent,
    SessionHandle, SlowReceiver, SoeSession, broadcast,
};
use tokio::time::{Instant, timeout};
use tokio_util::codec::Encoder;

use crate::support::{CLIENT, SERVER, client, config, connector, listen, pair, receive};

/// A session whose send buffers take little.
fn narrow() -> SessionConfig {
    let config = SessionConfig::builder("Simulated").send_buffer(2_000).send_window_bytes(2_048);
    config.build().expect("in range")
}

#[tokio::test(start_paused = true)]
async fn a_handle_sends_and_kicks_without_owning_the_session() {
    let network = Network::new(1);
    let (listener, connector) = (listen(&network, config()), connector(&network, CLIENT));
    let (mut client, server) = pair(&listener, &connector).await;
    let handle = server.handle();
    handle.send(b"one").await.expect("open");
    handle.clone().try_send("two").expect("open");
    let delivered = handle.send_with_receipt([3; 3]).await.expect("open");
    delivered.await.expect("the peer has it");
    for expected in [&b"one"[..], b"two", &[3; 3]] {
        assert_eq!(receive(&mut client).await, expected);
    }
    assert_eq!(handle.peer_addr(), CLIENT);
    assert_eq!(handle.session_id(), server.session_id());
    assert!(handle.stats().messages_sent >= 3);
    handle.kick(DisconnectReason::ConnectionRefused);
    assert!(client.recv().await.expect("an end with a reason that is none of an application").is_err());
    assert_eq!(handle.closed().await.expect("served").reason, DisconnectReason::ConnectionRefused);
    assert!(handle.is_closed() && server.is_closed());
}

#[tokio::test(start_paused = true)]
async fn a_session_closes_with_its_owner_whatever_handles_there_are() {
    let network = Network::new(1);
    let (listener, connector) = (listen(&network, config()), connector(&network, CLIENT));
    let (mut client, server) = pair(&listener, &connector).await;
    let handle = server.handle();
    let (send, recv) = server.split();
    assert_eq!((send.handle(), recv.id()), (handle.clone(), handle.id()));
    drop(send);
    assert!(!handle.is_closed());
    drop(recv);
    assert!(client.recv().await.is_none());
    let error = handle.send("too late").await.expect_err("the session is over");
    assert!(error.is_clean_close() && error.reason() == Some(DisconnectReason::Application), "{error}");
    assert!(matches!(handle.try_send("too late"), Err(SendError::Closed(_))));
}

#[tokio::test(start_paused = true)]
async fn many_tasks_wait_for_room_through_handles_and_all_get_it() {
    let network = Network::new(1);
    let (listener, connector) = (listen(&network, narrow()), connector(&network, CLIENT));
    let (mut client, mut server) = pair(&listener, &connector).await;
    let senders = (0..20_u8).map(|number| {
        let handle = server.handle();
        tokio::spawn(async move {
            for _ in 0..10 {
                handle.send(vec![number; 900]).await.expect("open");
            }
        })
    });
    let senders: Vec<_> = senders.collect();
    server.send(vec![99; 900]).await.expect("the owner waits beside them");
    let mut received = HashMap::new();
    for _ in 0..201 {
        let message = timeout(Duration::from_secs(60), receive(&mut client)).await.expect("nobody is forgotten");
        *received.entry(message[0]).or_insert(0) += 1;
    }
    assert_eq!((received.len(), received[&7], received[&99]), (21, 10, 1));
    for sender in senders {
        sender.await.expect("it has sent everything");
    }
}

#[tokio::test(start_paused = true)]
async fn an_unreliable_message_waits_for_no_reliable_channel() {
    let network = Network::new(1);
    let (listener, connector) = (listen(&network, narrow()), connector(&network, CLIENT));
    let (_unread, mut server) = pair(&listener, &connector).await;
    // The peer's application does not read: this channel stays full.
    let mut refused_in_a_row = 0;
    while refused_in_a_row < 3 {
        match server.try_send(Message::new(ReliableChannel::ONE, vec![1; 900])) {
            Ok(()) => refused_in_a_row = 0,
            Err(_) => {
                refused_in_a_row += 1;
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
        }
    }
    let sending = async {
        for _ in 0..500 {
            server.send(Message::new(Channel::Unreliable, vec![2; 400])).await.expect("open");
        }
    };
    timeout(Duration::from_secs(60), sending).await.expect("they wait for room of their own");
}

#[tokio::test(start_paused = true)]
async fn a_sender_that_waits_for_room_learns_of_the_end() {
    let network = Network::new(1);
    let (listener, connector) = (listen(&network, narrow()), connector(&network, CLIENT));
    let (client, server) = pair(&listener, &connector).await;
    network.unplug(CLIENT);
    let handle = server.handle();
    while handle.try_send(vec![1; 900]).is_ok() {
        tokio::task::yield_now().await;
    }
    let waits = tokio::spawn({
        let handle = handle.clone();
        async move { handle.send(vec![1; 900]).await }
    });
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert!(!waits.is_finished());
    handle.abort(DisconnectReason::Application, false);
    assert!(matches!(waits.await.expect("no panic"), Err(SessionError::Closed(_))));
    drop(client);
}

#[tokio::test(start_paused = true)]
async fn a_listener_lists_the_sessions_that_are_accepted_and_open() {
    let network = Network::new(1);
    let listener = listen(&network, config());
    let mut sessions = Vec::new();
    for number in 0..3 {
        let connector = connector(&network, client(number));
        sessions.push((pair(&listener, &connector).await, connector));
    }
    let waiting = connector(&network, client(3)).connect(SERVER, config()).await.expect("the backlog has room");
    let listed: Vec<_> = listener.sessions().map(|session| session.id()).collect();
    let mut accepted: Vec<_> = sessions.iter().map(|((_, server), _)| server.id()).collect();
    assert_eq!(listed.len(), 3, "the one that waits is not listed");
    accepted.retain(|id| !listed.contains(id));
    assert!(accepted.is_empty());
    let ((_client, server), _) = sessions.remove(1);
    let gone = server.id();
    drop(server);
    assert!(listener.sessions().all(|session| session.id() != gone));
    assert_eq!(listener.sessions().count(), 2);
    drop(waiting);
}

#[tokio::test(start_paused = true)]
async fn an_id_stays_when_the_peer_moves_and_is_no_other_sessions() {
    let network = Network::new(1);
    let (listener, connector) = (listen(&network, config()), connector(&network, CLIENT));
    let (mut client, mut server) = pair(&listener, &connector).await;
    let id = server.id();
    client.send("before").await.expect("open");
    receive(&mut server).await;
    let moved = std::net::SocketAddr::new(CLIENT.ip(), 50505);
    network.rebind(CLIENT, moved);
    let mut events = server.handle().events();
    client.send("after").await.expect("open");
    receive(&mut server).await;
    assert_eq!(events.next().await, Some(SessionEvent::Remapped { from: CLIENT, to: moved }));
    assert_eq!((server.id(), server.peer_addr()), (id, moved));
    assert_ne!(client.id(), id);
    client.close(DisconnectReason::Application).await;
    assert_eq!(events.next().await, None);
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_does_not_read_is_an_event_on_the_half_that_sends() {
    let network = Network::new(1);
    let config = SessionConfig::builder("Simulated").recv_buffer(1_000).recv_window(256).build().expect("in range");
    let (listener, connector) = (listen(&network, config.clone()), connector(&network, CLIENT));
    let (client, server) = tokio::join!(connector.connect(SERVER, config), listener.accept());
    let (_client, server) = (client.expect("open"), server.expect("open").accept());
    let (mut send, _recv) = server.split();
    // More than the peer's transport holds beside what its application has not read.
    for _ in 0..1_500 {
        send.send(vec![1; 400]).await.expect("open");
    }
    let event = timeout(Duration::from_secs(300), send.next_event()).await.expect("it is told");
    assert!(matches!(event, Some(SessionEvent::PeerNotReading(_))), "{event:?}");
    assert!(send.undelivered().messages > 0);
}

#[tokio::test(start_paused = true)]
async fn receiving_and_waiting_for_the_end_go_side_by_side() {
    let network = Network::new(1);
    let (listener, connector) = (listen(&network, config()), connector(&network, CLIENT));
    let (mut client, mut server) = pair(&listener, &connector).await;
    client.send("hello").await.expect("open");
    drop(client);
    let mut closed = std::pin::pin!(server.closed());
    let mut heard = 0;
    let end = loop {
        tokio::select! {
            biased;
            Some(Ok(_)) = server.recv() => heard += 1,
            end = &mut closed => break end,
        }
    };
    assert_eq!(heard, 1);
    assert!(end.expect("served").is_clean());
}

#[tokio::test(start_paused = true)]
async fn data_of_the_application_is_found_through_every_hold_of_the_session() {
    let network = Network::new(1);
    let (listener, connector) = (listen(&network, config()), connector(&network, CLIENT));
    let (_client, server) = pair(&listener, &connector).await;
    let handle = server.handle();
    assert!(handle.data::<String>().is_none());
    handle.set_data(String::from("Ann"));
    let (send, recv) = server.split();
    assert_eq!(send.data::<String>().as_deref().map(String::as_str), Some("Ann"));
    assert!(recv.data::<u32>().is_none(), "of another type");
    recv.set_data(7_u32);
    assert_eq!(handle.data::<u32>().as_deref(), Some(&7));
}

#[tokio::test(start_paused = true)]
async fn a_broadcast_says_who_got_it_and_who_was_slow_or_gone() {
    let network = Network::new(1);
    let listener = listen(&network, narrow());
    let mut pairs = Vec::new();
    for number in 0..3 {
        let connector = connector(&network, client(number));
        pairs.push((pair(&listener, &connector).await, connector));
    }
    let handles: Vec<_> = pairs.iter().map(|((_, server), _)| server.handle()).collect();
    network.unplug(client(1));
    while handles[1].try_send(vec![1; 900]).is_ok() {
        tokio::task::yield_now().await;
    }
    let ((_, server), _) = pairs.pop().expect("three");
    drop(server);
    let report = broadcast(&handles, "news", SlowReceiver::Skip);
    assert_eq!((report.sent, &report.skipped[..], &report.ended[..]), (1, &handles[1..2], &handles[2..]));
    assert_eq!(receive(&mut pairs[0].0.0).await, b"news");
    let report = broadcast(&handles[..2], "news", SlowReceiver::Close(DisconnectReason::ReliableOverflow));
    assert_eq!((report.sent, &report.closed[..]), (1, &handles[1..2]));
    assert_eq!(broadcast(&handles[1..2], "news", SlowReceiver::Skip).ended.len(), 1, "it takes nothing more");
    assert_eq!(handles[1].closed().await.expect("served").reason, DisconnectReason::ReliableOverflow);
    assert!(!handles[0].is_closed());
    assert_eq!(broadcast(&handles[..1], "", SlowReceiver::Skip).refused, 1);
}

#[tokio::test(start_paused = true)]
async fn a_slow_receiver_gets_the_newest_of_what_may_be_lost() {
    let network = Network::new(1);
    let (listener, connector) = (listen(&network, narrow()), connector(&network, CLIENT));
    let (mut client, server) = pair(&listener, &connector).await;
    let handles = [server.handle()];
    let mut dropped = 0;
    // Nobody sends in between: the driver has no turn.
    for number in 0..50_u8 {
        let message = Message::new(Channel::Unreliable, vec![number; 400]);
        let report = broadcast(&handles, message, SlowReceiver::DropOldest);
        assert_eq!(report.sent, 1);
        dropped += report.dropped;
    }
    assert!(dropped > 40, "{dropped}");
    let mut last = 0;
    while last < 49 {
        last = receive(&mut client).await[0];
        assert!(last > 40, "{last}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_ping_is_the_links_and_not_that_of_acknowledgements() {
    let network = Network::new(1);
    network.link(LinkProfile::lossless().delay(Duration::from_millis(20)));
    let config = SessionConfig::builder("Simulated").net_status_interval(Duration::from_secs(1)).build();
    let config = config.expect("in range");
    let (listener, connector) = (listen(&network, config.clone()), connector(&network, CLIENT));
    let (client, server) = tokio::join!(connector.connect(SERVER, config), listener.accept());
    let (client, server) = (client.expect("open"), server.expect("open").accept());
    tokio::time::sleep(Duration::from_millis(3_500)).await;
    let ping = client.ping().expect("three exchanges");
    assert!((40..=42).contains(&ping.as_millis()), "{ping:?}");
    assert_eq!(server.handle().ping(), Some(ping), "as the client reports it");
}

#[tokio::test(start_paused = true)]
async fn a_listener_that_stops_accepting_serves_who_is_there_until_it_is_idle() {
    let network = Network::new(1);
    let (listener, first) = (listen(&network, config()), connector(&network, CLIENT));
    let (mut client, mut server) = pair(&listener, &first).await;
    listener.stop_accepting();
    assert!(listener.accept().await.is_none());
    let refused = connector(&network, crate::support::client(1)).connect(SERVER, config()).await;
    assert!(refused.is_err_and(|error| error.is_refused()));
    client.send("still there?").await.expect("open");
    assert_eq!(receive(&mut server).await, b"still there?");
    assert!(timeout(Duration::from_secs(60), listener.wait_idle()).await.is_err(), "somebody is there");
    let start = Instant::now();
    drop(client);
    assert!(server.recv().await.is_none());
    drop(server);
    listener.wait_idle().await;
    assert!(start.elapsed() < Duration::from_secs(10), "{:?}", start.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_polite_close_is_told_once_and_as_what_it_is() {
    let network = Network::new(1);
    let (listener, connector) = (listen(&network, config()), connector(&network, CLIENT));
    let (client, mut server) = pair(&listener, &connector).await;
    client.close(DisconnectReason::Application).await;
    assert!(server.recv().await.is_none(), "no error to who receives");
    let error = server.send("too late").await.expect_err("the session is over");
    assert!(error.is_clean_close() && !error.is_timeout() && !error.is_refused());
    assert_eq!(error.to_string(), "session closed by the peer: ended by the application");
    assert!(std::error::Error::source(&error).is_none(), "it is all in the text");
    assert_eq!(std::io::Error::from(error).kind(), std::io::ErrorKind::BrokenPipe);
}

#[tokio::test(start_paused = true)]
async fn a_shutdown_tells_the_reason_that_it_was_given() {
    let network = Network::new(1);
    let (listener, connector) = (listen(&network, config()), connector(&network, CLIENT));
    let (client, _server) = pair(&listener, &connector).await;
    let report = listener.shutdown_with(DisconnectReason::ManagerDeleted, Duration::from_secs(5)).await;
    assert_eq!((report.clean, report.cut_off), (1, 0));
    assert_eq!(client.closed().await.expect("served").reason, DisconnectReason::ManagerDeleted);
}

#[test]
fn a_socket_outside_of_a_runtime_is_an_error_that_says_so() {
    let socket = || std::net::UdpSocket::bind("127.0.0.1:0").expect("a port is free");
    let listener = soe_tokio::SoeListener::from_std(socket(), config());
    assert!(listener.is_err_and(|error| error.to_string().contains("Tokio runtime")));
    let connector = soe_tokio::SoeConnector::from_std(socket(), Default::default());
    assert!(matches!(connector, Err(soe_tokio::BindError::NoRuntime)));
}

/// Fills the send buffer of channel 0 whenever an item is encoded.
struct Crowding(SessionHandle);

impl Encoder<Vec<u8>> for Crowding {
    type Error = std::io::Error;

    fn encode(&mut self, item: Vec<u8>, out: &mut BytesMut) -> Result<(), Self::Error> {
        fill(&self.0);
        out.extend_from_slice(&item);
        Ok(())
    }
}

fn fill(handle: &SessionHandle) {
    while handle.try_send(vec![1; 900]).is_ok() {}
}

/// Expects the messages of the owner among those of its handles, in order.
async fn expect_owned(peer: &mut SoeSession, count: u8) {
    let (mut next, mut others) = (0, 0);
    while next < count {
        let message = timeout(Duration::from_secs(60), receive(peer)).await.expect("none is lost");
        if message[0] == 2 {
            assert_eq!(message[1], next);
            next += 1;
        } else {
            others += 1;
            assert!(others < 50_000, "only handles get room");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn room_that_the_owner_was_promised_is_there_though_handles_fill_the_buffer_before_it_sends() {
    let network = Network::new(1);
    let (listener, connector) = (listen(&network, narrow()), connector(&network, CLIENT));
    let (mut client, mut server) = pair(&listener, &connector).await;
    let sending = tokio::spawn(async move {
        let handle = server.handle();
        for number in 0..100 {
            server.ready().await.expect("open");
            fill(&handle);
            server.try_send(vec![2, number]).expect("promised");
            let error = server.try_send(vec![2, number]).expect_err("one message was promised");
            assert!(matches!(error, SendError::Blocked(_)), "{error}");
        }
        for number in 100..200 {
            poll_fn(|cx| server.poll_ready_unpin(cx)).await.expect("open");
            fill(&handle);
            server.start_send_unpin(vec![2, number].into()).expect("promised");
            server.flush().await.expect("open");
        }
        server
    });
    expect_owned(&mut client, 200).await;
    sending.await.expect("no panic");
}

#[tokio::test(start_paused = true)]
async fn no_item_of_a_codec_is_lost_where_handles_fill_the_buffer_while_it_is_encoded() {
    let network = Network::new(1);
    let (listener, connector) = (listen(&network, narrow()), connector(&network, CLIENT));
    let (mut client, server) = pair(&listener, &connector).await;
    let sending = tokio::spawn(async move {
        let codec = Crowding(server.handle());
        let mut sink = server.framed(codec);
        for number in 0..100 {
            sink.send_on(ReliableChannel::ZERO, vec![2, number]).await.expect("it waits for room");
        }
        for number in 100..200 {
            sink.send(vec![2, number]).await.expect("it waits for room");
        }
        sink
    });
    expect_owned(&mut client, 200).await;
    sending.await.expect("no panic");
}

#[tokio::test(start_paused = true)]
async fn the_owner_gets_room_beside_handles_that_always_want_it() {
    let network = Network::new(1);
    let (listener, connector) = (listen(&network, narrow()), connector(&network, CLIENT));
    let (mut client, mut server) = pair(&listener, &connector).await;
    for _ in 0..3 {
        let handle = server.handle();
        tokio::spawn(async move { while handle.send(vec![1; 900]).await.is_ok() {} });
    }
    let sending = tokio::spawn(async move {
        for number in 0..200 {
            server.ready().await.expect("open");
            server.try_send(vec![2, number]).expect("promised");
        }
        server
    });
    expect_owned(&mut client, 200).await;
    sending.await.expect("no panic");
}

#[tokio::test(start_paused = true)]
async fn everybody_who_sends_gets_a_turn_beside_tasks_that_always_want_one() {
    const EACH: usize = 100;
    let network = Network::new(1);
    network.link(LinkProfile::lossless().delay(Duration::from_millis(5)));
    let (listener, connector) = (listen(&network, narrow()), connector(&network, CLIENT));
    let (mut client, mut server) = pair(&listener, &connector).await;
    let message = |from: u8| vec![from; 300];
    for _ in 0..3 {
        let handle = server.handle();
        tokio::spawn(async move { while handle.send(message(1)).await.is_ok() {} });
    }
    let handle = server.handle();
    let other = tokio::spawn(async move {
        for _ in 0..EACH / 2 {
            handle.send(message(2)).await.expect("open");
            drop(handle.send_with_receipt(message(2)).await.expect("open"));
        }
    });
    let owner = tokio::spawn(async move {
        for _ in 0..EACH / 2 {
            server.send(message(3)).await.expect("open");
            drop(server.send_with_receipt(message(3)).await.expect("open"));
        }
        server
    });
    let mut counts = [0; 4];
    let everything = async {
        while counts[2] < EACH || counts[3] < EACH {
            counts[usize::from(receive(&mut client).await[0])] += 1;
        }
    };
    let in_time = timeout(Duration::from_secs(60), everything).await;
    assert!(in_time.is_ok(), "{counts:?} messages of each kind within a minute");
    other.await.expect("no panic");
    owner.await.expect("no panic");
    assert!(counts[1] < 20 * EACH, "each of five senders waits its turn: {counts:?}");
}

#[tokio::test(start_paused = true)]
async fn a_flush_ends_with_what_was_queued_before_it_whatever_other_tasks_go_on_sending() {
    const DELAY: Duration = Duration::from_millis(20);
    let network = Network::new(1);
    network.link(LinkProfile::lossless().delay(DELAY));
    let (listener, connector) = (listen(&network, config()), connector(&network, CLIENT));
    let slow = SessionConfig::builder("Simulated").send_buffer(10_000).send_window_bytes(8_192).build();
    let (client, incoming) = tokio::join!(connector.connect(SERVER, slow.expect("in range")), listener.accept());
    let (mut client, mut server) = (client.expect("the server answers"), incoming.expect("it is open").accept());
    let channels = [ReliableChannel::ZERO.into(), ReliableChannel::TWO.into(), Channel::Unreliable];
    for channel in channels {
        let handle = client.handle();
        tokio::spawn(async move {
            while handle.send(Message::new(channel, vec![1; 400])).await.is_ok() {
                if !channel.is_reliable() {
                    // Nothing else slows it down.
                    tokio::time::sleep(Duration::from_millis(1)).await;
                }
            }
        });
    }
    let (told, mut marks) = tokio::sync::mpsc::unbounded_channel();
    tokio::spawn(async move {
        while let Some(Ok(message)) = server.recv().await {
            if message.payload[0] == 2 {
                told.send((message.channel, message.payload[1])).expect("the test goes on");
            }
        }
    });
    for round in 0..20 {
        tokio::time::sleep(Duration::from_millis(70)).await;
        for channel in channels {
            timeout(Duration::from_secs(5), client.ready()).await.expect("others leave it room").expect("open");
            client.try_send(Message::new(channel, vec![2, round])).expect("promised");
        }
        timeout(Duration::from_secs(5), client.flushed())
            .await
            .expect("what comes later is not waited for")
            .expect("open");
        // They have left: they arrive after the delay of the link, and have not been overtaken by a queue.
        tokio::time::sleep(DELAY + Duration::from_millis(1)).await;
        let mut arrived: Vec<_> = std::iter::from_fn(|| marks.try_recv().ok()).collect();
        arrived.sort_by_key(|(channel, _)| channels.iter().position(|there| there == channel));
        assert_eq!(arrived, channels.map(|channel| (channel, round)));
    }
}
