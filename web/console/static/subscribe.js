// The dialog that makes a subscription: to the alerts of an area, or to all that one sees.
import { Refused, ask } from "./api.js";

const get = (id) => document.getElementById(id);
const dialog = get("subscribing"), form = get("subscribe-form");
const ZONE = Intl.DateTimeFormat().resolvedOptions().timeZone || "UTC";
const FIELDS = ["name", "to", "at", "rules"]; // those that say by themselves what is wrong with them
let on = null; // the area, and what follows

/** Open the dialog. area: GeoJSON, null for all that one sees; after: called once it is stored. */
export function subscribe(area, after = () => {}) {
  on = { area, after };
  form.reset();
  form.hidden = false;
  get("subscribed").hidden = true;
  get("of-area").textContent = area ? "Of parcels that touch the drawn area, what happens from now on." : "Of all parcels that you see, what happens from now on.";
  wrong({});
  fit();
  dialog.showModal();
}

function fit() {
  const { channel, mode } = form.elements;
  get("to-label").textContent = channel.value === "email" ? "E-mail address" : "Address of the webhook";
  get("to-help").hidden = channel.value === "email";
  get("at-field").hidden = !["daily", "weekly"].includes(mode.value);
  get("zone").textContent = `(${ZONE})`;
}

/** Say at each field what is wrong with it, and lead to the first; what belongs to none stands at the foot. */
function wrong(said) {
  for (const name of FIELDS) {
    const place = get(`problem-${name}`);
    place.textContent = said[name] ?? "";
    place.hidden = !(name in said);
    form.elements[name]?.setAttribute?.("aria-invalid", String(name in said));
  }
  const others = Object.entries(said).filter(([name]) => !FIELDS.includes(name)).map(([, what]) => what);
  get("not-subscribed").textContent = others.join("; ");
  get("not-subscribed").hidden = others.length === 0;
  form.elements[FIELDS.find((name) => name in said)]?.focus?.();
}

function missing() {
  const { name, to, channel, mode, at } = form.elements, said = {};
  if (!name.value.trim()) said.name = "Give it a name, by which you know it again.";
  if (!to.value.trim()) said.to = channel.value === "email" ? "Which address are messages sent to?" : "Which address is called?";
  if (!at.value && ["daily", "weekly"].includes(mode.value)) said.at = "At what time?";
  return said;
}

form.elements.channel.addEventListener("change", () => {
  form.elements.mode.value = form.elements.channel.value === "email" ? "grouped" : "immediate"; // programs gather by themselves
});
form.addEventListener("change", fit);
get("cancel-subscribing").addEventListener("click", () => dialog.close());
get("close-subscribed").addEventListener("click", () => dialog.close());

form.addEventListener("submit", async (event) => {
  event.preventDefault();
  const said = missing();
  wrong(said);
  if (Object.keys(said).length) return;
  const { name, to, channel, mode, at, colours } = form.elements;
  const rules = [...form.querySelectorAll("[name=rules]:checked")].map((one) => one.value);
  const given = { name: name.value.trim(), channel: channel.value, to: to.value.trim(), mode: mode.value };
  if (on.area) given.area = on.area;
  if (rules.length) given.rules = rules;
  if (colours.value) given.colours = [colours.value];
  if (["daily", "weekly"].includes(mode.value)) Object.assign(given, { at: at.value, zone: ZONE });
  get("do-subscribe").disabled = true;
  try {
    const made = await ask("/api/subscriptions", given);
    form.hidden = true;
    get("subscribed-said").textContent = `${made.name}: new alerts go to ${made.address}.`;
    get("signed").hidden = !made.secret;
    get("secret").textContent = made.secret ?? "";
    get("subscribed").hidden = false;
    get("subscribed").focus();
    await on.after();
  } catch (error) {
    if (!(error instanceof Refused)) throw error;
    wrong(error.errors.length ? Object.fromEntries(error.errors.map((one) => [one.at.split(".")[1], one.what])) : { "": error.message });
  } finally {
    get("do-subscribe").disabled = false;
  }
});
