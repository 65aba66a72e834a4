"use strict";
// What is shown of a peer's, or of anybody's, is put in as text: nothing here makes markup of it.

const SECONDS = 300; // of the last minutes, as many as the server keeps
const STALE = 12000; // milliseconds without news after which that is said
const LISTED = 50; // connections at most
const SVG = "http://www.w3.org/2000/svg";
const TURNED_AWAY = ["rejected_rate", "dropped_rate", "aborted_rate", "handshake_rate"];

const byId = (id) => document.getElementById(id);
const pause = (milliseconds) => new Promise((done) => setTimeout(done, milliseconds));
const sum = (values) => values.reduce((all, each) => all + (each ?? 0), 0);

function made(name, options = {}, ...children) {
  const element = document.createElement(name);
  Object.assign(element, options);
  element.append(...children);
  return element;
}

function drawn(name, attributes, text = "") {
  const element = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  element.textContent = text;
  return element;
}

function shown(value, digits = 0) {
  if (value === null || value === undefined) return "–";
  return value.toLocaleString("en", { minimumFractionDigits: digits, maximumFractionDigits: digits });
}

const perSecond = (value) => shown(value, value !== null && value < 100 ? 1 : 0);

function duration(seconds) {
  if (seconds === null) return "–";
  if (seconds < 60) return `${seconds.toFixed(0)} s`;
  if (seconds < 3600) return `${(seconds / 60).toFixed(0)} min`;
  return `${(seconds / 3600).toFixed(1)} h`;
}

function octets(count) {
  for (const unit of ["B", "kB", "MB", "GB"]) {
    if (count < 1000) return `${count < 10 && unit !== "B" ? count.toFixed(1) : Math.round(count)} ${unit}`;
    count /= 1000;
  }
  return `${shown(count)} TB`;
}

// ------------------------------------------------------------------------------- the token

const token = {
  get: () => sessionStorage.getItem("token") ?? "",
  set(text) {
    sessionStorage.setItem("token", text);
    document.body.dataset.steers = text ? "yes" : "no"; // the buttons are there for who has one
  },
};
token.set(token.get());
const authorized = () => (token.get() ? { Authorization: `Bearer ${token.get()}` } : {});
let tokenGiven = () => {};

byId("steer").addEventListener("submit", (event) => {
  event.preventDefault();
  token.set(byId("token").value.trim());
  byId("token").value = "";
  message("");
  tokenGiven();
  listed.refresh();
});

function message(text) {
  byId("message").textContent = text;
  byId("message").hidden = !text;
}

const REFUSED = {
  401: "This server wants its token for that.",
  403: "This server takes no commands here: it was started without a token.",
  421: "This server does not know the name by which you have reached it.",
  503: "Too many are watching already.",
};

async function ask(command, more = {}) {
  const answer = await fetch("do", {
    method: "POST",
    headers: { "Content-Type": "application/json", ...authorized() },
    body: JSON.stringify({ command, ...more }),
  });
  if (!answer.ok) throw new Error(REFUSED[answer.status] ?? `The server says: ${answer.statusText}`);
  const said = await answer.json();
  if (!said.ok) throw new Error(said.error);
  return said.result;
}

// Where a command is to be done: one listener, of one worker where there are several.
const at = ({ listener, worker }) => (worker ? { listener, worker } : { listener });

async function steer(command, more) {
  try {
    await ask(command, more);
    message("");
  } catch (error) {
    message(error.message);
  }
}

// A button that has to be pressed twice, the second time within some seconds.
function button(text, isSerious, act) {
  const element = made("button", { type: "button", textContent: text });
  element.addEventListener("click", () => {
    if (!isSerious || element.dataset.sure) {
      delete element.dataset.sure;
      element.textContent = text;
      act();
      return;
    }
    element.dataset.sure = "yes";
    element.textContent = `${text}: sure?`;
    setTimeout(() => {
      delete element.dataset.sure;
      element.textContent = text;
    }, 4000);
  });
  return element;
}

// ------------------------------------------------------------------------------- the plots

class Plot {
  constructor(title, lines) {
    this.lines = lines; // each: a name, a class, what it is of a point, whether it is filled
    this.points = [];
    this.pointed = null;
    this.keys = lines.map((line) => made("span", { className: `key ${line.colour}` }));
    this.svg = drawn("svg", { role: "img", "aria-label": `${title}, the last minutes` });
    const caption = made("figcaption", {}, made("b", { textContent: title }), ...this.keys);
    byId("plots").append(made("figure", {}, caption, this.svg));
    new ResizeObserver(() => this.draw()).observe(this.svg);
    this.svg.addEventListener("pointermove", (event) => this.point(event.offsetX));
    this.svg.addEventListener("pointerleave", () => this.point(null));
  }

  show(points) {
    this.points = points;
    this.draw();
  }

  point(x) {
    this.pointed = x;
    this.draw();
  }

  draw() {
    const [width, height] = [this.svg.clientWidth, this.svg.clientHeight];
    if (!width || !this.points.length) return;
    const [left, right, top, bottom] = [36, width - 4, 8, height - 18];
    const now = this.points.at(-1).at;
    const most = nice(Math.max(...this.points.flatMap((each) => this.lines.map((line) => line.of(each) ?? 0))));
    const x = (at) => right - ((now - at) / SECONDS) * (right - left);
    const y = (value) => bottom - (value / most) * (bottom - top);
    const parts = [];
    for (const part of [0, 0.5, 1]) {
      parts.push(drawn("line", { x1: left, x2: right, y1: y(part * most), y2: y(part * most) }));
      const label = { x: left - 6, y: y(part * most) + 4, "text-anchor": "end" };
      parts.push(drawn("text", label, brief(part * most)));
    }
    for (const minute of width < 420 ? [5, 3, 1] : [5, 4, 3, 2, 1]) {
      const label = { x: x(now - minute * 60), y: height - 4, "text-anchor": minute === 5 ? "start" : "middle" };
      parts.push(drawn("text", label, `−${minute} min`));
    }
    for (const line of this.lines) {
      for (const run of this.runs(line)) {
        const path = run.map((each, index) => `${index ? "L" : "M"}${x(each.at).toFixed(1)} ${y(line.of(each)).toFixed(1)}`);
        const around = `${path.join("")}L${x(run.at(-1).at).toFixed(1)} ${bottom}L${x(run[0].at).toFixed(1)} ${bottom}Z`;
        if (line.filled) parts.push(drawn("path", { class: `area ${line.colour}`, d: around }));
        parts.push(drawn("path", { class: line.colour, d: path.join("") }));
      }
    }
    const chosen = this.chosen(x);
    if (this.pointed !== null) {
      parts.push(drawn("line", { class: "pointer", x1: x(chosen.at), x2: x(chosen.at), y1: top, y2: bottom }));
    }
    this.svg.replaceChildren(...parts);
    this.lines.forEach((line, index) => {
      this.keys[index].textContent = `${line.name} ${line.shown(line.of(chosen))}`;
    });
  }

  chosen(x) {
    if (this.pointed === null) return this.points.at(-1);
    const distance = (each) => Math.abs(x(each.at) - this.pointed);
    return this.points.reduce((best, each) => (distance(each) < distance(best) ? each : best));
  }

  // What is missing in between, as when the server was gone, is no line.
  runs(line) {
    const found = [];
    let before = -Infinity;
    for (const each of this.points) {
      if (line.of(each) === null) continue;
      if (each.at - before > 3 * interval + 7) found.push([]);
      found.at(-1).push(each);
      before = each.at;
    }
    return found;
  }
}

function nice(value) {
  if (value <= 2) return 2;
  const power = 10 ** Math.floor(Math.log10(value));
  return [1, 2, 4, 6, 8, 10].map((each) => each * power).find((each) => each >= value);
}

function brief(value) {
  return value >= 10000 ? `${value / 1000}k` : `${value}`;
}

const turnedAway = (point) =>
  point.rejected_rate === null ? null : sum(TURNED_AWAY.map((name) => point[name]));

const plots = [
  new Plot("Connections per second", [
    { name: "accepted", colour: "accepted", of: (each) => each.accepted_rate, shown: perSecond },
    { name: "ended", colour: "ended", of: (each) => each.ended_rate, shown: perSecond },
    { name: "turned away", colour: "away", of: turnedAway, shown: perSecond },
  ]),
  new Plot("Open", [
    { name: "open", colour: "accepted", of: (each) => each.open, shown, filled: true },
    { name: "lingering", colour: "ended", of: (each) => each.lingering, shown },
  ]),
  new Plot("Waiting", [
    { name: "pending", colour: "away", of: (each) => each.pending, shown, filled: true },
    { name: "parked", colour: "accepted", of: (each) => each.parked, shown },
  ]),
];

const LEVELS = [
  ["Open", (point) => shown(point.open)],
  ["Pending", (point) => shown(point.pending)],
  ["Parked", (point) => shown(point.parked)],
  ["Accepted/s", (point) => perSecond(point.accepted_rate)],
  ["Ended/s", (point) => perSecond(point.ended_rate)],
  ["Turned away/s", (point) => perSecond(turnedAway(point))],
].map(([name, of]) => {
  const value = made("dd", { textContent: "–" });
  byId("levels").append(made("div", {}, made("dt", { textContent: name }), value));
  return { value, of };
});

// ------------------------------------------------------------------------------ the tables

// Rows are kept where they have the same key, so that a button lives while it is pressed.
class Table {
  constructor(id, columns, nothing) {
    this.columns = columns; // each: a head, whether it is a number, what it is of a row
    this.rows = new Map();
    this.body = made("tbody");
    this.note = made("caption", { textContent: nothing });
    this.nothing = nothing;
    const heads = columns.map((each) => made("th", { scope: "col", className: each.kind, textContent: each.head }));
    byId(id).append(this.note, made("thead", {}, made("tr", {}, ...heads)), this.body);
  }

  show(values, key, note = "") {
    const kept = new Map();
    for (const value of values) {
      const row = this.rows.get(key(value)) ?? this.row(value);
      this.columns.forEach((column, index) => column.put(row.cells[index], value));
      kept.set(key(value), row);
    }
    this.rows = kept;
    const wanted = [...kept.values()];
    if (wanted.some((row, index) => this.body.rows[index] !== row) || this.body.rows.length !== wanted.length) {
      this.body.replaceChildren(...wanted);
    }
    this.note.textContent = values.length ? note : this.nothing;
  }

  row(value) {
    const row = made("tr");
    for (const column of this.columns) {
      const cell = made("td", { className: column.kind });
      cell.append(...(column.buttons?.(value) ?? []));
      row.append(cell);
    }
    return row;
  }
}

function word(head, of) {
  return {
    head,
    kind: "word",
    put: (cell, value) => {
      cell.textContent = of(value);
      cell.title = of(value);
    },
  };
}

function number(head, of) {
  return { head, kind: "number", put: (cell, value) => (cell.textContent = of(value)) };
}

function buttons(of) {
  return { head: "", kind: "buttons", buttons: of, put: () => {} };
}

const state = {
  ...word("State", (each) => each.state),
  put: (cell, each) => {
    cell.textContent = each.state;
    cell.className = /^[a-z]+$/.test(each.state) ? each.state : "";
  },
};

const places = new Table(
  "places",
  [
    { ...word("Worker", (each) => each.worker || "–"), kind: "word worker" },
    { ...word("Process", (each) => each.process ?? "–"), kind: "word worker" },
    word("Listener", (each) => each.listener),
    state,
    number("Open", (each) => shown(each.open)),
    number("Pending", (each) => shown(each.pending)),
    number("Parked", (each) => shown(each.parked)),
    number("Accepted/s", (each) => perSecond(each.accepted_rate)),
    buttons((each) => [
      button("Pause", false, () => steer("pause", at(each))),
      button("Resume", false, () => steer("resume", at(each))),
      button("Refuse", true, () => steer("refuse", at(each))),
      // Workers drain together, since each would be started again.
      each.worker
        ? button("Drain all", true, () => steer("drain"))
        : button("Drain", true, () => steer("drain", at(each))),
    ]),
  ],
  "Nobody listens.",
);

const reasons = new Table(
  "reasons",
  [
    word("What", (each) => each.what),
    word("Why", (each) => each.why),
    number("Total", (each) => shown(each.total)),
    number("Per second", (each) => shown(each.rate, 1)),
  ],
  "Nobody was turned away, and nothing has failed.",
);

const waits = new Table(
  "waits",
  [
    word("Rule", (each) => each.rule),
    number("Waits/min", (each) => shown(each.waits)),
    number("Seconds each", (each) => shown(each.mean, 3)),
  ],
  "No rule has kept anybody waiting in the last minute.",
);

const listed = {
  table: new Table(
    "connections",
    [
      word("Peer", (each) => each.remote_address),
      word("Listener", (each) => each.listener),
      word("State", (each) => each.state),
      number("Open for", (each) => duration(each.open_seconds)),
      number("Idle for", (each) => duration(each.idle_seconds)),
      number("Received", (each) => octets(each.octets_received)),
      number("Sent", (each) => octets(each.octets_sent)),
      number("Unsent", (each) => octets(each.octets_unsent)),
      buttons((each) => [button("Reset", true, () => steer("abort", { id: each.id, ...at(each) }))]),
    ],
    "Nobody is connected.",
  ),

  async refresh() {
    if (!byId("open").open) return;
    const found = [];
    let open = 0;
    try {
      for (const listener of listeners) {
        const answer = await ask("connections", { listener, most: LISTED });
        open += answer.open;
        found.push(...answer.connections.map((each) => ({ ...each, listener })));
      }
    } catch (error) {
      message(error.message);
      return;
    }
    const first = found.slice(0, LISTED);
    const note = open > first.length ? `${shown(open - first.length)} more are open.` : "";
    this.table.show(first, (each) => `${each.listener} ${each.worker} ${each.id}`, note);
  },
};
byId("open").addEventListener("toggle", () => listed.refresh());

// -------------------------------------------------------------------------------- the news

let points = [];
let listeners = [];
let interval = 1;
let heard = 0;

const NEWS = {
  minutes(news) {
    interval = news.interval;
    points = news.points;
  },

  now(news) {
    if (!points.length || points.at(-1).at < news.point.at) points.push(news.point);
    while (points[0].at < news.point.at - SECONDS) points.shift();
    listeners = [...new Set(news.places.map((each) => each.listener))];
    for (const level of LEVELS) level.value.textContent = level.of(news.point);
    for (const plot of plots) plot.show(points);
    byId("places").dataset.workers = news.places.some((each) => each.worker) ? "yes" : "no";
    const note = news.silent.map((worker) => `Worker ${worker} gives no answer.`).join(" ");
    places.show(news.places, (each) => `${each.worker} ${each.process} ${each.listener}`, note);
    reasons.show(news.reasons, (each) => `${each.what} ${each.why}`);
    waits.show(news.waits, (each) => each.rule);
    listed.refresh();
  },
};

function say(kind, text) {
  byId("state").dataset.state = kind;
  byId("state").textContent = text;
}

function hear(event) {
  const fields = Object.fromEntries(event.split("\n").map((line) => line.split(/: (.*)/s)));
  NEWS[fields.event]?.(JSON.parse(fields.data));
  heard = Date.now();
  say("live", "live");
}

async function follow() {
  const stream = await fetch("events", { headers: authorized(), cache: "no-store" });
  if (!stream.ok) {
    say("gone", "not let in");
    message(REFUSED[stream.status] ?? `The server says: ${stream.statusText}`);
    await (stream.status === 401 ? new Promise((done) => (tokenGiven = done)) : pause(5000));
    return;
  }
  const reader = stream.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    const events = (rest + value).split("\n\n");
    rest = events.pop();
    events.forEach(hear);
  }
}

async function followAlways() {
  for (;;) {
    try {
      await follow();
    } catch {
      // the server is gone, and may come back
    }
    if (byId("state").dataset.state !== "gone") say("gone", "no answer, trying again");
    await pause(1000);
  }
}

setInterval(() => {
  const silent = Date.now() - heard;
  if (byId("state").dataset.state === "live" && silent > STALE) {
    say("waiting", `no news for ${Math.round(silent / 1000)} s`);
  }
}, 1000);

followAlways();
