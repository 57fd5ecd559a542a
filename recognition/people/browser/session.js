// Who takes part, in which episode, and the rows of the session, which this browser keeps until they are saved.

const settings = {
  cross_s: 1, probe_cross_s: 0.5, picture_s: 1.5, answer_s: 10, check_s: 5, pair_s: 2, feedback_s: 1.5, break_every: 30,
  input: "keys", scale: "drawn", width: 640, height: 360, full_screen: true, known_films: true,
  save: null, end_url: null, retry_s: 2, ...EXPERIMENT.settings,
};
const byButtons = settings.input === "buttons";
const IDENTITY = /^[A-Za-z0-9_-]{1,64}$/;

let jsPsych, session;

class Session {
  // `address`: what the address of the page asks for, an object of strings.
  constructor(address) {
    const given = ["participant", "PROLIFIC_PID", "id"].map((name) => address[name]).find((id) => IDENTITY.test(id ?? ""));
    this.simulated = address.simulate ?? null;
    this.session = randomId();
    this.participant = given ?? this.session.slice(0, 8);
    this.episode = address.episode ?? episodeOf(this.participant);
    this.scale = settings.scale;
    const draw = this.simulated === null ? Math.random() : hashOf(this.simulated) / 2 ** 32;
    if (this.scale === "drawn") this.scale = draw < 0.5 ? "old_first" : "new_first";
    const orders = EXPERIMENT.episodes[this.episode]?.orders; // of the probes; those of a session are one of them
    this.probe_order = orders ? Math.floor(draw * 2 ** 16) % orders.length : null;
    this.started = performance.timeOrigin + performance.now(); // ms
    this.resumed = 0;
    this.rows = [];
    this.left = 0; // how often the window was left since the last cross
    this.skippedMs = 0; // what a dry run would have lasted
    this.isKept = false;
    this.slot = ["people", EXPERIMENT.experiment, given ?? "", address.episode ?? ""].join(".");
  }

  // What every row says.
  get properties() {
    const { session, participant, scale, probe_order, resumed, simulated } = this;
    const simulation = simulated === null ? {} : { simulated };
    return {
      experiment: EXPERIMENT.experiment, format_version: EXPERIMENT.format_version, session, participant,
      episode: Number(this.episode), scale, probe_order, frames: settings.frames, resumed, ...simulation,
    };
  }

  // ms since the session began, of a time as performance.now() tells it. Goes on over a reload.
  at(time = performance.now()) {
    return Math.round(performance.timeOrigin + time - this.started + this.skippedMs);
  }

  skip(seconds) {
    if (this.simulated !== null) this.skippedMs += 1000 * seconds;
  }

  isDone(part, number) {
    return this.rows.some((row) => row.part === part && row.number === number);
  }

  add(row) {
    this.rows.push(row);
    if (this.isKept) this.store(this.rows.length - 1);
  }

  // From now on the rows are kept in this browser: not before, since consent is asked first.
  keep() {
    this.isKept = this.simulated === null;
    if (!this.isKept) return;
    const { session, participant, episode, scale, probe_order, started, resumed } = this;
    const head = { session, participant, episode, scale, probe_order, started, resumed };
    stored(() => localStorage.setItem(this.slot, JSON.stringify(head)));
    this.rows.forEach((_, k) => this.store(k));
  }

  store(k) {
    stored(() => localStorage.setItem(`${this.slot}.${k}`, JSON.stringify(this.rows[k])));
  }

  // An earlier visit that was not finished, if it came as far as the practice.
  earlier() {
    return stored(() => {
      const head = JSON.parse(localStorage.getItem(this.slot));
      if (this.simulated !== null || !head) return null;
      const rows = [];
      for (let text; (text = localStorage.getItem(`${this.slot}.${rows.length}`)); ) rows.push(JSON.parse(text));
      return rows.some((row) => row.number !== undefined) ? { ...head, rows } : null;
    });
  }

  resume(earlier) {
    Object.assign(this, earlier, { resumed: earlier.resumed + 1 });
    this.keep();
  }

  forget() {
    stored(() => {
      for (let k = 0; localStorage.getItem(`${this.slot}.${k}`) !== null; k++) localStorage.removeItem(`${this.slot}.${k}`);
      localStorage.removeItem(this.slot);
    });
  }
}

// Browsers may forbid to keep anything, or have no room: the session goes on without.
function stored(action) {
  try {
    return action();
  } catch (error) {
    console.warn(`This browser keeps nothing: ${error}`);
    return null;
  }
}

// A random UUID; crypto.randomUUID is missing where the page comes by plain http from another machine.
function randomId() {
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  bytes[6] = (bytes[6] & 15) | 64;
  bytes[8] = (bytes[8] & 63) | 128;
  const digits = [...bytes].map((byte) => byte.toString(16).padStart(2, "0")).join("");
  return digits.replace(/(.{8})(.{4})(.{4})(.{4})/, "$1-$2-$3-$4-");
}

// The episode of a person whose address names none.
function episodeOf(participant) {
  const episodes = Object.keys(EXPERIMENT.episodes);
  return episodes[hashOf(participant) % episodes.length];
}

// FNV-1a of 32 bits, mixed as MurmurHash3 ends, so that texts which differ by a letter differ in all bits.
function hashOf(text) {
  let hash = 2166136261;
  for (const letter of text) hash = Math.imul(hash ^ letter.charCodeAt(0), 16777619);
  hash = Math.imul(hash ^ (hash >>> 16), 0x85ebca6b);
  hash = Math.imul(hash ^ (hash >>> 13), 0xc2b2ae35);
  return (hash ^ (hash >>> 16)) >>> 0;
}
