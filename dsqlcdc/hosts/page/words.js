// Numbers, sizes, spans and times as people read them; the same words as the terminal's.

export const count = (n) => {
  for (const [unit, size, by] of [["G", 1e9, 1e9], ["M", 1e6, 1e6], ["k", 1e4, 1e3]]) if (n >= size) return `${(n / by).toFixed(1)}${unit}`;
  return n >= 10 || Number.isInteger(n) ? whole(n) : n.toFixed(1);
};

// On an axis: 0, 250, 1.5k, 20k.
export const short = (n) => {
  for (const [unit, by] of [["G", 1e9], ["M", 1e6], ["k", 1e3]]) if (n >= by) return `${+(n / by).toFixed(1)}${unit}`;
  return `${+n.toFixed(1)}`;
};

// On an axis of seconds: 0, 2.5 s, 10 min.
export const brief = (n) => (n < 120 ? `${+n.toFixed(1)} s` : n < 7200 ? `${+(n / 60).toFixed(1)} min` : `${+(n / 3600).toFixed(1)} h`);

export const whole = (n) => Math.round(n).toLocaleString("en");

export const bytes = (n) => {
  if (n < 1024) return `${Math.round(n)} B`;
  for (const unit of ["KiB", "MiB", "GiB"]) if ((n /= 1024) < 1024) return `${n.toFixed(1)} ${unit}`;
  return `${(n / 1024).toFixed(1)} TiB`;
};

export const span = (seconds) => {
  if (seconds < 60) return seconds >= 0.05 && seconds < 9.95 ? `${seconds.toFixed(1)} s` : `${Math.round(seconds)} s`;
  const n = Math.round(seconds);
  for (const [length, unit, lower, sub] of [[86400, "d", 3600, "h"], [3600, "h", 60, "min"], [60, "min", 1, "s"]])
    if (n >= length) return `${Math.floor(n / length)} ${unit} ${String(Math.floor((n % length) / lower)).padStart(2, "0")} ${sub}`;
  return `${n} s`;
};

export const minutes = (seconds) => (seconds < 90 ? `${Math.round(seconds)} s` : `${Math.round(seconds / 60)} min`);

export const clock = (at) => new Date(at * 1000).toLocaleTimeString("en-GB");

export const moment = (text) => {
  const at = typeof text === "number" ? new Date(text * 1000) : new Date(text);
  return `${at.toISOString().slice(0, 16).replace("T", " ")} UTC`;
};

export const plural = (n, one, many = `${one}s`) => `${whole(n)} ${n === 1 ? one : many}`;

// A shard's name without the zeros that all have.
export const shard = (name) => name.replace(/^shardId-0*(?=\d)/, "");
