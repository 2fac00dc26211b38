// Joins the parts: the open file, the tasks, the chat, and what they found.

import { ApiError, ask, key, send } from "./api.js";
import { curlOf, pythonOf } from "./calls.js";
import { Chat } from "./chat.js";
import { asCoco, asJson, asPng, asText, save } from "./downloads.js";
import { byId, element, say } from "./elements.js";
import { FoundList } from "./found.js";
import { readResult } from "./marks.js";
import { pngOf, Source } from "./source.js";
import { Stage } from "./stage.js";
import { showInputs, showTasks, valuesOf } from "./tasks.js";

let source = null; // what is open
let before = null; // what was open before the model made the image that is
let task = null; // what is chosen
let model = "";
let shown = null; // what is drawn: {read, list}
let done = null; // the latest result of a task: {task, result, read, stem}
let stopping = null;
let opening = Promise.resolve(); // ends when the file that was chosen last is there

const stage = new Stage({ hovered: (id) => highlight({ hot: id }), chosen: choose });
const found = new FoundList(byId("found"), {
  colorOf: (mark) => stage.colorOf(mark), hovered: (id) => highlight({ hot: id }), chosen: choose,
});
const chat = new Chat({
  image: () => opening.then(() => source?.image ?? null),
  model: () => model,
  show: draw,
  failed: tell,
  marks: (use) => ({
    colorOf: (mark) => stage.colorOf(mark),
    hovered: (id) => { use(); highlight({ hot: id }); },
    chosen: (id) => { use(); choose(id); },
  }),
});

// --- what is drawn

function draw(read, list) {
  shown = { read, list };
  const here = read.marks.filter((mark) => !mark.page || mark.page === source?.page);
  stage.draw(here, read.style, read.size ?? stage.size);
}

function highlight(marks) {
  stage.highlight(marks);
  shown?.list.highlight(marks);
}

/** Pick a mark, on the page that it is on; the same once more, or null, picks none. */
async function choose(id) {
  const mark = shown?.read.marks[id];
  const picked = !mark || stage.picked === id ? null : id;
  if (mark?.page && mark.page !== source.page && picked !== null) await turnTo(mark.page);
  highlight({ picked });
}

// --- files

function open(file) {
  if (file) opening = opening.then(() => opened(file));
}

async function opened(file) {
  stopping?.abort();
  say(byId("file-problem"), null);
  byId("stage").setAttribute("aria-busy", "true");
  try {
    const next = await Source.open(file, (url, name) => stage.show(url, name));
    source?.close();
    before?.close();
    [before, source] = [null, next];
    begin();
  } catch (error) {
    tell(error, byId("file-problem"));
  } finally {
    byId("stage").removeAttribute("aria-busy");
    byId("file").value = "";
  }
}

/** Show what is open now, about which nothing is known yet. */
function begin() {
  clearResult();
  chat.clear();
  showFile();
}

async function goBack() {
  stopping?.abort();
  source.close();
  [before, source] = [null, before];
  await source.again();
  begin();
}

function showFile() {
  byId("back").hidden = !before;
  byId("file-name").textContent = source.name;
  byId("zoom").hidden = false;
  byId("pager").hidden = source.pages < 2;
  byId("page-number").textContent = `Page ${source.page} of ${source.pages}`;
  byId("page-before").disabled = source.page <= 1;
  byId("page-after").disabled = source.page >= source.pages;
}

async function turnTo(number) {
  try {
    await source.turnTo(number);
    showFile();
    if (shown?.read.marks.some((mark) => mark.page)) draw(shown.read, shown.list);
  } catch (error) {
    tell(error, byId("file-problem"));
  }
}

for (const [id, step] of [["zoom-out", -1], ["zoom-in", 1]]) byId(id).addEventListener("click", () => stage.zoom(step));
stage.zoom(0);
byId("back").addEventListener("click", () => { opening = opening.then(goBack); });
byId("open").addEventListener("click", () => byId("file").click());
byId("file").addEventListener("change", (event) => open(event.target.files[0]));
byId("page-before").addEventListener("click", () => turnTo(source.page - 1));
byId("page-after").addEventListener("click", () => turnTo(source.page + 1));
document.addEventListener("dragover", (event) => { event.preventDefault(); byId("stage").classList.add("over"); });
document.addEventListener("dragleave", (event) => { if (!event.relatedTarget) byId("stage").classList.remove("over"); });
document.addEventListener("drop", (event) => {
  event.preventDefault();
  byId("stage").classList.remove("over");
  open(event.dataTransfer.files[0]);
});
document.addEventListener("paste", (event) => {
  if (!event.clipboardData.files.length) return;
  event.preventDefault();
  open(event.clipboardData.files[0]);
});

// --- tasks

showTasks((chosen) => {
  task = chosen;
  showInputs(task, () => { if (done?.task === task && !stopping) start(); });
});
byId("form").addEventListener("submit", (event) => { event.preventDefault(); start(); });
byId("stop").addEventListener("click", () => stopping?.abort());

async function start() {
  if (stopping) return;
  const asked = task;
  say(byId("problem"), null);
  stopping = new AbortController();
  busy(true);
  try {
    await opening;
    if (asked.file && !source) throw new ApiError("Open an image or a document first.");
    const pairs = valuesOf(asked);
    const [blob, name] = asked.file ? source.sent(asked.whole) : [];
    const form = new FormData();
    for (const [field, value] of pairs) form.append(field, value);
    if (asked.file) form.append(asked.file, blob, name);
    const wait = (seconds) => { byId("progress").textContent = seconds ? `Working, ${seconds} s` : "Working"; };
    const later = asked.file === "document" && source.isDocument; // it may have many pages
    const path = `vision/${asked.id}`;
    const result = await ask(path, form, { signal: stopping.signal, later, wait });
    const file = asked.file && { field: asked.file, name };
    byId("call-curl").textContent = curlOf(path, pairs, file);
    byId("call-python").textContent = pythonOf(path, pairs, file);
    await showResult(asked, result);
  } catch (error) {
    if (error.name !== "AbortError") tell(error);
  } finally {
    stopping = null;
    busy(false);
  }
}

async function showResult(asked, result) {
  const read = readResult(result);
  if (read.image) {
    const name = asked.file ? `${source.stem}-${asked.id}.png` : "drawing.png";
    const made = new File([pngOf(read.image)], name, { type: "image/png" });
    const next = await Source.open(made, (url, title) => stage.show(url, title));
    before?.close();
    [before, source] = [source, next];
    chat.clear();
    showFile();
  }
  done = { task: asked, result, read, stem: `${source?.stem ?? "image"}-${asked.id}` };
  byId("result-title").textContent = asked.label;
  byId("result").hidden = false;
  byId("answer").textContent = read.text || summary(read.marks);
  byId("notes").replaceChildren(...[...new Set(read.notes)].map((note) => element("li", {}, note)));
  byId("save-coco").hidden = !read.about || read.marks.some((mark) => !mark.box);
  byId("save-text").hidden = read.style !== "words";
  if (source) draw(read, found);
  found.show(read.marks, read.style);
}

function summary(marks) {
  if (!marks.length) return "Nothing was found.";
  const counts = new Map();
  for (const { label } of marks) counts.set(label, (counts.get(label) ?? 0) + 1);
  return `Found: ${[...counts].map(([label, count]) => `${count} × ${label}`).join(", ")}`;
}

function clearResult() {
  done = shown = null;
  byId("result").hidden = true;
}

function busy(working) {
  byId("start").disabled = working;
  byId("stop").hidden = !working;
  byId("progress").textContent = working ? "Working" : "";
  byId("result").setAttribute("aria-busy", String(working));
}

byId("save-json").addEventListener("click", () => save(asJson(done.result), `${done.stem}.json`));
byId("save-png").addEventListener("click", async () => {
  draw(done.read, found);
  save(await asPng(stage.picture()), `${done.stem}.png`);
});
byId("save-coco").addEventListener("click", () => save(asCoco(done.read, source.name), `${done.stem}-coco.json`));
byId("save-text").addEventListener("click", () => save(asText(done.read.marks), `${done.stem}.txt`));

// --- tasks and chat, side by side

const tabs = [byId("tab-tasks"), byId("tab-chat")];
for (const [index, tab] of tabs.entries()) {
  tab.addEventListener("click", () => choosePanel(index));
  tab.addEventListener("keydown", (event) => {
    const goal = { ArrowLeft: 0, ArrowRight: 1, Home: 0, End: 1 }[event.key];
    if (goal === undefined) return;
    event.preventDefault();
    choosePanel(goal);
    tabs[goal].focus();
  });
}

function choosePanel(chosen) {
  for (const [index, tab] of tabs.entries()) {
    tab.setAttribute("aria-selected", String(index === chosen));
    tab.tabIndex = index === chosen ? 0 : -1;
    byId(tab.getAttribute("aria-controls")).hidden = index !== chosen;
  }
  if (chosen === 1) chat.redraw();
  else if (done && source) draw(done.read, found);
}

// --- problems and the key

function tell(error, place = byId("problem")) {
  if (error.needsKey) { askForKey(error.message); return; }
  if (!(error instanceof ApiError)) console.error(error);
  say(place, error instanceof ApiError ? error.message : `The page failed: ${error.message}`);
}

function askForKey(message) {
  say(byId("key-problem"), key.get() ? message : null);
  byId("key").value = "";
  if (!byId("key-dialog").open) byId("key-dialog").showModal();
}

byId("key-button").addEventListener("click", () => askForKey());
byId("key-cancel").addEventListener("click", () => byId("key-dialog").close());
byId("key-form").addEventListener("submit", (event) => {
  event.preventDefault();
  key.set(byId("key").value.trim());
  byId("key-dialog").close();
  connect();
});

async function connect() {
  try {
    const { data: [served] } = await (await send("models", { method: "GET" })).json();
    model = served.id;
    byId("model").textContent = `Model: ${model}`;
    byId("key-button").hidden = !key.get();
  } catch (error) {
    byId("model").textContent = "";
    byId("key-button").hidden = !error.needsKey && !key.get();
    tell(error);
  }
}

connect();
