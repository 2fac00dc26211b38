// What was found, as a list to walk through: by pointer, by arrow keys, by a screen reader.

import { element, percent } from "./elements.js";

let lists = 0;

export class FoundList {
  /** Args: the list's element; `colorOf(mark)`; `hovered(id or null)` and `chosen(id or null)`. */
  constructor(list, { colorOf, hovered, chosen }) {
    this.list = list;
    this.colorOf = colorOf;
    this.hovered = hovered;
    this.chosen = chosen;
    this.prefix = `found-${lists++}`;
    this.marks = [];
    list.addEventListener("keydown", (event) => this.#key(event));
    list.addEventListener("focus", () => { // by keyboard: the pointer chooses by itself
      if (this.active == null && this.marks.length && list.matches(":focus-visible")) this.#go(0);
    });
    list.addEventListener("blur", () => hovered(null));
  }

  show(marks, style) {
    this.marks = marks;
    this.active = this.picked = null;
    this.list.removeAttribute("aria-activedescendant");
    this.list.className = `found ${style}`;
    this.list.hidden = !marks.length;
    this.options = new Map(marks.map((mark) => [mark.id, this.#option(mark, style)]));
    this.list.replaceChildren(...(style === "words" ? this.#groups() : this.options.values()));
  }

  /** Let one stand out, or none. */
  highlight({ hot, picked }) {
    for (const [id, option] of this.options ?? []) {
      if (hot !== undefined) option.classList.toggle("hot", id === hot);
      if (picked !== undefined) option.setAttribute("aria-selected", String(id === picked));
    }
    if (picked !== undefined) {
      this.picked = picked;
      const option = this.options?.get(picked);
      if (option) { this.#activate(picked); option.scrollIntoView({ block: "nearest" }); }
    }
  }

  #option(mark, style) {
    const option = element("div", { role: "option", id: `${this.prefix}-${mark.id}`, "aria-selected": "false", class: "option" });
    if (style === "words") option.append(mark.label);
    else {
      const swatch = element("span", { class: "swatch", "aria-hidden": "true" });
      swatch.style.setProperty("--color", this.colorOf(mark));
      option.append(swatch, element("span", { class: "label" }, mark.label));
      if (mark.text != null) option.append(element("span", { class: mark.missing ? "value missing" : "value" }, mark.text));
      if (mark.score != null && !mark.missing) option.append(element("span", { class: "score" }, percent(mark.score)));
      if (mark.box) option.append(element("span", { class: "place" }, placeOf(mark)));
    }
    option.addEventListener("pointerenter", () => this.hovered(mark.id));
    option.addEventListener("pointerleave", () => this.hovered(null));
    option.addEventListener("click", () => this.#pick(mark.id));
    return option;
  }

  /** Words as they stand: in their lines and paragraphs. */
  #groups() {
    const groups = new Set(this.marks.map((mark) => mark.group));
    return [...groups].map((group) => element(
      "div",
      { role: "group", class: `block ${group.kind}`, "aria-label": `${group.kind}, page ${group.page}` },
      ...group.rows.map((row) => element("div", { class: "row", role: "presentation" }, ...row.map((line) => element(
        "span", { class: "line", role: "presentation" }, ...line.flatMap((mark) => [this.options.get(mark.id), " "]),
      )))),
    ));
  }

  #key(event) {
    const at = this.marks.findIndex((mark) => mark.id === this.active);
    const goals = {
      ArrowDown: at + 1, ArrowRight: at + 1, ArrowUp: at - 1, ArrowLeft: at - 1, Home: 0, End: this.marks.length - 1,
    };
    if (event.key in goals) this.#go(Math.max(0, Math.min(this.marks.length - 1, goals[event.key])));
    else if ((event.key === "Enter" || event.key === " ") && at >= 0) this.#pick(this.active);
    else if (event.key === "Escape") this.chosen(null);
    else return;
    event.preventDefault();
  }

  #go(index) {
    this.#activate(this.marks[index].id);
    this.options.get(this.active).scrollIntoView({ block: "nearest" });
    this.hovered(this.active);
  }

  #activate(id) {
    this.active = id;
    this.list.setAttribute("aria-activedescendant", `${this.prefix}-${id}`);
  }

  #pick(id) {
    this.chosen(id === this.picked ? null : id);
  }
}

function placeOf(mark) {
  const [x0, y0, x1, y1] = mark.box.map(Math.round);
  return `${mark.page ? `page ${mark.page}, ` : ""}x ${x0}–${x1}, y ${y0}–${y1}`;
}
