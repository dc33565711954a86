// Four plots over one time axis.

const KINDS = [
  ["sent", "sent"], ["late", "first seen late"], ["gap", "resent after a gap"], ["timer", "resent by timer"],
  ["early", "sent twice in advance"], ["needless", "resent needlessly"],
];
const MARGIN = { left: 64, right: 12, top: 8, bottom: 20 };
const color = name => getComputedStyle(document.documentElement).getPropertyValue("--" + name).trim();

const view = { from: 0, to: 1, whole: [0, 1] };
let shown = null;

class Plot {
  constructor(id, draw) {
    this.canvas = document.getElementById(id);
    this.draw = draw;
    this.pick = null;
  }

  // Prepares the canvas; `range` gives the least and the most that is visible.
  begin(low, high) {
    const scale = window.devicePixelRatio || 1;
    const width = this.canvas.clientWidth, height = +this.canvas.dataset.height;
    this.canvas.style.height = height + "px";
    this.canvas.width = Math.round(width * scale);
    this.canvas.height = Math.round(height * scale);
    const pen = this.canvas.getContext("2d");
    pen.setTransform(scale, 0, 0, scale, 0, 0);
    this.width = width - MARGIN.left - MARGIN.right;
    this.height = height - MARGIN.top - MARGIN.bottom;
    if (!(high > low)) high = low + 1;
    this.low = low;
    this.high = high;
    this.x = time => MARGIN.left + (time - view.from) / (view.to - view.from) * this.width;
    this.y = value => MARGIN.top + (1 - (value - low) / (high - low)) * this.height;
    this.axes(pen);
    pen.save();
    pen.beginPath();
    pen.rect(MARGIN.left, MARGIN.top, this.width, this.height);
    pen.clip();
    return pen;
  }

  axes(pen) {
    pen.font = "11px system-ui, sans-serif";
    pen.lineWidth = 1;
    pen.strokeStyle = color("line");
    pen.fillStyle = color("faint");
    pen.textBaseline = "middle";
    pen.textAlign = "right";
    for (const value of ticks(this.low, this.high, this.height / 40)) {
      const y = Math.round(this.y(value)) + 0.5;
      line(pen, MARGIN.left, y, MARGIN.left + this.width, y);
      pen.fillText(compact(value), MARGIN.left - 6, y);
    }
    pen.textAlign = "center";
    for (const value of ticks(view.from, view.to, this.width / 110)) {
      const x = Math.round(this.x(value)) + 0.5;
      line(pen, x, MARGIN.top, x, MARGIN.top + this.height);
      pen.fillText(seconds(value), x, MARGIN.top + this.height + 11);
    }
  }
}

function line(pen, x0, y0, x1, y1) {
  pen.beginPath();
  pen.moveTo(x0, y0);
  pen.lineTo(x1, y1);
  pen.stroke();
}

function ticks(low, high, wanted) {
  const rough = (high - low) / Math.max(1, wanted), power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map(factor => factor * power).find(step => step >= rough);
  const result = [];
  for (let value = Math.ceil(low / step) * step; value <= high && result.length < 50; value += step) result.push(value);
  return result;
}

function compact(value) {
  if (Math.abs(value) >= 1e6) return +(value / 1e6).toFixed(2) + " M";
  if (Math.abs(value) >= 1e4) return +(value / 1e3).toFixed(1) + " k";
  return String(+value.toFixed(3));
}

function seconds(value) {
  const digits = Math.min(6, Math.max(0, Math.ceil(-Math.log10((view.to - view.from) / 10))));
  return value.toFixed(digits) + " s";
}

// Visible part of a table or list, a point beyond each end.
function span(times) {
  return [Math.max(0, lowerBound(times, view.from) - 1), Math.min(times.length, lowerBound(times, view.to) + 1)];
}

// Draws one mark per pixel at most: a million points are no slower than a screenful.
function marks(pen, plot, times, values, from, to, mark, wanted) {
  let last = -1;
  for (let i = from; i < to; i++) {
    if (wanted && !wanted(i)) continue;
    const x = plot.x(times[i]), y = plot.y(values[i]);
    const place = (x | 0) * 8192 + (y | 0);
    if (place === last) continue;
    last = place;
    mark(pen, x, y);
  }
}

const square = size => (pen, x, y) => pen.fillRect(x - size / 2, y - size / 2, size, size);
const cross = (pen, x, y) => {
  line(pen, x - 4, y - 4, x + 4, y + 4);
  line(pen, x - 4, y + 4, x + 4, y - 4);
};

function extent(values, from, to) {
  let low = Infinity, high = -Infinity;
  for (let i = from; i < to; i++) {
    if (values[i] < low) low = values[i];
    if (values[i] > high) high = values[i];
  }
  return low > high ? [0, 1] : [low, high];
}

function drawSequence(plot) {
  const { sent, acks, lost } = shown.stream;
  const [from, to] = span(sent.time), [ackFrom, ackTo] = span(acks.time);
  const [a, b] = extent(sent.sequence, from, to), [c, d] = ackTo > ackFrom ? extent(acks.sequence, ackFrom, ackTo) : [a, b];
  const low = Math.min(a, c), high = Math.max(b, d), room = Math.max(2, (high - low) * 0.04);
  const pen = plot.begin(low - room, high + room);
  // What has been acknowledged, as a staircase.
  pen.strokeStyle = color("ack");
  pen.lineWidth = 1.5;
  pen.beginPath();
  let lastY = null;
  for (let i = ackFrom; i < ackTo; i++) {
    if (!acks.cumulative[i]) continue;
    const x = plot.x(acks.time[i]), y = plot.y(acks.sequence[i]);
    if (lastY === null) pen.moveTo(x, y); else { pen.lineTo(x, lastY); pen.lineTo(x, y); }
    lastY = y;
  }
  pen.stroke();
  pen.fillStyle = color("ack");
  marks(pen, plot, acks.time, acks.sequence, ackFrom, ackTo, square(2), i => !acks.cumulative[i]);
  KINDS.forEach(([name], kind) => {
    pen.fillStyle = color(name);
    marks(pen, plot, sent.time, sent.sequence, from, to, square(kind === 0 ? 3 : 5), i => sent.kind[i] === kind);
  });
  pen.strokeStyle = color("lost");
  pen.lineWidth = 1.2;
  const [lostFrom, lostTo] = span(lost.time);
  marks(pen, plot, lost.time, lost.sequence, lostFrom, lostTo, cross);
  pen.restore();
}

function drawRoundTrip(plot) {
  const { roundTrips } = shown.session;
  const [from, to] = span(roundTrips.time);
  const mine = i => roundTrips.direction[i] === shown.direction;
  let high = 0;
  for (let i = from; i < to; i++) if (mine(i) && roundTrips.took[i] > high) high = roundTrips.took[i];
  const pen = plot.begin(0, high * 1.1);
  pen.fillStyle = color("sent");
  marks(pen, plot, roundTrips.time, roundTrips.took, from, to, square(2.5), mine);
  pen.restore();
}

function drawInFlight(plot) {
  const { inFlight } = shown.session;
  const [from, to] = span(inFlight.time);
  const mine = i => inFlight.direction[i] === shown.direction;
  let high = 0;
  for (let i = from; i < to; i++) if (mine(i) && inFlight.bytes[i] > high) high = inFlight.bytes[i];
  const pen = plot.begin(0, high * 1.1);
  // For each pixel the most that was under way, and the most of the last twentieth of the plot: the window in use.
  const most = new Float64Array(plot.width + 2).fill(-1);
  for (let i = from; i < to; i++) {
    const x = Math.min(plot.width, Math.max(0, Math.round(plot.x(inFlight.time[i]) - MARGIN.left)));
    if (mine(i) && inFlight.bytes[i] > most[x]) most[x] = inFlight.bytes[i];
  }
  let before = 0;
  for (let x = 0; x < most.length; x++) before = most[x] = most[x] < 0 ? before : most[x];
  pen.fillStyle = color("sent");
  pen.globalAlpha = 0.45;
  const floor = plot.y(0);
  for (let x = 0; x <= plot.width; x++) pen.fillRect(MARGIN.left + x, plot.y(most[x]), 1, floor - plot.y(most[x]));
  pen.globalAlpha = 1;
  pen.strokeStyle = color("peak");
  pen.lineWidth = 1.5;
  pen.beginPath();
  const reach = Math.round(plot.width / 20);
  for (let x = 0; x <= plot.width; x++) {
    let peak = 0;
    for (let at = Math.max(0, x - reach); at <= x; at++) peak = Math.max(peak, most[at]);
    pen.lineTo(MARGIN.left + x, plot.y(peak));
  }
  pen.stroke();
  pen.restore();
}

function drawBandwidth(plot) {
  const { datagrams } = shown.session;
  const from = lowerBound(datagrams.time, view.from), to = lowerBound(datagrams.time, view.to);
  const width = Math.max(50, plot.canvas.clientWidth - MARGIN.left - MARGIN.right), bins = Math.round(width / 4);
  const each = (view.to - view.from) / bins, sums = [new Float64Array(bins), new Float64Array(bins)];
  for (let i = from; i < to; i++) {
    const bin = Math.min(bins - 1, Math.floor((datagrams.time[i] - view.from) / each));
    sums[datagrams.direction[i]][bin] += datagrams.length[i] * 8 / 1000 / each;
  }
  const high = Math.max(...sums[0], ...sums[1]);
  const pen = plot.begin(0, high * 1.1);
  ["up", "down"].forEach((name, direction) => {
    pen.strokeStyle = color(name);
    pen.lineWidth = 1.3;
    pen.beginPath();
    sums[direction].forEach((value, bin) => {
      const x = plot.x(view.from + bin * each), y = plot.y(value);
      pen.lineTo(x, y);
      pen.lineTo(plot.x(view.from + (bin + 1) * each), y);
    });
    pen.stroke();
  });
  pen.restore();
}

const plots = [
  new Plot("sequence", drawSequence), new Plot("roundTrip", drawRoundTrip),
  new Plot("inFlight", drawInFlight), new Plot("bandwidth", drawBandwidth),
];

let isDrawing = false;
function redraw() {
  if (isDrawing) return;
  isDrawing = true;
  requestAnimationFrame(() => {
    isDrawing = false;
    drawNow();
  });
}

function drawNow() {
  if (!shown) return;
  document.getElementById("range").textContent = seconds(view.from) + " to " + seconds(view.to);
  plots.forEach(plot => plot.draw(plot));
}

function show(from, to) {
  const [first, last] = view.whole, least = (last - first) * 1e-7 + 1e-6;
  if (to - from < least) return;
  view.from = Math.max(first, from);
  view.to = Math.min(last, to);
  redraw();
  filterMessages(true);
}

// The packet nearest to a place in the sequence plot.
function nearest(plot, x, y) {
  const { sent } = shown.stream;
  const width = (view.to - view.from) / plot.width * 8;
  const time = view.from + (x - MARGIN.left) / plot.width * (view.to - view.from);
  let best = null, distance = 100;
  for (let i = lowerBound(sent.time, time - width); i < sent.time.length && sent.time[i] <= time + width; i++) {
    const away = (plot.x(sent.time[i]) - x) ** 2 + (plot.y(sent.sequence[i]) - y) ** 2;
    if (away < distance) [best, distance] = [i, away];
  }
  return best;
}

function listen(plot) {
  const { canvas } = plot, tip = document.getElementById("tip");
  let drag = null;
  const timeAt = event => view.from + (event.offsetX - MARGIN.left) / plot.width * (view.to - view.from);
  canvas.addEventListener("wheel", event => {
    event.preventDefault();
    const at = timeAt(event), factor = Math.exp(event.deltaY * 0.0015);
    show(at - (at - view.from) * factor, at + (view.to - at) * factor);
  }, { passive: false });
  canvas.addEventListener("pointerdown", event => {
    drag = { x: event.offsetX, from: view.from, to: view.to, at: timeAt(event), select: event.shiftKey };
    canvas.setPointerCapture(event.pointerId);
  });
  canvas.addEventListener("pointerup", event => {
    if (drag && drag.select) show(Math.min(drag.at, timeAt(event)), Math.max(drag.at, timeAt(event)));
    drag = null;
  });
  canvas.addEventListener("pointermove", event => {
    if (drag && !drag.select) {
      const moved = (event.offsetX - drag.x) / plot.width * (drag.to - drag.from), [first, last] = view.whole;
      const by = Math.min(drag.from - first, Math.max(drag.to - last, moved));
      show(drag.from - by, drag.to - by);
      return;
    }
    let text = seconds(timeAt(event));
    if (plot.canvas.id === "sequence") {
      const index = nearest(plot, event.offsetX, event.offsetY), { sent } = shown.stream;
      if (index !== null) {
        text = sent.time[index].toFixed(6) + " s  #" + sent.sequence[index] + "  " + sent.length[index] + " B\n"
          + KINDS[sent.kind[index]][1];
      }
    }
    tip.textContent = text;
    tip.style.display = "block";
    tip.style.left = Math.min(event.clientX + 14, window.innerWidth - 180) + "px";
    tip.style.top = event.clientY + 14 + "px";
  });
  canvas.addEventListener("pointerleave", () => { tip.style.display = "none"; });
  canvas.addEventListener("dblclick", () => show(...view.whole));
}
