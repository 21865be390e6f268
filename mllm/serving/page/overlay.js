// What is drawn over an image: where the heat is, RoIs, and the places that an answer names.

import { refine } from "./heat.js";
import { PLACES } from "./store.js";

/**
 * @typedef {import("./heat.js").Grid} Grid
 * @typedef {{x: number, y: number, width: number, height: number}} Box of an image on the stage
 */

const NIGHT = [16, 18, 40];
const DIM = 0.88; // how much of an image is covered where nothing was looked at

/**
 * Covers an image except where the heat is, with a line around the hottest region that has half of it.
 * @param {CanvasRenderingContext2D} context
 * @param {Box} box
 * @param {Grid} grid
 * @param {number} most the heat that nothing of the image is covered at
 */
export function spotlight(context, box, grid, most) {
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
 * Draws where a grid crosses a level, by marching squares.
 * @param {CanvasRenderingContext2D} context
 * @param {Box} box
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
 * @param {Box} box
 * @param {number[][]} rois
 * @param {number[] | null} weights
 */
export function regions(context, box, rois, weights) {
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
 * @param {Box} box
 * @param {string} answer
 */
export function places(context, box, answer) {
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
