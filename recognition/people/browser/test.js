// What is answered: pictures that were in the clips or not, and which of two pictures came first.

const KEYS = ["1", "2", "3", "4", "5", "6"];

// A picture or two, seen for a while and answered on the six-point scale.
function answered(html, kind, seconds, row) {
  let onset;
  const common = {
    stimulus_duration: 1000 * seconds, trial_duration: 1000 * settings.answer_s,
    data: row, save_trial_parameters: { stimulus: false },
    on_load: () => (onset = session.at()),
  };
  const finish = (data) => {
    Object.assign(tidy(data), { onset, left: session.left });
    session.skip((data.rt ?? 1000 * settings.answer_s) / 1000);
  };
  if (!byButtons) {
    const type = row.file ? jsPsychImageKeyboardResponse : jsPsychHtmlKeyboardResponse;
    return { type, stimulus: row.file ?? html, choices: KEYS, prompt: scale(kind), ...common, on_finish: finish };
  }
  return {
    type: jsPsychHtmlButtonResponse, stimulus: html, choices: labels(kind).map(escaped), grid_rows: null, grid_columns: 6,
    prompt: `<p class="help">${help(kind)}</p>`, ...common,
    on_finish: (data) => {
      data.response = data.response === null ? null : KEYS[data.response];
      finish(data);
    },
  };
}

const picture = (file) => `<img class="picture" src="${escaped(file)}" alt="">`;

const probeTrials = (probe, row) => [
  cross(settings.probe_cross_s, scale("test")),
  answered(picture(probe.file), "test", settings.picture_s, { ...row, file: probe.file }),
];

const pairTrials = (pair, number) => [
  cross(settings.probe_cross_s, scale("order")),
  answered(`<div class="pair">${picture(pair.left)}${picture(pair.right)}</div>`, "order", settings.pair_s, { part: "order", number }),
];

function testTrials(episode) {
  const order = episode.orders?.[session.probe_order] ?? episode.probes.keys();
  const asked = [...order].map((k) => episode.probes[k]);
  const probes = [...asked.entries()].filter(([k]) => !session.isDone("test", k));
  if (!probes.length) return [];
  return [
    loading([], probes.map(([, probe]) => probe.file)),
    pausePage(told("test_begins") + scale("test")),
    ...probes.flatMap(([number, probe]) => probeTrials(probe, { part: "test", number })),
  ];
}

function orderTrials(episode) {
  const pairs = [...(episode.pairs ?? []).entries()].filter(([k]) => !session.isDone("order", k));
  if (!pairs.length) return [];
  return [
    loading([], pairs.flatMap(([, pair]) => [pair.left, pair.right])),
    pausePage(told("order_begins") + scale("order")),
    ...pairs.flatMap(([number, pair]) => pairTrials(pair, number)),
  ];
}

// A few clips and pictures with the answers told, so that the keys are known when it counts.
function practiceTrials(practice) {
  const { clips, probes } = practice, total = clips.length + probes.length;
  if (!total || session.isDone("practice", total - 1)) return [];
  const row = (number, task) => ({ part: "practice", number, task });
  return [
    loading(clips.map((clip) => clip.file), probes.map((probe) => probe.file)),
    ...clips.flatMap((clip, k) => clipTrials(clip, row(k, "study"))),
    pausePage(told("practice_test") + scale("test")),
    ...probes.flatMap((probe, k) => [
      ...probeTrials(probe, { ...row(clips.length + k, "test"), is_old: Boolean(probe.is_old) }),
      feedback(clips.length + k),
    ]),
  ];
}

function feedback(number) {
  const html = () => {
    const { response, is_old } = session.rows.findLast((row) => row.part === "practice" && row.number === number);
    const saysOld = session.scale === "old_first" ? response <= "3" : response >= "4";
    const word = response === null ? "no_answer" : saysOld === is_old ? "right" : "wrong";
    return `<div class="cross">${told(word)}</div>${told(is_old ? "was_old" : "was_new")}`;
  };
  return {
    type: jsPsychHtmlKeyboardResponse, stimulus: html, choices: "NO_KEYS", trial_duration: 1000 * settings.feedback_s,
    record_data: false,
  };
}
