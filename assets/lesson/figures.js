// The lesson's pictures as SVG text. Each takes what it shows as plain values and the width in CSS pixels that it has, so
// that letters keep their size on a phone. lesson.css says how they look, here and in a file.
const LessonFigures = (() => {
  const escaped = (value) => String(value).replace(/[&<>"]/g, (sign) => `&#${sign.charCodeAt(0)};`);
  const text = (x, y, words, kind = "", anchor = "start") =>
    `<text x="${x.toFixed(1)}" y="${y.toFixed(1)}" class="${kind}" text-anchor="${anchor}">${escaped(words)}</text>`;
  const box = (x, y, width, height, kind, round = 0) =>
    `<rect x="${x.toFixed(1)}" y="${y.toFixed(1)}" width="${Math.max(0, width).toFixed(1)}"
      height="${Math.max(0, height).toFixed(1)}" rx="${round}" class="${kind}"/>`;
  const line = (x1, y1, x2, y2, kind) =>
    `<line x1="${x1.toFixed(1)}" y1="${y1.toFixed(1)}" x2="${x2.toFixed(1)}" y2="${y2.toFixed(1)}" class="${kind}"/>`;
  const path = (points, kind) =>
    `<path d="M${points.map(([x, y]) => `${x.toFixed(1)},${y.toFixed(1)}`).join("L")}" class="${kind}"/>`;
  const drawing = (width, height, label, parts) =>
    `<svg class="fig" role="img" aria-label="${escaped(label)}" viewBox="0 0 ${width} ${Math.ceil(height)}"
      width="${width}" height="${Math.ceil(height)}">
      <defs><pattern id="hatch" width="7" height="7" patternUnits="userSpaceOnUse" patternTransform="rotate(45)">
        <rect width="7" height="7" class="hatch-ground"/><rect width="2.4" height="7" class="hatch-line"/>
      </pattern></defs>${parts.join("")}</svg>`;

  // The classes of a cell or key; with `told` false its position is kept back.
  const kinds = ({ near, unseen }, told = true) => `${near ? "near" : "far"}${unseen && told ? " unseen" : ""}`;
  const legend = (t) => {
    const entries = ["near", "far", "unseen"].map((kind) => `<span class="${kind}">${escaped(t(`kind.${kind}`))}</span>`);
    return `<p class="ls-legend">${entries.join("")}</p>`;
  };

  // 1. The prompt on a bar, the answers digit by digit, and how many digits are right at every recorded length.
  // rows = [{name, digits: [{got, right}] or null while hidden, said}]; strips = [{name, right: [0 ... of], of}].
  function answers(W, { label, length, longest, trainedWindow, keyAt, rows, strips, at, stripTitle, tokens }) {
    const across = (token) => (token / longest) * (W - 2) + 1;
    const parts = [
      box(across(0), 24, across(trainedWindow), 22, "trained", 4),
      box(across(0), 29, across(length), 12, "prompt", 3),
      box(across(keyAt) - 2, 24, 6, 22, "needle"),
      box(across(length) - 3, 24, 6, 22, "question"),
      line(across(trainedWindow), 18, across(trainedWindow), 52, "limit"),
      text(across(trainedWindow), 13, `L = ${tokens(trainedWindow)}`, "small", "middle"),
    ];
    // The length stands below the bar, since the trained window's mark stands above.
    parts.push(text(Math.max(60, across(length)), 62, tokens(length), "small strong", "end"));
    const narrow = W < 560;
    const tile = narrow ? 46 : 58;
    let y = 84;
    for (const row of rows) {
      const left = narrow ? 0 : 150;
      if (narrow) parts.push(text(0, y + 14, row.name, "strong"));
      else parts.push(text(0, y + tile / 2 + 6, row.name, "strong large"));
      const top = narrow ? y + 24 : y;
      row.digits.forEach((digit, index) => {
        const x = left + index * (tile + 8);
        const kind = digit === null ? "hidden" : digit.right ? "right" : "wrong";
        parts.push(box(x, top, tile, tile, `tile ${kind}`, digit?.right ? 12 : 3));
        parts.push(text(x + tile / 2, top + tile * 0.6, digit === null ? "?" : digit.got.trim() || "␣", "digit", "middle"));
        if (digit !== null) {
          parts.push(text(x + tile / 2, top + tile - 5, digit.right ? "✓" : "✗", `sign ${kind}`, "middle"));
        }
      });
      if (row.said) {
        const beside = left + row.digits.length * (tile + 8) + 10;
        if (narrow) parts.push(text(0, top + tile + 19, row.said, "small"));
        else parts.push(text(beside, top + tile / 2 + 6, row.said, "small"));
      }
      y = top + tile + (narrow ? 36 : 20);
    }
    if (strips.length) {
      parts.push(text(0, y + 14, stripTitle, "small"));
      y += 26;
      const left = narrow ? 0 : 150;
      for (const strip of strips) {
        if (narrow) parts.push(text(0, y + 12, strip.name, "small"));
        else parts.push(text(0, y + 26, strip.name, "small"));
        const top = narrow ? y + 18 : y;
        const step = (W - left - 2) / strip.right.length;
        strip.right.forEach((right, index) => {
          const tall = 5 + (25 * right) / strip.of;
          const whole = right === strip.of;
          const kind = `${whole ? "right" : "wrong"} bar${index === at ? " now" : ""}`;
          parts.push(box(left + index * step + 1, top + 30 - tall, step - 2, tall, kind, whole ? 3 : 0));
        });
        y = top + 42;
      }
    }
    return drawing(W, y, label, parts);
  }

  // 2. One dial for each frequency pair. dials: see LessonModel.dials; grouped: the same at the grouped position, or null.
  function dials(W, { label, dials: exact, grouped, turn, hidden }) {
    const columns = W < 560 ? 4 : 8;
    const each = W / columns;
    const radius = Math.min(38, each / 2 - 5);
    const high = radius * 2 + 26;
    const parts = exact.map((dial, pair) => {
      const x = (pair % columns) * each + each / 2;
      const y = Math.floor(pair / columns) * high + radius + 4;
      const at = (angle, reach) => [x + reach * Math.sin(angle), y - reach * Math.cos(angle)];
      const kind = hidden ? "" : dial.outside ? "outside" : "inside";
      const [ex, ey] = at(dial.seen, radius);
      const arc = dial.whole
        ? `<circle cx="${x}" cy="${y}" r="${radius}" class="seen"/>`
        : `<path d="M${x},${y}L${x},${y - radius}A${radius},${radius} 0 ${dial.seen > Math.PI ? 1 : 0} 1 ${ex},${ey}Z" class="seen"/>`;
      const hands = [];
      if (grouped) hands.push(line(x, y, ...at(grouped[pair].angle, radius - 6), "hand grouped"));
      if (!hidden) {
        const [hx, hy] = at(dial.angle, radius - 3);
        hands.push(line(x, y, hx, hy, `hand ${kind}`));
        // The end of a hand outside its arc is a square, so that it is told apart without colour too.
        hands.push(dial.outside ? box(hx - 4.5, hy - 4.5, 9, 9, "end outside") : `<circle cx="${hx}" cy="${hy}" r="4" class="end inside"/>`);
      }
      return `<circle cx="${x}" cy="${y}" r="${radius}" class="dial"/>${arc}${hands.join("")}
        ${text(x, y + radius + 15, turn(dial.tokens), "tiny", "middle")}`;
    });
    return drawing(W, Math.ceil(exact.length / columns) * high + 6, label, parts);
  }

  // 3. The chain. marks = [{name, kind, position, score, weight, probability}].
  function chain(W, { label, curve, trainedWindow, furthest, marks, titles, share }) {
    const wide = W >= 640;
    const first = wide ? W * 0.52 : W;
    const high = 190;
    const scores = curve.map(([, value]) => value).concat(marks.map((mark) => mark.score));
    const low = Math.min(0, ...scores);
    const top = Math.max(...scores) * 1.08;
    const x = (position) => 34 + (position / furthest) * (first - 46);
    const y = (value) => 34 + (1 - (value - low) / (top - low)) * (high - 30);
    const parts = [
      text(0, 16, titles.score, "strong"),
      box(x(0), 30, x(trainedWindow - 1) - x(0), high + 4, "trained"),
      line(x(0), y(0), x(furthest), y(0), "axis"),
      path(curve.map(([position, value]) => [x(position), y(value)]), "curve"),
      text(x(trainedWindow - 1), high + 50, `${trainedWindow - 1}`, "tiny", "middle"),
      text(x(0), high + 50, "0", "tiny", "middle"),
      text(28, y(0) + 4, "0", "tiny", "end"),
      text(28, y(Math.max(...scores)) + 4, Math.round(Math.max(...scores)), "tiny", "end"),
    ];
    for (const mark of marks) {
      parts.push(line(x(mark.position), y(low), x(mark.position), y(mark.score), `drop ${mark.kind}`));
      parts.push(sign(x(mark.position), y(mark.score), mark.kind));
    }
    const left = wide ? first + 24 : 0;
    let under = wide ? 0 : high + 70;
    for (const name of ["weight", "probability"]) {
      parts.push(text(left, under + 16, titles[name], "strong"));
      for (const [index, mark] of marks.entries()) {
        const at = under + 30 + index * 40;
        const room = W - left;
        parts.push(text(left + 18, at + 10, `${mark.name} · ${share(mark[name])}`, "small"));
        parts.push(sign(left + 6, at + 5, mark.kind));
        parts.push(box(left, at + 16, room, 12, "track", 2), box(left, at + 16, room * mark[name], 12, `fill ${mark.kind}`, 2));
      }
      under += 122;
    }
    return drawing(W, wide ? Math.max(high + 60, under) : under, label, parts);
  }

  // Vanilla's marks are squares, SelfExtend's are round, everywhere in the lesson.
  function sign(x, y, kind) {
    return kind === "vanilla"
      ? box(x - 5.5, y - 5.5, 11, 11, "mark vanilla")
      : `<circle cx="${x.toFixed(1)}" cy="${y.toFixed(1)}" r="6" class="mark selfextend"/>`;
  }

  // 4. The grid, which is a table on the page, as a drawing for a file. cells = rows of {position, near, unseen}.
  function grid({ label, cells }) {
    const size = 30;
    const across = (column) => 30 + column * size;
    const down = (row) => 24 + row * size;
    const parts = cells.flatMap((row, i) => [
      text(across(i) + size / 2, 16, i, "tiny", "middle"),
      text(20, down(i) + size / 2 + 4, i, "tiny", "end"),
      ...row.flatMap(({ position, near, unseen }, j) => [
        box(across(j) + 1, down(i) + 1, size - 2, size - 2, `key ${kinds({ near, unseen })}`, near ? size / 2 : 2),
        text(across(j) + size / 2, down(i) + size / 2 + 5, position, "", "middle"),
      ]),
    ]);
    const side = 34 + cells.length * size;
    return drawing(side, side, label, parts);
  }

  // 5. A row on a number line. pegs = [{key, position, near}]; `shifted` tells by how much far pegs were moved.
  function seam(W, { label, pegs, trainedWindow, shifted, names }) {
    const last = Math.max(...pegs.map((peg) => peg.position), trainedWindow);
    const x = (position) => 18 + (position / last) * (W - 36);
    const radius = Math.max(5, Math.min(13, (W - 36) / last / 2 - 1));
    const stacked = new Map();
    const piles = { near: 1, far: 1 };
    const pegPlace = pegs.map((peg) => {
      const pile = `${peg.near},${peg.position}`;
      const level = stacked.get(pile) ?? 0;
      stacked.set(pile, level + 1);
      const side = peg.near ? "near" : "far";
      piles[side] = Math.max(piles[side], level + 1);
      return { ...peg, level };
    });
    const above = 30 + piles.near * (2 * radius + 3) + 14;
    const height = above + 46 + piles.far * (2 * radius + 3) + 12;
    const parts = [
      text(0, 14, names.near, "small near-name"),
      box(x(0) - 8, above - 3, x(trainedWindow - 1) - x(0) + 16, 28, "trained", 4),
      line(x(0) - 10, above + 26, x(last) + 10, above + 26, "axis"),
    ];
    const every = Math.max(1, Math.ceil((22 * (last + 1)) / W));
    for (let at = 0; at <= last; at += every) parts.push(text(x(at), above + 16, at, "tiny tick", "middle"));
    for (const { key, position, near, level } of pegPlace) {
      const y = near ? above - 10 - radius - level * (2 * radius + 3) : above + 34 + radius + level * (2 * radius + 3);
      const unseen = position >= trainedWindow ? " unseen" : "";
      parts.push(
        near
          ? `<circle cx="${x(position).toFixed(1)}" cy="${y.toFixed(1)}" r="${radius.toFixed(1)}" class="peg near${unseen}"/>`
          : box(x(position) - radius, y - radius, 2 * radius, 2 * radius, `peg far${unseen}`, 1),
      );
      if (radius >= 9) parts.push(text(x(position), y + 4, key, "tiny peg-name", "middle"));
    }
    parts.push(text(0, height - 2, `${names.far}${shifted ? ` · +${shifted}` : ""}`, "small far-name"));
    return drawing(W, height + 4, label, parts);
  }

  // 6. Weights of near and far keys, normalised apart and together.
  function softmaxes(W, { label, panels, names }) {
    const wide = W >= 560;
    const room = wide ? (W - 40) / 2 : W;
    const high = 130;
    const parts = [];
    panels.forEach((panel, index) => {
      const left = wide ? index * (room + 40) : 0;
      const top = wide ? 0 : index * (high + 76);
      parts.push(text(left, top + 16, panel.title, "strong"));
      const bars = [...panel.near.map((weight) => ["near", weight]), ...panel.far.map((weight) => ["far", weight])];
      const step = room / (bars.length + 0.6);
      bars.forEach(([kind, weight], at) => {
        const x = left + at * step + (kind === "far" ? step * 0.6 : 0);
        const tall = Math.max(1, weight * high);
        parts.push(box(x, top + 34 + high - tall, step - 6, tall, `weight ${kind}`, kind === "near" ? 5 : 0));
        parts.push(text(x + step / 2 - 3, top + 28 + high - tall, `${Math.round(weight * 100)}`, "tiny", "middle"));
      });
      const sum = (list) => `${Math.round(list.reduce((total, weight) => total + weight, 0) * 100)}%`;
      parts.push(line(left, top + 34 + high, left + room, top + 34 + high, "axis"));
      parts.push(text(left, top + 54 + high, `${names.near} ${sum(panel.near)}`, "small near-name"));
      const farAt = left + panel.near.length * step + step * 0.6;
      parts.push(text(farAt, top + 54 + high, `${names.far} ${sum(panel.far)}`, "small far-name"));
    });
    return drawing(W, wide ? high + 64 : 2 * (high + 76) - 10, label, parts);
  }

  // 7. One row of keys, those that share a position tied together. keys = [{key, position, near}].
  function ties(W, { label, keys, chosen, hidden }) {
    const cell = Math.min(46, (W - 2) / keys.length);
    const parts = [];
    const left = (index) => index * cell + 1;
    keys.forEach(({ key, position, near }, index) => {
      const x = left(index);
      parts.push(text(x + cell / 2, 16, key, "tiny", "middle"));
      parts.push(box(x + 1, 24, cell - 2, cell - 2, `key ${near ? "near" : "far"}${index === chosen ? " chosen" : ""}`, near ? cell / 2 : 2));
      if (cell >= 15) parts.push(text(x + cell / 2, 24 + cell / 2 + 4, hidden ? "?" : position, cell >= 26 ? "" : "tiny", "middle"));
    });
    let start = 0;
    keys.forEach(({ position, near }, index) => {
      const next = keys[index + 1];
      if (next && next.position === position && !next.near && !near) return;
      if (!near && index > start && !hidden) {
        const [from, to] = [left(start) + 4, left(index) + cell - 4];
        parts.push(`<path d="M${from},${cell + 28}v9H${to}v-9" class="tie"/>`);
        if (to - from > 34) parts.push(text((from + to) / 2, cell + 54, `= ${position}`, "small", "middle"));
      }
      start = index + 1;
    });
    return drawing(W, cell + 64, label, parts);
  }

  // 8. The largest position by length, as steps. points = [[tokens, position]].
  function reach(W, { label, points, last, tokens, reach: end, paper, names, hidden }) {
    const most = points.at(-1)[0];
    const highest = Math.max(last + 1, ...points.map(([, position]) => position)) + 1;
    const high = 240;
    const x = (n) => 34 + ((n - 1) / (most - 1)) * (W - 50);
    const y = (position) => 24 + (1 - position / highest) * high;
    const stairs = points.flatMap(([n, position], index) => (index ? [[x(n), y(points[index - 1][1])], [x(n), y(position)]] : [[x(n), y(position)]]));
    const now = points.find(([n]) => n === tokens);
    const parts = [
      box(x(1), y(last), x(most) - x(1), y(0) - y(last), "trained"),
      line(x(1), y(last), x(most), y(last), "limit"),
      text(28, y(last) + 4, last, "tiny", "end"),
      text(28, y(0) + 4, "0", "tiny", "end"),
    ];
    if (!hidden) {
      parts.push(path(stairs, "curve"));
      parts.push(line(x(end), y(0), x(end), 24, "drop selfextend"), text(x(end), 16, `${names.reach} ${end}`, "small", end > most * 0.7 ? "end" : "middle"));
      if (paper !== end) parts.push(line(x(paper), y(0), x(paper), 40, "drop vanilla"), text(x(paper), y(0) + 34, `${names.paper} ${paper}`, "small", "end"));
    }
    // The axis's ends are named where the number of tokens at hand leaves room for it.
    const apart = (n) => hidden || Math.abs(x(n) - x(tokens)) > 34;
    if (apart(1)) parts.push(text(x(1), y(0) + 18, "1", "tiny", "middle"));
    if (apart(most)) parts.push(text(x(most), y(0) + 18, most, "tiny", "end"));
    if (now && !hidden) {
      const kind = now[1] > last ? "vanilla" : "selfextend";
      parts.push(sign(x(now[0]), y(now[1]), kind), text(x(now[0]), y(0) + 18, now[0], "tiny strong", "middle"));
    }
    return drawing(W, high + 66, label, parts);
  }

  // 9. A key's weight by the number of keys, on a logarithmic axis. lines = [{kind, points: [[n, weight]]}].
  function thinning(W, { label, lines, count, from, to, hidden, number }) {
    const high = 210;
    const x = (n) => 44 + (Math.log(n / from) / Math.log(to / from)) * (W - 66);
    const y = (weight) => 14 + (1 - weight) * high;
    const parts = [0, 0.5, 1].map((weight) => line(44, y(weight), W - 20, y(weight), "axis") + text(38, y(weight) + 4, `${weight * 100}%`, "tiny", "end"));
    for (let n = from; n <= to; n *= 10) parts.push(text(x(n), high + 34, number(n), "tiny", n === to ? "end" : "middle"));
    for (const { kind, points } of hidden ? [] : lines) {
      parts.push(path(points.map(([n, weight]) => [x(n), y(weight)]), `curve ${kind}`));
      const [n, weight] = points.find(([keys]) => keys === count);
      parts.push(sign(x(n), y(weight), kind));
    }
    parts.push(line(x(count), y(0), x(count), y(1), "drop selfextend"));
    return drawing(W, high + 44, label, parts);
  }

  // 10. The map of a whole text in blocks. cells = rows of {position, near, unseen} for the first cell of each block.
  function map(W, { label, cells, chosen, hidden, trainedWindow }) {
    const room = Math.min(W - 2, 460);
    const size = room / cells.length;
    const left = (W - room) / 2;
    const parts = [];
    cells.forEach((row, at) =>
      row.forEach(({ position, near, unseen }, column) => {
        const shade = hidden ? "" : ` style="fill-opacity:${(0.12 + 0.88 * Math.min(1, position / trainedWindow)).toFixed(2)}"`;
        const kind = hidden ? "blank" : unseen ? "unseen" : near ? "near" : "far";
        parts.push(
          `<rect x="${(left + column * size).toFixed(1)}" y="${(1 + at * size).toFixed(1)}" width="${size.toFixed(2)}"
            height="${size.toFixed(2)}" class="block ${kind}" data-block="${at},${column}"${unseen ? "" : shade}/>`,
        );
      }),
    );
    const [row, column] = chosen;
    parts.push(box(left + column * size - 1.5, 1 + row * size - 1.5, size + 3, size + 3, "chosen-block"));
    return drawing(W, room + 4, label, parts);
  }

  return { escaped, kinds, legend, answers, dials, chain, grid, seam, softmaxes, ties, reach, thinning, map };
})();
