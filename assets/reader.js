// The browser's side of app/tabs/reader.py: the pages of the documents, where an answer looked on them, and a strip of
// all pages. Gradio runs this as a function body with `element`, `props`, `server` and `watch`. Nothing here goes
// through Gradio's events: pages and traces are asked for at the server, and kept.
const AT_ONCE = 4; // pages asked for in one go
const MOST_PAGES = 24; // pages that stay drawn
const GAP = 14; // CSS pixels between two pages
const root = element.querySelector(".reader");

root.innerHTML = `
  <div class="reader-bar" role="toolbar" aria-label="Pages and search">
    <select class="reader-document" aria-label="Document"></select>
    <span class="reader-paging">
      <button type="button" data-go="-1" aria-label="Page before">‹</button>
      <input class="reader-number" type="text" inputmode="numeric" aria-label="Page" size="4">
      <span class="reader-count"></span>
      <button type="button" data-go="1" aria-label="Page after">›</button>
    </span>
    <span class="reader-finding">
      <input class="reader-find" type="search" aria-label="Find in the document" placeholder="Find in the document">
      <span class="reader-hits" role="status"></span>
      <button type="button" data-hit="-1" aria-label="Hit before" hidden>↑</button>
      <button type="button" data-hit="1" aria-label="Next hit" hidden>↓</button>
    </span>
    <button type="button" class="reader-close" aria-label="Close the document">✕</button>
  </div>
  <p class="reader-words" role="status"></p>
  <div class="reader-cited" hidden></div>
  <div class="reader-body">
    <div class="reader-pages" tabindex="0" role="region" aria-label="Pages. The left and right arrow choose a word."></div>
    <canvas class="reader-strip" aria-hidden="true" title="All pages, coloured by where the answer looked"></canvas>
  </div>
  <p class="reader-empty">No document yet. Add one, and its pages appear here.</p>`;
const find = (selector) => root.querySelector(selector);
const pane = find(".reader-pages");
const strip = find(".reader-strip");
const words = find(".reader-words");
const chooser = find(".reader-document");
const cited = find(".reader-cited");

let contents = { visitor: "", documents: [], turn: 0 };
let shown = null; // the document on screen, one of contents.documents
let laidOut = null; // fulfilled when its pages stand
let sizes = [];
let pages = []; // a page's element, view and state, by number - 1
let trace = null; // of the answer in question
let row = null; // the answer token that is looked from; null: all of them
let opened = null; // the passage that a link opened: [document, page, from, to, rank]
let pointed = null; // the word that is the selected key: [document, page, from, to]
let struck = null; // the rank of the passage that is tested away
let hits = [];
let hit = -1;
let current = 1;
let asking = new Set();

async function ask(name, asked) {
  const answer = await server[name]({ visitor: contents.visitor, ...asked });
  if (answer.error) throw new Error(answer.error);
  return answer;
}

// How often the visitor went to a place; and how often when the newest answer was first seen here, by its links, its
// tokens or its pages, whichever came first.
let visits = 0;
let newest = { turn: 0, visits };

// Traces, for the chat's tokens too. One is kept for each turn and choice of layer and head.
const traces = new Map();
const looking = { layer: "all", head: "all" };
function traceOf(turn) {
  if (turn > newest.turn) newest = { turn, visits };
  const key = [contents.visitor, turn, looking.layer, looking.head].join(" ");
  if (!traces.has(key)) {
    const asked = ask("trace", { turn, ...looking });
    asked.catch(() => traces.delete(key));
    traces.set(key, asked);
  }
  return traces.get(key);
}

function forgetTraces(turn) {
  for (const key of [...traces.keys()]) if (key.split(" ")[1] === String(turn)) traces.delete(key);
}

// What is shown of which document

function show(document_) {
  if (shown?.sha256 === document_.sha256) return laidOut;
  shown = document_;
  chooser.value = document_.sha256;
  hits = [];
  hit = -1;
  find(".reader-find").value = "";
  sizes = [];
  layOut();
  laidOut = ask("sizes", { document: document_.sha256 }).then(
    (answer) => {
      if (shown !== document_) return; // another one was chosen meanwhile, or it is gone
      ({ sizes } = answer);
      layOut();
    },
    (error) => {
      if (shown === document_) words.textContent = error.message;
    },
  );
  return laidOut;
}

function emptyPane() {
  watchPages.disconnect();
  near.clear();
  pane.replaceChildren();
  asking = new Set();
  chosen = null;
  pages = [];
}

function showNothing() {
  shown = null;
  goal = null;
  goings++;
  emptyPane();
}

function layOut() {
  const flows = sizes.length === 0;
  emptyPane();
  pane.classList.toggle("flows", flows);
  pages = Array.from({ length: shown.pages }, (_, n) => {
    const section = document.createElement("section");
    section.className = "reader-page";
    section.dataset.number = n + 1;
    section.setAttribute("aria-label", `${shown.page_word} ${n + 1}`);
    const sheet = document.createElement("div");
    sheet.className = "reader-sheet";
    if (!flows) sheet.style.aspectRatio = `${sizes[n][0]} / ${sizes[n][1]}`;
    const label = document.createElement("span");
    label.className = "reader-label";
    label.textContent = `${shown.page_word} ${n + 1}`;
    section.append(sheet, label);
    pane.append(section);
    watchPages.observe(section);
    return { section, sheet, view: null, words: [], seen: 0 };
  });
  find(".reader-count").textContent = `of ${shown.pages.toLocaleString("en")}`;
  current = 1;
  drawBar();
  drawStrip();
}

// A page is drawn when it comes near the view.
let drawn = 0; // pages so far, which tells the oldest
const near = new Set();
const watchPages = new IntersectionObserver(
  (entries) => {
    for (const entry of entries) {
      const number = Number(entry.target.dataset.number);
      if (entry.isIntersecting) near.add(number);
      else near.delete(number);
    }
    fetchPages([...near].sort((a, b) => Math.abs(a - current) - Math.abs(b - current)));
  },
  { root: pane, rootMargin: "500px 0px" },
);

async function fetchPages(numbers) {
  const wanted = numbers.filter((n) => pages[n - 1] && !pages[n - 1].view && !asking.has(n));
  const asked = asking;
  const groups = [];
  for (let n = 0; n < wanted.length; n += AT_ONCE) groups.push(wanted.slice(n, n + AT_ONCE));
  wanted.forEach((n) => asked.add(n));
  await Promise.all(
    groups.map(async (group) => {
      try {
        const { views } = await ask("views", { document: shown.sha256, pages: group });
        if (asked === asking) views.forEach(drawPage);
      } catch (error) {
        if (asked === asking) group.forEach((n) => complain(n, error.message));
      }
      group.forEach((n) => asked.delete(n));
    }),
  );
}

function complain(number, sentence) {
  pages[number - 1].sheet.textContent = sentence;
}

function drawPage(view) {
  const page = pages[view.number - 1];
  page.view = view;
  page.seen = ++drawn;
  page.sheet.replaceChildren();
  page.words = [];
  if (view.picture) drawPicture(page, view);
  else drawText(page, view);
  paint(page);
  forgetPages();
}

const measure = document.createElement("canvas").getContext("2d");
measure.font = "100px sans-serif";

function drawPicture(page, view) {
  const image = new Image();
  image.alt = "";
  image.src = `data:image/webp;base64,${view.picture}`;
  const marks = document.createElement("div");
  marks.className = "reader-marks";
  const layer = document.createElement("div");
  layer.className = "reader-layer";
  const [width, height] = sizes[view.number - 1];
  for (const [start, end, left, top, right, bottom] of view.words) {
    const text = view.text.slice(start, end);
    const word = document.createElement("span");
    // The text is unseen and lies on the picture of itself, as wide and as high, so that it can be selected.
    const size = ((bottom - top) * height * 0.8) / width; // in widths of the page
    const natural = (measure.measureText(text).width / 100) * size;
    const long = text.length === 1 || (right - left) * width > 0.8 * (bottom - top) * height; // else it runs upward
    word.textContent = `${text} `;
    const wide = long
      ? `font-size:${size * 100}cqw;transform:scaleX(${natural > 0 ? (right - left) / natural : 1})`
      : `font-size:1cqw;width:${(right - left) * 100}%`;
    word.style.cssText = `left:${left * 100}%;top:${top * 100}%;height:${(bottom - top) * 100}%;${wide}`;
    layer.append(word);
    page.words.push({ start, end, element: word, box: [left, top, right, bottom] });
  }
  page.sheet.append(image, marks, layer);
  page.marks = marks;
}

function drawText(page, view) {
  const layer = document.createElement("div");
  layer.className = "reader-text";
  let done = 0;
  for (const [start, end] of view.words) {
    if (start > done) layer.append(view.text.slice(done, start));
    const word = document.createElement("span");
    word.textContent = view.text.slice(start, end);
    layer.append(word);
    page.words.push({ start, end, element: word, box: null });
    done = end;
  }
  layer.append(view.text.slice(done));
  page.marks = null;
  page.sheet.append(layer);
  page.sheet.style.aspectRatio = "auto";
}

function forgetPages() {
  const held = pages.filter((page) => page.view);
  if (held.length <= MOST_PAGES) return;
  const far = held
    .filter((page) => !near.has(Number(page.section.dataset.number)))
    .sort((a, b) => a.seen - b.seen)
    .slice(0, held.length - MOST_PAGES);
  for (const page of far) {
    page.sheet.style.minHeight = `${page.sheet.offsetHeight}px`;
    page.sheet.replaceChildren();
    page.view = null;
    page.words = [];
  }
}

// Glow and marks

// How strongly each of the trace's keys was looked at by the chosen answer token, or by all of them.
function weights() {
  if (!trace) return [];
  if (row !== null) return trace.rows[row] ?? [];
  const summed = new Map();
  for (const looked of trace.rows) for (const [key, weight] of looked) summed.set(key, (summed.get(key) ?? 0) + weight);
  const most = Math.max(...summed.values(), 1e-9);
  return [...summed].map(([key, weight]) => [key, weight / most]);
}

function place() {
  return trace && shown ? trace.documents.indexOf(shown.sha256) : -1;
}

function glowByPage() {
  const found = new Map();
  const here = place();
  for (const [key, weight] of weights()) {
    const [token, document_, page, from, to] = trace.keys[key];
    if (document_ !== here) continue;
    if (!found.has(page)) found.set(page, []);
    found.get(page).push({ token, from, to, weight });
  }
  return found;
}

function paint(page, glow = glowByPage()) {
  const number = Number(page.section.dataset.number);
  const here = glow.get(number) ?? [];
  for (const word of page.words) {
    let most = 0;
    for (const { from, to, weight } of here) if (from < word.end && to > word.start) most = Math.max(most, weight);
    const strength = Math.sqrt(most); // a tenth of the weight is still to be seen
    if (strength > 0.05) word.element.style.setProperty("--glow", strength.toFixed(3));
    word.element.classList.toggle("glow", strength > 0.05);
    if (!page.marks) {
      word.element.classList.toggle("cited", covers(opened, number, word));
      word.element.classList.toggle("struck", struck !== null && struck === opened?.[4] && covers(opened, number, word));
      word.element.classList.toggle("pointed", covers(pointed, number, word));
      word.element.classList.toggle("hit", hits.some((at) => at[0] === number && at[1] < word.end && at[2] > word.start));
    }
  }
  if (!page.marks) return;
  page.marks.replaceChildren();
  if (opened && opened[0] === shown.sha256 && opened[1] === number) {
    mark(page, opened[2], opened[3], struck === opened[4] ? "cited struck" : "cited");
  }
  hits.forEach((at, n) => at[0] === number && mark(page, at[1], at[2], n === hit ? "hit now" : "hit"));
  if (pointed && pointed[0] === shown.sha256 && pointed[1] === number) mark(page, pointed[2], pointed[3], "pointed");
}

// Whether a word on a page of the document on screen is part of a passage.
function covers(passage, number, word) {
  const [document_, page, from, to] = passage ?? [];
  return document_ === shown.sha256 && page === number && from < word.end && to > word.start;
}

// A rectangle for each line that the characters are on.
function mark(page, from, to, kind) {
  const lines = [];
  for (const { start, end, box } of page.words) {
    if (start >= to || end <= from) continue;
    const line = lines.at(-1);
    const [left, top, right, bottom] = box;
    if (line && Math.min(bottom, line[3]) - Math.max(top, line[1]) > 0.5 * (bottom - top) && left >= line[0]) {
      line[1] = Math.min(line[1], top);
      line[2] = Math.max(line[2], right);
      line[3] = Math.max(line[3], bottom);
    } else {
      lines.push([...box]);
    }
  }
  for (const [left, top, right, bottom] of lines) {
    const rectangle = document.createElement("i");
    rectangle.className = kind;
    rectangle.style.cssText = `left:${left * 100}%;top:${top * 100}%;width:${(right - left) * 100}%;height:${(bottom - top) * 100}%`;
    page.marks.append(rectangle);
  }
}

function paintAll() {
  const glow = glowByPage();
  for (const page of pages) if (page.view) paint(page, glow);
  drawStrip();
  drawCited();
}

// The test of the opened passage: what its card in the Evidence tab says of it, which comes with the news of the test.
const UNTESTED = { actions: `<button type="button" data-do="test">What if it weren't there?</button>` };
let saidOfCited = ""; // as it stands there
function drawCited() {
  const news = window.selfextendPassageNews;
  const told = opened && news && news.turn === trace?.turn ? news.cards.find(({ rank }) => rank === opened[4]) : null;
  const parts = opened && trace?.turn === contents.turn ? told?.parts ?? UNTESTED : {};
  const said = ["actions", "progress", "result"].filter((name) => parts[name]);
  const html = said.map((name) => `<div class="passage-${name}">${parts[name]}</div>`).join("");
  const which = opened ? `Passage ${opened[4]}, ${shown?.page_word ?? "page"} ${opened[1]}:` : "";
  cited.hidden = html === "";
  if (saidOfCited === which + html) return;
  const held = cited.contains(document.activeElement);
  cited.innerHTML = html;
  saidOfCited = which + html;
  const name = document.createElement("b");
  name.textContent = which;
  cited.firstElementChild?.prepend(name);
  if (held) cited.querySelector("button")?.focus();
}

function tell() {
  if (!trace || trace.rows.length === 0) {
    words.textContent = "";
    return;
  }
  const choice = [looking.layer === "all" ? "all layers" : `layer ${looking.layer}`,
    looking.head === "all" ? "all heads" : `head ${looking.head}`].join(", ");
  const here = place();
  const at = weights()[0];
  const best = at === undefined ? null : trace.keys[at[0]];
  const where = best && best[1] === here ? `${shown.page_word} ${best[2]}` : best ? "another document" : "";
  const token = row === null ? null : trace.tokens[row]?.trim();
  if (row === null) words.textContent = here < 0 ? "" : `Glowing: where the answer looked (${choice}).`;
  else if (!best) words.textContent = `“${token}” looked at none of the documents' words.`;
  else words.textContent = `“${token}” looked hardest at ${where} (${choice}).`;
}

// The strip

function shares() {
  const found = new Float64Array(shown ? shown.pages : 0);
  const here = place();
  if (here < 0) return found;
  const rows = row === null ? trace.pages : [trace.pages[row] ?? []];
  for (const looked of rows) {
    for (const [document_, page, share] of looked) if (document_ === here) found[page - 1] += share / rows.length;
  }
  return found;
}

function drawStrip() {
  const many = shown !== null && shown.pages > 1;
  strip.hidden = !many;
  if (!many) return;
  const ratio = window.devicePixelRatio || 1;
  const width = strip.clientWidth;
  const height = strip.clientHeight;
  if (!width || !height) return;
  strip.width = width * ratio;
  strip.height = height * ratio;
  const brush = strip.getContext("2d");
  brush.scale(ratio, ratio);
  const style = getComputedStyle(root);
  const each = height / shown.pages;
  const gap = each > 4 ? 1 : 0;
  const found = shares();
  const most = Math.max(...found, 1e-9);
  for (let n = 0; n < shown.pages; n++) {
    brush.fillStyle = style.getPropertyValue("--strip-page");
    brush.fillRect(0, n * each, width, each - gap);
    const strength = Math.sqrt(found[n] / most);
    if (strength > 0.06) {
      brush.globalAlpha = strength;
      brush.fillStyle = style.getPropertyValue("--strip-glow");
      brush.fillRect(0, n * each, width, Math.max(each - gap, 2));
      brush.globalAlpha = 1;
    }
  }
  const whole = Math.max(pane.scrollHeight, 1);
  brush.strokeStyle = style.getPropertyValue("--strip-view");
  brush.lineWidth = 2;
  const top = (pane.scrollTop / whole) * height;
  brush.strokeRect(1, top + 1, width - 2, Math.max((pane.clientHeight / whole) * height - 2, 4));
}

strip.addEventListener("pointerdown", (event) => {
  const follow = (at) => {
    const box = strip.getBoundingClientRect();
    const part = (at.clientY - box.top) / box.height;
    pane.scrollTop = part * pane.scrollHeight - pane.clientHeight / 2;
  };
  strip.setPointerCapture(event.pointerId);
  follow(event);
  strip.onpointermove = follow;
  strip.onpointerup = () => (strip.onpointermove = null);
});

// Going to a place

// To a page of a document, or to characters on it, which are drawn first. Where somebody goes elsewhere meanwhile, that
// is where it ends.
let goings = 0;
let goal = null; // where to go once the pane is in sight: a hidden one cannot be scrolled
async function goTo(number, from = null, to = null, there = shown) {
  const mine = ++goings;
  await show(there);
  if (mine !== goings) return;
  goal = pane.clientHeight ? null : [number, from, to];
  number = Math.min(Math.max(1, number), pages.length);
  current = number;
  const page = pages[number - 1];
  pane.scrollTop = page.section.offsetTop - pane.offsetTop - GAP;
  if (from !== null) {
    if (!page.view) await fetchPages([number]);
    while (asking.has(number)) await new Promise((resolve) => setTimeout(resolve, 20));
    if (mine !== goings) return;
    const word = page.words.find(({ start, end }) => start < to && end > from);
    if (word) {
      // A text's page has its height only now.
      const top = word.element.getBoundingClientRect().top - pane.getBoundingClientRect().top + pane.scrollTop;
      pane.scrollTop = top - pane.clientHeight / 3;
    }
  }
  drawBar();
}

function drawBar() {
  find(".reader-number").value = current;
  find("[data-go='-1']").disabled = current <= 1;
  find("[data-go='1']").disabled = current >= pages.length;
  find(".reader-hits").textContent = find(".reader-find").value.trim() === "" ? ""
    : hits.length === 0 ? "not found" : `${hit + 1} of ${hits.length}`;
  root.querySelectorAll("[data-hit]").forEach((button) => (button.hidden = hits.length < 2));
}

let scrolling = null;
pane.addEventListener("scroll", () => {
  cancelAnimationFrame(scrolling);
  scrolling = requestAnimationFrame(() => {
    const middle = pane.scrollTop + pane.clientHeight / 3;
    let number = 1;
    for (const page of pages) {
      if (page.section.offsetTop - pane.offsetTop > middle) break;
      number = Number(page.section.dataset.number);
    }
    current = number;
    if (document.activeElement !== find(".reader-number")) drawBar();
    drawStrip();
  });
});

// To a passage that an answer looked at.
async function showPassage(turn, rank) {
  const mine = ++goings;
  const wanted = await traceOf(turn);
  const cited = wanted.citations.find((each) => each[0] === rank);
  if (!cited) return;
  const [, document_, page, from, to] = cited;
  const there = contents.documents.find((each) => each.sha256 === wanted.documents[document_]);
  if (!there) throw new Error("This document was removed.");
  trace = wanted;
  row = null;
  struck = null;
  opened = [there.sha256, page, from, to, rank];
  if (mine === goings) await goTo(page, from, to, there);
  tell();
  paintAll();
}

async function openPassage(turn, rank) {
  visits++;
  openTab("document");
  root.classList.add("open");
  try {
    await showPassage(turn, rank);
  } catch (error) {
    words.textContent = error.message;
  }
}

function openTab(name) {
  const tab = document.querySelector(`#right-tabs button[role="tab"][data-tab-id="${name}"]`);
  if (tab && tab.getAttribute("aria-selected") !== "true") tab.click();
}

// What the visitor does here

for (const kind of ["pointerdown", "wheel", "touchmove", "keydown", "input", "change"]) {
  root.addEventListener(kind, () => visits++, { passive: true });
}
root.addEventListener("click", (event) => {
  const button = event.target.closest("button");
  if (button?.dataset.go) goTo(current + Number(button.dataset.go));
  else if (button?.dataset.hit) goToHit(hit + Number(button.dataset.hit));
  else if (button?.classList.contains("reader-close")) root.classList.remove("open");
  else if (button?.dataset.do === "test") trigger("test_passages", { ranks: [opened[4]] });
  else if (button?.dataset.do === "stop") trigger("stop_tests", {});
});
chooser.addEventListener("change", () => {
  const chosen = contents.documents.find((each) => each.sha256 === chooser.value);
  if (chosen) goTo(1, null, null, chosen).then(paintAll);
});
find(".reader-number").addEventListener("change", (event) => {
  const number = Number(event.target.value);
  if (Number.isInteger(number)) goTo(number);
  drawBar();
});

let finding = null;
find(".reader-find").addEventListener("input", () => {
  clearTimeout(finding);
  finding = setTimeout(search, 150);
});
find(".reader-find").addEventListener("keydown", (event) => {
  if (event.key === "Enter") goToHit(hit + (event.shiftKey ? -1 : 1));
});

async function search() {
  if (!shown) return;
  const text = find(".reader-find").value;
  try {
    ({ hits } = text.trim() ? await ask("find", { document: shown.sha256, text }) : { hits: [] });
  } catch (error) {
    hits = [];
    words.textContent = error.message;
  }
  const next = hits.findIndex((at) => at[0] >= current);
  hit = hits.length ? Math.max(next, 0) : -1;
  if (hits.length) await goToHit(hit);
  drawBar();
  paintAll();
}

async function goToHit(number) {
  if (!hits.length) return;
  hit = (number + hits.length) % hits.length;
  const [page, from, to] = hits[hit];
  await goTo(page, from, to);
  paintAll();
}

// A word was chosen: which tokens of the answer looked at it?
let chosen = null; // [number of the page, place among its words]
async function choose(word, number) {
  const here = place();
  if (here < 0) return;
  chosen = [number, pages[number - 1].words.indexOf(word)];
  const mine = chosen;
  const keys = trace.keys
    .map(([token, document_, page, from, to], n) => ({ n, token, inside: document_ === here && page === number && from < word.end && to > word.start }))
    .filter(({ inside }) => inside);
  let best = { row: null, key: null, weight: 0 };
  trace.rows.forEach((looked, n) => {
    for (const [key, weight] of looked) {
      if (weight > best.weight && keys.some((each) => each.n === key)) best = { row: n, key: trace.keys[key][0], weight };
    }
  });
  let key = best.key;
  if (key === null) {
    try {
      key = (await ask("token", { turn: trace.turn, document: shown.sha256, page: number, char: word.start })).token;
    } catch {
      return;
    }
    if (mine !== chosen) return;
  }
  pointed = null;
  pane.querySelectorAll(".chosen").forEach((each) => each.classList.remove("chosen"));
  word.element.classList.add("chosen");
  const query = best.row === null ? null : trace.first_query + best.row;
  const looked = trace.tokens.filter((_, n) => trace.rows[n]?.some(([at]) => keys.some((each) => each.n === at)));
  const named = looked.slice(0, 8).map((token) => `“${token.trim()}”`).join(" ");
  const said = `“${word.element.textContent.trim()}”`;
  words.textContent = looked.length
    ? `${looked.length} of the answer's tokens looked at ${said}: ${named}${looked.length > 8 ? " …" : ""}`
    : `None of the answer's tokens looked at ${said} enough to be kept.`;
  window.selfextendSelection?.select(query, key, "document");
}

pane.addEventListener("click", (event) => {
  const section = event.target.closest(".reader-page");
  if (!section || String(window.getSelection()).length > 0) return;
  const number = Number(section.dataset.number);
  const word = pages[number - 1].words.find((each) => each.element === event.target);
  if (word) choose(word, number);
});

// The word beside the chosen one, or the first in sight.
pane.addEventListener("keydown", (event) => {
  const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
  if (!step || event.altKey || event.ctrlKey || event.metaKey || event.shiftKey) return;
  const box = pane.getBoundingClientRect();
  const inSight = ({ element: word }) => {
    const at = word.getBoundingClientRect();
    return at.bottom > box.top && at.top < box.bottom;
  };
  let [number, n] = chosen ?? [0, 0];
  let word = pages[number - 1]?.words[n];
  if (word && inSight(word)) {
    const next = pages[number - 1].words[n + step];
    if (!next) number += step; // on the next page, where it is drawn
    word = next ?? pages[number - 1]?.words.at(step > 0 ? 0 : -1);
  } else {
    number = pages.findIndex((page) => page.words.some(inSight)) + 1;
    word = pages[number - 1]?.words.find(inSight);
  }
  if (!word) return;
  event.preventDefault();
  word.element.scrollIntoView({ block: "nearest" });
  choose(word, number);
});

// What happens elsewhere

// From one token of the answer, or, where there is none of that number, from all of them.
function lookFrom(number) {
  row = number >= 0 && number < trace.rows.length ? number : null;
  tell();
  paintAll();
}

function hear({ query, key, from, sender }) {
  if (!trace) return;
  lookFrom(query === null || from === "document" ? -1 : query - trace.first_query);
  // The lesson has a text of its own; a card's key stands for its passage, which is marked already.
  point(["lesson", "document", "evidence"].includes(from) ? null : key, sender !== "chat");
}

// Outlines the word that a key is, and goes there unless the pointer just passes by.
let pointings = 0;
let owed = null; // the key that is still to be gone to: a pointer may pass by while its place is asked for
async function point(key, goes) {
  const mine = ++pointings;
  if (goes) owed = key;
  pointed = null;
  if (key !== null) {
    const { turn, documents } = trace;
    const held = trace.keys.find(([token]) => token === key);
    const at = held ? held.slice(1) : (await ask("place", { turn, token: key }).catch(() => ({}))).place;
    if (mine !== pointings || trace?.turn !== turn) return;
    if (at) pointed = [documents[at[0]], ...at.slice(1)];
    const there = pointed && contents.documents.find((each) => each.sha256 === pointed[0]);
    const wanted = key === owed;
    if (wanted) owed = null;
    if (there && wanted) {
      const [, page, start, end] = pointed;
      await goTo(page, start, end, there);
    }
  }
  paintAll();
}

window.selfextendSelection?.follow(element, "document", hear);

document.addEventListener("selfextend-passage-news", function follow({ detail: news }) {
  if (!element.isConnected) return document.removeEventListener("selfextend-passage-news", follow);
  if (!opened || news.turn !== trace?.turn) return;
  struck = news.cards.find(({ rank }) => rank === opened[4])?.struck ? opened[4] : null;
  paintAll();
});

document.addEventListener("selfextend-struck", function strike(event) {
  if (!element.isConnected) return document.removeEventListener("selfextend-struck", strike);
  const { turn, rank, struck: away } = event.detail;
  if (!away) {
    struck = null;
    paintAll();
    return;
  }
  showPassage(turn, rank).then(() => {
    struck = rank;
    paintAll();
  }, () => {}); // an answer that is no longer in memory has no pages to strike anything out on
});

// Layer and head are chosen in the Attention tab.
document.addEventListener("selfextend-looking", function look(event) {
  if (!element.isConnected) return document.removeEventListener("selfextend-looking", look);
  Object.assign(looking, event.detail);
  if (trace) {
    traceOf(trace.turn).then((found) => {
      trace = found;
      tell();
      paintAll();
    }, () => {});
  }
});

let redraws = 0;
let followed = ""; // the answer whose trace is shown
async function redraw() {
  if (!props.value) return;
  const mine = ++redraws; // a newer value has the last word
  const before = contents;
  contents = JSON.parse(props.value);
  // An answer that went on is the same turn, with more to trace.
  if (contents.turn === before.turn && contents.tokens !== before.tokens) forgetTraces(contents.turn);
  root.classList.toggle("has-documents", contents.documents.length > 0);
  chooser.replaceChildren(
    ...contents.documents.map(({ sha256, name }) => {
      const option = document.createElement("option");
      option.value = sha256;
      option.textContent = name;
      return option;
    }),
  );
  chooser.classList.toggle("alone", contents.documents.length < 2);
  const ownOf = ({ documents }) => documents.filter((each) => each.own);
  const own = ownOf(contents);
  const added = own.filter((each) => !ownOf(before).some(({ sha256 }) => sha256 === each.sha256)).at(-1);
  if (added && added.sha256 === shown?.sha256) shown = null; // it was away: its pages are asked for anew
  const still = contents.documents.find((each) => each.sha256 === shown?.sha256);
  if (added || !still) {
    const last = added ?? own.at(-1) ?? contents.documents.at(-1);
    if (last) await goTo(1, null, null, last);
    else showNothing();
  } else {
    chooser.value = still.sha256;
  }
  if (before.turn !== 0 && contents.turn !== before.turn) {
    window.selfextendSelection?.select(null, null, ""); // it was of another text
  }
  const answer = ["visitor", "turn", "tokens", "opens_at"].map((name) => contents[name]).join(" ");
  if (contents.turn === 0) {
    trace = null;
    opened = null;
    row = null;
    followed = answer;
  } else if (answer !== followed) {
    try {
      const wanted = await traceOf(contents.turn);
      if (mine !== redraws) return; // the newer value follows it
      followed = answer;
      trace = wanted;
      row = null;
      pointed = null;
      // Nothing is opened of an answer whose looking proves nothing, nor where the visitor was faster.
      if (contents.opens_at && visits === newest.visits) await showPassage(contents.turn, contents.opens_at);
      await fetchCited();
      const selected = window.selfextendSelection?.current; // a link's, or of before a reload
      if (selected) hear({ ...selected, sender: selected.from });
    } catch {
      followed = answer;
      trace = null;
    }
  }
  if (mine !== redraws) return;
  tell();
  paintAll();
  document.dispatchEvent(new CustomEvent("selfextend-traced"));
}

// The pages that the answer's links lead to are drawn before one is clicked.
async function fetchCited() {
  const here = place();
  await fetchPages([...new Set(trace.citations.filter((each) => each[1] === here).map((each) => each[2]))]);
}

window.selfextendReader = {
  traceOf,
  openPassage,
  openDocument: (sha256) => {
    visits++;
    const there = contents.documents.find((each) => each.sha256 === sha256);
    if (!there) return;
    openTab("document");
    root.classList.add("open");
    goTo(1, null, null, there).then(paintAll);
  },
};

new ResizeObserver(() => {
  if (!pane.clientHeight) return;
  if (goal) goTo(...goal);
  drawStrip();
}).observe(pane);
watch("value", redraw);
redraw();
