// What the lesson works out, apart from the positions (assets/positions.js) and from what was recorded: angles of RoPE,
// scores, softmax, log-n scaling, the paper's own limit. Pure functions, held against Python's in tests/browser/test_lesson.py.
const LessonModel = (() => {
  const TURN = 2 * Math.PI;

  // Radians a token by which each frequency pair turns, fastest first. rope = {base, pairs}.
  function frequencies({ base, pairs }) {
    return Array.from({ length: pairs }, (_, pair) => base ** (-pair / pairs));
  }

  // One dial a pair: how far its hand stands at `position`, which arc positions 0 ... L - 1 passed over (in radians, the
  // whole turn where they went round), and whether the hand stands outside it. Hands go round, so one that left the arc
  // comes back into it after a turn.
  function dials(rope, trainedWindow, position) {
    return frequencies(rope).map((frequency) => {
      const angle = (position * frequency) % TURN;
      const whole = trainedWindow * frequency >= TURN;
      const seen = whole ? TURN : (trainedWindow - 1) * frequency;
      return { angle, seen, whole, tokens: TURN / frequency, outside: angle > seen };
    });
  }

  // The score that the recorded query gives the recorded key at a relative position. wave = [[amplitude, phase], ...].
  function score(wave, base, position) {
    const each = frequencies({ base, pairs: wave.length });
    return wave.reduce((sum, [amplitude, phase], pair) => sum + amplitude * Math.cos(position * each[pair] + phase), 0);
  }

  function softmax(scores) {
    const largest = Math.max(...scores);
    const powers = scores.map((value) => Math.exp(value - largest));
    const sum = powers.reduce((total, power) => total + power, 0);
    return powers.map((power) => power / sum);
  }

  // One key's weight among n keys, its score `lead` above that of all others, and what log-n scaling makes of it.
  function logN(lead, count, trainedWindow) {
    const factor = Math.max(1, Math.log(count) / Math.log(trainedWindow));
    const weight = (margin) => 1 / (1 + (count - 1) * Math.exp(-margin));
    return { factor, plain: weight(lead), scaled: weight(lead * factor) };
  }

  // The paper's own limit, (L - w) * G + w.
  function paperReach(trainedWindow, G, w) {
    return (trainedWindow - w) * G + w;
  }

  // The answer that was recorded at runs.lengths[at]: kind is "vanilla", "selfextend", "no_shift" or "no_neighbors".
  // A group size of 1 is the vanilla model, whatever else is left out: nothing is floored and nothing is shifted.
  function answer(runs, kind, at, G, w) {
    const recorded = runs.answers;
    if (kind === "vanilla" || G === 1) return runs.texts[recorded.vanilla[at]];
    const row = kind === "no_neighbors" ? recorded.no_neighbors[`${G}`] : recorded[kind][`${G},${w}`];
    return runs.texts[row[at]];
  }

  // The first recorded length, by number, at which the vanilla model does not say the key.
  function firstBroken(runs) {
    return Math.max(0, runs.lengths.findIndex((_, at) => answer(runs, "vanilla", at, 1, 1) !== runs.prompt.key));
  }

  // The recorded length, by number, at which the key's first digit stands nearest to `distance` tokens back.
  function nearestLength(runs, distance) {
    const off = runs.chain.vanilla.map(({ position }) => Math.abs(position - distance));
    return off.indexOf(Math.min(...off));
  }

  // The answer against the key, character by character: what stands there, and whether it is right.
  function digits(key, text) {
    return [...key].map((wanted, at) => ({ got: text[at] ?? "", right: text[at] === wanted }));
  }

  // The first wrong digit, from 0; -1 where all are right.
  function firstWrong(key, text) {
    return digits(key, text).findIndex((digit) => !digit.right);
  }

  return { dials, score, softmax, logN, paperReach, answer, firstBroken, nearestLength, digits, firstWrong };
})();
