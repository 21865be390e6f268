// What a person has chosen, for all conversations: kept in the browser, and shown by the page's sliders.

import { find } from "./dom.js";

/** @typedef {import("./api.js").Model} Model */

const SIDES = [32, 48, 64, 96, 128, 160, 192, 224, 256, 320, 384, 448, 512, 640, 768, 896, 1024, 1280, 1536, 2048];
const PREFERENCES = "mllm.preferences";

export const preferences = {
  temperature: 0, longest: 256, explain: true, theme: "system", tokens: 0, size: 0, // 0: the model's own
  ...JSON.parse(localStorage.getItem(PREFERENCES) ?? "{}"),
};
/** @type {Model | null} */
let model = null;

/** Keeps the preferences in the browser, and shows them. */
export function remember() {
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

/** Sets sliders to what a model can do, and to what was chosen before. @param {Model} served */
export function fit(served) {
  model = served;
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
  remember();
}

export function wirePreferences() {
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
}
