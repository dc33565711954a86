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
