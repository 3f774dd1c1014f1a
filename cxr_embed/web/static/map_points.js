// Draws points: by WebGL 2 where a graphics card does it, else pixel by pixel: a processor that plays the card takes many
// times as long.

const VERTEX = `#version 300 es
in vec2 place; in float code; in float flag;
uniform vec2 middle, stretch; uniform float size, opacity; uniform bool choosing;
uniform sampler2D colours;
out vec4 colour;
void main() {
  vec4 own = texelFetch(colours, ivec2(int(code), 0), 0);
  bool chosen = flag > 1.5;
  float seen = own.a < 0.5 || flag < 0.5 ? 0.0 : choosing && !chosen ? opacity * 0.25 : choosing ? 1.0 : opacity;
  colour = vec4(own.rgb * seen, seen);
  gl_Position = seen > 0.0 ? vec4((place - middle) * stretch, 0.0, 1.0) : vec4(2.0, 2.0, 2.0, 1.0);
  gl_PointSize = choosing && chosen ? size + 1.0 : size;
}`;
const FRAGMENT = `#version 300 es
precision highp float;
in vec4 colour; uniform float size; out vec4 drawn;
void main() {
  if (size > 3.5 && length(gl_PointCoord - 0.5) > 0.5) discard;
  drawn = colour;
}`;

// The rows in a random order that is always the same: whatever stands last in the index does not hide the rest, and
// the first of them are a sample of all.
const shuffled = (count) => {
  const order = new Uint32Array(count);
  for (let at = 0; at < count; at++) order[at] = at;
  let state = 1;
  for (let at = count - 1; at > 0; at--) {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    const other = Math.floor((state / 4294967296) * (at + 1));
    [order[at], order[other]] = [order[other], order[at]];
  }
  return order;
};

const inOrder = (places, order) => {
  const ordered = new Float32Array(places.length);
  for (let at = 0; at < order.length; at++) {
    ordered[2 * at] = places[2 * order[at]];
    ordered[2 * at + 1] = places[2 * order[at] + 1];
  }
  return ordered;
};

// view: { x, y, scale }: the middle in the map's units, and pixels of the page for a unit.
class Shaded {
  constructor(canvas, gl, places) {
    this.canvas = canvas;
    this.gl = gl;
    this.count = places.length / 2;
    this.order = shuffled(this.count);
    this.bytes = new Uint8Array(this.count); // what is sent, in the order of drawing
    const program = gl.createProgram();
    for (const [kind, text] of [[gl.VERTEX_SHADER, VERTEX], [gl.FRAGMENT_SHADER, FRAGMENT]]) {
      const shader = gl.createShader(kind);
      gl.shaderSource(shader, text);
      gl.compileShader(shader);
      gl.attachShader(program, shader);
    }
    gl.linkProgram(program);
    if (!gl.getProgramParameter(program, gl.LINK_STATUS)) throw new Error(gl.getProgramInfoLog(program) || "WebGL stopped");
    gl.useProgram(program);
    const at = (name) => gl.getUniformLocation(program, name);
    this.uniforms = Object.fromEntries(["middle", "stretch", "size", "opacity", "choosing"].map((name) => [name, at(name)]));
    this.fill(program, "place", 2, gl.FLOAT, inOrder(places, this.order));
    this.buffers = {};
    for (const name of ["code", "flag"]) this.buffers[name] = this.fill(program, name, 1, gl.UNSIGNED_BYTE, this.bytes);
    gl.bindTexture(gl.TEXTURE_2D, gl.createTexture());
    for (const edge of [gl.TEXTURE_MIN_FILTER, gl.TEXTURE_MAG_FILTER]) gl.texParameteri(gl.TEXTURE_2D, edge, gl.NEAREST);
    gl.enable(gl.BLEND);
    gl.blendFunc(gl.ONE, gl.ONE_MINUS_SRC_ALPHA);
  }

  fill(program, name, width, kind, values) {
    const { gl } = this;
    const buffer = gl.createBuffer();
    gl.bindBuffer(gl.ARRAY_BUFFER, buffer);
    gl.bufferData(gl.ARRAY_BUFFER, values, gl.STATIC_DRAW);
    const place = gl.getAttribLocation(program, name);
    gl.enableVertexAttribArray(place);
    gl.vertexAttribPointer(place, width, kind, false, 0, 0);
    return buffer;
  }

  send(name, values) {
    const { gl, bytes, order } = this;
    for (let at = 0; at < order.length; at++) bytes[at] = values[order[at]];
    gl.bindBuffer(gl.ARRAY_BUFFER, this.buffers[name]);
    gl.bufferSubData(gl.ARRAY_BUFFER, 0, bytes);
  }

  set codes(codes) {
    this.send("code", codes);
  }

  set flags(flags) {
    this.send("flag", flags);
  }

  set colours(colours) {
    const { gl } = this;
    gl.texImage2D(gl.TEXTURE_2D, 0, gl.RGBA, 256, 1, 0, gl.RGBA, gl.UNSIGNED_BYTE, colours);
  }

  draw(view, look, most = this.count) {
    const { gl, canvas, uniforms } = this;
    const ratio = canvas.width / (canvas.clientWidth || 1);
    gl.viewport(0, 0, canvas.width, canvas.height);
    gl.clearColor(0, 0, 0, 0);
    gl.clear(gl.COLOR_BUFFER_BIT);
    gl.uniform2f(uniforms.middle, view.x, view.y);
    gl.uniform2f(uniforms.stretch, (2 * view.scale * ratio) / canvas.width, (2 * view.scale * ratio) / canvas.height);
    gl.uniform1f(uniforms.size, look.size * ratio);
    gl.uniform1f(uniforms.opacity, look.opacity);
    gl.uniform1i(uniforms.choosing, look.choosing ? 1 : 0);
    gl.drawArrays(gl.POINTS, 0, Math.min(most, this.count));
  }
}

class Plain {
  constructor(canvas, places) {
    this.context = canvas.getContext("2d");
    this.canvas = canvas;
    this.count = places.length / 2;
    this.order = shuffled(this.count);
    this.places = inOrder(places, this.order);
    this.kept = { codes: new Uint8Array(this.count), flags: new Uint8Array(this.count) }; // in the order of drawing
    this.colours = new Uint8Array(1024);
  }

  set codes(codes) {
    for (let at = 0; at < this.count; at++) this.kept.codes[at] = codes[this.order[at]];
  }

  set flags(flags) {
    for (let at = 0; at < this.count; at++) this.kept.flags[at] = flags[this.order[at]];
  }

  draw(view, look, most = this.count) {
    const { canvas, places } = this;
    const { codes, flags } = this.kept;
    const { width, height } = canvas;
    const ratio = width / (canvas.clientWidth || 1);
    if (this.image?.width !== width || this.image.height !== height) this.image = new ImageData(width, height);
    const pixels = new Uint32Array(this.image.data.buffer).fill(0);
    const bright = new Uint32Array(this.colours.buffer.slice(0));
    const faint = bright.map((own) => (own >>> 24 ? (own & 0xffffff) | 0x30000000 : 0));
    const tables = [new Uint32Array(256), look.choosing ? faint : bright, bright]; // by flag
    const size = Math.max(1, Math.round(look.size * ratio));
    const scale = view.scale * ratio;
    const [across, down] = [width / 2 - size / 2 + 0.5 - view.x * scale, height / 2 - size / 2 + 0.5 + view.y * scale];
    for (let at = 0; at < Math.min(most, this.count); at++) {
      const colour = tables[flags[at]][codes[at]];
      if (!colour) continue;
      const x = Math.floor(places[2 * at] * scale + across);
      const y = Math.floor(down - places[2 * at + 1] * scale);
      if (x < 0 || y < 0 || x + size > width || y + size > height) continue;
      for (let line = y * width + x; line < (y + size) * width + x; line += width) {
        for (let pixel = line; pixel < line + size; pixel++) pixels[pixel] = colour;
      }
    }
    this.context.putImageData(this.image, 0, 0);
  }
}

const hasCard = () => {
  const gl = document.createElement("canvas").getContext("webgl2");
  if (!gl) return false;
  const named = gl.getExtension("WEBGL_debug_renderer_info");
  const name = gl.getParameter(named ? named.UNMASKED_RENDERER_WEBGL : gl.RENDERER);
  gl.getExtension("WEBGL_lose_context")?.loseContext();
  return !/swiftshader|llvmpipe|softpipe|software|basic render/i.test(name);
};

export const painter = (canvas, places) => {
  const gl = hasCard() && canvas.getContext("webgl2", { antialias: false, powerPreference: "high-performance" });
  return gl ? new Shaded(canvas, gl, places) : new Plain(canvas, places);
};
