// The page: what is heard goes into the sinks, the aside and the verdict; while nothing is heard it says since when.

import { Aside, command, problems } from "./aside.js";
import { h } from "./charts.js";
import { Live } from "./live.js";
import { SERIES, Sink, fill } from "./sinks.js";
import { bytes, clock, count, plural, span } from "./words.js";

const POINTS = 900;
const get = (id) => document.getElementById(id);
const aside = new Aside(get("aside"));
const sinks = new Map();
let times = [], page = null, heardAt = 0, state = "waiting", why = "";

// The daemon's clock, as far as we know it.
const now = () => (page ? page.at + (performance.now() - heardAt) / 1000 : 0);

function sinkOf(name) {
  if (!sinks.has(name)) {
    const made = new Sink(name);
    sinks.set(name, made);
    get("sinks").append(made.element);
    for (const values of Object.values(made.series)) values.push(...Array(times.length).fill(0));
  }
  return sinks.get(name);
}

function heard(name, body) {
  if (name === "history") {
    times = body.at;
    for (const [sink, series] of Object.entries(body.sinks)) {
      const mine = sinkOf(sink).series;
      for (const one of SERIES) mine[one] = [...Array(Math.max(0, times.length - series[one].length)).fill(0), ...series[one]];
    }
  } else if (name === "shards") {
    for (const [sink, sparks] of Object.entries(body)) sinkOf(sink).sparks = sparks;
  } else if (name === "tick") {
    page = body;
    heardAt = performance.now();
    live.silence = Math.max(8000, 4 * page.step * 1000);
    if (!times.length || body.at - times.at(-1) > page.step / 2) {
      for (const sink of body.sinks) sinkOf(sink.name).push(sink);
      times.push(body.at);
      times.splice(0, Math.max(0, times.length - POINTS));
      for (const sink of sinks.values()) sink.trim(times.length);
    }
    show();
  }
}

function show() {
  get("page").hidden = false;
  get("token").hidden = true;
  get("links").hidden = Boolean(live.token); // an address opened by hand shows no token
  document.title = `${page.pipeline} · dsqlcdc`;
  get("pipeline").textContent = page.pipeline || "dsqlcdc";
  for (const [name, sink] of sinks) {
    const data = page.sinks.find((one) => one.name === name);
    sink.element.hidden = !data;
    if (data) sink.update(data, times, now(), page.step);
  }
  aside.update(page);
  tick();
}

// What time alone changes, once a second.
function tick() {
  news();
  if (!page) return;
  get("process").textContent = `dsqlcdc ${page.version} · running for ${span(now() - page.since)}`;
  if (state !== "live") for (const sink of sinks.values()) if (sink.data) sink.tick(now());
  verdict();
  glance();
}

function news() {
  const silent = page ? now() - page.at : 0, late = page && silent > 3 * page.step;
  const shown = state === "live" && late ? "lost" : state;
  get("news").dataset.state = shown;
  get("news-text").textContent = shown === "live" ? `Live · ${clock(page.at)}` : shown === "token" ? "A token is needed"
    : page ? `No news since ${clock(page.at)} (${span(silent)} ago)` : shown === "lost" ? "Nobody answers; trying again" : "Connecting …";
  document.body.classList.toggle("stale", shown !== "live" && Boolean(page));
  return shown;
}

function verdict() {
  const lost = get("news").dataset.state !== "live", found = problems(page), serious = found.some((one) => one.level < 2);
  const read = page.sinks.reduce((sum, sink) => sum + sink.read, 0);
  const busy = page.sinks.filter((sink) => sink.state === "running").length;
  const title = lost ? `Disconnected: what stands here is as of ${clock(page.at)}` : found.length ? `${plural(found.length, "thing")} to look at`
    : !page.sinks.length || page.sinks.some((sink) => sink.state === "starting") ? "Starting" : busy === 0 ? "Nothing runs any more" : read ? "Everything flows" : "Ready, and nothing has come yet";
  if (get("verdict-title").textContent !== title) get("verdict-title").textContent = title;
  get("verdict").dataset.level = lost ? "lost" : serious ? "bad" : found.length ? "warn" : "good";
  const furthest = Math.max(0, ...page.sinks.map((sink) => sink.behind)), open = page.sinks.reduce((sum, sink) => sum + sink.open, 0);
  get("verdict-text").textContent = lost ? `The daemon has ended, or cannot be reached from here. ${why ? `The last try: ${why}. ` : ""}It is tried again by itself.`
    : `${plural(busy, "sink")} of ${page.sinks.length} running; the furthest shard is ${furthest ? `${span(furthest)} behind` : "at the tip"}; ${open ? `${count(open)} owed` : "nothing is owed"}.`;
  const list = get("todo");
  fill(list, found.map((one) => [one.what, one.run, one.level]), () => found.map((one) => h("li", { className: one.level < 2 ? "bad" : "warn" },
    h("p", {}, h("span", { "aria-hidden": "true", textContent: one.level < 2 ? "■ " : "▲ " }), h("b", { textContent: one.what })), h("p"), one.run.map(command))));
  found.forEach((one, n) => { list.children[n].children[1].textContent = one.why; });
}

function glance() {
  const sum = (place) => page.sinks.reduce((all, sink) => all + sink.point[place], 0);
  const longest = Math.max(0, ...page.sinks.map((sink) => Math.max(sink.behind, sink.point[5])));
  const tiles = [["Settled", `${count(sum(1))}/s`, "by all sinks"], ["Read", `${bytes(sum(2))}/s`, `${count(sum(0))} records/s`],
    ["Lag", span(longest), "the longest: behind, or waiting for a sink"], ["Open", count(sum(3)), "records owed"]];
  fill(get("glance"), tiles, () => tiles.map(([name, value, note]) => h("div", {}, h("dt", { textContent: name }), h("dd", {}, h("b", { textContent: value }), h("span", { className: "quiet", textContent: note })))));
}

function changed(next, reason) {
  state = next;
  why = reason;
  if (next === "token") {
    get("token").hidden = false;
    get("page").hidden = true;
    get("token-wrong").textContent = reason;
    if (!document.activeElement || document.activeElement === document.body) get("token-value").focus();
  }
  tick();
}

const live = new Live(heard, changed);
get("token").addEventListener("submit", (event) => {
  event.preventDefault();
  live.use(get("token-value").value.trim());
});
addEventListener("hashchange", () => location.reload()); // a token was given to a page that is open
setInterval(tick, 1000);
live.run();
