// Elements of the page. Whatever a model or a document says becomes text, never markup.

export const byId = (id) => document.getElementById(id);

/** Make an element: attributes by name, `class`, and `on...` for listeners; children are elements or texts. */
export function element(name, attributes = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (key.startsWith("on")) made.addEventListener(key.slice(2), value);
    else if (value === true) made.setAttribute(key, "");
    else if (value !== false && value != null) made.setAttribute(key, value);
  }
  made.append(...children.filter((child) => child != null));
  return made;
}

const SVG = "http://www.w3.org/2000/svg";

/** Make an SVG element. */
export function shape(name, attributes) {
  const made = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  return made;
}

/** Show or hide a message. */
export function say(place, message) {
  place.textContent = message ?? "";
  place.hidden = !message;
}

const COLORS = ["#e5484d", "#0090ff", "#30a46c", "#f76b15", "#8e4ec6", "#12a594", "#d6409f", "#ad7f00", "#3e63dd", "#7c66dc"];

/** A color for each label, the same as long as labels come in the same order. */
export function colorsOf(labels) {
  return new Map([...new Set(labels)].map((label, index) => [label, COLORS[index % COLORS.length]]));
}

export const percent = (share) => `${Math.round(share * 100)} %`;
