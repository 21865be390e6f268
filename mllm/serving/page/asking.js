// Questions to the server, and what comes of them.

import { answer } from "./api.js";
import { find, message } from "./dom.js";
import { seconds } from "./log.js";
import { photo } from "./pictures.js";
import { preferences } from "./preferences.js";
import { answered } from "./store.js";

/**
 * @typedef {import("./store.js").Talk} Talk
 * @typedef {import("./store.js").Turn} Turn
 */

/**
 * Asks for the last turn of a conversation.
 * @param {string} model
 * @param {Talk} asked
 * @param {Turn} turn that is filled with what comes
 * @param {AbortSignal} signal
 * @param {(ended: boolean) => void} changed is called for each piece, at last with where the model looked
 */
export async function receive(model, asked, turn, signal, changed) {
  const turns = answered(asked.turns.slice(0, -1));
  const pictures = turns.some((each) => each.pictures.length > 0);
  const started = performance.now();
  let first = 0;
  for await (const piece of answer(request(model, asked, turns, pictures), signal)) {
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
    changed(Boolean(piece.ended));
  }
}

/**
 * What is asked of the server.
 * @param {string} model
 * @param {Talk} asked
 * @param {Turn[]} turns of it
 * @param {boolean} pictures whether they have any
 */
function request(model, asked, turns, pictures) {
  return {
    model,
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

/**
 * Asks about what the camera sees, over and over, while that is wanted and the camera is open.
 * @param {string} model
 * @param {Talk} talk of which the system prompt is
 */
export async function live(model, talk) {
  const [video, wanted, told] = [find("video"), find("live"), find("live-answer")];
  while (wanted.checked && video.srcObject) {
    const control = new AbortController();
    const closed = setInterval(() => video.srcObject || control.abort(), 100);
    try {
      /** @type {Turn} */
      const turn = { role: "user", text: find("live-question").value, pictures: [await photo(video)] };
      let said = "";
      for await (const piece of answer({ ...request(model, talk, [turn], true), explain: false }, control.signal)) {
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
