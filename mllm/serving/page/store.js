// Conversations, kept in this browser, and as files in LLaVA's format.

/**
 * @typedef {{name: string, source: string, width: number, height: number}} Picture `source` is a data URL
 * @typedef {{imageTokens: number, tokens: number, first: number, rate: number}} Stats seconds, tokens a second
 * @typedef {{role: "user" | "assistant", text: string, pictures: Picture[], stats?: Stats,
 *            looked?: import("./api.js").Looked, unexplained?: string, stopped?: boolean, error?: string}} Turn
 * @typedef {{id: string, system: string, updated: number, turns: Turn[]}} Talk
 */

/** Boxes and points in thousandths of the image shown last, as models write them in answers. */
export const PLACES = /\[(1000|\d{1,3}), (1000|\d{1,3})(?:, (1000|\d{1,3}), (1000|\d{1,3}))?\]/g;

/** @returns {Talk} */
export function begin() {
  const id = [...crypto.getRandomValues(new Uint8Array(8))].map((byte) => byte.toString(16).padStart(2, "0")).join("");
  return { id, system: "", updated: Date.now(), turns: [] };
}

/** @param {Talk} talk */
export function title(talk) {
  return talk.turns[0]?.text || "New conversation";
}

/**
 * @param {IDBTransactionMode} mode
 * @param {(store: IDBObjectStore) => IDBRequest} act
 * @returns {Promise<any>}
 */
async function kept(mode, act) {
  const opening = indexedDB.open("mllm", 1);
  opening.onupgradeneeded = () => opening.result.createObjectStore("talks", { keyPath: "id" });
  const base = /** @type {IDBDatabase} */ (await settled(opening));
  try {
    return await settled(act(base.transaction("talks", mode).objectStore("talks")));
  } finally {
    base.close();
  }
}

/**
 * @param {IDBRequest} request
 * @returns {Promise<any>}
 */
function settled(request) {
  return new Promise((resolve, reject) => {
    request.onsuccess = () => resolve(request.result);
    request.onerror = () => reject(request.error);
  });
}

/** @returns {Promise<Talk[]>} the latest first */
export async function load() {
  const talks = await kept("readonly", (store) => store.getAll());
  return talks.sort((/** @type {Talk} */ one, /** @type {Talk} */ other) => other.updated - one.updated);
}

/** @param {Talk} talk */
export async function save(talk) {
  talk.updated = Date.now();
  await kept("readwrite", (store) => store.put(talk));
}

/** @param {Talk} talk */
export async function remove(talk) {
  await kept("readwrite", (store) => store.delete(talk.id));
}

/**
 * Turns without the questions that got no answer, whose images go with the next question.
 * @param {Turn[]} turns
 */
export function answered(turns) {
  /** @type {Turn[]} */
  const kept = [];
  /** @type {Picture[]} */
  let waiting = [];
  turns.forEach((turn, at) => {
    const pictures = [...waiting, ...turn.pictures];
    const failed = turn.role === "user" && turns[at + 1]?.text === "";
    if (!failed && turn.text) kept.push({ ...turn, pictures });
    waiting = failed ? pictures : [];
  });
  return kept;
}

/**
 * A conversation as an item of LLaVA's JSON files, with its images in it.
 * @param {Talk} talk
 */
export function toRecord(talk) {
  const turns = answered(talk.turns);
  if (turns.some((turn) => turn.text.includes("<image>"))) {
    throw new Error("A message has the word <image>, which stands for an image in such files. Edit it, then export.");
  }
  const images = turns.flatMap((turn) => turn.pictures.map((picture) => picture.source));
  const objects = { ref: [], bbox: /** @type {number[][]} */ ([]), bbox_type: "norm1", image_id: /** @type {number[]} */ ([]) };
  let seen = 0;
  const said = turns.map((turn) => {
    seen += turn.pictures.length;
    const text = !seen ? turn.text : turn.text.replace(PLACES, (_, ...found) => {
      objects.bbox.push(found.slice(0, 4).filter((each) => each !== undefined).map((each) => Number(each) / 1000));
      objects.image_id.push(seen - 1);
      return "<bbox>";
    });
    return { from: turn.role === "user" ? "human" : "gpt", value: "<image>\n".repeat(turn.pictures.length) + text };
  });
  return {
    id: talk.id,
    ...(images.length && { image: images.length === 1 ? images[0] : images }),
    conversations: [...(talk.system ? [{ from: "system", value: talk.system }] : []), ...said],
    ...(objects.bbox.length && { objects }),
  };
}

/**
 * Hands a file to the person.
 * @param {string} name
 * @param {unknown} content written as JSON
 */
export function download(name, content) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([JSON.stringify(content, null, 1)], { type: "application/json" }));
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 1000);
}
