// Curves by uPlot on one axis of days: all charts of a page share their days, their cursor and their colours.
import { make } from "./api.js";

const DAY_S = 86400;
const AXIS = 44, RIGHT = 24, LINE = 14; // pixels: of the axis of values, right of the plot, and of a line of texts above it
const FONT = "px system-ui, sans-serif";
/** Eight colours that people with any colour vision tell apart (Okabe and Ito 2008); the last is for the rest. */
export const PALETTE = ["#e69f00", "#56b4e9", "#009e73", "#f0e442", "#0072b2", "#d55e00", "#cc79a7", "#999999"];

export const dayNumber = (text) => Math.floor(Date.parse(text) / 1000 / DAY_S);
export const dayText = (number) => new Date(number * DAY_S * 1000).toISOString().slice(0, 10);

/** Return an array over days (first to last) with each value at its day: the last one of a day counts. */
export function onDays(first, last, days, values) {
  const out = new Array(last - first + 1).fill(null);
  days.forEach((day, nr) => {
    const at = dayNumber(day) - first;
    if (at >= 0 && at < out.length && values[nr] !== null) out[at] = values[nr];
  });
  return out;
}

/** Return the values with each one held until the next. */
export function held(values) {
  let last = null;
  return values.map((one) => (last = one ?? last));
}

/** Return the colours of the page as they are now, light or dark: six digits each, so that two more make them lighter. */
export function colours() {
  const style = getComputedStyle(document.documentElement);
  const of = (name) => style.getPropertyValue(`--${name}`).trim();
  return { ink: of("ink"), quiet: of("quiet"), line: of("line"), accent: of("accent"), red: of("red"), yellow: of("yellow"), lines: ["blue", "orange", "teal", "pink"].map(of) };
}

/**
 * Draw a chart into an element and return it.
 * series: uPlot's; columns: one array over the days for each; marks: [{from, to, text, colour, isArea}] in day numbers.
 */
export function draw(element, { first, last, series, columns, bands = [], range, marks = [], height = 220, onDay }) {
  const { ink, quiet, line } = colours();
  const x = Array.from({ length: last - first + 1 }, (_, nr) => (first + nr) * DAY_S);
  const axis = { stroke: quiet, grid: { stroke: line, width: 1 }, ticks: { stroke: line, width: 1 }, font: `12${FONT}` };
  const width = Math.max(200, element.clientWidth);
  const placed = inLines(marks.filter((mark) => mark.from >= first && mark.from <= last), first, (width - AXIS - RIGHT) / (last - first), width - AXIS - RIGHT);
  const above = LINE * Math.max(0, ...placed.map((mark) => mark.line + 1));
  const options = {
    width,
    height: height + above,
    padding: [8 + above, RIGHT, 0, 0],
    tzDate: (seconds) => uPlot.tzDate(new Date(seconds * 1000), "Etc/UTC"),
    scales: { x: { time: true, range: [x[0], x.at(-1)] }, y: { range } },
    axes: [
      { ...axis, values: (_, splits) => splits.map((s) => new Date(s * 1000).toLocaleDateString("en-GB", { day: "numeric", month: "short", timeZone: "UTC" })), space: 60 },
      { ...axis, size: AXIS },
    ],
    series: [{}, ...series],
    bands,
    legend: { show: false },
    cursor: { y: false, drag: { x: false, y: false }, points: { show: false }, sync: { key: "days", setSeries: false } },
    hooks: {
      draw: [(chart) => drawMarks(chart, placed, above, ink)],
      setCursor: [(chart) => chart.cursor.left >= 0 && typeof chart.cursor.idx === "number" && onDay(first + chart.cursor.idx)],
    },
  };
  element.replaceChildren();
  const chart = new uPlot(options, [x, ...columns], element);
  return chart;
}

/** Give the text of each mark a line above the plot and a place in it (pixels from the plot's left), so that none covers another or a curve. */
function inLines(marks, first, dayWidth, plotWidth) {
  const ctx = document.createElement("canvas").getContext("2d");
  ctx.font = `11${FONT}`;
  const ends = []; // of the texts by line: a later mark goes below all that reach beyond it, whose lines it would cross
  return [...marks].sort((a, b) => a.from - b.from).map((mark) => {
    const x = (mark.from - first) * dayWidth, length = ctx.measureText(mark.text ?? "").width + 8;
    const begin = Math.max(0, x + length > plotWidth + RIGHT ? x - length : x);
    const line = ends.findLastIndex((end) => end > begin) + 1;
    ends[line] = begin + length;
    return { ...mark, begin, line };
  });
}

function drawMarks(chart, marks, above, ink) {
  const { ctx, bbox } = chart;
  const ratio = devicePixelRatio || 1;
  ctx.save();
  ctx.beginPath();
  ctx.rect(bbox.left - ratio, 0, bbox.width + (RIGHT + 1) * ratio, bbox.top + bbox.height);
  ctx.clip();
  ctx.font = `${11 * ratio}${FONT}`;
  ctx.textAlign = "left";
  ctx.textBaseline = "top";
  for (const mark of marks) {
    const left = chart.valToPos(mark.from * DAY_S, "x", true);
    const right = mark.to === undefined ? left : chart.valToPos((mark.to + 1) * DAY_S, "x", true);
    const top = bbox.top - (above - LINE * mark.line) * ratio;
    ctx.fillStyle = ctx.strokeStyle = mark.colour ?? ink;
    if (right > left) {
      ctx.globalAlpha = 0.18;
      ctx.fillRect(left, bbox.top, Math.max(right - left, 2 * ratio), bbox.height);
      ctx.globalAlpha = 1;
    }
    ctx.lineWidth = 1.5 * ratio;
    ctx.setLineDash(mark.isDashed ? [4 * ratio, 4 * ratio] : []);
    ctx.beginPath();
    ctx.moveTo(left, top);
    ctx.lineTo(left, right > left ? bbox.top : bbox.top + bbox.height);
    ctx.stroke();
    if (mark.text) ctx.fillText(mark.text, bbox.left + (mark.begin + 4) * ratio, top + ratio);
  }
  ctx.restore();
}

/** Keep charts as wide as their place, and redraw them when light turns to dark, and for paper. */
export function keepFitting(element, redraw) {
  let width = element.clientWidth;
  new ResizeObserver(() => {
    if (Math.abs(element.clientWidth - width) < 2) return;
    width = element.clientWidth;
    requestAnimationFrame(redraw);
  }).observe(element);
  for (const media of ["(prefers-color-scheme: dark)", "print"]) matchMedia(media).addEventListener("change", redraw);
}

/** Write what the colours of a chart mean: [text, colour, "dashed", "dots" or nothing]. */
export function legend(place, words) {
  place.replaceChildren(...words.map(([text, colour, kind]) => {
    const swatch = make("span", { className: `swatch ${kind ?? ""}` });
    swatch.style.setProperty("--colour", colour);
    return make("li", {}, swatch, text);
  }));
}
