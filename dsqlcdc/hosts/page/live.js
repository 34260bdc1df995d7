// The stream of events: read with fetch, so that a token can be shown; begun anew when it breaks or falls silent.

const SHORTEST = 1000, LONGEST = 15000;

export class Live {
  // `heard(name, body)` gets events; `changed(state, why)`: live, waiting, lost, token.
  constructor(heard, changed) {
    this.heard = heard;
    this.changed = changed;
    this.silence = 10000;
    this.pause = SHORTEST;
    this.token = this.#known();
    this.wake = () => {};
  }

  async run() {
    for (;;) {
      try {
        await this.#listen();
      } catch (error) {
        this.changed("lost", error.name === "AbortError" ? "it said nothing" : "");
      }
      await new Promise((done) => {
        this.wake = done;
        setTimeout(done, this.pause * (0.75 + Math.random() / 2));
      });
      this.pause = Math.min(this.pause * 2, LONGEST);
    }
  }

  use(token) {
    this.token = token;
    try { sessionStorage.setItem("dsqlcdc-token", token); } catch { /* a browser that keeps nothing: asked again after a reload */ }
    this.pause = SHORTEST;
    this.wake();
  }

  // From the address's fragment, which is never sent, or from this tab's memory.
  #known() {
    const given = new URLSearchParams(location.hash.slice(1)).get("token");
    if (given) {
      history.replaceState(null, "", location.pathname);
      try { sessionStorage.setItem("dsqlcdc-token", given); } catch { return given; }
    }
    try { return sessionStorage.getItem("dsqlcdc-token") ?? ""; } catch { return ""; }
  }

  async #listen() {
    const ended = new AbortController();
    let watch = setTimeout(() => ended.abort(), this.silence);
    try {
      const headers = this.token ? { Authorization: `Bearer ${this.token}` } : {};
      const answer = await fetch("events", { headers, cache: "no-store", signal: ended.signal });
      if (answer.status === 401) {
        this.pause = 3600000;
        return this.changed("token", this.token ? "This token is not the one." : "");
      }
      if (!answer.ok) throw new Error(`it answered ${answer.status}`);
      const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
      for (let rest = ""; ;) {
        const { done, value } = await reader.read();
        if (done) throw new Error("it ended");
        clearTimeout(watch);
        watch = setTimeout(() => ended.abort(), this.silence);
        const parts = (rest + value).split("\n\n");
        rest = parts.pop();
        for (const part of parts) this.#event(part);
      }
    } finally {
      clearTimeout(watch);
      ended.abort();
    }
  }

  #event(text) {
    let name = "message", data = "";
    for (const line of text.split("\n")) {
      if (line.startsWith("event: ")) name = line.slice(7);
      if (line.startsWith("data: ")) data += line.slice(6);
    }
    if (!data) return;
    this.pause = SHORTEST;
    try {
      this.heard(name, JSON.parse(data));
      if (name === "tick") this.changed("live", "");
    } catch (error) {
      console.error(error); // a mistake of ours is no silence of the daemon's
    }
  }
}
