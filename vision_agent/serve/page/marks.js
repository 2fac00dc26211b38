// From a result of any verb to marks: what can be drawn on the image and listed beside it.
//
// A mark has an `id`, a `label`, and where it is, in pixels of the image or the page: `box` [x0, y0, x1, y1], `quads`
// (four corners each), `mask` (run lengths) or `point` [x, y]; also `score`, `page`, `text` and `group`.

const sides = (box) => (box ? [box.x0, box.y0, box.x1, box.y1] : null);

const nothing = () => ({ marks: [], size: null, text: "", notes: [], image: null, style: "objects", phrases: [], about: "" });

/** What a result shows: its marks, the `size` of the image that places are in, a `text`, `notes`, a new `image`. */
export function readResult(result) {
  const read = nothing();
  const several = Array.isArray(result) ? result : [result];
  for (const each of several) take(each, read);
  read.marks.forEach((mark, index) => { mark.id = index; });
  return read;
}

/** What the answer of a chat shows: its `vision`. */
export function readVision(vision) {
  const read = nothing();
  read.notes.push(...(vision.warnings ?? []));
  takeBeside(vision, read);
  read.marks.forEach((mark, index) => { mark.id = index; });
  return read;
}

function take(result, read) {
  TAKERS[result?.kind]?.(result, read);
}

const TAKERS = {
  detections(result, read) { takeObjects(result.detections, result, read); },
  segmentation(result, read) { takeObjects(result.segments, result, read); },
  points(result, read) {
    takeObjects(result.points.map((point) => ({ ...point, box: null, point: [point.x, point.y] })), result, read);
  },
  count(result, read) {
    read.text = `${result.count} × ${result.phrase}`;
    take(result.evidence, read);
  },
  answer: takeAnswer,
  agent_result: takeAnswer,
  document_answer(result, read) {
    takeAnswer(result, read);
    if (!result.found) { read.notes.push("The document does not say it."); return; }
    if (!result.box) return;
    read.marks.push({
      label: "Answer", text: result.excerpt, score: result.confidence, page: result.page, box: sides(result.box),
      quads: result.quads,
    });
  },
  generated_image(result, read) {
    read.image = result.png;
    read.text = `${result.prompt} (seed ${result.seed})`;
    if (result.unknown_words.length) read.notes.push(`Words the model does not know: ${result.unknown_words.join(", ")}`);
  },
  ocr(result, read) {
    read.style = "words";
    for (const page of result.pages) {
      for (const block of page.blocks) {
        const group = { page: page.number, kind: block.kind, rows: [] };
        let before = null;
        for (const line of block.lines) {
          const words = line.words.map((word) => ({
            label: word.text, score: word.score, page: page.number, quads: [word.quad], group,
          }));
          if (isBeside(line, before)) group.rows.at(-1).push(words);
          else group.rows.push([words]);
          before = line;
          read.marks.push(...words);
        }
      }
      for (const warning of page.warnings) read.notes.push(`Page ${page.number}: ${warning}`);
    }
    const count = read.marks.length;
    read.text = `${count} word${count === 1 ? "" : "s"} on ${result.pages.length} page${result.pages.length === 1 ? "" : "s"}`;
  },
  extraction(result, read) {
    read.style = "fields";
    const pairs = result.value?.key_values;
    for (const [path, field] of Object.entries(result.fields)) {
      const pair = /^key_values\[(\d+)\]\.value$/.exec(path);
      read.marks.push({
        label: pair && pairs?.[pair[1]] ? pairs[pair[1]].key : path,
        text: field.found ? shown(field.value) : "not in the document",
        missing: !field.found,
        score: field.confidence, page: field.page, box: sides(field.box), quads: field.quads,
      });
    }
    const found = read.marks.filter((mark) => !mark.missing).length;
    read.text = `${found} of ${read.marks.length} fields found`;
  },
};

function takeAnswer(answer, read) {
  read.text = answer.text || read.text;
  if (answer.refused) read.notes.push(answer.refused);
  read.notes.push(...answer.warnings);
  takeBeside(answer, read);
  if (!answer.routes.length) for (const step of answer.steps ?? []) if (step.result) takeStep(step.result, read);
}

function takeStep(result, read) {
  if (Array.isArray(result)) { for (const each of result) takeStep(each, read); return; }
  take(result, read);
}

/** Routes that an answer took, and the boxes that it rests on where it took none. */
function takeBeside(answer, read) {
  for (const route of answer.routes ?? []) take(route.result, read);
  if (!(answer.routes ?? []).length) for (const found of answer.evidence ?? []) take(found, read);
}

function takeObjects(objects, result, read) {
  const [width, height] = result.image_size;
  read.size ??= [width, height];
  read.about ||= `${result.kind === "segmentation" ? "segments" : result.kind} of ${result.model}`;
  if (read.size[0] !== width || read.size[1] !== height) return; // of a crop: its places are others
  for (const found of objects) {
    read.marks.push({
      label: found.label, score: found.score, box: sides(found.box), mask: found.mask ?? null, point: found.point ?? null,
    });
  }
  read.phrases.push(...(result.phrases ?? []));
  if (result.unknown_words.length) {
    read.notes.push(`Words the model was never taught: ${result.unknown_words.join(", ")}`);
  }
}

/** Whether a line stands in the same row as the one before it: what is apart, such as a name and its amount. */
function isBeside(line, before) {
  if (!before) return false;
  const [top, bottom] = [line.quad[0][1], line.quad[3][1]];
  const middle = (before.quad[0][1] + before.quad[3][1]) / 2;
  return middle > top && middle < bottom;
}

const shown = (value) => (value === null ? "" : typeof value === "object" ? JSON.stringify(value) : String(value));
