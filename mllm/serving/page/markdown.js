// Markdown as chat models write it, to elements. No HTML is ever made of text, so nothing in it can act.

import { make } from "./dom.js";

/**
 * @typedef {{text: string, begin: number}} Line of the source, and where it begins there
 * @typedef {(text: string, begin: number) => Node} Leaf makes a node of plain words, which begin there in the source
 */

const FENCE = /^\s*(```|~~~)\s*(\S*)\s*$/;
const HEADING = /^(#{1,6})\s+(?=\S)/;
const RULE = /^\s*([-*_])(\s*\1){2,}\s*$/;
const QUOTE = /^\s*(>\s?)+/; // of any depth
const ITEM = /^(\s*)([-*+]|\d{1,9}[.)])\s+(?=\S)/;
const ROW = /^\s*\|.*\|\s*$/;
const COLUMNS = /^\s*\|(\s*:?-+:?\s*\|)+\s*$/;
const LONGEST = 5000; // characters of a line in which marks are looked for

const INLINE = new RegExp(
  [
    /\\(?<escaped>[!-/:-@[-`{-~])/,
    /(?<ticks>`+)(?<code>.+?)\k<ticks>(?!`)/,
    /(?<strong>\*\*|__)(?=\S)(?<bold>.+?)(?<=\S)\k<strong>/,
    /(?<![\w*])(?<em>[*_])(?=\S)(?<italic>.+?)(?<=\S)\k<em>(?![\w*])/,
    /~~(?<struck>.+?)~~/,
    /!?\[(?<label>[^\]]+)\]\((?<link>https?:\/\/[^\s)]+)\)/,
    /(?<address>https?:\/\/[^\s<>)"']+[^\s<>)"'.,;:!?])/,
  ]
    .map((each) => each.source)
    .join("|"),
  "g",
);

/**
 * @param {string} source
 * @param {Leaf} [leaf]
 * @returns {DocumentFragment}
 */
export function render(source, leaf = (text) => document.createTextNode(text)) {
  let begin = 0;
  const lines = source.split("\n").map((text) => {
    const line = { text, begin };
    begin += text.length + 1;
    return line;
  });
  const all = document.createDocumentFragment();
  all.append(...blocks(lines, leaf));
  return all;
}

/**
 * @param {Line[]} lines
 * @param {Leaf} leaf
 * @returns {Node[]}
 */
function blocks(lines, leaf) {
  /** @type {Node[]} */
  const made = [];
  let at = 0;
  /** Lines from here on for which something holds. @param {(text: string) => boolean} holds */
  const take = (holds) => {
    const start = at;
    while (at < lines.length && holds(lines[at].text)) at++;
    return lines.slice(start, at);
  };
  while (at < lines.length) {
    const { text } = lines[at];
    const fence = FENCE.exec(text);
    const heading = HEADING.exec(text);
    if (!text.trim()) {
      at++;
    } else if (fence) {
      at++;
      const code = take((each) => each.trim() !== fence[1]);
      at++;
      made.push(make("pre", {}, make("code", {}, code.map((line) => line.text).join("\n"))));
    } else if (heading) {
      // The page's own headings are of the first two levels.
      const level = Math.min(6, heading[1].length + 2);
      made.push(make(`h${level}`, {}, ...inline(cut(lines[at++], heading[0].length), leaf)));
    } else if (RULE.test(text)) {
      at++;
      made.push(make("hr"));
    } else if (QUOTE.test(text)) {
      const quoted = take((each) => QUOTE.test(each)).map((line) => cut(line, QUOTE.exec(line.text)?.[0].length ?? 0));
      made.push(make("blockquote", {}, ...blocks(quoted, leaf)));
    } else if (ITEM.test(text)) {
      made.push(list(take((each) => ITEM.test(each) || /^\s+\S/.test(each)), leaf));
    } else if (ROW.test(text) && COLUMNS.test(lines[at + 1]?.text ?? "")) {
      made.push(table(take((each) => ROW.test(each)), leaf));
    } else {
      const first = lines[at++];
      const more = take((each) => Boolean(each.trim()) && ![FENCE, HEADING, RULE, QUOTE, ITEM].some((begun) => begun.test(each)));
      made.push(make("p", {}, ...[first, ...more].flatMap((line, index) => [...(index ? [make("br")] : []), ...inline(line, leaf)])));
    }
  }
  return made;
}

/**
 * @param {Line[]} lines the first is an item
 * @param {Leaf} leaf
 */
function list(lines, leaf) {
  const [, indent, mark] = /** @type {RegExpExecArray} */ (ITEM.exec(lines[0].text));
  const ordered = /\d/.test(mark);
  /** @type {Line[][]} */
  const items = [];
  for (const line of lines) {
    const item = ITEM.exec(line.text);
    if (!items.length || (item && item[1].length <= indent.length)) items.push([cut(line, item?.[0].length ?? 0)]);
    else items[items.length - 1].push(cut(line, Math.min(line.text.search(/\S/), indent.length + 2)));
  }
  const made = items.map(([first, ...more]) => make("li", {}, ...inline(first, leaf), ...blocks(more, leaf)));
  return make(ordered ? "ol" : "ul", ordered ? { start: parseInt(mark, 10) } : {}, ...made);
}

/**
 * @param {Line[]} lines
 * @param {Leaf} leaf
 */
function table([head, , ...body], leaf) {
  /** @param {Line} line @param {string} tag */
  const row = (line, tag) => {
    const cells = [...line.text.matchAll(/[^|]+/g)].filter((cell) => cell[0].trim() || cell[0].length > 1);
    return make("tr", {}, ...cells.map((cell) => {
      const blank = cell[0].search(/\S|$/);
      return make(tag, {}, ...inline({ text: cell[0].trim(), begin: line.begin + cell.index + blank }, leaf));
    }));
  };
  const rows = body.map((line) => row(line, "td"));
  return make("table", {}, make("thead", {}, row(head, "th")), make("tbody", {}, ...rows));
}

/**
 * @param {Line} line
 * @param {number} count of characters left out in front
 * @returns {Line}
 */
function cut(line, count) {
  return { text: line.text.slice(count), begin: line.begin + count };
}

/**
 * @param {Line} line
 * @param {Leaf} leaf
 * @returns {Node[]}
 */
function inline({ text, begin }, leaf) {
  /** @type {Node[]} */
  const made = [];
  let at = 0;
  /** @param {number} end */
  const plain = (end) => {
    if (end > at) made.push(leaf(text.slice(at, end), begin + at));
  };
  /** @param {string} part @param {number} from where it is looked for */
  const within = (part, from) => inline({ text: part, begin: begin + text.indexOf(part, from) }, leaf);
  for (const found of text.length > LONGEST ? [] : text.matchAll(INLINE)) {
    const { escaped, code, ticks, bold, strong, italic, struck, label, link, address } = found.groups ?? {};
    plain(found.index);
    at = found.index + found[0].length;
    if (escaped) made.push(leaf(escaped, found.index + begin + 1));
    else if (code) made.push(make("code", {}, leaf(code, begin + found.index + ticks.length)));
    else if (bold) made.push(make("strong", {}, ...within(bold, found.index + strong.length)));
    else if (italic) made.push(make("em", {}, ...within(italic, found.index + 1)));
    else if (struck) made.push(make("del", {}, ...within(struck, found.index + 2)));
    else {
      const words = label ? within(label, found.index) : [leaf(address, begin + found.index)];
      made.push(make("a", { href: link ?? address, target: "_blank", rel: "noopener noreferrer" }, ...words));
    }
  }
  plain(text.length);
  return made;
}
