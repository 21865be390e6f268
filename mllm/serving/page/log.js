// What was said, as elements.

import { button, icon, make } from "./dom.js";
import { render } from "./markdown.js";

/**
 * @typedef {import("./store.js").Turn} Turn
 * @typedef {{edit: (turn: Turn, text: string) => void, regenerate: (turn: Turn) => void, look: (turn: Turn) => void,
 *            point: (turn: Turn, word: number | null) => void, say: (text: string) => void}} Acts
 */

/**
 * A turn as an element.
 * @param {Turn} turn
 * @param {Acts} acts
 * @param {boolean} busy whether it is being answered
 * @returns {HTMLElement}
 */
export function draw(turn, acts, busy) {
  return turn.role === "user" ? question(turn, acts) : answer(turn, acts, busy);
}

/** @param {Turn} turn @param {Acts} acts */
function question(turn, acts) {
  const bubble = make("div", { class: "bubble" },
    turn.pictures.length > 0 && make("div", { class: "pictures" }, ...turn.pictures.map((picture, index) =>
      make("img", { src: picture.source, alt: picture.name || `Image ${index + 1}`, width: picture.width, height: picture.height }))),
    make("p", {}, turn.text));
  const edit = () => {
    const field = make("textarea", { value: turn.text, rows: 3, "aria-label": "Your question" });
    const done = (/** @type {Event} */ event) => {
      event.preventDefault();
      if (field.value.trim()) acts.edit(turn, field.value.trim());
    };
    const form = make("form", { class: "edit", onsubmit: done }, field, make("div", { class: "row" },
      make("button", { type: "button", class: "plain", onclick: () => form.replaceWith(bubble) }, "Cancel"),
      make("button", { class: "primary" }, "Ask again")));
    field.addEventListener("keydown", (/** @type {KeyboardEvent} */ event) => {
      if (event.key === "Escape") form.replaceWith(bubble);
      if (event.key === "Enter" && !event.shiftKey) done(event);
    });
    bubble.replaceWith(form);
    form.scrollIntoView({ block: "nearest" });
    field.focus();
  };
  return make("article", { class: "turn question", "aria-label": "You" },
    make("div", { class: "acts" }, button("edit", "Edit the question", edit)), bubble);
}

/** @param {Turn} turn @param {Acts} acts @param {boolean} busy */
function answer(turn, acts, busy) {
  const text = make("div", { class: "text" });
  const element = make("article", { class: `turn answer${busy ? " busy" : ""}`, "aria-label": "Answer", "aria-busy": String(busy) }, text);
  fill(text, turn, acts);
  if (turn.error) {
    element.append(make("div", { class: "error", role: "alert" }, icon("alert"), make("p", {}, turn.error),
      make("button", { type: "button", class: "plain", onclick: () => acts.regenerate(turn) }, "Try again")));
  }
  if (busy) element.append(make("p", { class: "stats waiting" }, turn.text ? "" : "Looking …"));
  if (busy || turn.error) return element;
  element.append(make("div", { class: "foot" },
    make("div", { class: "acts" },
      button("copy", "Copy the answer", async () => {
        const copied = await navigator.clipboard?.writeText(turn.text).then(() => true, () => false);
        acts.say(copied ? "Copied." : "This browser does not let the page copy: select the words.");
      }),
      button("again", "Answer again", () => acts.regenerate(turn)),
      turn.looked && button("eye", "Show where the model looked", () => acts.look(turn))),
    stats(turn)));
  return element;
}

/**
 * Writes the answer, its words linked to places where that is known.
 * @param {HTMLElement} element
 * @param {Turn} turn
 * @param {Acts} acts
 */
export function fill(element, turn, acts) {
  if (!turn.looked) {
    element.replaceChildren(render(turn.text));
    return;
  }
  // Python counts characters where JavaScript counts units of UTF-16.
  const starts = [0];
  for (const character of turn.text) starts.push(starts[starts.length - 1] + character.length);
  const words = turn.looked.words.map(({ begin, end }) => ({ begin: starts[begin], end: starts[end] }));
  element.replaceChildren(render(turn.text, (text, begin) => {
    const piece = document.createDocumentFragment();
    let at = 0;
    words.forEach((word, index) => {
      const [start, end] = [Math.max(at, word.begin - begin), Math.min(text.length, word.end - begin)];
      if (start >= end) return;
      piece.append(text.slice(at, start), make("span", { class: "word", "data-word": String(index), tabIndex: -1 }, text.slice(start, end)));
      at = end;
    });
    piece.append(text.slice(at));
    return piece;
  }));
  const spans = /** @type {HTMLElement[]} */ ([...element.querySelectorAll(".word")]);
  if (spans.length) spans[0].tabIndex = 0;
  spans.forEach((span, place) => {
    const point = () => acts.point(turn, Number(span.dataset.word));
    span.addEventListener("pointerenter", point);
    span.addEventListener("click", () => span.focus());
    span.addEventListener("focus", () => {
      spans.forEach((each) => (each.tabIndex = each === span ? 0 : -1)); // one stop of the tabulator for all words
      point();
    });
    span.addEventListener("blur", () => acts.point(turn, null));
    span.addEventListener("keydown", (event) => {
      const step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
      if (event.key === "Escape") span.blur();
      if (!step) return;
      event.preventDefault();
      spans[Math.min(spans.length - 1, Math.max(0, place + step))].focus();
    });
  });
  element.addEventListener("pointerleave", () => {
    const focused = spans.find((span) => span === document.activeElement);
    acts.point(turn, focused ? Number(focused.dataset.word) : null);
  });
}

/** @param {Turn} turn */
function stats(turn) {
  const told = [turn.stopped && "stopped"];
  if (turn.stats) {
    const { imageTokens, tokens, first, rate } = turn.stats;
    told.push(imageTokens > 0 && `${imageTokens} image tokens`, `first token ${seconds(first)}`,
      tokens > 0 && `${tokens} token${tokens > 1 ? "s" : ""}`, rate > 0 && `${rate < 10 ? rate.toFixed(1) : Math.round(rate)} tokens/s`);
  }
  return make("ul", { class: "stats", "aria-label": "About this answer" }, ...told.filter(Boolean).map((text) => make("li", {}, text)));
}

/** @param {number} time */
export function seconds(time) {
  return time < 1 ? `${Math.round(time * 1000)} ms` : `${time.toFixed(1)} s`;
}
