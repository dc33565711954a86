//! Sends messages to an echo server and verifies every byte that comes back.

mod common;

use std::{collections::VecDeque, error::Error, process::ExitCode, time::Duration};

use common::{Args, ChannelName, pattern};
use soe_tokio::{Channel, DisconnectReason, Message, RecvHalf, ReliableChannel, SendHalf, SessionConfig, SoeSession};
use tokio::time::{Instant, sleep_until};

const USAGE: &str = "\
Sends N messages to an echo server, cycling through the sizes, and verifies every byte that comes back.

usage: echo_client --connect ADDR --protocol NAME [options]

  --connect ADDR      the server, such as localhost:20060
  --protocol NAME     the application protocol name to ask for; dialects without names need none
  --key HEX           encrypt and decrypt reliable messages with RC4 under this key
  --sizes A,B,...     message sizes in bytes (default 1,506,507,50000)
  --count N           how many messages in all (default 100)
  --in-flight N       how many may be without their echo at a time (default 8)
  --channel C         0 to 3, or unreliable (default 0)
  --dialect NAME      the game family (default version3)
  --udp-length N      take datagrams of up to N bytes, 64 to 8192

An unreliable message counts as lost when its echo is not there after a second. Those that no datagram can carry travel
on reliable channel 0, as the transport has it.

exit codes: 0 if every message came back right; on the unreliable channel, if at least one did and none was wrong.
            1 otherwise, or if there was no session. 2 for wrong arguments";

/// When an unreliable message counts as lost.
const LOST_AFTER: Duration = Duration::from_secs(1);
/// When a server that echoes nothing at all on a reliable channel is given up.
const PATIENCE: Duration = Duration::from_secs(30);

struct Plan {
    sizes: Vec<usize>,
    count: u64,
    in_flight: usize,
    channel: Channel,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let options = ["connect", "protocol", "key", "sizes", "count", "in-flight", "channel", "dialect", "udp-length"];
    let args = Args::parse(USAGE, &options, &[]);
    let (address, key, config) = (args.required::<String>("connect"), args.key(), args.session_config());
    let plan = plan(&args, &config);
    match run(&address, config, key.as_deref(), &plan).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {}", common::explain(&*error));
            ExitCode::FAILURE
        }
    }
}

fn plan(args: &Args, config: &SessionConfig) -> Plan {
    let sizes: Result<Vec<usize>, _> =
        args.text("sizes").unwrap_or("1,506,507,50000").split(',').map(str::parse).collect();
    let sizes = sizes.unwrap_or_else(|error| args.refuse(format!("--sizes: {error}")));
    let limit = config.max_message_size;
    if let Some(size) = sizes.iter().find(|size| !(1..=limit).contains(*size)) {
        args.refuse(format!("--sizes: a message has 1 to {limit} bytes, not {size}"));
    }
    let count = args.optional("count").unwrap_or(100);
    let in_flight = args.optional("in-flight").unwrap_or(8);
    if count == 0 || in_flight == 0 {
        args.refuse("--count and --in-flight are 1 or more");
    }
    let channel = args.optional("channel").map_or_else(Channel::default, |ChannelName(channel)| channel);
    Plan { sizes, count, in_flight, channel }
}

async fn run(address: &str, config: SessionConfig, key: Option<&[u8]>, plan: &Plan) -> Result<(), Box<dyn Error>> {
    let mut session = SoeSession::connect(address, config).await?;
    session.set_send_key(key)?;
    session.set_recv_key(key)?;
    let (send, recv) = session.split();
    let start = Instant::now();
    let mut tally = Tally::default();
    let outcome = tally.exchange(plan, send, recv).await;
    if let Err(error) = outcome {
        return Err(format!("{error} (after {} of {} messages came back)", tally.round_trips.len(), plan.count).into());
    }
    tally.report(plan, start.elapsed());
    if tally.round_trips.is_empty() { Err("every message was lost".into()) } else { Ok(()) }
}

struct Sent {
    payload: Vec<u8>,
    at: Instant,
}

#[derive(Default)]
struct Tally {
    /// Without their echo, the oldest first.
    waiting: VecDeque<Sent>,
    /// Unreliable messages that have been given up, which may still come.
    lost: VecDeque<Sent>,
    round_trips: Vec<Duration>,
    bytes: usize,
}

impl Tally {
    async fn exchange(&mut self, plan: &Plan, mut send: SendHalf, mut recv: RecvHalf) -> Result<(), Box<dyn Error>> {
        let mut sent = 0;
        while sent < plan.count || !self.waiting.is_empty() {
            let may_send = sent < plan.count && self.waiting.len() < plan.in_flight;
            let patience = if plan.channel.is_reliable() { PATIENCE } else { LOST_AFTER };
            let give_up = self.waiting.front().map_or_else(Instant::now, |oldest| oldest.at) + patience;
            // Sending and receiving must not wait for each other: a server that cannot send does not read either.
            tokio::select! {
                message = recv.recv() => match message {
                    Some(message) => self.take(message?, plan.channel)?,
                    None => return Err(recv.closed().await.map_or_else(|| "the runtime has ended".into(), Into::into)),
                },
                room = send.ready(), if may_send => {
                    room?;
                    let payload = pattern(sent, plan.sizes[(sent % plan.sizes.len() as u64) as usize]);
                    self.waiting.push_back(Sent { payload: payload.clone(), at: Instant::now() });
                    send.try_send(Message::new(plan.channel, payload))?;
                    sent += 1;
                }
                () = sleep_until(give_up), if !self.waiting.is_empty() => {
                    if plan.channel.is_reliable() {
                        return Err(format!("no echo for {} s", PATIENCE.as_secs()).into());
                    }
                    self.lost.extend(self.waiting.pop_front());
                }
            }
        }
        send.close(DisconnectReason::Application).await;
        Ok(())
    }

    /// Verifies an echo: on a reliable channel it must be that of the oldest message, on the unreliable one of any.
    fn take(&mut self, message: Message, channel: Channel) -> Result<(), String> {
        let promoted = !channel.is_reliable() && message.channel == ReliableChannel::ZERO.into();
        if message.channel != channel && !promoted {
            return Err(format!("a message on {channel} came back on {}", message.channel));
        }
        let is_echo = |sent: &Sent| sent.payload == message.payload;
        let candidates = if channel.is_reliable() { 1 } else { self.waiting.len() };
        let sent = match self.waiting.iter().take(candidates).position(is_echo) {
            Some(index) => self.waiting.remove(index),
            None => self.lost.iter().position(is_echo).and_then(|index| self.lost.remove(index)),
        };
        let Some(sent) = sent else { return Err(self.difference(&message.payload)) };
        self.round_trips.push(sent.at.elapsed());
        self.bytes += message.payload.len();
        Ok(())
    }

    fn difference(&self, payload: &[u8]) -> String {
        let Some(expected) = self.waiting.front() else { return "a message came that was not sent".to_owned() };
        let (got, size) = (payload.len(), expected.payload.len());
        let at = expected.payload.iter().zip(payload).take_while(|(a, b)| a == b).count();
        format!("a message of {size} bytes came back as {got} bytes, of which the first {at} are right")
    }

    fn report(&self, plan: &Plan, elapsed: Duration) {
        let millis = |duration: Option<Duration>| duration.unwrap_or_default().as_secs_f64() * 1e3;
        let all = &self.round_trips;
        let average = all.iter().sum::<Duration>().checked_div(all.len() as u32);
        let (min, average, max) =
            (millis(all.iter().min().copied()), millis(average), millis(all.iter().max().copied()));
        let lost = if plan.channel.is_reliable() { String::new() } else { format!(", lost {}", self.lost.len()) };
        let (messages, bytes, seconds) = (all.len(), self.bytes, elapsed.as_secs_f64());
        println!(
            "ok {messages} messages, {bytes} bytes, rtt min/avg/max {min:.3}/{average:.3}/{max:.3} ms, {seconds:.3} s{lost}"
        );
    }
}
