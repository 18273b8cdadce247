// The position map in the page: overview, close-up, curve, and what stands in words around them. Everything that has a
// number is worked out here (positions.js) and drawn here (map_drawing.js, pen.js), so that it follows a slider; only words
// of the document come from the server.
//
// mountPositionMap(root, { methods, difference, askForWords }) ->
//   settings(show, groupSize, neighborWindow)   what the page's controls say; `show` is a method's heading or `difference`
//   facts({ id, trained, length, model, documents })  what is read, or will be
//   words({ id, tokens: { token: [before, here, after] } })  the answer to askForWords([token, ...])
// methods: [{ kind, heading, symbols: [[attribute, symbol], ...] }]. See app/tabs/position_map.py.
function mountPositionMap(root, { methods, difference, askForWords }) {
  const SMALLEST_VIEW = 8; // tokens; zooming in further shows nothing new
  const WIDE = 520; // pixels: from here on overview and close-up stand side by side, as beside the chat at 1440 pixels
  const NARROW_BAND = 0.04; // of the text: a smaller neighbor band is first shown on the logarithmic axis

  root.innerHTML = `
    <p class="map-status"></p>
    <div class="map-tools">
      <fieldset class="map-axis"><legend>Across</legend>
        <label><input type="radio" name="map-axis" value="linear" checked> key position</label>
        <label><input type="radio" name="map-axis" value="log"> distance, logarithmic</label>
      </fieldset>
      <div class="map-buttons" role="group" aria-label="Position map">
        <button type="button" data-do="whole">Show all</button>
        <button type="button" data-do="map-png">PNG</button>
        <button type="button" data-do="map-svg">SVG</button>
      </div>
    </div>
    <div class="map-pair">
      <p class="map-title"></p>
      <figure>
        <figcaption>Overview</figcaption>
        <div class="map-sheet"><canvas class="map-overview" tabindex="0" role="application"
          aria-label="Position map, overview" aria-describedby="map-keys"></canvas><div class="map-rubber" hidden></div></div>
        <div class="map-legend"></div>
      </figure>
      <figure>
        <figcaption class="map-near-title"></figcaption>
        <div class="map-sheet"><canvas class="map-close-up" tabindex="0" role="application"
          aria-label="Position map, close-up" aria-describedby="map-keys"></canvas></div>
        <div class="map-tools">
          <div class="map-buttons" role="group" aria-label="Where to look closely">
            <button type="button" data-do="edge"></button>
            <button type="button" data-do="diagonal">Diagonal</button>
            <button type="button" data-do="oldest">Farthest key</button>
          </div>
          <label class="map-cells">Cells <select aria-label="Cells across the close-up">
            <option>64</option><option>32</option><option>16</option></select></label>
        </div>
      </figure>
    </div>
    <div class="map-readout readout" aria-live="polite"></div>
    <figure>
      <figcaption class="map-curve-title"></figcaption>
      <div class="map-sheet"><canvas class="map-curve" role="img"></canvas></div>
      <div class="map-buttons" role="group" aria-label="Curve">
        <button type="button" data-do="curve-png">PNG</button>
        <button type="button" data-do="curve-svg">SVG</button>
      </div>
    </figure>
    <details class="map-numbers"><summary>View and selected cell, as numbers</summary>
      <div></div>
      <p class="hint" id="map-keys">Drag a box in the overview to zoom in, double-click to show all; drag the close-up to move
      it. With the keyboard: arrow keys move the selected cell by one token, with Shift by 64, <kbd>Home</kbd> and
      <kbd>End</kbd> go to the first and the last key, <kbd>+</kbd> and <kbd>-</kbd> zoom, <kbd>0</kbd> shows all.</p>
    </details>
    <div class="map-tip" aria-hidden="true" hidden></div>`;
  const find = (selector) => root.querySelector(selector);
  const [overview, closeUp, curve] = ["overview", "close-up", "curve"].map((name) => find(`canvas.map-${name}`));
  const tip = find(".map-tip");
  const rubber = find(".map-rubber");
  const boxes = new Map();
  for (const name of ["Query from", "Query to", "Key from", "Key to", "Selected query i", "Selected key j"]) {
    const label = document.createElement("label");
    label.innerHTML = `<span>${name}</span><input type="number" min="0" step="1">`;
    boxes.set(name, label.lastChild);
    find(".map-numbers div").append(label);
  }

  let facts = null;
  let chosen = { show: methods[0].heading, group_size: 1, neighbor_window: 1 };
  let drawn = null; // the method and numbers on screen: the last ones without a complaint
  let log = false;
  let axisChosen = false;
  let view = null; // of the overview: { rows, columns }, columns on the axis at hand
  let cell = null; // { query, key }; null follows the edge of the neighbor band
  let own = null; // the cell that was chosen here: what is shown again when another panel's choice ends
  let center = null; // of the close-up, where it was moved away from the cell
  let pointed = null; // { query, key, x, y } under the pointer
  let words = new Map();
  let typing = false; // numbers that do not fit together yet stand in the boxes
  let waiting = false;
  let moving = null; // while settings change quickly: the timer that ends it
  const kept = new Map([[overview, {}], [closeUp, {}]]);
  const inSight = new Set(); // canvases; others are drawn when they come into sight

  const text = (value) => String(value).replace(/[&<>"]/g, (sign) => `&#${sign.charCodeAt(0)};`);
  const isDark = () => document.body.classList.contains("dark");
  const within = (value, low, high) => Math.min(high, Math.max(low, value));

  // What is looked at

  function wantedMethod() {
    const heading = chosen.show === difference ? "SelfExtend" : chosen.show;
    return methods.find((method) => method.heading === heading);
  }

  function settle() {
    if (!facts) return;
    const method = wantedMethod();
    const complaint = Positions.complaint(method.kind, chosen, facts.trained);
    if (!complaint) {
      const bands = Positions.bands(method.kind, chosen);
      drawn = { method, numbers: { ...chosen }, bands, difference: chosen.show === difference };
      clearTimeout(moving);
      moving = setTimeout(() => {
        moving = null;
        request();
      }, 150);
    }
    say(complaint);
    request();
  }

  function say(complaint) {
    const status = find(".map-status");
    if (complaint) {
      status.innerHTML = `<span role="alert" class="complaint">${text(complaint)}</span>`;
    } else if (drawn) {
      const reach = Positions.reach(drawn.bands, facts.trained);
      const over = facts.length - reach;
      const fits = over <= 0 ? "fits" : `is ${commas(over)} tokens too long`;
      const far = Number.isFinite(reach) ? commas(reach) : "any number of";
      status.innerHTML =
        `Reach <b>${far}</b> tokens: this document of <b>${commas(facts.length)}</b> ${fits}. Largest relative ` +
        `position <b>${commas(Positions.largest(drawn.bands, facts.length))}</b>; training showed the model ` +
        `0 … ${commas(facts.trained - 1)}.`;
    }
  }

  function named() {
    const { method, numbers } = drawn;
    const settings = method.symbols.map(([attribute, symbol]) => `${symbol} = ${commas(numbers[attribute])}`);
    return settings.length ? `${method.heading} (${settings.join(", ")})` : method.heading;
  }

  function edgeDistance() {
    const until = drawn.bands[0].until;
    return Number.isFinite(until) ? until : facts.trained;
  }

  function edgeCell() {
    const query = facts.length - 1;
    return { query, key: query >= edgeDistance() ? query - edgeDistance() : 0 };
  }

  const selected = () => cell ?? edgeCell();
  const whole = () => ({ rows: [0, facts.length], columns: [0, facts.length] });

  function scene() {
    return {
      trained: facts.trained,
      length: facts.length,
      bands: drawn.bands,
      difference: drawn.difference,
      dark: isDark(),
      palette: PALETTES[isDark() ? "dark" : "light"],
      cell: selected(),
    };
  }

  // A square of cells around a cell; at the text's ends it is moved along the diagonal, so that an edge stays in sight.
  function closeView() {
    const size = Math.min(Number(find("select").value), facts.length);
    const { query, key } = center ?? selected();
    const top = within(query - size / 2, 0, facts.length - size);
    const moved = Math.round(top - (query - size / 2));
    const left = within(key - size / 2 + moved, 0, facts.length - size);
    return { rows: [Math.round(top), Math.round(top) + size], columns: [Math.round(left), Math.round(left) + size], log: false };
  }

  function isInside({ query, key }, { rows, columns, log: logarithmic }) {
    const across = logarithmic ? query - key : key;
    return query >= rows[0] && query < rows[1] && across >= columns[0] && across < columns[1];
  }

  function choose(query, key, from = "map") {
    query = within(query, 0, facts.length - 1);
    cell = { query, key: within(key, 0, query) };
    typing = false;
    if (!isInside(cell, closeView()) || from !== "map") center = null;
    else center ??= { ...selected() };
    if (!isInside(cell, { ...view, log })) follow();
    if (from === "map") {
      own = cell;
      window.selfextendSelection?.select(cell.query, cell.key, "map");
    }
    askAbout(cell);
    request();
  }

  // Moves the overview so that the selected cell is in it.
  function follow() {
    const across = log ? cell.query - cell.key : cell.key;
    const around = ([from, to], token) => {
      if (token >= from && token < to) return [from, to];
      const start = within(token - Math.floor((to - from) / 2), 0, facts.length - (to - from));
      return [start, start + to - from];
    };
    view = { rows: around(view.rows, cell.query), columns: around(view.columns, across) };
  }

  function zoomTo(rows, columns) {
    const fitted = ([from, to]) => {
      const span = Math.min(facts.length, Math.max(SMALLEST_VIEW, Math.round(to) - Math.round(from)));
      const start = within(Math.round((from + to - span) / 2), 0, facts.length - span);
      return [start, start + span];
    };
    view = { rows: fitted(rows), columns: fitted(columns) };
    typing = false;
    request();
  }

  const showAll = () => zoomTo(...Object.values(whole()));

  function zoomBy(factor) {
    const { query, key } = selected();
    const around = ([from, to], token) => {
      const at = within(token + 0.5, from, to);
      return [at - (at - from) * factor, at + (to - at) * factor];
    };
    zoomTo(around(view.rows, query), around(view.columns, log ? query - key : key));
  }

  function setAxis(logarithmic) {
    const another = log !== logarithmic;
    log = logarithmic;
    find(`input[value="${log ? "log" : "linear"}"]`).checked = true;
    if (another && facts) showAll(); // keys and distances have no view in common
  }

  // Words

  let asking = null;
  function askAbout(...cells) {
    const tokens = cells.flatMap(({ query, key }) => [query, key]).filter((token) => !words.has(token));
    if (!tokens.length) return;
    clearTimeout(asking);
    asking = setTimeout(() => askForWords([...new Set(tokens)]), 60);
  }

  // A token's words, with what stands around them; "" as long as they are not known.
  function phrase(token, brief) {
    if (!words.has(token)) return "";
    const [before, here, after] = words.get(token).map((each) => text(each.replaceAll("\n", "↵")));
    if (!here) return "<i>room for the answer</i>";
    return brief ? `<b>${here}</b>` : `…${before}<b>${here}</b>${after}…`;
  }

  function told({ query, key }, brief) {
    const beside = drawn.method.kind === "vanilla" ? methods.find(({ kind }) => kind === "selfextend") : drawn.method;
    const shown = [methods.find(({ kind }) => kind === "vanilla"), beside];
    const lines = shown
      .filter(({ kind }) => !Positions.complaint(kind, drawn.numbers, facts.trained))
      .map(({ kind, heading }) => {
        const position = Positions.relative(Positions.bands(kind, drawn.numbers), query, key);
        const warning = position >= facts.trained ? " <mark>never seen in training</mark>" : "";
        const sum = brief ? `position <b>${commas(position)}</b>` : `<code>${Positions.explain(kind, drawn.numbers, query, key)}</code>`;
        return `<dt>${heading}</dt><dd>${sum}${warning}</dd>`;
      });
    for (const [name, token] of [["Words at i", query], ["Words at j", key]]) {
      const found = phrase(token, brief);
      if (found) lines.push(`<dt>${name}</dt><dd>${found}</dd>`);
    }
    const who = `<b>Query i = ${commas(query)}</b>, <b>key j = ${commas(key)}</b>, distance ${commas(query - key)}`;
    return `<p>${who}</p><dl>${lines.join("")}</dl>`;
  }

  // Drawing

  const isWide = () => root.clientWidth >= WIDE;

  function heightOf(canvas) {
    const width = canvas.parentElement.clientWidth;
    if (canvas === curve) return within(width * 0.5, 240, 320);
    if (isWide()) return within(closeUp.parentElement.clientWidth, 320, 520); // as high as each other
    return canvas === overview ? within(width * 0.68, 260, 460) : within(width * 0.84, 300, 620);
  }

  function sized(canvas) {
    const width = canvas.parentElement.clientWidth;
    const height = Math.round(heightOf(canvas));
    const ratio = Math.min(2, window.devicePixelRatio || 1);
    if (canvas.width !== Math.round(width * ratio) || canvas.height !== Math.round(height * ratio)) {
      canvas.width = Math.round(width * ratio);
      canvas.height = Math.round(height * ratio);
      canvas.style.height = `${height}px`;
    }
    const context = canvas.getContext("2d");
    context.setTransform(ratio, 0, 0, ratio, 0, 0);
    context.clearRect(0, 0, width, height);
    return { pen: canvasPen(context), box: { x: 0, y: 0, width, height }, ratio };
  }

  function request() {
    if (waiting) return;
    waiting = true;
    requestAnimationFrame(() => {
      waiting = false;
      draw();
    });
  }

  function draw() {
    if (!facts || !drawn || !root.isConnected || root.clientWidth === 0) return;
    const now = scene();
    const near = closeView();
    const wide = { ...view, log };
    put(".map-title", titleOf());
    put(".map-near-title", nearTitle(near));
    put(".map-curve-title", `What query ${commas(now.cell.query)} sees at each distance: ${named()}`);
    put('[data-do="edge"]', drawn.bands.length > 1 ? "Neighbor edge" : "Trained window's edge");
    find('[data-do="edge"]').setAttribute("aria-pressed", cell === null);
    const drawings = [
      [overview, (pen, box, look) => drawMap(pen, box, now, wide, { ...look, frame: near })],
      [closeUp, (pen, box, look) => drawMap(pen, box, now, near, { ...look, near: true })],
      [curve, (pen, box) => drawCurve(pen, box, now, log)],
    ];
    for (const [canvas, paint] of drawings) {
      if (!inSight.has(canvas)) continue;
      const { pen, box, ratio } = sized(canvas);
      paint(pen, box, { kept: kept.get(canvas), pixelRatio: ratio, draft: moving !== null });
    }
    curve.setAttribute("aria-label", curveWords(now));
    drawLegend(now);
    putHtml(".map-readout", told(now.cell, false));
    showTip();
    fillBoxes(now.cell);
  }

  function titleOf() {
    if (drawn.difference) return `How many positions nearer ${named()} puts each key`;
    return `Relative position at which each query sees each key: ${named()}`;
  }

  function nearTitle({ rows, columns }) {
    const span = ([from, to]) => `${commas(from)} … ${commas(to - 1)}`;
    return `Close-up: queries ${span(rows)}, keys ${span(columns)}`;
  }

  function curveWords({ cell: { query }, bands, trained }) {
    const largest = Positions.largest(bands, query + 1);
    return (
      `Curve of distance to relative position for query ${commas(query)}: ${named()} ends at ${commas(largest)}, ` +
      `vanilla at ${commas(query)}; the trained window ends at ${commas(trained - 1)}.`
    );
  }

  const shown = new Map();
  function putHtml(selector, html) {
    if (shown.get(selector) === html) return;
    shown.set(selector, html);
    find(selector).innerHTML = html;
  }
  const put = (selector, words) => putHtml(selector, text(words));

  function drawLegend({ palette, bands, trained, length }) {
    const bar = (ramp) => `<i style="background:linear-gradient(90deg,${ramp.join(",")})"></i>`;
    const ends = (low, top, ramp) => `<span class="map-bar">${commas(low)} ${bar(ramp)} ${commas(top)}</span>`;
    const entries = [];
    if (drawn.difference) {
      const top = kept.get(overview).shares?.[0].top ?? 1; // not drawn yet while out of sight
      entries.push(`<span>positions nearer than in the vanilla model ${ends(0, top, palette.nearer)}</span>`);
    } else {
      entries.push(`<span>exact ${ends(0, trained - 1, palette.exact)}</span>`);
      if (bands.length > 1) {
        const name = bands.at(-1).group === Infinity ? "all at one position" : "grouped";
        entries.push(`<span>${name} ${ends(0, trained - 1, palette.grouped)}</span>`);
      }
    }
    if (Positions.largest(bands, length) >= trained) {
      const look = `repeating-linear-gradient(135deg,${palette.unseen} 0 4px,${palette.hatch} 4px 5px)`;
      entries.push(`<span><i class="map-patch" style="background:${look}"></i> never seen in training (≥ ${commas(trained)})</span>`);
    }
    if (length > trained) {
      const look = `border-top:2px dashed ${palette.chosen}`;
      entries.push(`<span><i class="map-line" style="${look}"></i> distance ${commas(trained)}: vanilla leaves its trained window</span>`);
    }
    entries.push(`<span><i class="map-square" style="border-color:${palette.ink}"></i> close-up</span>`);
    entries.push(`<span><i class="map-dot" style="border-color:${palette.chosen}"></i> selected cell</span>`);
    putHtml(".map-legend", entries.join(""));
  }

  function fillBoxes({ query, key }) {
    if (typing) return;
    const across = log ? "Distance" : "Key";
    const values = [...view.rows, ...view.columns, query, key];
    [...boxes.values()].forEach((box, n) => {
      if (box !== document.activeElement) box.value = values[n]; // somebody may be typing into it
    });
    boxes.get("Key from").previousSibling.textContent = `${across} from`;
    boxes.get("Key to").previousSibling.textContent = `${across} to`;
  }

  function showTip() {
    tip.hidden = !pointed;
    if (!pointed) return;
    tip.innerHTML = told(pointed, true);
    const bounds = root.getBoundingClientRect();
    const left = within(pointed.x - bounds.left + 14, 0, Math.max(0, root.clientWidth - tip.offsetWidth - 4));
    const below = pointed.y - bounds.top + 18;
    tip.style.left = `${left}px`;
    tip.style.top = `${below}px`;
  }

  // Saving: the figure again with another pen, and under it what was read, with what.

  function captionOf() {
    const { trained, length, model, documents } = facts;
    const reach = Positions.reach(drawn.bands, trained);
    const far = Number.isFinite(reach) ? `reach ${commas(reach)} tokens` : "any number of tokens";
    return [
      `Model: ${model || "none"}, trained window ${commas(trained)} tokens`,
      `Method: ${named()}, ${far}`,
      `Document: ${documents.join(", ") || "none"}, ${commas(length)} tokens, room for the answer included`,
    ];
  }

  function wrapped(line, room) {
    const lines = [""];
    for (const word of line.split(" ")) {
      if (lines.at(-1) && lines.at(-1).length + word.length >= room) lines.push("");
      lines[lines.length - 1] += (lines.at(-1) ? " " : "") + word;
    }
    return lines;
  }

  function picture(which, penOf) {
    const now = scene();
    const width = 960;
    const title = find(which === "map" ? ".map-title" : ".map-curve-title").textContent;
    const caption = captionOf().flatMap((line) => wrapped(line, 130));
    const near = closeView();
    const figures =
      which === "map"
        ? [
            [560, (pen, box) => drawMap(pen, box, now, { ...view, log }, { frame: near, pixelRatio: 2 })],
            [24, (pen, { x, y }) => pen.text(nearTitle(near), x + 8, y + 12, { size: 13, weight: 600, fill: now.palette.ink })],
            [760, (pen, box) => drawMap(pen, box, now, near, { near: true, pixelRatio: 2 })],
          ]
        : [[420, (pen, box) => drawCurve(pen, box, now, log)]];
    const height = 44 + figures.reduce((sum, [high]) => sum + high, 0) + caption.length * 18 + 16;
    return penOf(width, height, title, (pen) => {
      pen.box(0, 0, width, height, { fill: now.palette.ground });
      pen.text(title, 16, 24, { size: 16, weight: 600, fill: now.palette.ink });
      let y = 44;
      for (const [high, drawFigure] of figures) {
        drawFigure(pen, { x: 8, y, width: width - 16, height: high });
        y += high;
      }
      caption.forEach((line, n) => pen.text(line, 16, y + 12 + n * 18, { size: 12.5, fill: now.palette.soft }));
    });
  }

  const FORMATS = {
    async png(width, height, title, drawWith) {
      const canvas = new OffscreenCanvas(width * 2, height * 2);
      const context = canvas.getContext("2d");
      context.scale(2, 2);
      drawWith(canvasPen(context));
      return canvas.convertToBlob({ type: "image/png" });
    },
    async svg(width, height, title, drawWith) {
      const pen = svgPen(width, height);
      drawWith(pen);
      return new Blob([pen.file(title)], { type: "image/svg+xml" });
    },
  };

  async function save(which, format) {
    const link = document.createElement("a");
    link.href = URL.createObjectURL(await picture(which, FORMATS[format]));
    const settings = named().replace(/[^\w]+/g, "-").replace(/-+$/, "");
    link.download = `position-${which}-${settings}.${format}`;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 10000);
  }

  // Pointer and keys

  function cellAt(canvas, event) {
    const bounds = canvas.getBoundingClientRect();
    const [x, y] = [event.clientX - bounds.left, event.clientY - bounds.top];
    const area = areaOf({ x: 0, y: 0, width: bounds.width, height: bounds.height });
    if (x < area.x || x > area.x + area.width || y < area.y || y > area.y + area.height) return null;
    if (canvas === curve) {
      const { query } = selected();
      const distance = Math.floor(curveAxes(area, scene(), log).across.token(x));
      return { query, key: within(query - distance, 0, query) };
    }
    const at = canvas === overview ? { ...view, log } : closeView();
    const { across, down } = mapAxes(area, at);
    const query = Math.floor(down.token(y));
    const along = Math.floor(across.token(x));
    const key = at.log ? query - along : along;
    return key >= 0 && key <= query && query < facts.length ? { query, key } : null;
  }

  function point(canvas, event) {
    const found = facts && drawn && event.pointerType === "mouse" ? cellAt(canvas, event) : null;
    pointed = found && { ...found, x: event.clientX, y: event.clientY };
    if (found) askAbout(found, selected());
    showTip();
  }

  let held = null; // { canvas, x, y, view, near, box } from the press of the button to its release

  function hold(canvas, event) {
    if (!facts || !drawn || event.button !== 0) return;
    const near = closeView();
    held = { canvas, x: event.clientX, y: event.clientY, near, moved: false };
    if (event.pointerType === "mouse") canvas.setPointerCapture(event.pointerId);
  }

  function drag(event) {
    const { canvas, x, y, near } = held;
    if (event.pointerType !== "mouse" || Math.hypot(event.clientX - x, event.clientY - y) < 5) return;
    held.moved = true;
    const bounds = canvas.getBoundingClientRect();
    const area = areaOf({ x: 0, y: 0, width: bounds.width, height: bounds.height });
    if (canvas === closeUp) {
      const size = near.rows[1] - near.rows[0];
      const middle = (span) => (span[0] + span[1]) / 2;
      const down = ((event.clientY - y) * size) / area.height;
      const across = ((event.clientX - x) * size) / area.width;
      center = { query: Math.round(middle(near.rows) - down), key: Math.round(middle(near.columns) - across) };
      request();
    } else if (canvas === overview) {
      const ends = (a, b, start, size) => [Math.min(a, b), Math.max(a, b)].map((each) => within(each, start, start + size));
      held.across = ends(x - bounds.left, event.clientX - bounds.left, area.x, area.width);
      held.down = ends(y - bounds.top, event.clientY - bounds.top, area.y, area.height);
      const [[left, right], [top, bottom]] = [held.across, held.down];
      const place = { left, top, width: right - left, height: bottom - top };
      for (const [side, value] of Object.entries(place)) rubber.style[side] = `${value}px`;
      rubber.hidden = false;
    }
  }

  function release(event) {
    const { canvas, moved, across, down } = held;
    held = null;
    rubber.hidden = true;
    if (moved && across) {
      const bounds = canvas.getBoundingClientRect();
      const axes = mapAxes(areaOf({ x: 0, y: 0, width: bounds.width, height: bounds.height }), { ...view, log });
      zoomTo(down.map(axes.down.token), across.map(axes.across.token));
    } else if (!moved) {
      const found = cellAt(canvas, event);
      if (found) choose(found.query, found.key);
    }
  }

  for (const canvas of [overview, closeUp, curve]) {
    canvas.addEventListener("pointerdown", (event) => hold(canvas, event));
    canvas.addEventListener("pointermove", (event) => {
      if (held) drag(event);
      point(canvas, event);
    });
    canvas.addEventListener("pointerup", (event) => held && release(event));
    canvas.addEventListener("pointercancel", () => {
      held = null;
      rubber.hidden = true;
    });
    canvas.addEventListener("pointerleave", () => {
      pointed = null;
      showTip();
    });
  }
  overview.addEventListener("dblclick", () => facts && showAll());
  overview.addEventListener(
    "wheel",
    (event) => {
      if (!facts || !event.ctrlKey) return; // the wheel alone scrolls the page
      event.preventDefault();
      const found = cellAt(overview, event);
      if (found) zoomBy(event.deltaY < 0 ? 0.8 : 1.25);
    },
    { passive: false },
  );

  function key(event, logarithmic) {
    if (!facts || !drawn || event.ctrlKey || event.metaKey || event.altKey) return;
    const { query, key: at } = selected();
    const step = event.shiftKey ? 64 : 1;
    const right = logarithmic ? -step : step;
    const moves = {
      ArrowLeft: [query, at - right],
      ArrowRight: [query, Math.min(query, at + right)],
      ArrowUp: [query - step, at],
      ArrowDown: [query + step, at],
      Home: [query, 0],
      End: [query, query],
      PageUp: [query - 64, at],
      PageDown: [query + 64, at],
    };
    const zooms = { "+": 0.5, "=": 0.5, "-": 2, _: 2 };
    if (event.key in moves) choose(...moves[event.key]);
    else if (event.key in zooms) zoomBy(zooms[event.key]);
    else if (event.key === "0") showAll();
    else return;
    event.preventDefault();
  }
  overview.addEventListener("keydown", (event) => key(event, log));
  closeUp.addEventListener("keydown", (event) => key(event, false));

  function typed() {
    const numbers = [...boxes.values()].map((box) => (box.value === "" ? NaN : Number(box.value)));
    const [rowFrom, rowTo, from, to, query, at] = numbers;
    const { length } = facts;
    const across = log ? "Distance" : "Key";
    const range = (name, low, high) => {
      if (![low, high].every(Number.isInteger)) return `${name} from and to both need a whole number.`;
      if (low < 0) return `${name} from must be at least 0, not ${low}.`;
      if (high > length) return `${name} to must be at most the length (${commas(length)}), not ${commas(high)}.`;
      return low < high ? "" : `${name} from (${commas(low)}) must be smaller than ${name} to (${commas(high)}).`;
    };
    const isCell = Number.isInteger(query) && Number.isInteger(at) && at >= 0 && at <= query && query < length;
    const causal = `The selected cell needs 0 <= key <= query < ${commas(length)}: causal attention looks back only.`;
    const complaint = range("Query", rowFrom, rowTo) || range(across, from, to) || (isCell ? "" : causal);
    say(complaint);
    typing = Boolean(complaint);
    if (complaint) return;
    view = { rows: [rowFrom, rowTo], columns: [from, to] };
    const now = selected();
    if (query !== now.query || at !== now.key) {
      center = null;
      choose(query, at);
    }
    request();
  }
  for (const box of boxes.values()) box.addEventListener("change", () => facts && drawn && typed());

  const actions = {
    whole: showAll,
    edge: () => {
      const { query, key: at } = edgeCell();
      center = null;
      choose(query, at);
      cell = own = null; // follows the sliders from now on
    },
    diagonal: () => choose(facts.length - 1, facts.length - 1),
    oldest: () => choose(facts.length - 1, 0),
    "map-png": () => save("map", "png"),
    "map-svg": () => save("map", "svg"),
    "curve-png": () => save("curve", "png"),
    "curve-svg": () => save("curve", "svg"),
  };
  root.addEventListener("click", (event) => {
    const action = event.target.closest("button")?.dataset.do;
    if (action && facts && drawn) actions[action]();
  });
  find("select").addEventListener("change", () => {
    center = null;
    request();
  });
  for (const axis of root.querySelectorAll('input[name="map-axis"]')) {
    axis.addEventListener("change", () => {
      axisChosen = true;
      setAxis(axis.value === "log");
    });
  }

  let missed = null; // what was selected before there was a map to show it on

  function hear({ query, key: at }) {
    if (!facts || !drawn) {
      missed = { query, key: at };
      return;
    }
    if (query === null && at === null) {
      cell = own;
      center = null;
      request();
      return;
    }
    const now = selected();
    const row = query ?? Math.max(now.query, at);
    if (row < facts.length && (at ?? 0) < facts.length) choose(row, at ?? Math.min(now.key, row), "another panel");
  }

  function hearMissed() {
    if (!missed) return;
    const selection = missed;
    missed = null;
    hear(selection);
  }
  window.selfextendSelection?.follow(root, "map", hear);

  const ground = new MutationObserver(request);
  ground.observe(document.body, { attributes: true, attributeFilter: ["class"] });
  const size = new ResizeObserver(() => {
    if (root.isConnected) {
      root.classList.toggle("wide", isWide());
      return request();
    }
    ground.disconnect();
    size.disconnect();
    sight.disconnect();
  });
  for (const canvas of [overview, closeUp, curve]) size.observe(canvas.parentElement);
  const sight = new IntersectionObserver((entries) => {
    for (const { target, isIntersecting } of entries) {
      if (isIntersecting) inSight.add(target);
      else inSight.delete(target);
    }
    request();
  });
  for (const canvas of [overview, closeUp, curve]) sight.observe(canvas);

  return {
    settings(show, group_size, neighbor_window) {
      chosen = { show, group_size, neighbor_window };
      settle();
      hearMissed();
    },
    facts(found) {
      const isFirst = !facts;
      const another = facts?.length !== found.length;
      facts = found;
      words = new Map();
      if (isFirst && root.clientWidth < 480) find("select").value = "32"; // cells of a readable size on a phone
      if (another) {
        view = whole();
        center = null;
        if (own && own.query >= facts.length) own = null;
        cell = own;
      }
      settle();
      if (!drawn) return;
      if (another && !axisChosen) {
        const { until } = drawn.bands[0];
        setAxis(Number.isFinite(until) && until < NARROW_BAND * facts.length);
      }
      askAbout(selected());
      hearMissed();
    },
    words({ id, tokens }) {
      if (!facts || id !== facts.id) return;
      for (const [token, found] of Object.entries(tokens)) words.set(Number(token), found);
      request();
    },
  };
}
