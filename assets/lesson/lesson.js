// The lesson itself: which step, what was guessed, the address, keys, projector, notes, saving. It draws what the steps
// (steps.js) say. In the app, and as a file of its own; nothing here asks a server, but for `more.run` where it is given.

// Unpacks what app/lesson.py packed: deflated JSON in base64.
async function unpackLesson(packed) {
  const bytes = Uint8Array.from(atob(packed), (letter) => letter.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
  return new Response(stream).json();
}

// Puts the lesson into `root`. `more.run(settings)`, where there is a server, has the loaded model answer one cell;
// `more.showMap(query, key)` shows a cell on the page's own map, once `page` of what this returns said what that shows.
// `more.heading` is "h1" where the lesson is all there is,
// `more.hash` the address that a saved page opens at, `more.styled` says that the page has the styles already.
async function mountLesson(root, packed, more = {}) {
  const parts = await unpackLesson(packed);
  const { STEPS, RANGES, OWN, LEFT_OUT, captionOf } = LessonSteps;
  const escaped = LessonFigures.escaped;
  const R = parts.runs;
  const lookAt = (distance) => LessonModel.nearestLength(R, distance);
  const defaults = { ...LESSON_DEFAULTS, at: LessonModel.firstBroken(R), look: lookAt(LESSON_DEFAULTS.d) };
  const S = { ...defaults };
  const guesses = new Map();
  let open = new Set();
  let language = "en";
  let player = null;
  let notes = null;
  let ran = null;
  let page = null; // what the page around the lesson would read next
  let followed = defaults; // the numbers of step 10 as they were last set by nobody's hand

  // Words

  const texts = () => parts.texts[language];
  const number = (value) => new Intl.NumberFormat(language).format(value);
  // A share of one: a percentage, or "1 : 1,100,000" where that would be all noughts.
  const share = (value) => {
    // A sum of weights may miss 1 by what the machine rounds off.
    if (value >= 0.9995) return value > 1 - 1e-12 ? "100%" : `${(value * 100).toFixed(value > 0.99995 ? 3 : 2)}%`;
    if (value >= 0.001) return `${Number((value * 100).toPrecision(3))}%`;
    return `1 : ${number(Number((1 / value).toPrecision(2)))}`;
  };
  const put = (value) => {
    if (typeof value === "number") return number(value);
    if (typeof value === "string") return value;
    if ("share" in value) return share(value.share);
    if ("fixed" in value) return value.fixed.toFixed(2);
    return number(value.number);
  };
  const t = (key, values = {}) =>
    texts()[key].replace(/\{(\w+)\}/g, (whole, name) => (name in values ? put(values[name]) : whole));
  // Tokens of one turn, short enough to stand below a dial.
  const short = (tokens) => number(tokens < 10 ? Number(tokens.toFixed(1)) : Math.round(tokens));
  const context = () => ({ S, R, t, number, share, short, words: texts().story.split(" ") });
  const step = () => STEPS[S.step - 1];
  const isOpen = () => open.has(S.step);

  // State

  const between = (value, low, high) => Math.max(low, Math.min(high, value));

  // Brings every number into its range, so that an address that was typed by hand shows something true.
  function settle() {
    for (const [name, ends] of Object.entries(RANGES)) S[name] = between(S[name], ...ends(S, R));
    for (const name of ["RG", "SG"]) if (S[name] !== 1 && !R.group_sizes.includes(S[name])) S[name] = defaults[name];
    for (const name of ["RW", "SW"]) if (!R.neighbor_windows.includes(S[name])) S[name] = defaults[name];
    if (!LEFT_OUT.includes(S.part)) S.part = "selfextend";
  }

  function fromAddress(hash) {
    const read = LessonAddress.read(hash);
    // A link that brings some of step 10's numbers means the lesson's own for the rest, and not the page's.
    const own = OWN.some((name) => name in read.values) ? defaults : followed;
    Object.assign(S, defaults, numbersOf(own), read.values);
    open = new Set([...read.open].filter((each) => each >= 1 && each <= STEPS.length));
    if (read.language in parts.texts) language = read.language;
    settle();
    return read.given;
  }

  const address = () => LessonAddress.write(S, open, language, defaults);
  function keepAddress() {
    try {
      history.replaceState(history.state, "", address());
    } catch {
      // A frame without an address of its own has none to keep.
    }
  }

  // Less motion is a wish of the reader and no part of a link: it outlasts a reload of this tab.
  const STILL = "selfextend-lesson-still";
  function keepStill(still) {
    try {
      sessionStorage.setItem(STILL, still ? "yes" : "");
    } catch {
      // A frame that may keep nothing.
    }
  }
  function wasStill() {
    try {
      return sessionStorage.getItem(STILL) === "yes";
    } catch {
      return false;
    }
  }

  // The page

  const heading = more.heading ?? "h2";
  root.classList.add("lesson");
  root.classList.toggle("still", wasStill());
  root.innerHTML = `
    ${more.styled ? "" : `<style>${parts.css}</style>`}
    <header class="ls-top">
      <nav class="ls-nav"><ol class="ls-dots"></ol></nav>
      <details class="ls-more"><summary></summary><div class="ls-tools"></div></details>
    </header>
    <article class="ls-step" tabindex="-1">
      <p class="ls-kicker"></p>
      <${heading} class="ls-title"></${heading}>
      <p class="ls-lead"></p>
      <form class="ls-guess"></form>
      <p class="ls-verdict" role="status"></p>
      <figure class="ls-figure"><div class="ls-drawn"></div><figcaption></figcaption></figure>
      <div class="ls-controls"></div>
      <ul class="ls-facts" aria-live="polite"></ul>
      <div class="ls-own"></div>
      <details class="ls-prompt"><summary></summary><pre tabindex="0"></pre></details>
      <p class="ls-made"></p>
    </article>
    <footer class="ls-foot">
      <button type="button" data-do="back"></button><button type="button" class="ls-primary" data-do="next"></button>
    </footer>
    <p class="ls-status" role="status"></p>`;
  const find = (selector) => root.querySelector(selector);

  const TOOLS = ["copy", "projector", "notes", "motion", "print_step", "print", "key", "figure", "save"];

  function drawFrame() {
    root.lang = language;
    root.setAttribute("aria-label", t("title"));
    if (more.heading) document.title = t("title"); // the lesson is all there is
    find(".ls-nav").setAttribute("aria-label", t("nav.steps"));
    find(".ls-more summary").textContent = t("tool.more");
    find(".ls-tools").innerHTML =
      TOOLS.map((name) => {
        const shown = { motion: "still", projector: "projector" }[name];
        const pressed = shown ? ` aria-pressed="${root.classList.contains(shown)}"` : "";
        return `<button type="button" data-do="${name}"${pressed}>${escaped(t(`tool.${name}`))}</button>`;
      }).join("") +
      `<label class="ls-language">${escaped(t("tool.language"))} <select>${Object.entries(parts.texts)
        .map(([name, each]) => `<option value="${name}"${name === language ? " selected" : ""} lang="${name}">${escaped(each.language)}</option>`)
        .join("")}</select></label>`;
    find('[data-do="back"]').textContent = t("nav.back");
    find('[data-do="next"]').textContent = t("nav.next");
    find(".ls-prompt summary").textContent = t("s1.prompt");
    const { header, needle, filler, question, key } = R.prompt;
    find(".ls-prompt pre").innerHTML = escaped(`${header}\n${needle}\n${filler}\n${filler}\n…\n${question}`).replaceAll(key, `<b>${key}</b>`);
  }

  function drawStep() {
    stop();
    settle();
    const m = context();
    const { id } = step();
    find(".ls-dots").innerHTML = STEPS.map(({ id: each }, index) => {
      const now = index + 1 === S.step;
      const done = open.has(index + 1) ? " done" : "";
      return `<li><button type="button" class="ls-dot${done}" data-step="${index + 1}" ${now ? 'aria-current="step"' : ""}
        aria-label="${index + 1}. ${escaped(t(`${each}.title`))}" title="${escaped(t(`${each}.title`))}">${index + 1}</button></li>`;
    }).join("");
    find(".ls-kicker").textContent = t("nav.step", { n: S.step, of: STEPS.length });
    find(".ls-title").textContent = t(`${id}.title`);
    find(".ls-lead").textContent = t(`${id}.lead`, { L: R.made.trained_window, key: R.prompt.key });
    find('[data-do="back"]').disabled = S.step === 1;
    find('[data-do="next"]').disabled = S.step === STEPS.length;
    find(".ls-prompt").hidden = S.step !== 1;
    drawMade();
    drawGuess(m);
    drawControls(m);
    drawFigure();
    drawNotes();
  }

  // By what the runs that the step shows were recorded.
  function drawMade() {
    const runs = step().recorded?.(R);
    find(".ls-made").hidden = !runs || !isOpen();
    if (!runs) return;
    const { command, model, versions } = R.made;
    const scaling = t(runs.query_scaling === "none" ? "made.unscaled" : "made.scaled");
    find(".ls-made").textContent = t("made", { command, sha: model.sha256.slice(0, 12), seed: String(runs.seed), scaling, ...versions });
  }

  function drawGuess(m) {
    const form = find(".ls-guess");
    form.hidden = isOpen();
    const guess = step().guess(m);
    if (!isOpen()) {
      const field = guess.options
        ? `<div class="ls-options">${guess.options
            .map((option, index) => `<label><input type="radio" name="guess" value="${index}"><span>${escaped(t(...option))}</span></label>`)
            .join("")}</div>`
        : `<label class="ls-number">${escaped(t("guess.number"))} <input name="guess" type="number" inputmode="numeric" autocomplete="off" step="1"></label>`;
      form.innerHTML = `<fieldset><legend>${escaped(t(...guess.ask))}</legend>${field}
        <div class="ls-row"><button type="submit" class="ls-primary">${escaped(t("guess.reveal"))}</button>
        <button type="button" class="ls-quiet" data-do="skip">${escaped(t("guess.skip"))}</button></div></fieldset>`;
    }
    const verdict = find(".ls-verdict");
    const given = guesses.get(S.step);
    verdict.className = `ls-verdict${given?.right === undefined ? "" : given.right ? " right" : " wrong"}`;
    verdict.textContent = isOpen() ? (given?.words() ?? "") : "";
  }

  // What was asked and answered is kept, since what it was asked about may be moved afterwards.
  function reveal(value) {
    const m = context();
    const guess = step().guess(m);
    const told = value === null ? null : guess.options ? guess.options[value] : value;
    const right = told === null ? undefined : value === guess.right;
    guesses.set(S.step, {
      right,
      words: () => {
        const answer = t(...guess.answer);
        if (right === undefined) return t("guess.shown", { answer });
        if (right) return t("guess.right", { answer });
        return t("guess.wrong", { answer, guess: guess.options ? t(...told) : told });
      },
    });
    open.add(S.step);
    keepAddress();
    drawStep();
    find(".ls-step").focus({ preventScroll: true });
    if (step().playsAtOnce) play();
  }

  // A slider over values: `choices` by index (or by value), half steps, plain ranges.
  function sliderOf(control) {
    const value = S[control.name];
    if (control.choices) {
      const at = control.value ? control.choices.indexOf(value) : value;
      return { min: 0, max: control.choices.length - 1, step: 1, at, shown: number(control.choices[at]) };
    }
    return { min: control.min, max: control.max, step: control.step ?? 1, at: value, shown: number(control.half ? value / 2 : value) };
  }

  function drawControls(m) {
    const place = find(".ls-controls");
    place.hidden = !isOpen();
    if (!isOpen()) return (place.innerHTML = "");
    const slider = (control) => {
      const label = escaped(t(...control.label));
      const { min, max, step: by, at, shown } = sliderOf(control);
      if (control.typed) {
        return `<label class="ls-typed"><span>${label}</span><input type="number" data-name="${control.name}" min="${min}" max="${max}" step="1" value="${at}"></label>`;
      }
      return `<label class="ls-slider"><span>${label}</span><output>${shown}</output>
        <input type="range" data-name="${control.name}" min="${min}" max="${max}" step="${by}" value="${at}" aria-valuetext="${shown}"></label>`;
    };
    const radio = (control) => `<fieldset class="ls-radio"><legend>${escaped(t(...control.label))}</legend>${control.radio
      .map(([value, key]) => `<label><input type="radio" name="${control.name}" data-name="${control.name}" value="${value}"
        ${S[control.name] === value ? "checked" : ""}><span>${escaped(t(key))}</span></label>`)
      .join("")}</fieldset>`;
    const all = step().controls(m);
    const isSmall = (control) => LessonSteps.SMALL.includes(control.name);
    const main = all.filter((control) => !isSmall(control));
    const numbers = all.filter(isSmall);
    const wasOpen = place.querySelector("details")?.open || step().numbersOpen;
    const playable = main.some((control) => !control.radio && !control.typed);
    place.innerHTML =
      main.map((control) => (control.radio ? radio(control) : slider(control))).join("") +
      (playable ? '<button type="button" class="ls-play" data-do="play" aria-pressed="false">▶</button>' : "") +
      (numbers.length
        ? `<details class="ls-numbers"${wasOpen ? " open" : ""}><summary>${escaped(t("numbers"))}</summary><div>${numbers.map(slider).join("")}</div></details>`
        : "");
    find(".ls-play")?.setAttribute("aria-label", t("tool.play"));
  }

  function drawFigure() {
    const m = context();
    const drawn = find(".ls-drawn");
    const scale = root.classList.contains("projector") ? 1.45 : 1;
    // An unseen page has no width; it is drawn again once it has one.
    const width = Math.round(Math.max(260, Math.min(drawn.clientWidth || 720, 900 * scale)) / scale);
    drawn.innerHTML = step().figure(m, width, isOpen());
    showChosenKey();
    find("figcaption").textContent = isOpen() ? captionOf(m, step()) : t("guess.first");
    find(".ls-facts").innerHTML = isOpen() ? step().facts(m).map(([key, values]) => `<li>${escaped(t(key, values))}</li>`).join("") : "";
    drawOwn(m);
  }

  // The row in question stays in view above the grid; of a long one, the lines around the chosen key do.
  function showChosenKey() {
    const key = find(".ls-strip .chosen");
    if (!key) return;
    const room = find(".ls-strip-room");
    room.scrollTop = key.offsetTop - (room.clientHeight - key.offsetHeight) / 2;
  }

  // What only one step has: running the cell on the loaded model; the way to the page's own map.
  function drawOwn(m) {
    const place = find(".ls-own");
    if (!isOpen()) return (place.innerHTML = "");
    if (S.step === 1 && more.run) {
      const [action, name] = ran?.busy ? ["stop_run", "s1.stop"] : ["run", "s1.run"];
      // What has the keyboard's focus stays where it is as long as it does the same.
      if (place.firstElementChild?.dataset.do !== action) {
        const held = place.contains(document.activeElement);
        place.innerHTML = `<button type="button" data-do="${action}"></button><p role="status"></p>`;
        if (held) place.firstElementChild.focus();
      }
      place.firstElementChild.textContent = t(name);
      const words = { busy: "s1.running", total: "s1.reading", n: "s1.ran" };
      const known = Object.keys(words).findLast((key) => ran?.[key] !== undefined);
      place.lastElementChild.textContent = ran?.error ?? (known ? t(words[known], ran) : "");
    } else if (S.step === 10 && page && isOf(page)) {
      const map = more.showMap ? `<button type="button" data-do="map">${escaped(t("s10.map"))}</button>` : "";
      place.innerHTML = `<p>${escaped(t("s10.page", page))}</p>${map}`;
    } else if (S.step === 10 && page) {
      place.innerHTML = `<button type="button" data-do="page">${escaped(t("s10.take", page))}</button>`;
    } else place.innerHTML = "";
  }

  const numbersOf = (values) => Object.fromEntries(OWN.map((name) => [name, values[name]]));
  const isOf = (values) => OWN.every((name) => S[name] === values[name]);

  // Sets step 10 to what the page has. Not in the address: the lesson may be out of sight.
  function follow() {
    Object.assign(S, numbersOf(page));
    followed = page;
    guesses.delete(10); // it was about other numbers
    if (S.step === 10) drawStep();
  }

  function goTo(index) {
    if (index < 1 || index > STEPS.length || index === S.step) return;
    S.step = index;
    keepAddress();
    drawStep();
    const article = find(".ls-step");
    article.classList.remove("arrived");
    void article.offsetWidth; // begins the short fade anew
    article.classList.add("arrived");
    article.focus({ preventScroll: true });
    if (root.getBoundingClientRect().top < 0) root.scrollIntoView({ block: "start" });
  }

  function set(values) {
    // Step 3 looks from where step 2 does, until it is moved itself.
    const looks = "d" in values && S.look === lookAt(S.d) ? { look: lookAt(values.d) } : {};
    Object.assign(S, values, looks);
    settle();
    keepAddress();
  }

  // Playing: the first slider of the step walks to its end.

  function stop() {
    clearInterval(player);
    player = null;
    const button = find(".ls-play");
    if (button) {
      button.textContent = "▶";
      button.setAttribute("aria-pressed", "false");
    }
  }

  function play() {
    if (player) return stop();
    const input = find('.ls-controls input[type="range"]');
    if (!input || isStill()) return;
    if (Number(input.value) >= Number(input.max)) move(input, Number(input.min));
    const button = find(".ls-play");
    button.textContent = "❚❚";
    button.setAttribute("aria-pressed", "true");
    const by = Math.max(Number(input.step), Math.round((input.max - input.min) / 45));
    const pause = Math.max(120, 2600 / Math.max(1, (input.max - input.min) / by));
    player = setInterval(() => {
      if (!input.isConnected || Number(input.value) >= Number(input.max)) return stop();
      move(input, Math.min(Number(input.max), Number(input.value) + by));
    }, Math.min(pause, 420));
  }

  const isStill = () => root.classList.contains("still") || matchMedia("(prefers-reduced-motion: reduce)").matches;

  function move(input, value) {
    input.value = value;
    slide(input);
  }

  // A slider moved: its own output and the figure change, the other controls stay as they are under the hand.
  function slide(input) {
    const m = context();
    const control = step().controls(m).find((each) => each.name === input.dataset.name);
    const value = Number(input.value);
    set({ [control.name]: control.choices && control.value ? control.choices[value] : value });
    for (const each of step().controls(context())) {
      const other = find(`.ls-controls input[type="range"][data-name="${each.name}"]`);
      if (!other) continue;
      const { min, max, at, shown } = sliderOf(each);
      Object.assign(other, { min, max });
      if (other !== input) other.value = at;
      other.setAttribute("aria-valuetext", shown);
      other.parentElement.querySelector("output").textContent = shown;
    }
    drawFigure();
  }

  function choose(query, key, focus) {
    set({ i: query, j: key });
    drawFigure();
    if (!focus) return;
    const cell = find(".ls-grid td.chosen");
    cell.focus({ preventScroll: true });
    cell.scrollIntoView({ block: "nearest", inline: "nearest" }); // clear of the row above, by its scroll margin
  }

  function chooseBlock(row, column) {
    set({ row, column });
    drawFigure();
  }

  // Other windows and files

  function say(words) {
    find(".ls-status").textContent = words;
  }

  function drawNotes() {
    if (!notes || notes.closed) return;
    const m = context();
    const guess = step().guess(m);
    const next = STEPS[S.step];
    notes.document.title = t("tool.notes");
    notes.document.body.innerHTML = `<style>body{font:20px/1.5 system-ui,sans-serif;margin:2rem;max-width:40rem;color:#1f2328;background:#fff}
      h1{font-size:1.2rem}p{margin:0 0 1rem}.next{color:#555}</style>
      <h1>${S.step}. ${escaped(t(`${step().id}.title`))}</h1><p>${escaped(t(`${step().id}.note`))}</p>
      <p><b>${escaped(t(...guess.ask))}</b><br>${escaped(t(...guess.answer))}</p>
      <p class="next">${next ? `→ ${escaped(t(`${next.id}.title`))}` : ""}</p>`;
  }

  function download(name, content, type) {
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob([content], { type }));
    link.download = name;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
  }

  // The same file as app/lesson.py writes, but for the address it opens at and the language.
  const webPage = () =>
    Object.entries({ title: t("title"), language, hash: address(), css: parts.css, script: parts.script, packed }).reduce(
      (page, [name, value]) => page.replaceAll(`{{${name}}}`, () => value),
      parts.page,
    );

  function printPage(page) {
    document.querySelectorAll(".ls-print-frame").forEach((old) => old.remove());
    const frame = document.createElement("iframe");
    frame.className = "ls-print-frame";
    frame.title = t("tool.print");
    frame.srcdoc = page;
    frame.onload = () => frame.contentWindow.print();
    document.body.append(frame);
  }

  const paper = (kind) => LessonPaper[kind]({ ...context(), css: parts.css, language, step: step() });

  const actions = {
    back: () => goTo(S.step - 1),
    next: () => goTo(S.step + 1),
    skip: () => reveal(null),
    play,
    async copy() {
      keepAddress();
      try {
        await navigator.clipboard.writeText(location.href);
        say(t("tool.copied"));
      } catch {
        say(`${t("tool.link")} ${location.href}`);
      }
    },
    projector() {
      const on = root.classList.toggle("projector");
      find('[data-do="projector"]').setAttribute("aria-pressed", on);
      find(".ls-more").open = false;
      drawFigure();
    },
    notes() {
      notes = window.open("", "selfextend-lesson-notes", "width=680,height=520");
      if (!notes) say(t("tool.blocked"));
      drawNotes();
    },
    motion() {
      const still = root.classList.toggle("still");
      find('[data-do="motion"]').setAttribute("aria-pressed", still);
      keepStill(still);
      stop();
    },
    print_step: () => printPage(paper("step")),
    print: () => printPage(paper("worksheet")),
    key: () => printPage(paper("answers")),
    figure() {
      const figure = find(".ls-drawn svg");
      const file = LessonPaper.figureFile(figure ?? LessonPaper.gridFigure(context()), find("figcaption").textContent);
      download(`selfextend-lesson-${S.step}.svg`, file, "image/svg+xml");
    },
    save: () => download("selfextend-lesson.html", webPage(), "text/html"),
    run() {
      ran = { busy: true };
      drawOwn(context());
      more.run({ tokens: R.lengths[S.at], group_size: S.RG, neighbor_window: S.RW });
    },
    stop_run: () => more.stopRun(),
    page() {
      follow();
      keepAddress();
    },
    map() {
      const { i, j } = step().cell(context());
      more.showMap(i, j);
    },
  };

  root.addEventListener("click", (event) => {
    const button = event.target.closest("button");
    const cell = event.target.closest("[data-cell]");
    const block = event.target.closest("[data-block]");
    if (button?.dataset.do) actions[button.dataset.do]();
    else if (button?.dataset.step) goTo(Number(button.dataset.step));
    else if (cell && isOpen()) choose(...cell.dataset.cell.split(",").map(Number), cell.matches("td"));
    else if (block && isOpen()) chooseBlock(...block.dataset.block.split(",").map(Number));
  });
  root.addEventListener("input", (event) => {
    const { name } = event.target.dataset;
    if (event.target.type === "range" && name) {
      stop();
      slide(event.target);
    }
  });
  root.addEventListener("change", (event) => {
    const { target } = event;
    const { name } = target.dataset;
    if (target.matches(".ls-language select")) {
      language = target.value;
      keepAddress();
      drawFrame();
      drawStep();
    } else if (target.type === "radio" && name) {
      set({ [name]: target.value });
      drawControls(context());
      drawFigure();
      find(`.ls-controls input[value="${target.value}"]`)?.focus();
    } else if (target.type === "number" && name && target.value !== "") {
      set({ [name]: Math.round(Number(target.value)) });
      for (const typed of root.querySelectorAll('.ls-controls input[type="number"]')) typed.value = S[typed.dataset.name];
      drawFigure();
    }
  });
  find(".ls-guess").addEventListener("submit", (event) => {
    event.preventDefault();
    const form = event.target;
    const chosen = form.querySelector('input[type="radio"]:checked') ?? form.querySelector('input[type="number"]');
    if (!chosen || chosen.value === "") return say(t("guess.needed"));
    say("");
    reveal(Number(chosen.value));
  });
  root.addEventListener("keydown", (event) => {
    const grid = event.target.closest(".ls-grid");
    const map = event.target.closest(".ls-map");
    if ((!grid && !map) || !isOpen()) return;
    const { row, column } = grid ? { row: S.i, column: S.j } : step().cell(context());
    const target = {
      ArrowLeft: [row, column - 1],
      ArrowRight: [row, column + 1],
      ArrowUp: [row - 1, Math.min(column, row - 1)],
      ArrowDown: [row + 1, column],
      Home: [row, 0],
      End: [row, row],
    }[event.key];
    if (!target) return;
    event.preventDefault();
    event.stopPropagation();
    if (target[0] < 0 || target[1] < 0) return;
    if (grid) choose(...target, true);
    else chooseBlock(...target);
  });
  const keyed = (event) => {
    if (!root.isConnected) return document.removeEventListener("keydown", keyed);
    if (root.offsetParent === null && !root.classList.contains("projector")) return;
    if (event.ctrlKey || event.metaKey || event.altKey || event.defaultPrevented) return;
    const typing = event.target.closest?.("input, select, textarea, [contenteditable]");
    const own = event.target.closest?.('[role="tab"], [role="grid"], [role="application"], [role="region"], pre');
    if (event.key === "Escape" && root.classList.contains("projector")) actions.projector();
    else if (typing || own) return;
    else if (event.key === "ArrowRight") actions.next();
    else if (event.key === "ArrowLeft") actions.back();
    else if (event.key === "f" || event.key === "F") actions.projector();
    else return;
    event.preventDefault();
  };
  document.addEventListener("keydown", keyed);
  const moved = () => {
    if (!root.isConnected) return window.removeEventListener("hashchange", moved);
    if (location.hash.startsWith("#lesson") && location.hash !== address()) {
      fromAddress(location.hash);
      drawFrame();
      drawStep();
    }
  };
  window.addEventListener("hashchange", moved);

  if (!fromAddress(location.hash) && !fromAddress(more.hash ?? "")) {
    const wanted = (more.language ?? navigator.language).slice(0, 2);
    if (wanted in parts.texts) language = wanted;
  }
  drawFrame();
  drawStep();
  let drawnAt = 0;
  new ResizeObserver(([{ contentRect }]) => {
    if (!contentRect.width || Math.abs(contentRect.width - drawnAt) < 2) return;
    drawnAt = contentRect.width;
    drawFigure();
  }).observe(find(".ls-drawn"));

  return {
    state: S,
    context,
    address,
    // What the page would read next: {T, DL, DG, DW, model, documents}, the last two as names. Step 10 takes it by itself
    // where nobody typed other numbers and no link brought some, and offers it elsewhere. A window w past L is none.
    page(told) {
      page = told.model && told.documents && told.DW < told.DL ? told : null;
      if (page && (isOf(followed) || isOf(page))) follow();
      else if (S.step === 10) drawOwn(context());
    },
    // What the loaded model said: {model, n, vanilla, selfextend}, or {error}; before that {busy: true, done, total}.
    ran(result) {
      ran = result;
      drawOwn(context());
    },
  };
}
