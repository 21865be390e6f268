// Elements in one call each.

/**
 * Makes an element.
 * @param {string} tag
 * @param {Record<string, any>} [given] properties; `class`, `data-…`, `aria-…` and `role` are attributes, `on…` listeners
 * @param {...(Node | string | null | false | undefined)} children
 * @returns {any}
 */
export function make(tag, given = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(given)) {
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (name === "class" || name === "role" || name.includes("-")) element.setAttribute(name, value);
    else Object.assign(element, { [name]: value });
  }
  element.append(...children.filter((child) => child || child === "").map((child) => /** @type {Node} */ (child)));
  return element;
}

/**
 * One of the icons in index.html.
 * @param {string} name
 */
export function icon(name) {
  const space = "http://www.w3.org/2000/svg";
  const svg = document.createElementNS(space, "svg");
  svg.setAttribute("aria-hidden", "true");
  svg.append(document.createElementNS(space, "use"));
  svg.firstElementChild?.setAttribute("href", `#icon-${name}`);
  return svg;
}

/**
 * A button with an icon, and what it does as its label.
 * @param {string} name of the icon
 * @param {string} label
 * @param {() => unknown} onclick
 * @returns {HTMLButtonElement}
 */
export function button(name, label, onclick) {
  return make("button", { type: "button", class: "icon", title: label, "aria-label": label, onclick }, icon(name));
}

/**
 * The element of index.html with this id.
 * @param {string} id
 * @returns {any}
 */
export function find(id) {
  return document.getElementById(id);
}

/** Shows a line for a few seconds, and has it read out. @param {string} text */
export function say(text) {
  const toast = find("toast");
  toast.textContent = text;
  toast.classList.add("shown");
  clearTimeout(Number(toast.dataset.timer));
  toast.dataset.timer = String(setTimeout(() => toast.classList.remove("shown"), 6000));
}

/** Has a line read out. @param {string} text */
export function announce(text) {
  find("spoken").textContent = text;
}

/** @param {unknown} problem */
export function message(problem) {
  return problem instanceof Error ? problem.message : String(problem);
}
