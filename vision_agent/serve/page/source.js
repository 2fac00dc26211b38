// The image or document that is open: its file, the page that is shown, and that page as an image.

import { ask, ApiError } from "./api.js";

const SHOWN = /^image\/(png|jpe?g|webp|gif|bmp|avif)$/; // what browsers draw; the server draws the rest

export class Source {
  /** Open a file; `show(url, name)` draws an image and raises where it cannot. Raises ApiError for what is none. */
  static async open(file, show) {
    const source = new Source(file, show);
    try {
      if (SHOWN.test(file.type)) {
        await source.#draw(file);
        return source;
      }
    } catch {
      // The browser cannot read it. The server may, and else it has the words for what is wrong.
    }
    source.isDocument = true;
    await source.turnTo(1);
    return source;
  }

  constructor(file, show) {
    this.file = file;
    this.name = file.name || "image.png";
    this.isDocument = false;
    this.page = this.pages = 1;
    this.drawn = new Map(); // pages as images, by number
    this.show = show;
  }

  /** Its name without the ending. */
  get stem() {
    return this.name.replace(/\.[^.]+$/, "");
  }

  /** Show a page of a document. */
  async turnTo(number) {
    if (!this.drawn.has(number)) {
      const form = new FormData();
      form.append("document", this.file, this.name);
      form.append("page", number);
      const drawn = await ask("documents/page", form);
      this.pages = drawn.pages;
      this.drawn.set(number, pngOf(drawn.png));
    }
    this.page = number;
    await this.#draw(this.drawn.get(number));
  }

  /** The file itself where `whole`, or else what is shown of it: `[blob, name]`. */
  sent(whole) {
    if (whole || !this.isDocument) return [this.file, this.name];
    return [this.image, `${this.stem}-page-${this.page}.png`];
  }

  /** Show it once more, as it was left. */
  async again() {
    await this.#draw(this.image);
  }

  /** Let go of the memory. */
  close() {
    URL.revokeObjectURL(this.url);
  }

  async #draw(blob) {
    const url = URL.createObjectURL(blob);
    try {
      await this.show(url, this.isDocument ? `Page ${this.page} of ${this.name}` : this.name);
    } catch (error) {
      URL.revokeObjectURL(url);
      throw new ApiError(`${this.name} cannot be shown (${error.message})`);
    }
    this.close();
    [this.url, this.image] = [url, blob];
  }
}

/** A PNG file of base64, as the server writes it. */
export function pngOf(text) {
  const bytes = Uint8Array.from(atob(text.replaceAll("-", "+").replaceAll("_", "/")), (char) => char.charCodeAt(0));
  return new Blob([bytes], { type: "image/png" });
}
