// The console: polls the JSON API once a second and redraws. Names of models are text, never markup.
"use strict";

const POLL_MS = 1000;
const HISTORY = 90;
const STATE_CLASS = { READY: "good", LOADING: "wait", UNLOADING: "wait", UNAVAILABLE: "bad" };
const histories = new Map(); // by model and version: the totals and times of earlier polls, and the rates between them

const at = (id) => document.getElementById(id);

function element(tag, className, text) {
  const made = document.createElement(tag);
  if (className) made.className = className;
  if (text !== undefined) made.textContent = text;
  return made;
}

function count(value) {
  if (value >= 1e6) return (value / 1e6).toFixed(value >= 1e7 ? 1 : 2) + " M";
  return value >= 100 ? Math.round(value).toLocaleString("en") : String(Math.round(value * 10) / 10);
}

function duration(seconds) {
  if (seconds === null) return "–";
  const [value, unit] = seconds < 1e-3 ? [seconds * 1e6, "µs"] : seconds < 1 ? [seconds * 1e3, "ms"] : [seconds, "s"];
  return `${value >= 100 ? Math.round(value) : Number(value.toPrecision(2))} ${unit}`;
}

function bytes(value) {
  for (const [unit, size] of [["GiB", 2 ** 30], ["MiB", 2 ** 20], ["KiB", 2 ** 10]])
    if (value >= size) return `${(value / size).toFixed(1)} ${unit}`;
  return `${value} B`;
}

function elapsed(seconds) {
  const minutes = Math.floor(seconds / 60), hours = Math.floor(minutes / 60), days = Math.floor(hours / 24);
  if (days) return `up ${days} d ${hours % 24} h`;
  if (hours) return `up ${hours} h ${minutes % 60} min`;
  return minutes ? `up ${minutes} min` : `up ${Math.floor(seconds)} s`;
}

function push(list, value) {
  list.push(value);
  if (list.length > HISTORY) list.shift();
}

// The rate since the last poll; 0 for the first.
function rateOf(key, total, now) {
  const known = histories.get(key) ?? { rates: [] };
  const rate = known.now === undefined || total < known.total ? 0 : (total - known.total) / Math.max(now - known.now, 0.2);
  if (known.now !== undefined) push(known.rates, rate);
  Object.assign(known, { total, now, seen: now });
  histories.set(key, known);
  return known.rates;
}

function spark(svg, values) {
  const svgns = "http://www.w3.org/2000/svg";
  svg.setAttribute("viewBox", `0 0 ${HISTORY - 1} 20`);
  svg.setAttribute("preserveAspectRatio", "none");
  svg.classList.add("spark");
  svg.replaceChildren();
  if (values.length < 2) return svg;
  const top = Math.max(...values, 1e-9);
  const points = values.map((value, i) => `${HISTORY - values.length + i},${(19 - (value / top) * 17).toFixed(2)}`);
  const area = document.createElementNS(svgns, "polygon");
  area.setAttribute("class", "area");
  area.setAttribute("points", `${HISTORY - values.length},20 ${points.join(" ")} ${HISTORY - 1},20`);
  const line = document.createElementNS(svgns, "polyline");
  line.setAttribute("class", "line");
  line.setAttribute("points", points.join(" "));
  svg.append(area, line);
  return svg;
}

function versionRow(model, version, now) {
  const row = element("tr"), recent = version.recent;
  const name = element("td", "", version.version);
  if (version.role !== "stable") name.append(element("span", "pill role", version.role));
  const state = element("td");
  state.append(element("span", `pill ${STATE_CLASS[version.state] ?? ""}`, version.state.toLowerCase()));
  if (version.reason) state.append(element("span", "reason", version.reason));
  const chart = element("td");
  const key = `${model.name}\n${version.version}`;
  chart.append(spark(document.createElementNS("http://www.w3.org/2000/svg", "svg"),
    rateOf(key, version.requests.total, now)));
  row.append(
    name, state, chart,
    element("td", "", count(recent.requests_per_second)),
    element("td", recent.failures_per_second > 0 ? "alarm" : "", count(recent.failures_per_second)),
    element("td", "", duration(recent.p50_seconds)),
    element("td", "", duration(recent.p99_seconds)),
    element("td", "", recent.batch_size === null ? "–" : count(recent.batch_size)),
    element("td", "", count(version.queue.requests)),
    element("td", version.state === "READY" && version.instances === 0 ? "alarm" : "", String(version.instances)),
    element("td", "", count(version.requests.total)),
  );
  return row;
}

function modelCard(model, now) {
  const card = element("article", "card model"), head = element("div", "head");
  head.append(element("h2", "", model.name), element("span", "quiet", `demand ${count(model.demand)}`));
  const table = element("table"), titles = element("tr");
  for (const title of ["version", "state", "", "req/s", "failed/s", "p50", "p99", "batch", "queued", "workers", "requests"]) {
    const cell = element("th", "", title);
    cell.scope = "col";
    titles.append(cell);
  }
  const top = element("thead"), rows = element("tbody");
  top.append(titles);
  rows.append(...model.versions.map((version) => versionRow(model, version, now)));
  table.append(top, rows);
  card.append(head, table);
  return card;
}

function drawTotals(versions, now) {
  const sum = (pick) => versions.reduce((total, version) => total + pick(version), 0);
  const worst = (pick) => versions.reduce((most, version) => (pick(version) ?? -1) > (most ?? -1) ? pick(version) : most, null);
  const rate = sum((version) => version.recent.requests_per_second);
  at("total-rate").textContent = count(rate);
  at("total-p99").textContent = duration(worst((version) => version.recent.p99_seconds));
  at("total-p50").textContent = `p50 ${duration(worst((version) => version.recent.p50_seconds))}, slowest version`;
  at("total-failures").textContent = count(sum((version) => version.recent.failures_per_second));
  at("total-shed").textContent = `${count(sum((version) => version.recent.shed_per_second))} /s of them shed`;
  at("total-flight").textContent = count(sum((version) => version.in_flight));
  at("total-queue").textContent =
    `${count(sum((version) => version.queue.rows))} rows queued, ${bytes(sum((version) => version.queue.bytes))}`;
  spark(at("total-spark"), rateOf("", sum((version) => version.requests.total), now));
}

function draw(health, models) {
  const now = performance.now() / 1000;
  const state = health.ready ? ["good", "ready"] : health.live ? ["wait", "not ready"] : ["bad", "not live"];
  at("status").className = `pill ${state[0]}`;
  at("status").textContent = state[1];
  at("version").textContent = health.version;
  at("uptime").textContent = elapsed(health.uptime_seconds);
  at("models").replaceChildren(...models.map((model) => modelCard(model, now)));
  at("empty").hidden = models.length > 0;
  drawTotals(models.flatMap((model) => model.versions), now);
  for (const [key, known] of histories) if (known.seen !== now) histories.delete(key);
  document.title = `${health.ready ? "" : "● "}Sluice`;
}

async function ask(path) {
  const token = sessionStorage.getItem("token");
  const response = await fetch(path, { headers: token ? { Authorization: `Bearer ${token}` } : {}, cache: "no-store" });
  if (response.status === 401) throw Object.assign(new Error("a token is needed"), { isLocked: true });
  if (!response.ok) throw new Error(`${path} answered ${response.status}`);
  return response.json();
}

async function poll() {
  try {
    const [health, list] = await Promise.all([ask("/api/v1/health"), ask("/api/v1/models")]);
    draw(health, list.models);
    at("login").hidden = true;
    at("trouble").hidden = true;
    at("page").hidden = false;
  } catch (error) {
    at("status").className = "pill bad";
    at("status").textContent = error.isLocked ? "locked" : "no answer";
    at("login").hidden = !error.isLocked;
    at("page").hidden = Boolean(error.isLocked);
    at("trouble").hidden = Boolean(error.isLocked);
    at("trouble").textContent = `The gateway does not answer (${error.message}). Trying again.`;
  }
  setTimeout(poll, POLL_MS);
}

at("login").addEventListener("submit", (event) => {
  event.preventDefault();
  sessionStorage.setItem("token", at("token").value.trim());
  at("token").value = "";
});

poll();
