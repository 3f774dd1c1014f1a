// The compare page: radiographs with all of their bits, windowed here. The browser stores nothing.

const viewer = document.getElementById("viewer");
const clamp = (value, low, high) => Math.min(Math.max(value, low), high);

// /api/pixels: a length, a JSON object, the pixels.
const read = async (address) => {
  const answer = await fetch(address);
  if (!answer.ok) throw new Error((await answer.json()).error);
  const data = await answer.arrayBuffer();
  const length = new DataView(data).getUint32(0);
  const head = JSON.parse(new TextDecoder().decode(new Uint8Array(data, 4, length)));
  return { ...head, pixels: new (head.depth === 2 ? Uint16Array : Uint8Array)(data.slice(4 + length)) };
};

// A picture, and its halves: what is drawn small is drawn from means, not from every nth pixel.
const halves = (first) => {
  const levels = [first];
  for (let { width, height, pixels } = first; Math.min(width, height) >= 256; ) {
    const [wide, high] = [width >> 1, height >> 1];
    const half = new pixels.constructor(wide * high);
    for (let y = 0, to = 0; y < high; y++) {
      for (let x = 0, at = 2 * y * width; x < wide; x++, at += 2) {
        half[to++] = (pixels[at] + pixels[at + 1] + pixels[at + width] + pixels[at + width + 1] + 2) >> 2;
      }
    }
    [width, height, pixels] = [wide, high, half];
    levels.push({ width, height, pixels });
  }
  return levels;
};

// The window from the 0.5th to the 99.5th percentile.
const usual = ({ pixels }) => {
  const counts = new Uint32Array(65536);
  for (let at = 0; at < pixels.length; at++) counts[pixels[at]]++;
  const reached = (part) => {
    let value = 0;
    for (let sum = counts[0]; sum < part * pixels.length; ) sum += counts[++value];
    return value;
  };
  const [low, high] = [reached(0.005), reached(0.995)];
  return { width: Math.max(1, high - low), level: (low + high) / 2 };
};

// `place`: of the corner, a step's length, the canvas's height; `grey`: the low end, 1 / width, whether to invert.
const SHADER = `#version 300 es
  precision highp float; precision highp int; precision highp usampler2D;
  uniform usampler2D bits; uniform vec4 place; uniform vec3 grey; uniform int level;
  out vec4 colour;
  float value(ivec2 at) { return float(texelFetch(bits, clamp(at, ivec2(0), textureSize(bits, level) - 1), level).r); }
  void main() {
    vec2 at = place.xy + vec2(gl_FragCoord.x, place.w - gl_FragCoord.y) * place.z;
    colour = vec4(0, 0, 0, 1);
    if (any(lessThan(at, vec2(0))) || any(greaterThanEqual(at, vec2(textureSize(bits, 0))))) return;
    at = at / float(1 << level) - 0.5;
    ivec2 a = ivec2(floor(at)); ivec2 b = a + 1; vec2 part = fract(at);
    float above = mix(value(a), value(ivec2(b.x, a.y)), part.x), below = mix(value(ivec2(a.x, b.y)), value(b), part.x);
    colour.rgb = vec3(abs(grey.z - clamp((mix(above, below, part.y) - grey.x) * grey.y, 0.0, 1.0)));
  }`;
const CORNERS = `#version 300 es
  void main() { gl_Position = vec4(gl_VertexID == 1 ? 3 : -1, gl_VertexID == 2 ? 3 : -1, 0, 1); }`;

// Whether there is a graphics card: where the processor plays it, a table of greys is several times as quick.
const hasCard = () => {
  const gl = document.createElement("canvas").getContext("webgl2");
  if (!gl) return false;
  const named = gl.getExtension("WEBGL_debug_renderer_info");
  const name = gl.getParameter(named ? named.UNMASKED_RENDERER_WEBGL : gl.RENDERER);
  gl.getExtension("WEBGL_lose_context")?.loseContext();
  return !/swiftshader|llvmpipe|softpipe|software|basic render/i.test(name);
};

// Draws by WebGL 2; null where the picture is too large for it.
const byShader = (canvas, levels) => {
  const gl = canvas.getContext("webgl2", { alpha: false, antialias: false });
  if (!gl || Math.max(levels[0].width, levels[0].height) > gl.getParameter(gl.MAX_TEXTURE_SIZE)) return null;
  const flat = gl.TEXTURE_2D;
  const program = gl.createProgram();
  for (const [kind, text] of [[gl.VERTEX_SHADER, CORNERS], [gl.FRAGMENT_SHADER, SHADER]]) {
    const shader = gl.createShader(kind);
    gl.shaderSource(shader, text);
    gl.compileShader(shader);
    gl.attachShader(program, shader);
  }
  gl.linkProgram(program);
  if (!gl.getProgramParameter(program, gl.LINK_STATUS)) return null;
  gl.useProgram(program);
  const [place, grey, level] = ["place", "grey", "level"].map((name) => gl.getUniformLocation(program, name));
  gl.bindTexture(flat, gl.createTexture());
  gl.pixelStorei(gl.UNPACK_ALIGNMENT, 1);
  levels.forEach(({ width, height, pixels }, number) => {
    const [form, type] =
      pixels.BYTES_PER_ELEMENT === 2 ? [gl.R16UI, gl.UNSIGNED_SHORT] : [gl.R8UI, gl.UNSIGNED_BYTE];
    gl.texImage2D(flat, number, form, width, height, 0, gl.RED_INTEGER, type, pixels);
  });
  gl.texParameteri(flat, gl.TEXTURE_MAX_LEVEL, levels.length - 1);
  gl.texParameteri(flat, gl.TEXTURE_MIN_FILTER, gl.NEAREST_MIPMAP_NEAREST);
  gl.texParameteri(flat, gl.TEXTURE_MAG_FILTER, gl.NEAREST);
  return ({ x, y, step, half, low, wide, invert }) => {
    gl.viewport(0, 0, canvas.width, canvas.height);
    gl.uniform4f(place, x, y, step, canvas.height);
    gl.uniform3f(grey, low, 1 / wide, invert);
    gl.uniform1i(level, half);
    gl.drawArrays(gl.TRIANGLES, 0, 3);
  };
};

// Draws without, by a table of greys: the values under a canvas's pixels are worked out once for a place, and each window
// looks them up.
const byHand = (canvas, levels) => {
  const context = canvas.getContext("2d", { alpha: false });
  const finer = 2 ** (16 - levels[0].bits); // steps between two values of the picture
  const table = new Uint32Array(65536);
  let [place, left, top, values, greys, part] = [""];

  // Where the middles of canvas pixels lie along a side: the first one, and of each the two values around it.
  const along = (start, step, half, whole, most, length) => {
    const from = Math.max(0, Math.ceil(-start / step - 0.5));
    const count = Math.max(0, Math.min(most, Math.ceil((whole - start) / step - 0.5)) - from);
    const [near, next, share] = [new Int32Array(count), new Int32Array(count), new Float32Array(count)];
    for (let at = 0; at < count; at++) {
      const where = (start + (from + at + 0.5) * step) / 2 ** half - 0.5;
      const before = Math.floor(where);
      [near[at], next[at], share[at]] = [clamp(before, 0, length - 1), clamp(before + 1, 0, length - 1), where - before];
    }
    return { from, count, near, next, share };
  };

  const sample = ({ x, y, step, half }) => {
    const { width, height, pixels } = levels[half];
    const across = along(x, step, half, levels[0].width, canvas.width, width);
    const down = along(y, step, half, levels[0].height, canvas.height, height);
    const { count, near, next, share } = across;
    context.fillRect(0, 0, canvas.width, canvas.height);
    [left, top, part] = [across.from, down.from, null];
    if (!count || !down.count) return;
    part = new ImageData(count, down.count);
    greys = new Uint32Array(part.data.buffer);
    values = new Uint16Array(greys.length);
    for (let row = 0, to = 0; row < down.count; row++) {
      const [above, below, low] = [down.near[row] * width, down.next[row] * width, down.share[row]];
      for (let at = 0; at < count; at++, to++) {
        const [a, b, right] = [near[at], next[at], share[at]];
        const upper = pixels[above + a] + (pixels[above + b] - pixels[above + a]) * right;
        const lower = pixels[below + a] + (pixels[below + b] - pixels[below + a]) * right;
        values[to] = (upper + (lower - upper) * low) * finer + 0.5;
      }
    }
  };

  return (wanted) => {
    const { x, y, step, half, low, wide, invert } = wanted;
    const now = [x, y, step, half, canvas.width, canvas.height].join();
    if (now !== place) sample(wanted);
    place = now;
    if (!part) return;
    for (let value = 0; value < table.length; value++) {
      const grey = clamp(Math.round(((value / finer - low) / wide) * 255), 0, 255);
      table[value] = 0xff000000 | ((invert ? 255 - grey : grey) * 0x010101);
    }
    for (let at = 0; at < greys.length; at++) greys[at] = table[values[at]];
    context.putImageData(part, left, top);
  };
};

// `scale`: pixels of the screen for one of the picture's; around (`x`, `y`), parts of its sides.
const begun = { x: 0.5, y: 0.5, scale: 1, fitted: true };
const panes = [...viewer.querySelectorAll(".stage[data-pixels]")].map((stage) => ({
  stage,
  canvas: stage.querySelector("canvas"),
  reads: [...stage.querySelectorAll(".read")],
  view: { ...begun },
  invert: false,
}));
const shaders = hasCard();
const linked = { view: true, grey: true };
let tool = "window";
let active = panes[0];
let waiting = 0;

const fit = ({ canvas, levels }) => Math.min(canvas.width / levels[0].width, canvas.height / levels[0].height);

const paint = (pane) => {
  const { canvas, levels, view, grey, reads } = pane;
  if (view.fitted) view.scale = fit(pane);
  const step = 1 / view.scale;
  pane.draw({
    x: view.x * levels[0].width - (canvas.width / 2) * step,
    y: view.y * levels[0].height - (canvas.height / 2) * step,
    step,
    half: clamp(Math.round(Math.log2(step)), 0, levels.length - 1),
    low: grey.level - grey.width / 2,
    wide: grey.width,
    invert: pane.invert,
  });
  reads[0].textContent = `W ${Math.round(grey.width)} L ${Math.round(grey.level)}${pane.invert ? ", inverted" : ""}`;
  reads[1].textContent = `${Math.round(view.scale * 100)} %`;
};

const refresh = () => {
  waiting ||= requestAnimationFrame(() => {
    waiting = 0;
    for (const pane of panes) if (pane.draw) paint(pane);
  });
};

const together = (pane, what) => (linked[what] ? panes : [pane]).filter((each) => each.draw);

const move = (view, x, y, scale) =>
  Object.assign(view, { x: clamp(x, 0, 1), y: clamp(y, 0, 1), scale, fitted: false });

// Zooms around a place of the screen, in its pixels from the middle of a picture.
const zoom = (pane, factor, across = 0, down = 0) => {
  for (const each of together(pane, "view")) {
    const { view, levels } = each;
    const [{ width, height }] = levels;
    const scale = clamp(view.scale * factor, Math.min(fit(each), 1) / 2, 32);
    const moved = 1 / view.scale - 1 / scale;
    move(view, view.x + (across * moved) / width, view.y + (down * moved) / height, scale);
  }
};

const pan = (pane, across, down) => {
  if (!pane.draw) return;
  const [{ width, height }] = pane.levels;
  const [x, y] = [across / (pane.view.scale * width), down / (pane.view.scale * height)];
  for (const { view } of together(pane, "view")) move(view, view.x - x, view.y - y, view.scale);
};

// Wider by a factor of e to that power, brighter by parts of the window.
const shade = (pane, wider, brighter) => {
  for (const { grey, levels } of together(pane, "grey")) {
    const most = 2 ** levels[0].bits - 1;
    grey.level = clamp(grey.level - brighter * grey.width, 0, most);
    grey.width = clamp(grey.width * Math.exp(wider), 1, 2 * most);
  }
};

const show = () => {
  const on = { [tool]: true, linkview: linked.view, linkwindow: linked.grey, invert: active?.invert };
  for (const button of viewer.querySelectorAll("[aria-pressed]")) button.ariaPressed = Boolean(on[button.dataset.do]);
  for (const pane of panes) pane.stage.classList.toggle("active", pane === active);
};
const views = (change) => together(active, "view").forEach((pane) => Object.assign(pane.view, change));
const greys = () => together(active, "grey").forEach((pane) => Object.assign(pane.grey, pane.usual));
const inverts = (on) => together(active, "grey").forEach((pane) => (pane.invert = on));
const actions = {
  window: () => (tool = "window"),
  pan: () => (tool = "pan"),
  in: () => zoom(active, 1.25),
  out: () => zoom(active, 0.8),
  fit: () => views(begun),
  one: () => views({ scale: 1, fitted: false }),
  invert: () => inverts(!active.invert),
  auto: greys,
  reset: () => [views(begun), greys(), inverts(false)],
  linkview: () => (linked.view = !linked.view),
  linkwindow: () => (linked.grey = !linked.grey),
  link: () => (linked.view = linked.grey = !(linked.view && linked.grey)),
};
const act = (name) => {
  if (active) actions[name]();
  show();
  refresh();
};

viewer.addEventListener("click", (event) => {
  const name = event.target.closest("[data-do]")?.dataset.do;
  if (name) act(name);
});

// Keys, while the focus is in the viewer; arrows on a picture.
const KEYS = { "+": "in", "=": "in", "-": "out", f: "fit", 1: "one", i: "invert", a: "auto", r: "reset", l: "link" };
[KEYS.w, KEYS.p] = ["window", "pan"];
const ARROWS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, 1], ArrowDown: [0, -1] };
viewer.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  const name = KEYS[event.key.toLowerCase()];
  if (name) act(name);
  else if (event.key in ARROWS && event.target.closest(".stage")) {
    const [across, up] = ARROWS[event.key];
    if (event.shiftKey) shade(active, across / 20, up / 20);
    else pan(active, -40 * across, 40 * up);
    refresh();
  } else return;
  event.preventDefault();
});

// A mouse, a pen, or fingers.
const handle = (pane) => {
  const { stage } = pane;
  const on = (name, what) => stage.addEventListener(name, what, { passive: false });
  const fingers = new Map();
  const middle = ({ offsetX, offsetY }) =>
    [offsetX - stage.clientWidth / 2, offsetY - stage.clientHeight / 2].map((value) => value * devicePixelRatio);
  const tell = (event) => {
    const { view, levels } = pane;
    const [{ width, height, pixels }] = levels;
    const [across, down] = middle(event);
    const x = Math.floor(view.x * width + across / view.scale);
    const y = Math.floor(view.y * height + down / view.scale);
    const value = x >= 0 && x < width ? pixels[y * width + x] : null;
    pane.reads[2].textContent = value == null ? pane.size : `${x}, ${y}: ${value}`;
  };
  on("focus", () => {
    active = pane;
    show();
  });
  on("pointerdown", (event) => {
    event.preventDefault();
    stage.focus({ preventScroll: true });
    stage.setPointerCapture(event.pointerId);
    fingers.set(event.pointerId, event);
  });
  on("pointermove", (event) => {
    tell(event);
    const before = fingers.get(event.pointerId);
    if (!before) return;
    const across = (event.clientX - before.clientX) * devicePixelRatio;
    const down = (event.clientY - before.clientY) * devicePixelRatio;
    const other = [...fingers.values()].find((each) => each.pointerId !== event.pointerId);
    if (other) {
      const far = (each) => Math.hypot(each.clientX - other.clientX, each.clientY - other.clientY) || 1;
      const [[x, y], [u, v]] = [middle(event), middle(other)];
      zoom(pane, far(event) / far(before), (x + u) / 2, (y + v) / 2);
      pan(pane, across / 2, down / 2);
    } else if ((tool === "pan") !== (event.buttons > 1 || event.shiftKey)) pan(pane, across, down);
    else shade(pane, (2 * across) / pane.canvas.width, -down / pane.canvas.height);
    fingers.set(event.pointerId, event);
    refresh();
  });
  for (const name of ["pointerup", "pointercancel"]) on(name, (event) => fingers.delete(event.pointerId));
  on("pointerleave", () => (pane.reads[2].textContent = pane.size));
  on("contextmenu", (event) => event.preventDefault());
  on("dblclick", (event) => {
    if (pane.view.fitted) zoom(pane, 1 / pane.view.scale, ...middle(event));
    else views(begun);
    refresh();
  });
  on("wheel", (event) => {
    event.preventDefault();
    zoom(pane, Math.exp(-event.deltaY / (event.deltaMode ? 30 : 600)), ...middle(event));
    refresh();
  });
};

// A canvas that was asked for WebGL gives no other context: a new one takes its place.
const plainly = (pane) => {
  const bare = pane.canvas.cloneNode();
  pane.canvas.replaceWith(bare);
  Object.assign(pane, { canvas: bare, draw: byHand(bare, pane.levels) });
  refresh();
};

// What a reader has set goes along to the page with another study, behind the # of its address: no server sees that.
// Of each picture, the place, zoom beside fitting (0: fitted), window beside its usual one, and whether it is inverted.
const settings = (pane) => {
  const { view, grey, usual } = pane;
  const zoomed = view.fitted ? 0 : view.scale / fit(pane);
  const window = [grey.width / usual.width, (grey.level - usual.level) / usual.width];
  return [view.x, view.y, zoomed, ...window, Number(pane.invert)].map((value) => Number(value.toPrecision(6))).join();
};
const carried = () => {
  const drawn = panes.filter((pane) => pane.draw);
  const kept = new URLSearchParams(drawn.map((pane) => [pane.stage.dataset.pixels, settings(pane)]));
  if (drawn.includes(active)) kept.set("other", settings(active));
  kept.set("linked", Object.keys(linked).filter((what) => linked[what]).join());
  return kept;
};
const brought = new URLSearchParams(location.hash.slice(1));
const numbers = (text) => (text ?? "").split(",").map(Number);
const restore = (pane) => {
  const mine = numbers(brought.get(pane.stage.dataset.pixels));
  const other = numbers(brought.get("other"));
  const [view, grey] = [linked.view, linked.grey].map((all) => (mine.length === 6 ? mine : all ? other : []));
  if (view.length === 6 && view.every(Number.isFinite) && view[2] > 0) {
    move(pane.view, view[0], view[1], clamp(view[2] * fit(pane), Math.min(fit(pane), 1) / 2, 32));
  }
  if (grey.length !== 6 || !grey.every(Number.isFinite)) return;
  const most = 2 ** pane.levels[0].bits - 1;
  pane.grey.width = clamp(pane.usual.width * grey[3], 1, 2 * most);
  pane.grey.level = clamp(pane.usual.level + pane.usual.width * grey[4], 0, most);
  pane.invert = grey[5] === 1;
};
document.addEventListener("click", (event) => {
  const link = event.target.closest("a[data-carry]");
  if (link && panes.some((pane) => pane.draw)) link.hash = carried();
});

const measure = ({ stage, canvas }) => {
  canvas.width = Math.max(1, stage.clientWidth * devicePixelRatio);
  canvas.height = Math.max(1, stage.clientHeight * devicePixelRatio);
  refresh();
};

const load = async (pane) => {
  const why = pane.stage.querySelector(".why");
  try {
    const first = await read(pane.stage.dataset.pixels);
    const size = `${first.width} × ${first.height}, ${first.bits} bits`;
    Object.assign(pane, { levels: halves(first), usual: usual(first), grey: usual(first), size });
    pane.reads[2].textContent = size;
    pane.draw = shaders && byShader(pane.canvas, pane.levels);
    pane.canvas.addEventListener("webglcontextlost", () => plainly(pane));
    if (!pane.draw) plainly(pane);
    measure(pane);
    restore(pane);
    handle(pane);
    new ResizeObserver(() => measure(pane)).observe(pane.stage);
    why.hidden = true;
    pane.stage.classList.add("ready");
  } catch (fault) {
    why.textContent = fault instanceof TypeError ? "the server did not answer" : fault.message;
    pane.stage.classList.add("none");
  }
};

if (brought.has("linked")) for (const what in linked) linked[what] = brought.get("linked").split(",").includes(what);
show();
panes.forEach(load);
