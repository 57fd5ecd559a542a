// The session from its first page to its last. words.js, session.js, saving.js, study.js and test.js have its parts.

const IS_KNOWN = /Firefox|Chrom|Safari|Edg/.test(navigator.userAgent); // of others the plugin cannot tell name and version
const SMALLEST = byButtons ? [320, 320] : [800, 600]; // pixels

function browserCheck() {
  return {
    type: jsPsychBrowserCheck,
    features: ["width", "height", "mobile", "vsync_rate", ...(IS_KNOWN ? ["browser", "browser_version", "os"] : [])],
    minimum_width: SMALLEST[0], minimum_height: SMALLEST[1],
    window_resize_message: told("too_small"), resize_fail_button_text: words("too_small_button"),
    inclusion_function: (found) => byButtons || !found.mobile,
    exclusion_message: () => {
      session.isExcluded = true;
      return told("not_possible");
    },
    data: { part: "browser" },
  };
}

const consent = () => ({
  type: jsPsychHtmlButtonResponse, stimulus: told("consent"), choices: [words("consent_button")], data: { part: "consent" },
  save_trial_parameters: { stimulus: false }, on_load: focusFirstButton, on_finish: () => session.keep(),
});

const fullScreen = () => ({
  type: jsPsychFullscreen, message: told("full_screen"), button_label: words("full_screen_button"), delay_after: 300,
  record_data: false, on_load: focusFirstButton,
});

function instructions(episode) {
  const values = { num_clips: episode.clips.length, num_probes: episode.probes.length, answer_s: settings.answer_s };
  const pages = EXPERIMENT.text.instructions.map((page) => paragraphs(page, values));
  if (EXPERIMENT.practice.probes.length) pages.push(told("practice_begins"));
  const focusNext = () => document.querySelector("#jspsych-instructions-next")?.focus();
  return {
    type: jsPsychInstructions, pages, record_data: false,
    show_clickable_nav: true, button_label_previous: words("previous_button"), button_label_next: words("next_button"),
    on_load: focusNext, on_page_change: focusNext,
  };
}

function knownFilms() {
  const choices = ["yes", "no", "unsure"].map(
    (value) => `<label><input type="radio" name="known" id="known-${value}" value="${value}"> ${words(`known_${value}`)}</label>`
  );
  const which = `<p><label for="which">${words("known_which")}</label><textarea id="which" name="which" rows="3" maxlength="1000"></textarea></p>`;
  return {
    type: jsPsychSurveyHtmlForm, preamble: told("known_films"), html: `<p>${choices.join("")}</p>${which}`, autofocus: "known-yes",
    button_label: words("continue_button"), data: { part: "survey" },
    on_load: () => session.simulated !== null && jsPsych.finishTrial({ response: { known: "no", which: "" } }), // it cannot do so itself
    on_finish: (data) => {
      Object.assign(data, { known: data.response.known ?? null, which_films: data.response.which });
      delete data.response;
    },
  };
}

// What is still to be done of the session. Who comes back is asked for a browser that fits, but not told all again.
function timelineOf(episode) {
  const trials = [
    ...practiceTrials(EXPERIMENT.practice), ...studyTrials(episode), ...testTrials(episode), ...orderTrials(episode),
    ...(settings.known_films && !session.rows.some((row) => row.part === "survey") ? [knownFilms()] : []),
  ];
  if (!trials.length) return [];
  const isNew = !session.rows.length;
  return [
    browserCheck(), ...(isNew && EXPERIMENT.text.consent ? [consent()] : []), ...(settings.full_screen ? [fullScreen()] : []),
    ...(isNew ? [instructions(episode)] : []), ...trials,
  ];
}

function keepProgress(episode) {
  const { practice } = EXPERIMENT;
  const lists = [practice.clips, practice.probes, episode.clips, episode.checks, episode.questions, episode.probes, episode.pairs];
  const total = lists.reduce((sum, list) => sum + (list?.length ?? 0), 0);
  return () => {
    const done = session.rows.filter((row) => row.number !== undefined).length;
    jsPsych.progressBar.progress = Math.min(1, done / total);
  };
}

async function main() {
  document.documentElement.lang = EXPERIMENT.text.language ?? "en";
  document.title = EXPERIMENT.text.title;
  document.documentElement.style.setProperty("--width", `${settings.width}px`);
  document.documentElement.style.setProperty("--ratio", `${settings.width} / ${settings.height}`);
  const address = await addressRead();
  session = new Session(address);
  if (!Object.hasOwn(EXPERIMENT.episodes, session.episode)) return asked(told("no_such_episode"));
  const earlier = session.earlier();
  const goesOn = earlier && (await asked(told("resume"), [words("resume_button"), words("restart_button")])) === 0;
  document.body.innerHTML = "";
  if (goesOn) session.resume(earlier);
  else session.forget();
  if (await isFinished(EXPERIMENT.episodes[session.episode], address)) await deliver();
}

// Run what is to be done; resolves to whether it was done to the end.
async function isFinished(episode, address) {
  const showProgress = keepProgress(episode);
  jsPsych = initJsPsych({
    show_progress_bar: true, auto_update_progress_bar: false, message_progress_bar: words("progress"),
    on_interaction_data_update: ({ event }) => (session.left += event === "blur" || event === "fullscreenexit" ? 1 : 0),
    on_trial_start: showProgress,
    on_data_update: (row) => {
      session.add(row);
      submitSometimes();
    },
  });
  jsPsych.data.addProperties(session.properties);
  if (!EXPERIMENT.text.consent) session.keep();
  if (session.simulated === null) {
    const timeline = timelineOf(episode);
    if (timeline.length) await jsPsych.run(timeline);
    if (document.fullscreenElement) await document.exitFullscreen();
  } else {
    jsPsych.randomization.setSeed(session.simulated);
    await jsPsych.simulate(timelineOf(episode), "data-only");
  }
  return !session.isExcluded;
}

main().catch((error) => {
  console.error(error);
  asked(told("loading_failed"));
});
