/** Requests to the service: the token, a time limit, and errors in the service's own words. */

const KEY = "immunecam-token";
const LIMIT_MS = 10_000;

/** The service wants a token, or another one. */
export class TokenWanted extends Error {}

/** No answer, or half of one. */
export class Unreachable extends Error {}

/** The service answered with a refusal; `afterS` says when trying again may help. */
export class Refused extends Error {
  constructor(status, sentence, afterS) {
    super(sentence);
    this.status = status;
    this.afterS = afterS;
  }
}

export const hasToken = () => sessionStorage.getItem(KEY) !== null;
export const keepToken = (token) => sessionStorage.setItem(KEY, token);
export const forgetToken = () => sessionStorage.removeItem(KEY);

/** What `read` makes of the answer to one request; `signal` gives it up. The time limit holds for all of it. */
async function ask(path, read, { signal, ...options } = {}) {
  const headers = { ...options.headers };
  if (hasToken()) headers.Authorization = `Bearer ${sessionStorage.getItem(KEY)}`;
  const control = new AbortController();
  const giveUp = () => control.abort(signal?.reason);
  const timer = setTimeout(() => control.abort(new Error(`no answer for ${LIMIT_MS / 1000} s`)), LIMIT_MS);
  signal?.addEventListener("abort", giveUp);
  try {
    const answer = await fetch(path, { ...options, headers, signal: control.signal });
    if (answer.ok) return await read(answer);
    const { error = answer.statusText } = await answer.json().catch(() => ({}));
    if (answer.status === 401) throw new TokenWanted(error);
    throw new Refused(answer.status, error, Number(answer.headers.get("Retry-After")) || 1);
  } catch (error) {
    if (error instanceof TokenWanted || error instanceof Refused) throw error;
    throw new Unreachable(error.message, { cause: error });
  } finally {
    clearTimeout(timer);
    signal?.removeEventListener("abort", giveUp);
  }
}

/** How the service and its gate are set. */
export const view = () => ask("/v1/view", (answer) => answer.json());

/** Make another camera the active one, for everybody. */
export const switchCamera = (name) =>
  ask("/v1/cameras/active", (answer) => answer.json(), {
    method: "PUT",
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify({ name }),
  });

/** The next frame: its state, and the pictures that came with it by name. */
export async function nextFrame({ after, purify, mutation }, signal) {
  const query = new URLSearchParams({ after, purify });
  if (mutation) query.set("mutation", mutation);
  const form = await ask(`/v1/view/frame?${query}`, (answer) => answer.formData(), { signal });
  const names = ["before", "after", "noise"].filter((name) => form.has(name));
  const bitmaps = await Promise.all(names.map((name) => createImageBitmap(form.get(name))));
  return {
    state: JSON.parse(form.get("state")),
    pictures: Object.fromEntries(names.map((name, index) => [name, bitmaps[index]])),
  };
}
