// A chat about the image, by OpenAI's chat completions: words come as they are written, boxes and masks with the end.

import { stream } from "./api.js";
import { byId, element, say } from "./elements.js";
import { FoundList } from "./found.js";
import { readVision } from "./marks.js";

export class Chat {
  /**
   * Args: `image()` gives the image's blob or null; `model()` the model's name; `show(read, list)` draws what an answer
   * found; `failed(error, place)` tells of a problem; `marks` has what a FoundList needs.
   */
  constructor({ image, model, show, failed, marks }) {
    Object.assign(this, { image, model, show, failed, marks });
    this.messages = [];
    this.welcome = byId("log").firstElementChild;
    byId("chat-form").addEventListener("submit", (event) => { event.preventDefault(); this.#send(); });
    byId("chat-stop").addEventListener("click", () => this.stopping?.abort());
    byId("chat-clear").addEventListener("click", () => this.clear());
    byId("message").addEventListener("keydown", (event) => {
      if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
      event.preventDefault();
      byId("chat-form").requestSubmit();
    });
  }

  /** Begin again, about the image that is there now. */
  clear() {
    this.stopping?.abort();
    this.messages = [];
    this.latest = null;
    byId("log").replaceChildren(this.welcome);
    say(byId("chat-problem"), null);
  }

  /** Draw what the latest answer found, once more. */
  redraw() {
    if (this.latest) this.show(...this.latest);
  }

  async #send() {
    const text = byId("message").value.trim();
    if (!text || this.stopping) return;
    say(byId("chat-problem"), null);
    const stopping = this.stopping = new AbortController();
    const messages = this.messages;
    this.#busy(true);
    this.#bubble("you", text);
    byId("message").value = "";
    const { bubble, words } = this.#bubble("model", "");
    try {
      const image = messages.length ? null : await this.image();
      const picture = image && { type: "image_url", image_url: { url: await dataUrl(image) } };
      messages.push({ role: "user", content: picture ? [picture, { type: "text", text }] : text });
      await this.#answer(bubble, words, messages, stopping.signal);
      messages.push({ role: "assistant", content: words.textContent });
    } catch (error) {
      if (messages.at(-1)?.role === "user") messages.pop(); // the next message stands in its place
      if (error.name === "AbortError") words.append(" (stopped)");
      else {
        if (!words.textContent) bubble.remove();
        byId("message").value ||= text;
        this.failed(error, byId("chat-problem"));
      }
    } finally {
      if (this.stopping === stopping) this.stopping = null;
      this.#busy(false);
    }
  }

  async #answer(bubble, words, messages, signal) {
    const asked = { model: this.model(), messages, stream: true };
    for await (const chunk of stream("chat/completions", asked, signal)) {
      const { delta } = chunk.choices[0];
      if (delta.content) words.append(delta.content);
      if (delta.refusal && delta.refusal !== words.textContent) bubble.append(element("p", { class: "help" }, delta.refusal));
      if (delta.vision) this.#found(bubble, readVision(delta.vision));
      byId("log").scrollTop = byId("log").scrollHeight;
    }
  }

  #found(bubble, read) {
    for (const note of read.notes) bubble.append(element("p", { class: "help" }, note));
    if (!read.marks.length) return;
    const list = element("div", { role: "listbox", tabindex: 0, "aria-label": "Found for this answer" });
    bubble.append(list);
    const found = new FoundList(list, this.marks(() => this.#use(read, found)));
    this.#use(read, found);
    found.show(read.marks, read.style);
  }

  /** Draw what an answer found, where another's is drawn. */
  #use(read, found) {
    if (this.latest?.[0] === read) return;
    this.latest = [read, found];
    this.show(read, found);
  }

  #bubble(who, text) {
    const words = element("p", { class: "words" }, text);
    const bubble = element("div", { class: `bubble ${who}` }, element("h3", { class: "unseen" }, who === "you" ? "You" : "Model"), words);
    byId("log").append(bubble);
    bubble.scrollIntoView({ block: "nearest" });
    return { bubble, words };
  }

  #busy(busy) {
    byId("log").setAttribute("aria-busy", String(busy)); // a screen reader waits for the whole answer
    byId("send").disabled = busy;
    byId("chat-stop").hidden = !busy;
    if (!busy) byId("message").focus();
  }
}

function dataUrl(blob) {
  return new Promise((resolve, reject) => {
    const reader = new FileReader();
    reader.onload = () => resolve(reader.result);
    reader.onerror = () => reject(reader.error);
    reader.readAsDataURL(blob);
  });
}
