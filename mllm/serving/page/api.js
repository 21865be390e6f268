// What the server is asked and what it answers: OpenAI's API and the fields of our own.

/**
 * @typedef {{width: number, height: number, cells: string}} Density base64: a byte for each cell of a grid, token by token
 * @typedef {{width: number, height: number, num_tokens: number, rois: number[][], density: Density}} LookedImage
 * @typedef {{text: string, begin: number, end: number, weights: number[][]}} Word characters of the answer it is
 * @typedef {{images: LookedImage[], words: Word[]}} Looked
 * @typedef {{name: string, url: string, question: string}} Example
 * @typedef {{id: string, tokens: [number, number], sizes: [number, number] | null, longest: number,
 *            examples: Example[]}} Model
 * @typedef {{text?: string, ended?: boolean, usage?: any, mllm?: any}} Piece
 */

export class ServerError extends Error {
  /**
   * @param {string} message
   * @param {number} status of HTTP, 0 where nothing answered
   */
  constructor(message, status) {
    super(message);
    this.status = status;
  }
}

const KEY = "mllm.key";

/** @param {string} key for the server, until the tab is closed */
export function setKey(key) {
  sessionStorage.setItem(KEY, key);
}

/**
 * @param {string} path
 * @param {RequestInit} [init]
 * @returns {Promise<Response>} of success
 */
async function request(path, init = {}) {
  const key = sessionStorage.getItem(KEY);
  /** @type {Record<string, string>} */
  const headers = { "Content-Type": "application/json", ...(key && { Authorization: `Bearer ${key}` }) };
  let response;
  try {
    response = await fetch(path, { ...init, headers });
  } catch (problem) {
    if (init.signal?.aborted) throw problem;
    throw new ServerError("The server does not answer. Is it still running?", 0);
  }
  if (response.ok) return response;
  const told = await response.json().catch(() => null);
  throw new ServerError(told?.error?.message ?? `The server says: ${response.status} ${response.statusText}`, response.status);
}

/** @returns {Promise<Model>} */
export async function describe() {
  const { data } = await (await request("v1/models")).json();
  const own = data[0].mllm ?? {};
  const tokens = own.image_tokens ?? 0;
  return {
    id: data[0].id,
    tokens: Array.isArray(tokens) ? [tokens[0], tokens[1]] : [tokens, tokens],
    sizes: own.image_sizes ?? null,
    longest: own.max_tokens ?? 512,
    examples: own.examples ?? [],
  };
}

/**
 * Asks for an answer, and hands on what comes of it.
 * @param {object} body
 * @param {AbortSignal} signal
 * @returns {AsyncGenerator<Piece>}
 */
export async function* answer(body, signal) {
  const response = await request("v1/chat/completions", { method: "POST", body: JSON.stringify(body), signal });
  for await (const data of events(/** @type {ReadableStream<Uint8Array>} */ (response.body))) {
    if (data === "[DONE]") return;
    const chunk = JSON.parse(data);
    if (chunk.error) throw new ServerError(chunk.error.message, 500);
    const choice = chunk.choices?.[0];
    yield {
      text: choice?.delta?.content ?? "",
      ended: Boolean(choice?.finish_reason),
      usage: chunk.usage,
      mllm: chunk.mllm ?? choice?.mllm,
    };
  }
  throw new ServerError("The server has broken off in the middle of the answer.", 0);
}

/**
 * The data of server-sent events.
 * @param {ReadableStream<Uint8Array>} stream
 */
async function* events(stream) {
  const reader = stream.getReader();
  const decoder = new TextDecoder();
  let held = "";
  for (;;) {
    const { done, value } = await reader.read();
    held += decoder.decode(value, { stream: !done });
    const lines = held.split(/\r?\n/);
    held = lines.pop() ?? "";
    for (const line of lines) if (line.startsWith("data:")) yield line.slice(5).trim();
    if (done) return;
  }
}
