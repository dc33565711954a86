// Puts the parts together.

const element = id => document.getElementById(id);

function options(select, entries) {
  select.replaceChildren(...entries.map(([key, text]) => new Option(text, key)));
}

function legend(id, entries) {
  element(id).replaceChildren(...entries.map(([name, text]) => {
    const item = document.createElement("span"), box = document.createElement("i");
    box.style.background = "var(--" + name + ")";
    item.append(box, text);
    return item;
  }));
}

function choose(session, direction) {
  const counts = usedChannels(session, direction), busiest = counts.indexOf(Math.max(...counts));
  options(element("channel"), counts.map((count, channel) => [channel, channel + " (" + count + " packets)"]));
  element("channel").value = busiest;
  showStream(session, direction, busiest);
}

function showStream(session, direction, channel) {
  shown = { session, direction, channel, stream: stream(session, direction, channel) };
  redraw();
}

function openSession(index) {
  const session = sessions[index], { datagrams, info } = session;
  const first = datagrams.count ? datagrams.time[0] : 0, last = datagrams.count ? datagrams.time[datagrams.count - 1] : 1;
  view.whole = [first, last > first ? last : first + 1];
  [view.from, view.to] = view.whole;
  // Data that left near the capture shows what its sender saw: its acknowledgements took the whole way.
  const took = session.summary ? session.summary.directions.map(counts => counts.round_trip_smoothed) : [0, 0];
  const direction = took[1] > took[0] ? 1 : 0;
  element("direction").value = direction;
  element("about").textContent = about(session, info);
  choose(session, direction);
  element("hex").textContent = "Click a message to see its bytes.";
  filterMessages(false);
  filterFindings();
  summarise(session.summary);
}

function about(session, info) {
  if (!info) return "A request without a response.";
  const id = number => number === null ? "unknown" : number.toString(16).padStart(8, "0");
  const parts = [info.client + " to " + info.server, info.dialect, "CRC of " + info.crc_length + " bytes",
    "passes " + info.passes.join(", "), "session id " + id(info.session_id), "seed " + id(info.crc_seed)];
  if (info.protocol_name) parts.push("speaks " + info.protocol_name);
  if (session.summary && session.summary.ended) parts.push("ended " + session.summary.ended);
  if (info.inferred.length) parts.push("inferred: " + info.inferred.join("; "));
  if (meta.leftOut) parts.push(meta.leftOut + " datagrams are left out of this page");
  return parts.join(" · ");
}

function summarise(summary) {
  const box = element("summary");
  if (!summary) return box.replaceChildren();
  const grid = document.createElement("table");
  const add = (cells, tag) => {
    const line = grid.insertRow();
    cells.forEach(text => {
      const cell = document.createElement(tag);
      cell.textContent = text;
      line.append(cell);
    });
  };
  add(["", "to the server", "to the client"], "th");
  const [up, down] = summary.directions;
  for (const name of Object.keys(up)) {
    const isTime = name.startsWith("round_trip_");
    const text = number => isTime ? (number / 1e6).toFixed(2) + " ms" : number.toLocaleString("en");
    add([name.replaceAll("_", " "), text(up[name]), text(down[name])], "td");
  }
  box.replaceChildren(grid);
}

function openTab(name) {
  document.querySelectorAll(".tab").forEach(tab => tab.classList.toggle("chosen", tab.id === name));
  document.querySelectorAll("#tabs button").forEach(tab => tab.classList.toggle("chosen", tab.dataset.tab === name));
  messageRows.fill();
  findingRows.fill();
}

function wire() {
  element("session").addEventListener("change", event => openSession(+event.target.value));
  element("direction").addEventListener("change", event => choose(shown.session, +event.target.value));
  element("channel").addEventListener("change", event => showStream(shown.session, shown.direction, +event.target.value));
  element("reset").addEventListener("click", () => show(...view.whole));
  ["filterDirection", "filterCarrier", "filterLength", "filterText", "filterVisible"].forEach(id =>
    element(id).addEventListener("input", () => filterMessages(false)));
  element("filterSeverity").addEventListener("input", filterFindings);
  document.querySelectorAll("#tabs button").forEach(tab => tab.addEventListener("click", () => openTab(tab.dataset.tab)));
  plots.forEach(listen);
  window.addEventListener("resize", redraw);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redraw);
}

async function start() {
  const began = performance.now();
  await load();
  options(element("session"), sessions.map((session, index) =>
    [index, session.number + (session.info ? ": " + session.info.client : "")]));
  options(element("filterCarrier"), [["", "all"], ...CARRIERS.map((name, index) => [index, name])]);
  legend("legend", [...KINDS, ["ack", "acknowledged"], ["lost", "taken for lost (cross)"]]);
  legend("flightLegend", [["sent", "under way"], ["peak", "its peak: the window in use"]]);
  legend("bandLegend", [["up", "to the server"], ["down", "to the client"]]);
  document.querySelector("h1").textContent = document.title;
  wire();
  if (sessions.length) openSession(0);
  // A link may name a part: #1.5-2 is half a second.
  const part = location.hash.match(/^#([\d.]+)-([\d.]+)$/);
  if (part) show(+part[1], +part[2]);
  openTab("messages");
  drawNow();
  // For tests, and for whoever wonders.
  document.documentElement.dataset.ready = Math.round(performance.now() - began);
}

start().catch(error => { element("about").textContent = "This page cannot be shown: " + error; });
