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
  return { streams = {}, count = 0, key = #key > 0 and key or nil, ciphers = {}, first = first }
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
  -- Each channel runs a key stream of its own; `false` marks one that is out of step.
  if state.key and state.count >= state.first and state.ciphers[channel] ~= false then
    state.ciphers[channel] = state.ciphers[channel] or rc4(state.key)
    text, decrypted = state.ciphers[channel](text), true
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
      stream.train, stream.lost = nil, true
      state.ciphers[(code - 9) % 4] = false
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

