// How much of a word comes from where in an image: weights of tokens times what each token has read.

/**
 * @typedef {import("./api.js").Looked} Looked
 * @typedef {import("./api.js").LookedImage} LookedImage
 * @typedef {{width: number, height: number, values: Float32Array, most: number}} Grid
 */

const NAMES = [["upper left", "top", "upper right"], ["left", "middle", "right"], ["lower left", "bottom", "lower right"]];
const FINE = 4;

/**
 * A function of an object that remembers what it has returned.
 * @template {object} Key, Value
 * @param {(key: Key, ...given: any[]) => Value} compute
 * @returns {(key: Key, ...given: any[]) => Value}
 */
function once(compute) {
  /** @type {WeakMap<Key, Value>} */
  const known = new WeakMap();
  return (key, ...given) => {
    if (!known.has(key)) known.set(key, compute(key, ...given));
    return /** @type {Value} */ (known.get(key));
  };
}

/** What each token of an image has read: cells that sum to 1. */
const read = once((/** @type {LookedImage} */ image) => {
  const cells = image.density.width * image.density.height;
  const bytes = Uint8Array.from(atob(image.density.cells), (character) => character.charCodeAt(0));
  return image.rois.map((_, token) => {
    const values = Float32Array.from(bytes.subarray(token * cells, (token + 1) * cells));
    const sum = values.reduce((total, value) => total + value, 0) || 1;
    return values.map((value) => value / sum);
  });
});

const weighed = once((/** @type {number[]} */ weights, /** @type {LookedImage} */ image) => {
  const { width, height } = image.density;
  const values = new Float32Array(width * height);
  read(image).forEach((cells, token) => {
    const weight = weights[token];
    if (weight) for (let cell = 0; cell < values.length; cell++) values[cell] += weight * cells[cell];
  });
  return { width, height, values, most: Math.max(...values) };
});

/** Weights of tokens that are all alike. */
const even = once((/** @type {LookedImage} */ image) => image.rois.map(() => 1 / image.rois.length));

/**
 * What the tokens of an image have read, weighed and added up.
 * @param {LookedImage} image
 * @param {number[]} [weights] by default all alike
 * @returns {Grid}
 */
export function heat(image, weights = even(image)) {
  return weighed(weights, image);
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
  const cell = grid.values.indexOf(grid.most);
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
    const { width, height, values, most } = heat(looked.images[image], word.weights[image]);
    const cell = Math.min(height - 1, Math.floor(y * height)) * width + Math.min(width - 1, Math.floor(x * width));
    return values[cell] / (most || 1);
  });
}

/**
 * A grid FINE times finer, smooth between its cells.
 * @param {Grid} grid
 * @returns {Grid}
 */
export function refine({ width, height, values, most }) {
  const fine = { width: width * FINE, height: height * FINE, most, values: new Float32Array(width * height * FINE * FINE) };
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
