"use strict";
// Places, texts and titles come from Python, which has the table of metrics: here nothing is
// counted, formatted or fetched, and text is never markup.
const data = JSON.parse(document.getElementById("data").textContent);
const byNumber = new Map(data.trials.map(trial => [trial.number, trial]));
const $ = id => document.getElementById(id);

function make(tag, settings = {}, ...inside) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(settings)) made.setAttribute(name, value);
  made.append(...inside);
  return made;
}

function draw(tag, settings = {}, text) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(settings)) made.setAttribute(name, value);
  if (text !== undefined) made.textContent = text;
  return made;
}

// --- the front ---------------------------------------------------------------------------------

const plane = $("plane"), across = $("across"), up = $("up");
let chosen = data.chosen;

// The cheapest first, each better than all before it: the front in these two metrics alone.
function stairs(points, x, y) {
  const better = (axis, a, b) => data.axes[axis].direction === "max" ? b - a : a - b;
  const sorted = points.filter(p => p.trial.feasible)
    .sort((a, b) => better(x, a.at[0], b.at[0]) || better(y, a.at[1], b.at[1]));
  const kept = [];
  for (const point of sorted)
    if (!kept.length || better(y, point.at[1], kept[kept.length - 1].at[1]) < 0) kept.push(point);
  return kept;
}

function plot() {
  const x = +across.value, y = +up.value;
  const width = Math.max(300, plane.clientWidth), height = Math.round(Math.min(520, Math.max(330, width * .62)));
  const left = 66, right = width - 18, top = 12, bottom = height - 48;
  const px = at => left + at * (right - left), py = at => bottom - at * (bottom - top);
  const svg = draw("svg", {viewBox: `0 0 ${width} ${height}`, height, role: "img", "aria-label": "the front"});
  const line = (points, ink, more = {}) => svg.append(draw("polyline",
    {points: points.map(p => p.join(",")).join(" "), class: "s-" + ink, fill: "none", ...more}));
  const words = (at, text, more) => svg.append(draw("text", {x: at[0], y: at[1], class: "f-faint", "font-size": 12, ...more}, text));
  let end = -Infinity;
  for (const [at, text] of data.axes[x].ticks) {
    line([[px(at), top], [px(at), bottom]], "grid");
    const half = text.length * 3.4;
    if (px(at) - half > end + 6 && px(at) + half < width) {
      words([px(at), bottom + 18], text, {"text-anchor": "middle"});
      end = px(at) + half;
    }
  }
  for (const [at, text] of data.axes[y].ticks) {
    line([[left, py(at)], [right, py(at)]], "grid");
    words([left - 8, py(at) + 4], text, {"text-anchor": "end"});
  }
  words([(left + right) / 2, height - 8], data.axes[x].label, {"text-anchor": "middle", "font-size": 13});
  words([14, (top + bottom) / 2], data.axes[y].label,
    {"text-anchor": "middle", "font-size": 13, transform: `rotate(-90 14 ${(top + bottom) / 2})`});
  const points = data.trials.filter(t => t.at && t.at[x] !== null && t.at[y] !== null)
    .map(trial => ({trial, at: [trial.at[x], trial.at[y]]}));
  const line2d = stairs(points, x, y);
  const corners = line2d.flatMap((point, i) => {
    const here = [px(point.at[0]), py(point.at[1])];
    return i ? [[here[0], py(line2d[i - 1].at[1])], here] : [here];
  });
  if (corners.length) {
    const edge = data.axes[x].direction === "max" ? left : right;
    line([...corners, [edge, corners[corners.length - 1][1]]], "front", {"stroke-width": 2});
  }
  const rank = trial => trial.baseline ? 1 : trial.front ? 2 : 0;
  for (const {trial, at} of points.sort((a, b) => rank(a.trial) - rank(b.trial))) {
    const [cx, cy] = [px(at[0]), py(at[1])];
    for (const [axis, vertical] of [[x, false], [y, true]]) {
      const range = (trial.range || {})[axis];
      if (!range) continue;
      const ends = range.map(r => vertical ? [cx, py(r)] : [px(r), cy]);
      const ink = trial.baseline ? "beside" : "front";
      line([ends[0], ends[2]], ink, {"stroke-width": 1.4, opacity: .8});
      for (const [ex, ey] of [ends[0], ends[2]])
        line(vertical ? [[ex - 4, ey], [ex + 4, ey]] : [[ex, ey - 4], [ex, ey + 4]], ink, {"stroke-width": 1.4});
      const [mx, my] = ends[1];
      svg.append(draw("circle", {cx: mx, cy: my, r: 2.5, class: "f-paper s-" + ink}));
    }
    const ink = trial.baseline ? "beside" : trial.front ? "front" : "dots";
    const mark = trial.baseline
      ? draw("path", {d: `M${cx},${cy - 6}` + (trial.made ? "l6,11l-12,0z" : "l6,6l-6,6l-6,-6z"), class: "mark f-beside"})
      : draw("circle", {cx, cy, r: trial.front ? 5 : 3.5, opacity: trial.front ? 1 : .65,
          ...(trial.feasible ? {class: "f-" + ink} : {class: "s-" + ink, fill: "transparent"})});
    mark.dataset.number = trial.number;
    svg.append(mark);
    if (trial.number === chosen)
      svg.append(draw("circle", {cx, cy, r: 9, class: "s-ink", fill: "none", "stroke-width": 1.5, "pointer-events": "none"}));
  }
  // Names beside their marks where nothing else stands; one without such a place is told on hovering.
  const taken = points.map(({at}) => [px(at[0]) - 6, py(at[1]) - 6, px(at[0]) + 6, py(at[1]) + 6]);
  for (const {trial, at} of points.filter(({trial}) => trial.baseline)) {
    const name = trial.made ? `${trial.number}: ${trial.baseline}` : trial.baseline, wide = 6.6 * name.length;
    for (const [dx, dy] of [[10, 17], [-10 - wide, 17], [10, -9], [-10 - wide, -9]]) {
      const [x0, y0] = [px(at[0]) + dx, py(at[1]) + dy], box = [x0 - 4, y0 - 11, x0 + wide + 4, y0 + 3];
      const free = box[0] >= left && box[2] <= right && box[1] >= top && box[3] <= bottom
        && !taken.some(b => box[0] < b[2] && b[0] < box[2] && box[1] < b[3] && b[1] < box[3]);
      if (!free) continue;
      words([x0, y0], name, {class: "f-beside"});
      taken.push(box);
      break;
    }
  }
  plane.querySelector("svg")?.remove();
  plane.prepend(svg);
}

// The nearest mark, so that a finger need not hit a point of seven pixels.
function nearest(event) {
  const svg = plane.querySelector("svg"), box = svg.getBoundingClientRect();
  const scale = svg.viewBox.baseVal.width / box.width;
  let best = null, least = 18 ** 2;
  for (const mark of svg.querySelectorAll("[data-number]")) {
    const b = mark.getBBox();
    const far = ((event.clientX - box.left) * scale - b.x - b.width / 2) ** 2
      + ((event.clientY - box.top) * scale - b.y - b.height / 2) ** 2;
    if (far <= least) [best, least] = [byNumber.get(+mark.dataset.number), far];
  }
  return best;
}

function hover(event) {
  const trial = nearest(event), tip = $("tip");
  plane.style.cursor = trial ? "pointer" : "";
  tip.hidden = !trial;
  if (!trial) return;
  tip.replaceChildren(make("b", {}, named(trial)),
    ...values(trial).map(([title, text]) => make("div", {}, `${title} ${text}`)),
    make("span", {class: "code"}, trial.body));
  const box = plane.getBoundingClientRect(), x = event.clientX - box.left, y = event.clientY - box.top;
  tip.style.left = Math.max(0, Math.min(x + 16, box.width - tip.offsetWidth - 4)) + "px";
  tip.style.top = (y + 18 + tip.offsetHeight > box.height ? y - tip.offsetHeight - 12 : y + 18) + "px";
}

const named = trial => trial.called === trial.baseline ? `${trial.called}, a baseline` : trial.called;
const values = trial => data.axes.flatMap((axis, i) => [[axis.title, trial.shown[i]],
  ["believed", i === data.believed && trial.believed ? trial.believed[1] : ""]]).filter(([, text]) => text);

function choose(number) {
  const trial = byNumber.get(number);
  if (!trial) return;
  chosen = number;
  const told = make("dl");
  for (const [title, text] of [...values(trial), ["state", trial.state], ...Object.entries(trial.more)])
    told.append(make("dt", {}, title), make("dd", {}, text));
  $("chosen").replaceChildren(make("h3", {}, named(trial)), told);
  const parts = [make("pre", {}, trial.pattern)], drawing = data.drawings[number];
  if (drawing) parts.unshift(make("img", {src: "data:image/svg+xml," + encodeURIComponent(drawing), alt: "drawing of the network"}));
  else if (trial.stages) parts.unshift(stages(trial.stages));
  $("network").replaceChildren(...parts);
  plot();
}

function stages(told) {
  const head = make("tr", {}, ...["element", "out", "params", "MACs", "share of the params"].map((title, i) =>
    make("th", i && i < 4 ? {class: "number"} : {}, title)));
  const table = make("table", {}, head);
  for (const [element, shape, params, macs, share] of told) {
    const stripe = make("i", {class: "stripe"});
    stripe.style.width = 100 * share + "%";
    table.append(make("tr", {}, make("td", {class: "code"}, data.words[element]), make("td", {class: "number"}, data.words[shape]),
      make("td", {class: "number"}, params),
      make("td", {class: "number"}, macs), make("td", {class: "wide"}, stripe)));
  }
  return make("div", {class: "scroll"}, table);
}

for (const choice of [across, up]) {
  data.axes.forEach((axis, i) => choice.append(make("option", {value: i}, axis.title)));
  choice.addEventListener("change", plot);
}
[across.value, up.value] = data.across;
plane.addEventListener("pointermove", hover);
plane.addEventListener("pointerleave", () => { $("tip").hidden = true; });
plane.addEventListener("click", event => { const trial = nearest(event); if (trial) choose(trial.number); });
addEventListener("resize", plot);
addEventListener("beforeprint", plot);

// --- the table ---------------------------------------------------------------------------------

const columns = [
  {title: "trial", key: t => t.number, cell: t => t.number, number: true},
  {title: "state", key: t => t.state, cell: t => t.state},
  ...data.axes.flatMap((axis, i) => [
    {title: axis.title, key: t => t.at ? t.at[i] : null, cell: t => t.shown ? t.shown[i] : "", number: true},
    ...(i === data.believed ? [{title: "believed", key: t => t.believed ? t.believed[0] : null,
      cell: t => t.believed ? t.believed[1] : "", number: true}] : [])]),
  {title: "epochs", key: t => t.epochs, cell: t => t.epochs || "", number: true},
  {title: "seconds", key: t => t.seconds, cell: t => t.seconds === null ? "" : t.seconds, number: true},
  {title: "network", key: t => t.body, cell: t => t.body},
];
const table = $("trials").querySelector("table"), search = $("search"), only = $("only");
const lines = data.trials.map(trial => {
  const cells = columns.map(column => make("td",
    {"data-title": column === columns[0] ? "" : column.title, ...(column.number ? {class: "number"} : {})}, String(column.cell(trial))));
  cells[0].replaceChildren(make("button", {type: "button", title: "show it above"}, String(trial.number)));
  cells[cells.length - 1].className = "code";
  const line = make("tr", trial.front ? {class: "front"} : {}, ...cells);
  return {trial, line, text: line.textContent.toLowerCase()};
});
let sorted = null, descending = false;

function arrange() {
  const told = search.value.toLowerCase().split(/\s+/).filter(Boolean);
  const fits = ({trial, text}) => (!only.checked || trial.front) && told.every(part => text.includes(part));
  const shown = lines.filter(fits);
  if (sorted) shown.sort((a, b) => {
    const [p, q] = [sorted.key(a.trial), sorted.key(b.trial)];
    if (p === null || q === null) return (p === null) - (q === null);  // what has none comes last
    return (p < q ? -1 : p > q ? 1 : 0) * (descending ? -1 : 1) || a.trial.number - b.trial.number;
  });
  table.tBodies[0].replaceChildren(...shown.map(({line}) => line));
  $("count").textContent = `${shown.length.toLocaleString("en")} of ${lines.length.toLocaleString("en")}`;
}

const head = make("tr", {class: "head"}, ...columns.map(column => {
  const button = make("button", {type: "button"}, column.title), th = make("th", column.number ? {class: "number"} : {}, button);
  button.addEventListener("click", () => {
    descending = sorted === column ? !descending : false;
    sorted = column;
    for (const other of head.children) other.removeAttribute("aria-sort");
    th.setAttribute("aria-sort", descending ? "descending" : "ascending");
    arrange();
  });
  return th;
}));
table.append(make("thead", {}, head), make("tbody"));
table.addEventListener("click", event => {
  if (!event.target.closest("td button")) return;
  choose(+event.target.textContent);
  $("front").scrollIntoView({behavior: "smooth"});
});
search.addEventListener("input", arrange);
only.addEventListener("change", arrange);
arrange();
choose(chosen);
