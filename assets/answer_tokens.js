// Joins the chat's answers to the pages, token by token. Stands below assets/reader.js in the same function body.
// A function here must have another name than any there: without strict mode it would take that one's place.
// Gradio's sanitizer lets no data through but classes: an answer's measures carry the class turn-N.
{
  let chat = null;
  const LEVELS = 5; // shades of "this token looked at the word"
  let pinned = null; // the token that was clicked
  let looks = 0; // how often the pointer went to a token or away from all
  let away = null; // what was shown before it came: {trace, opened, selection}

  // The place that holds one answer: a column where several were given, or the whole message.
  const answerOf = (mark) => mark.closest(".columns > div") ?? mark.closest(".message") ?? mark.parentElement;
  const markOf = (answer) => answer?.querySelector("[class*='turn-']");
  const turnOf = (mark) => Number(/\bturn-(\d+)/.exec(mark.className)?.[1] ?? 0);

  // The words of the answer without what stands below it.
  function textNodes(answer) {
    const walker = document.createTreeWalker(answer, NodeFilter.SHOW_TEXT, {
      acceptNode: (node) =>
        node.parentElement.closest(".measures, .stopped, .note, .cut, .page-link, .answer-token, summary, button")
          ? NodeFilter.FILTER_REJECT
          : NodeFilter.FILTER_ACCEPT,
    });
    const found = [];
    while (walker.nextNode()) found.push(walker.currentNode);
    return found;
  }

  // Where each token's letters are in the text; Markdown's signs are in the tokens only, so some have none.
  function placesOf(tokens, text) {
    const FAR = 12;
    let at = 0;
    return tokens.map((token) => {
      for (const wanted of [token.trim(), token.replace(/[*_`#>~|\\-]/g, "").trim()]) {
        if (!wanted) continue;
        const place = text.indexOf(wanted, at);
        if (place >= 0 && place - at <= FAR) {
          at = place + wanted.length;
          return [place, at];
        }
      }
      return null;
    });
  }

  async function join(mark) {
    const answer = answerOf(mark);
    const turn = turnOf(mark);
    if (!answer || !turn) return;
    let traced;
    try {
      traced = await traceOf(turn);
    } catch {
      return; // no longer in memory
    }
    if (!answer.isConnected) return;
    if (answer.querySelector(".answer-token")) {
      if (Number(answer.dataset.rows) === traced.rows.length) return;
      part(answer); // it went on
    }
    answer.dataset.rows = traced.rows.length;
    const nodes = textNodes(answer);
    const text = nodes.map((node) => node.data).join("");
    const places = placesOf(traced.tokens, text);
    let start = 0;
    for (const node of nodes) {
      const end = start + node.data.length;
      const pieces = [];
      let done = start;
      places.forEach((place, number) => {
        if (!place || place[1] <= start || place[0] >= end || number >= traced.rows.length) return;
        const [from, to] = [Math.max(place[0], start), Math.min(place[1], end)];
        if (from > done) pieces.push(text.slice(done, from));
        const token = document.createElement("span");
        token.className = "answer-token";
        token.textContent = text.slice(from, to);
        token.dataset.number = number;
        token.tabIndex = -1;
        pieces.push(token);
        done = to;
      });
      if (done > start) {
        if (end > done) pieces.push(text.slice(done, end));
        node.replaceWith(...pieces);
      }
      start = end;
    }
    const first = answer.querySelector(".answer-token");
    if (first) first.tabIndex = 0;
  }

  function part(answer) {
    answer.querySelectorAll(".answer-token").forEach((token) => token.replaceWith(token.textContent));
    answer.normalize();
  }

  async function joinAll() {
    await Promise.all([...chat.querySelectorAll("[class*='turn-']")].map(join));
    const { current } = window.selfextendSelection;
    if (current.from !== "chat") markLooked(current); // it may have been chosen before the tokens were there
  }

  async function look(token) {
    const mine = ++looks;
    const turn = turnOf(markOf(answerOf(token)));
    const traced = turn ? await traceOf(turn).catch(() => null) : null;
    if (!traced || mine !== looks) return;
    away ??= { trace, opened, selection: window.selfextendSelection.current };
    if (trace !== traced) {
      trace = traced;
      opened = null;
    }
    chat.querySelectorAll(".answer-token.looked").forEach(clear);
    const number = Number(token.dataset.number);
    if (turn === contents.turn) {
      const [best] = traced.rows[number] ?? [];
      window.selfextendSelection.select(traced.first_query + number, best ? traced.keys[best[0]][0] : null, "chat");
    } else {
      lookFrom(number); // the figures show another answer: this token is none of their rows
    }
  }

  function clear(token) {
    token.classList.remove("looked");
    token.style.removeProperty("--looked");
  }

  // As before the pointer came: the held token, or what was chosen elsewhere.
  function rest() {
    if (pinned?.isConnected) {
      look(pinned);
      return;
    }
    looks++;
    if (!away) return;
    const { selection } = away;
    ({ trace, opened } = away);
    away = null;
    window.selfextendSelection.select(selection.query, selection.key, selection.from, "chat");
    markLooked(selection);
  }

  function unpin() {
    pinned?.classList.remove("pinned");
    pinned = null;
  }

  async function pin(token) {
    const held = pinned === token;
    unpin();
    if (held) {
      rest();
      return;
    }
    pinned = token;
    token.classList.add("pinned");
    visits++;
    await look(token);
    // To where it looked hardest.
    const [best] = trace?.rows[Number(token.dataset.number)] ?? [];
    if (!best) return;
    const [, document_, page, from, to] = trace.keys[best[0]];
    const there = contents.documents.find((each) => each.sha256 === trace.documents[document_]);
    if (!there) return;
    openTab("document");
    root.classList.add("open");
    await show(there);
    await goTo(page, from, to);
    paintAll();
  }

  // A word was chosen on the page, or a cell in a figure: the tokens that looked there, by weight.
  function markLooked({ query, key, from }) {
    chat.querySelectorAll(".answer-token.looked").forEach(clear);
    if (!trace) return;
    const mark = [...chat.querySelectorAll(`.turn-${trace.turn}`)].at(-1);
    const tokens = mark ? [...answerOf(mark).querySelectorAll(".answer-token")] : [];
    // A word may be several tokens: the keys on the page beside the chosen one count with it.
    const chosen = trace.keys.find(([token]) => token === key);
    const near = (at) => at[1] === chosen[1] && at[2] === chosen[2] && Math.abs(at[0] - key) < 2;
    for (const token of tokens) {
      const number = Number(token.dataset.number);
      let weight = Number(from !== "document" && trace.first_query + number === query);
      if (from === "document" && chosen) {
        for (const [n, each] of trace.rows[number] ?? []) if (near(trace.keys[n])) weight = Math.max(weight, each);
      }
      if (weight > 0.02) {
        token.classList.add("looked");
        token.style.setProperty("--looked", (Math.ceil(Math.sqrt(weight) * LEVELS) / LEVELS).toFixed(2));
      }
    }
  }

  // The chat may come into the page after this.
  (function attach() {
    chat = document.getElementById("chat");
    if (!chat) return setTimeout(attach, 200);
    let leaving = null;
    chat.addEventListener("pointerover", (event) => {
      const token = event.target.closest(".answer-token");
      clearTimeout(leaving);
      if (token) look(token);
      else leaving = setTimeout(rest, 120);
    });
    chat.addEventListener("pointerleave", () => (leaving = setTimeout(rest, 120)));
    chat.addEventListener("click", (event) => {
      const token = event.target.closest(".answer-token");
      if (token && String(window.getSelection()).length === 0) pin(token);
    });
    chat.addEventListener("focusin", (event) => {
      const token = event.target.closest(".answer-token");
      if (token) look(token);
    });
    chat.addEventListener("keydown", (event) => {
      const token = event.target.closest(".answer-token");
      if (!token || event.altKey || event.ctrlKey || event.metaKey) return;
      const steps = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -1, ArrowDown: 1 };
      if (event.key === "Enter" || event.key === " ") {
        pin(token);
      } else if (event.key in steps) {
        const all = [...answerOf(token).querySelectorAll(".answer-token")];
        const next = all[all.indexOf(token) + steps[event.key]];
        if (next) {
          token.tabIndex = -1;
          next.tabIndex = 0;
          next.focus();
        }
      } else {
        return;
      }
      event.preventDefault();
    });

    window.selfextendSelection?.follow(element, "chat", (selected) => {
      unpin();
      away = null; // this is what is shown from now on
      markLooked(selected);
    });
    const changes = new MutationObserver(() => {
      clearTimeout(changes.waiting);
      changes.waiting = setTimeout(joinAll, 60);
    });
    changes.observe(chat, { childList: true, subtree: true });
    document.addEventListener("selfextend-traced", () => {
      if (away?.trace?.turn !== contents.turn) away = null;
      joinAll();
    });
    return joinAll();
  })();
}
