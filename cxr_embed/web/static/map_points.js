// Draws points: by WebGL 2 or, where there is none, pixel by pixel.

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
  const order = Uint32Array.from({ length: count }, (_, at) => at);
  let state = 1;
  for (let at = count - 1; at > 0; at--) {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    const other = Math.floor((state / 4294967296) * (at + 1));
    [order[at], order[other]] = [order[other], order[at]];
  }
  return order;
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
    const ordered = new Float32Array(places.length);
    this.order.forEach((row, place) => ordered.set([places[2 * row], places[2 * row + 1]], 2 * place));
    this.fill(program, "place", 2, gl.FLOAT, ordered);
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
    this.canvas = canvas;
    this.places = places;
    this.count = places.length / 2;
    this.order = shuffled(this.count);
    this.codes = this.flags = new Uint8Array(this.count);
    this.colours = new Uint8Array(1024);
  }

  draw(view, look, most = this.count) {
    const { canvas, places, codes, flags, colours, order } = this;
    const { width, height } = canvas;
    const ratio = width / (canvas.clientWidth || 1);
    const image = new ImageData(width, height);
    const pixels = new Uint32Array(image.data.buffer);
    const size = Math.max(1, Math.round(look.size * ratio));
    const packed = new Uint32Array(colours.buffer);
    for (let at = 0; at < Math.min(most, order.length); at++) {
      const row = order[at];
      const own = packed[codes[row]];
      if (!flags[row] || !(own >>> 24)) continue;
      const x = Math.round((places[2 * row] - view.x) * view.scale * ratio + width / 2 - size / 2);
      const y = Math.round((view.y - places[2 * row + 1]) * view.scale * ratio + height / 2 - size / 2);
      if (x < 0 || y < 0 || x + size > width || y + size > height) continue;
      const faint = look.choosing && flags[row] < 2;
      const colour = faint ? (own & 0xffffff) | 0x30000000 : own;
      for (let line = y; line < y + size; line++) pixels.fill(colour, line * width + x, line * width + x + size);
    }
    canvas.getContext("2d").putImageData(image, 0, 0);
  }
}

export const painter = (canvas, places) => {
  const gl = canvas.getContext("webgl2", { antialias: false, powerPreference: "high-performance" });
  return gl ? new Shaded(canvas, gl, places) : new Plain(canvas, places);
};
