// What is printed and filed: the worksheet of two pages and its answer key, one step on a page, figures as files.
const LessonPaper = (() => {
  const { escaped, kinds, legend } = LessonFigures;
  const { range, kindsOf, shiftOf, reachOf, wholeTurns, captionOf } = LessonSteps;
  // A grid of more tokens would not fit a page, nor be filled in within a lesson.
  const MOST_TOKENS = 16;
  const QUESTIONS = range(6).map((n) => n + 1);

  const page = ({ css, language }, title, body) => `<!doctype html><html lang="${language}"><head><meta charset="utf-8">
    <title>${escaped(title)}</title><style>${css}</style></head><body class="ls-paper">${body}</body></html>`;

  function numbersOf({ S, R }) {
    const N = Math.min(S.N, MOST_TOKENS);
    const G = Math.max(2, S.G); // groups of one would leave nothing to ask about
    const numbers = { L: S.L, N, G, w: S.w };
    const { rope, trained_window: trained } = R.made;
    return {
      ...numbers, trained, pairs: rope.pairs, whole: wholeTurns(R),
      last: S.L - 1, shift: shiftOf(numbers), reach: reachOf(numbers),
    }; // prettier-ignore
  }

  // Some of the cells are given, the same ones each time, strewn over all rows and distances; none of them says which kind
  // it is, nor whether it was seen.
  const isGiven = (i, j) => (5 * i + 3 * j + i * j) % 7 < 2;

  function grid(numbers, words, answers) {
    const { N } = numbers;
    const cell = (i, j) => {
      const found = kindsOf(numbers, i, j);
      return `<td class="${answers ? kinds(found) : ""}"><span>${answers || isGiven(i, j) ? found.position : ""}</span></td>`;
    };
    const head = (n) => `<span class="ls-token">${escaped(words[n])}</span><b>${n}</b>`;
    const rows = range(N).map((i) => `<tr><th scope="row">${head(i)}</th>${range(N)
      .map((j) => (j > i ? '<td class="later"></td>' : cell(i, j)))
      .join("")}</tr>`);
    return `<table class="ls-grid" style="--tokens:${N}"><thead><tr><td></td>${range(N)
      .map((j) => `<th scope="col">${head(j)}</th>`)
      .join("")}</tr></thead><tbody>${rows.join("")}</tbody></table>`;
  }

  function sheet(m, answers) {
    const { t, words } = m;
    const n = numbersOf(m);
    const title = t("paper.title");
    const questions = QUESTIONS.map(
      (each) => `<li><p>${escaped(t(`paper.q${each}`))}</p>${
        answers ? `<p class="ls-answer">${escaped(t(`paper.a${each}`, n))}</p>` : '<div class="ls-lines"></div>'
      }</li>`,
    );
    const { at, RG, RW } = m.S;
    const first = LessonSteps.STEPS[0].figure(m, 640, answers);
    const caption = t("paper.figure", { key: m.R.prompt.key, n: m.R.lengths[at], G: RG, w: RW });
    return page(
      m,
      title,
      `<section><header><h1>${escaped(title)}</h1><p>${answers ? escaped(t("paper.key")) : `${escaped(t("paper.name"))} ______________________`}</p></header>
        <p>${escaped(t("paper.intro", n))}</p><h2>${escaped(t("paper.grid"))}</h2>${grid(n, words, answers)}
        ${answers ? legend(t) : ""}</section>
      <section><h2>${escaped(t("paper.questions"))}</h2><ol>${questions.join("")}</ol>
        ${answers ? `<figure>${first}<figcaption>${escaped(caption)}</figcaption></figure>` : ""}</section>`,
    );
  }

  // One step as it stands: heading, figure, caption, sentences.
  function step(m) {
    const { t, R } = m;
    const { id } = m.step;
    const facts = m.step.facts(m).map(([key, values]) => `<li>${escaped(t(key, values))}</li>`);
    return page(
      m,
      t(`${id}.title`),
      `<section><h1>${escaped(t(`${id}.title`))}</h1><p>${escaped(t(`${id}.lead`, { L: R.made.trained_window, key: R.prompt.key }))}</p>
        <figure>${m.step.figure(m, 640, true)}<figcaption>${escaped(captionOf(m, m.step))}</figcaption></figure><ul>${facts.join("")}</ul></section>`,
    );
  }

  // The grid of step 4 is a table on the page; in a file it is a drawing.
  function gridFigure({ S, t }) {
    const cells = range(S.N).map((i) => range(i + 1).map((j) => kindsOf(S, i, j)));
    const holder = document.createElement("div");
    holder.innerHTML = LessonFigures.grid({ label: t("s4.title"), cells });
    return holder.firstElementChild;
  }

  // What of the styles a drawing in a file keeps, as attributes: an editor or a slide may know no style sheet, and none
  // knows light-dark().
  const KEPT = [
    "fill", "fill-opacity", "stroke", "stroke-width", "stroke-dasharray", "shape-rendering",
    "font-family", "font-size", "font-weight",
  ]; // prettier-ignore

  // All of them are handed down, so that an element states what its parent does not.
  function stateStyles(element, above = {}) {
    const style = getComputedStyle(element);
    const own = Object.fromEntries(KEPT.map((name) => [name, style.getPropertyValue(name)]));
    for (const child of element.children) stateStyles(child, own);
    for (const name of KEPT) if (own[name] !== above[name]) element.setAttribute(name, own[name]);
    for (const name of ["class", "style", "data-block"]) element.removeAttribute(name);
  }

  // A drawing as a file that needs nothing else: its caption below, in lines that its width has room for, and light
  // colours on white.
  function figureFile(svg, caption) {
    const [, , width, height] = svg.getAttribute("viewBox").split(" ").map(Number);
    const perLine = Math.max(20, Math.floor(width / 7));
    // A Chinese sign is as wide as two letters, and its sentences may be parted behind a stop alone.
    const long = (words) => [...words].reduce((sum, sign) => sum + (sign > "\u2e7f" ? 2 : 1), 0);
    const lines = caption.split(/(?<=[ ，。：；])/).reduce((all, word) => {
      if (all.length && long(`${all.at(-1)}${word}`.trim()) <= perLine) all[all.length - 1] += word;
      else all.push(word);
      return all;
    }, []);
    const below = lines.map((words, n) => `<text x="0" y="${height + 22 + n * 18}" class="small">${escaped(words.trim())}</text>`);
    const high = height + 16 + lines.length * 18 + 8;
    const holder = document.createElement("div");
    holder.innerHTML = `<svg class="fig ls-file" viewBox="0 0 ${width} ${high}" width="${width}" height="${high}">
      <title>${escaped(svg.getAttribute("aria-label"))}</title><rect class="paper" width="${width}" height="${high}"/>
      ${svg.innerHTML}${below.join("")}</svg>`;
    document.body.append(holder); // an element has its styles while it is on the page
    stateStyles(holder.firstElementChild);
    holder.remove();
    return new XMLSerializer().serializeToString(holder.firstElementChild);
  }

  return { worksheet: (m) => sheet(m, false), answers: (m) => sheet(m, true), step, figureFile, gridFigure };
})();
