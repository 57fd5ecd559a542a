// The words of the page and what is made of them. All of them are plain text, from EXPERIMENT.text: whatever goes into
// the page is escaped here.

const escaped = (text) => String(text).replace(/[&<>"']/g, (letter) => `&#${letter.charCodeAt(0)};`);

// A text with its {values} filled in, as HTML on one line.
const filled = (text, values = {}) => escaped(text.replace(/\{(\w+)\}/g, (all, key) => values[key] ?? all));

const words = (name, values) => filled(EXPERIMENT.text[name] ?? name, values);

// Each line of a text as a paragraph.
const paragraphs = (text, values) => `<div class="words"><p>${filled(text, values).replace(/\n+/g, "</p><p>")}</p></div>`;

const told = (name, values) => paragraphs(EXPERIMENT.text[name] ?? name, values);

// What the six keys mean, or the six buttons: of a test "sure: old" comes first unless the session's scale is mirrored.
function labels(kind) {
  const known = EXPERIMENT.text[kind === "order" ? "order_scale" : "scale"];
  return kind !== "order" && session.scale === "new_first" ? [...known].reverse() : known;
}

function scale(kind) {
  const keys = labels(kind).map((label, k) => `<li><b>${k + 1}</b>${escaped(label)}</li>`);
  return `<ol class="scale">${keys.join("")}</ol><p class="help">${help(kind)}</p>`;
}

const help = (kind) => words(kind === "order" ? "order_help" : "scale_help");

// Give the keyboard the first button, so that Enter or the space bar will do.
const focusFirstButton = () => document.querySelector(".jspsych-btn:not([disabled])")?.focus();

// A page outside the timeline of jsPsych; resolves to the number of the button that is pressed.
function asked(html, buttons = []) {
  return new Promise((resolve) => {
    const choices = buttons.map((label) => `<button class="jspsych-btn">${label}</button>`).join("");
    document.body.classList.add("jspsych-display-element");
    document.body.innerHTML = `<div class="jspsych-content-wrapper"><div class="jspsych-content">${html}<p class="end">${choices}</p></div></div>`;
    document.querySelectorAll("button").forEach((button, k) => button.addEventListener("click", () => resolve(k)));
    focusFirstButton();
  });
}
