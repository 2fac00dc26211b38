// The tasks: what each asks people for, and what it sends.

import { byId, element } from "./elements.js";
import { ApiError } from "./api.js";

const PHRASES = { id: "phrases", label: "What to find", hint: "Several with commas: dog, red car", name: "phrase", list: true };
const PHRASE = { ...PHRASES, label: "What to count", hint: "One kind of object: red car", list: false };
const THRESHOLD = { id: "threshold", label: "Threshold", name: "threshold", slider: true };
const SEED = { id: "seed", label: "Seed", hint: "The same number gives the same image; empty for any", name: "seed", number: true, optional: true };
const PAGES = { id: "pages", label: "Pages", hint: "Such as 1-3,7; empty for all", name: "pages", optional: true };

/** `file` is the field that the image or the document goes into; `whole` sends a PDF itself, and not the page shown. */
export const TASKS = [
  { id: "detect", label: "Find", help: "Boxes around objects.", file: "image", inputs: [PHRASES, THRESHOLD] },
  { id: "segment", label: "Outline", help: "The exact shape of objects.", file: "image", inputs: [PHRASES, THRESHOLD] },
  { id: "point", label: "Point", help: "One point on each object.", file: "image", inputs: [PHRASES, THRESHOLD] },
  { id: "count", label: "Count", help: "How many there are, with a box for each.", file: "image", inputs: [PHRASE, THRESHOLD] },
  {
    id: "ask", label: "Ask", help: "An answer in words, with what it rests on.", file: "image", whole: true,
    inputs: [{ id: "question", label: "Question", hint: "What colour is the dog?", name: "question", lines: 2 }],
  },
  {
    id: "caption", label: "Describe", help: "A description in words.", file: "image",
    inputs: [{ id: "length", label: "Length", name: "length", options: ["normal", "short", "long"] }],
  },
  {
    id: "run", label: "Do", help: "A request of several steps; the model chooses how to answer.", file: "image",
    inputs: [{ id: "request", label: "Request", hint: "Outline the dog", name: "request", lines: 2 }],
  },
  { id: "ocr", label: "Read", help: "The words of an image or a document.", file: "document", whole: true, inputs: [PAGES] },
  {
    id: "extract", label: "Fields", help: "Fields of a form, an invoice, a receipt.", file: "document", whole: true,
    inputs: [{
      id: "fields", label: "Fields", name: "schema", fields: true, lines: 4, optional: true,
      hint: "One a line, with text, number, date or yes/no:\ntotal: number\ndue_date: date\nEmpty for all that have a label",
    }, PAGES],
  },
  {
    id: "generate", label: "Draw", help: "A new image from words. It takes some seconds.", file: null,
    inputs: [{ id: "prompt", label: "What to draw", hint: "Two green apples", name: "prompt" }, SEED],
  },
  {
    id: "edit", label: "Change", help: "The image with something changed.", file: "image",
    inputs: [{ id: "prompt", label: "What to change", hint: "Make the car blue", name: "prompt" }, SEED],
  },
];

const TYPES = {
  text: { type: "string" }, number: { type: "number" }, date: { type: "string", format: "date" }, "yes/no": { type: "boolean" },
};

/** Show the tasks to choose from; `changed(task)` is told of each choice. */
export function showTasks(changed) {
  for (const [index, task] of TASKS.entries()) {
    const radio = element("input", { type: "radio", name: "task", id: `task-${task.id}`, value: task.id, checked: index === 0 });
    radio.addEventListener("change", () => changed(task));
    byId("task-list").append(element("span", { class: "choice" }, radio, element("label", { for: radio.id }, task.label)));
  }
  changed(TASKS[0]);
}

/** Show what a task asks for. Words stay where the next task asks for the same; `moved()` is told of the slider. */
export function showInputs(task, moved) {
  byId("task-help").textContent = task.help;
  const before = new Map([...byId("inputs").querySelectorAll("[name]")].map((input) => [input.name, input]));
  byId("inputs").replaceChildren(...task.inputs.map((input) => {
    const kept = before.get(input.id);
    return input.slider ? slider(input, kept, moved) : field(input, kept);
  }));
}

function field(input, kept) {
  const common = { id: `input-${input.id}`, name: input.id, required: !input.optional };
  let made;
  if (input.options) made = element("select", common, ...input.options.map((each) => element("option", {}, each)));
  else if (input.lines) made = element("textarea", { ...common, rows: input.lines, placeholder: input.hint });
  else made = element("input", { ...common, type: input.number ? "number" : "text", placeholder: input.hint, min: input.number ? 0 : null, autocomplete: "off" });
  if (kept?.value) made.value = kept.value;
  return element("div", { class: "field" }, element("label", { for: common.id }, input.label), made);
}

function slider(input, kept, moved) {
  const range = element("input", { type: "range", id: `input-${input.id}`, name: input.id, min: 0, max: 1, step: 0.01, value: 0.5 });
  const said = element("output", { for: range.id });
  const own = element("button", { type: "button", class: "quiet", hidden: true, "aria-label": "The model's own threshold" }, "Reset");
  const show = () => {
    said.textContent = range.dataset.set ? Number(range.value).toFixed(2) : "the model's own";
    range.setAttribute("aria-valuetext", said.textContent);
    own.hidden = !range.dataset.set;
  };
  range.addEventListener("input", () => { range.dataset.set = "yes"; show(); });
  range.addEventListener("change", moved);
  own.addEventListener("click", () => { delete range.dataset.set; range.value = 0.5; show(); range.focus(); moved(); });
  if (kept?.dataset.set) { range.value = kept.value; range.dataset.set = "yes"; }
  show();
  const head = element("div", { class: "slider-head" }, element("label", { for: range.id }, input.label), said, own);
  return element("div", { class: "field" }, head, range);
}

/** What the inputs hold, as pairs of a name and a text: the fields of the request. Raises ApiError for what is none. */
export function valuesOf(task) {
  const pairs = [];
  for (const input of task.inputs) {
    const given = byId(`input-${input.id}`);
    const value = given.value.trim();
    if (input.slider) { if (given.dataset.set) pairs.push([input.name, value]); }
    else if (input.list) {
      const several = value.split(",").map((each) => each.trim()).filter(Boolean);
      if (!several.length) throw new ApiError("Say what to find.");
      pairs.push(...several.map((each) => [input.name, each]));
    } else if (!value) { if (!input.optional) throw new ApiError(`${input.label}: say something first.`); }
    else if (input.fields) pairs.push([input.name, JSON.stringify(schemaOf(value))]);
    else pairs.push([input.name, value]);
  }
  if (task.id === "segment") pairs.push(["masks", "rle"]);
  return pairs;
}

/** The JSON schema of lines such as `total: number`; a text that is JSON is a schema already. */
function schemaOf(text) {
  if (text.startsWith("{")) {
    try {
      return JSON.parse(text);
    } catch (error) {
      throw new ApiError(`Fields: this is no JSON (${error.message}).`);
    }
  }
  const properties = {};
  for (const line of text.split("\n").map((each) => each.trim()).filter(Boolean)) {
    const [name, kind = "text"] = line.split(":").map((part) => part.trim());
    if (!name || !Object.hasOwn(TYPES, kind)) {
      throw new ApiError(`Fields: "${line}" must be a name and one of ${Object.keys(TYPES).join(", ")}.`);
    }
    properties[name] = TYPES[kind];
  }
  return { type: "object", properties };
}
