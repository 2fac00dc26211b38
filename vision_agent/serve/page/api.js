// The server's public paths, and its errors in words.

const KEY = "vision-agent.key"; // in this tab's own storage, which ends with the tab
const BASE = new URL("v1/", document.baseURI);

/** A request that was not answered. `message` is for people; `needsKey` where the server lets nobody in without one. */
export class ApiError extends Error {
  constructor(message, { status = 0, needsKey = false } = {}) {
    super(message);
    this.status = status;
    this.needsKey = needsKey;
  }
}

export const key = {
  get: () => sessionStorage.getItem(KEY) ?? "",
  set: (value) => sessionStorage.setItem(KEY, value),
  forget: () => sessionStorage.removeItem(KEY),
};

/** Where a path is, for people who copy it. */
export const address = (path) => new URL(path, BASE).href;

/** Send a request; the response is a good one. Raises ApiError, and AbortError where `signal` stopped it. */
export async function send(path, { method = "POST", body, json, headers = {}, signal } = {}) {
  const sent = { ...headers };
  if (key.get()) sent.authorization = `Bearer ${key.get()}`;
  if (json !== undefined) sent["content-type"] = "application/json";
  let response;
  try {
    response = await fetch(new URL(path, BASE), {
      method, headers: sent, signal, body: json === undefined ? body : JSON.stringify(json),
    });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ApiError("The server cannot be reached. Is it still running?");
  }
  if (!response.ok) throw await problemOf(response);
  return response;
}

/** Send a form, and return the result. `wait(seconds)` is told how long it takes; long work is asked for again and again. */
export async function ask(path, form, { signal, later = false, wait = () => {} } = {}) {
  if (!later) return (await send(path, { body: form, signal })).json();
  const accepted = await send(path, { body: form, signal, headers: { prefer: "respond-async" } });
  let job = await accepted.json();
  const began = performance.now();
  try {
    for (let pause = 100; job.status === "queued" || job.status === "running"; pause = Math.min(2000, pause * 1.3)) {
      wait(Math.round((performance.now() - began) / 1000));
      await sleep(pause, signal);
      job = await (await send(`jobs/${job.id}`, { method: "GET", signal })).json();
    }
  } catch (error) {
    // Nobody waits for it any more. Whether this arrives does not matter: results are forgotten by themselves.
    if (error.name === "AbortError") send(`jobs/${job.id}`, { method: "DELETE" }).catch(() => {});
    throw error;
  }
  if (job.status !== "done") throw new ApiError(inWords(job.error));
  return job.result;
}

/** Yield the events of a streamed answer. */
export async function* stream(path, json, signal) {
  const response = await send(path, { json, signal });
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  try {
    for (;;) {
      const { value, done } = await reader.read();
      if (done) throw new ApiError("The answer broke off: the server closed the connection.");
      const events = (rest + value).split("\n\n");
      rest = events.pop();
      for (const event of events) {
        const data = event.replace(/^data: /, "");
        if (data === "[DONE]") return;
        const chunk = JSON.parse(data);
        if (chunk.error) throw new ApiError(inWords(chunk.error));
        yield chunk;
      }
    }
  } catch (error) {
    if (error instanceof ApiError || error.name === "AbortError") throw error;
    throw new ApiError("The answer broke off: the connection was lost.");
  } finally {
    reader.cancel().catch(() => {}); // it may have ended already
  }
}

function sleep(milliseconds, signal) {
  return new Promise((resolve, reject) => {
    const stopped = () => { clearTimeout(timer); reject(signal.reason); };
    const timer = setTimeout(() => { signal?.removeEventListener("abort", stopped); resolve(); }, milliseconds);
    if (signal?.aborted) stopped();
    signal?.addEventListener("abort", stopped, { once: true });
  });
}

async function problemOf(response) {
  const { status } = response;
  const error = await response.json().then((body) => body.error, () => null);
  if (status === 401) return new ApiError("This server needs a key, or the key was wrong.", { status, needsKey: true });
  if (status === 429) {
    const seconds = Number(response.headers.get("retry-after")) || 1;
    return new ApiError(`The server is busy. Try again in ${seconds} second${seconds === 1 ? "" : "s"}.`, { status });
  }
  if (status === 413) return new ApiError(`The file is too large. ${inWords(error)}`, { status });
  return new ApiError(inWords(error) || `The server answered with the status ${status}.`, { status });
}

/** The server's message as a sentence. */
function inWords(error) {
  const message = String(error?.message ?? "").replaceAll("`", "").trim();
  if (!message) return "";
  const sentence = message[0].toUpperCase() + message.slice(1);
  return /[.!?]$/.test(sentence) ? sentence : `${sentence}.`;
}
