// The browser's side of the passages in app/tabs/evidence.py. Gradio runs it once, as a function body with `element`,
// `props`, `trigger` and `watch`. `props.value` is what was drawn when the tab turned to an answer; news of the tests
// comes after it, as events from assets/passage_news.js. A part of a card is only touched when it is another one, so
// that a button stays the same button under the finger while the progress beside it grows.
const root = element.querySelector(".passages");
const places = new Map(); // name of a part -> its element
const shown = new Map(); // name of a part -> the HTML that stands in it
let current = null; // what is drawn
let chosen = 0; // rank of the open card
let struck = null; // {turn, rank} that the page shows struck out

function fill(name, html) {
  if (shown.get(name) === html) return;
  const place = places.get(name);
  const held = place.contains(document.activeElement) ? document.activeElement.dataset.do : null;
  place.innerHTML = html;
  shown.set(name, html);
  // The keyboard stays where it was: on the same button, or on the one that came in its place.
  if (held !== null) (place.querySelector(`[data-do="${held}"]`) ?? place.querySelector("button"))?.focus();
}

function part(parent, rank, name) {
  const place = document.createElement("div");
  place.className = `passage-${name}`;
  places.set(`${rank} ${name}`, place);
  parent.append(place);
}

function lay() {
  root.replaceChildren();
  places.clear();
  shown.clear();
  ["actions", "progress", "ranking"].forEach((name) => part(root, 0, name));
  for (const { rank, faint } of current.cards) {
    const card = document.createElement("article");
    card.className = "passage-card";
    card.dataset.rank = rank;
    card.hidden = faint && rank !== chosen;
    ["text", "level", "actions", "progress", "result"].forEach((name) => part(card, rank, name));
    root.append(card);
  }
  part(root, 0, "faint");
}

function update() {
  for (const { rank, parts } of [current.whole, ...current.cards]) {
    for (const [name, html] of Object.entries(parts)) fill(`${rank} ${name}`, html);
  }
  mark();
}

function mark() {
  for (const card of root.querySelectorAll(".passage-card")) {
    const open = Number(card.dataset.rank) === chosen;
    card.classList.toggle("chosen", open);
    card.setAttribute("aria-current", String(open));
  }
  strike();
}

// Tells the page which passage to strike out: that of the open card, while it is tested and once it was.
function strike(again = false) {
  const card = current?.cards.find(({ rank }) => rank === chosen);
  const now = card?.struck && element.isConnected ? { turn: current.turn, rank: chosen } : null;
  if (!again && now?.turn === struck?.turn && now?.rank === struck?.rank) return;
  const tell = (detail) => document.dispatchEvent(new CustomEvent("selfextend-struck", { detail }));
  if (struck) tell({ ...struck, struck: false });
  struck = now;
  if (struck) tell({ ...struck, struck: true });
}

function draw() {
  if (!props.value) {
    current = null;
    chosen = 0;
    root.replaceChildren();
    strike();
    return;
  }
  current = JSON.parse(props.value);
  chosen = current.opened;
  lay();
  hear(window.selfextendPassageNews);
  update();
  if (struck) strike(true); // a link may have brought the page into view as it is
}

function hear(news) {
  if (!current || !news || news.turn !== current.turn || news.serial <= current.serial) return;
  current = { ...news, opened: current.opened };
  update();
}

function choose(rank) {
  chosen = rank;
  mark();
  const { tokens } = current.cards.find((card) => card.rank === rank);
  const selection = window.selfextendSelection;
  selection?.select(selection.current.query, Math.floor((tokens[0] + tokens[1] - 1) / 2), "evidence");
}

root.addEventListener("click", (event) => {
  if (!current) return;
  const button = event.target.closest("button");
  const rank = Number(event.target.closest("[data-rank]")?.dataset.rank ?? 0);
  if (button?.dataset.do === "test") {
    if (rank && rank !== chosen) choose(rank);
    trigger("test_passages", { ranks: rank ? [rank] : [] });
  } else if (button?.dataset.do === "stop") {
    button.setAttribute("aria-disabled", "true"); // a disabled one would let go of the focus
    button.textContent = "Stopping …";
    trigger("stop_tests", {});
  } else if (button?.dataset.do === "faint") {
    root.querySelectorAll(".passage-card").forEach((card) => (card.hidden = false));
    places.get("0 faint").hidden = true;
    root.querySelector(".passage-card:last-of-type a").focus();
  } else if (rank && !event.target.closest("summary, details") && document.getSelection().isCollapsed) {
    choose(rank);
  }
});

// By keyboard a card is chosen as its link or button is reached.
root.addEventListener("focusin", (event) => {
  const rank = Number(event.target.closest("[data-rank]")?.dataset.rank ?? 0);
  if (current && rank && rank !== chosen && event.target.matches(":focus-visible")) choose(rank);
});

watch("value", draw);
const listen = (event) => {
  if (element.isConnected) hear(event.detail);
  else document.removeEventListener("selfextend-passage-news", listen);
};
document.addEventListener("selfextend-passage-news", listen);
window.selfextendSelection?.follow(element, "evidence", ({ key }) => {
  for (const card of current?.cards ?? []) {
    const within = key !== null && card.tokens[0] <= key && key < card.tokens[1];
    root.querySelector(`[data-rank="${card.rank}"]`)?.classList.toggle("selected", within);
  }
});
draw();
