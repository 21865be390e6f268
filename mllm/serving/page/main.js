// The page: conversations at the left, words in the middle, and where the model looked at the right.

import { answer, describe, ServerError, setKey } from "./api.js";
import { button, find, make } from "./dom.js";
import { draw, fill, seconds } from "./log.js";
import { photo, read, Tray } from "./pictures.js";
import { begin, download, load, remove, save, title, toRecord } from "./store.js";
import { Viewer } from "./viewer.js";

/**
 * @typedef {import("./store.js").Talk} Talk
 * @typedef {import("./store.js").Turn} Turn
 */

const SIDES = [32, 48, 64, 96, 128, 160, 192, 224, 256, 320, 384, 448, 512, 640, 768, 896, 1024, 1280, 1536, 2048];
const PREFERENCES = "mllm.preferences";

const preferences = {
  temperature: 0, longest: 256, explain: true, theme: "system", tokens: 0, size: 0, // 0: the model's own
  ...JSON.parse(localStorage.getItem(PREFERENCES) ?? "{}"),
};
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

/** Shows a line for a few seconds, and has it read out. @param {string} text */
function say(text) {
  const toast = find("toast");
  toast.textContent = text;
  toast.classList.add("shown");
  clearTimeout(Number(toast.dataset.timer));
  toast.dataset.timer = String(setTimeout(() => toast.classList.remove("shown"), 6000));
}

/** Has a line read out. @param {string} text */
function announce(text) {
  find("spoken").textContent = text;
}

/** @param {unknown} problem */
function message(problem) {
  return problem instanceof Error ? problem.message : String(problem);
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
  const now = (running = { talk: asked, turn, control: new AbortController(), said: false });
  show();
  await keep(asked);
  try {
    await receive(asked, turn, now.control.signal);
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

/**
 * @param {Talk} asked
 * @param {Turn} turn that is filled with what comes
 * @param {AbortSignal} signal
 */
async function receive(asked, turn, signal) {
  const turns = asked.turns.slice(0, -1).filter((each) => each.text);
  const pictures = turns.some((each) => each.pictures.length > 0);
  const started = performance.now();
  let first = 0;
  const body = request(asked, turns, pictures);
  for await (const piece of answer(body, signal)) {
    const now = (performance.now() - started) / 1000;
    const stats = (turn.stats ??= { imageTokens: 0, tokens: 0, first: 0, rate: 0 });
    if (piece.text) {
      first ||= now;
      turn.text += piece.text;
      Object.assign(stats, { tokens: stats.tokens + 1, first, rate: stats.tokens / (now - first || Infinity) });
    }
    if (piece.usage) {
      const { completion_tokens, prompt_tokens_details } = piece.usage;
      Object.assign(stats, { tokens: completion_tokens, imageTokens: prompt_tokens_details?.image_tokens ?? 0 });
    }
    if (piece.mllm) { // the server's clock is not slowed down by the network
      const { time_to_first_token, tokens_per_second, images, words, not_explained } = piece.mllm;
      Object.assign(stats, { first: time_to_first_token ?? stats.first, rate: tokens_per_second ?? stats.rate });
      if (images && words) turn.looked = { images, words };
      turn.unexplained = not_explained;
    }
    if (piece.ended && running?.turn === turn) {
      running.said = true;
      refresh();
    }
    stream(turn, Boolean(running?.said) && body.explain);
  }
}

/**
 * What is asked of the server.
 * @param {Talk} asked
 * @param {Turn[]} turns of it
 * @param {boolean} pictures whether they have any
 */
function request(asked, turns, pictures) {
  return {
    model: model?.id ?? "default",
    messages: [...(asked.system ? [{ role: "system", content: asked.system }] : []), ...turns.map(toMessage)],
    temperature: preferences.temperature,
    max_tokens: preferences.longest,
    stream: true,
    stream_options: { include_usage: true },
    explain: pictures && preferences.explain,
    ...(pictures && preferences.tokens && { image_tokens: preferences.tokens }),
    ...(pictures && preferences.size && { image_size: preferences.size }),
  };
}

/** @param {Turn} turn */
function toMessage({ role, text, pictures }) {
  const images = pictures.map((picture) => ({ type: "image_url", image_url: { url: picture.source } }));
  return { role, content: images.length ? [...images, { type: "text", text }] : text };
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

/** Asks about what the camera sees, over and over, while that is wanted and the camera is open. */
async function live() {
  const [video, wanted, told] = [find("video"), find("live"), find("live-answer")];
  while (wanted.checked && video.srcObject) {
    const control = new AbortController();
    const closed = setInterval(() => video.srcObject || control.abort(), 100);
    try {
      /** @type {Turn} */
      const turn = { role: "user", text: find("live-question").value, pictures: [await photo(video)] };
      let said = "";
      for await (const piece of answer({ ...request(talk, [turn], true), explain: false }, control.signal)) {
        said += piece.text ?? "";
        if (said) told.textContent = said;
        const { time_to_first_token: first, tokens_per_second: rate } = piece.mllm ?? {};
        if (first) find("live-stats").textContent = `first token ${seconds(first)} · ${Math.round(rate)} tokens/s`;
      }
    } catch (problem) {
      if (!control.signal.aborted) told.textContent = message(problem);
      wanted.checked = false;
    } finally {
      clearInterval(closed);
    }
  }
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

function remember() {
  localStorage.setItem(PREFERENCES, JSON.stringify(preferences));
  document.documentElement.dataset.theme = preferences.theme;
  for (const [name, told] of Object.entries(beside())) find(`${name}-told`).textContent = told;
}

/** What stands beside each slider. @returns {Record<string, string>} */
function beside() {
  const [fewest, most] = model?.tokens ?? [0, 0];
  return {
    temperature: preferences.temperature ? preferences.temperature.toFixed(1) : "0, always the same",
    longest: `${preferences.longest} tokens`,
    tokens: fewest < most ? String(preferences.tokens || most) : most ? `${most}, fixed in this model` : "",
    size: !model?.sizes ? "fixed in this model" : preferences.size ? `about ${preferences.size} × ${preferences.size}` : "the model's own",
  };
}

/** Sets sliders to what the model can do, and to what was chosen before. */
function ready() {
  if (!model) return;
  const [fewest, most] = model.tokens;
  const sides = [0, ...(model.sizes ? SIDES.filter((side) => side >= (model?.sizes?.[0] ?? 0) && side <= (model?.sizes?.[1] ?? 0)) : [])];
  const choices = { tokens: [fewest, most], size: [0, sides.length - 1], longest: [1, model.longest], temperature: [0, 2] };
  preferences.tokens = fewest < most && preferences.tokens ? Math.min(most, Math.max(fewest, preferences.tokens)) : 0;
  preferences.size = sides.includes(preferences.size) ? preferences.size : 0;
  preferences.longest = Math.min(model.longest, preferences.longest);
  for (const [name, [min, max]] of Object.entries(choices)) {
    const slider = find(name);
    Object.assign(slider, { min, max, disabled: min === max });
    slider.value = name === "size" ? sides.indexOf(preferences.size) : name === "tokens" ? preferences.tokens || most : preferences[name];
    slider.oninput = () => {
      preferences[name] = name === "size" ? sides[Number(slider.value)] : Number(slider.value);
      remember();
      slider.setAttribute("aria-valuetext", find(`${name}-told`).textContent);
    };
  }
  find("model").textContent = model.id;
  find("examples").replaceChildren(...model.examples.map(({ name, url, question }) => make("li", {},
    make("button", { type: "button", class: "example", onclick: () => example(url, name, question) },
      make("img", { src: url, alt: "" }), make("span", {}, question)))));
  remember();
}

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
    live();
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
  find("explain").checked = preferences.explain;
  find("explain").addEventListener("change", (/** @type {any} */ event) => {
    preferences.explain = event.target.checked;
    remember();
  });
  find("theme").value = preferences.theme;
  find("theme").addEventListener("change", (/** @type {any} */ event) => {
    preferences.theme = event.target.value;
    remember();
  });
  if (matchMedia("(max-width: 860px)").matches) find("tune").open = false;
}

/** @returns {Promise<void>} */
async function start() {
  try {
    model = await describe();
    ready();
  } catch (problem) {
    if (problem instanceof ServerError && problem.status === 401 && (await askKey(problem.message))) return start();
    say(message(problem));
  }
}

wire();
remember();
talks = await load().catch(() => []);
if (talks.length) open(talks[0]);
else refresh();
await start();
document.body.dataset.ready = "true";
