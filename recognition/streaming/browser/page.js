// The page of a stream: what its server tells, shown as it comes. All of it is set as text, never as HTML.

const at = (id) => document.getElementById(id);
const charts = [new Chart(at("logits"), 1, "model"), new Chart(at("similarities"), 2, "ring", 1)];
const known = { points: [], events: [], running: null, threshold: 0, ring_threshold: null, chart_s: 300, num_events: 0 };

// An element with a text in it, or with other elements.
function made(kind, className, ...content) {
  const element = document.createElement(kind);
  element.className = className;
  element.append(...content);
  return element;
}

function showFacts({ run, source, threshold, ring_threshold, has_thumbnails }) {
  at("run").textContent = run;
  at("source").textContent = source;
  at("threshold").textContent = threshold.toFixed(2).replace("-", "−");
  at("ring-threshold").textContent = ring_threshold === null ? "" : `; dashed: its own threshold, ${ring_threshold.toFixed(4)}`;
  at("thumbnails").hidden = !has_thumbnails;
  document.title = `Seen before? ${source}`;
}

function showAnswer({ says_old, said, words, then, then_time }) {
  at("answer").classList.toggle("is-old", says_old);
  at("said").textContent = said;
  at("words").textContent = words;
  at("then").hidden = then === null;
  if (then === null) return;
  at("then-time").textContent = then_time;
  const path = `then/${then}.jpg`;
  if (at("then-picture").getAttribute("src") !== path) at("then-picture").src = path;
}

function rowOf(event, goesOn) {
  const what = made("span", "", made("span", `kind ${event.kind}`, event.kind), event.words);
  const row = made("li", goesOn ? "goes-on" : "", made("time", "", event.when), what);
  if (goesOn) row.append(made("span", "note", "goes on"));
  if (event.source && event.source !== at("source").textContent) row.append(made("span", "note", event.source));
  return row;
}

function showEvents() {
  const rows = known.events.map((event) => rowOf(event, false));
  if (known.running) rows.push(rowOf(known.running, true));
  at("events").replaceChildren(...rows.reverse());
  at("no-event").hidden = rows.length > 0;
  const { num_events, events } = known;
  at("num-events").textContent = num_events > events.length ? `the last ${events.length} of ${num_events}` : num_events || "";
}

function showNumbers(numbers) {
  at("numbers").replaceChildren(...numbers.flatMap(([words, value]) => [made("dt", "", words), made("dd", "", value)]));
}

function draw() {
  const spans = [...known.events, known.running].filter(Boolean).map((event) => [event.start_s, event.end_s]);
  at("ring").hidden = known.points.length > 0 && known.points.every((point) => point[2] === null);
  charts[0].draw(known.points, known.threshold, spans, known.chart_s);
  charts[1].draw(known.points, known.ring_threshold, spans, known.chart_s);
}

function showState(words, className = "") {
  at("state").textContent = words;
  at("state").className = className;
}

// News of a server: all that there is where it tells what the stream is, else what is new.
function take(news) {
  const { points, ...others } = news, isAll = "run" in news;
  const hasChanged = isAll || "events" in news || JSON.stringify(known.running) !== JSON.stringify(news.running);
  if (isAll) known.points = [];
  Object.assign(known, others);
  known.points.push(...points);
  const last = known.points.at(-1)?.[0];
  known.points = known.points.filter((point) => point[0] >= last - known.chart_s);
  if (isAll) showFacts(news);
  if ("said" in news) {
    showAnswer(news);
    showState(`goes on, at ${news.time}`, "goes-on");
  }
  if (hasChanged) showEvents();
  showNumbers(news.numbers);
  requestAnimationFrame(draw);
}

let numOpened = 0;
const server = new EventSource("news");
server.onopen = () => { at("newest").src = `pictures?${numOpened++}`; }; // anew, where the connection was lost
server.onmessage = (message) => take(JSON.parse(message.data));
server.onerror = () => showState("no connection, trying again", "is-lost");
server.addEventListener("end", () => {
  server.close();
  showState(`ended, at ${known.time ?? clockOf(0)}`);
});
window.addEventListener("resize", () => requestAnimationFrame(draw));
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => requestAnimationFrame(draw));
