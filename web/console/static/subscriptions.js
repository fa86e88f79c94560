// One's own subscriptions: making one, what became of its messages, ending it.
import { Refused, ask, make, say } from "./api.js";
import { subscribe } from "./subscribe.js";

const get = (id) => document.getElementById(id);
const SAID = { pending: "waits for its next attempt", sent: "sent", dead: "did not arrive", folded: "told in an earlier message", discarded: "given up", suspended: "waits: the address is refused" };
let ending = null; // the subscription that is asked about

get("new").addEventListener("click", () => subscribe(null, refresh));

// By listeners on the section, whose content is replaced after each change. A toggle does not bubble.
get("list").addEventListener("toggle", (event) => {
  if (event.target.matches(".messages") && event.target.open) messages(event.target);
}, true);
get("list").addEventListener("click", (event) => {
  if (!event.target.matches(".end")) return;
  ending = event.target.closest("article");
  get("ending-title").textContent = `End ${ending.querySelector("h3").textContent}?`;
  get("not-ended").hidden = true;
  get("ending").showModal();
});
get("keep").addEventListener("click", () => get("ending").close());
get("end-form").addEventListener("submit", async (event) => {
  event.preventDefault();
  try {
    await ask(`/api/subscriptions/${ending.dataset.key}`, {}, { method: "DELETE" });
  } catch (error) {
    if (!(error instanceof Refused)) throw error;
    get("not-ended").textContent = error.message;
    get("not-ended").hidden = false;
    return;
  }
  get("ending").close();
  await refresh();
  get("list-title").focus();
  say(`${ending.querySelector("h3").textContent} has ended`);
});

async function messages(place) {
  let rows;
  try {
    const { deliveries } = await ask(`/api/subscriptions/${place.closest("article").dataset.key}/deliveries?limit=20`);
    rows = deliveries.map((one) => make("li", {}, `${one.formed_at.slice(0, 16).replace("T", " ")} UTC, ${one.events} event${one.events === 1 ? "" : "s"}: ${SAID[one.state] ?? one.state}${one.last_error && one.state !== "sent" ? ` (${one.last_error})` : ""}`));
  } catch (error) {
    if (!(error instanceof Refused)) throw error;
    rows = [make("li", {}, error.message)];
  }
  place.replaceChildren(place.querySelector("summary"), rows.length ? make("ul", {}, ...rows) : make("p", { className: "quiet" }, "None yet: nothing has happened since that it is about."));
}

/** Put the list as it is now in the place of the one that is shown. */
async function refresh() {
  const answer = await fetch(location.href, { credentials: "same-origin" });
  const page = new DOMParser().parseFromString(await answer.text(), "text/html");
  if (answer.ok && page.getElementById("list")) get("list").replaceChildren(...page.getElementById("list").childNodes);
  else location.reload();
}
