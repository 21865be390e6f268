// Answers about an image in the browser, by transformers.js and ONNX Runtime; draws where each token looked.
import { AutoModelForImageTextToText, AutoProcessor, RawImage, TextStreamer, env } from "@huggingface/transformers";

env.allowRemoteModels = false;
env.allowLocalModels = true;
env.localModelPath = "./"; // an address would count as remote
env.useBrowserCache = false;
env.backends.onnx.wasm.wasmPaths = new URL("vendor/", location.href).href;

const form = document.querySelector("form");
const drop = document.querySelector(".drop");
const canvas = document.querySelector("canvas");
const answer = document.querySelector("#answer");
const state = document.querySelector("#state");
const seconds = (start) => ((performance.now() - start) / 1000).toFixed(2);
let image = null;

const start = performance.now();
const ready = (async () => {
  const [processor, model] = await Promise.all([
    AutoProcessor.from_pretrained("model"),
    AutoModelForImageTextToText.from_pretrained("model", { device: "wasm" }),
  ]);
  state.textContent = `Loaded in ${seconds(start)} s.`;
  form.querySelector("button").disabled = image === null;
  return { processor, model };
})();
ready.catch(fail);

function fail(error) {
  state.textContent = `That did not work: ${error.message}`;
}

async function show(file) {
  const bitmap = await createImageBitmap(file);
  const scale = 320 / Math.max(bitmap.width, bitmap.height);
  canvas.width = Math.round(bitmap.width * scale);
  canvas.height = Math.round(bitmap.height * scale);
  canvas.getContext("2d").drawImage(bitmap, 0, 0, canvas.width, canvas.height);
  image = { bitmap, raw: await RawImage.fromBlob(file) };
  answer.textContent = "";
  await ready;
  form.querySelector("button").disabled = false;
}

// The part of the image that the model sees, in pixels of the canvas: the middle, as its processor cuts it.
function seen({ size, crop_size, do_center_crop }) {
  const { width, height } = canvas;
  if (!do_center_crop) return [0, 0, width, height];
  const scale = size.shortest_edge ? Math.min(width, height) / size.shortest_edge : null;
  const across = scale === null ? (width * crop_size.width) / size.width : crop_size.width * scale;
  const down = scale === null ? (height * crop_size.height) / size.height : crop_size.height * scale;
  return [(width - across) / 2, (height - down) / 2, across, down];
}

function draw(rois, [left, top, across, down]) {
  const context = canvas.getContext("2d");
  context.drawImage(image.bitmap, 0, 0, canvas.width, canvas.height);
  context.strokeStyle = "#e8590cb0";
  context.lineWidth = 1.5;
  for (const [x0, y0, x1, y1] of rois) {
    context.strokeRect(left + x0 * across, top + y0 * down, (x1 - x0) * across, (y1 - y0) * down);
  }
}

async function ask(question) {
  const { processor, model } = await ready;
  const asked = performance.now();
  const messages = [{ role: "user", content: [{ type: "image" }, { type: "text", text: question }] }];
  const prompt = processor.apply_chat_template(messages, { add_generation_prompt: true });
  const inputs = await processor(image.raw, prompt, { add_special_tokens: false });
  let first = null;
  let count = 0;
  answer.textContent = "";
  const streamer = new TextStreamer(processor.tokenizer, {
    skip_prompt: true,
    skip_special_tokens: true,
    callback_function: (text) => {
      answer.textContent = (answer.textContent + text).trimStart();
    },
    token_callback_function: () => {
      first ??= seconds(asked);
      count += 1;
    },
  });
  await model.generate({ ...inputs, max_new_tokens: 64, do_sample: false, streamer });
  const took = seconds(asked);
  const { rois } = await model.sessions.vision_encoder.run({ pixel_values: inputs.pixel_values.ort_tensor });
  if (rois) {
    const [, , corners] = rois.dims;
    const boxes = Array.from({ length: rois.data.length / corners }, (_, n) => rois.data.slice(4 * n, 4 * n + 4));
    draw(boxes, seen(processor.image_processor.config));
    canvas.dataset.boxes = boxes.length;
  }
  state.textContent = `First token after ${first} s, ${count} tokens in ${took} s.`;
}

form.image.addEventListener("change", () => show(form.image.files[0]).catch(fail));
for (const kind of ["dragover", "dragleave", "drop"]) {
  drop.addEventListener(kind, (event) => {
    event.preventDefault();
    drop.classList.toggle("over", kind === "dragover");
    if (kind === "drop") show(event.dataTransfer.files[0]).catch(fail);
  });
}
form.addEventListener("submit", (event) => {
  event.preventDefault();
  const button = form.querySelector("button");
  button.disabled = true;
  ask(form.question.value)
    .catch(fail)
    .finally(() => (button.disabled = false));
});
