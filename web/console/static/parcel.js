// The page of a parcel: what is known of it at a time, drawn and written.
import { Refused, ask, make, say } from "./api.js";
import { decide } from "./decide.js";
import { PALETTE, colours, dayNumber, dayText, draw, held, keepFitting, legend, onDays } from "./charts.js";

const get = (id) => document.getElementById(id);
const key = get("parcel").dataset.key;
const MEASURES = { sos: "Start", pos: "Peak", eos: "End" };
const COMPOSITES = { true_colour: "true colour", false_colour: "false colour", radar: "radar" };
const dayInput = get("day"), knownInput = get("known");
let known = null; // what the server said last
let charts = [];
let shown = null; // arrays over days, as drawn

// What was known when ---------------------------------------------------------------------------

const asked = new URL(location).searchParams.get("as_known_at");
let loading = new AbortController();
let bounds = null; // days between which what is known changes

async function load(day) {
  loading.abort();
  loading = new AbortController();
  const at = day === null ? "" : `?as_known_at=${day}T23:59:59.999999Z`;
  get("parcel").setAttribute("aria-busy", "true");
  try {
    known = await ask(`/console/data/parcel/${key}${at}`, undefined, { signal: loading.signal });
  } catch (error) {
    if (error.name === "AbortError") return;
    say(error instanceof Refused ? error.message : "The page has a defect: reload it");
    throw error;
  } finally {
    get("parcel").removeAttribute("aria-busy");
  }
  if (bounds === null) setBounds();
  show(day);
}

function setBounds() {
  if (!known.recorded) return;
  bounds = [dayNumber(known.recorded.first), dayNumber(known.recorded.last)];
  [knownInput.min, knownInput.max] = bounds;
  knownInput.value = bounds[1];
  knownInput.disabled = get("known-now").disabled = false;
}

function sayKnown(day) {
  get("known-day").textContent = day === null ? "now" : `at the end of ${day} (UTC)`;
  knownInput.setAttribute("aria-valuetext", day ?? "now");
  document.querySelector(".known").classList.toggle("past", day !== null);
  get("known-now").hidden = day === null;
}

const chosen = () => (bounds === null || Number(knownInput.value) >= bounds[1] ? null : dayText(Number(knownInput.value)));

let waiting = 0;
knownInput.addEventListener("input", () => {
  sayKnown(chosen());
  clearTimeout(waiting);
  waiting = setTimeout(() => load(chosen()), 200);
});
get("known-now").addEventListener("click", () => {
  knownInput.value = bounds[1];
  knownInput.focus(); // the button goes
  load(null);
});

// Drawing -----------------------------------------------------------------------------------------

function show(day) {
  sayKnown(day);
  const address = new URL(location);
  if (day === null) address.searchParams.delete("as_known_at");
  else address.searchParams.set("as_known_at", day);
  history.replaceState(null, "", address);
  get("declared").textContent = known.parcel.declared ?? "nothing";
  arrange();
  drawAll();
  writeAlerts();
  writePairs();
  writeTable();
  const [first, last] = [shown.first, shown.last];
  [dayInput.min, dayInput.max] = [first, last];
  if (dayInput.disabled) {
    dayInput.disabled = false;
    dayInput.value = shown.newest ?? last;
  }
  look(Number(dayInput.value));
}

/** Put everything on days. */
function arrange() {
  const { parcel, ndvi, s2, s1, posteriors, neighbours } = known;
  const first = dayNumber(parcel.starts_on);
  const days = [...ndvi.day, ...s2.at, ...s1.at].map(dayNumber);
  const last = Math.max(dayNumber(parcel.ends_on), first + 1);
  const on = (at, values) => onDays(first, last, at, values);
  const curve = on(ndvi.day, ndvi.ndvi), sd = on(ndvi.day, ndvi.sd);
  const low = curve.map((one, nr) => (one === null || sd[nr] === null ? null : one - 2 * sd[nr]));
  const high = curve.map((one, nr) => (one === null || sd[nr] === null ? null : one + 2 * sd[nr]));
  const orbits = [...new Set(s1.orbit)].sort().map((orbit) => {
    const of = s1.orbit.map((one, nr) => (one === orbit ? nr : -1)).filter((nr) => nr >= 0);
    const at = of.map((nr) => s1.at[nr]);
    return { orbit, vv: on(at, of.map((nr) => s1.vv[nr])), vh: on(at, of.map((nr) => s1.vh[nr])) };
  });
  shown = {
    first, last, curve, sd, low, high, orbits,
    newest: days.length ? Math.min(last, Math.max(first, ...days)) : null,
    seen: on(s2.at, s2.ndvi),
    band: neighbours && ["lower", "middle", "upper"].map((name) => on(neighbours.day, neighbours[name])),
    crops: crops(posteriors, on),
  };
}

/** Return the likeliest classes, and the rest as one, each with its probability by day. */
function crops(posteriors, on) {
  const most = posteriors.classes.map((name, nr) => ({ name, nr, most: Math.max(0, ...posteriors.probabilities.map((one) => one[nr] ?? 0)) }));
  const named = most.sort((a, b) => b.most - a.most).slice(0, PALETTE.length - 1);
  const found = named.map(({ name, nr }, place) => ({
    name, colour: PALETTE[place], isDeclared: name === known.parcel.declared_class,
    values: held(on(posteriors.at, posteriors.probabilities.map((one) => one[nr] ?? 0))),
  }));
  if (most.length > named.length) {
    const rest = (one) => Math.max(0, 1 - named.reduce((sum, { nr }) => sum + (one[nr] ?? 0), 0));
    found.push({ name: "others", colour: PALETTE.at(-1), isDeclared: false, values: held(on(posteriors.at, posteriors.probabilities.map(rest))) });
  }
  // After the newest posterior nothing is believed yet.
  const end = posteriors.at.length ? dayNumber(posteriors.at.at(-1)) - dayNumber(known.parcel.starts_on) : -1;
  for (const one of found) one.values = one.values.map((value, nr) => (nr > end ? null : value));
  return found;
}

function drawAll() {
  const { ink, quiet, accent, red, yellow, lines } = colours();
  const { first, last } = shown;
  const line = (stroke, width = 2) => ({ stroke, width, points: { show: false } });
  const onDay = (day) => {
    if (isMoved || Number(dayInput.value) === day) return;
    dayInput.value = day;
    look(day, false);
  };
  const common = { first, last, onDay };
  const marks = [
    ...known.phenology.filter((one) => one.day && one.measure in MEASURES).map((one) => ({ from: dayNumber(one.day), text: MEASURES[one.measure].toLowerCase(), colour: quiet, isDashed: true })),
    ...known.markers.flatMap((one) => one.events.filter((event) => event.begin).map((event) => ({ from: dayNumber(event.begin), to: dayNumber(event.end ?? event.begin), text: one.marker.replaceAll("_", " "), colour: quiet }))),
    ...known.alerts.filter((one) => one.departed_on).map((one) => ({ from: dayNumber(one.departed_on), text: `alert: ${one.title}`, colour: one.colour === "red" ? red : yellow })),
  ];
  const until = chosen();
  if (until !== null) marks.push({ from: dayNumber(until), text: "known by then", colour: yellow });
  for (const chart of charts) chart.destroy();
  const bands = [{ series: [2, 3], fill: `${accent}40` }];
  const series = [
    line(accent, 2.5), line("transparent", 0), line("transparent", 0),
    { stroke: ink, fill: ink, width: 0, paths: () => null, points: { show: true, size: 7, fill: ink, stroke: ink } },
  ];
  const columns = [shown.curve, shown.high, shown.low, shown.seen];
  const words = [["reconstructed, with two standard deviations", accent], ["seen from Sentinel-2", ink, "dots"]];
  if (shown.band) {
    series.push(...["transparent", quiet, "transparent"].map((stroke, nr) => ({ ...line(stroke, nr === 1 ? 1.5 : 0), dash: [6, 4], spanGaps: true })));
    columns.push(shown.band[2], shown.band[1], shown.band[0]);
    bands.push({ series: [5, 7], fill: `${quiet}33` });
    words.push([`the middle half of ${known.neighbours.n} parcels of the same crop around, and their median`, quiet, "dashed"]);
  }
  legend(get("ndvi-legend"), words);
  charts = [draw(get("ndvi"), { ...common, series, columns, bands, range: [-0.1, 1], marks, height: 300 })];

  // Stacked: the sum of all first, then without the last, and so on; each covers what is not its own.
  const sums = shown.crops.map((_, nr) => shown.crops[0].values.map((value, day) => (value === null ? null : shown.crops.slice(0, nr + 1).reduce((sum, one) => sum + one.values[day], 0))));
  const stack = shown.crops.map((one) => ({ stroke: one.colour, fill: one.colour, width: 0, paths: uPlot.paths.stepped({ align: 1 }), points: { show: false } }));
  legend(get("crops-legend"), shown.crops.map((one) => [one.name + (one.isDeclared ? " (declared)" : ""), one.colour]));
  charts.push(draw(get("crops"), { ...common, series: stack.reverse(), columns: sums.reverse(), range: [0, 1], height: 200 }));

  const radar = shown.orbits.flatMap((one, nr) => ["vv", "vh"].map((name) => ({ name: `${name.toUpperCase()}, orbit ${one.orbit}`, values: one[name], colour: lines[nr % lines.length], dash: name === "vh" ? [6, 4] : [] })));
  legend(get("radar-legend"), radar.map((one) => [one.name, one.colour, one.dash.length > 0 ? "dashed" : undefined]));
  const values = radar.flatMap((one) => one.values.filter((value) => value !== null));
  charts.push(draw(get("radar"), {
    ...common, series: radar.map((one) => ({ stroke: one.colour, width: 1.5, dash: one.dash, spanGaps: true, points: { show: true, size: 5, fill: one.colour } })), columns: radar.map((one) => one.values),
    range: values.length ? [Math.floor(Math.min(...values) - 1), Math.ceil(Math.max(...values) + 1)] : [-25, -5], height: 220,
  }));
}

// The day looked at -------------------------------------------------------------------------------

let isMoved = false; // by us, and not by a pointer
dayInput.addEventListener("input", () => look(Number(dayInput.value)));

function look(day, movesCursor = true) {
  const nr = day - shown.first;
  const said = [dayText(day)];
  const seen = shown.seen[nr];
  if (seen !== null && seen !== undefined) said.push(`NDVI seen ${seen.toFixed(2)}`);
  if (shown.curve[nr] !== null && shown.curve[nr] !== undefined) said.push(`curve ${shown.curve[nr].toFixed(2)} ± ${(2 * (shown.sd[nr] ?? 0)).toFixed(2)}`);
  for (const one of shown.orbits) if (typeof one.vv[nr] === "number") said.push(`VV ${one.vv[nr].toFixed(1)} dB, VH ${one.vh[nr]?.toFixed(1) ?? "?"} dB (orbit ${one.orbit})`);
  const likely = shown.crops.filter((one) => typeof one.values[nr] === "number").sort((a, b) => b.values[nr] - a.values[nr]);
  said.push(...likely.slice(0, 2).map((one) => `${one.name} ${Math.round(100 * one.values[nr])}%`));
  const text = said.length > 1 ? said.join(" · ") : `${said[0]} · nothing is known of this day`;
  get("readout").textContent = text;
  dayInput.setAttribute("aria-valuetext", text);
  if (movesCursor) requestAnimationFrame(() => { // once a new chart knows its places
    isMoved = true;
    for (const chart of charts) chart.setCursor({ left: chart.valToPos(day * 86400, "x"), top: 10 });
    isMoved = false;
  });
  writePictures(day);
}

/** Show of each kind the picture nearest to the day. */
function writePictures(day) {
  const place = get("pictures");
  const found = Object.keys(COMPOSITES).map((composite) => {
    const own = known.pictures.filter((one) => one.composite === composite && one.url);
    return own.sort((a, b) => Math.abs(dayNumber(a.at) - day) - Math.abs(dayNumber(b.at) - day))[0];
  }).filter(Boolean);
  const wanted = found.map((one) => one.key).join();
  if (place.dataset.shown === wanted && wanted) return;
  place.dataset.shown = wanted;
  if (found.length === 0) {
    const why = known.pictures.find((one) => one.missing)?.missing;
    place.replaceChildren(make("p", { className: "quiet" }, why ? `None: ${why}` : chosen() === null ? "None are stored. They are cut from scenes, of parcels with an alert; what came as messages has none." : "No pictures had been cut by then."));
    return;
  }
  place.replaceChildren(...found.map((one) => {
    const said = `${COMPOSITES[one.composite]}, ${one.at.slice(0, 10)}`;
    const bar = one.bar_m ? `; the bar is ${one.bar_m} m` : "";
    return make("figure", {}, make("img", { src: one.url, alt: `The parcel from above: ${said}` }), make("figcaption", {}, said + bar));
  }));
}

// In words ------------------------------------------------------------------------------------------

function writeAlerts() {
  const place = get("alerts");
  if (known.alerts.length === 0) {
    place.replaceChildren(make("p", {}, "None: nothing departs from what was declared."));
    return;
  }
  place.replaceChildren(...known.alerts.map((one) => {
    const log = make("ol", {}, ...one.log.map((entry) => make("li", {}, `${entry.at.slice(0, 10)} ${entry.event} by ${entry.by}${entry.why ? `: ${entry.why}` : ""}`)));
    const button = get("decision") && chosen() === null ? make("button", { type: "button", className: "noprint first", ariaLabel: `Decide on alert ${one.key}` }, "Decide") : null;
    button?.addEventListener("click", () => decide(`Alert ${one.key}: ${one.title}`, { alerts: [one.key], seen: { [one.key]: one.state.replaceAll(" ", "_") }, after: () => load(null) }));
    return make("article", { className: "alert" },
      make("h3", {}, make("span", { className: `light ${one.colour}` }, one.colour), `Alert ${one.key}: ${one.title}`, make("span", { className: "light grey" }, one.state)),
      make("p", {}, one.why),
      make("details", {}, make("summary", {}, `What happened to it (${one.log.length})`), log),
      make("div", { className: "row noprint" }, button, make("a", { className: "button", href: `/api/alerts/${one.key}/bundle.pdf`, download: "" }, "Evidence (PDF)")));
  }));
}

function writePairs() {
  const dates = known.phenology.filter((one) => one.measure in MEASURES && one.day);
  fill("phenology", dates.map((one) => [MEASURES[one.measure], one.day + uncertainty(one.sd)]), "Not certain yet.");
  fill("markers", known.markers.map((one) => {
    const events = one.events.filter((event) => event.best ?? event.begin).map((event) => `${event.best ?? event.begin}${event.confidence ? ` (${Math.round(100 * event.confidence)}% sure)` : ""}`);
    return [one.marker.replaceAll("_", " "), one.says ?? (events.length ? events.join(", ") : one.day ?? "not seen")];
  }), "Nothing yet.");
}

/** Say how sure a date is; beyond two months it says nothing about the season. */
function uncertainty(sd) {
  if (!sd) return "";
  return 2 * sd > 60 ? " (very uncertain: the curve hardly shows it)" : `, give or take ${Math.round(2 * sd)} days`;
}

function fill(id, pairs, otherwise) {
  get(id).replaceChildren(...(pairs.length ? pairs : [["-", otherwise]]).flatMap(([name, text]) => [make("dt", {}, name), make("dd", {}, text)]));
}

function writeTable() {
  if (!get("figures").open) return;
  const rows = [];
  for (let nr = 0; nr <= shown.last - shown.first; nr++) {
    const radar = shown.orbits.filter((one) => typeof one.vv[nr] === "number").map((one) => `${one.vv[nr].toFixed(1)} / ${one.vh[nr]?.toFixed(1) ?? "?"}, ${one.orbit}`);
    if (shown.seen[nr] === null && radar.length === 0) continue;
    const likely = shown.crops.filter((one) => typeof one.values[nr] === "number").sort((a, b) => b.values[nr] - a.values[nr])[0];
    const curve = shown.curve[nr] === null ? "" : `${shown.curve[nr].toFixed(2)} ± ${(2 * (shown.sd[nr] ?? 0)).toFixed(2)}`;
    rows.push(make("tr", {}, make("th", { scope: "row" }, dayText(shown.first + nr)), make("td", { className: "n" }, shown.seen[nr]?.toFixed(2) ?? ""), make("td", { className: "n" }, curve),
      make("td", {}, radar.join("; ")), make("td", {}, likely ? `${likely.name} ${Math.round(100 * likely.values[nr])}%` : "")));
  }
  get("rows").replaceChildren(...rows);
}
get("figures").addEventListener("toggle", writeTable);
addEventListener("beforeprint", () => { get("figures").open = true; });

keepFitting(get("ndvi"), () => known && (drawAll(), look(Number(dayInput.value))));
await load(null);
if (/^\d{4}-\d\d-\d\d$/.test(asked ?? "") && bounds && dayNumber(asked) < bounds[1]) {
  knownInput.value = dayNumber(asked);
  await load(chosen());
}
