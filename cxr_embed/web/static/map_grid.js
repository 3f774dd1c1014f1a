// Where points are: the nearest one, those within a line that was drawn, and the next one in a direction.

const SIDE = 512; // cells of the grid, each way

export class Grid {
  // places: Float32Array of x, y, x, y, ...
  constructor(places) {
    this.places = places;
    const count = (this.count = places.length / 2);
    let [left, bottom, right, top] = [Infinity, Infinity, -Infinity, -Infinity];
    for (let at = 0; at < places.length; at += 2) {
      if (places[at] < left) left = places[at];
      if (places[at] > right) right = places[at];
      if (places[at + 1] < bottom) bottom = places[at + 1];
      if (places[at + 1] > top) top = places[at + 1];
    }
    if (!count) [left, bottom, right, top] = [0, 0, 1, 1];
    this.box = { left, bottom, right, top };
    this.step = Math.max(right - left, top - bottom) / SIDE || 1;
    // Rows in the order of their cells: `first[cell]` is where a cell begins.
    const first = new Uint32Array(SIDE * SIDE + 1);
    const cells = new Uint32Array(count);
    for (let row = 0; row < count; row++) first[(cells[row] = this.cell(places[2 * row], places[2 * row + 1])) + 1]++;
    for (let cell = 0; cell < SIDE * SIDE; cell++) first[cell + 1] += first[cell];
    const next = first.slice();
    this.rows = new Uint32Array(count);
    for (let row = 0; row < count; row++) this.rows[next[cells[row]]++] = row;
    this.first = first;
  }

  column(x) {
    return Math.min(SIDE - 1, Math.max(0, Math.floor((x - this.box.left) / this.step)));
  }

  line(y) {
    return Math.min(SIDE - 1, Math.max(0, Math.floor((y - this.box.bottom) / this.step)));
  }

  cell(x, y) {
    return this.line(y) * SIDE + this.column(x);
  }

  // Calls with each row of the cells that a box touches.
  each(left, bottom, right, top, call) {
    if (left > this.box.right || right < this.box.left || bottom > this.box.top || top < this.box.bottom) return;
    const [from, to] = [this.column(left), this.column(right)];
    for (let line = this.line(bottom); line <= this.line(top); line++) {
      const end = this.first[line * SIDE + to + 1];
      for (let at = this.first[line * SIDE + from]; at < end; at++) call(this.rows[at]);
    }
  }

  // The nearest row within a distance, of those that `shown` has; -1 for none.
  near(x, y, within, shown) {
    let [best, least] = [-1, within * within];
    this.each(x - within, y - within, x + within, y + within, (row) => {
      const apart = (this.places[2 * row] - x) ** 2 + (this.places[2 * row + 1] - y) ** 2;
      if (apart <= least && shown[row]) [best, least] = [row, apart];
    });
    return best;
  }

  // The nearest row of the whole map, looked for in ever larger squares.
  nearest(x, y, shown) {
    for (let within = this.step * 2; within < this.step * SIDE * 8; within *= 2) {
      const row = this.near(x, y, within, shown);
      if (row >= 0) return row;
    }
    return -1;
  }

  // The next row that lies within 45 degrees of a direction; -1 for none.
  toward(row, across, up, shown) {
    const [x, y] = [this.places[2 * row], this.places[2 * row + 1]];
    for (let within = this.step * 2; within < this.step * SIDE * 4; within *= 2) {
      let [best, least] = [-1, within * within];
      this.each(x - within, y - within, x + within, y + within, (other) => {
        const [dx, dy] = [this.places[2 * other] - x, this.places[2 * other + 1] - y];
        const along = dx * across + dy * up;
        const aside = Math.abs(dx * up - dy * across);
        const apart = dx * dx + dy * dy;
        if (other !== row && along > 0 && aside <= along && apart <= least && shown[other]) [best, least] = [other, apart];
      });
      if (best >= 0) return best;
    }
    return -1;
  }

  // Rows inside a polygon of [x, y], its edges by bands so that a point is compared with few of them.
  inside(corners, shown) {
    const ys = corners.map((corner) => corner[1]);
    const xs = corners.map((corner) => corner[0]);
    const [left, right, bottom, top] = [Math.min(...xs), Math.max(...xs), Math.min(...ys), Math.max(...ys)];
    const bands = Array.from({ length: 256 }, () => []);
    const height = (top - bottom) / bands.length || 1;
    const band = (y) => Math.min(bands.length - 1, Math.max(0, Math.floor((y - bottom) / height)));
    corners.forEach(([ax, ay], at) => {
      const [bx, by] = corners[(at + 1) % corners.length];
      if (ay === by) return;
      for (let each = band(Math.min(ay, by)); each <= band(Math.max(ay, by)); each++) bands[each].push([ax, ay, bx, by]);
    });
    const found = [];
    this.each(left, bottom, right, top, (row) => {
      const [x, y] = [this.places[2 * row], this.places[2 * row + 1]];
      if (!shown[row] || y < bottom || y > top || x < left || x > right) return;
      let within = false;
      for (const [ax, ay, bx, by] of bands[band(y)]) {
        if (ay > y !== by > y && x < ((bx - ax) * (y - ay)) / (by - ay) + ax) within = !within;
      }
      if (within) found.push(row);
    });
    return found;
  }
}
