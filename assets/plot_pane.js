// The browser's side of app/tabs/plot_pane.py. Gradio runs this as a function body with `element`, `props`,
// `trigger` and `watch`, and `made`: what the pane was made with. (Not as props: a pane that gets its first value
// while its tab was never shown has no props but the value.)
const area = element.querySelector(".plot-area");
const caption = element.querySelector(".plot-title");
area.style.height = `${made.pane_height}px`;
area.setAttribute("aria-label", made.pane_label);

let shown = null; // the value on screen
let figure = null;
let busy = false;

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
  else if (name === "pick") trigger("pick", data);
  else if (name === "point") trigger("point", data);
  else trigger("zoom", data);
}

function range(axis) {
  return area._fullLayout[axis].range.map(Number).sort((a, b) => a - b);
}

function reportView() {
  report("zoom", { x: range("xaxis"), y: range("yaxis") });
}

function savePicture(Plotly) {
  const layout = { ...figure.layout, template: made.templates[isDark() ? "dark" : "light"] };
  layout.paper_bgcolor = getComputedStyle(document.body).backgroundColor;
  Plotly.downloadImage(
    { data: figure.data, layout },
    { format: "png", width: 1100, height: 800, scale: 2, filename: (caption.textContent || "figure").slice(0, 80) },
  );
}

async function draw() {
  element.classList.toggle("has-figure", Boolean(props.value));
  if (busy || !props.value) return; // nor is plotly.js loaded before there is something to draw
  busy = true;
  try {
    const Plotly = await loadPlotly();
    while (element.isConnected && area.offsetWidth > 0 && props.value && shown !== props.value + isDark()) {
      const value = props.value;
      const dark = isDark();
      figure = await unpack(value);
      caption.textContent = (figure.layout.title?.text || "").replaceAll("<br>", " ");
      const layout = {
        ...figure.layout,
        title: undefined, // it stands above the plot, where it wraps
        margin: { ...figure.layout.margin, t: figure.layout.margin.t - (figure.layout.meta?.title_height || 0) },
        template: made.templates[dark ? "dark" : "light"],
        autosize: true,
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
          { name: "whole", title: "Show all (key 0)", icon: Plotly.Icons.home, click: () => report("zoom", {}) },
          { name: "png", title: "Save as PNG", icon: Plotly.Icons.camera, click: () => savePicture(Plotly) },
        ],
      });
      shown = value + dark;
      if (firstTime) listen(Plotly);
    }
  } catch (error) {
    caption.textContent = `This figure could not be drawn: ${error.message}`;
    throw error;
  } finally {
    busy = false;
  }
}

function listen(Plotly) {
  let resting = null;
  let picking = null;
  // A double click is two clicks first: they must not pick (and redraw) what it is about to leave.
  area.on("plotly_click", (event) => {
    const point = event.points[0];
    clearTimeout(picking);
    picking = setTimeout(() => report("pick", { x: point.x, y: point.y }), 250);
  });
  if (made.pane_hover) {
    area.on("plotly_hover", (event) => {
      const point = event.points[0];
      clearTimeout(resting);
      resting = setTimeout(() => report("point", { x: point.x, y: point.y }), 80);
    });
    area.on("plotly_unhover", () => clearTimeout(resting));
  }
  area.on("plotly_doubleclick", () => {
    clearTimeout(picking);
    report("zoom", {});
  });
  area.on("plotly_relayout", (change) => {
    if (Object.keys(change).some((name) => /^[xy]axis\.range/.test(name))) reportView();
  });
  area.addEventListener("keydown", (event) => {
    const moves = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
    const zooms = { "+": 0.5, "=": 0.5, "-": 2 };
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.key === "0") {
      report("zoom", {});
    } else if (event.key in moves || event.key in zooms) {
      const view = ["xaxis", "yaxis"].map((axis, n) => {
        const [from, to] = range(axis);
        const step = ((moves[event.key] || [0, 0])[n] * (to - from)) / 4;
        const half = ((to - from) / 2) * (zooms[event.key] || 1);
        const center = (from + to) / 2 + step;
        return [center - half, center + half];
      });
      report("zoom", { x: view[0], y: view[1] });
    } else {
      return;
    }
    event.preventDefault();
  });
}

watch("value", draw);
const ground = new MutationObserver(draw);
ground.observe(document.body, { attributes: true, attributeFilter: ["class"] });
// A plot in a hidden tab has no width: it is drawn when it gets one, and drawn anew when that changes.
const size = new ResizeObserver(async () => {
  if (!element.isConnected) {
    ground.disconnect();
    size.disconnect();
  } else if (area.offsetWidth > 0) {
    if (shown !== null) (await loadPlotly()).Plots.resize(area);
    draw();
  }
});
size.observe(area);
draw();
