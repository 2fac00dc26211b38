// The image, and what was found on it: masks on a canvas, outlines as shapes, names as tags.

import { byId, colorsOf, element, percent, shape } from "./elements.js";
import { sampled, tinted } from "./rle.js";

const ZOOMS = [1, 1.5, 2.2, 3.2];
const MASK_SIDE = 1600; // pixels of masks on the screen: those of large photos would make the pointer slow
const MOST_TAGS = 60; // more names than that hide the image

export class Stage {
  /** `hovered(id or null)` and `chosen(id)` are told what the pointer does. */
  constructor({ hovered, chosen }) {
    this.sheet = byId("sheet");
    this.image = byId("image");
    this.canvas = byId("masks");
    this.shapes = byId("shapes");
    this.tags = byId("tags");
    this.hovered = hovered;
    this.chosen = chosen;
    this.marks = [];
    this.hot = this.picked = null;
  }

  /** Show an image by its address; nothing is drawn on it. Raises where the browser cannot read it. */
  async show(url, name) {
    const image = new Image();
    image.src = url;
    await image.decode();
    this.image.src = url;
    this.image.alt = name;
    await this.image.decode();
    this.size = [this.image.naturalWidth, this.image.naturalHeight];
    byId("drop").hidden = true;
    this.sheet.hidden = false;
    this.draw([], "objects");
  }

  /** Show it larger or smaller: `step` 1 or -1; the first size is the one that fits. */
  zoom(step) {
    this.zoomed = Math.max(0, Math.min(ZOOMS.length - 1, (this.zoomed ?? 0) + step));
    byId("stage").style.setProperty("--zoom", ZOOMS[this.zoomed]);
    byId("zoom-out").disabled = this.zoomed === 0;
    byId("zoom-in").disabled = this.zoomed === ZOOMS.length - 1;
  }

  /** Draw marks, whose places are pixels of an image of `size`. */
  draw(marks, style, size = this.size) {
    this.marks = marks;
    this.style = style;
    this.places = size;
    this.colors = colorsOf(marks.map((mark) => mark.label));
    this.hot = this.picked = null;
    this.parts = new Map();
    this.shapes.setAttribute("viewBox", `0 0 ${size[0]} ${size[1]}`);
    this.shapes.replaceChildren();
    this.tags.replaceChildren();
    const tagged = style !== "words" && marks.length <= MOST_TAGS;
    // Small ones lie on top, so that the pointer reaches them.
    for (const mark of [...marks].sort((one, other) => extent(other) - extent(one))) this.#add(mark, tagged);
    this.#paint();
  }

  /** The color of a mark. */
  colorOf(mark) {
    return this.style === "words" ? "#0090ff" : this.colors.get(mark.label);
  }

  /** Let one mark stand out, or none: under the pointer, or picked. */
  highlight({ hot = this.hot, picked = this.picked }) {
    for (const [name, before, now] of [["hot", this.hot, hot], ["picked", this.picked, picked]]) {
      for (const part of this.parts.get(before) ?? []) part.classList.remove(name);
      for (const part of this.parts.get(now) ?? []) part.classList.add(name);
    }
    if (picked !== this.picked) this.parts.get(picked)?.[0].scrollIntoView({ block: "nearest", inline: "nearest" });
    this.hot = hot;
    this.picked = picked;
    this.#paint();
  }

  /** The image with everything drawn on it, as a canvas of the image's own size. */
  picture() {
    const [width, height] = this.size;
    const canvas = element("canvas", { width, height });
    const pen = canvas.getContext("2d");
    pen.drawImage(this.image, 0, 0, width, height);
    this.#tint(pen, width, height, Infinity);
    pen.scale(width / this.places[0], height / this.places[1]);
    const unit = Math.sqrt(this.places[0] * this.places[1]) / 400;
    for (const mark of this.marks) this.#trace(pen, mark, unit);
    if (this.style !== "words") for (const mark of this.marks) this.#write(pen, mark, unit * 9);
    return canvas;
  }

  #add(mark, tagged) {
    const parts = outlines(mark).map((outline) => {
      const made = shape(outline.name, { ...outline.attributes, class: `mark ${this.style}` });
      made.style.setProperty("--color", this.colorOf(mark));
      made.addEventListener("pointerenter", () => this.hovered(mark.id));
      made.addEventListener("pointerleave", () => this.hovered(null));
      made.addEventListener("click", () => this.chosen(mark.id));
      made.dataset.id = mark.id;
      this.shapes.append(made);
      return made;
    });
    const corner = cornerOf(mark);
    if (tagged && corner) {
      const words = mark.score == null || this.style === "fields" ? mark.label : `${mark.label} ${percent(mark.score)}`;
      const tag = element("span", { class: `tag ${this.style}` }, words);
      tag.style.setProperty("--color", this.colorOf(mark));
      tag.style.left = `${(corner[0] / this.places[0]) * 100}%`;
      tag.style.top = `${(corner[1] / this.places[1]) * 100}%`;
      if (corner[1] / this.places[1] < 0.05) tag.classList.add("below"); // there is no room above
      if (corner[0] / this.places[0] > 0.75) tag.classList.add("leftward");
      this.tags.append(tag);
      parts.push(tag);
    }
    this.parts.set(mark.id, parts);
  }

  #paint() {
    const masked = this.marks.filter((mark) => mark.mask);
    const state = masked.map((mark) => `${mark.id}${mark.id === this.hot || mark.id === this.picked}`).join();
    if (masked.length && state === this.painted && masked[0] === this.first) return;
    [this.painted, this.first] = [state, masked[0]];
    if (!masked.length) { this.canvas.width = this.canvas.height = 1; return; }
    const { width, height } = (masked[0].sampled ??= sampled(masked[0].mask, MASK_SIDE));
    [this.canvas.width, this.canvas.height] = [width, height];
    this.#tint(this.canvas.getContext("2d"), width, height, MASK_SIDE);
  }

  /** Lay the masks over each other, the surest on top. */
  #tint(pen, width, height, side) {
    const masked = this.marks.filter((mark) => mark.mask).sort((one, other) => (one.score ?? 0) - (other.score ?? 0));
    for (const mark of masked) {
      const strong = mark.id === this.hot || mark.id === this.picked;
      const seen = side === MASK_SIDE ? (mark.sampled ??= sampled(mark.mask, side)) : sampled(mark.mask, side);
      const layer = element("canvas", { width: seen.width, height: seen.height });
      layer.getContext("2d").putImageData(tinted(seen, this.colorOf(mark), strong), 0, 0);
      pen.drawImage(layer, 0, 0, width, height);
    }
  }

  #trace(pen, mark, unit) {
    pen.strokeStyle = this.colorOf(mark);
    pen.fillStyle = this.colorOf(mark);
    pen.lineWidth = this.style === "objects" ? unit * 1.2 : unit * 0.6;
    for (const quad of mark.quads?.length ? mark.quads : []) {
      pen.beginPath();
      quad.forEach(([x, y]) => pen.lineTo(x, y));
      pen.closePath();
      pen.stroke();
    }
    if (mark.box && !mark.mask && !mark.quads?.length) {
      pen.strokeRect(mark.box[0], mark.box[1], mark.box[2] - mark.box[0], mark.box[3] - mark.box[1]);
    }
    if (mark.point) {
      pen.beginPath();
      pen.arc(...mark.point, unit * 3, 0, 2 * Math.PI);
      pen.fill();
    }
  }

  #write(pen, mark, size) {
    const corner = cornerOf(mark);
    if (!corner) return;
    const words = mark.score == null || this.style === "fields" ? mark.label : `${mark.label} ${percent(mark.score)}`;
    pen.font = `${size}px system-ui, sans-serif`;
    pen.textBaseline = "top";
    const width = pen.measureText(words).width + size * 0.6;
    const x = Math.max(0, Math.min(corner[0], this.places[0] - width));
    const y = Math.max(0, corner[1] - size * 1.35);
    pen.fillStyle = this.colorOf(mark);
    pen.fillRect(x, y, width, size * 1.35);
    pen.fillStyle = "#fff";
    pen.fillText(words, x + size * 0.3, y + size * 0.2);
  }
}

function cornerOf(mark) {
  if (mark.box) return [mark.box[0], mark.box[1]];
  if (mark.quads?.length) return [Math.min(...mark.quads[0].map(([x]) => x)), Math.min(...mark.quads[0].map(([, y]) => y))];
  return mark.point ?? null;
}

function extent(mark) {
  return mark.box ? (mark.box[2] - mark.box[0]) * (mark.box[3] - mark.box[1]) : 0;
}

/** The SVG shapes of a mark. The box of a mask is not drawn, but the pointer finds the mask by it. */
function outlines(mark) {
  if (mark.quads?.length) {
    return mark.quads.map((quad) => ({ name: "polygon", attributes: { points: quad.map((corner) => corner.join()).join(" ") } }));
  }
  if (mark.point) {
    const [x, y] = mark.point; // the round end of a thick line: as large on every image
    return [{ name: "path", attributes: { d: `M${x} ${y}h0.01`, "data-point": "" } }];
  }
  if (!mark.box) return [];
  const [x, y, x1, y1] = mark.box;
  const masked = mark.mask ? { "data-mask": "" } : {};
  return [{ name: "rect", attributes: { x, y, width: Math.max(x1 - x, 1), height: Math.max(y1 - y, 1), ...masked } }];
}
