// The map page: points by row number of one generation of the index; the server is asked for few of them by name.
// The browser stores nothing; the address holds how the map is made, coloured and filtered.

import { Grid } from "./map_grid.js";
import { painter } from "./map_points.js";

const el = (name) => document.getElementById(name);
const mapped = el("mapped");
const plane = el("plane");
const canvas = el("points");
const tip = el("tip");
const { generation, pictures } = mapped.dataset;
const [MOST, CARDS, EXAMPLES, NEAR, LEAST] = [Number(mapped.dataset.most), 24, 16, 12, 100_000];
const UNKNOWN = 255;
const count = Number(mapped.dataset.cases);

let grid, paint;
let [codes, shown, chosen, legend] = [new Uint8Array(count), new Uint8Array(count).fill(1), new Set(), null];
let view = { x: 0, y: 0, scale: 1 };
let [cursor, hidden, stale, passed] = [-1, new Set(), false, null];

const number = (value) => value.toLocaleString("en");
const say = (text) => (el("state").textContent = text);
const fault = (text) => {
  el("fault").textContent = text;
  el("fault").hidden = !text;
};

// Answers of another generation are refused by the server: nothing of this page is of any use then.
const ask = async (path, fields, body, signal) => {
  if (stale) throw new Error("stale");
  const query = new URLSearchParams(fields);
  const given = body ? { method: "POST", body: JSON.stringify({ generation, ...body }), headers: { "content-type": "application/json" } } : {};
  if (!body) query.append("generation", generation);
  const answer = await fetch(`${path}?${query}`, { ...given, signal });
  if (answer.ok) return answer;
  const why = answer.headers.get("content-type")?.includes("json") ? (await answer.json()).error : `the server answered ${answer.status}`;
  if (answer.status === 409) {
    stale = true;
    chosen.clear();
    el("chosen").hidden = tip.hidden = true;
    const link = document.createElement("a");
    [link.href, link.textContent] = [window.location.href, "Reload the page"];
    fault(`${why} `);
    el("fault").append(link);
    throw new Error("stale");
  }
  throw new Error(why);
};
const attempt = async (work) => {
  try {
    await work();
  } catch (error) {
    if (error.name !== "AbortError" && !stale) fault(error.message);
  }
};
const unpacked = async (answer) => {
  const data = await answer.arrayBuffer();
  const length = new DataView(data).getUint32(0);
  return { ...JSON.parse(new TextDecoder().decode(new Uint8Array(data, 4, length))), data: data.slice(4 + length) };
};

// --- Drawing ---------------------------------------------------------------------------------------------------------
let [due, moving, most, rest] = [0, false, 2 * LEAST, 0];
const look = () => {
  const within = Math.min(1, (view.fit / view.scale) ** 2) * count; // about as many as are in view
  return { size: within > 200_000 ? 1.5 : within > 20_000 ? 2.5 : within > 2_000 ? 4 : 7, opacity: within > 20_000 ? 0.6 : 0.9, choosing: chosen.size > 0 };
};
// While the map moves, as large a sample is drawn as a frame has time for, and all of it once it rests.
const draw = (moves = false) => {
  if (moves) moving = true;
  if (due || !paint) return;
  due = requestAnimationFrame((now) => {
    const sample = moving;
    [due, moving] = [0, false];
    paint.draw(view, look(), sample ? Math.min(count, most) : count);
    drawCursor();
    if (!sample) return;
    clearTimeout(rest);
    rest = setTimeout(draw, 200);
    requestAnimationFrame((after) => {
      if (after - now > 50) most = Math.max(LEAST, Math.round(most * 0.6));
      else if (after - now < 25) most = Math.min(count, Math.round(most * 1.5));
    });
  });
};
const colour = (name) => {
  const text = getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  return [1, 3, 5].map((at) => parseInt(text.slice(at, at + 2), 16));
};
const paintColours = () => {
  const table = new Uint8Array(1024);
  const set = (code, [red, green, blue]) => table.set([red, green, blue, hidden.has(code) ? 0 : 255], 4 * code);
  if (!legend) for (let code = 0; code < 256; code++) set(code, colour("--point-0"));
  else if (legend.kind === "groups") legend.groups.forEach((_, code) => set(code, colour(`--point-${code}`)));
  else {
    const stops = ["low", "middle", "high"].map((name) => colour(`--scale-${name}`));
    for (let code = 0; code < UNKNOWN; code++) {
      const [from, part] = code < 127 ? [0, code / 127] : [1, (code - 127) / 127];
      set(code, stops[from].map((value, at) => Math.round(value + (stops[from + 1][at] - value) * part)));
    }
  }
  if (legend) set(UNKNOWN, colour("--point-unknown"));
  paint.colours = table;
};
// 0 is not drawn and not chosen, 1 is, 2 is chosen.
const paintFlags = () => {
  for (let row = 0; row < count; row++) shown[row] = (!passed || (passed[row >> 3] >> (row & 7)) & 1) && !(legend && hidden.has(codes[row])) ? 1 : 0;
  const flags = shown.slice();
  for (const row of chosen) if (flags[row]) flags[row] = 2;
  paint.flags = flags;
  draw();
};
const resize = () => {
  const ratio = Math.min(2, window.devicePixelRatio || 1);
  const [width, height] = [Math.round(plane.clientWidth * ratio), Math.round(plane.clientHeight * ratio)];
  if (canvas.width !== width || canvas.height !== height) Object.assign(canvas, { width, height });
  draw();
};
const fit = () => {
  const { left, right, bottom, top } = grid.box;
  view.fit = 0.94 * Math.min(plane.clientWidth / (right - left || 1), plane.clientHeight / (top - bottom || 1));
  view = { x: (left + right) / 2, y: (bottom + top) / 2, scale: view.fit, fit: view.fit };
  draw();
};
const toMap = (px, py) => [view.x + (px - plane.clientWidth / 2) / view.scale, view.y - (py - plane.clientHeight / 2) / view.scale];
const toPage = (row) => [
  (grid.places[2 * row] - view.x) * view.scale + plane.clientWidth / 2,
  (view.y - grid.places[2 * row + 1]) * view.scale + plane.clientHeight / 2,
];
const pan = (across, down) => {
  view = { ...view, x: view.x - across / view.scale, y: view.y + down / view.scale };
  draw(true);
};
const zoom = (factor, px = plane.clientWidth / 2, py = plane.clientHeight / 2) => {
  const [x, y] = toMap(px, py);
  const scale = Math.min(view.fit * 20_000, Math.max(view.fit / 4, view.scale * factor));
  view = { ...view, scale, x: x - (px - plane.clientWidth / 2) / scale, y: y + (py - plane.clientHeight / 2) / scale };
  draw(true);
};

// --- What a point is -------------------------------------------------------------------------------------------------
let [asking, waiting, at] = [null, 0, -1];
const hideTip = () => {
  tip.hidden = true;
  at = -1;
  asking?.abort();
};
const placeTip = (row) => {
  const [x, y] = toPage(row);
  tip.style.left = `${Math.max(4, Math.min(x + 14, plane.clientWidth - tip.offsetWidth - 4))}px`;
  tip.style.top = `${Math.max(4, y + 14 + tip.offsetHeight > plane.clientHeight ? y - tip.offsetHeight - 14 : y + 14)}px`;
};
// Its words are put in as text, whatever they are.
const describe = async (row, aloud) => {
  if (row === at && !aloud) return;
  at = row;
  asking?.abort();
  asking = new AbortController();
  const { cases, shown: facts } = await (await ask("/api/map/cases", { row }, null, asking.signal)).json();
  if (at !== row) return;
  const [name, short] = [cases[0].image_id, facts[0]];
  const words = [name, short.facts.join(" · "), short.findings.join(", "), cases[0].source ?? ""].filter(Boolean);
  const picture = tip.querySelector("img");
  picture.hidden = !pictures;
  if (pictures) picture.src = `/api/picture?${new URLSearchParams({ case: name })}`;
  tip.querySelector(".what").textContent = words.join("\n");
  tip.hidden = false;
  placeTip(row);
  if (aloud) el("spoken").textContent = `${words.join(", ")}${chosen.has(row) ? ", chosen" : ""}`;
};
const drawCursor = () => {
  const path = document.querySelector("#lasso path");
  if (line) return;
  if (cursor < 0) return path.setAttribute("d", "");
  const [x, y] = toPage(cursor);
  path.setAttribute("d", `M${x - 9} ${y}a9 9 0 1 0 18 0a9 9 0 1 0 -18 0Z`);
};
const step = (across, up) => {
  const from = cursor < 0 || !shown[cursor] ? grid.nearest(view.x, view.y, shown) : grid.toward(cursor, across, up, shown);
  if (from < 0) return;
  cursor = from;
  const [x, y] = toPage(cursor);
  if (x < 20 || y < 20 || x > plane.clientWidth - 20 || y > plane.clientHeight - 20) {
    view = { ...view, x: grid.places[2 * cursor], y: grid.places[2 * cursor + 1] };
  }
  draw(true);
  attempt(() => describe(cursor, true));
};

// --- Points that are chosen ------------------------------------------------------------------------------------------
let cardsAsked = null;
const renew = (page, name) => {
  const [part, old] = [page.getElementById(name), el(name)];
  if (part && old) old.replaceWith(document.adoptNode(part));
};
const cards = async () => {
  cardsAsked?.abort();
  cardsAsked = new AbortController();
  const first = [...chosen].slice(0, CARDS);
  const answer = await ask("/map/cards", first.map((row) => ["row", row]), null, cardsAsked.signal);
  const page = new DOMParser().parseFromString(await answer.text(), "text/html");
  renew(page, "marked-last");
  el("cards").replaceChildren(...["compare", "grid"].map((name) => document.adoptNode(page.getElementById(name))));
  const ids = [...document.querySelectorAll("#cards .card")].slice(0, EXAMPLES).map((card) => card.dataset.case);
  el("like").href = `/?${new URLSearchParams(ids.map((name) => ["case", name]))}`;
  el("like").textContent = `Search the like of ${chosen.size > EXAMPLES ? `the first ${EXAMPLES}` : "these"}`;
};
const choose = (rows, add = false) => {
  if (!add) chosen = new Set();
  for (const row of rows) chosen.add(row);
  chosenChanged();
};
const chosenChanged = () => {
  paintFlags();
  el("chosen").hidden = !chosen.size;
  const beyond = chosen.size > CARDS ? `, the first ${CARDS} below` : "";
  el("count").textContent = `${number(chosen.size)} chosen${beyond}`;
  if (!chosen.size) el("cards").replaceChildren();
  else attempt(cards);
};
const toggle = (row) => {
  if (!chosen.delete(row)) chosen.add(row);
  chosenChanged();
};
const inView = () => {
  const [[left, top], [right, bottom]] = [toMap(0, 0), toMap(plane.clientWidth, plane.clientHeight)];
  choose(grid.inside([[left, bottom], [right, bottom], [right, top], [left, top]], shown));
};
const putOnList = async () => {
  if (!chosen.size) return;
  const name = el("mark-list").value;
  if (chosen.size > MOST) throw new Error(`${number(chosen.size)} points, and at most ${number(MOST)} are put on a list at once: zoom in, or filter`);
  const { step: made, cases } = await (await ask("/api/map/list", {}, { rows: [...chosen], list: name })).json();
  say(made === null ? `All of them are on the list ${name} already` : `${number(cases)} on the list ${name}`);
  await cards();
};
const download = async () => {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(await (await ask("/api/map/ids.csv", {}, { rows: [...chosen] })).blob());
  link.download = "points.csv";
  link.click();
  URL.revokeObjectURL(link.href);
};

// --- Mouse, fingers, keys --------------------------------------------------------------------------------------------
let line = null;
const fingers = new Map();
let [dragged, lassoing] = [false, false];
const inside = (event) => {
  const box = plane.getBoundingClientRect();
  return [event.clientX - box.left - plane.clientLeft, event.clientY - box.top - plane.clientTop];
};
plane.addEventListener("pointerdown", (event) => {
  if (event.button || !grid) return;
  plane.setPointerCapture(event.pointerId);
  plane.focus({ preventScroll: true });
  fingers.set(event.pointerId, inside(event));
  dragged = false;
  line = fingers.size === 1 && (event.shiftKey || lassoing) ? [inside(event)] : null;
});
plane.addEventListener("pointermove", (event) => {
  if (!grid) return;
  const [x, y] = inside(event);
  const before = fingers.get(event.pointerId);
  if (!before) {
    clearTimeout(waiting);
    const row = grid.near(...toMap(x, y), NEAR / view.scale, shown);
    if (row < 0) hideTip();
    else waiting = setTimeout(() => attempt(() => describe(row)), 60);
    return;
  }
  if (!dragged && Math.hypot(x - before[0], y - before[1]) < 4) return;
  dragged = true;
  hideTip();
  if (line) {
    const [lx, ly] = line[line.length - 1];
    if (Math.hypot(x - lx, y - ly) < 3) return;
    line.push([x, y]);
    document.querySelector("#lasso path").setAttribute("d", `M${line.map((corner) => corner.map(Math.round).join(" ")).join("L")}Z`);
    return;
  }
  plane.classList.add("moving");
  if (fingers.size === 2) {
    const [other] = [...fingers].filter(([id]) => id !== event.pointerId).map(([, place]) => place);
    const [far, was] = [Math.hypot(x - other[0], y - other[1]), Math.hypot(before[0] - other[0], before[1] - other[1])];
    zoom(far / (was || 1), (x + other[0]) / 2, (y + other[1]) / 2);
    pan((x - before[0]) / 2, (y - before[1]) / 2);
  } else pan(x - before[0], y - before[1]);
  fingers.set(event.pointerId, [x, y]);
});
const lift = (event) => {
  if (!fingers.delete(event.pointerId)) return;
  plane.classList.remove("moving");
  const drawn = line;
  line = null;
  drawCursor();
  if (event.type === "pointercancel") return;
  if (drawn && drawn.length > 2) choose(grid.inside(drawn.map((corner) => toMap(...corner)), shown));
  else if (!dragged) {
    const row = grid.near(...toMap(...inside(event)), NEAR / view.scale, shown);
    if (row >= 0) toggle(row);
  }
};
for (const name of ["pointerup", "pointercancel"]) plane.addEventListener(name, lift);
plane.addEventListener("pointerleave", () => {
  clearTimeout(waiting);
  if (!fingers.size) hideTip();
});
plane.addEventListener("wheel", (event) => {
  if (!grid) return;
  event.preventDefault();
  hideTip();
  zoom(Math.exp(-Math.max(-120, Math.min(120, event.deltaY)) / 300), ...inside(event));
}, { passive: false });

const DO = {
  lasso: () => {
    lassoing = !lassoing;
    document.querySelector("[data-do=lasso]").setAttribute("aria-pressed", lassoing);
    plane.classList.toggle("lassoing", lassoing);
  },
  view: inView,
  in: () => zoom(1.5),
  out: () => zoom(1 / 1.5),
  fit,
  list: () => attempt(putOnList),
  csv: () => attempt(download),
  clear: () => choose([]),
};
document.addEventListener("click", (event) => {
  const button = event.target.closest("button[data-do]");
  if (button && grid && !stale) DO[button.dataset.do]();
});
const ARROWS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, 1], ArrowDown: [0, -1] };
const KEYS = { "+": DO.in, "=": DO.in, "-": DO.out, f: fit, v: inView, l: DO.list, Escape: () => (hideTip(), DO.clear()), Enter: () => cursor >= 0 && toggle(cursor) };
plane.addEventListener("keydown", (event) => {
  if (!grid || stale || event.ctrlKey || event.metaKey || event.altKey) return;
  const arrow = ARROWS[event.key];
  if (arrow && event.shiftKey) step(...arrow);
  else if (arrow) pan(-60 * arrow[0], 60 * arrow[1]);
  else if (event.key in KEYS) KEYS[event.key]();
  else return;
  event.preventDefault();
});

// --- What is drawn ---------------------------------------------------------------------------------------------------
const keep = () => {
  const option = el("colour").selectedOptions[0];
  const given = { method: el("method").value, by: option.dataset.by ?? "", name: option.dataset.name ?? "", where: el("where").value.trim() };
  const kept = Object.entries(given).filter(([name, value]) => value && !(name === "method" && value === "pca"));
  window.history.replaceState(null, "", kept.length ? `/map?${new URLSearchParams(kept)}` : "/map");
};
const entry = (words, code, amount) => {
  const [item, label, box, spot, text, small] = ["li", "label", "input", "i", "span", "small"].map((name) => document.createElement(name));
  Object.assign(box, { type: "checkbox", checked: true });
  box.addEventListener("change", () => {
    if (box.checked) hidden.delete(code);
    else hidden.add(code);
    paintColours();
    paintFlags();
  });
  const [red, green, blue] = colour(code === UNKNOWN ? "--point-unknown" : `--point-${code}`);
  spot.style.background = `rgb(${red} ${green} ${blue})`;
  [text.textContent, small.textContent] = [words, number(amount)];
  label.append(box, spot, text, small);
  item.append(label);
  return item;
};
const showLegend = () => {
  const items = [];
  if (legend?.kind === "groups") legend.groups.forEach((each, code) => items.push(entry(each.name, code, each.count)));
  if (legend?.kind === "scale") {
    const [item, ramp, ends] = ["li", "span", "span"].map((name) => document.createElement(name));
    [ramp.className, ends.className] = ["ramp", "ends"];
    const shorter = (value) => String(Number(value.toPrecision(3)));
    ends.append(...[legend.low, legend.high].map((value) => Object.assign(document.createElement("span"), { textContent: shorter(value) })));
    item.append(ramp, ends);
    items.push(item);
  }
  if (legend?.unknown) items.push(entry("not known", UNKNOWN, legend.unknown));
  el("legend").replaceChildren(...items);
};
const colours = async () => {
  const { by, name } = el("colour").selectedOptions[0].dataset;
  return by ? unpacked(await ask("/api/map/colours", { by, name })) : null;
};
const recolour = async (asked) => {
  const found = await asked;
  hidden = new Set();
  [legend, codes] = [found, found ? new Uint8Array(found.data) : new Uint8Array(count)];
  paint.codes = codes;
  paintColours();
  showLegend();
  paintFlags();
};
const passing = async () => {
  const where = el("where").value.trim();
  return where ? unpacked(await ask("/api/map/passing", { where })) : null;
};
const filter = async (asked) => {
  const found = await asked;
  passed = found && new Uint8Array(found.data);
  fault("");
  el("passing").textContent = found ? [`${number(found.passing)} of ${number(count)} cases`, ...found.notes].join("; ") : "";
  for (const row of chosen) if (passed && !((passed[row >> 3] >> (row & 7)) & 1)) chosen.delete(row);
  chosenChanged();
};
const load = async () => {
  say("Reading the points…");
  const [coloured, filtered] = [colours(), passing()];
  for (const each of [coloured, filtered]) each.catch(() => {}); // where they fail, it is said once the points are there
  const found = await unpacked(await ask("/api/map/points", { method: el("method").value }));
  const places = new Float32Array(found.data);
  grid = new Grid(places);
  paint = painter(canvas, places);
  resize();
  fit();
  await recolour(coloured);
  await attempt(() => filter(filtered));
  paint.draw(view, look());
  say(count ? "" : "There are no cases.");
  mapped.dataset.drawn = performance.now(); // for benchmarks
};
const given = new URLSearchParams(window.location.search);
if ([...el("method").options].some((each) => each.value === given.get("method"))) el("method").value = given.get("method");
for (const option of el("colour").options) {
  if (option.value && option.dataset.by === given.get("by") && option.dataset.name === given.get("name")) option.selected = true;
}
el("where").value = given.get("where") ?? "";
el("settings").addEventListener("submit", (event) => {
  event.preventDefault();
  keep();
  if (paint) attempt(() => filter(passing()));
});
el("colour").addEventListener("change", () => (keep(), paint && attempt(() => recolour(colours()))));
el("method").addEventListener("change", () => (keep(), window.location.reload()));
new ResizeObserver(resize).observe(plane);
window.matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => paint && (paintColours(), showLegend(), draw()));
attempt(load);
