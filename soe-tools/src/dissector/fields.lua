-- Wireshark dissector for the UDP transport of Sony Online Entertainment's games.
-- Written by `soe dissector`, version {{version}}. Put it into Wireshark's folder of personal Lua plugins, or:
--   tshark -X lua_script:soe.lua -r capture.pcapng
--
-- A conversation is claimed by its session request or response and by nothing else. For a capture without a handshake use
-- "Decode As" and give seed, CRC length and passes in the preferences of the protocol.

-- What follows is written from the tables of soe-core.
{{tables}}
-- End of the tables.

local bits = bit or bit32
if not bits then
  bits = load([[return {
    band = function(a, b) return a & b end, bxor = function(a, b) return (a ~ b) & 0xFFFFFFFF end,
    rshift = function(a, n) return (a & 0xFFFFFFFF) >> n end,
  }]])()
end
local band, bxor, rshift = bits.band, bits.bxor, bits.rshift

local soe = Proto("soe", "SOE transport")

local fields = {
  op = ProtoField.uint8("soe.op", "Op code", base.HEX, OP_NAMES),
  channel = ProtoField.uint8("soe.channel", "Channel"),
  payload = ProtoField.bytes("soe.payload", "Payload"),
  element = ProtoField.bytes("soe.element", "Element"),
  data = ProtoField.bytes("soe.data", "Application data"),
  message = ProtoField.bytes("soe.message", "Message"),
  message_channel = ProtoField.uint8("soe.message.channel", "Channel"),
  decrypted = ProtoField.bool("soe.message.decrypted", "Decrypted"),
  crc = ProtoField.bytes("soe.crc", "CRC"),
  crc_ok = ProtoField.bool("soe.crc.ok", "CRC holds"),
  text = ProtoField.string("soe.protocol_name", "Protocol name"),
}
for name, size in pairs(FIELD_SIZES) do
  local values = name == "reason" and REASONS or nil
  local form = (name == "session_id" or name == "crc_seed") and base.HEX or base.DEC
  local make = ({ [1] = ProtoField.uint8, [2] = ProtoField.uint16, [4] = ProtoField.uint32, [8] = ProtoField.uint64 })[size]
  if values then
    fields["field_" .. name] = make("soe." .. name, name, form, values)
  else
    fields["field_" .. name] = make("soe." .. name, name, form)
  end
end
local field_list = {}
for _, field in pairs(fields) do field_list[#field_list + 1] = field end
soe.fields = field_list

local experts = {
  bad_crc = ProtoExpert.new("soe.expert.bad_crc", "Wrong CRC", expert.group.CHECKSUM, expert.severity.ERROR),
  corrupt = ProtoExpert.new("soe.expert.corrupt", "Corrupt", expert.group.MALFORMED, expert.severity.ERROR),
  resend = ProtoExpert.new("soe.expert.resend", "Seen before", expert.group.SEQUENCE, expert.severity.NOTE),
  ahead = ProtoExpert.new("soe.expert.ahead", "Ahead of a gap", expert.group.SEQUENCE, expert.severity.NOTE),
  missing = ProtoExpert.new("soe.expert.missing", "Packets are missing from the capture", expert.group.SEQUENCE, expert.severity.WARN),
  unknown = ProtoExpert.new("soe.expert.unknown", "Parameters of the session are unknown", expert.group.UNDECODED, expert.severity.WARN),
}
local expert_list = {}
for _, item in pairs(experts) do expert_list[#expert_list + 1] = item end
soe.experts = expert_list

local prefs = soe.prefs
prefs.seed = Pref.string("Seed", "", "Of sessions without a handshake, in hexadecimal")
prefs.crc_length = Pref.uint("CRC length", 2, "Of sessions without a handshake, 0 to 4")
prefs.pass_0 = Pref.uint("Pass 0", 0, "Of sessions without a handshake: 0 none, 1 codec, 4 XOR chain")
prefs.pass_1 = Pref.uint("Pass 1", 0, "Of sessions without a handshake: 0 none, 1 codec, 4 XOR chain")
prefs.codec = Pref.string("Codec", "", "version3, everquest or star-wars-galaxies; empty: told by the handshake and the flags")
prefs.key_to_server = Pref.string("RC4 key to the server", "", "In hexadecimal")
prefs.from_to_server = Pref.uint("First encrypted message to the server", 0, "Reliable messages of the direction are counted from 0")
prefs.key_to_client = Pref.string("RC4 key to the client", "", "In hexadecimal")
prefs.from_to_client = Pref.uint("First encrypted message to the client", 0, "Reliable messages of the direction are counted from 0")

