// Draws the lesson that app/lesson.py worked out. Runs inside the app and, saved as a web page, without it.
// Every number and every sum comes from there; nothing is computed here.
function mountLesson(root, parts) {
  const state = { step: 0, query: 0, key: 0, guessing: false, revealed: new Set(), asked: 0, right: 0 };
  let data = null;
  let packed = null;
  let player = null;

  root.innerHTML = `
    <nav class="lesson-steps" aria-label="Steps of the lesson">
      <button type="button" data-do="back">Back</button><span></span><button type="button" data-do="next">Next</button>
    </nav>
    <div class="lesson-intro" aria-live="polite"><h3></h3><ul></ul></div>
    <div class="lesson-body">
      <div class="lesson-scroll"><table class="lesson-grid" role="grid"></table></div>
      <div class="lesson-side">
        <div class="lesson-sum" aria-live="polite"></div>
        <dl class="lesson-sums" aria-label="All sums of this row"></dl>
        <form class="lesson-guess" hidden>
          <label>Your guess <input name="guess" inputmode="numeric" autocomplete="off" size="4"></label>
          <button type="submit">Reveal</button>
          <button type="button" data-do="another">Another cell</button>
          <p class="lesson-score" role="status"></p>
        </form>
        <div class="lesson-buttons">
          <button type="button" data-do="play" aria-pressed="false">Play the row</button>
          <button type="button" data-do="guess" aria-pressed="false">Guess first</button>
          <button type="button" data-do="print">Print</button>
          <button type="button" data-do="save">Save as web page</button>
        </div>
        <p class="lesson-legend"></p>
      </div>
    </div>`;
  const find = (selector) => root.querySelector(selector);
  const table = find("table");
  const form = find("form");
  const step = () => data.steps[state.step];
  const sumOf = (query, key) => data.maps[step().map][query][key];
  const name = (query, key) => `${query},${key}`;
  const cellAt = (query, key) => table.querySelector(`td[data-cell="${name(query, key)}"]`);
  const text = (value) => {
    const span = document.createElement("span");
    span.textContent = value;
    return span.innerHTML;
  };

  function kindOf(at, query, key) {
    const pointed = new Set(at.points);
    const [position] = data.maps[at.map][query][key];
    const kinds = [];
    if (pointed.has("near")) kinds.push(query - key < data.numbers.w ? "near" : "far");
    if (pointed.has("unseen") && position >= data.numbers.L) kinds.push("unseen");
    if (pointed.has("groups") && key > 0 && data.groups[key] !== data.groups[key - 1]) kinds.push("group-left");
    if (pointed.has("groups") && query > 0 && data.groups[query] !== data.groups[query - 1]) kinds.push("group-top");
    if (pointed.has("reach") && query === data.numbers.reach) kinds.push("past-reach");
    return kinds;
  }

  function gridOf(at, hidden) {
    const groups = at.points.includes("groups");
    const head = (n) =>
      `<b>${n}</b>${groups ? `<i title="group ${data.groups[n]}">${data.groups[n]}</i>` : ""}`;
    const columns = [...Array(at.rows).keys()];
    const rows = columns.map((query) => {
      const cells = columns.map((key) => {
        if (key > query) return '<td class="later"></td>';
        const [position] = data.maps[at.map][query][key];
        const shown = hidden(query, key) ? "?" : position;
        // The hatching would give a hidden number away.
        const kinds = kindOf(at, query, key).filter((kind) => kind !== "unseen" || shown !== "?");
        return `<td role="gridcell" class="${kinds.join(" ")}" data-cell="${name(query, key)}"
          tabindex="-1" aria-label="query ${query}, key ${key}: ${shown === "?" ? "hidden" : shown}">${shown}</td>`;
      });
      return `<tr><th scope="row"><span>${text(data.words[query])}</span>${head(query)}</th>${cells.join("")}</tr>`;
    });
    const top = columns.map((key) => `<th scope="col"><span>${text(data.words[key])}</span>${head(key)}</th>`);
    return `<thead><tr><td class="corner">${groups ? "<i>group</i>" : ""}</td>${top.join("")}</tr></thead>
      <tbody>${rows.join("")}</tbody>`;
  }

  function isHidden(query, key) {
    return state.guessing && !state.revealed.has(name(query, key));
  }

  function legendOf(at) {
    const entries = [];
    if (at.points.includes("near")) {
      entries.push('<span class="key near">exact</span>', '<span class="key far">grouped</span>');
    }
    if (at.points.includes("unseen")) entries.push('<span class="key unseen">never seen in training</span>');
    if (at.points.includes("groups")) entries.push("<span class='key'><i>small numbers: the group, n//G</i></span>");
    return entries.join(" ");
  }

  function drawStep() {
    const at = step();
    state.query = Math.min(state.query, at.rows - 1);
    state.key = Math.min(state.key, state.query);
    root.style.setProperty("--tokens", at.rows);
    const steps = data.steps
      .map((each, n) => `<button type="button" data-step="${n}" ${n === state.step ? 'aria-current="step"' : ""}
        title="${text(each.title)}">${n + 1}</button>`)
      .join("");
    find(".lesson-steps span").innerHTML = steps;
    find(".lesson-intro h3").textContent = `${state.step + 1}. ${at.title}`;
    find(".lesson-intro ul").innerHTML = at.text.map((line) => `<li>${text(line)}</li>`).join("");
    find(".lesson-legend").innerHTML = legendOf(at);
    find('[data-do="back"]').disabled = state.step === 0;
    find('[data-do="next"]').disabled = state.step === data.steps.length - 1;
    form.hidden = !state.guessing;
    find('[data-do="guess"]').setAttribute("aria-pressed", state.guessing);
    table.setAttribute("aria-label", `${at.title}: queries down, keys across`);
    table.innerHTML = gridOf(at, isHidden);
    select(state.query, state.key, false);
  }

  function select(query, key, focus) {
    table.querySelectorAll(".chosen, .in-row").forEach((cell) => cell.classList.remove("chosen", "in-row"));
    table.querySelectorAll('td[tabindex="0"]').forEach((cell) => (cell.tabIndex = -1));
    state.query = query;
    state.key = key;
    const cell = cellAt(query, key);
    cell.parentElement.querySelectorAll("[data-cell], th").forEach((each) => each.classList.add("in-row"));
    cell.classList.add("chosen");
    cell.tabIndex = 0;
    if (focus) cell.focus();
    showSum();
  }

  function showSum() {
    const { query, key } = state;
    const [position, sum] = sumOf(query, key);
    const who = `Query ${query} <q>${text(data.words[query])}</q> looks at key ${key} <q>${text(data.words[key])}</q>`;
    const unseen = step().points.includes("unseen") && position >= data.numbers.L;
    const warning = unseen ? `<strong>${position} is past ${data.numbers.L - 1}: never seen in training.</strong>` : "";
    find(".lesson-sum").innerHTML = isHidden(query, key)
      ? `<p>${who}.</p><p>At which relative position?</p>`
      : `<p>${who}.</p><p><code>${text(sum)}</code></p>${warning}`;
    showRow();
  }

  // Nearest key first, as the model meets them when it looks back.
  function showRow() {
    const keys = [...Array(state.query + 1).keys()].reverse();
    find(".lesson-sums").innerHTML = keys
      .map((key) => {
        const sum = isHidden(state.query, key) ? "?" : sumOf(state.query, key)[1];
        const now = key === state.key ? ' class="now"' : "";
        return `<dt data-key="${key}"${now}>key ${key}</dt><dd data-key="${key}"${now}>${text(sum)}</dd>`;
      })
      .join("");
    const list = find(".lesson-sums");
    const now = list.querySelector(".now");
    list.scrollTop = now.offsetTop - list.offsetTop - list.clientHeight / 2;
  }

  function goTo(index) {
    stop();
    state.step = Math.max(0, Math.min(data.steps.length - 1, index));
    state.revealed.clear();
    state.query = step().rows - 1;
    state.key = 0;
    drawStep();
  }

  function stop() {
    clearInterval(player);
    player = null;
    const button = find('[data-do="play"]');
    button.textContent = "Play the row";
    button.setAttribute("aria-pressed", "false");
  }

  function play() {
    if (player) return stop();
    const button = find('[data-do="play"]');
    button.textContent = "Pause";
    button.setAttribute("aria-pressed", "true");
    select(state.query, state.query, false);
    player = setInterval(() => {
      if (!root.isConnected || state.key === 0) stop();
      else select(state.query, state.key - 1, false);
    }, 700);
  }

  function another() {
    const hidden = [...table.querySelectorAll("td[data-cell]")].filter((cell) => cell.textContent === "?");
    if (!hidden.length) return;
    const [query, key] = hidden[Math.floor(Math.random() * hidden.length)].dataset.cell.split(",").map(Number);
    select(query, key, false);
    form.guess.value = "";
    form.guess.focus();
  }

  function reveal() {
    const { query, key } = state;
    const score = find(".lesson-score");
    if (!isHidden(query, key)) return;
    const [position] = sumOf(query, key);
    const guess = form.guess.value.trim();
    let verdict = `It is ${position}.`;
    if (guess !== "") {
      const right = Number(guess) === position;
      state.asked += 1;
      state.right += right ? 1 : 0;
      verdict = right ? `Right: ${position}.` : `Not ${guess}, but ${position}.`;
    }
    state.revealed.add(name(query, key));
    const cell = cellAt(query, key);
    cell.textContent = position;
    cell.classList.add(...kindOf(step(), query, key));
    cell.setAttribute("aria-label", `query ${query}, key ${key}: ${position}`);
    score.textContent = `${verdict} ${state.asked ? `${state.right} of ${state.asked} right so far.` : ""}`;
    showSum();
  }

  function paper() {
    const blanks = { ...data.steps[4], title: "Your turn: fill in the empty cells" };
    const isBlank = (query, key) => (query * 7 + key * 3) % 4 === 0;
    const { L, N, G, w, reach } = data.numbers;
    const section = (at, hidden, more = "") => `<section style="--tokens:${at.rows}"><h2>${text(at.title)}</h2>
      <ul>${at.text.map((line) => `<li>${text(line)}</li>`).join("")}</ul>${more}
      <table class="lesson-grid">${gridOf(at, hidden)}</table><p class="lesson-legend">${legendOf(at)}</p></section>`;
    const numbered = data.steps.map((at, n) => section({ ...at, title: `${n + 1}. ${at.title}` }, () => false));
    const hint = ["Within the neighbor window: i - j.", "From there on: i//G - j//G + w - w//G."];
    return `<!doctype html><html lang="en"><head><meta charset="utf-8"><title>SelfExtend, step by step</title>
      <style>${parts.css}</style></head><body class="lesson-paper"><h1>SelfExtend, step by step</h1>
      <p>Trained window L = ${L}, tokens N = ${N}, group size G = ${G}, neighbor window w = ${w}, reach ${reach}.</p>
      ${numbered.join("")}
      ${section({ ...blanks, text: hint }, isBlank).replaceAll(">?<", ">&nbsp;<")}
      ${section({ ...blanks, title: "Answers", text: [] }, () => false)}</body></html>`;
  }

  function print() {
    const frame = document.createElement("iframe");
    frame.className = "lesson-print-frame";
    frame.title = "Printable lesson";
    frame.srcdoc = paper();
    document.querySelectorAll(".lesson-print-frame").forEach((old) => old.remove());
    frame.onload = () => frame.contentWindow.print();
    document.body.append(frame);
  }

  function save() {
    const close = "</scr" + "ipt>";
    const page = `<!doctype html><html lang="en"><head><meta charset="utf-8">
      <meta name="viewport" content="width=device-width, initial-scale=1"><title>SelfExtend, step by step</title>
      <style>${parts.css}</style></head><body class="lesson-page"><main><h1>SelfExtend, step by step</h1>
      <div class="lesson-root"></div></main><script type="text/plain" id="lesson-source">${parts.source}${close}
      <script>${parts.source}
      const css = document.querySelector("style").textContent;
      const source = document.getElementById("lesson-source").textContent;
      mountLesson(document.querySelector(".lesson-root"), { css, source }).show(${JSON.stringify(packed)});
      ${close}</body></html>`;
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob([page], { type: "text/html" }));
    link.download = "selfextend-lesson.html";
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 10000);
  }

  const actions = {
    back: () => goTo(state.step - 1),
    next: () => goTo(state.step + 1),
    play,
    print,
    save,
    another,
    guess: () => {
      state.guessing = !state.guessing;
      stop();
      state.revealed.clear();
      find(".lesson-score").textContent = "";
      drawStep();
      if (state.guessing) another();
    },
  };

  root.addEventListener("click", (event) => {
    const button = event.target.closest("button");
    const cell = event.target.closest("td[data-cell]");
    const entry = event.target.closest("[data-key]");
    if (entry) {
      stop();
      select(state.query, Number(entry.dataset.key), false);
    } else if (button?.dataset.do) actions[button.dataset.do]();
    else if (button?.dataset.step) goTo(Number(button.dataset.step));
    else if (cell) {
      stop();
      select(...cell.dataset.cell.split(",").map(Number), true);
      if (state.guessing && isHidden(state.query, state.key)) {
        form.guess.value = "";
        form.guess.focus();
      }
    }
  });
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    reveal();
  });
  table.addEventListener("keydown", (event) => {
    const { query, key } = state;
    const last = step().rows - 1;
    const target = {
      ArrowLeft: [query, key - 1],
      ArrowRight: [query, Math.min(key + 1, query)],
      ArrowUp: [Math.max(query - 1, 0), Math.min(key, Math.max(query - 1, 0))],
      ArrowDown: [query + 1, key],
      Home: [query, 0],
      End: [query, query],
      PageUp: [0, 0],
      PageDown: [last, key],
    }[event.key];
    if (event.key === "Enter" && state.guessing) {
      form.guess.focus();
    } else if (target && target[0] <= last && target[1] >= 0) {
      stop();
      select(...target, true);
    } else if (!target) {
      return;
    }
    event.preventDefault();
  });

  return {
    async show(value) {
      const bytes = Uint8Array.from(atob(value), (letter) => letter.charCodeAt(0));
      const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
      data = await new Response(stream).json();
      packed = value;
      goTo(Math.min(state.step, data.steps.length - 1));
    },
  };
}
