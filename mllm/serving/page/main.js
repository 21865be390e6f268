// The page: conversations at the left, words in the middle, and where the model looked at the right.

import { describe, ServerError, setKey } from "./api.js";
import { live, receive } from "./asking.js";
import { announce, button, find, make, message, say } from "./dom.js";
import { draw, fill } from "./log.js";
import { read, Tray } from "./pictures.js";
import { fit, preferences, remember, wirePreferences } from "./preferences.js";
import { begin, download, load, remove, save, title, toRecord } from "./store.js";
import { Viewer } from "./viewer.js";

/**
 * @typedef {import("./store.js").Talk} Talk
 * @typedef {import("./store.js").Turn} Turn
 */

/** @type {Talk[]} */
let talks = [];
let talk = begin();
/** @type {import("./api.js").Model | null} */
let model = null;
/** What is being answered. @type {{talk: Talk, turn: Turn, control: AbortController, said: boolean} | null} */
let running = null;
/** @type {Turn | null} of which the viewer shows where it looked */
let viewed = null;

const viewer = new Viewer();
const tray = new Tray(() => refresh(), (problem) => say(message(problem)));
const log = find("log");

// ---------------------------------------------------------------------------------------------------- drawing

/** @type {import("./log.js").Acts} */
const acts = {
  edit(turn, text) {
    const place = talk.turns.indexOf(turn);
    ask(text, turn.pictures, talk.turns.slice(0, place));
  },
  regenerate(turn) {
    const place = talk.turns.indexOf(turn) - 1;
    ask(talk.turns[place].text, talk.turns[place].pictures, talk.turns.slice(0, place));
  },
  look,
  point(turn, word) {
    if (viewed !== turn && word !== null) look(turn);
    if (viewed !== turn) return;
    viewer.point(word);
    mark(word === null ? null : [word]);
    if (word !== null && document.activeElement?.classList.contains("word")) announce(find("told").textContent);
  },
  say,
};

/**
 * Marks words of the answer that is looked at: some, or all by how much they have.
 * @param {number[] | null} words
 * @param {number[] | null} [levels]
 */
function mark(words, levels = null) {
  for (const span of log.querySelectorAll(".viewed .word")) {
    const word = Number(span.dataset.word);
    span.classList.toggle("pointed", Boolean(words?.includes(word)));
    span.style.setProperty("--level", String(levels?.[word] ?? 0));
  }
}
viewer.onpoint = (/** @type {number[] | null} */ levels) => mark(null, levels);

/** @param {Turn} turn that the viewer shows */
function look(turn) {
  viewed = turn;
  const before = talk.turns.slice(0, talk.turns.indexOf(turn));
  const why = turn.unexplained ?? (running?.turn === turn ? "" : "Where the model looked for this answer is not known.");
  viewer.show(before.flatMap((each) => each.pictures), turn.looked ?? null, turn.text, why);
  for (const element of log.children) element.classList.toggle("viewed", element === elements.get(turn));
}

/** @type {Map<Turn, HTMLElement>} */
const elements = new Map();

/** Draws the conversation. */
function show() {
  elements.clear();
  for (const turn of talk.turns) elements.set(turn, draw(turn, acts, running?.turn === turn));
  log.replaceChildren(...elements.values());
  log.scrollTop = log.scrollHeight;
  const last = talk.turns.findLast((turn) => turn.role === "assistant");
  if (last) look(last);
  else viewer.show(tray.pictures, null, "");
  refresh();
}

/** What depends on the state, but for the turns. */
function refresh() {
  const empty = talk.turns.length === 0;
  document.body.classList.toggle("empty", empty);
  document.body.classList.toggle("running", running !== null && !running.said);
  if (empty) viewer.show(tray.pictures, null, "");
  find("clear").disabled = find("export").disabled = empty;
  find("send").disabled = !find("question").value.trim();
  find("title").textContent = empty ? "New conversation" : title(talk);
  find("talks").replaceChildren(...talks.map((each) => make("li", { class: each === talk ? "open" : "" },
    make("button", { type: "button", class: "talk", "aria-current": each === talk ? "true" : "false", onclick: () => open(each) },
      thumbnail(each), make("span", {}, title(each))),
    button("trash", `Delete “${title(each)}”`, () => forget(each)))));
}

/** @param {Talk} talk */
function thumbnail(talk) {
  const source = talk.turns.find((turn) => turn.pictures.length)?.pictures[0].source;
  return source ? make("img", { src: source, alt: "" }) : make("span", { class: "blank" });
}

// ------------------------------------------------------------------------------------------------------ asking

/**
 * Asks a question behind some turns.
 * @param {string} text
 * @param {import("./store.js").Picture[]} pictures
 * @param {Turn[]} before
 */
async function ask(text, pictures, before) {
  stop();
  /** @type {Turn} */
  const turn = { role: "assistant", text: "", pictures: [] };
  const asked = talk;
  asked.turns = [...before, { role: "user", text, pictures }, turn];
  if (!talks.includes(asked)) talks.unshift(asked);
  /** @type {NonNullable<typeof running>} */
  const now = (running = { talk: asked, turn, control: new AbortController(), said: false });
  show();
  await keep(asked);
  try {
    await receive(model?.id ?? "default", asked, turn, now.control.signal, (ended) => {
      if (ended) now.said = true;
      if (ended && running === now) refresh();
      stream(turn, now.said && preferences.explain);
    });
  } catch (problem) {
    if (problem instanceof ServerError && problem.status === 401 && (await askKey(problem.message))) {
      if (running === now) running = null;
      return ask(text, pictures, before);
    }
    if (!now.control.signal.aborted) turn.error = message(problem);
    else if (!now.said) turn.stopped = true;
  }
  if (running === now) running = null;
  await keep(asked);
  if (talk === asked && asked.turns.includes(turn)) {
    const at = log.scrollTop;
    const below = log.scrollHeight - log.clientHeight - at < 60;
    show();
    if (!below) log.scrollTop = at;
    announce(turn.error ?? turn.text);
  }
}

let waiting = 0; // for the next frame, which draws all that has come until then

/**
 * @param {Turn} turn
 * @param {boolean} looking whether the words have come, and not yet where they are from
 */
function stream(turn, looking) {
  cancelAnimationFrame(waiting);
  waiting = requestAnimationFrame(() => {
    const element = elements.get(turn);
    const text = element?.querySelector(".text");
    if (!element || running?.turn !== turn || !text) return;
    const below = log.scrollHeight - log.clientHeight - log.scrollTop < 60;
    fill(/** @type {HTMLElement} */ (text), { ...turn, looked: undefined }, acts);
    const note = /** @type {HTMLElement} */ (element.querySelector(".waiting"));
    note.textContent = looking ? "Finding where it looked …" : turn.text ? "" : "Looking …";
    element.classList.toggle("said", looking);
    if (below) log.scrollTop = log.scrollHeight;
  });
}

function stop() {
  running?.control.abort();
  running = null;
}

/** Keeps a conversation in the browser. @param {Talk} talk */
async function keep(talk) {
  try {
    await save(talk);
  } catch {
    say("This browser keeps no conversations: export what you need.");
  }
}

/** @param {string} told why a key is needed; whether there is one now is returned */
function askKey(told) {
  const dialog = find("key");
  find("key-told").textContent = told;
  dialog.returnValue = "";
  dialog.showModal();
  return new Promise((resolve) => {
    dialog.onclose = () => {
      const given = dialog.returnValue === "use" ? find("key-field").value.trim() : "";
      if (given) setKey(given);
      resolve(Boolean(given));
    };
  });
}

// ------------------------------------------------------------------------------------------------ conversations

/** @param {Talk} other */
function open(other) {
  if (running && running.talk !== other) stop();
  talk = other;
  find("system").value = talk.system;
  document.body.classList.remove("menu");
  show();
}

function fresh() {
  open(begin());
  find("question").focus();
}

/** @param {Talk} old */
async function forget(old) {
  if (!confirm(`Delete “${title(old)}”?`)) return;
  if (running?.talk === old) stop();
  talks = talks.filter((each) => each !== old);
  await remove(old);
  if (talk === old) fresh();
  else refresh();
}

/** Hands over conversations as a file. @param {Talk[]} chosen @param {string} name */
function hand(chosen, name) {
  try {
    download(name, chosen.map(toRecord));
  } catch (problem) {
    say(message(problem));
  }
}

// ---------------------------------------------------------------------------------------------------- controls

/** Asks about an example. @param {string} url @param {string} name @param {string} question */
async function example(url, name, question) {
  try {
    ask(question, [await read(await (await fetch(url)).blob(), name)], []);
  } catch (problem) {
    say(message(problem));
  }
}

function wire() {
  const field = find("question");
  const fit = () => {
    field.style.height = "auto";
    field.style.height = `${Math.min(field.scrollHeight, 200)}px`;
    find("send").disabled = !field.value.trim();
  };
  find("composer").addEventListener("submit", (/** @type {Event} */ event) => {
    event.preventDefault();
    const text = field.value.trim();
    if (!text) return;
    const pictures = tray.pictures;
    field.value = "";
    tray.set([]);
    fit();
    ask(text, pictures, talk.turns);
  });
  field.addEventListener("input", fit);
  field.addEventListener("keydown", (/** @type {KeyboardEvent} */ event) => {
    if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
    event.preventDefault();
    if (!running || running.said) find("composer").requestSubmit();
  });
  document.addEventListener("keydown", (event) => {
    if (event.key === "Escape" && running && !document.querySelector("dialog[open]")) halt();
  });
  const halt = () => {
    running?.control.abort();
    field.focus();
  };
  find("stop").addEventListener("click", halt);
  find("live").addEventListener("change", () => {
    find("live-panel").hidden = !find("live").checked;
    live(model?.id ?? "default", talk);
  });
  find("camera").addEventListener("close", () => {
    find("live-panel").hidden = true;
    find("live").checked = false;
  });
  find("new").addEventListener("click", fresh);
  find("menu").addEventListener("click", () => document.body.classList.toggle("menu"));
  find("shade").addEventListener("click", () => document.body.classList.remove("menu"));
  find("clear").addEventListener("click", () => forget(talk));
  find("export").addEventListener("click", () => hand([talk], "conversation.json"));
  find("export-all").addEventListener("click", () => hand(talks, "conversations.json"));
  find("settings-button").addEventListener("click", () => find("settings").showModal());
  find("system").addEventListener("input", (/** @type {any} */ event) => {
    talk.system = event.target.value;
    if (talks.includes(talk)) keep(talk);
  });
  if (matchMedia("(max-width: 860px)").matches) find("tune").open = false;
}

/** @returns {Promise<void>} */
async function start() {
  try {
    model = await describe();
    fit(model);
    find("model").textContent = model.id;
    find("examples").replaceChildren(...model.examples.map(({ name, url, question }) => make("li", {},
      make("button", { type: "button", class: "example", onclick: () => example(url, name, question) },
        make("img", { src: url, alt: "" }), make("span", {}, question)))));
  } catch (problem) {
    if (problem instanceof ServerError && problem.status === 401 && (await askKey(problem.message))) return start();
    say(message(problem));
  }
}

wire();
wirePreferences();
remember();
talks = await load().catch(() => []);
if (talks.length) open(talks[0]);
else refresh();
await start();
document.body.dataset.ready = "true";
