// Follows the chat's links: to a passage (#passage-TURN-RANK), and to go on with an answer (#continue-TURN). They are
// plain links since Gradio's sanitizer strips data attributes.
document.addEventListener("click", (event) => {
  const link = event.target.closest('a[href*="#passage-"], a[href*="#continue-"]');
  if (!link || !element.isConnected) return;
  event.preventDefault();
  const href = link.getAttribute("href");
  const place = href.slice(href.indexOf("#"));
  const passage = /^#passage-(\d+)-(\d+)$/.exec(place);
  if (passage) window.selfextendReader?.openPassage(Number(passage[1]), Number(passage[2]));
  trigger(place.startsWith("#continue-") ? "go_on" : "passage", { href: place });
});

// A link into the lesson opens its tab; the lesson itself reads the rest of the address.
if (location.hash.startsWith("#lesson")) {
  const opening = setInterval(() => {
    const tab = [...document.querySelectorAll('button[role="tab"]')].find((each) => each.textContent.trim() === "Learn");
    if (!tab) return;
    clearInterval(opening);
    tab.click();
  }, 100);
}

// Gradio resets a slider to the value it was built with. These two have an advised value, which Suggest knows.
document.addEventListener(
  "click",
  (event) => {
    if (!event.target.closest("#group-size .reset-button, #neighbor-window .reset-button")) return;
    event.stopImmediatePropagation();
    document.getElementById("suggest").click();
  },
  true,
);

// The address's fragment says what is shown: model, documents, settings, tab and selection, so that a reload and a copied
// link open the same. app/links.py reads it.
const asked = new URLSearchParams(location.hash.slice(1));
// In this tab's storage: the fragment that the page wrote last, and what it would have written when it was left.
const WRITTEN = "selfextend-address";
const NEWEST = "selfextend-newest";
let opened = false;
let telling = null;
let current = location.hash;
let settings = []; // [name, value] of each: they may stand behind a fold, where the page has none of them

function shown() {
  const words = (selector) => document.querySelector(selector)?.textContent.trim() ?? "";
  const value = (selector) => document.querySelector(selector)?.value ?? "";
  const tab = words('#main-tabs > .tab-wrapper [role="tab"][aria-selected="true"]');
  const inner = words('#right-tabs > .tab-wrapper [role="tab"][aria-selected="true"]');
  const { query, key } = window.selfextendSelection.current;
  const said = new URLSearchParams();
  const say = (name, what) => {
    if (what !== null && what !== "") said.append(name, what);
  };
  say("model", words("#model-summary .activity") && words("#model-summary .name"));
  for (const name of document.querySelectorAll(".document-list .name")) say("document", name.textContent.trim());
  say("G", value('#group-size input[type="number"]'));
  say("w", value('#neighbor-window input[type="number"]'));
  say("method", value("#method input:checked"));
  for (const [name, set] of settings) say(name, set);
  say("tab", tab === "Read" ? inner : tab);
  say("query", query);
  say("key", key);
  return `#${said}`;
}

// While the lesson is in sight the address is the lesson's.
function write() {
  if (!opened || !element.isConnected || document.body.classList.contains("lesson-open")) return;
  // Somebody has just put another link there, which is about to be opened.
  if (location.hash !== current && !location.hash.startsWith("#lesson")) return;
  current = shown();
  sessionStorage.setItem(WRITTEN, current);
  sessionStorage.setItem(NEWEST, current);
  history.replaceState(history.state, "", current);
}

window.selfextendPlace = {
  // What the page is to open with: the address, or, where that is what the page wrote there itself, what it showed when
  // it was left. Both the address and what the browser keeps may be a moment behind that.
  get fragment() {
    const isOwn = location.hash === sessionStorage.getItem(WRITTEN);
    return isOwn ? sessionStorage.getItem(NEWEST) : location.hash;
  },

  // Something that the address says has changed. `names` and `values` are of settings: see app/links.py.
  tell(names, values) {
    if (names) settings = names.map((name, n) => [name, values[n]]);
    clearTimeout(telling);
    telling = setTimeout(write, 300); // after the page shows it, and once for all that changes in one go
  },

  // The server has set what the address asked for; from here on the address follows the page.
  open(names, values) {
    if (!opened) {
      opened = true;
      const token = (name) => (/^\d{1,9}$/.test(asked.get(name) ?? "") ? Number(asked.get(name)) : null);
      const [query, key] = [token("query"), token("key")];
      if (query !== null || key !== null) window.selfextendSelection.select(query, key, "link");
    }
    this.tell(names, values);
  },
};
document.addEventListener("selfextend-select", () => window.selfextendPlace.tell());
document.addEventListener("click", (event) => {
  if (event.target.closest('[role="tab"], .document-list')) window.selfextendPlace.tell();
  if (event.target.closest("#copy-link")) copy();
});
window.addEventListener("pagehide", () => {
  if (opened) sessionStorage.setItem(NEWEST, shown());
});
// A link that is opened where the page is open already.
window.addEventListener("hashchange", () => {
  if (new URLSearchParams(location.hash.slice(1)).has("model")) location.reload();
});

async function copy() {
  const said = document.getElementById("copied");
  const link = location.origin + location.pathname + location.search + shown();
  try {
    await navigator.clipboard.writeText(link);
    said.textContent = "Copied";
  } catch {
    // Without https a browser keeps the clipboard to itself.
    history.replaceState(history.state, "", link);
    said.textContent = "It is in the address bar: copy it there.";
  }
  setTimeout(() => (said.textContent = ""), 4000);
}

// Gradio's buttons copy the source of messages, in which signs are character references (app/safe_text.py). What is
// written to the clipboard during a click on one of them becomes what the messages show. The others write nothing.
document.addEventListener(
  "click",
  (event) => {
    const button = event.target.closest("#chat .icon-button-wrapper button");
    if (!button) return;
    const row = button.closest(".message-buttons")?.previousElementSibling;
    const text = row ? shownIn(row) : shownConversation();
    const { clipboard } = navigator;
    if (clipboard) clipboard.writeText = () => Clipboard.prototype.writeText.call(clipboard, text);
    const replace = (copying) => {
      copying.clipboardData.setData("text/plain", text);
      copying.preventDefault();
    };
    document.addEventListener("copy", replace); // without https there is no navigator.clipboard, and Gradio does it so
    setTimeout(() => {
      if (clipboard) delete clipboard.writeText;
      document.removeEventListener("copy", replace);
    });
  },
  true,
);

function shownIn(row) {
  const message = row.querySelector('[data-testid="user"], [data-testid="bot"]');
  return (message?.innerText ?? "").replaceAll("\u2060", "").trim(); // the sign that keeps a question harmless
}

function shownConversation() {
  const role = (row) => (row.classList.contains("user-row") ? "user" : "assistant");
  return [...document.querySelectorAll("#chat .message-row")].map((row) => `${role(row)}: ${shownIn(row)}`).join("\n\n");
}

// Gradio's pictures in the footer say again what stands beside them.
for (const picture of document.querySelectorAll("footer img")) picture.alt = "";
