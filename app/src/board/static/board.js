// Eyewall board: the live view, the poll of who answers, and the upload. No library, nothing from outside.
"use strict";

const $ = (id) => document.getElementById(id);

function make(tag, properties = {}, ...children) {
  const element = Object.assign(document.createElement(tag), properties);
  element.append(...children);
  return element;
}

const clock = (date) => date.toLocaleTimeString([], { hour: "2-digit", minute: "2-digit", second: "2-digit", hour12: false });
const where = ({ host, port, pid }) => (port ? `${host}:${port}` : `${host} · ${pid}`);
const ms = (value) => (value < 10 ? value.toFixed(1) : String(Math.round(value)));

/* What happened */

const LOG_LINES = 100;

function note(text, kind = "") {
  const now = new Date();
  const time = make("time", { dateTime: now.toISOString(), textContent: clock(now) });
  $("log").prepend(make("li", { className: kind }, time, make("span", { textContent: text })));
  while ($("log").children.length > LOG_LINES) $("log").lastChild.remove();
}

/* The curve of round trips: one value a second for a minute; null stands for a second without an answer */

const SECONDS = 60;
const trips = [];

function draw() {
  const known = trips.filter((trip) => trip !== null);
  if (known.length) {
    const sorted = [...known].sort((a, b) => a - b);
    $("median").textContent = `${ms(sorted[Math.floor(sorted.length / 2)])} ms`;
    $("worst").textContent = `${ms(sorted[sorted.length - 1])} ms`;
  }
  const top = Math.max(2, ...known) * 1.15;
  const x = (index) => 300 - (trips.length - 1 - index) * (300 / (SECONDS - 1));
  const shapes = [];
  let run = [];
  const finish = () => {
    if (run.length > 1) {
      const line = run.map(([left, y]) => `${left.toFixed(1)} ${y.toFixed(1)}`).join("L");
      shapes.push(["path", { class: "under", d: `M${run[0][0].toFixed(1)} 64L${line}L${run.at(-1)[0].toFixed(1)} 64Z` }]);
      shapes.push(["path", { d: `M${line}` }]);
    }
    run = [];
  };
  trips.forEach((trip, index) => {
    if (trip === null) {
      finish();
      shapes.push(["line", { x1: x(index), x2: x(index), y1: 0, y2: 64 }]);
    } else {
      run.push([x(index), 64 - (trip / top) * 64]);
    }
  });
  finish();
  $("spark").replaceChildren(
    ...shapes.map(([tag, attributes]) => {
      const shape = document.createElementNS("http://www.w3.org/2000/svg", tag);
      for (const [name, value] of Object.entries(attributes)) shape.setAttribute(name, value);
      return shape;
    }),
  );
}

function trip(value) {
  trips.push(value);
  if (trips.length > SECONDS) trips.shift();
  draw();
}

/* The live view */

const RESTARTING = 1012; // "service restart": the process says goodbye, and another one is there already
const SILENCE = 5000; // a message comes every second; after this long without one the connection is dead
const still = matchMedia("(prefers-reduced-motion: reduce)");

const live = {
  socket: null,
  last: null, // the last message that said who is speaking
  lostAt: 0,
  tries: 0,
  reconnects: 0,
  silence: 0,
  retry: 0,

  state(name) {
    if ($("eye").dataset.state !== name) $("eye").dataset.state = name;
    if ($("state").textContent !== name) $("state").textContent = name;
  },

  connect() {
    clearTimeout(live.retry);
    const socket = new WebSocket(new URL("/live", location.href.replace(/^http/, "ws")));
    live.socket = socket;
    live.watch();
    socket.onmessage = (event) => live.socket === socket && live.message(JSON.parse(event.data));
    socket.onclose = (event) => live.socket === socket && live.lost(event.code);
  },

  // A connection that dies without a word is noticed here, not by the browser.
  watch() {
    clearTimeout(live.silence);
    live.silence = setTimeout(() => {
      live.socket.close();
      live.lost(0);
    }, SILENCE);
  },

  message(message) {
    live.watch();
    if ("pong" in message) {
      const value = performance.now() - message.pong;
      $("rtt").textContent = ms(value);
      trip(value);
      return;
    }
    live.welcome(message);
    live.last = message;
    $("live-from").textContent = `from ${where(message)}, release ${message.release}`;
    $("served").textContent = message.served.toLocaleString();
    if (!still.matches) {
      $("pulse").animate(
        [{ transform: "scale(1)", opacity: 0.5 }, { transform: "scale(1.75)", opacity: 0 }],
        { duration: 900, easing: "ease-out" },
      );
    }
    live.socket.send(JSON.stringify({ ping: performance.now() }));
  },

  welcome(message) {
    if ($("eye").dataset.state === "connected") return;
    live.state("connected");
    live.tries = 0;
    if (!live.last) {
      note(`connected to ${where(message)}`, "good");
      return;
    }
    const took = Math.round(performance.now() - live.lostAt);
    const changes = [];
    if (message.release !== live.last.release) changes.push(`release ${live.last.release} → ${message.release}`);
    if (message.host !== live.last.host) changes.push(`${where(live.last)} → ${where(message)}`);
    else if (message.port !== live.last.port) changes.push(`port ${live.last.port} → ${message.port}`);
    else if (message.pid !== live.last.pid) changes.push(`process ${live.last.pid} → ${message.pid}`);
    note([...changes, `reconnected in ${took} ms`].join(", "), "good");
    $("reconnects").textContent = String(++live.reconnects);
  },

  lost(code) {
    clearTimeout(live.silence);
    live.socket = null;
    if ($("eye").dataset.state === "connected") {
      live.lostAt = performance.now();
      trip(null);
      if (code !== RESTARTING) note(`connection lost (${code || "silence"})`, "warn");
    }
    live.state("reconnecting");
    $("rtt").textContent = "–";
    // Told to come back: at once, but not all at the same instant. Otherwise: slower with every failure.
    const polite = code === RESTARTING && live.tries === 0;
    const delay = polite ? 20 + 180 * Math.random() : Math.min(10000, 400 * 2 ** live.tries) * (0.5 + Math.random() / 2);
    live.tries += 1;
    live.retry = setTimeout(live.connect, delay);
  },
};

/* Who answers */

const answers = new Map();
const poll = { asked: 0, lost: 0, every: 1000, timer: 0 };

async function ask() {
  poll.asked += 1;
  let who = null;
  try {
    const response = await fetch("/whoami", { cache: "no-store", signal: AbortSignal.timeout(10000) });
    if (!response.ok) throw new Error(`status ${response.status}`);
    who = await response.json();
  } catch (error) {
    poll.lost += 1;
    note(`a request was lost: ${error.message}`, "warn");
  }
  if (who) {
    const key = `${where(who)} ${who.release}`;
    const entry = answers.get(key) ?? { who, count: 0 };
    answers.set(key, { who, count: entry.count + 1 });
    showAnswers(key);
  }
  $("asked").textContent = poll.asked.toLocaleString();
  $("lost").textContent = poll.lost.toLocaleString();
  $("lost").classList.toggle("some", poll.lost > 0);
}

function showAnswers(latest) {
  const rows = [...answers].sort(([a], [b]) => a.localeCompare(b, undefined, { numeric: true }));
  const most = Math.max(...rows.map(([, { count }]) => count));
  $("bars").replaceChildren(
    ...rows.map(([key, { who, count }]) => {
      const name = make("span", { className: "name" }, where(who), " ", make("small", { textContent: who.release }));
      const fill = make("div", { className: "fill" });
      fill.style.width = `${(100 * count) / most}%`;
      const share = `${count.toLocaleString()} · ${Math.round((100 * count) / (poll.asked - poll.lost))} %`;
      return make(
        "li",
        { className: key === latest ? "latest" : "" },
        name,
        make("span", { className: "count", textContent: share }),
        make("div", { className: "track" }, fill),
      );
    }),
  );
}

async function keepAsking() {
  clearTimeout(poll.timer);
  if (!$("keep").checked) return;
  if (!document.hidden) await ask();
  clearTimeout(poll.timer);
  poll.timer = setTimeout(keepAsking, poll.every);
}

async function firstLook() {
  for (let count = 0; count < 8; count += 1) await ask();
}

/* Files. XMLHttpRequest, because fetch cannot tell how far an upload has come. */

function upload(file) {
  const { xsrf, max, maxText, keep } = $("upload").dataset;
  const say = (text, kind = "") => {
    $("note").textContent = text;
    $("note").className = `note ${kind}`;
  };
  if (file.size > Number(max)) {
    say(`“${file.name}” is too large: up to ${maxText} are accepted.`, "bad");
    return;
  }
  const request = new XMLHttpRequest();
  const end = () => {
    $("sending").hidden = true;
    $("drop").hidden = false;
    $("file").value = "";
  };
  request.open("PUT", `/upload?name=${encodeURIComponent(file.name)}`);
  request.setRequestHeader("X-XSRFToken", xsrf);
  request.setRequestHeader("Content-Type", "application/octet-stream");
  request.upload.onprogress = (event) => {
    if (event.lengthComputable && event.total) $("progress").value = event.loaded / event.total;
  };
  request.onload = () => {
    end();
    let answer = {};
    try {
      answer = JSON.parse(request.responseText);
    } catch {
      // A proxy in front answers in HTML.
    }
    if (request.status === 201) {
      say(`“${answer.name}” is stored. SHA-256 ${answer.sha256.slice(0, 16)}…, ${answer.seconds} s.`, "good");
      list(answer, Number(keep));
    } else if (request.status === 413) {
      say(answer.error ?? `The file is too large: up to ${maxText} are accepted.`, "bad");
    } else {
      say(answer.error ?? `The upload failed with status ${request.status}.`, "bad");
    }
  };
  request.onerror = () => {
    end();
    say("The connection was lost. Nothing was stored; please try again.", "bad");
  };
  request.onabort = () => {
    end();
    say("Cancelled. Nothing was stored.");
  };
  $("cancel").onclick = () => request.abort();
  $("progress").value = 0;
  $("drop").hidden = true;
  $("sending").hidden = false;
  $("cancel").focus();
  say(`Sending “${file.name}” …`);
  request.send(file);
}

function list(file, keep) {
  const body = $("files").tBodies[0];
  for (const row of [...body.rows]) if (row.cells[0].textContent === file.name) row.remove();
  const link = make("a", { href: `/files/${encodeURIComponent(file.name)}`, textContent: file.name });
  const time = make("time", { dateTime: new Date().toISOString() });
  body.prepend(make("tr", {}, make("td", {}, link), make("td", { textContent: size(file.size) }), make("td", {}, time)));
  while (body.rows.length > keep) body.lastElementChild.remove();
  $("files").hidden = false;
  localTimes();
}

function size(bytes) {
  const units = ["bytes", "KB", "MB", "GB"];
  let unit = 0;
  while (bytes >= 1024 && unit < units.length - 1) {
    bytes /= 1024;
    unit += 1;
  }
  return `${unit && bytes < 100 ? bytes.toFixed(1).replace(/\.0$/, "") : Math.round(bytes)} ${units[unit]}`;
}

// The server writes UTC; a reader has a clock of their own.
function localTimes() {
  for (const time of document.querySelectorAll(".files time")) {
    time.textContent = new Date(time.dateTime).toLocaleString([], { dateStyle: "medium", timeStyle: "short" });
  }
}

function prepareUploads() {
  $("file").addEventListener("change", () => $("file").files[0] && upload($("file").files[0]));
  for (const name of ["dragover", "dragleave", "drop"]) {
    $("drop").addEventListener(name, (event) => {
      event.preventDefault();
      $("drop").classList.toggle("over", name === "dragover");
      if (name === "drop" && event.dataTransfer.files[0]) upload(event.dataTransfer.files[0]);
    });
  }
  localTimes();
}

/* Start */

live.connect();
window.addEventListener("online", () => live.socket || live.connect());
$("ask").addEventListener("click", ask);
$("keep").addEventListener("change", keepAsking);
if ($("upload")) prepareUploads();
firstLook();
