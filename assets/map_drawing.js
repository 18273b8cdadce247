// Draws the position map and its curve with a pen (pen.js) from the formula (positions.js). Knows no page: what is to be
// drawn comes as a `scene`, where it goes as a box { x, y, width, height } in CSS pixels.
//
// A scene: { trained, length, bands, difference, palette, cell: { query, key } }. `difference` asks for the tokens by which
// each key is nearer than in the vanilla model. A view: { rows: [from, to], columns: [from, to], log }, in tokens, one past
// the last; rows are queries, columns are keys or, with `log`, distances.
const FINEST = 512; // most rows and columns of colours; further pixels would show nothing new
const DRAFT = 256; // while a slider moves
const KNEE = 8; // tokens: where the logarithmic axis bends; below, it is nearly even
const LARGEST_NUMBER = 13; // pixels
const SMALLEST_NUMBER = 9;
const LARGE_CELL = 14; // pixels; from here on each cell has its number, and words stand in the corners
const WIDE_GROUP = 16; // in wider groups a number stands every 16 tokens

const PALETTES = {
  light: {
    ink: "#1f2328", soft: "#57606a", grid: "#dfe3e8", ground: "#ffffff", line: "#1f2328", chosen: "#cf0052",
    exact: ["#e6f3fb", "#5fb0de", "#084a7a"], grouped: ["#fdf1d3", "#e3a93c", "#6e4300"],
    nearer: ["#f2f6e9", "#5fbf8f", "#00523c"], unseen: "#f3b48c", hatch: "#a23b00",
    vanilla: "#a35f00", method: "#0072b2",
  },
  dark: {
    ink: "#e6e8eb", soft: "#a9b1bc", grid: "#3a404a", ground: "#16191f", line: "#ffffff", chosen: "#ff7aa8",
    exact: ["#12344b", "#2f86bd", "#b5dff8"], grouped: ["#40300a", "#b5822a", "#ffe2a6"],
    nearer: ["#1d3026", "#2f9e73", "#c8f5df"], unseen: "#7a2e06", hatch: "#ffb78a",
    vanilla: "#e69f00", method: "#56b4e9",
  },
};

const { format: commas } = new Intl.NumberFormat("en-US");

// Axes: tokens to pixels and back. Token n takes the stretch from n to n + 1.

function axisOf([from, to], start, size, log) {
  const bend = log ? (token) => Math.log1p(token / KNEE) : (token) => token;
  const unbend = log ? (value) => Math.expm1(value) * KNEE : (value) => value;
  const scale = size / (bend(to) - bend(from));
  return {
    from,
    to,
    log,
    each: (size / (to - from)) * (log ? 0 : 1), // pixels a token; none on the logarithmic axis, where they differ
    at: (token) => start + (bend(token) - bend(from)) * scale,
    token: (pixel) => unbend(bend(from) + (pixel - start) / scale),
  };
}

function ticksOf(axis, size, room) {
  if (axis.log) {
    const found = [];
    let last = -Infinity;
    for (const token of [0, ...Array.from({ length: 30 }, (_, n) => [1, 2, 5][n % 3] * 10 ** Math.floor(n / 3))]) {
      if (token < axis.from || token >= axis.to || axis.at(token) - last < room) continue;
      found.push(token);
      last = axis.at(token);
    }
    return found;
  }
  const least = ((axis.to - axis.from) * room) / size;
  const power = 10 ** Math.floor(Math.log10(Math.max(1, least)));
  const step = Math.max(1, [1, 2, 5, 10].find((times) => times * power >= least) * power);
  const found = [];
  for (let token = Math.ceil(axis.from / step) * step; token < axis.to; token += step) found.push(token);
  return found;
}

function drawAxes(pen, area, across, down, names, palette) {
  const look = { size: 11, fill: palette.soft };
  const bottom = area.y + area.height;
  const middle = (axis) => (axis.each >= 4 ? 0.5 : 0); // the middle of a token that can be told from the next
  const inside = (pixel, start, size) => pixel >= start - 1 && pixel <= start + size + 1;
  for (const token of ticksOf(across, area.width, 58)) {
    const x = across.at(token + middle(across));
    if (!inside(x, area.x, area.width)) continue;
    pen.path([[x, bottom], [x, bottom + 4]], { stroke: palette.soft });
    const half = commas(token).length * 3.2;
    pen.text(commas(token), Math.min(x, area.x + area.width - half), bottom + 12, { ...look, align: "center" });
  }
  for (const value of down.ticks ?? ticksOf(down, area.height, 26)) {
    const y = down.at(value + middle(down));
    if (!inside(y, area.y, area.height)) continue;
    pen.path([[area.x - 4, y], [area.x, y]], { stroke: palette.soft });
    pen.text(commas(value), area.x - 7, Math.max(y, area.y + 5), { ...look, align: "right" });
  }
  const named = { ...look, size: 12, fill: palette.ink };
  pen.text(names.across, area.x + area.width / 2, bottom + 27, { ...named, align: "center" });
  if (area.isNarrow) pen.text(names.down, area.x - NARROW_MARGINS.left, area.y - 12, named);
  else pen.text(names.down, area.x - 62, area.y + area.height / 2, { ...named, align: "center", angle: -Math.PI / 2 });
  pen.path([[area.x, area.y], [area.x, bottom], [area.x + area.width, bottom]], { stroke: palette.soft });
}

const MARGINS = { left: 72, right: 10, top: 8, bottom: 36 };
// Where each pixel across counts, the name of the axis that runs down stands above it, not beside.
const NARROW = 400; // pixels
const NARROW_MARGINS = { left: 52, right: 8, top: 24, bottom: 36 };

function areaOf(box) {
  const isNarrow = box.width < NARROW;
  const { left, right, top, bottom } = isNarrow ? NARROW_MARGINS : MARGINS;
  return {
    isNarrow,
    x: box.x + left,
    y: box.y + top,
    width: Math.max(40, box.width - left - right),
    height: Math.max(40, box.height - top - bottom),
  };
}

// Colours

function channels(colour) {
  return [1, 3, 5].map((start) => parseInt(colour.slice(start, start + 2), 16));
}

function shadeOf([low, middle, high], share) {
  const [from, to, along] = share < 0.5 ? [low, middle, share * 2] : [middle, high, share * 2 - 1];
  const ends = channels(to);
  return channels(from).map((channel, n) => Math.round(channel + (ends[n] - channel) * along));
}

// 256 shades as the 32-bit pixels of an ImageData.
const shadesOf = new Map();
function shades(ramp) {
  if (!shadesOf.has(ramp)) {
    const pixel = ([red, green, blue]) => ((255 << 24) | (blue << 16) | (green << 8) | red) >>> 0;
    shadesOf.set(ramp, Uint32Array.from({ length: 256 }, (_, n) => pixel(shadeOf(ramp, n / 255))));
  }
  return shadesOf.get(ramp);
}

function rampOf(scene, band) {
  return scene.difference ? scene.palette.nearer : band.group === 1 ? scene.palette.exact : scene.palette.grouped;
}

const UNSEEN_MARK = 0xff000001; // a pixel of this value is hatched afterwards

// The blocks of tokens that the cells along an axis stand for: [first, last] of each.
function blocksOf(axis, most) {
  const count = axis.log ? most : Math.min(most, axis.to - axis.from);
  const first = new Int32Array(count);
  const last = new Int32Array(count);
  const start = axis.at(axis.from);
  const size = (axis.at(axis.to) - start) / count;
  for (let n = 0; n < count; n++) {
    if (axis.log) {
      first[n] = Math.floor(axis.token(start + size * n) + 1e-9);
      last[n] = Math.max(first[n], Math.ceil(axis.token(start + size * (n + 1)) - 1e-9) - 1);
    } else {
      first[n] = axis.from + Math.floor((n * (axis.to - axis.from)) / count);
      last[n] = axis.from + Math.floor(((n + 1) * (axis.to - axis.from)) / count) - 1;
    }
  }
  return { count, first, last };
}

// The relative positions of a view's cells, exactly: nothing is averaged. A cell that stands for a block of queries and
// keys shows the pair in it that lies furthest apart, so that no position that the model never saw hides between two.
// Returns { values, kinds, rows, columns, ranges }: `kinds` has the band's index, 254 unseen, 255 nothing to see; `ranges`
// has the smallest and largest value of each band, unseen ones left out.
const NOTHING = 255;
const UNSEEN = 254;

function cellsOf(scene, across, down, most) {
  const rows = blocksOf(down, most);
  const columns = blocksOf(across, most);
  const values = new Int32Array(rows.count * columns.count);
  const kinds = new Uint8Array(values.length).fill(NOTHING);
  const ranges = scene.bands.map(() => [Infinity, -Infinity]);
  // Keys from the left come nearer, distances go further.
  const order = scene.bands.map((_, n) => n);
  if (!across.log) order.reverse();
  for (let row = 0; row < rows.count; row++) {
    const query = rows.last[row];
    let column = 0;
    for (const n of order) {
      const { until, group, shift } = scene.bands[n];
      const start = n ? scene.bands[n - 1].until : 0;
      const standing = Math.floor(query / group) + shift;
      let [low, high] = ranges[n];
      for (; column < columns.count; column++) {
        let distance = query - columns.first[column];
        if (across.log) {
          if (columns.first[column] > query) break;
          distance = Math.min(columns.last[column], query);
          if (distance >= until) break;
        } else if (distance < start) {
          break;
        }
        let position = standing - Math.floor((query - distance) / group);
        if (across.log) {
          // At one distance the position depends on where the query stands in its group: most at the group's first.
          const least = Math.max(rows.first[row], distance);
          const first = Math.ceil(least / group) * group;
          const at = first <= query ? first : least;
          position = Math.floor(at / group) + shift - Math.floor((at - distance) / group);
        }
        const value = scene.difference ? distance - position : position;
        const at = row * columns.count + column;
        values[at] = value;
        if (position >= scene.trained) {
          kinds[at] = UNSEEN;
          continue;
        }
        kinds[at] = n;
        if (value < low) low = value;
        if (value > high) high = value;
      }
      ranges[n] = [low, high];
    }
  }
  return { values, kinds, rows: rows.count, columns: columns.count, ranges };
}

// How a value of each band becomes a share of its ramp, 0 to 1: (value - low) * scale + least. In the overview all bands
// have one scale, so that two maps compare at a glance; near by, each spreads over what is in view, since neighboring cells
// differ by a position or none.
function sharesOf(scene, { ranges }, near) {
  const top = scene.difference ? Math.max(1, ...ranges.map(([, high]) => high)) : scene.trained - 1;
  return ranges.map(([low, high]) =>
    near ? { low, scale: 0.6 / Math.max(1, high - low), least: 0.1 } : { low: 0, scale: 1 / top, least: 0, top },
  );
}

// A canvas for pixels, kept in `kept` from one call to the next.
function pixelsOf(kept, name, width, height) {
  let found = kept[name];
  if (found?.canvas.width !== width || found?.canvas.height !== height) {
    const canvas = new OffscreenCanvas(width, height);
    const image = new ImageData(width, height);
    found = { canvas, context: canvas.getContext("2d"), image, pixels: new Uint32Array(image.data.buffer) };
    kept[name] = found;
  }
  found.pixels.fill(0);
  return found;
}

// The cells as pictures to lay over each other: their colours, one pixel a cell, and, of the area's size in device pixels,
// hatching where the model never saw the position.
function picturesOf(scene, cells, shares, width, height, kept) {
  const seen = pixelsOf(kept, "seen", cells.columns, cells.rows);
  const marks = pixelsOf(kept, "marks", cells.columns, cells.rows);
  const looks = scene.bands.map((band) => shades(rampOf(scene, band)));
  let unseen = false;
  for (let at = 0; at < seen.pixels.length; at++) {
    const kind = cells.kinds[at];
    if (kind === NOTHING) continue;
    if (kind === UNSEEN) {
      marks.pixels[at] = UNSEEN_MARK;
      unseen = true;
    } else {
      const { low, scale, least } = shares[kind];
      seen.pixels[at] = looks[kind][Math.min(255, Math.max(0, ((cells.values[at] - low) * scale + least) * 255)) | 0];
    }
  }
  seen.context.putImageData(seen.image, 0, 0);
  if (!unseen) return [seen.canvas];
  marks.context.putImageData(marks.image, 0, 0);
  const hatched = (kept.hatched ??= new OffscreenCanvas(1, 1));
  hatched.width = Math.max(1, Math.round(width)); // this empties it too
  hatched.height = Math.max(1, Math.round(height));
  const context = hatched.getContext("2d");
  context.imageSmoothingEnabled = false;
  context.drawImage(marks.canvas, 0, 0, hatched.width, hatched.height);
  context.globalCompositeOperation = "source-in";
  context.fillStyle = hatching(context, scene.palette);
  context.fillRect(0, 0, hatched.width, hatched.height);
  return [hatched, seen.canvas];
}

const HATCH = 8; // pixels from one stroke of the hatching to the next

function hatching(context, palette) {
  const tile = new OffscreenCanvas(HATCH, HATCH);
  const pen = tile.getContext("2d");
  pen.fillStyle = palette.unseen;
  pen.fillRect(0, 0, HATCH, HATCH);
  pen.strokeStyle = palette.hatch;
  pen.lineWidth = 1;
  pen.globalAlpha = 0.75;
  for (const shift of [-HATCH, 0, HATCH]) {
    pen.beginPath();
    pen.moveTo(shift, HATCH);
    pen.lineTo(shift + HATCH, 0);
    pen.stroke();
  }
  return context.createPattern(tile, "repeat");
}

// The map

function mapAxes(area, view) {
  return {
    across: axisOf(view.columns, area.x, area.width, view.log),
    down: axisOf(view.rows, area.y, area.height, false),
  };
}

// Draws a view of the map into a box. `kept` holds the cells and pictures of the last call, and gets this one's; `draft`
// is for pictures that are soon followed by the next.
function drawMap(pen, box, scene, view, { near = false, frame = null, kept = {}, pixelRatio = 1, draft = false } = {}) {
  const area = areaOf(box);
  const { palette } = scene;
  const { across, down } = mapAxes(area, view);
  const name = JSON.stringify([
    area, view, near, pixelRatio, draft, scene.trained, scene.difference, scene.dark,
    scene.bands.map(({ until, group, shift }) => [String(until), String(group), shift]),
  ]);
  if (kept.name !== name) {
    kept.cells = cellsOf(scene, across, down, draft ? DRAFT : FINEST);
    kept.shares = sharesOf(scene, kept.cells, near);
    const size = [area.width * pixelRatio, area.height * pixelRatio];
    kept.pictures = picturesOf(scene, kept.cells, kept.shares, ...size, kept);
    kept.name = name;
  }
  for (const picture of kept.pictures) pen.image(picture, area.x, area.y, area.width, area.height);
  pen.within(area.x, area.y, area.width, area.height, () => {
    if (near) drawGroups(pen, scene, across, down);
    drawEdges(pen, area, scene, across, down, near);
    if (across.each) drawNumbers(pen, scene, kept.shares, across, down);
    if (near || across.each >= LARGE_CELL) drawCorners(pen, area, scene, across, down);
    if (frame) drawFrame(pen, scene, across, down, frame);
  });
  drawCell(pen, area, scene, across, down); // not cut off where it stands at the border
  const scale = area.width < 240 ? "log." : "tokens, logarithmic";
  const named = view.log ? `distance i − j (${scale})` : "key position j (tokens)";
  drawAxes(pen, area, across, down, { across: named, down: "query position i (tokens)" }, palette);
}

// A line along the cells at one distance: a staircase where single cells can be seen, else straight.
function distanceLine(distance, across, down) {
  if (across.log) return [[across.at(distance), down.at(down.from)], [across.at(distance), down.at(down.to)]];
  const points = [];
  const key = (query) => query - distance + 1; // the first key of a query that lies nearer
  if (across.each < 2) {
    return [down.from, down.to].map((query) => [across.at(query - distance + 0.5), down.at(query)]);
  }
  for (let query = down.from; query < down.to; query++) {
    points.push([across.at(key(query)), down.at(query)], [across.at(key(query)), down.at(query + 1)]);
  }
  return points;
}

function drawEdges(pen, area, scene, across, down, near) {
  const { palette, bands, trained, length } = scene;
  const edges = bands
    .filter((band) => band.until < length)
    .map((band) => ({
      distance: band.until,
      look: { stroke: palette.line, width: near ? 2.5 : 1.75 },
      sides: (short) => [nearWords(band, short), farWords(bands.at(-1), short)],
    }));
  if (length > trained) {
    edges.push({
      distance: trained,
      look: { stroke: palette.chosen, width: 1.5, dash: [6, 4] },
      sides: () => (isApart(trained, bands, across) ? [`trained window: ${commas(trained)}`, ""] : []),
    });
  }
  for (const { distance, look, sides } of edges) {
    const line = distanceLine(distance, across, down);
    pen.path(line, { stroke: palette.ground, width: look.width + 2, opacity: 0.7 });
    pen.path(line, look);
    if (near || across.each >= LARGE_CELL) continue; // words in the corners cover less
    if (across.log) {
      const x = across.at(distance);
      const turned = { size: 11, weight: 600, fill: palette.ink, halo: palette.ground, angle: -Math.PI / 2 };
      const y = area.y + area.height - 8;
      if (x < across.at(across.from) + 8 || x > across.at(across.to) - 8) continue;
      // The legend has those that there is no room for.
      const fits = (words) => words.length * 6.4 < area.height - 8;
      sides(!sides(false).every(fits)).forEach((words, n) => {
        if (words && fits(words)) pen.text(words, x + (n ? 10 : -10), y, turned);
      });
    } else {
      alongDiagonal(pen, area, across, down, distance, sides(false), palette);
    }
  }
}

// What the nearest and the farthest cells in view are: in the corners where they lie, or both in the upper right one where
// nothing else is, since keys there come after their queries.
function drawCorners(pen, area, scene, across, down) {
  const { bands, trained, palette } = scene;
  const [query, key] = [down.to - 1, across.from];
  if (key > query) return;
  const short = area.width < 330;
  const isEmpty = across.to - 1 > down.from;
  const unseen = Positions.relative(bands, query, key) >= trained;
  const tags = [];
  if (bands.length > 1 && down.from - (across.to - 1) < bands[0].until) {
    tags.push([nearWords(bands[0], short), rampOf(scene, bands[0])[1], true]);
  }
  if (unseen) tags.push(["never seen in training", palette.unseen, isEmpty]);
  else if (bands.length > 1 && query - key >= bands[0].until) {
    tags.push([farWords(bands.at(-1), short), rampOf(scene, bands.at(-1))[1], isEmpty]);
  }
  let top = area.y;
  for (const [words, colour, isUp] of tags) {
    const width = Math.min(area.width, words.length * 6.7 + 30);
    const x = isUp ? area.x + area.width - width : area.x;
    const y = isUp ? top : area.y + area.height - 21;
    if (isUp) top += 22;
    pen.box(x, y, width, 21, { fill: palette.ground, stroke: palette.soft, opacity: 0.95 });
    pen.box(x + 6, y + 5, 11, 11, { fill: colour, stroke: palette.soft });
    pen.text(words, x + 23, y + 11, { size: 11.5, weight: 600, fill: palette.ink });
  }
}

function nearWords({ until }, short = false) {
  return short ? "neighbor band: exact" : `neighbor band: exact up to ${commas(until - 1)} back`;
}

function farWords({ group }, short = false) {
  if (group === 1) return "as before";
  if (group === Infinity) return "beyond: all at one position";
  return short ? `grouped by ${commas(group)}` : `grouped: ${commas(group)} tokens share a position`;
}

// Whether there is room for words between the line at a distance and every band's edge. The legend has them too.
function isApart(distance, bands, across) {
  const room = across.log ? 36 : 70;
  return bands.every(({ until }) => Math.abs(across.at(until) - across.at(distance)) > room);
}

// Words on both sides of a line of one distance, where it crosses the area, if it is long enough.
function alongDiagonal(pen, area, across, down, distance, sides, palette) {
  const slope = { x: across.at(1) - across.at(0), y: down.at(1) - down.at(0) };
  const first = Math.max(down.from, across.from + distance);
  const last = Math.min(down.to, across.to + distance);
  const run = Math.hypot(slope.x, slope.y) * (last - first);
  const angle = Math.atan2(slope.y, slope.x);
  const middle = (first + last) / 2;
  const [x, y] = [across.at(middle - distance + 0.5), down.at(middle)];
  sides.forEach((words, n) => {
    if (!words || run < words.length * 6.4 + 30) return;
    const away = n ? 19 : -17;
    const look = { size: 11.5, weight: 600, fill: palette.ink, halo: palette.ground, align: "center", angle };
    pen.text(words, x - Math.sin(angle) * away, y + Math.cos(angle) * away, look);
  });
}

// The borders of groups, where they can be seen: their blocks make the stair steps.
function drawGroups(pen, scene, across, down) {
  scene.bands.forEach(({ group, until }, n) => {
    const start = n ? scene.bands[n - 1].until : 0;
    if (group * across.each < 5) return;
    const strong = group > 1 && Number.isFinite(group);
    const look = { stroke: scene.palette.line, width: strong ? 1 : 0.5, opacity: strong ? 0.6 : 0.28 };
    const step = Number.isFinite(group) ? group : 1;
    if (step * across.each < 5) return;
    const firstOf = (from) => Math.ceil(from / step) * step;
    const limit = (query) => Math.min(down.to, Math.max(down.from, query));
    for (let key = firstOf(across.from); key <= across.to; key += step) {
      const [top, bottom] = [limit(key + start), limit(key + until)];
      if (top < bottom) pen.path([[across.at(key), down.at(top)], [across.at(key), down.at(bottom)]], look);
    }
    for (let query = firstOf(down.from); query <= down.to; query += step) {
      const left = Math.max(across.from, query - until + 1);
      const right = Math.min(across.to, query - start);
      if (left < right) pen.path([[across.at(left), down.at(query)], [across.at(right), down.at(query)]], look);
    }
  });
}

// Which cells carry their number, and where it stands: [query, key, value, x, y] of each. In a group one number stands
// for all its cells; where cells are too small for one each, every second, third ... has one.
function numbersOf(scene, across, down) {
  if (across.log || across.each < 4) return { size: 0, numbers: [] };
  const size = Math.max(SMALLEST_NUMBER, Math.min(LARGEST_NUMBER, down.each * 0.62, across.each * 0.45));
  const digits = String(Math.max(scene.difference ? scene.length : 0, Positions.largest(scene.bands, scene.length))).length;
  const room = { across: digits * size * 0.6 + 3, down: size * 1.2 };
  const numbers = [];
  scene.bands.forEach(({ group, until }, n) => {
    const start = n ? scene.bands[n - 1].until : 0;
    const each = across.each >= room.across && down.each >= LARGE_CELL;
    const block = each ? 1 : Math.min(group, WIDE_GROUP);
    const step = block * Math.max(Math.ceil(room.across / (block * across.each)), Math.ceil(room.down / (block * down.each)));
    const middle = (block - 1) >> 1;
    const whole = block === group;
    const half = Math.floor(room.across / 2 / across.each); // cells that a number covers on each side
    for (let query = Math.floor(down.from / step) * step; query < down.to; query += step) {
      for (let key = Math.floor(across.from / step) * step; key < across.to; key += step) {
        const [i, j] = [query + middle, key + middle];
        const inView = i >= down.from && i < down.to && j >= across.from && j < across.to;
        // No number runs into those of the next band. Above the diagonal there are none.
        if (!inView || j > i || i - j < start + (n ? half : 0) || i - j + half >= until) continue;
        const position = Positions.relative(scene.bands, i, j);
        const value = scene.difference ? i - j - position : position;
        const center = whole && !scene.difference ? block / 2 : middle + 0.5;
        const x = across.at(key + center);
        const space = Math.min(x - across.at(across.from), across.at(across.to) - x);
        if (space < String(value).length * size * 0.3) continue; // half of it would be cut off
        numbers.push([i, j, value, x, down.at(query + center)]);
      }
    }
  });
  return { size, numbers };
}

// Black or white, whichever stands out more (by the relative luminance of WCAG 2).
function inkOn(ground) {
  const [red, green, blue] = ground.map((channel) => (channel / 255) ** 2.2);
  return 0.2126 * red + 0.7152 * green + 0.0722 * blue > 0.179 ? "#000000" : "#ffffff";
}

function drawNumbers(pen, scene, shares, across, down) {
  const { size, numbers } = numbersOf(scene, across, down);
  for (const [i, j, value, x, y] of numbers) {
    const unseen = Positions.relative(scene.bands, i, j) >= scene.trained;
    const n = scene.bands.findIndex(({ until }) => i - j < until);
    const { low, scale, least } = shares[n];
    const share = Math.max(0, Math.min(1, (value - low) * scale + least));
    const ground = unseen ? channels(scene.palette.unseen) : shadeOf(rampOf(scene, scene.bands[n]), share);
    const look = { size, fill: inkOn(ground), align: "center" };
    pen.text(String(value), x, y + 0.5, unseen ? { ...look, halo: scene.palette.unseen } : look);
  }
}

function drawCell(pen, area, scene, across, down) {
  const { query, key } = scene.cell;
  const along = across.log ? query - key : key;
  const [left, right] = [across.at(along), across.at(along + 1)];
  const [top, bottom] = [down.at(query), down.at(query + 1)];
  const look = { stroke: scene.palette.chosen, width: 2 };
  const halo = { stroke: scene.palette.ground, width: 4.5 };
  const [x, y] = [(left + right) / 2, (top + bottom) / 2];
  if (x < area.x || x > area.x + area.width || y < area.y || y > area.y + area.height) return;
  if (right - left >= 7 && bottom - top >= 7) {
    for (const each of [halo, look]) pen.box(left, top, right - left, bottom - top, each);
  } else {
    for (const each of [halo, look]) pen.dot(x, y, 5, each);
  }
}

// Where the close-up lies in the overview.
function drawFrame(pen, scene, across, down, { rows, columns }) {
  const { palette } = scene;
  const ends = across.log ? [rows[0] - columns[1] + 1, rows[1] - columns[0]].map((each) => Math.max(0, each)) : columns;
  let [left, right] = ends.map((token) => across.at(token));
  let [top, bottom] = rows.map((query) => down.at(query));
  const least = 12; // pixels, so that it can be seen at 100,000 tokens too
  if (right - left < least) [left, right] = [(left + right - least) / 2, (left + right + least) / 2];
  if (bottom - top < least) [top, bottom] = [(top + bottom - least) / 2, (top + bottom + least) / 2];
  pen.box(left, top, right - left, bottom - top, { stroke: palette.ground, width: 4 });
  pen.box(left, top, right - left, bottom - top, { stroke: palette.ink, width: 1.5 });
}

// The curve

function curveAxes(area, scene, log) {
  const { query } = scene.cell;
  const own = Positions.relative(scene.bands, query, 0);
  // Vanilla may run far past the window: it leaves through the top, or the other curve would lie flat.
  const ceiling = Math.max(2, Math.min(query * 1.04, Math.max(scene.trained * 1.5, own * 1.1)));
  const across = axisOf([0, query + 1], area.x, area.width, log);
  const up = axisOf([0, ceiling], 0, area.height, log);
  const bottom = area.y + area.height;
  return { across, ceiling, down: { ...up, each: 0, at: (value) => bottom - up.at(value) } };
}

// Distance -> relative position for the selected query, a method beside vanilla, with the unseen positions hatched.
function drawCurve(pen, box, scene, log) {
  const area = areaOf(box);
  const { palette, bands, trained } = scene;
  const { query, key } = scene.cell;
  const { across, down, ceiling } = curveAxes(area, scene, log);
  const vanilla = Positions.bands("vanilla", {});
  const isVanilla = bands.length === 1;
  const bottom = area.y + area.height;
  down.ticks = ticksOf({ ...axisOf([0, ceiling], 0, area.height, log), each: 0 }, area.height, 30);

  const points = (all) => {
    const found = [];
    let last = null;
    for (let x = area.x; x <= area.x + area.width; x += 0.5) {
      const distance = Math.max(0, Math.min(query, Math.floor(across.token(x) + 1e-9)));
      const value = Positions.relative(all, query, query - distance);
      const y = Math.max(area.y - 20, down.at(value));
      if (last !== null && y !== last) found.push([x, last]);
      if (y !== last) found.push([x, y]);
      last = y;
    }
    found.push([area.x + area.width, last]);
    return found;
  };
  const line = down.at(trained);
  pen.within(area.x, area.y, area.width, area.height, () => {
    if (ceiling > trained) {
      pen.box(area.x, area.y, area.width, line - area.y, { fill: palette.unseen, opacity: 0.55 });
      for (let x = area.x - area.height; x < area.x + area.width; x += 10) {
        const stroke = [[x, line], [x + line - area.y, area.y]];
        pen.path(stroke, { stroke: palette.hatch, width: 1, opacity: 0.5 });
      }
      const look = { size: 11.5, weight: 600, fill: palette.ink, halo: palette.ground };
      pen.path([[area.x, line], [area.x + area.width, line]], { stroke: palette.chosen, width: 1.5, dash: [6, 4] });
      const y = line - area.y > 24 ? (line + area.y) / 2 : line + 12; // a thin strip has no room for words
      const [x, align] = log ? [area.x + 8, "left"] : [area.x + area.width - 8, "right"]; // beside vanilla's line
      const more = area.width > 330 ? `: ${commas(trained)} and more` : "";
      pen.text(`never seen in training${more}`, x, y, { ...look, align });
    }
    for (const band of bands.slice(0, -1)) {
      if (band.until > query) continue;
      const x = across.at(band.until);
      pen.box(area.x, area.y, x - area.x, area.height, { fill: palette.exact[1], opacity: 0.18 });
      pen.path([[x, area.y], [x, bottom]], { stroke: palette.soft, dash: [2, 3] });
    }
    pen.path(points(vanilla), { stroke: palette.vanilla, width: 2.5, dash: isVanilla ? undefined : [7, 5] });
    if (!isVanilla) pen.path(points(bands), { stroke: palette.method, width: 3 });
    for (const band of bands.slice(0, -1)) {
      if (band.until > query) continue;
      const [x, y] = [across.at(band.until), down.at(Positions.relative(bands, query, query - band.until))];
      pen.dot(x, y, 5, { fill: palette.method, stroke: palette.ground, width: 2 });
      const look = { size: 11.5, weight: 600, fill: palette.ink, halo: palette.ground };
      const words = elbowWords(band, area.width > 330 && bands.at(-1));
      const room = words.length * 6.7;
      pen.text(words, Math.min(x + 10, area.x + area.width - room), Math.min(y + 18, bottom - 10), look);
    }
    const x = across.at(query - key + (across.log ? 0 : 0.5));
    pen.path([[x, area.y], [x, bottom]], { stroke: palette.chosen, width: 1 });
    for (const all of isVanilla ? [vanilla] : [vanilla, bands]) {
      const y = down.at(Positions.relative(all, query, key));
      if (y >= area.y) pen.dot(x, y, 4.5, { fill: palette.ground, stroke: palette.chosen, width: 2 });
    }
  });
  const scale = log ? ", logarithmic" : "";
  const names = { across: `distance i − j (tokens${scale})`, down: `relative position${log ? " (log.)" : ""}` };
  drawAxes(pen, area, across, down, names, palette);
}

function elbowWords({ until }, last) {
  const after = { 1: ", then as before", Infinity: ", then flat" };
  const slope = last ? (after[last.group] ?? `, then 1/${commas(last.group)} as steep`) : "";
  return `elbow at w = ${commas(until)}${slope}`;
}
