//! What a proxy has done so far, for eyes and for scripts.

use std::{fmt::Write, net::SocketAddr};

use serde::Serialize;

use super::ClientId;
use crate::link::LinkCounters;

/// The state of a [`Proxy`](super::Proxy).
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct ProxyStatus {
    /// Seconds since it was started.
    pub seconds: f64,
    /// Its seed.
    pub seed: u64,
    /// Clients that have appeared, the forgotten ones included.
    pub clients_seen: u32,
    /// Those that are there.
    pub clients: Vec<ClientStatus>,
    /// To the server, over all clients, the forgotten ones included.
    pub up: DirectionStatus,
    /// To the clients, over all, the forgotten ones included.
    pub down: DirectionStatus,
    /// Datagrams under way.
    pub held: usize,
    /// Bytes of memory that they take.
    pub held_bytes: usize,
    /// Datagrams of clients beyond those that may be.
    pub ignored: u64,
    /// Datagrams lost because too much was under way, in the proxy or in a socket.
    pub no_room: u64,
}

/// The state of one client.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct ClientStatus {
    /// Its number.
    pub id: ClientId,
    /// Its address.
    pub address: SocketAddr,
    /// Seconds since anything came from either side.
    pub idle_seconds: f64,
    /// How often it has got a new port towards the server.
    pub rebinds: u64,
    /// What happens on the way to the server.
    pub up_link: String,
    /// What happens on the way to the client.
    pub down_link: String,
    /// What has happened on the way to the server.
    pub up: DirectionStatus,
    /// What has happened on the way to the client.
    pub down: DirectionStatus,
}

/// What has happened in one direction.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[non_exhaustive]
pub struct DirectionStatus {
    /// The counts.
    #[serde(flatten)]
    pub counters: LinkCounters,
    /// Datagrams lost for whatever reason.
    pub lost: u64,
    /// The share of datagrams that were lost, 0 to 1.
    pub loss: f64,
}

impl From<LinkCounters> for DirectionStatus {
    fn from(counters: LinkCounters) -> Self {
        Self { counters, lost: counters.lost(), loss: counters.loss() }
    }
}

/// A table with a line for each direction of each client, up to `rows` clients, and a line for all.
pub fn table(status: &ProxyStatus, rows: usize) -> String {
    let mut text = String::new();
    line(&mut text, ["client", "", "datagrams", "lost", "loss", "twice", "damaged", "overtaking", "link"]);
    for client in status.clients.iter().take(rows) {
        let name = format!("{} {}", client.id, client.address);
        direction(&mut text, &name, "up", &client.up, &client.up_link);
        direction(&mut text, "", "down", &client.down, &client.down_link);
    }
    if let Some(more @ 1..) = status.clients.len().checked_sub(rows) {
        line(&mut text, [&format!("and {more} more"), "", "", "", "", "", "", "", ""]);
    }
    direction(&mut text, &format!("all {}", status.clients_seen), "up", &status.up, "");
    direction(&mut text, "", "down", &status.down, "");
    text
}

/// One line about all clients.
pub fn summary_line(status: &ProxyStatus) -> String {
    let [up, down] = [status.up, status.down]
        .map(|side| format!("{} datagrams, {:.2} % lost", side.counters.offered, side.loss * 100.0));
    format!("{:.1} s, {} clients, up {up}, down {down}", status.seconds, status.clients.len())
}

fn direction(text: &mut String, client: &str, name: &str, status: &DirectionStatus, link: &str) {
    let LinkCounters { offered, duplicated, corrupted, reordered, .. } = status.counters;
    let [offered, lost, duplicated, corrupted, reordered] =
        [offered, status.lost, duplicated, corrupted, reordered].map(|count| count.to_string());
    let loss = format!("{:.2} %", status.loss * 100.0);
    line(text, [client, name, &offered, &lost, &loss, &duplicated, &corrupted, &reordered, link]);
}

fn line(text: &mut String, [client, side, offered, lost, loss, twice, damaged, overtaking, link]: [&str; 9]) {
    let columns = format!(
        "{client:<24} {side:<4} {offered:>10} {lost:>9} {loss:>9} {twice:>7} {damaged:>7} {overtaking:>10}  {link}"
    );
    // Writing to a string does not fail.
    let _ = writeln!(text, "{}", columns.trim_end());
}
