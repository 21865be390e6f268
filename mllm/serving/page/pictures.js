// Images on their way to the next question: dropped, pasted, picked, photographed, or an example.

import { button, find, make } from "./dom.js";

/** @typedef {import("./store.js").Picture} Picture */

const LARGEST = 2048; // pixels of the longer side; no encoder looks closer, and servers bound what they take
const KEPT = ["image/png", "image/jpeg", "image/webp"];
const DRAWN = ["image/png", "image/gif", "image/bmp"]; // others are photographs, much smaller as JPEG

/**
 * Reads an image; a large one, or one of a rare format, is written anew.
 * @param {Blob} file
 * @param {string} name
 * @returns {Promise<Picture>}
 */
export async function read(file, name) {
  let image;
  try {
    image = await createImageBitmap(file);
  } catch {
    throw new Error(`${name || "This"} is no image that the browser can read. Choose a PNG, JPEG or WebP file.`);
  }
  const scale = Math.min(1, LARGEST / Math.max(image.width, image.height));
  const [width, height] = [image.width, image.height].map((side) => Math.max(1, Math.round(side * scale)));
  if (scale === 1 && KEPT.includes(file.type)) return { name, source: await toDataUrl(file), width, height };
  const canvas = new OffscreenCanvas(width, height);
  canvas.getContext("2d")?.drawImage(image, 0, 0, width, height);
  const type = DRAWN.includes(file.type) ? "image/png" : "image/jpeg";
  return { name, source: await toDataUrl(await canvas.convertToBlob({ type, quality: 0.92 })), width, height };
}

/**
 * @param {Blob} blob
 * @returns {Promise<string>}
 */
function toDataUrl(blob) {
  return new Promise((resolve, reject) => {
    const reader = new FileReader();
    reader.onload = () => resolve(String(reader.result));
    reader.onerror = () => reject(reader.error);
    reader.readAsDataURL(blob);
  });
}

/**
 * What a camera sees now.
 * @param {HTMLVideoElement} video
 * @returns {Promise<Picture>}
 */
export async function photo(video) {
  const canvas = new OffscreenCanvas(video.videoWidth, video.videoHeight);
  canvas.getContext("2d")?.drawImage(video, 0, 0);
  return read(await canvas.convertToBlob({ type: "image/jpeg", quality: 0.92 }), "photo.jpg");
}

/** The images that wait for the next question. */
export class Tray {
  /** @type {Picture[]} */ pictures = [];

  /**
   * @param {() => void} changed
   * @param {(problem: unknown) => void} failed
   */
  constructor(changed, failed) {
    Object.assign(this, { changed, failed });
    this.changed = changed;
    this.failed = failed;
    const picker = find("picker");
    picker.addEventListener("change", () => {
      this.add([...picker.files]);
      picker.value = "";
    });
    find("pick").addEventListener("click", () => picker.click());
    find("photograph").addEventListener("click", () => this.#photograph());
    document.addEventListener("paste", (event) => {
      const files = [...(event.clipboardData?.files ?? [])].filter((file) => file.type.startsWith("image/"));
      if (!files.length) return;
      event.preventDefault();
      this.add(files);
    });
    for (const name of ["dragenter", "dragover", "dragleave", "drop"]) {
      document.addEventListener(name, (event) => this.#drag(/** @type {DragEvent} */ (event)));
    }
  }

  /** @param {DragEvent} event */
  #drag(event) {
    if (!event.dataTransfer?.types.includes("Files")) return;
    event.preventDefault();
    const left = event.type === "drop" || (event.type === "dragleave" && !event.relatedTarget);
    document.body.classList.toggle("dragging", !left);
    if (event.type === "drop") this.add([...event.dataTransfer.files]);
  }

  /** @param {File[]} files */
  async add(files) {
    for (const file of files) {
      try {
        const picture = await read(file, file.name);
        this.set([...this.pictures, picture]); // others may have come meanwhile
      } catch (problem) {
        this.failed(problem);
      }
    }
  }

  /** @param {Picture[]} pictures */
  set(pictures) {
    this.pictures = pictures;
    find("tray").replaceChildren(...pictures.map((picture, index) => make("li", {},
      make("img", { src: picture.source, alt: picture.name || `Image ${index + 1}` }),
      button("close", `Remove ${picture.name || `image ${index + 1}`}`, () => {
        this.set(pictures.filter((each) => each !== picture));
        find("question").focus();
      }))));
    this.changed();
  }

  /** Takes a photo in the page, or with the camera's own program where the page may not. */
  async #photograph() {
    if (!navigator.mediaDevices) {
      find("camera-picker").onchange = () => this.add([...find("camera-picker").files]);
      find("camera-picker").click();
      return;
    }
    const [dialog, video] = [find("camera"), find("video")];
    try {
      video.srcObject = await navigator.mediaDevices.getUserMedia({ video: { facingMode: "environment" } });
    } catch {
      this.failed(new Error("No camera could be opened. Allow it for this page, or choose a file."));
      return;
    }
    dialog.onclose = async () => {
      const taken = dialog.returnValue === "take" && (await photo(video));
      video.srcObject.getTracks().forEach((/** @type {MediaStreamTrack} */ track) => track.stop());
      video.srcObject = null;
      if (taken) this.set([...this.pictures, taken]);
    };
    dialog.returnValue = "";
    dialog.showModal();
  }
}
