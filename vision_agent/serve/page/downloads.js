// Results as files.

import { element } from "./elements.js";
import { areaOf } from "./rle.js";

/** Save a blob as a file. */
export function save(blob, name) {
  const url = URL.createObjectURL(blob);
  element("a", { href: url, download: name }).click();
  setTimeout(() => URL.revokeObjectURL(url), 60_000);
}

export const asJson = (value) => new Blob([JSON.stringify(value, null, 2)], { type: "application/json" });

export const asPng = (canvas) => new Promise((resolve) => canvas.toBlob(resolve, "image/png"));

/** Words in their rows; what stands apart in a row is two spaces apart, and blocks an empty line. */
export function asText(marks) {
  const groups = [...new Set(marks.map((mark) => mark.group))];
  const words = (line) => line.map((mark) => mark.label).join(" ");
  const blocks = groups.map((group) => group.rows.map((row) => row.map(words).join("  ")).join("\n"));
  return new Blob([`${blocks.join("\n\n")}\n`], { type: "text/plain" });
}

/** A COCO dataset of one image, as the SDK's `to_coco` makes it: boxes as x, y, width, height, masks as run lengths. */
export function asCoco({ marks, size, phrases, about }, fileName) {
  const placed = marks.filter((mark) => mark.box);
  const names = [...new Set([...phrases, ...placed.map((mark) => mark.label)])];
  return asJson({
    info: { description: about },
    images: [{ id: 0, width: size[0], height: size[1], file_name: fileName }],
    annotations: placed.map(({ label, score, box: [x0, y0, x1, y1], mask }, index) => ({
      id: index + 1,
      image_id: 0,
      category_id: names.indexOf(label) + 1,
      bbox: [x0, y0, x1 - x0, y1 - y0],
      area: mask ? areaOf(mask) : (x1 - x0) * (y1 - y0),
      iscrowd: 0,
      score,
      ...(mask ? { segmentation: mask } : {}),
    })),
    categories: names.map((name, index) => ({ id: index + 1, name })),
  });
}
