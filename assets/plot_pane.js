// The browser's side of app/tabs/plot_pane.py. Gradio runs this as a function body with `element`, `props`,
// `trigger` and `watch`, and `made`: what the pane was made with. (Not as props: a pane that gets its first value
// while its tab was never shown has no props but the value.)
const area = element.querySelector(".plot-area");
const caption = element.querySelector(".plot-title");
const tip = element.querySelector(".plot-tip");
area.style.height = `${made.pane_height}px`;
const keys = "Arrow keys move the view, plus and minus zoom, 0 shows all.";
const choosing = made.selects ? " Shift and an arrow key choose a cell." : "";
area.setAttribute("aria-label", `${made.pane_label}. ${keys}${choosing}`);

let shown = null; // the value on screen
let figure = null;
let busy = false;
let chosen = null; // { row, key } of the marked cell; either may be null
let whole = {}; // what shows all of the figure, for Plotly.relayout

function loadPlotly() {
  if (!window.selfextendPlotly) {
    window.selfextendPlotly = new Promise((resolve, reject) => {
      const root = (window.gradio_config && window.gradio_config.root) || window.location.origin;
      const script = document.createElement("script");
      script.src = `${root.replace(/\/$/, "")}/gradio_api/file=${made.plotly_path}`;
      // gr.Plot puts its own, older plotly.js under the same global name: keep ours apart.
      script.onload = () => resolve(window.Plotly);
      script.onerror = () => reject(new Error("plotly.js could not be loaded from this server"));
      document.head.appendChild(script);
    });
  }
  return window.selfextendPlotly;
}

async function unpack(packed) {
  const bytes = Uint8Array.from(atob(packed), (letter) => letter.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
  return new Response(stream).json();
}

function isDark() {
  return document.body.classList.contains("dark");
}

function report(name, data) {
  if (made.latest) window.selfextendLatest?.[made.latest]?.want({ [name]: data });
  else trigger(name, data);
}

// From left to right and from bottom to top: the larger number may come first.
function range(axis) {
  return area._fullLayout[axis].range.map(Number);
}

// Whether the server draws anew what is zoomed to, since there is more to see of it then.
function isDrawnCloser() {
  return Boolean(made.latest && cells());
}

function rangesOf(layout) {
  const ranges = {};
  for (const axis of ["xaxis", "yaxis"]) {
    const { range, autorange = true } = layout[axis] ?? {};
    if (range) ranges[`${axis}.range`] = [...range];
    else ranges[`${axis}.autorange`] = autorange;
  }
  return ranges;
}

// Shows the ranges of both axes, or all of the figure.
function zoom(view = null) {
  if (isDrawnCloser()) {
    report("zoom", view ? { x: inTokens(view.xaxis) } : {});
    return;
  }
  const ranges = Object.keys(view ?? {}).map((axis) => [`${axis}.range`, view[axis]]);
  window.selfextendPlotly.then((Plotly) => Plotly.relayout(area, view ? Object.fromEntries(ranges) : whole));
}

// Cells that stand for tokens. The figure's meta.cells has the edges of its strips on the axis, and the tokens that each
// strip covers, from starts to stops; -1 is a gap between two strips.
function cells() {
  return figure?.layout.meta?.cells;
}

function stripOf(key) {
  return key === null ? -1 : cells().starts.findIndex((start, n) => start >= 0 && start <= key && key < cells().stops[n]);
}

// A stretch of the axis as prompt tokens.
function inTokens([from, to]) {
  if (!cells()) return [from, to];
  const { edges, starts, stops } = cells();
  const inView = starts.map((start, n) => n).filter((n) => starts[n] >= 0 && edges[n + 1] > from && edges[n] < to);
  if (!inView.length) return [starts[0], stops.at(-1)];
  const first = inView[0];
  const last = inView.at(-1);
  const share = (at, n) => Math.min(1, Math.max(0, (at - edges[n]) / (edges[n + 1] - edges[n])));
  return [
    starts[first] + share(from, first) * (stops[first] - starts[first]),
    starts[last] + share(to, last) * (stops[last] - starts[last]),
  ];
}

// What stands in a cell: its share, and the key token that was looked at most.
function valueAt(row, strip) {
  const [share, key] = area._fullData[0].customdata[row][strip];
  return { share, key };
}

function choose(row, key) {
  chosen = { row, key };
  mark();
  report("pick", { x: key, y: row });
  const first = cells().first_query;
  if (made.selects) window.selfextendSelection?.select(first === null ? null : first + row, key, made.selects);
}

function marks() {
  if (!cells() || !chosen) return [];
  const { edges, rows } = cells();
  const strip = stripOf(chosen.key);
  const row = chosen.row !== null && chosen.row >= 0 && chosen.row < rows.length ? chosen.row : null;
  const across = { x0: 0, x1: edges.at(-1) };
  const down = { y0: -0.5, y1: rows.length - 0.5 };
  const box = (place, width) => ({ type: "rect", ...place, line: { color: made.mark, width } });
  const ofRow = row === null ? null : { y0: row - 0.5, y1: row + 0.5 };
  const ofStrip = strip < 0 ? null : { x0: edges[strip], x1: edges[strip + 1] };
  // Around a narrow cell, not over it.
  const beside = (2 * edges.at(-1)) / (area._fullLayout?._size.w || area.offsetWidth);
  if (ofRow && ofStrip) {
    const around = { x0: ofStrip.x0 - beside, x1: ofStrip.x1 + beside };
    return [box({ ...across, ...ofRow }, 1), box({ ...around, ...ofRow }, 2.5)];
  }
  if (ofRow) return [box({ ...across, ...ofRow }, 2)];
  return ofStrip ? [box({ ...ofStrip, ...down }, 2)] : [];
}

function mark() {
  if (area._fullLayout && cells()) {
    window.selfextendPlotly.then((Plotly) =>
      Plotly.relayout(area, { shapes: [...(figure.layout.shapes || []), ...marks()] }),
    );
  }
}

let following = null;
let unheard = null; // selected while there was nothing to mark it in
function hear(selected) {
  const { query, key } = selected;
  const first = cells()?.first_query;
  unheard = first === undefined || area.offsetWidth === 0 ? selected : null;
  if (unheard) return;
  const row = query === null || first === null ? null : query - first;
  chosen = { row, key };
  mark();
  clearTimeout(following);
  if (row === null || row < 0 || row >= cells().rows.length) return;
  // Words for what is marked: of a row alone, for the cell where it looked hardest.
  following = setTimeout(() => {
    if (!area._fullData?.[0]) return;
    const values = Array.from(area._fullData[0].z[row]);
    const hardest = values.reduce((best, value, n) => (value > (values[best] ?? -Infinity) ? n : best), 0);
    report("pick", { x: key ?? valueAt(row, hardest).key, y: row });
  }, 200);
}

function showTip(event) {
  const [row, strip] = event.points[0].pointIndex;
  const { share, key } = valueAt(row, strip);
  if (!cells() || !(share >= 0)) return;
  const told = document.createElement("b");
  told.textContent = `${cells().rows[row]}: ${(100 * share).toFixed(share < 0.1 ? 2 : 1)}% ${cells().unit}`;
  tip.replaceChildren(told, document.createElement("br"), cells().words[strip] || `token ${key.toLocaleString("en")}`);
  tip.hidden = false;
  const pane = tip.parentElement.getBoundingClientRect();
  const left = Math.min(event.event.clientX - pane.left + 14, pane.width - tip.offsetWidth - 4);
  const above = event.event.clientY - pane.top - tip.offsetHeight - 12;
  tip.style.left = `${Math.max(4, left)}px`;
  tip.style.top = `${above > 0 ? above : event.event.clientY - pane.top + 18}px`;
}

// Plotly breaks no lines of a title.
function lines(words, most) {
  const broken = [""];
  for (const word of words.split(/\s+/)) {
    if (broken.at(-1) && broken.at(-1).length + word.length >= most) broken.push("");
    broken[broken.length - 1] += `${broken.at(-1) && " "}${word}`;
  }
  return broken;
}

// Saves the figure with its caption below the title, as the reader sees it: dark on a dark page.
function savePicture(Plotly, format) {
  const { title, margin, height, meta } = figure.layout;
  const more = meta?.caption ? lines(meta.caption, 150) : [];
  const small = (line) => `<br><span style="font-size:12px">${line.replaceAll("&", "&amp;").replaceAll("<", "&lt;")}</span>`;
  const room = 20 * more.length;
  const layout = {
    ...figure.layout,
    title: { ...title, text: title.text + more.map(small).join(""), pad: { ...title.pad, b: title.pad.b + room } },
    margin: { ...margin, t: margin.t + room },
    template: made.templates[isDark() ? "dark" : "light"],
    paper_bgcolor: getComputedStyle(document.body).backgroundColor,
    shapes: [...(figure.layout.shapes || []), ...marks()],
  };
  const size = { width: 1100, height: height ? height + room : 800, scale: format === "png" ? 2 : 1 };
  const filename = (caption.textContent || "figure").slice(0, 80);
  Plotly.downloadImage({ data: figure.data, layout }, { format, ...size, filename });
}

async function draw() {
  element.classList.toggle("has-figure", Boolean(props.value));
  if (busy || !props.value) return; // nor is plotly.js loaded before there is something to draw
  busy = true;
  try {
    if (shown === null) caption.textContent = "Drawing…";
    const Plotly = await loadPlotly();
    while (element.isConnected && area.offsetWidth > 0 && props.value && shown !== props.value + isDark()) {
      const value = props.value;
      const dark = isDark();
      figure = await unpack(value);
      whole = rangesOf(figure.layout);
      tip.hidden = true;
      if (cells()) {
        figure.data[0].hoverinfo = "none"; // the tip says more, and breaks lines
        figure.data[0].hovertemplate = undefined;
        if (cells().chosen) chosen = { row: cells().chosen[0], key: cells().chosen[1] };
      }
      area.style.height = `${figure.layout.height || made.pane_height}px`;
      caption.textContent = (figure.layout.title?.text || "").replaceAll("<br>", " ");
      const layout = {
        ...figure.layout,
        title: undefined, // it stands above the plot, where it wraps
        margin: { ...figure.layout.margin, t: figure.layout.margin.t - (figure.layout.meta?.title_height || 0) },
        template: made.templates[dark ? "dark" : "light"],
        autosize: true,
        shapes: [...(figure.layout.shapes || []), ...marks()],
      };
      const firstTime = shown === null;
      await Plotly.react(area, figure.data, layout, {
        displaylogo: false,
        // plotly.js 4 offers to send the figure to its maker's cloud: nothing leaves this machine.
        showSendToCloud: false,
        plotlyServerURL: "",
        doubleClick: false,
        modeBarButtonsToRemove: ["toImage", "select2d", "lasso2d", "autoScale2d", "resetScale2d"],
        modeBarButtonsToAdd: [
          { name: "whole", title: "Show all (key 0)", icon: Plotly.Icons.home, click: () => zoom() },
          { name: "png", title: "Save as PNG", icon: Plotly.Icons.camera, click: () => savePicture(Plotly, "png") },
          { name: "svg", title: "Save as SVG", icon: Plotly.Icons.disk, click: () => savePicture(Plotly, "svg") },
        ],
      });
      shown = value + dark;
      if (firstTime) listen(Plotly);
      if (unheard) hear(unheard);
    }
  } catch (error) {
    caption.textContent = `This figure could not be drawn: ${error.message}`;
    throw error;
  } finally {
    busy = false;
  }
}

function listen(Plotly) {
  let picking = null;
  // A double click is two clicks first: they must not pick (and redraw) what it is about to leave.
  area.on("plotly_click", (event) => {
    const point = event.points[0];
    clearTimeout(picking);
    picking = setTimeout(() => {
      const value = cells() && valueAt(...point.pointIndex);
      if (!value) report("pick", { x: point.x, y: point.y });
      else if (value.share >= 0) choose(point.pointIndex[0], value.key);
    }, 250);
  });
  area.on("plotly_hover", (event) => cells() && showTip(event));
  area.on("plotly_unhover", () => {
    tip.hidden = true;
  });
  area.on("plotly_doubleclick", () => {
    clearTimeout(picking);
    zoom();
  });
  area.on("plotly_relayout", (change) => {
    const zoomed = Object.keys(change).some((name) => /^[xy]axis\.range/.test(name));
    if (zoomed && isDrawnCloser()) zoom({ xaxis: range("xaxis") });
  });
  area.addEventListener("keydown", (event) => {
    const moves = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
    const zooms = { "+": 0.5, "=": 0.5, "-": 2 };
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.shiftKey && event.key in moves && cells()) {
      event.preventDefault();
      step(...moves[event.key]);
      return;
    }
    if (event.key === "0") {
      zoom();
    } else if (event.key in moves || event.key in zooms) {
      const [across, down] = moves[event.key] || [0, 0];
      const view = {};
      for (const [axis, along] of [["xaxis", across], ["yaxis", -down]]) {
        if (area._fullLayout[axis].fixedrange) continue;
        const [from, to] = range(axis);
        const half = ((to - from) / 2) * (zooms[event.key] || 1);
        const center = (from + to) / 2 + (along * (to - from)) / 4;
        view[axis] = [center - half, center + half];
      }
      zoom(view);
    } else {
      return;
    }
    event.preventDefault();
  });
}

// Chooses the cell beside the chosen one; the first one where there is none.
function step(across, down) {
  const { starts, rows } = cells();
  const strips = starts.map((start, n) => n).filter((n) => starts[n] >= 0);
  const place = strips.indexOf(stripOf(chosen?.key ?? null));
  const strip = strips[Math.min(strips.length - 1, Math.max(0, place < 0 ? 0 : place + across))];
  const row = Math.min(rows.length - 1, Math.max(0, (chosen?.row ?? 0) + (place < 0 ? 0 : down)));
  choose(row, valueAt(row, strip).key);
}

if (made.selects) window.selfextendSelection?.follow(element, made.selects, hear);
watch("value", () => {
  if (shown !== null) unheard = null; // it was of what was shown before
  draw();
});
const ground = new MutationObserver(draw);
ground.observe(document.body, { attributes: true, attributeFilter: ["class"] });
// A plot in a hidden tab has no width: it is drawn when it gets one, and drawn anew when that changes.
const size = new ResizeObserver(async () => {
  if (!element.isConnected) {
    ground.disconnect();
    size.disconnect();
  } else if (area.offsetWidth > 0) {
    if (shown !== null) (await loadPlotly()).Plots.resize(area);
    await draw();
    if (unheard && shown !== null) hear(unheard);
  }
});
size.observe(area);
draw();
