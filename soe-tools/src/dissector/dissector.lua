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

-- Bytes ----------------------------------------------------------------------------------------------------------------

local function u16(text, at) local a, b = text:byte(at, at + 1); return a * 256 + b end
local function u32(text, at) return u16(text, at) * 65536 + u16(text, at + 2) end

local function from_hex(text)
  return (text:gsub("[^%x]", ""):gsub("%x%x", function(pair) return string.char(tonumber(pair, 16)) end))
end

local CRC = {}
for index = 0, 255 do
  local value = index
  for _ = 1, 8 do
    value = band(value, 1) == 1 and bxor(rshift(value, 1), 0xEDB88320) or rshift(value, 1)
  end
  CRC[index] = value % 4294967296
end

local function crc32(text, value)
  value = bxor(value or 0, 0xFFFFFFFF)
  for at = 1, #text do
    value = bxor(rshift(value, 8), CRC[band(bxor(value, text:byte(at)), 255)])
  end
  return bxor(value, 0xFFFFFFFF) % 4294967296
end

local function little_endian(value)
  return string.char(value % 256, math.floor(value / 256) % 256, math.floor(value / 65536) % 256, math.floor(value / 16777216) % 256)
end

-- How many leading bytes no pass touches.
local function prefix(text) return math.min(text:byte(1) == 0 and 2 or 1, #text) end

local function undo_xor(text, seed)
  local clear = prefix(text)
  local key, out = { little_endian(seed):byte(1, 4) }, { text:sub(1, clear) }
  local at = clear + 1
  while at + 3 <= #text do
    local word = { text:byte(at, at + 3) }
    out[#out + 1] = string.char(bxor(word[1], key[1]), bxor(word[2], key[2]), bxor(word[3], key[3]), bxor(word[4], key[4]))
    key, at = word, at + 4
  end
  while at <= #text do
    out[#out + 1] = string.char(bxor(text:byte(at), key[1]))
    at = at + 1
  end
  return table.concat(out)
end

local function flag_of(text, codec)
  local clear = prefix(text)
  if #text <= clear then return nil end
  local flag = codec.leading and text:byte(clear + 1) or text:byte(#text)
  local stream = codec.leading and text:sub(clear + 2) or text:sub(clear + 1, -2)
  return flag, text:sub(1, clear), stream
end

local function flag_fits(text, codec)
  local flag, _, stream = flag_of(text, codec)
  if flag == codec.deflated then return codec.name == "everquest" or stream:byte(1) == 0x78 end
  return flag == codec.raw
end

local function undo_codec(text, codec)
  local flag, clear, stream = flag_of(text, codec)
  if not flag then return nil, "the flag of the codec is missing" end
  if flag ~= codec.deflated then return clear .. stream end
  -- The method has another name from Wireshark 4.4 on, and asking for one that does not exist is an error.
  local ok, plain = pcall(function() return ByteArray.new(stream, true):tvb("deflated")():uncompress("inflated"):raw() end)
  if not ok then
    ok, plain = pcall(function() return ByteArray.new(stream, true):tvb("deflated")():uncompress_zlib("inflated"):raw() end)
  end
  if not ok or not plain then return nil, "the compressed stream is malformed" end
  return clear .. plain
end

local function rc4(key)
  local state, j = {}, 0
  for index = 0, 255 do state[index] = index end
  for index = 0, 255 do
    j = (j + state[index] + key:byte(index % #key + 1)) % 256
    state[index], state[j] = state[j], state[index]
  end
  local i, k = 0, 0
  return function(text)
    local out = {}
    for at = 1, #text do
      i = (i + 1) % 256
      k = (k + state[i]) % 256
      state[i], state[k] = state[k], state[i]
      out[at] = string.char(bxor(text:byte(at), state[(state[i] + state[k]) % 256]))
    end
    return table.concat(out)
  end
end

-- Lengths --------------------------------------------------------------------------------------------------------------

-- The ways to read the length of a piece of a Multi at `at`: where the piece starts and ends.
local function readings(text, at)
  local first, second, third = text:byte(at, at + 2)
  local result = {}
  local function add(start, length)
    if start + length - 1 <= #text then result[#result + 1] = { start, start + length - 1 } end
  end
  if first == 255 and second == 255 and third == 255 and at + 6 <= #text then
    add(at + 7, u32(text, at + 3)); add(at + 1, 255)
  elseif first == 255 and second == 255 and third == 255 then
    add(at + 1, 255)
  elseif first == 255 and second == 0 and third then
    add(at + 1, 255); add(at + 3, third)
  elseif first == 255 and third then
    add(at + 3, second * 256 + third); add(at + 1, 255)
  else
    add(at + 1, first)
  end
  return result
end

-- The pieces of a Multi as pairs of first and last byte, and what is wrong.
local function pieces(text, at)
  local result, even = {}, nil
  while at <= #text do
    if text:byte(at) == 255 and not even then
      -- From the back: from which places on some reading ends with the packet.
      even = { [#text + 1] = true }
      for place = #text, at, -1 do
        for _, reading in ipairs(readings(text, place)) do even[place] = even[place] or even[reading[2] + 1] end
      end
    end
    local piece = nil
    for _, reading in ipairs(readings(text, at)) do
      if not piece and (text:byte(at) ~= 255 or even[reading[2] + 1]) then piece = reading end
    end
    if not piece then return result, "a length exceeds the packet" end
    if piece[2] >= piece[1] then result[#result + 1] = piece end
    at = piece[2] + 1
  end
  return result
end

local function elements(text, at)
  local result = {}
  while at <= #text do
    local first, second, third = text:byte(at, at + 2)
    local start, length
    if first == 255 and second == 255 and third == 255 then
      if at + 6 > #text then return result, "the length of an element is cut off" end
      start, length = at + 7, u32(text, at + 3)
    elseif first == 255 then
      if not third then return result, "the length of an element is cut off" end
      start, length = at + 3, second * 256 + third
    else
      start, length = at + 1, first
    end
    if start + length - 1 > #text then return result, "a length exceeds the packet" end
    if length > 0 then result[#result + 1] = { start, start + length - 1 } end
    at = start + length
  end
  return result
end

local function unescape(text) return text:sub(1, 2) == "\0\0" and text:sub(2) or text end

-- Sessions -------------------------------------------------------------------------------------------------------------

local conversations = {}
-- By frame: what reassembly gave when the frame was first seen.
local frames = {}

function soe.init() conversations, frames = {}, {} end

local function key_of(pinfo)
  local from = tostring(pinfo.src) .. ":" .. pinfo.src_port
  local to = tostring(pinfo.dst) .. ":" .. pinfo.dst_port
  if from < to then return from .. "-" .. to, from end
  return to .. "-" .. from, from
end

local function direction_state(key, first)
  return { streams = {}, count = 0, cipher = #key > 0 and rc4(key) or nil, first = first }
end

local function new_session(frame, client, params)
  params.frame, params.client, params.probation = frame, client, 8
  params.up = direction_state(from_hex(prefs.key_to_server), prefs.from_to_server)
  params.down = direction_state(from_hex(prefs.key_to_client), prefs.from_to_client)
  return params
end

-- The codec that the preferences or the handshake name; the flags of the first datagrams may change it.
local function codec_for(version, passes)
  for _, codec in ipairs(CODECS) do
    if codec.name == prefs.codec then return codec end
  end
  if version and version >= 3 then return CODECS[1] end
  return passes[2] == 4 and CODECS[3] or CODECS[2]
end

-- The session that a frame belongs to.
local function session_of(conversation, frame)
  local found = nil
  for _, session in ipairs(conversation.sessions) do
    if session.frame <= frame then found = session end
  end
  return found
end

-- A response opens a session, unless it is a repetition.
local function respond(conversation, pinfo, text, from)
  local seed, id = u32(text, 7), u32(text, 3)
  local last = conversation.sessions[#conversation.sessions]
  if last and last.seed == seed and last.id == id then return end
  local version = conversation.version or (#text >= 21 and u32(text, 18) or nil)
  local passes = { text:byte(12), text:byte(13) }
  local client = conversation.client
  if not client then
    local key = key_of(pinfo)
    client = key:sub(1, #from + 1) == from .. "-" and key:sub(#from + 2) or key:sub(1, #key - #from - 1)
  end
  conversation.sessions[#conversation.sessions + 1] = new_session(pinfo.number, client, {
    seed = seed, id = id, crc_length = text:byte(11), passes = passes, codec = codec_for(version, passes),
  })
end

local function printable(text) return not text:find("[^\32-\126]") end

-- Whether this is a session request in which nothing is odd.
local function is_request(text)
  if #text < 14 or text:sub(1, 2) ~= "\0\1" then return false end
  local version, length = u32(text, 3), u32(text, 11)
  if version > 255 or length < 64 or length > 65535 then return false end
  if #text == 14 then return true end
  local name = text:sub(15, -2)
  return version >= 3 and #name <= 32 and text:byte(#text) == 0 and printable(name)
end

local function is_response(text)
  if (#text ~= 17 and #text ~= 21) or text:sub(1, 2) ~= "\0\2" then return false end
  local known = { [0] = true, [1] = true, [2] = true, [4] = true }
  local length = u32(text, 14)
  return text:byte(11) <= 4 and known[text:byte(12)] and known[text:byte(13)] and length >= 64 and length <= 65535
    and (#text == 17 or u32(text, 18) <= 255)
end

-- CRC and passes: the plain packet, the CRC, whether it holds, and what is wrong.
local function open(session, text)
  local crc = ""
  if session.crc_length > 0 then
    if #text <= session.crc_length then return nil, nil, false, "too short" end
    crc = text:sub(-session.crc_length)
    text = text:sub(1, -session.crc_length - 1)
    if session.seed then
      local expected = crc32(text, crc32(little_endian(session.seed)))
      local wire = 0
      for at = 1, #crc do wire = wire * 256 + crc:byte(at) end
      if expected % 256 ^ #crc ~= wire then return nil, crc, false, nil end
    end
  end
  for index = 2, 1, -1 do
    local pass = session.passes[index]
    if pass == 4 then
      text = undo_xor(text, session.seed or 0)
    elseif pass == 1 then
      if session.probation > 0 then
        session.probation = session.probation - 1
        if not flag_fits(text, session.codec) then
          for _, codec in ipairs(CODECS) do
            if flag_fits(text, codec) then session.codec = codec; break end
          end
        end
      end
      local plain, wrong = undo_codec(text, session.codec)
      if not plain then return nil, crc, true, wrong end
      text = plain
    elseif pass ~= 0 then
      return nil, crc, true, "pass " .. pass .. " is not known here"
    end
  end
  return text, crc, true
end

-- Reassembly, when a frame is seen for the first time --------------------------------------------------------------------

local function deliver(state, record, channel, raw, depth)
  if raw:sub(1, 2) == "\0\25" and depth < MAX_NESTING then
    local parts = elements(raw, 3)
    for _, part in ipairs(parts) do deliver(state, record, channel, raw:sub(part[1], part[2]), depth + 1) end
    return
  end
  local text, decrypted = unescape(raw), false
  if state.cipher and state.count >= state.first then
    text, decrypted = state.cipher(text), true
  end
  state.count = state.count + 1
  record.messages[#record.messages + 1] = { text = text, channel = channel, decrypted = decrypted }
end

local function take(state, stream, record, channel, packet)
  if not packet.fragment then
    stream.train = nil
    stream.lost = false
    return deliver(state, record, channel, packet.body, 0)
  end
  local train = stream.train
  if not train then
    if stream.lost or #packet.body < 4 then return end
    train = { total = u32(packet.body, 1), length = #packet.body - 4, packet.body:sub(5) }
    stream.train = train
  else
    train[#train + 1] = packet.body
    train.length = train.length + #packet.body
  end
  if train.length >= train.total then
    stream.train = nil
    if train.length == train.total then deliver(state, record, channel, table.concat(train), 0) end
  end
end

local function sequenced(session, state, record, code, text, joined)
  local channel, fragment = (code - 9) % 4, code >= 13
  local sequence = u16(text, 3)
  local stream = state.streams[channel]
  if not stream then
    -- Without a handshake the first packet seen is where reassembly starts; a train may be under way then.
    stream = { next = joined and sequence or 0, ahead = {}, waiting = 0, lost = joined }
    state.streams[channel] = stream
  end
  local ahead = (sequence - stream.next) % 65536
  if ahead >= 32768 or stream.ahead[sequence] then
    record.notes[#record.notes + 1] = "resend"
    return
  end
  stream.ahead[sequence] = { body = text:sub(5), fragment = fragment }
  stream.waiting = stream.waiting + 1
  if ahead > 0 then record.notes[#record.notes + 1] = "ahead" end
  while stream.ahead[stream.next] do
    local packet = stream.ahead[stream.next]
    stream.ahead[stream.next] = nil
    stream.waiting = stream.waiting - 1
    stream.next = (stream.next + 1) % 65536
    take(state, stream, record, channel, packet)
  end
end

-- The peer has everything up to there: what was not captured will not come.
local function acknowledged(state, record, code, text)
  local stream = state.streams[(code - 9) % 4]
  if not stream then return end
  local through = u16(text, 3)
  while (through - stream.next) % 65536 < 32768 do
    local packet = stream.ahead[stream.next]
    if packet then
      stream.ahead[stream.next] = nil
      take(state, stream, record, (code - 9) % 4, packet)
    else
      record.notes[#record.notes + 1] = "missing"
      stream.train, stream.lost, state.cipher = nil, true, nil
    end
    stream.next = (stream.next + 1) % 65536
  end
end

local function follow(session, from, record, text, depth)
  if #text < 2 or text:byte(1) ~= 0 then return end
  local code = text:byte(2)
  local is_up = from == session.client
  local mine, other = is_up and session.up or session.down, is_up and session.down or session.up
  if code == 3 and depth < MAX_NESTING then
    for _, piece in ipairs((pieces(text, 3))) do follow(session, from, record, text:sub(piece[1], piece[2]), depth + 1) end
  elseif code >= 0x09 and code <= 0x10 and #text > 4 then
    sequenced(session, mine, record, code, text, session.joined)
  elseif code >= 0x15 and code <= 0x18 and #text >= 4 then
    acknowledged(other, record, code, text)
  end
end

-- Display ----------------------------------------------------------------------------------------------------------------

local show

local function show_payload(tree, range, text, at)
  if text:sub(at, at + 1) == "\0\25" then
    local parts, wrong = elements(text, at + 2)
    for _, part in ipairs(parts) do
      local raw = text:sub(part[1], part[2])
      local skip = #raw - #unescape(raw)
      tree:add(fields.element, range(part[1] - 1 + skip, part[2] - part[1] + 1 - skip))
    end
    if wrong then tree:add_proto_expert_info(experts.corrupt, wrong) end
  elseif at <= #text then
    local raw = text:sub(at)
    local skip = #raw - #unescape(raw)
    tree:add(fields.payload, range(at - 1 + skip, #raw - skip))
  end
end

-- Adds one packet to the tree, and returns words about it for the list.
function show(tree, range, text, depth)
  if #text < 2 or text:byte(1) ~= 0 or text:byte(2) == 0 then
    local skip = #text - #unescape(text)
    tree:add(fields.data, range(skip, #text - skip))
    return "data"
  end
  local code = text:byte(2)
  local packet = PACKETS[code]
  if not packet then
    tree:add_proto_expert_info(experts.corrupt, "unknown op code")
    return "unknown"
  end
  local branch = tree:add(soe, range, packet.name)
  branch:add(fields.op, range(1, 1))
  local words = packet.name
  if packet.channel then
    branch:add(fields.channel, range(1, 1), packet.channel)
    words = words .. " " .. packet.channel
  end
  local at = 3
  for _, field in ipairs(packet.fields) do
    if field.text then
      if at <= #text and u32(text, 3) >= 3 then
        local name = text:sub(at):match("^[^%z]*")
        branch:add(fields.text, range(at - 1, #text - at + 1), name)
        words = words .. " " .. name
        at = #text + 1
      end
    elseif at + field.size - 1 > #text then
      if not field.optional then
        branch:add_proto_expert_info(experts.corrupt, "the packet ends within its fields")
        return words
      end
    else
      branch:add(fields["field_" .. field.name], range(at - 1, field.size))
      if field.name == "sequence" then words = words .. " #" .. u16(text, at) end
      at = at + field.size
    end
  end
  if packet.rest == "payload" then
    show_payload(branch, range, text, at)
  elseif packet.rest == "elements" then
    show_payload(branch, range, text, 1)
  elseif (packet.rest == "fragment" or packet.rest == "data") and at <= #text then
    branch:add(fields.payload, range(at - 1, #text - at + 1))
  elseif packet.rest == "pieces" then
    if depth >= MAX_NESTING then
      branch:add_proto_expert_info(experts.corrupt, "nested too deep")
      return words
    end
    local parts, wrong = pieces(text, 3)
    local inner = {}
    for _, part in ipairs(parts) do
      local length = part[2] - part[1] + 1
      inner[#inner + 1] = show(branch, range(part[1] - 1, length), text:sub(part[1], part[2]), depth + 1)
    end
    if wrong then branch:add_proto_expert_info(experts.corrupt, wrong) end
    words = words .. " [" .. table.concat(inner, ", ") .. "]"
  end
  return words
end

local function show_record(tree, record)
  for _, note in ipairs(record.notes) do tree:add_proto_expert_info(experts[note]) end
  for _, message in ipairs(record.messages) do
    local range = ByteArray.new(message.text, true):tvb("Message")()
    local branch = tree:add(fields.message, range)
    branch:add(fields.message_channel, message.channel)
    branch:add(fields.decrypted, message.decrypted)
  end
end

local function given_session(frame, from)
  local seed = tonumber(prefs.seed, 16)
  local passes = { prefs.pass_0, prefs.pass_1 }
  return new_session(frame, from, {
    seed = seed, crc_length = prefs.crc_length, passes = passes, codec = codec_for(nil, passes), joined = true,
  })
end

function soe.dissector(tvb, pinfo, tree)
  local text, frame = tvb():raw(), pinfo.number
  if #text == 0 then return 0 end
  local key, from = key_of(pinfo)
  local conversation = conversations[key]
  if not conversation then
    conversation = { sessions = {} }
    conversations[key] = conversation
  end
  if not pinfo.visited then
    if is_request(text) then conversation.client, conversation.version = from, u32(text, 3) end
    if is_response(text) then respond(conversation, pinfo, text, from) end
  end
  pinfo.cols.protocol = "SOE"
  local branch = tree:add(soe, tvb())
  local code = #text > 1 and text:byte(1) == 0 and text:byte(2) or nil
  if code and EXEMPT[code] then
    pinfo.cols.info = show(branch, tvb(), text, 0)
    return #text
  end
  local session = session_of(conversation, frame)
  if not session then
    if pinfo.visited then
      branch:add_proto_expert_info(experts.unknown)
      return #text
    end
    session = given_session(frame, from)
    conversation.sessions[#conversation.sessions + 1] = session
  end
  -- What reassembly, the choice of a codec and the key streams gave at first is kept: frames are shown in any order.
  local record = frames[frame]
  if not record or not pinfo.visited then
    local plain, crc, holds, wrong = open(session, text)
    record = { plain = plain, crc = crc, holds = holds, wrong = wrong, notes = {}, messages = {} }
    frames[frame] = record
    if plain then follow(session, from, record, plain, 0) end
  end
  if record.crc and #record.crc > 0 then
    local crc = branch:add(fields.crc, tvb(#text - #record.crc, #record.crc))
    branch:add(fields.crc_ok, record.holds)
    if not record.holds then crc:add_proto_expert_info(experts.bad_crc) end
  end
  if not record.plain then
    if record.wrong then branch:add_proto_expert_info(experts.corrupt, record.wrong) end
    pinfo.cols.info = record.holds and "corrupt" or "wrong CRC"
    return #text
  end
  local bare = text:sub(1, #text - #(record.crc or ""))
  local range = bare == record.plain and tvb(0, #bare) or ByteArray.new(record.plain, true):tvb("SOE packet")()
  pinfo.cols.info = show(branch, range, record.plain, 0)
  show_record(branch, record)
  return #text
end

soe:register_heuristic("udp", function(tvb, pinfo, tree)
  local known = conversations[(key_of(pinfo))]
  if not known then
    if tvb:len() < 14 or tvb:len() > 47 or tvb(0, 1):uint() ~= 0 or tvb(1, 1):uint() > 2 then return false end
    local text = tvb():raw()
    if not is_request(text) and not is_response(text) then return false end
  end
  soe.dissector(tvb, pinfo, tree)
  pinfo.conversation = soe
  return true
end)

DissectorTable.get("udp.port"):add_for_decode_as(soe)
