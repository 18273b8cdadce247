// The lesson's state at first, and as an address: what is copied, filed and gone back to.
const LESSON_DEFAULTS = {
  step: 1, L: 9, N: 16, G: 3, w: 4, i: 15, j: 0, at: 0, look: 0, RG: 8, RW: 128, SG: 8, SW: 8, d: 900, part: "selfextend", slide: 0,
  far: 2, n: 16, keys: 0, lead: 8, T: 12_000, DL: 4096, DG: 4, DW: 1024, row: 39, column: 0,
}; // prettier-ignore

// What stands in the address, in this order: #lesson/L=9&N=16&G=3&w=4/step=5/cell=15,0/…; what is as it was at first is
// left out, but for the numbers, the step and the cell.
const LessonAddress = {
  write(S, open, language, defaults) {
    const parts = [`L=${S.L}&N=${S.N}&G=${S.G}&w=${S.w}`, `step=${S.step}`, `cell=${S.i},${S.j}`];
    const always = ["L", "N", "G", "w", "step", "i", "j"];
    const changed = Object.keys(defaults).filter((name) => !always.includes(name) && S[name] !== defaults[name]);
    if (changed.length) parts.push(changed.map((name) => `${name}=${S[name]}`).join("&"));
    if (open.size) parts.push(`open=${[...open].sort((a, b) => a - b).join(",")}`);
    if (language !== "en") parts.push(`lang=${language}`);
    return `#lesson/${parts.join("/")}`;
  },
  // {values, open, language}; what is no number, or unknown, is left out.
  read(hash) {
    const values = {};
    const open = new Set();
    let language = "";
    if (!hash.startsWith("#lesson")) return { values, open, language, given: false };
    for (const part of hash.slice(1).split(/[/&]/)) {
      const [name, value = ""] = part.split("=");
      if (name === "open") value.split(",").map(Number).filter(Number.isInteger).forEach((step) => open.add(step));
      else if (name === "lang") language = value;
      else if (name === "part") values.part = value;
      else if (name === "cell" && /^\d+,\d+$/.test(value)) [values.i, values.j] = value.split(",").map(Number);
      else if (name in LESSON_DEFAULTS && /^-?\d+$/.test(value)) values[name] = Number(value);
    }
    return { values, open, language, given: true };
  },
};
