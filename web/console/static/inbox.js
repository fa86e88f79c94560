// The inbox: selecting lines, and deciding on one or many.
import { say } from "./api.js";
import { counted, decide } from "./decide.js";

const get = (id) => document.getElementById(id);
const MOST_ALERTS = 200; // of one decision, as the API takes them
let place = 0; // of the first line that was decided on

const lines = () => [...document.querySelectorAll(".line")];
const picked = () => lines().filter((line) => line.querySelector(".pick")?.checked);
const keysOf = (some) => some.flatMap((line) => line.dataset.keys.split(",").map(Number));

// Filters count as soon as one is changed; without a script by their button.
get("filters").addEventListener("change", () => get("filters").requestSubmit());
get("show").hidden = true;

// By listeners on the section, whose content is replaced after each decision.
get("list").addEventListener("change", (event) => {
  if (event.target.id === "all") for (const one of document.querySelectorAll(".pick")) one.checked = event.target.checked;
  sayPicked();
});
get("list").addEventListener("click", (event) => {
  if (event.target.closest(".decide")) open([event.target.closest(".line")]);
  if (event.target.id === "decide-selected") open(picked());
});

function sayPicked() {
  const n = keysOf(picked()).length;
  if (!get("selected")) return;
  get("selected").textContent = n ? `${counted(n)} selected` : "none selected";
  get("decide-selected").disabled = n === 0;
}

function open(some) {
  const alerts = keysOf(some);
  if (alerts.length > MOST_ALERTS) {
    say(`${alerts.length} alerts are more than one decision takes: select at most ${MOST_ALERTS}`);
    return;
  }
  place = lines().indexOf(some[0]);
  const title = some.length === 1 ? [...some[0].querySelector("h3").childNodes].filter((one) => !one.classList?.contains("light")).map((one) => one.textContent).join("").replace(/\s+/g, " ").trim() : `Decide on ${counted(alerts.length)}`;
  const seen = Object.fromEntries(some.filter((line) => line.dataset.state).map((line) => [line.dataset.keys, line.dataset.state]));
  decide(title, { alerts, seen, after: refresh });
}

/** Put the list as it is now in the place of the one that is shown, and the focus where it was. */
async function refresh() {
  const answer = await fetch(location.href, { credentials: "same-origin" });
  const page = new DOMParser().parseFromString(await answer.text(), "text/html");
  if (!answer.ok || !page.getElementById("list")) {
    location.reload();
    return;
  }
  page.getElementById("show").hidden = true;
  for (const id of ["list", "filters"]) get(id).replaceChildren(...page.getElementById(id).childNodes);
  sayPicked();
  const next = lines()[Math.min(place, lines().length - 1)];
  (next?.querySelector(".decide") ?? get("list-title")).focus();
}
