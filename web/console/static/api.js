// Requests to this server in the name of who is signed in, and what is said about them.
const token = document.querySelector('meta[name="csrf-token"]')?.content ?? "";

/** What the server refuses, in its words; errors: the places of the request that are wrong, as {at, what}. */
export class Refused extends Error {
  constructor(message, errors = []) {
    super(message);
    this.errors = errors;
  }
}

/** Return what the server answers as JSON; throw Refused with its own words. To GET give no content. */
export async function ask(address, content, { method = "POST", signal, keepalive = false } = {}) {
  const options = { signal, keepalive, headers: { Accept: "application/json" }, credentials: "same-origin" };
  if (content !== undefined) {
    options.method = method;
    options.body = JSON.stringify(content);
    options.headers["Content-Type"] = "application/json";
    options.headers["X-CSRF-Token"] = token;
  }
  let answer;
  try {
    answer = await fetch(address, options);
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Refused("The server cannot be reached: try again");
  }
  if (answer.status === 401) {
    location.assign(`/console/sign-in?next=${encodeURIComponent(location.pathname + location.search)}`);
    throw new Refused("Signed out meanwhile: sign in again");
  }
  const said = answer.status === 204 ? null : await answer.json().catch(() => null);
  if (!answer.ok) throw new Refused(said?.detail ?? `The server answers ${answer.status}`, said?.errors);
  return said;
}

/** Make an element: its properties, then what is in it. Text stays text: nothing is parsed. */
export function make(name, properties = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(properties)) {
    if (key in made && key !== "list") made[key] = value;
    else made.setAttribute(key, value);
  }
  made.append(...children.filter((one) => one !== null && one !== undefined));
  return made;
}

/** Say something at the foot of the page, aloud for screen readers; it goes after some seconds unless there is something to press. */
let going = 0;
export function say(text, ...controls) {
  const said = document.getElementById("said");
  clearTimeout(going);
  said.replaceChildren(...(text ? [make("span", {}, text), ...controls] : []));
  if (text && controls.length === 0) going = setTimeout(() => said.replaceChildren(), 8000);
}
