//! What it came to.

use std::time::Duration;

use soe_tokio::{SessionStats, SocketStats};

use crate::player::Outcome;

pub(crate) fn print(players: &Outcome, servers: &[(SocketStats, Vec<SessionStats>)], count: u32, elapsed: Duration) {
    let row = |what: &str, messages: u64, bytes: u64, lost: String| {
        println!("{what:<32} {messages:>10} {:>13} {lost:>12}", format!("{:.1} MB", bytes as f64 / 1e6));
    };
    println!("\n{:<32} {:>10} {:>13} {:>12}", "received by players", "messages", "bytes", "lost");
    row("chat   reliable 0, RC4", players.lines, players.line_bytes, "0".into());
    row("maps   reliable 1, plain", players.maps, players.map_bytes, "0".into());
    let lost = players.moves_sent.saturating_sub(players.moves);
    let share = 100.0 * lost as f64 / players.moves_sent.max(1) as f64;
    row("moves  unreliable", players.moves, players.move_bytes, format!("{lost} ({share:.2} %)"));

    let times = &players.round_trips;
    let millis = |time: Option<&Duration>| time.map_or(0.0, |time| time.as_secs_f64() * 1e3);
    let average = times.iter().sum::<Duration>().checked_div(times.len() as u32);
    println!(
        "\nround trip of a line   min {:.2} ms, avg {:.2} ms, p99 {:.2} ms",
        millis(times.first()),
        millis(average.as_ref()),
        millis(times.get(times.len() * 99 / 100))
    );
    let sockets: Vec<&SocketStats> = players.sockets.iter().chain(servers.iter().map(|(socket, _)| socket)).collect();
    let sent: u64 = sockets.iter().map(|socket| socket.datagrams_sent).sum();
    let bytes: u64 = sockets.iter().map(|socket| socket.bytes_sent).sum();
    println!("datagrams              {sent} sent by both sides, {} bytes each on average", bytes / sent.max(1));
    let sessions = || players.sessions.iter().chain(servers.iter().flat_map(|(_, sessions)| sessions));
    let packets: u64 = sessions().map(|session| session.reliable_sent).sum();
    let gaps: u64 = sessions().map(|session| session.resent_lost).sum();
    let timeouts: u64 = sessions().map(|session| session.resent_timeout).sum();
    println!("resends                {gaps} after a gap, {timeouts} after a time-out, of {packets} reliable packets");
    let messages: u64 = sessions().map(|session| session.messages_sent + session.messages_received).sum();
    match cpu_time() {
        Some(cpu) => println!(
            "processor              {:.2} s in {:.1} s for both sides, {:.1} us for each of {messages} messages in or out",
            cpu.as_secs_f64(),
            elapsed.as_secs_f64(),
            cpu.as_secs_f64() * 1e6 / messages.max(1) as f64
        ),
        None => println!("processor              unknown on this system; took {:.1} s", elapsed.as_secs_f64()),
    }
    println!("\nok: {count} players logged in and joined; nothing reliable was lost, doubled, out of order or wrong");
}

/// Processor time of this process, user and system, as Linux tells it.
fn cpu_time() -> Option<Duration> {
    let tasks = std::fs::read_dir("/proc/self/task").ok()?;
    let of_task = |path: std::path::PathBuf| {
        let text = std::fs::read_to_string(path.join("schedstat")).ok()?;
        text.split_whitespace().next()?.parse::<u64>().ok()
    };
    Some(Duration::from_nanos(tasks.flatten().filter_map(|task| of_task(task.path())).sum()))
}
