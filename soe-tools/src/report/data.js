// The data: columns of numbers behind base64 and zlib.

const meta = JSON.parse(document.getElementById("meta").textContent);
let blob = new Uint8Array();
let sessions = [];

async function load() {
  const text = atob(document.getElementById("data").textContent.trim());
  const packed = new Uint8Array(text.length);
  for (let i = 0; i < text.length; i++) packed[i] = text.charCodeAt(i);
  const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("deflate"));
  blob = new Uint8Array(await new Response(stream).arrayBuffer());
  sessions = meta.sessions.map(session => {
    const tables = {};
    for (const [name, value] of Object.entries(session)) {
      tables[name] = isTable(value) ? table(value) : value;
    }
    return tables;
  });
  document.getElementById("data").textContent = "";
}

function isTable(value) {
  return value !== null && typeof value === "object" && Array.isArray(value.time);
}

function table(columns) {
  const types = { f64: Float64Array, u32: Uint32Array, u8: Uint8Array };
  const result = { count: columns.time[2] };
  for (const [name, [type, offset, count]] of Object.entries(columns)) {
    result[name] = new types[type](blob.buffer, offset, count);
  }
  return result;
}

// The first index whose time is at least `time`.
function lowerBound(times, time) {
  let low = 0, high = times.length;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (times[middle] < time) low = middle + 1; else high = middle;
  }
  return low;
}

// The packets of one channel and direction, with what became of them.
function stream(session, direction, channel) {
  const { packets, acks } = session;
  const sent = { time: [], sequence: [], kind: [], length: [] };
  const first = new Map(), lost = [];
  for (let i = 0; i < packets.count; i++) {
    if (packets.direction[i] !== direction || packets.channel[i] !== channel) continue;
    const kind = packets.kind[i], sequence = packets.sequence[i];
    sent.time.push(packets.time[i]);
    sent.sequence.push(sequence);
    sent.kind.push(kind);
    sent.length.push(packets.length[i]);
    // What is sent again after a gap or by timer, the sender takes for lost.
    if (kind === 2 || kind === 3) lost.push([first.get(sequence), sequence]);
    first.set(sequence, packets.time[i]);
  }
  const answered = { time: [], sequence: [], cumulative: [] };
  for (let i = 0; i < acks.count; i++) {
    if (acks.direction[i] !== direction || acks.channel[i] !== channel) continue;
    answered.time.push(acks.time[i]);
    answered.sequence.push(acks.sequence[i]);
    answered.cumulative.push(acks.cumulative[i]);
  }
  lost.sort((a, b) => a[0] - b[0]);
  return { sent, acks: answered, lost: { time: lost.map(x => x[0]), sequence: lost.map(x => x[1]) } };
}

function usedChannels(session, direction) {
  const counts = [0, 0, 0, 0];
  const { packets } = session;
  for (let i = 0; i < packets.count; i++) {
    if (packets.direction[i] === direction) counts[packets.channel[i]]++;
  }
  return counts;
}
