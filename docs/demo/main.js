import * as ort from "./assets/ort.wasm.min.mjs";
import { decode, fit } from "./image.js";

ort.env.wasm.wasmPaths = new URL("assets/", import.meta.url).href;
ort.env.wasm.numThreads = 1; // more would need headers that a static site lacks

const CLASSIFIERS = ["vit_mini.cifar10", "vitcb_mini.cifar10"];
const TITLES = ["Plain", "CB"];
const SEGMENTER = "upernet_vitcb_mini.camvid_mini";
// CamVid's eleven classes, in its own colors.
const COLORS = [
  [128, 128, 128], [128, 0, 0], [192, 192, 128], [128, 64, 128], [0, 0, 192],
  [128, 128, 0], [192, 128, 128], [64, 64, 128], [64, 0, 128], [64, 64, 0],
  [0, 128, 192],
];
const $ = (id) => document.getElementById(id);
const models = fetch("assets/models.json").then((response) => response.json());
const sessions = new Map();
let current; // the image: {name, width, height, data}
let results = []; // of the classifiers: {facts, pixels, predictions, attention}
let running = Promise.resolve();

/** A model's outputs by their names, of an image that fits it. */
export async function run(name, pixels) {
  if (!sessions.has(name))
    sessions.set(name, ort.InferenceSession.create(
      new URL(`assets/${name}.onnx`, import.meta.url).href));
  const shape = [1, pixels.height, pixels.width, 3];
  const images = new ort.Tensor("float32", Float32Array.from(pixels.data), shape);
  return (await sessions.get(name)).run({ images });
}

/** A file's outputs of a model, beside the pixels that it saw. */
export async function predict(name, image) {
  const facts = (await models)[name];
  const pixels = fit(image, facts.size, facts.cropFraction);
  return { facts, pixels, ...await run(name, pixels) };
}

async function choose(file) {
  current = undefined;
  $("classified").hidden = $("segmented").hidden = true;
  $("error").textContent = "";
  $("status").textContent = `Reading ${file.name}…`;
  try {
    current = { name: file.name, ...await decode(file) };
  } catch (error) {
    $("status").textContent = "";
    $("error").textContent = error.message;
  }
  await show();
}

async function show() {
  if (!current) return;
  const task = document.querySelector("[name=task]:checked").value;
  $("status").textContent = "Running the model…";
  await new Promise((resolve) => setTimeout(resolve, 30)); // so that this is seen
  const said = await (task === "classify" ? classify() : segment());
  $("classified").hidden = task !== "classify";
  $("segmented").hidden = task === "classify";
  $("status").textContent = said;
}

async function classify() {
  results = [];
  for (const name of CLASSIFIERS) results.push(await predict(name, current));
  const [, blocks, heads] = results[0].attention.dims;
  fill($("block"), blocks, "Mean of all");
  fill($("head"), heads, "Mean of all");
  $("models").replaceChildren(...results.map(card));
  drawAttention();
  const found = results.map(({ facts, predictions }, k) => {
    const best = ranked(predictions.data)[0];
    return `${TITLES[k]}: ${facts.classes[best]}, ${percent(predictions.data[best])}`;
  });
  return `${current.name}. ${found.join("; ")}.`;
}

function fill(select, count, all) {
  if (select.options.length) return;
  select.add(new Option(all, ""));
  for (let k = 0; k < count; k++) select.add(new Option(k + 1, k));
}

const ranked = (values) =>
  Array.from(values.keys()).sort((a, b) => values[b] - values[a]);
const percent = (value) => `${(value * 100).toFixed(1)} %`;

function element(tag, text = "", attributes = {}) {
  const made = document.createElement(tag);
  made.textContent = text;
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  return made;
}

function card({ facts, predictions }, k) {
  const list = element("ol");
  for (const index of ranked(predictions.data).slice(0, 5)) {
    const [name, value] = [facts.classes[index], predictions.data[index]];
    const row = element("li");
    row.append(element("span", name),
      element("progress", "", { value, max: 1, "aria-label": name }),
      element("span", percent(value)));
    list.append(row);
  }
  const made = element("article");
  made.append(element("h3", `${TITLES[k]} (${CLASSIFIERS[k]})`), list,
    element("canvas", "", { role: "img" }));
  return made;
}

/** Attention that each patch gets, the mean over tokens and the chosen maps. */
export function received({ attention, facts }, block, head) {
  const [, blocks, heads, tokens] = attention.dims;
  const patches = facts.grid[0] * facts.grid[1];
  const others = tokens - patches; // such as a class token, before the patches
  const got = new Float32Array(patches);
  let maps = 0;
  for (let b = 0; b < blocks; b++)
    for (let h = 0; h < heads; h++) {
      if ((block !== "" && +block !== b) || (head !== "" && +head !== h)) continue;
      maps++;
      const start = (b * heads + h) * tokens * tokens;
      for (let from = 0; from < tokens; from++)
        for (let to = 0; to < patches; to++)
          got[to] += attention.data[start + from * tokens + others + to];
    }
  return got.map((value) => value / (maps * tokens));
}

function drawAttention() {
  results.forEach((result, k) => {
    const { pixels, facts } = result;
    const got = received(result, $("block").value, $("head").value);
    const [least, greatest] = [Math.min(...got), Math.max(...got)];
    const [rows, columns] = facts.grid;
    const { width, height, data } = pixels;
    const canvas = $("models").children[k].querySelector("canvas");
    const most = got.indexOf(greatest);
    canvas.setAttribute("aria-label", `Attention of ${TITLES[k]} over the image, highest`
      + ` in row ${Math.floor(most / columns) + 1}, column ${most % columns + 1}`
      + ` of ${rows} by ${columns} patches`);
    draw(canvas, width, height, (x, y) => {
      const patch = Math.floor(y * rows / height) * columns
        + Math.floor(x * columns / width);
      const light = 0.15 + 0.85 * (got[patch] - least) / (greatest - least || 1);
      const at = (y * width + x) * 3;
      return [data[at] * light, data[at + 1] * light, data[at + 2] * light];
    });
  });
}

function draw(canvas, width, height, color) {
  [canvas.width, canvas.height] = [width, height];
  const drawn = new ImageData(width, height);
  for (let y = 0, at = 0; y < height; y++)
    for (let x = 0; x < width; x++, at += 4)
      drawn.data.set([...color(x, y), 255], at);
  canvas.getContext("2d").putImageData(drawn, 0, 0);
}

async function segment() {
  const { facts, pixels, predictions } = await predict(SEGMENTER, current);
  const { width, height, data } = pixels;
  const count = facts.classes.length;
  const labels = new Uint8Array(width * height);
  const shares = new Array(count).fill(0);
  for (let at = 0; at < labels.length; at++) {
    const values = predictions.data.subarray(at * count, (at + 1) * count);
    labels[at] = values.indexOf(Math.max(...values));
    shares[labels[at]] += 1 / labels.length;
  }
  draw($("seen"), width, height, (x, y) =>
    data.subarray((y * width + x) * 3, (y * width + x) * 3 + 3));
  draw($("labels"), width, height, (x, y) => COLORS[labels[y * width + x]]);
  $("legend").replaceChildren(...facts.classes.map((name, k) => {
    const [row, swatch] = [element("li"), element("canvas", "", { "aria-hidden": true })];
    draw(swatch, 1, 1, () => COLORS[k]);
    row.append(swatch, `${name}, ${percent(shares[k])}`);
    return row;
  }));
  const most = ranked(shares).slice(0, 3);
  const found = most.map((k) => `${facts.classes[k]} ${percent(shares[k])}`);
  return `${current.name}. Most frequent classes: ${found.join(", ")}.`;
}

// One after the other: ONNX Runtime runs one model at a time.
function queue(task) {
  running = running.then(task).catch((error) => {
    $("status").textContent = "";
    $("error").textContent = `The model failed: ${error.message}`;
  });
}

const drop = $("drop");
$("file").addEventListener("change", ({ target }) => {
  const [file] = target.files;
  target.value = ""; // so that the same file can be chosen again
  if (file) queue(() => choose(file));
});
for (const kind of ["dragover", "dragleave", "drop"])
  drop.addEventListener(kind, (event) => {
    event.preventDefault();
    drop.classList.toggle("over", kind === "dragover");
    const file = kind === "drop" && event.dataTransfer.files[0];
    if (file) queue(() => choose(file));
  });
for (const button of document.querySelectorAll("[data-sample]"))
  button.addEventListener("click", () => queue(async () => {
    document.querySelector(`[value=${button.dataset.task}]`).checked = true;
    const blob = await (await fetch(button.dataset.sample)).blob();
    await choose(new File([blob], button.textContent, { type: blob.type }));
  }));
for (const radio of document.querySelectorAll("[name=task]"))
  radio.addEventListener("change", () => queue(show));
for (const id of ["block", "head"]) $(id).addEventListener("change", drawAttention);
