// Long lists: only the rows in sight exist.

const ROW = 20;
const CARRIERS = ["channel 0", "channel 1", "channel 2", "channel 3", "unreliable", "ordered", "ordered 2"];
const WAYS = ["C>S", "S>C"];

class Rows {
  constructor(id, make) {
    this.box = document.getElementById(id);
    this.floor = document.createElement("div");
    this.box.append(this.floor);
    this.make = make;
    this.items = [];
    this.box.addEventListener("scroll", () => this.fill());
  }

  set(items, keepPlace) {
    this.items = items;
    this.floor.style.height = items.length * ROW + "px";
    if (!keepPlace) this.box.scrollTop = 0;
    this.fill();
  }

  fill() {
    const from = Math.max(0, Math.floor(this.box.scrollTop / ROW) - 5);
    const to = Math.min(this.items.length, from + Math.ceil((this.box.clientHeight || 420) / ROW) + 10);
    const rows = [];
    for (let i = from; i < to; i++) {
      const row = this.make(this.items[i]);
      row.style.top = i * ROW + "px";
      rows.push(row);
    }
    this.floor.replaceChildren(...rows);
  }
}

function row(text, onClick) {
  const element = document.createElement("div");
  element.className = "row";
  element.textContent = text;
  element.addEventListener("click", () => onClick(element));
  return element;
}

const bytesOf = (table, index, length) => blob.subarray(table.offset[index], table.offset[index] + length[index]);
const printable = byte => byte >= 32 && byte < 127 ? String.fromCharCode(byte) : ".";
const hexByte = byte => byte.toString(16).padStart(2, "0");

const messageRows = new Rows("messageRows", index => {
  const { messages } = shown.session;
  const bytes = bytesOf(messages, index, messages.kept).subarray(0, 24);
  const parts = [
    messages.time[index].toFixed(6).padStart(12), WAYS[messages.direction[index]],
    CARRIERS[messages.carrier[index]].padEnd(10),
    (messages.carrier[index] < 4 ? "#" + messages.sequence[index] : "").padEnd(8),
    String(messages.length[index]).padStart(7) + " B", messages.decrypted[index] ? "key" : "   ",
    Array.from(bytes, printable).join(""),
  ];
  return row(parts.join("  "), element => {
    document.querySelectorAll("#messageRows .chosen").forEach(other => other.classList.remove("chosen"));
    element.classList.add("chosen");
    showHex(index);
  });
});

function showHex(index) {
  const { messages } = shown.session;
  const bytes = bytesOf(messages, index, messages.kept), lines = [];
  lines.push("message " + messages.number[index] + ", " + WAYS[messages.direction[index]] + ", "
    + CARRIERS[messages.carrier[index]] + ", " + messages.length[index] + " bytes in " + messages.packets[index] + " packets"
    + (messages.decrypted[index] ? ", decrypted" : ""), "");
  for (let at = 0; at < bytes.length; at += 16) {
    const part = Array.from(bytes.subarray(at, at + 16));
    lines.push(at.toString(16).padStart(6, "0") + "  " + part.map(hexByte).join(" ").padEnd(48) + " " + part.map(printable).join(""));
  }
  if (bytes.length < messages.length[index]) lines.push("... " + (messages.length[index] - bytes.length) + " more, not in this page");
  document.getElementById("hex").textContent = lines.join("\n");
}

const value = id => document.getElementById(id).value;

// What is looked for: bytes written in hexadecimal, or text.
function needle() {
  const text = value("filterText");
  if (!text.startsWith("0x")) return new TextEncoder().encode(text);
  const digits = text.slice(2).replace(/[^0-9a-f]/gi, "");
  return Uint8Array.from(digits.match(/../g) || [], pair => parseInt(pair, 16));
}

function contains(bytes, wanted) {
  outer: for (let at = 0; at + wanted.length <= bytes.length; at++) {
    for (let i = 0; i < wanted.length; i++) if (bytes[at + i] !== wanted[i]) continue outer;
    return true;
  }
  return false;
}

// `onMove`: the shown time has changed and nothing else.
function filterMessages(onMove) {
  const onlyVisible = document.getElementById("filterVisible").checked;
  if (!shown || onMove && !onlyVisible) return;
  const { messages } = shown.session;
  const way = value("filterDirection"), carrier = value("filterCarrier"), least = +value("filterLength"), wanted = needle();
  const [from, to] = onlyVisible ? span(messages.time) : [0, messages.count], found = [];
  for (let i = from; i < to; i++) {
    if (way !== "" && messages.direction[i] !== +way || carrier !== "" && messages.carrier[i] !== +carrier) continue;
    if (messages.length[i] < least) continue;
    if (wanted.length && !contains(bytesOf(messages, i, messages.kept), wanted)) continue;
    found.push(i);
  }
  document.getElementById("messageCount").textContent = found.length + " of " + messages.count;
  messageRows.set(found, onMove);
}

const findingRows = new Rows("findingRows", index => {
  const { findings } = shown.session;
  const text = new TextDecoder().decode(bytesOf(findings, index, findings.length));
  const time = findings.time[index];
  const element = row([time.toFixed(6).padStart(12), WAYS[findings.direction[index]], text].join("  "), () => {
    const half = (view.whole[1] - view.whole[0]) * 0.02 + 1e-4;
    show(time - half, time + half);
    window.scrollTo({ top: 0, behavior: "smooth" });
  });
  element.classList.add("s" + findings.severity[index]);
  return element;
});

function filterFindings() {
  const { findings } = shown.session, least = +value("filterSeverity"), found = [];
  for (let i = 0; i < findings.count; i++) if (findings.severity[i] >= least) found.push(i);
  document.getElementById("findingCount").textContent = found.length + " of " + findings.count;
  findingRows.set(found);
}
