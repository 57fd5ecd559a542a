// What is watched: clips, with checks, questions and breaks between them.

const STALLED_S = 15; // a clip that has not ended so much later than it should never will
const LETTERS = [..."abcdefghijklmnopqrstuvwxyz0123456789"];

function cross(seconds, below = "") {
  return {
    type: jsPsychHtmlKeyboardResponse, stimulus: '<div class="cross">+</div>', prompt: below, choices: "NO_KEYS",
    trial_duration: 1000 * seconds, record_data: false,
    on_start: () => (session.left = 0),
    on_finish: () => session.skip(seconds),
  };
}

// What is seen of a clip. The element is taken when the trial loads and asked when it ends: a listener of ours for its
// end would run after the plugin's own, and tell of the next clip.
class Watch {
  constructor(video) {
    this.video = video;
    this.onset = session.at();
    this.shown = null;
    if (!video) return; // a dry run shows nothing
    video.muted = true; // else a browser may refuse to begin by itself
    video.playsInline = true;
    const seen = (now, frame) => {
      if (this.shown === null) this.onset = session.at(frame.expectedDisplayTime);
      this.shown = frame.presentedFrames;
      video.requestVideoFrameCallback(seen);
    };
    video.requestVideoFrameCallback?.(seen);
  }

  facts(clip) {
    if (!this.video)
      return { frames_shown: clip.frames_total, frames_dropped: 0, frames_total: clip.frames_total, seconds: clip.seconds, onset: this.onset };
    const { droppedVideoFrames, totalVideoFrames } = this.video.getVideoPlaybackQuality();
    return {
      frames_shown: this.shown, frames_dropped: droppedVideoFrames, frames_total: totalVideoFrames,
      seconds: (session.at() - this.onset) / 1000, onset: this.onset,
    };
  }
}

function clipTrials(clip, row) {
  let watch;
  return [
    cross(settings.cross_s),
    {
      type: jsPsychVideoKeyboardResponse, stimulus: [clip.file], choices: "NO_KEYS", width: settings.width, height: settings.height,
      trial_ends_after_video: true, trial_duration: 1000 * (clip.seconds + STALLED_S),
      data: { ...row, file: clip.file }, save_trial_parameters: { stimulus: false },
      on_load: () => (watch = new Watch(document.querySelector("video"))),
      on_finish: (data) => {
        Object.assign(tidy(data), watch.facts(clip), { left: session.left });
        session.skip(clip.seconds);
      },
    },
  ];
}

function tidy(data) {
  delete data.rt_key_duration;
  return data;
}

// A page of words, left by the space bar, or by a button where there are no keys.
function pausePage(html) {
  const common = { record_data: false, on_finish: enterFullScreen };
  if (byButtons)
    return { type: jsPsychHtmlButtonResponse, stimulus: html, choices: [words("continue_button")], on_load: focusFirstButton, ...common };
  return { type: jsPsychHtmlKeyboardResponse, stimulus: html + told("press_space"), choices: [" "], ...common };
}

// Full screen again, if it was left: the browser allows it within moments of a key or a click.
function enterFullScreen() {
  if (settings.full_screen && session.simulated === null && !document.fullscreenElement)
    document.documentElement.requestFullscreen?.().catch(() => {});
}

// A key to press that shows whether somebody is there, or one that answers a question on a clip.
function keyTrial(html, keys, seconds, row) {
  const common = {
    stimulus: html, trial_duration: seconds && 1000 * seconds, data: row, save_trial_parameters: { stimulus: false },
    simulation_options: row.expected ? { data: { response: byButtons ? keys.indexOf(row.expected) : row.expected } } : {},
  };
  if (!byButtons)
    return { type: jsPsychHtmlKeyboardResponse, choices: row.expected ? LETTERS : keys, ...common, on_finish: (data) => tidy(data) };
  return {
    type: jsPsychHtmlButtonResponse, choices: keys.map(escaped), ...common,
    on_finish: (data) => (data.response = data.response === null ? null : keys[data.response]),
  };
}

function checkTrial(check, number) {
  const key = check.key.toLowerCase(), k = LETTERS.indexOf(key);
  const keys = [0, 9, 18, 27].map((step) => LETTERS[(k + step) % LETTERS.length]).sort();
  const html = paragraphs(EXPERIMENT.text[byButtons ? "check_buttons" : "check"], { key: key.toUpperCase() });
  return keyTrial(html, keys, settings.check_s, { part: "check", number, expected: key });
}

function questionTrial(question, number) {
  const help = byButtons ? "" : told("question", { keys: question.keys.join(", ") });
  return keyTrial(paragraphs(question.text) + help, question.keys, null, { part: "question", number });
}

const loading = (video, images = []) => ({
  type: jsPsychPreload, video, images, message: told("loading"), error_message: told("loading_failed"), record_data: false,
});

// What is still to be watched of an episode, in pieces of as many clips as are loaded at once.
function studyTrials(episode) {
  const { clips, checks = [], questions = [] } = episode, timeline = [];
  const after = (list, count) => list.flatMap((item, number) => (item.after_clip === count ? [[item, number]] : []));
  for (let first = 0; first < clips.length; first += settings.break_every) {
    const last = Math.min(first + settings.break_every, clips.length), piece = [];
    for (let k = first; k < last; k++) {
      if (!session.isDone("study", k)) piece.push(...clipTrials(clips[k], { part: "study", number: k }));
      for (const [check, number] of after(checks, k + 1)) if (!session.isDone("check", number)) piece.push(checkTrial(check, number));
      for (const [question, number] of after(questions, k + 1))
        if (!session.isDone("question", number)) piece.push(questionTrial(question, number));
    }
    if (!piece.length) continue;
    const files = clips.slice(first, last).map((clip) => clip.file);
    const page = first ? told("break", { done: first, num_clips: clips.length }) : told("study_begins");
    timeline.push(loading(files.filter((_, k) => !session.isDone("study", first + k))), pausePage(page), ...piece);
  }
  return timeline;
}
