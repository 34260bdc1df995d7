// Beside the sinks: the CDC stream with its remedy, gaps, dead letters, what happened, what reading costs. And what is to be done.

import { h } from "./charts.js";
import { badge, balanced, fill } from "./sinks.js";
import { bytes, clock, count, minutes, moment, plural, shard, span, whole } from "./words.js";

const LATE = 60, FEW = 5;

export function command(text) {
  const code = h("code", { textContent: text, tabIndex: 0 });
  const made = h("span", { className: "command" }, code);
  if (navigator.clipboard) {
    const button = h("button", { type: "button", className: "copy", textContent: "Copy", "aria-label": `Copy: ${text}` });
    button.onclick = async () => {
      try { await navigator.clipboard.writeText(text); button.textContent = "Copied"; } catch { getSelection().selectAllChildren(code); }
      setTimeout(() => { button.textContent = "Copy"; }, 1500);
    };
    made.append(button);
  }
  return made;
}

const card = (id, title) => {
  const body = h("div");
  return { element: h("section", { className: "card", id, "aria-labelledby": `${id}-title` }, h("h2", { id: `${id}-title`, textContent: title }), body), body };
};

export class Aside {
  constructor(place) {
    this.cards = Object.fromEntries([["stream", "CDC stream"], ["gaps", "Gaps"], ["letters", "Dead letters"], ["happened", "What happened"], ["reading", "Reading the stream"]]
      .map(([id, title]) => [id, card(id, title)]));
    place.replaceChildren(...Object.values(this.cards).map((one) => one.element));
  }

  update(page) {
    const { stream, gaps, letters, happened, reading } = this.cards;
    stream.element.hidden = !page.stream;
    if (page.stream) fill(stream.body, [page.stream, page.config], () => streamBody(page.stream, page.config));
    fill(gaps.body, [page.gaps, page.stores_at !== null], () => gapsBody(page));
    fill(letters.body, page.sinks.map((sink) => [sink.name, sink.letters, sink.dead]), () => lettersBody(page));
    fill(happened.body, page.happened, () => happenedBody(page.happened));
    reading.element.hidden = !page.source;
    if (page.source) fill(reading.body, [page.source, page.fragments], () => readingBody(page));
  }
}

function streamBody(stream, config) {
  const status = stream.status ?? "UNKNOWN", remedy = stream.remedy;
  const level = status === "ACTIVE" ? "good" : ["IMPAIRED", "FAILED", "GONE"].includes(status) ? "bad" : "wait";
  const parts = [h("p", {}, badge(status, level, { good: "●", bad: "■", wait: "◌" }[level]), stream.reason && ` ${stream.reason.error}`)];
  if (remedy) {
    parts.push(h("p", { textContent: remedy.explanation }));
    const found = remedy.checks.filter((check) => check.confirms);
    if (found.length) parts.push(h("h3", { textContent: "What confirms it" }), h("ul", {}, found.map((check) => h("li", { textContent: `${check.question} ${check.found}` }))));
    parts.push(h("h3", { textContent: "What to do" }), h("ol", { className: "steps" }, remedy.actions.map((action) =>
      h("li", {}, action.what, action.command && command(action.command),
        action.policy && h("details", {}, h("summary", {}, "The policy"), h("pre", { tabIndex: 0, textContent: typeof action.policy === "string" ? action.policy : JSON.stringify(action.policy, null, 2) }))))));
    if (remedy.expect) parts.push(h("p", { className: "quiet", textContent: `Then: ${remedy.expect.replace(/\.$/, "")}, within ${minutes(remedy.within)}.` }));
  }
  if (stream.kept_until) parts.push(h("p", {}, "What DSQL holds back is kept until ", h("b", { textContent: moment(stream.kept_until) }), "."));
  if (stream.fault) parts.push(h("p", { className: "quiet", textContent: `It cannot be looked at: ${stream.fault}` }));
  if (status !== "ACTIVE") parts.push(h("p", {}, command(`dsqlcdc stream status ${config}`)));
  return parts.concat(h("p", { className: "quiet", textContent: [`cluster ${stream.cluster}`, stream.id && `stream ${stream.id}`, stream.healthy_at && `last seen ACTIVE ${moment(stream.healthy_at)}`].filter(Boolean).join(" · ") }));
}

function gapsBody(page) {
  if (!page.gaps.unacknowledged) return h("p", { className: "quiet", textContent: page.stores_at === null ? "Not asked yet." : "None that is not acknowledged." });
  const shown = page.gaps.shown.slice(0, FEW), left = page.gaps.unacknowledged - shown.length;
  return [
    h("p", { textContent: "Changes may be lost within these bounds. Look, repair what is downstream, then acknowledge." }),
    h("ul", { className: "list" }, shown.map((gap) => h("li", {},
      h("b", { textContent: gap.kind }), ` ${gap.id}`, gap.sink && ` · ${gap.sink}`, gap.shard && ` · shard ${shard(gap.shard)}`,
      h("br"), h("span", { className: "quiet", textContent: [gap.detail, gap.from && `from ${moment(gap.from)}`, gap.to > (gap.from ?? 0) && `to ${moment(gap.to)}`].filter(Boolean).join(", ") }),
      command(`dsqlcdc gaps ack ${gap.id} ${page.config} --reason "…"`)))),
    left > 0 && h("p", { className: "quiet", textContent: `${whole(left)} more.` }), command(`dsqlcdc gaps ${page.config}`)].filter(Boolean);
}

function lettersBody(page) {
  const rows = page.sinks.flatMap((sink) => Object.entries(sink.dead).map(([code, n]) => [sink.name, code, n]));
  if (!rows.length && !page.sinks.some((sink) => sink.letters)) return [h("p", { className: "quiet", textContent: "None by this run. Earlier ones:" }), command(`dsqlcdc dead list ${page.config}`)];
  return [
    h("table", {}, h("caption", { className: "unseen", textContent: "Dead letters of this run, by sink and reason" }),
      h("thead", {}, h("tr", {}, ["Sink", "Reason", "Changes"].map((name) => h("th", { scope: "col", textContent: name })))),
      h("tbody", {}, rows.map(([sink, code, n]) => h("tr", {}, h("th", { scope: "row", textContent: sink }), h("td", { textContent: code }), h("td", { className: "number", textContent: whole(n) }))))),
    command(`dsqlcdc dead list ${page.config}`), command(`dsqlcdc dead replay ${page.config} --dry-run`)];
}

function happenedBody(happened) {
  if (!happened.length) return h("p", { className: "quiet", textContent: "Nothing since this process began." });
  const signs = { good: "●", info: "○", warning: "▲", error: "■" };
  return h("ol", { className: "happened" }, happened.slice(0, 12).map((one) => h("li", { className: one.level },
    h("span", { className: "sign", "aria-hidden": "true", textContent: signs[one.level] }),
    h("time", { dateTime: new Date(one.at * 1000).toISOString(), textContent: clock(one.at) }), h("span", {}, one.sink && h("b", { textContent: `${one.sink}: ` }), one.what))));
}

function readingBody(page) {
  const { source, fragments } = page;
  const rows = [["Records fetched", whole(source.records)], ["Bytes fetched", bytes(source.bytes)], ["Reads", whole(source.reads)],
    ["Reads refused by limits", whole(source.throttles)], ["Reshards seen", whole(source.reshards)],
    ["Shards", Object.entries(source.states).map(([state, n]) => `${n} ${state}`).join(", ") || "none yet"],
    ["Read ahead", bytes(source.buffered_bytes)], ["Pieces of large rows waiting", fragments.parts ? `${whole(fragments.parts)}, ${bytes(fragments.bytes)}` : "none"]];
  return h("dl", { className: "pairs" }, rows.map(([name, value]) => h("div", {}, h("dt", { textContent: name }), h("dd", { textContent: value }))));
}

// What needs somebody, the worst first.
export function problems(page) {
  const found = [], say = (level, what, why, ...run) => found.push({ level, what, why, run: run.filter(Boolean) });
  for (const sink of page.sinks) {
    if (!balanced(sink)) say(0, `${sink.name}: what was read is not settled and open`, "This must never be. Please report it.", `dsqlcdc status ${page.config}`);
    if (sink.state === "stopped") say(0, `${sink.name} has stopped`, [sink.reason, sink.then && `To be run ${sink.then}:`].filter(Boolean).join(" "), sink.run || `dsqlcdc run ${page.config}`);
    if (sink.alarm) say(0, `${sink.name} takes nothing`, `${Math.round(100 * sink.retention_used)} % of the stream's retention are gone; in ${span(sink.retention_left ?? 0)} changes are lost.`, `dsqlcdc doctor ${page.config}`);
    if (sink.circuit === "open" && sink.state !== "stopped") say(2, `${sink.name}: the receiver is given a rest`, `It failed too often. ${count(sink.open)} changes wait for it, none is lost; it is tried again by itself.`);
    if (sink.behind > LATE && sink.state !== "stopped") say(2, `${sink.name} is behind`, `Its furthest shard is ${span(sink.behind)} behind the tip: it reads or delivers more slowly than the database writes.`, `dsqlcdc doctor ${page.config}`);
  }
  const buried = page.sinks.filter((sink) => sink.letters);
  if (buried.length) say(2, "Dead letters were written", buried.map((sink) => `${sink.name}: ${whole(sink.letters)} (${Object.keys(sink.dead).join(", ")})`).join("; ") + ", by this run.", `dsqlcdc dead list ${page.config}`);
  const stream = page.stream, broken = stream && ["IMPAIRED", "FAILED", "GONE"].includes(stream.status);
  if (broken) say(stream.status === "IMPAIRED" ? 1 : 0, `The CDC stream is ${stream.status}${stream.reason ? `: ${stream.reason.error}` : ""}`,
    [stream.remedy?.explanation, stream.kept_until && `What is held back is kept until ${moment(stream.kept_until)}.`].filter(Boolean).join(" "), stream.remedy?.actions.find((one) => one.command)?.command, `dsqlcdc stream status ${page.config}`);
  if (page.gaps.unacknowledged) say(1, `${plural(page.gaps.unacknowledged, "gap")} not acknowledged`, [...new Set(page.gaps.shown.map((gap) => gap.detail))].slice(0, 3).join("; "), `dsqlcdc gaps ${page.config}`);
  for (const reason of page.reasons) if (!["stopped", "retention", "starting", "draining"].includes(reason.code)) say(2, `${reason.sink}: ${reason.code.replace("_", " ")}`, reason.reason, `dsqlcdc doctor ${page.config}`);
  return found.sort((one, two) => one.level - two.level);
}
