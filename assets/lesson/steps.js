// The ten steps. Each says what is asked before it is shown, what can be moved, what is drawn, and which sentences are
// true of the numbers at hand. `m` is {S: the state, R: the recorded runs, t, ...}.
//
//   guess(m)       {ask, options?, right, answer, say?}: ask and answer are [key, values]; without options a number is asked
//   controls(m)    sliders: {name, label, min, max, step} or {name, label, choices}; radio buttons: {name, label, radio}
//   figure(m, W, open)   SVG or HTML as text; with `open` false it keeps the answer back
//   caption(m)     the numbers in the figure's caption; left out where it has none
//   facts(m)       sentences as [key, values]; a test works every one of them out again in Python
//   recorded(R)    the seed and the scaling of the recorded runs that it shows; left out where it shows none
//   playsAtOnce, numbersOpen   its slider plays; its numbers are in sight
const LessonSteps = (() => {
  const M = LessonModel;
  const F = LessonFigures;
  const range = (count) => [...Array(count).keys()];
  const extended = (G, w) => Positions.bands("selfextend", { group_size: G, neighbor_window: w });
  const numbersOf = (S) => ({ group_size: S.G, neighbor_window: S.w });
  const bands = (S) => extended(S.G, S.w);
  const recordedBands = (S) => extended(S.RG, S.RW);
  const own = (S) => extended(S.DG, S.DW);
  const shiftOf = (S) => bands(S).at(-1).shift;
  const reachOf = (S) => Positions.reach(bands(S), S.L);
  // The longest text of step 8: past its end by the method's rule and by the paper's.
  const longest = (S) => Math.max(reachOf(S), M.paperReach(S.L, S.G, S.w)) + 2 * S.G;
  const KEY_COUNTS = range(31).map((n) => Math.round(10 ** (2 + n / 10)));
  const BLOCKS = 40;

  // The ends between which each number of the state may lie, ordered so that they depend on numbers before it alone.
  const RANGES = {
    step: () => [1, 10],
    L: () => [3, 32],
    N: () => [8, 32],
    G: () => [1, 8],
    w: (S) => [1, S.L - 1],
    i: (S) => [0, S.N - 1],
    j: (S) => [0, S.i],
    at: (S, R) => [0, R.lengths.length - 1],
    look: (S, R) => [0, R.lengths.length - 1],
    d: () => [0, 1500],
    slide: (S) => [0, shiftOf(S)],
    far: () => [-4, 12],
    n: (S) => [1, longest(S)],
    keys: () => [0, KEY_COUNTS.length - 1],
    lead: () => [1, 16],
    T: () => [16, 100_000_000],
    DL: () => [2, 100_000_000],
    DG: () => [1, 1_000_000],
    DW: (S) => [1, S.DL - 1],
    row: () => [0, BLOCKS - 1],
    column: (S) => [0, S.row],
  };
  const slider = (m, name, label, more = {}) => {
    const [min, max] = RANGES[name](m.S, m.R);
    return { name, label: [label], min, max, ...more };
  };
  const SMALL = ["L", "N", "G", "w"];
  // What step 10 is about; in the app the page has numbers for all of them.
  const OWN = ["T", "DL", "DG", "DW"];
  const small = (m) => SMALL.map((name) => slider(m, name, `symbol.${name}`));
  const captionOf = (m, step) => m.t(`${step.id}.caption`, step.caption?.(m));
  const recorded = (m, ...names) =>
    [
      { name: "at", label: ["s1.length"], choices: m.R.lengths },
      { name: "RG", label: ["symbol.G"], choices: [1, ...m.R.group_sizes], value: true },
      { name: "RW", label: ["symbol.w"], choices: m.R.neighbor_windows, value: true },
      { name: "SG", label: ["s5.SG"], choices: [1, ...m.R.group_sizes], value: true },
      { name: "SW", label: ["s5.SW"], choices: m.R.neighbor_windows, value: true },
    ].filter((each) => names.includes(each.name));
  // Step 5 has settings of its own: with those of the first step, leaving out the shift would change no answer.
  const settingsOf = ({ RG, RW }) => [RG, RW];
  const seamSettingsOf = ({ SG, SW }) => [SG, SW];
  const right = (m, kind, settings, at = m.S.at) =>
    M.digits(m.R.prompt.key, M.answer(m.R, kind, at, ...settings)).filter((digit) => digit.right).length;

  // At how many of the recorded lengths every digit is right.
  const wholly = (m, kind, settings) =>
    range(m.R.lengths.length).filter((at) => right(m, kind, settings, at) === m.R.prompt.key.length).length;

  const quoted = (said) => `“${said.replace(/\n/g, "⏎")}”`;

  // Where the recorded key and the query that asks for it stand.
  const asking = (m, distance) => ({ key: m.R.prompt.digits_at, query: m.R.prompt.digits_at + distance });
  const groupedAt = (m, distance) => {
    const { key, query } = asking(m, distance);
    return Positions.relative(recordedBands(m.S), query, key);
  };
  const dialsAt = (m, position) => M.dials(m.R.made.rope, m.R.made.trained_window, position);
  const outside = (m, position) => dialsAt(m, position).filter((dial) => dial.outside).length;
  const wholeTurns = (R) => M.dials(R.made.rope, R.made.trained_window, 0).filter((dial) => dial.whole).length;

  const one = {
    id: "s1",
    recorded: ({ made }) => made,
    controls: (m) => recorded(m, "at", "RG", "RW"),
    guess: (m) => {
      const key = m.R.prompt.key;
      const at = M.firstBroken(m.R);
      const wrong = M.firstWrong(key, M.answer(m.R, "vanilla", at, 1, 1));
      return {
        ask: ["s1.ask", { n: m.R.lengths[at], key }],
        options: [...range(key.length).map((n) => ["s1.digit", { n: n + 1 }]), ["s1.none"]],
        right: wrong < 0 ? key.length : wrong,
        answer: wrong < 0 ? ["s1.answer.none", { of: key.length }] : ["s1.answer.digit", { n: wrong + 1 }],
      };
    },
    figure: (m, W, open) => {
      const key = m.R.prompt.key;
      const row = (kind) => {
        const said = M.answer(m.R, kind, m.S.at, m.S.RG, m.S.RW);
        return {
          name: m.t(`kind.${kind}`),
          digits: open ? M.digits(key, said) : [...key].map(() => null),
          said: open && said !== key ? m.t("s1.said", { text: quoted(said) }) : "",
        };
      };
      const strip = (kind) => ({ name: m.t(`kind.${kind}`), right: range(m.R.lengths.length).map((at) => right(m, kind, settingsOf(m.S), at)), of: key.length });
      return F.answers(W, {
        label: captionOf(m, one),
        length: m.R.lengths[m.S.at],
        longest: m.R.lengths.at(-1),
        trainedWindow: m.R.made.trained_window,
        keyAt: m.R.prompt.digits_at,
        rows: [row("vanilla"), row("selfextend")],
        strips: open ? [strip("vanilla"), strip("selfextend")] : [],
        at: m.S.at,
        stripTitle: m.t("s1.strip", { from: m.R.lengths[0], to: m.R.lengths.at(-1) }),
        tokens: (n) => m.t("unit.tokens", { n }),
      });
    },
    facts: (m) => {
      const { key } = m.R.prompt;
      const n = m.R.lengths[m.S.at];
      const settings = settingsOf(m.S);
      const [plain, extended] = [right(m, "vanilla", settings), right(m, "selfextend", settings)];
      const of = key.length;
      const numbers = { G: m.S.RG, w: m.S.RW, key, of };
      const reach = Positions.reach(recordedBands(m.S), m.R.made.trained_window);
      return [
        plain === key.length ? ["s1.vanilla.right", { n, key }] : ["s1.vanilla.wrong", { n, right: plain, of }],
        ...(m.S.RG === 1
          ? [["s1.extended.same"]]
          : [
              extended === key.length ? ["s1.extended.right", numbers] : ["s1.extended.wrong", { ...numbers, right: extended }],
              [n <= reach ? "s1.reach.in" : "s1.reach.out", { reach }],
            ]),
        ["s1.lengths", { v: wholly(m, "vanilla", settings), s: wholly(m, "selfextend", settings), all: m.R.lengths.length }],
        ["s1.beyond", { L: m.R.made.trained_window, n: m.R.lengths[M.firstBroken(m.R)] }],
        ["s1.nothing"],
      ];
    },
  };

  const two = {
    id: "s2",
    recorded: ({ made }) => made,
    caption: (m) => ({ L: m.R.made.trained_window }),
    controls: (m) => [slider(m, "d", "s2.distance", { step: 10 }), ...recorded(m, "RG", "RW")],
    guess: (m) => {
      const { pairs } = m.R.made.rope;
      const n = outside(m, m.S.d);
      return { ask: ["s2.ask", { d: m.S.d, pairs }], right: n, answer: ["s2.answer", { n, pairs }] };
    },
    figure: (m, W, open) => {
      return F.dials(W, {
        label: captionOf(m, two),
        dials: dialsAt(m, m.S.d),
        grouped: open && m.S.RG > 1 ? dialsAt(m, groupedAt(m, m.S.d)) : null,
        turn: (tokens) => m.short(tokens),
        hidden: !open,
      });
    },
    facts: (m) => {
      const L = m.R.made.trained_window;
      const { pairs } = m.R.made.rope;
      const p = groupedAt(m, m.S.d);
      return [
        ["s2.whole", { whole: wholeTurns(m.R), pairs, L }],
        m.S.d < L ? ["s2.inside", { d: m.S.d }] : ["s2.outside", { d: m.S.d, outside: outside(m, m.S.d), pairs }],
        ...(m.S.d < L ? [] : [["s2.back"]]),
        ...(m.S.RG === 1 || p === m.S.d ? [] : [["s2.grouped", { G: m.S.RG, p, outside: outside(m, p), pairs }]]),
      ];
    },
  };

  const LITTLE = 0.01;
  const three = {
    id: "s3",
    recorded: ({ made }) => made,
    caption: ({ R: { chain } }) => ({ layer: chain.layer, head: chain.head }),
    controls: (m) => [{ name: "look", label: ["s1.length"], choices: m.R.lengths }],
    guess: (m) => {
      const { weight } = m.R.chain.vanilla[m.S.look];
      const few = { few: { share: LITTLE } };
      return {
        ask: ["s3.ask", { n: m.R.lengths[m.S.look] }],
        options: [["s3.most"], ["s3.some", few], ["s3.none", few]],
        right: weight > 0.5 ? 0 : weight >= LITTLE ? 1 : 2,
        answer: ["s3.answer", { weight: { share: weight } }],
      };
    },
    figure: (m, W, open) => {
      const { wave } = m.R.chain;
      const furthest = m.R.chain.vanilla.at(-1).position;
      const curve = range(Math.ceil(furthest / 4) + 1).map((n) => [n * 4, M.score(wave, m.R.made.rope.base, n * 4)]);
      const mark = (kind) => ({ kind, name: m.t(`kind.${kind}`), ...m.R.chain[kind][m.S.look] });
      return F.chain(W, {
        label: captionOf(m, three),
        curve: curve.filter(([position]) => position <= furthest),
        trainedWindow: m.R.made.trained_window,
        furthest,
        marks: open ? [mark("vanilla"), mark("selfextend")] : [],
        titles: { score: m.t("s3.score"), weight: open ? m.t("s3.weight") : "", probability: open ? m.t("s3.probability") : "" },
        share: m.share,
      });
    },
    facts: (m) => {
      const told = ({ position, score, weight, probability }) => ({
        p: position,
        score: { fixed: score },
        weight: { share: weight },
        probability: { share: probability },
      });
      const { chain } = m.R;
      const { layers, heads } = m.R.made;
      return [
        ["s3.vanilla", told(chain.vanilla[m.S.look])],
        ["s3.rest", { rest: { fixed: chain.vanilla[m.S.look].rest } }],
        ["s3.extended", { G: chain.group_size, w: chain.neighbor_window, ...told(chain.selfextend[m.S.look]) }],
        ["s3.one", { all: layers * heads, layers, heads }],
      ];
    },
  };

  const kindsOf = (S, i, j) => {
    const position = Positions.relative(bands(S), i, j);
    return { position, near: i - j < S.w, unseen: position >= S.L };
  };

  const four = {
    id: "s4",
    numbersOpen: true,
    controls: small,
    guess: (m) => {
      const { i, j } = m.S;
      const n = Positions.relative(bands(m.S), i, j);
      return { ask: ["s4.ask", { L: m.S.L, G: m.S.G, w: m.S.w, i, j }], right: n, answer: ["s5.answer", { n }] };
    },
    // A table and no drawing: every cell is to be reached by the arrow keys and read out.
    figure: (m, W, open) => {
      const { S, words } = m;
      const { i, j } = S;
      const head = (n) => `<span class="ls-token">${F.escaped(words[n])}</span><b>${n}</b><i>${Math.floor(n / S.G)}</i>`;
      const cell = (query, key) => {
        const found = kindsOf(S, query, key);
        const kind = `${F.kinds(found, open)}${key > 0 && key % S.G === 0 && S.G > 1 ? " group" : ""}`;
        const shown = open ? found.position : "?";
        const name = m.t("s4.cell", { i: query, j: key, p: shown });
        return `<td role="gridcell" data-cell="${query},${key}" tabindex="${query === i && key === j ? 0 : -1}"
          class="${kind}${query === i && key === j ? " chosen" : ""}" aria-label="${F.escaped(name)}"><span>${shown}</span></td>`;
      };
      const strip = range(S.N)
        .map((key) => {
          if (key > i) return '<li class="later"><span></span></li>';
          const found = kindsOf(S, i, key);
          return `<li class="${F.kinds(found, open)}${key === j ? " chosen" : ""}" data-cell="${i},${key}">
            <small>${key}</small><span>${open ? found.position : "?"}</span></li>`;
        })
        .join("");
      const rows = range(S.N)
        .map((query) => {
          const later = S.N - query - 1;
          return `<tr class="${query === i ? "now" : ""}"><th scope="row">${head(query)}</th>${range(query + 1)
            .map((key) => cell(query, key))
            .join("")}${later ? `<td class="later" colspan="${later}"></td>` : ""}</tr>`;
        })
        .join("");
      const row = F.escaped(m.t("s4.row", { i }));
      return `<div class="ls-now"><p class="ls-strip-title">${row}</p>
        <div class="ls-strip-room" tabindex="0" role="region" aria-label="${row}"><ul class="ls-strip">${strip}</ul></div></div>
        <div class="ls-scroll"><table class="ls-grid" role="grid" aria-label="${F.escaped(m.t("s4.title"))}" style="--tokens:${S.N}">
        <thead><tr><td></td>${range(S.N).map((key) => `<th scope="col">${head(key)}</th>`).join("")}</tr></thead>
        <tbody>${rows}</tbody></table></div>${F.legend(m.t)}`;
    },
    facts: (m) => {
      const { S, words } = m;
      const { i, j } = S;
      const d = i - j;
      const { position: p, near, unseen } = kindsOf(S, i, j);
      const sum = Positions.sum("selfextend", numbersOf(S), i, j);
      return [
        ["s4.who", { i, j, query: words[i], key: words[j] }],
        [near ? "s4.near" : "s4.far", { d, w: S.w, sum }],
        ...(unseen ? [["s4.unseen", { p, last: S.L - 1 }]] : []),
        ...(near ? [] : [[d >= S.L ? "s4.vanilla.unseen" : "s4.vanilla", { d, last: S.L - 1 }]]),
      ];
    },
  };

  const LEFT_OUT = ["selfextend", "no_shift", "no_neighbors", "vanilla"];
  const POSITIONS_OF = { selfextend: "selfextend", no_shift: "unjoined", no_neighbors: "grouped", vanilla: "vanilla" };
  const five = {
    id: "s5",
    recorded: ({ made }) => made,
    playsAtOnce: true,
    caption: (m) => ({ i: m.S.N - 1 }),
    controls: (m) => [
      { name: "part", label: ["s5.what"], radio: LEFT_OUT.map((part) => [part, `s5.${part}`]) },
      ...(m.S.part === "selfextend" ? [slider(m, "slide", "s5.slide")] : []),
      ...recorded(m, "at", "SG", "SW").map((control) => (control.name === "at" ? { ...control, label: ["s5.at"] } : control)),
      ...small(m),
    ],
    guess: (m) => ({
      ask: ["s5.ask", { G: m.S.G, w: m.S.w }],
      right: shiftOf(m.S),
      answer: ["s5.answer", { n: shiftOf(m.S) }],
    }),
    figure: (m, W, open) => {
      const { S } = m;
      const i = S.N - 1;
      const part = open ? S.part : "no_shift";
      const slide = part === "selfextend" ? S.slide : 0;
      const all = Positions.bands(POSITIONS_OF[part === "selfextend" ? "no_shift" : part], numbersOf(S));
      const pegs = range(S.N).map((key) => {
        const near = part === "vanilla" || (part !== "no_neighbors" && i - key < S.w);
        return { key, near, position: Positions.relative(all, i, key) + (near ? 0 : slide) };
      });
      return F.seam(W, {
        label: captionOf(m, five),
        pegs: pegs.reverse(),
        trainedWindow: S.L,
        shifted: slide,
        names: { near: m.t("kind.near"), far: m.t("kind.far") },
      });
    },
    facts: (m) => {
      const { S } = m;
      const i = S.N - 1;
      const settings = seamSettingsOf(S);
      const said = M.answer(m.R, S.part, S.at, ...settings);
      const measured = [
        ["s5.measured", { n: m.R.lengths[S.at], SG: S.SG, SW: S.SW }],
        ["s5.said", { text: quoted(said), right: right(m, S.part, settings), of: m.R.prompt.key.length }],
        ["s5.lengths", { right: wholly(m, S.part, settings), all: m.R.lengths.length }],
      ];
      const shift = S.G === 1 ? ["s5.shift.none", { w: S.w }] : ["s5.shift", { w: S.w, G: S.G, wg: S.w - shiftOf(S), shift: shiftOf(S) }];
      if (S.N <= S.w) return [shift, ["s5.no_far", { N: S.N, w: S.w }], ...measured];
      const j = i - S.w;
      const p = Positions.relative(bands(S), i, j);
      const q = Positions.relative(Positions.bands("unjoined", numbersOf(S)), i, j);
      return [
        shift,
        ...(q < S.w ? [["s5.overlap", { j, q, near: q }]] : []),
        p === S.w ? ["s5.follows", { i, j, p, near: S.w - 1 }] : ["s5.skips", { i, j, p, near: S.w - 1, w: S.w }],
        ["s5.rule"],
        ...measured,
      ];
    },
  };

  const NEAR_SCORES = [1, 2, 0.5, 1.5];
  const FAR_SCORES = [0.5, 1];
  function competing(S) {
    const far = [...FAR_SCORES, S.far / 2];
    const together = M.softmax([...NEAR_SCORES, ...far]);
    const cut = NEAR_SCORES.length;
    return {
      apart: { near: M.softmax(NEAR_SCORES), far: M.softmax(far) },
      together: { near: together.slice(0, cut), far: together.slice(cut) },
    };
  }
  const total = (list) => list.reduce((sum, weight) => sum + weight, 0);
  const six = {
    id: "s6",
    caption: () => ({ near: NEAR_SCORES.length, far: FAR_SCORES.length + 1 }),
    controls: (m) => [slider(m, "far", "s6.far", { half: true })],
    guess: () => ({
      ask: ["s6.ask"],
      options: [["s6.grow"], ["s6.stay"], ["s6.shrink"]],
      right: 2,
      answer: ["s6.answer"],
    }),
    figure: (m, W, open) => {
      const { apart, together } = competing(m.S);
      const panels = [{ title: m.t("s6.apart"), ...apart }];
      if (open) panels.push({ title: m.t("s6.together"), ...together });
      return F.softmaxes(W, { label: captionOf(m, six), panels, names: { near: m.t("s6.near_bar"), far: m.t("s6.far_bar") } });
    },
    facts: (m) => {
      const sums = ({ near, far }) => ({ near: { share: total(near) }, far: { share: total(far) } });
      const { apart, together } = competing(m.S);
      return [
        ["s6.apart.text", sums(apart)],
        ["s6.together.text", sums(together)],
      ];
    },
  };

  function tied(S) {
    const { i, j } = S;
    const keys = range(i + 1).map((key) => ({ key, ...kindsOf(S, i, key) }));
    const { position, near } = keys[j];
    const shared = near ? [j] : keys.filter((each) => !each.near && each.position === position).map((each) => each.key);
    return { i, j, keys, position, near, shared };
  }
  const seven = {
    id: "s7",
    recorded: ({ far }) => far,
    caption: (m) => ({ i: m.S.i }),
    controls: (m) => [slider(m, "j", "s7.key"), ...small(m)],
    guess: (m) => ({
      ask: ["s7.ask"],
      options: [["s7.yes"], ["s7.no"]],
      right: m.S.G > 1 ? 1 : 0,
      answer: [m.S.G > 1 ? "s7.answer" : "s7.answer.exact"],
    }),
    figure: (m, W, open) => {
      const { j, keys } = tied(m.S);
      return F.ties(W, { label: captionOf(m, seven), keys, chosen: j, hidden: !open });
    },
    facts: (m) => {
      const { i, j, position: p, near, shared } = tied(m.S);
      const { length: n, group_size: G, digits_at: from, key, text } = m.R.far;
      const to = from + key.length - 1;
      const group = Math.floor(from / G);
      const first = near
        ? ["s7.exact", { i, j, p }]
        : shared.length > 1
          ? ["s7.share", { i, p, keys: shared.join(", ") }]
          : ["s7.alone", { j, p }];
      return [
        first,
        ...(shared.length > 1 ? [["s7.order"]] : []),
        ["s7.content", { n, G, key, from, to, back: n - 1 - from, group, text }],
      ];
    },
  };

  const eight = {
    id: "s8",
    numbersOpen: true,
    caption: (m) => ({ last: m.S.L - 1 }),
    controls: (m) => [slider(m, "n", "s8.tokens"), ...small(m).filter((each) => each.name !== "N")],
    guess: (m) => {
      const n = reachOf(m.S);
      return { ask: ["s8.ask", { L: m.S.L, G: m.S.G, w: m.S.w }], right: n, answer: ["s8.answer", { n }] };
    },
    figure: (m, W, open) => {
      const { S } = m;
      const all = bands(S);
      const end = reachOf(S);
      const paper = M.paperReach(S.L, S.G, S.w);
      const points = range(longest(S)).map((n) => [n + 1, Positions.largest(all, n + 1)]);
      return F.reach(W, {
        label: captionOf(m, eight),
        points,
        hidden: !open,
        last: S.L - 1,
        tokens: S.n,
        reach: end,
        paper,
        names: { reach: "N =", paper: m.t("s8.paper") },
      });
    },
    facts: (m) => {
      const { S } = m;
      const n = S.n;
      const p = Positions.largest(bands(S), n);
      const wg = S.w - shiftOf(S);
      const [reach, paper] = [reachOf(S), M.paperReach(S.L, S.G, S.w)];
      const most = S.L - 1 - S.w + wg;
      return [
        ["s8.largest", { n, p }],
        p < S.L ? ["s8.fits", { last: S.L - 1 }] : ["s8.new", { last: S.L - 1, i: n - 1, p }],
        ["s8.must", { last: S.L - 1 }],
        ["s8.groups", { most }],
        ["s8.floor", { most, G: S.G, reach }],
        ["s8.derive", { G: S.G, L: S.L, w: S.w, wg, reach }],
        ...(n <= S.w ? [["s8.small", { n, w: S.w }]] : []),
        paper === reach
          ? ["s8.paper.same", { paper, G: S.G, w: S.w }]
          : ["s8.paper.more", { paper, more: paper - reach, G: S.G, w: S.w, wg, back: S.G * wg }],
      ];
    },
  };

  const FEW = 0.05;
  // The rows of the model's card, as it calls them, and how the lesson does.
  const CARD_ROWS = {
    "vanilla": "kind.vanilla",
    "vanilla, log-n alone": "s9.vanilla.logn",
    "SelfExtend alone": "s9.extended",
    "SelfExtend with log-n": "s9.extended.logn",
  }; // prettier-ignore
  // Up to which length the card's table, cell by cell, has SelfExtend alone as often right as with log-n scaling.
  function noNeed({ lengths, rows }) {
    const part = (row) => rows[row].map((cell) => Number.parseFloat(cell)); // NaN where nothing was measured
    const [alone, scaled] = [part("SelfExtend alone"), part("SelfExtend with log-n")];
    const first = alone.findIndex((share, at) => !(share >= scaled[at]));
    return first < 0 ? lengths.at(-1) : lengths[first - 1];
  }
  const nine = {
    id: "s9",
    recorded: ({ far }) => far,
    caption: (m) => ({ L: m.R.made.trained_window }),
    controls: (m) => [
      { name: "keys", label: ["s9.keys"], choices: KEY_COUNTS },
      slider(m, "lead", "s9.lead_slider"),
    ],
    guess: (m) => {
      const L = m.R.made.trained_window;
      const [from, to] = [KEY_COUNTS[0], KEY_COUNTS.at(-1)];
      const { plain } = M.logN(m.S.lead, to, L);
      return {
        ask: ["s9.ask", { a: m.S.lead, from, to, small: { share: M.logN(m.S.lead, from, L).plain } }],
        options: [["s9.half"], ["s9.tenth"], ["s9.few", { few: { share: FEW } }]],
        right: plain > 0.25 ? 0 : plain > FEW ? 1 : 2,
        answer: ["s9.answer", { plain: { share: plain } }],
      };
    },
    figure: (m, W, open) => {
      const L = m.R.made.trained_window;
      const lines = [
        ["vanilla", "plain"],
        ["selfextend", "scaled"],
      ].map(([kind, name]) => ({ kind, points: KEY_COUNTS.map((n) => [n, M.logN(m.S.lead, n, L)[name]]) }));
      const drawn = F.thinning(W, {
        label: captionOf(m, nine),
        lines,
        count: KEY_COUNTS[m.S.keys],
        from: KEY_COUNTS[0],
        to: KEY_COUNTS.at(-1),
        hidden: !open,
        number: m.number,
      });
      if (!open) return drawn;
      const { lengths, rows } = m.R.log_n;
      const head = lengths.map((n) => `<th scope="col">${m.number(n)}</th>`).join("");
      const body = Object.entries(rows).map(
        ([name, cells]) => `<tr><th scope="row">${F.escaped(m.t(CARD_ROWS[name]))}</th>${cells.map((each) => `<td>${F.escaped(each).replace(" (", "<br>(")}</td>`).join("")}</tr>`,
      );
      return `${drawn}<p class="ls-strip-title">${F.escaped(m.t("s9.table"))}</p>
        <div class="ls-scroll" tabindex="0" role="region" aria-label="${F.escaped(m.t("s9.table"))}"><table class="ls-card"><thead><tr><th scope="col">${F.escaped(m.t("s9.tokens"))}</th>${head}</tr></thead><tbody>${body.join("")}</tbody></table></div>
        <p class="ls-below">${F.escaped(m.t("s9.unmeasured"))}</p>`;
    },
    facts: (m) => {
      const L = m.R.made.trained_window;
      const n = KEY_COUNTS[m.S.keys];
      const { factor, plain, scaled } = M.logN(m.S.lead, n, L);
      return [
        ["s9.plain", { n, plain: { share: plain } }],
        n > L ? ["s9.scaled", { factor: { fixed: factor }, scaled: { share: scaled } }] : ["s9.scaled.none", { L }],
        ["s9.apart"],
        ["s9.need", { n: noNeed(m.R.log_n) }],
        ["s9.far", { n: m.R.far.length, G: m.R.far.group_size, key: m.R.far.key, unscaled: quoted(m.R.far.unscaled), text: quoted(m.R.far.text) }],
      ];
    },
  };

  // The token at which each block begins; the last block is the last token itself, so that the corner is a real one.
  const starts = (S) => {
    const count = Math.min(BLOCKS, S.T);
    return range(count).map((block) => Math.round((block * (S.T - 1)) / Math.max(1, count - 1)));
  };
  const blockOf = (S) => {
    const at = starts(S);
    const row = Math.min(S.row, at.length - 1);
    const column = Math.min(S.column, row);
    return { row, column, i: at[row], j: at[column] };
  };
  const ten = {
    id: "s10",
    controls: (m) => [
      slider(m, "T", "s10.T", { typed: true }),
      slider(m, "DL", "s10.L", { typed: true }),
      slider(m, "DG", "s10.G", { typed: true }),
      slider(m, "DW", "s10.w", { typed: true }),
    ],
    guess: (m) => {
      const n = Positions.relative(own(m.S), m.S.T - 1, 0);
      return { ask: ["s10.ask", { T: m.S.T, G: m.S.DG, w: m.S.DW }], right: n, answer: ["s10.answer", { n: { number: n } }] };
    },
    figure: (m, W, open) => {
      const { S } = m;
      const at = starts(S);
      const all = own(S);
      const { row, column } = blockOf(S);
      const cells = at.map((i, index) =>
        at.slice(0, index + 1).map((j) => {
          const position = Positions.relative(all, i, j);
          return { position, near: i - j < S.DW, unseen: position >= S.DL };
        }),
      );
      const drawn = F.map(W, { label: captionOf(m, ten), cells, chosen: [row, column], hidden: !open, trainedWindow: S.DL });
      return `<div class="ls-map" tabindex="0" role="application" aria-label="${F.escaped(captionOf(m, ten))}">${drawn}</div>${F.legend(m.t)}`;
    },
    facts: (m) => {
      const { S } = m;
      const { i, j } = blockOf(S);
      const reach = Positions.reach(own(S), S.DL);
      const fits = S.T <= reach;
      let needed = S.DG;
      if (!fits) {
        needed = Math.max(1, Math.ceil((S.T - S.DW) / (S.DL - S.DW)));
        while (Positions.reach(extended(needed, S.DW), S.DL) < S.T) needed += 1;
      }
      return [
        ["s10.cell", { i, j, p: Positions.relative(own(S), i, j) }],
        fits ? ["s10.fits", { reach }] : ["s10.new", { reach, needed }],
      ];
    },
    cell: (m) => blockOf(m.S),
  };

  const STEPS = [one, two, three, four, five, six, seven, eight, nine, ten];
  return { STEPS, RANGES, SMALL, OWN, LEFT_OUT, range, kindsOf, shiftOf, reachOf, wholeTurns, captionOf };
})();
