//! Configurations of sockets and listeners from files (feature `serde`). Errors name the knob.

use std::{fmt, time::Duration};

use ipnet::IpNet;
use serde::{
    Deserialize, Deserializer,
    de::{self, MapAccess, Visitor},
};
use soe_core::{AdmissionConfig, SessionConfig};

use super::{
    BusyPoll, ListenerConfig, SocketConfig,
    proxy::{ProxyConfig, ProxyHeader},
};

struct ListenerKnobs;

impl<'de> Deserialize<'de> for ListenerConfig {
    /// Reads a map. Either `admission` or `session` must be there: a whole [`AdmissionConfig`], or its session alone. `socket`,
    /// `shards`, `memory_limit` and `proxy` keep their defaults if they are left out.
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(ListenerKnobs)
    }
}

impl<'de> Visitor<'de> for ListenerKnobs {
    type Value = ListenerConfig;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the knobs of a listener")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<ListenerConfig, A::Error> {
        let (mut admission, mut socket) = (None::<AdmissionConfig>, SocketConfig::default());
        let (mut shards, mut memory_limit, mut proxy) = (None, None, None);
        while let Some(name) = map.next_key::<String>()? {
            match name.as_str() {
                "admission" => admission = Some(value(&mut map, &name)?),
                "session" => admission = Some(value::<SessionConfig, A>(&mut map, &name)?.into()),
                "socket" => socket = value(&mut map, &name)?,
                "shards" => shards = Some(value(&mut map, &name)?),
                "memory_limit" => memory_limit = Some(value(&mut map, &name)?),
                "proxy" => proxy = value(&mut map, &name)?,
                unknown => return Err(de::Error::unknown_field(unknown, LISTENER)),
            }
        }
        let admission = admission.ok_or_else(|| de::Error::missing_field("admission"))?;
        let mut config = ListenerConfig::new(admission).socket(socket);
        if let Some(shards) = shards {
            config = config.shards(shards);
        }
        if let Some(bytes) = memory_limit {
            config = config.memory_limit(bytes);
        }
        config.proxy = proxy;
        Ok(config)
    }
}

struct ProxyKnobs;

impl<'de> Deserialize<'de> for ProxyConfig {
    /// Reads a map. `header` (`"proxy_v2"`, `"proxy_v2_first"` or `"simple"`) and `trusted`, a list of networks, must be
    /// there; what else is left out keeps its default. `flow_timeout` is a number of seconds.
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(ProxyKnobs)
    }
}

impl<'de> Visitor<'de> for ProxyKnobs {
    type Value = ProxyConfig;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the knobs of proxies")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<ProxyConfig, A::Error> {
        let mut config = ProxyConfig::new(ProxyHeader::ProxyV2, []);
        let (mut header, mut trusted) = (None, None);
        while let Some(name) = map.next_key::<String>()? {
            match name.as_str() {
                "header" => header = Some(proxy_header::<A::Error>(&value::<String, A>(&mut map, &name)?)?),
                "trusted" => trusted = Some(networks::<A::Error>(&value::<Vec<String>, A>(&mut map, &name)?)?),
                "allow_direct" => config.allow_direct = value(&mut map, &name)?,
                "flow_timeout" => config.flow_timeout = Duration::from_secs(value(&mut map, &name)?),
                "max_flows" => config = config.max_flows(value(&mut map, &name)?),
                "serve_unnamed" => config.serve_unnamed = value(&mut map, &name)?,
                unknown => return Err(de::Error::unknown_field(unknown, PROXY)),
            }
        }
        config.header = header.ok_or_else(|| de::Error::missing_field("header"))?;
        config.trusted = trusted.ok_or_else(|| de::Error::missing_field("trusted"))?;
        Ok(config)
    }
}

fn proxy_header<E: de::Error>(name: &str) -> Result<ProxyHeader, E> {
    match name {
        "proxy_v2" => Ok(ProxyHeader::ProxyV2),
        "proxy_v2_first" => Ok(ProxyHeader::ProxyV2First),
        "simple" => Ok(ProxyHeader::Simple),
        unknown => Err(E::custom(format_args!("header: unknown header `{unknown}`"))),
    }
}

fn networks<E: de::Error>(texts: &[String]) -> Result<Vec<IpNet>, E> {
    let network = |text: &String| text.parse().map_err(|error| E::custom(format_args!("trusted: `{text}`: {error}")));
    texts.iter().map(network).collect()
}

struct SocketKnobs;

impl<'de> Deserialize<'de> for SocketConfig {
    /// Reads a map of its fields; what is left out keeps its default. `busy_poll` is `"never"`, `"while_it_pays"`, or a number
    /// of microseconds.
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(SocketKnobs)
    }
}

impl<'de> Visitor<'de> for SocketKnobs {
    type Value = SocketConfig;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the knobs of a socket")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<SocketConfig, A::Error> {
        let mut config = SocketConfig::default();
        while let Some(name) = map.next_key::<String>()? {
            match name.as_str() {
                "recv_buffer" => config.recv_buffer = value(&mut map, &name)?,
                "send_buffer" => config.send_buffer = value(&mut map, &name)?,
                "busy_poll" => config.busy_poll = value(&mut map, &name)?,
                unknown => return Err(de::Error::unknown_field(unknown, SOCKET)),
            }
        }
        Ok(config)
    }
}

struct BusyPollKnob;

impl<'de> Deserialize<'de> for BusyPoll {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(BusyPollKnob)
    }
}

impl Visitor<'_> for BusyPollKnob {
    type Value = BusyPoll;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("\"never\", \"while_it_pays\", or a number of microseconds")
    }

    fn visit_u64<E: de::Error>(self, microseconds: u64) -> Result<BusyPoll, E> {
        Ok(Duration::from_micros(microseconds).into())
    }

    fn visit_i64<E: de::Error>(self, microseconds: i64) -> Result<BusyPoll, E> {
        let negative = |_| E::invalid_value(de::Unexpected::Signed(microseconds), &self);
        Ok(Duration::from_micros(u64::try_from(microseconds).map_err(negative)?).into())
    }

    fn visit_str<E: de::Error>(self, name: &str) -> Result<BusyPoll, E> {
        match name {
            "never" => Ok(BusyPoll::Never),
            "while_it_pays" => Ok(BusyPoll::WhileItPays),
            unknown => Err(E::invalid_value(de::Unexpected::Str(unknown), &self)),
        }
    }
}

/// The value of a knob; what is wrong with it is told with the knob's name.
fn value<'de, T: Deserialize<'de>, A: MapAccess<'de>>(map: &mut A, name: &str) -> Result<T, A::Error> {
    map.next_value().map_err(|error| de::Error::custom(format_args!("{name}: {error}")))
}

const LISTENER: &[&str] = &["admission", "session", "socket", "shards", "memory_limit", "proxy"];
const PROXY: &[&str] = &["header", "trusted", "allow_direct", "flow_timeout", "max_flows", "serve_unnamed"];
const SOCKET: &[&str] = &["recv_buffer", "send_buffer", "busy_poll"];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_listener_is_configured_by_the_names_of_its_knobs() {
        let json =
            r#"{"session": {"protocol_name": "A"}, "shards": 2, "socket": {"busy_poll": "never", "send_buffer": 9}}"#;
        let config: ListenerConfig = serde_json::from_str(json).unwrap();
        assert_eq!((config.shards, config.socket.busy_poll, config.socket.send_buffer), (2, BusyPoll::Never, 9));
        assert_eq!(config.admission.session.protocol_name, "A");
    }

    #[test]
    fn proxies_are_configured_by_the_names_of_their_knobs() {
        let json = r#"{"session": {}, "proxy": {"header": "simple", "trusted": ["10.0.0.0/8", "2001:db8::/32"],
            "flow_timeout": 10, "max_flows": 0, "allow_direct": true}}"#;
        let proxy = serde_json::from_str::<ListenerConfig>(json).unwrap().proxy.unwrap();
        assert_eq!((proxy.header, proxy.trusted.len(), proxy.max_flows), (ProxyHeader::Simple, 2, 1));
        assert!(proxy.allow_direct && proxy.serve_unnamed && proxy.flow_timeout == Duration::from_secs(10));
        let error = |json: &str| serde_json::from_str::<ProxyConfig>(json).unwrap_err().to_string();
        assert!(error(r#"{"header": "simple", "trusted": ["10.0.0.0/33"]}"#).contains("trusted: `10.0.0.0/33`"));
        assert!(error(r#"{"header": "v1", "trusted": []}"#).contains("header: unknown header `v1`"));
        assert!(error(r#"{"header": "proxy_v2"}"#).contains("missing field `trusted`"));
    }

    #[test]
    fn what_is_wrong_is_told_with_the_whole_way_to_its_knob() {
        let error = |json: &str| serde_json::from_str::<ListenerConfig>(json).unwrap_err().to_string();
        assert!(error(r#"{"session": {}, "shards": "two"}"#).contains("shards: invalid type"));
        assert!(
            error(r#"{"admission": {"session": {"linger": true}}}"#).contains("admission: session: linger: invalid")
        );
        assert!(error(r#"{"session": {}, "sokcet": {}}"#).contains("unknown field `sokcet`"));
        assert!(error(r#"{"session": {}, "socket": {"busy_poll": "always"}}"#).contains("socket: busy_poll: invalid"));
        assert!(error("{}").contains("missing field `admission`"));
    }
}
