// A card for each sink: its state, the sum that must hold, three charts, its lag by leg, its shards.

import { Chart, h, spark, strip } from "./charts.js";
import { brief, bytes, clock, count, minutes, plural, shard, short, span, whole } from "./words.js";

export const SERIES = ["read", "settled", "bytes", "open", "behind", "waited"];
const FEW = 6;
const LEGS = [["commit_to_kinesis", "commit → Kinesis"], ["kinesis_to_read", "Kinesis → read"], ["read_to_sink", "read → sink"]];
const STATES = { running: ["good", "●"], done: ["good", "✓"], starting: ["wait", "◌"], draining: ["wait", "◌"], stopped: ["bad", "■"] };

export const badge = (text, level, sign) => h("span", { className: `badge ${level}` }, h("span", { "aria-hidden": "true" }, `${sign} `), text);

// Put children in only where they are not what is there already: what is selected or focused stays so.
export function fill(element, key, make) {
  const text = JSON.stringify(key);
  if (element.filled === text) return;
  element.filled = text;
  element.replaceChildren(...[make()].flat());
}

export const balanced = (sink) => sink.read === sink.open + Object.values(sink.settled).reduce((sum, n) => sum + n, 0);

export class Sink {
  constructor(name) {
    const id = `sink-${name}`;
    this.name = name;
    this.series = Object.fromEntries(SERIES.map((one) => [one, []]));
    this.sparks = {};
    this.all = false;
    this.state = h("span");
    this.sum = h("p", { className: "sum" });
    this.why = h("p", { className: "why" });
    this.flow = new Chart("Throughput", [{ name: "read", mark: "one" }, { name: "settled", mark: "two" }], (n) => `${count(n)}/s`, short, 5);
    this.lag = new Chart("Lag", [{ name: "behind", mark: "one" }, { name: "waiting", mark: "two" }], span, brief, 2);
    this.debts = new Chart("Open debts", [{ name: "open", mark: "three" }], count, short, 10);
    this.legs = h("dl", { className: "legs" });
    this.facts = h("p", { className: "facts quiet" });
    this.words = h("p", { className: "quiet" });
    this.strip = h("div");
    this.rows = h("tbody");
    this.table = h("div", { className: "wide", role: "group", "aria-label": `Table of shards of ${name}`, tabIndex: 0 },
      h("table", {}, h("caption", { className: "unseen", textContent: `Shards of ${name}, the furthest behind first` }),
        h("thead", {}, h("tr", {}, ["Shard", "Behind", "Open", "Last 10 min", "Checkpoint"].map((one) => h("th", { scope: "col", textContent: one })))), this.rows));
    this.more = h("button", { type: "button", className: "plain", onclick: () => { this.all = !this.all; this.#shards(this.data.sink.shards); } });
    this.rest = h("p", { className: "quiet" }, h("span"), h("a", { href: "status", textContent: "status" }), ".");
    this.shards = h("div", { className: "shards" }, h("h3", { textContent: "Shards" }), this.words, this.strip, this.table, this.more, this.rest);
    this.minutes = h("details", { className: "minutes" }, h("summary", {}, "The charts as numbers, by the minute"));
    this.minutes.addEventListener("toggle", () => this.#minutes());
    this.element = h("section", { className: "card sink", "aria-labelledby": id },
      h("div", { className: "head" }, h("h2", { id, textContent: name }), this.state),
      this.why, this.sum, this.legs,
      h("div", { className: "charts" }, this.flow.element, this.lag.element, this.debts.element),
      this.facts, this.shards, this.minutes);
  }

  // `times` are the page's, `now` the daemon's clock, which goes on while nothing is heard.
  update(sink, times, now, step) {
    this.data = { sink, times, now, step };
    const [level, sign] = STATES[sink.state] ?? ["wait", "◌"];
    fill(this.state, [sink.state, sink.circuit], () => [badge(sink.state, level, sign),
      ...(sink.circuit && sink.circuit !== "closed" ? [" ", badge(`circuit ${sink.circuit.replace("_", " ")}`, "warn", "▲")] : [])]);
    this.why.textContent = sink.state === "stopped" ? sink.reason : "";
    this.why.hidden = sink.state !== "stopped";
    fill(this.sum, [sink.read, sink.settled, sink.open], () => this.#sum(sink));
    fill(this.legs, LEGS.map(([leg]) => sink.lag[leg]), () => LEGS.map(([leg, words]) =>
      h("div", {}, h("dt", { textContent: words }), h("dd", { textContent: sink.lag[leg] === undefined ? "–" : span(sink.lag[leg]) }))));
    this.tick(now);
    this.#shards(sink.shards);
  }

  // What changes with time alone.
  tick(now) {
    const { sink, times, step } = this.data, { read, settled, behind, waited, open } = this.series;
    this.flow.update(times, [read, settled], now, step);
    this.lag.update(times, [behind, waited], now, step);
    this.debts.update(times, [open], now, step);
    const facts = [
      sink.committed_at ? `checkpoint committed ${span(Math.max(0, now - sink.committed_at))} ago` : "nothing committed yet",
      sink.newest_at && `newest change in the sink was committed in the database ${span(Math.max(0, now - sink.newest_at))} ago`,
      sink.in_flight_bytes && `${bytes(sink.in_flight_bytes)} in flight`,
      sink.retention_left !== null && sink.retention_used >= 0.01 && `${(sink.retention_used * 100).toFixed(0)} % of the retention gone, ${span(sink.retention_left)} left`,
      Object.keys(sink.retries).length && `tried again: ${Object.entries(sink.retries).map(([code, n]) => `${code} ${count(n)}`).join(", ")}`,
    ];
    this.facts.textContent = facts.filter(Boolean).join(" · ");
  }

  push(sink) {
    SERIES.forEach((name, n) => this.series[name].push(sink.point[n]));
  }

  trim(length) {
    for (const values of Object.values(this.series)) values.splice(0, Math.max(0, values.length - length));
  }

  #sum(sink) {
    const parts = Object.entries(sink.settled).filter(([, n]) => n).map(([outcome, n]) => [whole(n), outcome]);
    parts.push([whole(sink.open), "open"]);
    const terms = parts.flatMap(([n, word], place) => [place ? " + " : "", h("span", { className: "term" }, h("b", { textContent: n }), ` ${word}`)]);
    return [h("span", { className: "term" }, "read ", h("b", { textContent: whole(sink.read) })), " = ", ...terms,
      balanced(sink) ? null : h("strong", { className: "wrong", textContent: " does not add up" })].filter(Boolean);
  }

  #shards(shards) {
    const words = [plural(shards.live, "shard"), shards.ended && `${whole(shards.ended)} closed`,
      this.data.sink.state === "stopped" ? "not read any more" : shards.behind ? `${whole(shards.behind)} behind the tip by a second or more` : "all at the tip",
      shards.owing ? `${whole(shards.owing)} ${shards.owing === 1 ? "owes" : "owe"} something` : "none owes anything"].filter(Boolean).join(", ");
    const none = !shards.live && !shards.ended, left = shards.shown.length - FEW, untold = shards.live - shards.shown.length;
    this.words.textContent = none ? "No shard has been read yet." : `${words}.`;
    this.table.hidden = !shards.shown.length;
    this.strip.hidden = shards.strip.length <= 12;
    fill(this.strip, [shards.strip, words], () => strip(shards.strip, `All shards by their names: ${words}`));
    const most = Math.max(50, ...shards.shown.map((one) => one.open)), far = Math.max(5, ...shards.shown.map((one) => one.behind));
    const rows = this.all ? shards.shown : shards.shown.slice(0, FEW);
    fill(this.rows, [rows, most, far, this.sparks], () => rows.map((one) => this.#row(one, most, far)));
    this.more.hidden = left <= 0;
    this.more.setAttribute("aria-expanded", String(this.all));
    this.more.textContent = this.all ? "Show the worst only" : `Show ${left} more`;
    this.rest.hidden = untold <= 0;
    this.rest.firstChild.textContent = `${whole(untold)} more are no worse than these; all of them: `;
  }

  #row(one, most, far) {
    const past = this.sparks[one.shard] ?? {};
    const behind = h("td", { className: "number" }, meter(one.behind / far, "one"), one.ended ? "closed" : one.behind ? span(one.behind) : this.data.sink.state === "stopped" ? "not read any more" : "at the tip");
    return h("tr", {}, h("th", { scope: "row", title: one.shard, textContent: shard(one.shard) }), behind,
      h("td", { className: "number" }, meter(one.open / most, "three"), count(one.open)),
      h("td", {}, spark(past.behind, "one"), spark(past.open, "three")),
      h("td", { className: "number", textContent: one.checkpoint_age === null ? "none yet" : `${span(one.checkpoint_age)} old` }));
  }

  #minutes() {
    if (!this.minutes.open || !this.data) return;
    const { times } = this.data, rows = [];
    for (let n = times.length - 1; n >= 0 && rows.length < 31; n -= 30)
      rows.push(h("tr", {}, h("th", { scope: "row", textContent: clock(times[n]) }), [["read", count], ["settled", count], ["bytes", bytes], ["open", count], ["behind", span], ["waited", span]]
        .map(([name, say]) => h("td", { className: "number", textContent: say(this.series[name][n] ?? 0) }))));
    const names = ["Time", "Read/s", "Settled/s", "Bytes/s", "Open", "Behind", "Waiting"];
    this.minutes.replaceChildren(this.minutes.querySelector("summary"), h("div", { className: "wide", role: "group", "aria-label": `Table of ${this.name} by the minute`, tabIndex: 0 },
      h("table", {}, h("caption", { className: "unseen", textContent: `${this.name} by the minute, over ${minutes(times.at(-1) - times[0])}` }),
        h("thead", {}, h("tr", {}, names.map((name) => h("th", { scope: "col", textContent: name })))), h("tbody", {}, rows))));
  }
}

function meter(part, mark) {
  const bar = h("span", { className: `meter ${mark}`, "aria-hidden": "true" }, h("i"));
  bar.firstChild.style.width = `${Math.round(100 * Math.min(1, part))}%`;
  return bar;
}
