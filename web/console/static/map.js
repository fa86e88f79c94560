// The map: parcels by light or crop as known on a day, the list of what it shows, and areas.
import { Refused, ask, make, say } from "./api.js";
import { subscribe } from "./subscribe.js";

const get = (id) => document.getElementById(id);
const { collection, season, first, last, worker } = get("map-page").dataset;
const OF_SEASON = `${encodeURIComponent(collection)}/${encodeURIComponent(season)}`;
// Okabe and Ito for lights; Tol's "muted" for crops; greys for what is not known.
const LIGHTS = [
  ["red", "#d55e00", "Red: departs"],
  ["yellow", "#f0e442", "Yellow: may depart"],
  ["suppressed", "#cc79a7", "Departs in a window without alerts"],
  ["green", "#009e73", "Green: in order"],
  ["not_valid", "#8c8c8c", "Could not be decided"],
  ["not_executed", "#c9c9c9", "Not judged yet"],
];
const CROPS = ["#332288", "#ddcc77", "#117733", "#cc6677", "#88ccee", "#882255", "#44aa99", "#999933", "#aa4499"];
// Shares of parcels that depart: from each on. ColorBrewer's "Oranges" after a grey green.
const SHARES = [[0, "#a9cdbd", "none"], [0.0001, "#fdd0a2", "up to 5 %"], [0.05, "#fdae6b", "5 to 10 %"], [0.1, "#e6550d", "10 to 25 %"], [0.25, "#8c2d04", "25 % or more"]];
const OTHER = "#8c8c8c", NONE = "#c9c9c9";
const LIST = 50;
const CELLS_TO = 10; // the zoom to which tiles hold cells
const isDark = matchMedia("(prefers-color-scheme: dark)");
const style = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

// What is asked for -----------------------------------------------------------------------------

const DAY_MS = 86400000;
const firstDay = Date.parse(first), days = Math.max(0, Math.round((Date.parse(last) - firstDay) / DAY_MS));
const weeks = Math.ceil(days / 7);
const day = get("day"), by = get("by");
day.max = weeks + 1; // one further is now
const dayText = (week) => new Date(firstDay + Math.min(week * 7, days) * DAY_MS).toISOString().slice(0, 10);
const on = () => (Number(day.value) > weeks ? null : dayText(Number(day.value)));
const address = new URL(location);
by.value = ["light", "declared", "likeliest"].includes(address.searchParams.get("by")) ? address.searchParams.get("by") : "light";
const asked = Date.parse(address.searchParams.get("on") ?? "");
day.value = Number.isNaN(asked) ? weeks + 1 : Math.max(0, Math.min(weeks, Math.round((asked - firstDay) / DAY_MS / 7)));

let area = null; // GeoJSON of the polygon that parcels must touch
let only = null; // the name that was chosen in the legend
let begins = ""; // of an id
let region = address.searchParams.get("region"); // that was chosen; null: the page opens on what can be seen best

function remember() {
  address.search = new URLSearchParams({ collection, season, ...(by.value === "light" ? {} : { by: by.value }), ...(on() ? { on: on() } : {}), ...(region === null ? {} : { region }) });
  history.replaceState(null, "", address);
}

function sayDay() {
  get("day-said").textContent = on() === null ? "now" : `at the end of ${on()} (UTC)`;
  day.setAttribute("aria-valuetext", on() ?? "now");
}

// The map ---------------------------------------------------------------------------------------

let map = null;
let colours = new Map(); // name of a light or crop -> colour

function tiles() {
  return [`${location.origin}/api/tiles/${OF_SEASON}/{z}/{x}/{y}.mvt${on() ? `?on=${on()}` : ""}`];
}

function fill() {
  const known = [...colours].filter(([name]) => name !== "");
  return known.length ? ["match", ["coalesce", ["get", by.value], ""], ...known.flat(), "", colours.get("") ?? NONE, OTHER] : NONE;
}

function cellFill() {
  if (by.value !== "light") return fill();
  const share = ["/", ["+", ["get", "red"], ["get", "yellow"]], ["get", "n"]];
  return ["step", share, SHARES[0][1], ...SHARES.slice(1).flatMap(([from, colour]) => [from, colour])];
}

function filters() {
  if (only === null) return { parcels: null, cells: null };
  const chosen = ["==", ["coalesce", ["get", by.value], ""], only];
  const counted = { red: [">", ["get", "red"], 0], yellow: [">", ["get", "yellow"], 0], green: [">", ["get", "green"], 0] };
  return { parcels: chosen, cells: by.value === "light" ? counted[only] ?? null : chosen };
}

// Regions: where the map opens ------------------------------------------------------------------

const mercator = (latitude) => Math.log(Math.tan(Math.PI / 4 + (latitude * Math.PI) / 360)) / (2 * Math.PI);

/** Return at which zoom a box fills the map. */
function zoomOf([west, south, east, north]) {
  const { clientWidth, clientHeight } = get("map");
  return Math.log2(Math.min((clientWidth - 60) / (east - west) * 360, (clientHeight - 60) / (mercator(north) - mercator(south))) / 512);
}

/** Return the region to open on: the one asked for, or where all of them together are too far out to see a parcel, the one with most that depart. */
function opening({ regions, box }) {
  const seen = regions.filter((one) => one.box), departing = ({ lights }) => (lights.red ?? 0) + (lights.yellow ?? 0);
  if (region !== null) return seen.find((one) => one.region === region);
  if (seen.length < 2 || zoomOf(box) >= CELLS_TO + 1) return undefined;
  return seen.reduce((most, one) => (departing(one) > departing(most) ? one : most));
}

function offerRegions({ regions }, chosen) {
  get("region-field").hidden = regions.length < 2;
  get("region").replaceChildren(make("option", { value: "" }, "all"), ...regions.map((one) => make("option", { value: one.region }, one.region)));
  get("region").value = chosen?.region ?? "";
}

get("region").addEventListener("change", () => {
  region = get("region").value;
  remember();
  map?.fitBounds(shown.regions.find((one) => one.region === region)?.box ?? shown.box, { padding: 30, animate: false, maxZoom: 15 });
});

function makeMap(box) {
  maplibregl.setWorkerUrl(worker);
  const ink = style("--ink");
  map = new maplibregl.Map({
    container: "map", bounds: box, fitBoundsOptions: { padding: 30, animate: false, maxZoom: 15 }, attributionControl: false, maxZoom: 18,
    fadeDuration: 0, dragRotate: false, pitchWithRotate: false,
    style: {
      version: 8,
      sources: {
        parcels: { type: "vector", tiles: tiles(), minzoom: 0, maxzoom: 14 },
        drawn: { type: "geojson", data: { type: "FeatureCollection", features: [] } },
      },
      layers: [
        { id: "ground", type: "background", paint: { "background-color": style("--surface") } },
        { id: "cells", type: "fill", source: "parcels", "source-layer": "cells", maxzoom: CELLS_TO + 1, paint: { "fill-color": cellFill() } },
        { id: "parcels", type: "fill", source: "parcels", "source-layer": "parcels", paint: { "fill-color": fill(), "fill-opacity": 0.85 } },
        { id: "edges", type: "line", source: "parcels", "source-layer": "parcels", minzoom: 12, paint: { "line-color": ink, "line-width": 0.5 } },
        { id: "departing", type: "line", source: "parcels", "source-layer": "parcels", minzoom: 12, filter: ["==", ["get", "light"], "red"], paint: { "line-color": ink, "line-width": 2 } },
        { id: "chosen", type: "line", source: "parcels", "source-layer": "parcels", filter: ["==", ["id"], -1], paint: { "line-color": style("--link"), "line-width": 4 } },
        { id: "area", type: "fill", source: "drawn", filter: ["==", ["geometry-type"], "Polygon"], paint: { "fill-color": style("--link"), "fill-opacity": 0.12 } },
        { id: "area-edge", type: "line", source: "drawn", paint: { "line-color": style("--link"), "line-width": 2, "line-dasharray": [2, 1] } },
        { id: "corners", type: "circle", source: "drawn", filter: ["==", ["geometry-type"], "Point"], paint: { "circle-color": style("--link"), "circle-radius": 5 } },
      ],
    },
  });
  map.touchZoomRotate.disableRotation();
  map.keyboard.disableRotation();
  map.addControl(new maplibregl.NavigationControl({ showCompass: false }), "top-right");
  map.addControl(new maplibregl.ScaleControl(), "bottom-left");
  const canvas = map.getCanvas();
  canvas.setAttribute("aria-label", "Map: arrow keys move it, plus and minus zoom");
  map.on("idle", () => get("map").removeAttribute("aria-busy"));
  map.on("moveend", () => {
    sayCells();
    if (!area && !begins) list();
  });
  map.on("click", clicked);
  map.on("error", (event) => say(event.error?.message ? `The map: ${event.error.message}` : "A part of the map could not be loaded"));
  for (const layer of ["parcels", "cells"]) {
    map.on("mouseenter", layer, () => (canvas.style.cursor = corners ? "" : "pointer"));
    map.on("mouseleave", layer, () => (canvas.style.cursor = ""));
  }
}

function repaint() {
  if (!map?.getLayer("parcels")) return;
  const ink = style("--ink"), link = style("--link"), { parcels, cells } = filters();
  map.setPaintProperty("ground", "background-color", style("--surface"));
  map.setPaintProperty("parcels", "fill-color", fill());
  map.setPaintProperty("cells", "fill-color", cellFill());
  for (const layer of ["edges", "departing"]) map.setPaintProperty(layer, "line-color", ink);
  for (const layer of ["chosen", "area-edge"]) map.setPaintProperty(layer, "line-color", link);
  map.setFilter("parcels", parcels);
  map.setFilter("edges", parcels);
  map.setFilter("cells", cells);
}
isDark.addEventListener("change", repaint);

function clicked(event) {
  if (corners) {
    corners.push([event.lngLat.lng, event.lngLat.lat]);
    drawArea();
    return;
  }
  const [found] = map.queryRenderedFeatures(event.point, { layers: ["parcels", "cells"] });
  if (found?.layer.id === "cells") map.easeTo({ center: event.lngLat, zoom: Math.min(map.getZoom() + 2, 13) });
  else if (found) choose({ ...found.properties, parcel_key: found.id });
}

// Numbers ---------------------------------------------------------------------------------------

const grouped = new Intl.NumberFormat("en").format;

function swatch(colour) {
  const [drawn, box] = ["svg", "rect"].map((name) => document.createElementNS("http://www.w3.org/2000/svg", name));
  for (const [key, value] of Object.entries({ width: "100%", height: "100%", fill: colour })) box.setAttribute(key, value);
  drawn.setAttribute("aria-hidden", "true");
  drawn.append(box);
  return drawn;
}

function sayCells() {
  get("cells-legend").hidden = by.value !== "light" || !map || map.getZoom() >= CELLS_TO + 1;
}
get("shares").replaceChildren(...SHARES.map(([, colour, said]) => make("li", {}, swatch(colour), said)));

function legend(shown) {
  const rows = by.value === "light"
    ? LIGHTS.map(([name, colour, said]) => ({ name, colour, said, n: shown.lights[name] ?? 0 })).filter((row) => row.n > 0)
    : crops(shown[by.value]);
  colours = new Map(by.value === "light" ? LIGHTS.map(([name, colour]) => [name, colour]) : rows.filter((row) => row.name !== null).map((row) => [row.name, row.colour]));
  get("legend-title").textContent = by.selectedOptions[0].textContent.replace(/^./, (letter) => letter.toUpperCase());
  get("total").textContent = `${grouped(shown.parcels)} parcels in ${shown.regions.length === 1 ? `region ${shown.regions[0].region}` : `${shown.regions.length} regions`}; choose a line to see those alone`;
  sayCells();
  get("legend").replaceChildren(...rows.map((row) => {
    const button = make("button", { type: "button", disabled: row.name === null }, swatch(row.colour), make("span", {}, row.said), make("span", { className: "n" }, grouped(row.n)));
    button.setAttribute("aria-pressed", String(only === row.name && only !== null));
    button.addEventListener("click", () => {
      only = only === row.name ? null : row.name;
      for (const one of get("legend").querySelectorAll("button")) one.setAttribute("aria-pressed", String(one === button && only !== null));
      repaint();
      list();
    });
    return make("li", {}, button);
  }));
}

function crops(counts) {
  const named = counts.filter((one) => one.crop !== null), none = counts.find((one) => one.crop === null);
  const rows = named.slice(0, CROPS.length).map((one, nr) => ({ name: one.crop, colour: CROPS[nr], said: one.crop, n: one.parcels }));
  const others = named.slice(CROPS.length).reduce((sum, one) => sum + one.parcels, 0);
  if (others) rows.push({ name: null, colour: OTHER, said: "other crops", n: others });
  if (none) rows.push({ name: "", colour: NONE, said: by.value === "declared" ? "nothing declared" : "not known", n: none.parcels });
  return rows;
}

let loading = new AbortController();
let shown = null;

async function load() {
  loading.abort();
  loading = new AbortController();
  sayDay();
  remember();
  get("map").setAttribute("aria-busy", "true");
  const query = on() ? `?on=${on()}` : "";
  try {
    shown = await ask(`/api/map/${OF_SEASON}${query}`, undefined, { signal: loading.signal });
  } catch (error) {
    if (error.name === "AbortError") return;
    say(error instanceof Refused ? error.message : "The page has a defect: reload it");
    throw error;
  }
  if (only !== null && by.value === "light" && !(only in shown.lights)) only = null;
  legend(shown);
  if (map === null && shown.box) {
    const chosen = opening(shown);
    offerRegions(shown, chosen);
    try {
      makeMap(chosen?.box ?? shown.box);
    } catch (error) {
      get("map").hidden = true;
      get("map-problem").hidden = false;
      get("map").removeAttribute("aria-busy");
    }
  } else if (map) {
    map.getSource("parcels").setTiles(tiles());
    repaint();
  }
  sayCells();
  list();
}

// The list --------------------------------------------------------------------------------------

let listing = new AbortController();
let next = null;

function which() {
  const asked = new URLSearchParams({ limit: String(LIST) });
  if (on()) asked.set("on", on());
  if (only) asked.set(by.value, only);
  if (begins) asked.set("source_id", begins);
  else if (area) asked.set("area", JSON.stringify(area));
  else if (map) {
    const box = map.getBounds();
    asked.set("bbox", [Math.max(box.getWest(), -180), Math.max(box.getSouth(), -90), Math.min(box.getEast(), 180), Math.min(box.getNorth(), 90)].join(","));
  }
  return asked;
}

async function list(address = `/api/map/${OF_SEASON}/parcels?${which()}`, isMore = false) {
  listing.abort();
  listing = new AbortController();
  let found;
  try {
    found = await ask(address, undefined, { signal: listing.signal });
  } catch (error) {
    if (error.name === "AbortError") return null;
    get("list-said").textContent = error instanceof Refused ? error.message : "The page has a defect: reload it";
    return null;
  }
  next = found.next;
  const rows = found.parcels.map((one) => {
    const show = make("button", { type: "button" }, "Show", make("span", { className: "unseen" }, ` parcel ${one.source_id} on the map`));
    show.addEventListener("click", () => choose(one, true));
    const row = make("tr", {},
      make("td", {}, make("a", { href: parcelPage(one.parcel_key) }, one.source_id), " ", lightOf(one.light)), make("td", {}, one.declared ?? ""), make("td", {}, likely(one)), make("td", {}, show));
    row.dataset.key = one.parcel_key;
    return row;
  });
  if (isMore) get("list").append(...rows);
  else get("list").replaceChildren(...rows);
  get("more").hidden = next === null;
  get("list-title").textContent = begins ? `Parcels whose id begins with ${begins}` : area ? "Parcels in the area" : "Parcels in view";
  const n = get("list").childElementCount;
  get("list-said").textContent = n === 0 ? "None." : `${n}${next ? ", and there are more" : ""}.`;
  return found.parcels;
}
get("more").addEventListener("click", async () => {
  const before = get("list").childElementCount;
  await list(next, true);
  get("list").children[before]?.querySelector("a")?.focus();
});

const parcelPage = (key) => `/console/parcel/${encodeURIComponent(key)}${on() ? `?as_known_at=${on()}` : ""}`;
const likely = (one) => (one.likeliest ? `${one.likeliest}${one.probability == null ? "" : ` (${Math.round(one.probability * 100)} %)`}` : "");

function lightOf(name) {
  const said = { red: "red", yellow: "yellow", green: "green", suppressed: "suppressed", not_valid: "undecided", not_executed: "not judged" };
  return make("span", { className: `light ${["red", "yellow", "green"].includes(name) ? name : "grey"}` }, said[name] ?? name);
}

function choose(one, isMoving = false) {
  get("chosen").hidden = false;
  get("chosen-title").textContent = `Parcel ${one.source_id}`;
  const facts = [["Status", lightOf(one.light)], ["Declared", one.declared ?? "nothing"], ["Likeliest", likely(one) || "not known"]];
  if (one.region) facts.push(["Region", one.region]);
  get("chosen-facts").replaceChildren(...facts.map(([name, value]) => make("div", {}, make("dt", {}, name), make("dd", {}, value))));
  get("chosen-link").href = parcelPage(one.parcel_key);
  for (const row of get("list").children) row.toggleAttribute("aria-current", row.dataset.key === String(one.parcel_key));
  map?.setFilter("chosen", ["==", ["id"], Number(one.parcel_key)]);
  if (isMoving) {
    map?.fitBounds(one.box, { padding: 80, maxZoom: 15, animate: !matchMedia("(prefers-reduced-motion: reduce)").matches });
    get("chosen").focus();
  }
}

get("season").addEventListener("submit", async (event) => {
  event.preventDefault();
  begins = get("id-begins").value.trim();
  const found = await list();
  if (!begins || !found) return;
  if (found.length === 0) say(`No parcel's id begins with ${begins}`);
  else choose(found.find((one) => one.source_id === begins) ?? found[0], true);
});
get("id-begins").addEventListener("input", () => {
  if (get("id-begins").value === "" && begins) {
    begins = "";
    list();
  }
});
get("which").addEventListener("change", () => {
  const { collection, season } = get("which").selectedOptions[0].dataset;
  location.assign(`/console/map?${new URLSearchParams({ collection, season })}`);
});
by.addEventListener("change", () => {
  only = null;
  remember();
  if (shown) legend(shown);
  repaint();
  list();
});
let waiting = 0;
day.addEventListener("input", () => {
  sayDay();
  clearTimeout(waiting);
  waiting = setTimeout(load, 250);
});

// Areas -----------------------------------------------------------------------------------------

let corners = null; // of an area that is being drawn

function drawArea() {
  const features = [];
  const feature = (type, coordinates) => features.push({ type: "Feature", properties: {}, geometry: { type, coordinates } });
  if (corners) {
    for (const corner of corners) feature("Point", corner);
    if (corners.length > 1) feature("LineString", corners.length > 2 ? [...corners, corners[0]] : corners);
  } else if (area) features.push({ type: "Feature", properties: {}, geometry: area });
  map?.getSource("drawn").setData({ type: "FeatureCollection", features });
  get("undo").disabled = !corners?.length;
  get("close-area").disabled = (corners?.length ?? 0) < 3;
  get("undo").hidden = get("close-area").hidden = corners === null;
  get("subscribe").hidden = get("clear").hidden = !area || corners !== null;
  get("draw").textContent = corners ? "Give up" : area ? "Draw another" : "Draw an area";
  get("draw").setAttribute("aria-pressed", String(corners !== null));
  get("draw-help").hidden = corners === null;
  get("map").classList.toggle("drawing", corners !== null);
}

const rounded = (corner) => corner.map((value) => Math.round(value * 1e6) / 1e6);

function setArea(polygon) {
  area = polygon;
  corners = null;
  drawArea();
  return list();
}

get("draw").addEventListener("click", () => {
  corners = corners ? null : [];
  drawArea();
  if (corners) get("map").scrollIntoView({ block: "nearest" });
});
get("undo").addEventListener("click", () => {
  corners.pop();
  drawArea();
});
get("close-area").addEventListener("click", () => {
  const ring = [...corners, corners[0]].map(rounded);
  get("area-text").value = JSON.stringify({ type: "Polygon", coordinates: [ring] });
  setArea({ type: "Polygon", coordinates: [ring] });
  get("subscribe").focus(); // the button that was pressed is gone
});
get("clear").addEventListener("click", () => {
  get("area-text").value = "";
  setArea(null);
  get("draw").focus();
});
document.addEventListener("keydown", (event) => {
  if (event.key === "Escape" && corners) {
    corners = null;
    drawArea();
  }
});

/** Return the polygon that is written, of a box or GeoJSON; throw Refused where it is none. */
function written() {
  const text = get("area-text").value.trim();
  const numbers = text.split(/[\s,]+/).map(Number);
  if (numbers.length === 4 && numbers.every(Number.isFinite)) {
    const [west, south, east, north] = numbers;
    if (!(west < east && south < north && west >= -180 && east <= 180 && south >= -90 && north <= 90)) throw new Refused("A box is west, south, east, north: in degrees, west before east and south before north");
    return { type: "Polygon", coordinates: [[[west, south], [east, south], [east, north], [west, north], [west, south]]] };
  }
  let given;
  try {
    given = JSON.parse(text);
  } catch {
    throw new Refused("That is neither four numbers nor GeoJSON");
  }
  const polygon = given?.type === "FeatureCollection" && given.features?.length === 1 ? given.features[0].geometry : given?.type === "Feature" ? given.geometry : given;
  if (!["Polygon", "MultiPolygon"].includes(polygon?.type)) throw new Refused("The GeoJSON has to be one Polygon or MultiPolygon");
  return polygon;
}

get("use-area").addEventListener("click", async () => {
  try {
    const found = await setArea(written());
    if (found === null) {
      say(get("list-said").textContent);
      return;
    }
    const points = area.coordinates.flat(area.type === "Polygon" ? 1 : 2), xs = points.map((point) => point[0]), ys = points.map((point) => point[1]);
    map?.fitBounds([Math.min(...xs), Math.min(...ys), Math.max(...xs), Math.max(...ys)], { padding: 40, maxZoom: 15, animate: false });
    get("list-title").scrollIntoView({ block: "nearest" });
  } catch (error) {
    if (!(error instanceof Refused)) throw error;
    say(error.message);
  }
});

get("subscribe").addEventListener("click", () => subscribe(area));

/** Show the area that the address brings, as the page of subscriptions leads to it. */
function showGiven() {
  const given = new URLSearchParams(location.hash.slice(1)).get("area");
  if (given === null) return;
  get("area-text").value = given;
  get("use-area").click();
}

if (typeof maplibregl === "undefined") {
  get("map").hidden = true;
  get("map-problem").hidden = false;
}
load().then(() => (map ? map.once("load", showGiven) : showGiven()));
