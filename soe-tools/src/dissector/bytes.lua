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

