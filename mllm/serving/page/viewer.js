// The image that an answer is about, and over it where the model looked.

import { find, make } from "./dom.js";
import { heat, peak, wordsAt } from "./heat.js";
import { places, regions, spotlight } from "./overlay.js";

/**
 * @typedef {import("./api.js").Looked} Looked
 * @typedef {import("./store.js").Picture} Picture
 */

const MARGIN = 0.07; // of the stage's sides; RoIs may reach outside of the image

export class Viewer {
  /** @type {Picture[]} */ pictures = [];
  /** @type {Looked | null} */ looked = null;
  /** @type {number | null} */ word = null;
  answer = "";
  why = "";
  image = 0;
  shown = { regions: true, density: false };
  /** What each word has at the place that is pointed at; null: nothing is. @type {(levels: number[] | null) => void} */
  onpoint = () => {};

  constructor() {
    this.stage = find("stage");
    this.canvas = /** @type {HTMLCanvasElement} */ (find("drawing"));
    this.picture = /** @type {HTMLImageElement} */ (find("picture"));
    new ResizeObserver(() => this.draw()).observe(this.stage);
    this.picture.addEventListener("load", () => this.draw());
    this.canvas.addEventListener("pointermove", (event) => this.#point(event));
    this.canvas.addEventListener("pointerleave", () => this.onpoint(null));
    for (const name of /** @type {const} */ (["regions", "density"])) {
      find(name).addEventListener("click", () => {
        this.shown[name] = !this.shown[name];
        find(name).setAttribute("aria-pressed", String(this.shown[name]));
        this.draw();
      });
    }
  }

  /**
   * @param {Picture[]} pictures those that the answer is about
   * @param {Looked | null} looked
   * @param {string} answer
   * @param {string} [why] it is not known where the model looked
   */
  show(pictures, looked, answer, why = "Ask, and see here where the model looked.") {
    Object.assign(this, { pictures, looked, answer, why, word: null, image: Math.max(0, pictures.length - 1) });
    this.draw();
  }

  /** @param {number | null} word */
  point(word) {
    this.word = word;
    const found = word === null || !this.looked ? null : peak(this.looked, word);
    if (found) this.image = found.image;
    this.draw();
  }

  /** @param {PointerEvent} event */
  #point(event) {
    const box = this.#box();
    const [x, y] = [(event.offsetX - box.x) / box.width, (event.offsetY - box.y) / box.height];
    const inside = this.looked?.images[this.image] && x >= 0 && x < 1 && y >= 0 && y < 1;
    this.onpoint(inside && this.looked ? wordsAt(this.looked, this.image, x, y) : null);
  }

  /** Where the image is on the stage. */
  #box() {
    const { naturalWidth, naturalHeight } = this.picture;
    const [wide, high] = [this.stage.clientWidth, this.stage.clientHeight];
    const scale = (1 - 2 * MARGIN) * Math.min(wide / (naturalWidth || 1), high / (naturalHeight || 1));
    const [width, height] = [naturalWidth * scale, naturalHeight * scale];
    return { x: (wide - width) / 2, y: (high - height) / 2, width, height, scale };
  }

  draw() {
    const picture = this.pictures[this.image];
    document.body.classList.toggle("has-picture", Boolean(picture));
    document.body.classList.toggle("has-looked", Boolean(this.looked));
    this.#tabs();
    this.#tell();
    if (!picture) return;
    if (this.picture.getAttribute("src") !== picture.source) {
      this.picture.src = picture.source;
      this.picture.alt = picture.name;
      return; // until it is loaded
    }
    const box = this.#box();
    Object.assign(this.picture.style, { left: `${box.x}px`, top: `${box.y}px`, width: `${box.width}px`, height: `${box.height}px` });
    this.picture.classList.toggle("enlarged", box.scale > 2);

    const density = window.devicePixelRatio || 1;
    this.canvas.width = this.stage.clientWidth * density;
    this.canvas.height = this.stage.clientHeight * density;
    const context = /** @type {CanvasRenderingContext2D} */ (this.canvas.getContext("2d"));
    context.scale(density, density);
    const seen = this.looked?.images[this.image];
    if (seen && this.looked && this.word !== null) {
      const { weights } = this.looked.words[this.word];
      const heats = this.looked.images.map((image, index) => heat(image, weights[index]).most);
      spotlight(context, box, heat(seen, weights[this.image]), Math.max(...heats));
    } else if (seen && this.shown.density) {
      const grid = heat(seen);
      spotlight(context, box, grid, grid.most);
    }
    if (seen && this.shown.regions) {
      const weights = this.word === null ? null : this.looked?.words[this.word].weights[this.image];
      regions(context, box, seen.rois, weights ?? null);
    }
    if (this.image === this.pictures.length - 1) places(context, box, this.answer);
  }

  #tabs() {
    const count = this.pictures.length;
    find("tabs").replaceChildren(...(count < 2 ? [] : this.pictures.map((picture, index) => make("button", {
      type: "button", class: "tab", "aria-pressed": String(index === this.image), "aria-label": `Image ${index + 1} of ${count}`,
      onclick: () => {
        this.image = index;
        this.draw();
      },
    }, make("img", { src: picture.source, alt: "" })))));
  }

  #tell() {
    const seen = this.looked?.images[this.image];
    let told = "";
    if (this.looked && this.word !== null) {
      const found = peak(this.looked, this.word);
      const where = found && (this.pictures.length > 1 ? `${found.name} of image ${found.image + 1}` : found.name);
      told = `“${this.looked.words[this.word].text}” ${where ? `comes mostly from the ${where}` : "depends on no place in the image"}.`;
    } else if (seen) {
      told = `${seen.num_tokens} tokens looked at it. Point at a word or a place.`;
    } else if (this.pictures.length) {
      told = this.why;
    }
    find("told").textContent = told;
  }
}
