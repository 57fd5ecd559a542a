// Where the answers go: to JATOS, to a function that a laboratory defines, to a server, or into files.

const TRIES = 3;
const PATIENCE_MS = 30000;
const JATOS_EVERY = 20; // rows

const isJatos = location.pathname.includes("/publix/");

// JATOS has the script that talks to it beside every study.
function jatosReady() {
  return new Promise((resolve, reject) => {
    const script = document.createElement("script");
    script.src = "jatos.js";
    script.onload = () => jatos.onLoad(resolve);
    script.onerror = () => reject(new Error("jatos.js could not be loaded"));
    document.head.append(script);
  });
}

// What the address asks for. JATOS keeps what stood in the link that was given out.
async function addressRead() {
  if (isJatos) await jatosReady();
  return { ...Object.fromEntries(new URLSearchParams(location.search)), ...(isJatos ? jatos.urlQueryParameters : {}) };
}

// In JATOS what has been answered so far is kept on its server, now and then.
function submitSometimes() {
  if (isJatos && session.rows.length % JATOS_EVERY === 0)
    Promise.resolve(jatos.submitResultData(JSON.stringify(session.rows))).catch((error) => console.warn(error));
}

const pause = (seconds) => new Promise((resolve) => setTimeout(resolve, 1000 * seconds));

async function post(address, text) {
  const answer = await fetch(address, {
    method: "POST", body: text, headers: { "Content-Type": "text/plain;charset=UTF-8" }, signal: AbortSignal.timeout(PATIENCE_MS),
  });
  if (!answer.ok) throw new Error(`${address}: status ${answer.status}`);
}

// How answers are sent from this page: a function of the text and a name for it; null if there is nowhere to send to.
function sender() {
  if (isJatos) return (text) => jatos.submitResultData(text);
  if (window.saveAnswers) return (text, name) => window.saveAnswers(text, name);
  const address = settings.save ?? document.querySelector("meta[name=save]")?.content; // the latter from our own server
  return address ? (text) => post(address, text) : null;
}

async function isSent(send, text, name) {
  for (let k = 0; k < TRIES; k++) {
    if (k) await pause(settings.retry_s * k);
    try {
      await send(text, name);
      return true;
    } catch (error) {
      console.warn(`Not saved: ${error}`);
    }
  }
  return false;
}

const answersName = () => `answers-${EXPERIMENT.experiment}-${session.participant}-${session.session.slice(0, 8)}`;

function download() {
  const forms = { json: JSON.stringify(session.rows), csv: new jsPsychModule.DataCollection(session.rows).csv() };
  for (const [ending, text] of Object.entries(forms)) {
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob([text], { type: ending === "csv" ? "text/csv" : "application/json" }));
    link.download = `${answersName()}.${ending}`;
    link.click();
  }
}

// Save the session and say so; what is kept in the browser goes when, and only when, it is saved.
async function deliver() {
  if (!sender()) {
    download();
    session.forget();
    for (;;) await thanks("downloaded", download);
  }
  for (;;) {
    asked(told("saving"));
    if (await isSent(sender(), JSON.stringify(session.rows), `${answersName()}.json`)) break;
    download();
    await asked(told("save_failed"), [words("try_again_button")]);
  }
  session.forget();
  if (isJatos) return settings.end_url ? jatos.endStudyAndRedirect(settings.end_url) : jatos.endStudy();
  for (;;) await thanks("thanks");
}

// The last page. The way to the page that the laboratory names is the first button.
async function thanks(name, repeat) {
  const actions = [];
  if (/^https?:/.test(settings.end_url ?? "")) actions.push(["end_button", () => location.assign(settings.end_url)]);
  if (repeat) actions.push(["download_button", repeat]);
  const choice = await asked(told(name), actions.map(([label]) => words(label)));
  actions[choice][1]();
}
