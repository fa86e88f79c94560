// The blind review: one parcel after the other, what was seen of it and what the reviewer says.
import { Refused, ask, make, say } from "./api.js";
import { colours, dayNumber, dayText, draw, keepFitting, legend, onDays } from "./charts.js";

const get = (id) => document.getElementById(id);
const sample = get("review").dataset.sample;
const form = get("verdict");
let item = null;
let charts = [];

async function next() {
  try {
    item = await ask(`/api/quality/samples/${sample}/next`);
  } catch (error) {
    if (!(error instanceof Refused)) throw error;
    item = null;
    get("item").hidden = true;
    get("left").textContent = "Nothing of this sample is left for you. Thank you.";
    return;
  }
  get("item").hidden = false;
  get("left").textContent = item.n_left === 1 ? "This is the last parcel that waits for your verdict." : `${item.n_left} parcels wait for your verdict.`;
  form.reset();
  fit();
  const facts = [["Parcel", item.parcel], ["Declared", item.declared_crop ?? "nothing"], ["Area", item.area_ha === null ? "not known" : `${item.area_ha.toFixed(2)} ha`], ["Where", item.latitude === null ? "not known" : `${item.latitude.toFixed(4)} N, ${item.longitude.toFixed(4)} E`]];
  get("facts").replaceChildren(...facts.map(([name, text]) => make("div", {}, make("dt", {}, name), make("dd", {}, text))));
  const pictures = item.pictures.map((one) => make("figure", {}, make("img", { src: one.png, alt: `The parcel from above: ${one.caption}` }), make("figcaption", {}, one.caption)));
  get("pictures").replaceChildren(...(pictures.length ? pictures : [make("p", { className: "quiet" }, "None are stored.")]));
  drawAll();
  writeTable();
}

function drawAll() {
  const { ink, accent, lines } = colours();
  for (const chart of charts) chart.destroy();
  charts = [];
  const of = (kind) => item.observed.filter((one) => one.kind === kind);
  const days = item.observed.map((one) => dayNumber(one.at));
  if (days.length === 0) {
    get("readout").textContent = "Nothing was observed.";
    return;
  }
  const first = Math.min(...days), last = Math.max(first + 1, ...days);
  const on = (rows, name) => onDays(first, last, rows.map((one) => one.at), rows.map((one) => one[name]));
  const seen = on(of("s2"), "ndvi"), curve = on(of("ndvi"), "ndvi"), sd = on(of("ndvi"), "ndvi_sd");
  const off = (factor) => curve.map((one, nr) => (one === null || sd[nr] === null ? null : one + factor * sd[nr]));
  const line = (stroke, width) => ({ stroke, width, points: { show: false } });
  const orbits = [...new Set(of("s1").map((one) => one.relative_orbit))].sort((a, b) => a - b);
  const radar = orbits.flatMap((orbit, nr) => ["vv", "vh"].map((name) => ({ name: `${name.toUpperCase()}, orbit ${orbit}`, values: on(of("s1").filter((one) => one.relative_orbit === orbit), `${name}_db`), colour: lines[nr % lines.length], dash: name === "vh" ? [6, 4] : [] })));
  const onDay = (day) => {
    const nr = day - first;
    const said = [dayText(day)];
    if (seen[nr] !== null) said.push(`NDVI seen ${seen[nr].toFixed(2)}`);
    if (curve[nr] !== null) said.push(`curve ${curve[nr].toFixed(2)} ± ${(2 * (sd[nr] ?? 0)).toFixed(2)}`);
    for (const one of radar) if (one.values[nr] !== null) said.push(`${one.name}: ${one.values[nr].toFixed(1)} dB`);
    get("readout").textContent = said.join(" · ");
  };
  legend(get("ndvi-legend"), [["reconstructed, with two standard deviations", accent], ["seen from Sentinel-2", ink, "dots"]]);
  charts.push(draw(get("ndvi"), {
    first, last, onDay, range: [-0.1, 1], height: 280, columns: [curve, off(2), off(-2), seen], bands: [{ series: [2, 3], fill: `${accent}40` }],
    series: [line(accent, 2.5), line("transparent", 0), line("transparent", 0), { stroke: ink, width: 0, paths: () => null, points: { show: true, size: 7, fill: ink, stroke: ink } }],
  }));
  legend(get("radar-legend"), radar.map((one) => [one.name, one.colour, one.dash.length > 0 ? "dashed" : undefined]));
  const values = radar.flatMap((one) => one.values.filter((value) => value !== null));
  charts.push(draw(get("radar"), {
    first, last, onDay, height: 200, columns: radar.map((one) => one.values), range: values.length ? [Math.floor(Math.min(...values) - 1), Math.ceil(Math.max(...values) + 1)] : [-25, -5],
    series: radar.map((one) => ({ stroke: one.colour, width: 1.5, dash: one.dash, spanGaps: true, points: { show: true, size: 5, fill: one.colour } })),
  }));
}

function writeTable() {
  const number = (value, digits) => make("td", { className: "n" }, value === null ? "" : value.toFixed(digits));
  get("rows").replaceChildren(...item.observed.filter((one) => one.kind !== "ndvi").map((one) => make("tr", {}, make("th", { scope: "row" }, one.at.slice(0, 10)), number(one.ndvi, 2), number(one.vv_db, 1), number(one.vh_db, 1))));
}

function fit() {
  const isNeeded = !["", "as_declared"].includes(form.elements.verdict.value);
  get("reason").required = isNeeded;
  get("may").hidden = isNeeded;
}

form.addEventListener("change", fit);
form.addEventListener("submit", async (event) => {
  event.preventDefault();
  const given = { item: item.item, verdict: form.elements.verdict.value };
  if (get("reason").value.trim()) given.reason = get("reason").value.trim();
  get("refused").hidden = true;
  try {
    await ask(`/api/quality/samples/${sample}/verdicts`, given);
    say(`Recorded of parcel ${item.parcel}`);
    await next();
    get("title").focus();
    scrollTo({ top: 0 });
  } catch (error) {
    if (!(error instanceof Refused)) throw error;
    get("refused").textContent = error.message;
    get("refused").hidden = false;
  }
});

keepFitting(get("review"), () => item && drawAll());
await next();
