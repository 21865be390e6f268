// Where the model looked: an image, the RoIs of its tokens, their density, and the place that a word comes from.

import { find, make } from "./dom.js";
import { PLACES } from "./store.js";

/**
 * @typedef {import("./api.js").Looked} Looked
 * @typedef {import("./api.js").LookedImage} LookedImage
 * @typedef {import("./store.js").Picture} Picture
 * @typedef {{width: number, height: number, values: Float32Array}} Grid
 */

const NIGHT = [16, 18, 40];
const DIM = 0.88; // how much of an image is covered where nothing was looked at
const FINE = 4; // the grid is drawn so many times finer
const MARGIN = 0.07; // of the longer side; RoIs may reach outside of the image
const NAMES = [["upper left", "top", "upper right"], ["left", "middle", "right"], ["lower left", "bottom", "lower right"]];

/**
 * What each token of an image has looked at: a grid that sums to 1.
 * @type {WeakMap<LookedImage, Grid[]>}
 */
const decoded = new WeakMap();

/**
 * @param {LookedImage} image
 * @returns {Grid[]}
 */
function tokens(image) {
  const known = decoded.get(image);
  if (known) return known;
  const { width, height, cells } = image.density;
  const bytes = Uint8Array.from(atob(cells), (character) => character.charCodeAt(0));
  const grids = image.rois.map((_, token) => {
    const values = Float32Array.from(bytes.subarray(token * width * height, (token + 1) * width * height));
    const sum = values.reduce((total, value) => total + value, 0) || 1;
    return { width, height, values: values.map((value) => value / sum) };
  });
  decoded.set(image, grids);
  return grids;
}

/**
 * The tokens' grids, weighed and added up.
 * @param {LookedImage} image
 * @param {number[]} [weights] by default all alike
 * @returns {Grid}
 */
export function heat(image, weights = image.rois.map(() => 1 / image.rois.length)) {
  const { width, height } = image.density;
  const values = new Float32Array(width * height);
  tokens(image).forEach((grid, token) => {
    const weight = weights[token];
    if (weight) for (let cell = 0; cell < values.length; cell++) values[cell] += weight * grid.values[cell];
  });
  return { width, height, values };
}

/**
 * In which image, and where in it, a word has most of its weight.
 * @param {Looked} looked
 * @param {number} word
 * @returns {{image: number, name: string} | null} null where it depends on none
 */
export function peak(looked, word) {
  const { weights } = looked.words[word];
  const shares = weights.map((each) => each.reduce((sum, weight) => sum + weight, 0));
  const image = shares.indexOf(Math.max(...shares));
  if (!(shares[image] > 0)) return null;
  const grid = heat(looked.images[image], weights[image]);
  const cell = grid.values.indexOf(Math.max(...grid.values));
  const [row, column] = [Math.floor(cell / grid.width) / grid.height, (cell % grid.width) / grid.width];
  return { image, name: NAMES[Math.floor(row * 3)][Math.floor(column * 3)] };
}

/**
 * What each word has at a place, from 0 to 1 of the most that it has anywhere.
 * @param {Looked} looked
 * @param {number} image
 * @param {number} x of its width
 * @param {number} y of its height
 */
export function wordsAt(looked, image, x, y) {
  return looked.words.map((word) => {
    const { width, height, values } = heat(looked.images[image], word.weights[image]);
    const cell = Math.min(height - 1, Math.floor(y * height)) * width + Math.min(width - 1, Math.floor(x * width));
    return values[cell] / (Math.max(...values) || 1);
  });
}

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
      const heats = this.looked.images.map((image, index) => Math.max(...heat(image, weights[index]).values));
      spotlight(context, box, heat(seen, weights[this.image]), Math.max(...heats));
    } else if (seen && this.shown.density) {
      const grid = heat(seen);
      spotlight(context, box, grid, Math.max(...grid.values));
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

/**
 * Covers an image except where the heat is, with a line around the hottest region that has half of it.
 * @param {CanvasRenderingContext2D} context
 * @param {{x: number, y: number, width: number, height: number}} box of the image
 * @param {Grid} grid
 * @param {number} most the heat that nothing of the image is covered at
 */
function spotlight(context, box, grid, most) {
  const sum = grid.values.reduce((total, value) => total + value, 0);
  let rest = sum / 2;
  const half = grid.values.slice().sort().reverse().find((value) => (rest -= value) <= 0) ?? 0;
  const fine = refine(grid);
  const cover = new ImageData(fine.width, fine.height);
  fine.values.forEach((value, cell) => {
    cover.data.set([...NIGHT, 255 * DIM * (1 - Math.min(1, value / (most || 1)))], 4 * cell);
  });
  const layer = new OffscreenCanvas(fine.width, fine.height);
  /** @type {OffscreenCanvasRenderingContext2D} */ (layer.getContext("2d")).putImageData(cover, 0, 0);
  context.imageSmoothingQuality = "high";
  context.drawImage(layer, box.x, box.y, box.width, box.height);
  if (sum > 0) outline(context, box, fine, half);
}

/**
 * A grid FINE times finer, smooth between its cells.
 * @param {Grid} grid
 * @returns {Grid}
 */
function refine({ width, height, values }) {
  const fine = { width: width * FINE, height: height * FINE, values: new Float32Array(width * height * FINE * FINE) };
  /** @param {number} place @param {number} count @returns {[number, number, number]} two cells, and how near the second is */
  const between = (place, count) => {
    const at = Math.min(count - 1, Math.max(0, (place + 0.5) / FINE - 0.5));
    const low = Math.floor(at);
    const near = at - low;
    return [low, Math.min(count - 1, low + 1), near * near * (3 - 2 * near)];
  };
  for (let y = 0; y < fine.height; y++) {
    const [top, bottom, down] = between(y, height);
    for (let x = 0; x < fine.width; x++) {
      const [left, right, across] = between(x, width);
      /** @param {number} row */
      const mixed = (row) => values[row * width + left] * (1 - across) + values[row * width + right] * across;
      fine.values[y * fine.width + x] = mixed(top) * (1 - down) + mixed(bottom) * down;
    }
  }
  return fine;
}

/**
 * Draws where a grid crosses a level, by marching squares.
 * @param {CanvasRenderingContext2D} context
 * @param {{x: number, y: number, width: number, height: number}} box
 * @param {Grid} grid
 * @param {number} level
 */
function outline(context, box, { width, height, values }, level) {
  /** @param {number} x @param {number} y */
  const value = (x, y) => (x < 0 || y < 0 || x >= width || y >= height ? 0 : values[y * width + x]);
  context.beginPath();
  for (let y = -1; y < height; y++) {
    for (let x = -1; x < width; x++) {
      const corners = [[x, y], [x + 1, y], [x + 1, y + 1], [x, y + 1]];
      const points = corners.flatMap(([x0, y0], side) => {
        const [x1, y1] = corners[(side + 1) % 4];
        const [from, to] = [value(x0, y0), value(x1, y1)];
        if (from >= level === to >= level) return [];
        const part = (level - from) / (to - from);
        const [across, down] = [x0 + part * (x1 - x0) + 0.5, y0 + part * (y1 - y0) + 0.5];
        return [[box.x + (Math.min(width, Math.max(0, across)) / width) * box.width,
                 box.y + (Math.min(height, Math.max(0, down)) / height) * box.height]];
      });
      for (let pair = 0; pair + 1 < points.length; pair += 2) {
        context.moveTo(points[pair][0], points[pair][1]);
        context.lineTo(points[pair + 1][0], points[pair + 1][1]);
      }
    }
  }
  context.strokeStyle = "rgb(255 255 255 / 0.9)";
  context.lineWidth = 1.5;
  context.stroke();
}

/**
 * Draws the RoIs, those with more weight clearer.
 * @param {CanvasRenderingContext2D} context
 * @param {{x: number, y: number, width: number, height: number}} box
 * @param {number[][]} rois
 * @param {number[] | null} weights
 */
function regions(context, box, rois, weights) {
  const most = weights && Math.max(...weights);
  rois.forEach(([x0, y0, x1, y1], token) => {
    const strength = !weights ? 0.85 : most ? weights[token] / most : 0;
    if (strength < 0.15) return;
    // Hues a golden ratio of the circle from each other: neighbors are far apart.
    context.strokeStyle = `hsl(${(token * 222.49) % 360} 90% 66% / ${strength})`;
    context.lineWidth = weights ? 2 : 1.25;
    context.strokeRect(box.x + x0 * box.width, box.y + y0 * box.height, (x1 - x0) * box.width, (y1 - y0) * box.height);
  });
}

/**
 * Draws the boxes and points that an answer names.
 * @param {CanvasRenderingContext2D} context
 * @param {{x: number, y: number, width: number, height: number}} box
 * @param {string} answer
 */
function places(context, box, answer) {
  for (const [, ...written] of answer.matchAll(PLACES)) {
    const [x0, y0, x1, y1] = written.map((number) => Number(number) / 1000);
    context.beginPath();
    if (written[2]) context.rect(box.x + x0 * box.width, box.y + y0 * box.height, (x1 - x0) * box.width, (y1 - y0) * box.height);
    else context.arc(box.x + x0 * box.width, box.y + y0 * box.height, 5, 0, 2 * Math.PI);
    for (const [color, lineWidth] of /** @type {[string, number][]} */ ([["#fff", 5], ["#f76707", 2.5]])) {
      Object.assign(context, { strokeStyle: color, lineWidth });
      context.stroke();
    }
  }
}
