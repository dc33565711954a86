//! The proof: starts one login server, three zones and NATS, lets players play, breaks one thing after another, and says what
//! came of it. All traffic stays on loopback.

mod cluster;
mod doubles;
mod player;

use std::time::{Duration, Instant};

use self::{
    cluster::{Cluster, ZONES, nats_server},
    player::{Player, TICK},
};
use crate::Error;

/// How much of everything.
#[derive(Clone, Copy, Debug)]
pub struct Size {
    players: usize,
    /// Tickets that are each used twice.
    tickets: usize,
    /// How long NATS is away.
    outage: Duration,
}

impl Size {
    pub const FULL: Self = Self { players: 300, tickets: 10_000, outage: Duration::from_secs(10) };
    pub const SMOKE: Self = Self { players: 30, tickets: 200, outage: Duration::from_secs(3) };
}

/// The proof while it runs.
struct Proof {
    size: Size,
    cluster: Cluster,
    players: Vec<Player>,
    /// What was found, and whether it is as it should be.
    results: Vec<(bool, String)>,
}

/// Runs everything; false if anything is not as it should be.
pub async fn run(size: Size) -> Result<bool, Error> {
    if nats_server().is_none() {
        println!("not run: nats-server is not installed (Debian: apt-get install nats-server)");
        return Ok(true);
    }
    let start = Instant::now();
    let cluster = Cluster::start().await?;
    let mut proof = Proof { size, cluster, players: Vec::new(), results: Vec::new() };
    // Where nobody plays, nothing else can be shown.
    if proof.join().await? {
        proof.chat("before anything is broken").await;
        proof.moves().await;
        proof.permissions().await?;
        proof.doubles().await?;
        proof.outage().await?;
        proof.chat("after NATS was away").await;
        proof.drain().await?;
        proof.kill().await?;
    }
    let good = proof.results.iter().filter(|(is_good, _)| *is_good).count();
    println!("\n{good} of {} as they should be, in {:.0?}", proof.results.len(), start.elapsed());
    let is_good = good == proof.results.len();
    if !is_good {
        println!("\nthe last that the processes have said:");
        proof.cluster.last_lines(60).iter().for_each(|line| println!("  {line}"));
    }
    Ok(is_good)
}

impl Proof {
    fn found(&mut self, is_good: bool, what: String) {
        println!("{} {what}", if is_good { "ok  " } else { "FAIL" });
        self.results.push((is_good, what));
    }

    /// Everybody logs in and plays.
    async fn join(&mut self) -> Result<bool, Error> {
        let start = Instant::now();
        for number in 0..self.size.players {
            self.players.push(Player::start(format!("p{number}"), self.cluster.login).await?);
        }
        let all = within(Duration::from_secs(30), || self.players.iter().all(Player::is_playing)).await;
        let counts =
            ZONES.map(|zone| self.players.iter().filter(|player| player.see().zone.as_deref() == Some(zone)).count());
        let is_spread = counts.iter().all(|count| *count * 5 > self.size.players);
        let took = start.elapsed();
        self.found(
            all && is_spread,
            format!("{} players play after {took:.1?}, {counts:?} in three zones", self.players.len()),
        );
        Ok(all)
    }

    /// A line that one player of each zone says is heard by everybody.
    async fn chat(&mut self, when: &str) {
        let lines: Vec<String> = ZONES.iter().map(|zone| format!("{when}, from {zone}")).collect();
        for (zone, line) in ZONES.iter().zip(&lines) {
            let speaker = self.players.iter().find(|player| player.see().zone.as_deref() == Some(zone));
            if let Some(speaker) = speaker {
                speaker.say(line.clone());
            }
        }
        let start = Instant::now();
        let heard = |player: &Player| lines.iter().all(|line| player.see().heard.contains(line));
        let all = within(Duration::from_secs(10), || self.players.iter().all(heard)).await;
        let deaf = self.players.iter().filter(|player| !heard(player)).count();
        let took = start.elapsed();
        self.found(all, format!("chat crosses all zones {when}: {deaf} have missed a line, {took:.1?}"));
    }

    /// A third of the players go on to the next zone.
    async fn moves(&mut self) {
        self.players.iter().for_each(Player::begin);
        let movers: Vec<_> =
            self.players.iter().step_by(3).filter_map(|player| Some((player, next_of(player)?))).collect();
        movers.iter().for_each(|(player, to)| player.go_to(to));
        let start = Instant::now();
        let has_moved =
            |(player, to): &(&Player, &str)| player.is_playing() && player.see().zone.as_deref() == Some(to);
        let all = within(Duration::from_secs(20), || movers.iter().all(has_moved)).await;
        let (count, took) = (movers.len(), start.elapsed());
        let (gap, drops, lost) = self.measured();
        let is_good = all && drops == 0 && lost == 0;
        self.found(
            is_good,
            format!(
                "{count} players moved in {took:.1?}: longest pause {gap:.2?}, {drops} dropped, {lost} points lost"
            ),
        );
    }

    /// Nobody may do what another's work is.
    async fn permissions(&mut self) -> Result<(), Error> {
        let bus = self.cluster.bus("z1").await?;
        let zones = bus.bucket(crate::bus::ZONES).await;
        let own = tokio::time::timeout(Duration::from_secs(3), zones.put("z1", "{}".into())).await;
        let others = tokio::time::timeout(Duration::from_secs(3), zones.put("z2", "{}".into())).await;
        let made = bus
            .jetstream
            .create_key_value(async_nats::jetstream::kv::Config { bucket: "mine".into(), ..Default::default() });
        let made = tokio::time::timeout(Duration::from_secs(3), made).await;
        let is_good = matches!(own, Ok(Ok(_))) && !matches!(others, Ok(Ok(_))) && !matches!(made, Ok(Ok(_)));
        self.found(is_good, "a zone announces itself only, and makes no buckets".into());
        Ok(())
    }

    /// Each ticket is presented twice at the same moment.
    async fn doubles(&mut self) -> Result<(), Error> {
        let start = Instant::now();
        let counts = doubles::run(&self.cluster, self.size.tickets).await?;
        let took = start.elapsed();
        let is_good = counts.once == self.size.tickets;
        self.found(is_good, format!("{} tickets presented twice: {counts}, {took:.0?}", self.size.tickets));
        Ok(())
    }

    /// NATS is killed and stays away for a while. Players play on; who wants something of it gets that afterwards.
    async fn outage(&mut self) -> Result<(), Error> {
        within(Duration::from_secs(10), || self.players.iter().all(Player::is_playing)).await;
        self.players.iter().for_each(Player::begin);
        self.cluster.kill_nats().await?;
        tokio::time::sleep(Duration::from_millis(500)).await;
        let movers: Vec<_> =
            self.players.iter().step_by(10).filter_map(|player| Some((player, next_of(player)?))).collect();
        movers.iter().for_each(|(player, to)| player.go_to(to));
        let line = "said while NATS is away";
        if let Some(speaker) = self.players.get(1) {
            speaker.say(line.into());
        }
        let mut newcomers = Vec::new();
        for number in 0..10 {
            newcomers.push(Player::start(format!("late{number}"), self.cluster.login).await?);
        }
        tokio::time::sleep(self.size.outage).await;
        let waiting = newcomers.iter().filter(|player| player.see().zone.is_none()).count();
        let (gap, drops, lost) = self.measured();
        let playing = self.players.iter().filter(|player| player.is_playing()).count();
        let is_good = playing == self.players.len() && drops == 0 && lost == 0 && waiting == newcomers.len();
        let (outage, count) = (self.size.outage, self.players.len());
        let movers: Vec<_> = movers.iter().map(|(player, to)| (player.name.clone(), *to)).collect();
        self.found(is_good, format!(
            "NATS away for {outage:?}: {playing} of {count} play, {drops} dropped, longest pause {gap:.2?}, {waiting} newcomers wait"
        ));
        self.cluster.start_nats().await?;
        let start = Instant::now();
        let arrived = |name: &String, to: &str| {
            self.players
                .iter()
                .any(|player| player.name == *name && player.is_playing() && player.see().zone.as_deref() == Some(to))
        };
        let all = within(Duration::from_secs(30), || {
            newcomers.iter().all(Player::is_playing)
                && movers.iter().all(|(name, to)| arrived(name, to))
                && self.players.iter().all(|player| player.see().heard.contains(line))
        })
        .await;
        let joined = newcomers.iter().filter(|player| player.is_playing()).count();
        let moved = movers.iter().filter(|(name, to)| arrived(name, to)).count();
        let heard = self.players.iter().filter(|player| player.see().heard.contains(line)).count();
        let (took, count) = (start.elapsed(), movers.len());
        let (_, drops, lost) = self.measured();
        self.found(all && drops == 0 && lost == 0, format!(
            "what waited went on within {took:.1?}: {joined} newcomers play, {moved} of {count} moved, {heard} heard the line, {drops} dropped"
        ));
        self.players.append(&mut newcomers);
        Ok(())
    }

    /// A zone is told to end for an update: its players go on, and it ends by itself. Then it comes back.
    async fn drain(&mut self) -> Result<(), Error> {
        self.players.iter().for_each(Player::begin);
        let zone = "z2";
        let count = self.in_zone(zone).len();
        let operator = self.cluster.bus("operator").await?;
        operator.client.publish(format!("zone.{zone}.drain"), "".into()).await?;
        operator.client.flush().await?;
        let start = Instant::now();
        let is_content = self.cluster.ended(zone).await.unwrap_or(false);
        let took = start.elapsed();
        let all = within(Duration::from_secs(10), || {
            self.in_zone(zone).is_empty() && self.players.iter().all(Player::is_playing)
        })
        .await;
        let (gap, drops, lost) = self.measured();
        let is_good = count > 0 && all && is_content && drops == 0 && lost == 0;
        self.found(is_good, format!(
            "zone {zone} drained in {took:.1?}: {count} players went on, longest pause {gap:.2?}, {drops} dropped, {lost} points lost"
        ));
        self.cluster.start_server(zone).await?;
        tokio::time::sleep(Duration::from_secs(1)).await;
        let movers: Vec<_> = self.players.iter().step_by(3).collect();
        movers.iter().for_each(|player| player.go_to(zone));
        let refilled = within(Duration::from_secs(10), || self.in_zone(zone).len() * 4 > self.players.len()).await;
        let count = self.in_zone(zone).len();
        self.found(refilled, format!("the new zone {zone} is found: {count} players have gone there"));
        Ok(())
    }

    /// A zone is killed. Its players are in another within 5 s, and the bucket forgets it.
    async fn kill(&mut self) -> Result<(), Error> {
        within(Duration::from_secs(10), || self.players.iter().all(Player::is_playing)).await;
        self.players.iter().for_each(Player::begin);
        let zone = "z1";
        let victims: Vec<String> = self.in_zone(zone).iter().map(|player| player.name.clone()).collect();
        let start = Instant::now();
        self.cluster.kill(zone).await?;
        let plays_elsewhere = |player: &Player| {
            let is_elsewhere = player.see().zone.as_deref().is_some_and(|now| now != zone);
            is_elsewhere && player.is_playing() && player.see().drops > 0
        };
        let of_victims = |check: &dyn Fn(&Player) -> bool| {
            self.players.iter().filter(|player| victims.contains(&player.name)).filter(|player| check(player)).count()
        };
        within(Duration::from_secs(15), || of_victims(&plays_elsewhere) == victims.len()).await;
        let (took, back) = (start.elapsed(), of_victims(&plays_elsewhere));
        let (gap, _, lost) = self.measured();
        let others = self.players.iter().filter(|player| !victims.contains(&player.name));
        let others_dropped: usize = others.map(|player| player.see().drops).sum();
        let count = victims.len();
        // The record is written once a second, and a write may be under way.
        let at_most = count as u64 * (Duration::from_secs(2).as_millis() / TICK.as_millis()) as u64;
        let is_quick = took < Duration::from_secs(5);
        let is_good = count > 0 && back == count && is_quick && others_dropped == 0 && lost <= at_most;
        self.found(is_good, format!(
            "zone {zone} killed: {back} of {count} play elsewhere after {took:.1?}, longest pause {gap:.2?}, {lost} points lost, {others_dropped} others dropped"
        ));
        let said = format!("zone {zone} has vanished");
        let has_vanished = within(Duration::from_secs(5), || self.cluster.has_said("login", &said)).await;
        self.found(has_vanished, format!("the login server has seen {zone} vanish by its bucket"));
        Ok(())
    }

    fn in_zone(&self, zone: &str) -> Vec<&Player> {
        self.players.iter().filter(|player| player.see().zone.as_deref() == Some(zone)).collect()
    }

    /// The longest pause of all players, how often one was dropped, and the points that zones have forgotten.
    fn measured(&self) -> (Duration, usize, u64) {
        self.players.iter().fold(Default::default(), |(gap, drops, lost), player| {
            let seen = player.see();
            (seen.longest_gap.max(gap), drops + seen.drops, lost + seen.lost_points)
        })
    }
}

/// Where a player is sent to: the zone after its own.
fn next_of(player: &Player) -> Option<&'static str> {
    let zone = player.see().zone.clone()?;
    let own = ZONES.iter().position(|known| **known == *zone)?;
    Some(ZONES[(own + 1) % ZONES.len()])
}

/// Waits until something holds, for so long at most; whether it does.
async fn within(most: Duration, holds: impl Fn() -> bool) -> bool {
    let until = async {
        while !holds() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(most, until).await.is_ok()
}
