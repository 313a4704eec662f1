/** Talks to the server: who is here, documents, and actions with the token that shows that this page sent them. */

let session = null;

/** What the server refused or could not do, in its own words. */
class ServerError extends Error {
  constructor(status, { code, what, where, do: advice }) {
    super([where ? `${where}: ${what}` : what, advice].filter(Boolean).join(" "));
    this.status = status;
    this.code = code;
  }
}

const UNREACHABLE = {
  code: "unreachable",
  what: "The console does not answer.",
  do: "Is it running, and is the network there?",
};

/** Who is here and what is allowed; asked once, and again if the server says that the token has changed. */
export async function begin({ again = false } = {}) {
  if (session === null || again) session = await request("/api/session");
  return session;
}

/** The session as last heard. */
export const known = () => session;

/** A document; raises ServerError. */
export const get = (path, signal) => request(path, { cache: "no-cache", signal });

/** An action; raises ServerError. */
export async function post(path, body) {
  const send = async () =>
    request(path, {
      method: "POST",
      headers: { "Content-Type": "application/json", "X-Faultline-CSRF": (await begin()).csrf },
      body: JSON.stringify(body),
    });
  try {
    return await send();
  } catch (error) {
    if (error.code !== "csrf") throw error;
    await begin({ again: true });
    return send();
  }
}

/** Logs in or out; the session that follows is the one from then on. */
export async function enter(path, body) {
  session = await post(path, body);
  return session;
}

async function request(path, options = {}) {
  let answer;
  try {
    answer = await fetch(path, options);
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ServerError(0, UNREACHABLE);
  }
  if (answer.ok) return answer.json();
  let told = null;
  try {
    told = (await answer.json()).error;
  } catch {
    told = null;
  }
  const error = new ServerError(
    answer.status,
    told ?? { code: "unexpected", what: `The console answered ${answer.status}.` },
  );
  if (error.code === "login") goToLogin();
  throw error;
}

let leaving = false;

/** Leaves this page; only the first address counts, as several requests may be refused at once. */
export function leave(address) {
  if (leaving) return;
  leaving = true;
  location.assign(address);
}

/** Goes to the login page, and later back to this one. */
export function goToLogin() {
  if (location.pathname !== "/login") leave(`/login?next=${encodeURIComponent(location.pathname + location.search)}`);
}
