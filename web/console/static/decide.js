// The dialog in which people decide on alerts, and taking a decision back.
import { Refused, ask, make, say } from "./api.js";

const get = (id) => document.getElementById(id);
const dialog = get("decision"), form = get("decision-form");
const WITHOUT_REASON = ["acknowledge", "review", "assign"];
const WITHOUT_UNDO = ["comment", "assign"]; // entries of the log that change no state
const DONE = { acknowledge: "acknowledged", review: "in review", request: "with a request for information", dismiss: "dismissed", confirm: "confirmed", assign: "assigned", comment: "commented on", close: "closed", reopen: "open again" };
let on = null; // what is decided on: alerts, the states that were seen by alert, and what follows

export const counted = (n) => `${n} alert${n === 1 ? "" : "s"}`;

/** Open the dialog. alerts: their numbers; seen: their states as shown, by number; after: called once it is recorded, or taken back. */
export function decide(title, { alerts, seen, after }) {
  on = { alerts, seen, after };
  form.reset();
  get("refused").hidden = true;
  get("decision-title").textContent = title;
  fit();
  dialog.showModal();
}

/** Show the fields that belong to the decision, and ask for a reason where it needs one. */
function fit() {
  const decision = form.elements.decision.value;
  get("deadline-field").hidden = decision !== "request";
  get("deadline").required = decision === "request";
  get("deadline").min = new Date().toISOString().slice(0, 10);
  get("to-field").hidden = decision !== "assign";
  get("to").required = decision === "assign";
  const isNeeded = decision !== "" && !WITHOUT_REASON.includes(decision);
  get("reason").required = isNeeded;
  get("may").hidden = isNeeded;
}

form?.addEventListener("change", fit);
get("cancel")?.addEventListener("click", () => dialog.close());
form?.addEventListener("submit", async (event) => {
  event.preventDefault();
  const { alerts, seen, after } = on;
  const given = { alerts, decision: form.elements.decision.value };
  const reason = get("reason").value.trim();
  if (reason) given.reason = reason;
  if (given.decision === "request") given.deadline = `${get("deadline").value}T23:59:59Z`;
  if (given.decision === "assign") given.to = get("to").value.trim();
  if (Object.keys(seen).length) given.expected = seen;
  get("record").disabled = true;
  try {
    const { decided } = await ask("/api/decisions", given);
    dialog.close();
    await after();
    const back = make("button", { type: "button" }, "Undo");
    back.addEventListener("click", () => undo(decided, after));
    const away = make("button", { type: "button" }, "Hide");
    away.addEventListener("click", () => say(""));
    say(`${counted(decided.length)} ${DONE[given.decision]}`, ...(WITHOUT_UNDO.includes(given.decision) ? [] : [back, away]));
  } catch (error) {
    if (!(error instanceof Refused)) throw error;
    get("refused").textContent = error.message;
    get("refused").hidden = false;
  } finally {
    get("record").disabled = false;
  }
});

async function undo(decided, after) {
  try {
    await ask("/api/decisions/undo", { events: decided.map((one) => one.event) });
    await after();
    say(`Taken back: ${counted(decided.length)} as before`);
  } catch (error) {
    if (!(error instanceof Refused)) throw error;
    say(error.message);
  }
}
