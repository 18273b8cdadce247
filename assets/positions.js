// Which relative position a query sees a key at, in the browser: selfextend/positions.py and selfextend/config.py once
// more, so that a picture follows a slider without asking the server. tests/browser/test_map_scripts.py holds every
// function here against the Python one on thousands of random cells.
//
// Plain declarations and no module: put the text of this file in front of the script that uses it. `Positions` has
//
//   bands(kind, {group_size, neighbor_window})  the bands of a map, nearest first, each {until, group, shift}
//   relative(bands, query, key)               the relative position, an integer; for keys after their query, negative
//   largest(bands, length)                    the largest relative position in a text of `length` tokens
//   reach(bands, trainedWindow)               the longest text without a position >= trainedWindow; Infinity: no limit
//   sum(kind, numbers, query, key)            the formula with a cell's numbers put in, for a key not after its query
//   explain(kind, numbers, query, key)        the same in the library's words
//   complaint(kind, numbers, trainedWindow)   what is wrong with the settings, in the page's words; "" where nothing is
//
// Kinds: those of POSITION_METHODS ("vanilla", "selfextend", "rerope"), and the two steps on the way to SelfExtend that
// only the lesson shows: "grouped" (both positions floored everywhere, no shift) and "unjoined" (neighbors exact, the rest
// floored, no shift).
//
// A key at distance query - key < until, and at no band before, is seen at
// floor(query / group) - floor(key / group) + shift. A group of Infinity puts every token into one.
const Positions = (() => {
  const exact = (until) => ({ until, group: 1, shift: 0 });
  const far = (group, shift) => ({ until: Infinity, group, shift });
  const grouping = { group_size: 1, neighbor_window: 1 }; // the smallest that each number may be
  const METHODS = {
    vanilla: { least: {}, bands: () => [exact(Infinity)] },
    selfextend: { least: grouping, bands: (G, w) => [exact(w), far(G, w - Math.floor(w / G))] },
    rerope: { least: { neighbor_window: 1 }, bands: (G, w) => [exact(w), far(Infinity, w)] },
    grouped: { least: { group_size: 1 }, bands: (G) => [far(G, 0)] },
    unjoined: { least: grouping, bands: (G, w) => [exact(w), far(G, 0)] },
  };

  function bands(kind, { group_size, neighbor_window }) {
    return METHODS[kind].bands(group_size, neighbor_window);
  }

  function bandOf(all, distance) {
    return all.find((band) => distance < band.until);
  }

  function relative(all, query, key) {
    const { group, shift } = bandOf(all, query - key);
    return Math.floor(query / group) - Math.floor(key / group) + shift;
  }

  function largest(all, length) {
    const last = length - 1;
    return Math.max(...all.map((band) => relative(all, last, last - Math.min(last, band.until - 1))));
  }

  function reach(all, trainedWindow) {
    const { group, shift } = all.at(-1);
    return group * (trainedWindow - shift);
  }

  const { format: written } = new Intl.NumberFormat("en-US");

  function sum(kind, numbers, query, key) {
    const { group_size: group, neighbor_window: neighbors } = numbers;
    const [i, j, G, w] = [query, key, group, neighbors].map(written);
    const distance = query - key;
    const isExact = kind === "vanilla" || (kind !== "grouped" && distance < neighbors);
    if (isExact) return `${i} - ${j} = ${written(distance)}`;
    if (kind === "rerope") return `min(${i} - ${j}, ${w}) = ${w}`;
    const isJoined = kind === "selfextend";
    const divisions = `${i}//${G} - ${j}//${G}${isJoined ? ` + ${w} - ${w}//${G}` : ""}`;
    const [iG, jG, wG] = [query, key, neighbors].map((tokens) => written(Math.floor(tokens / group)));
    const divided = `${iG} - ${jG}${isJoined ? ` + ${w} - ${wG}` : ""}`;
    return `${divisions} = ${divided} = ${written(relative(bands(kind, numbers), query, key))}`;
  }

  function explain(kind, numbers, query, key) {
    const [i, j, distance, w] = [query, key, query - key, numbers.neighbor_window].map(written);
    if (query < key) return `key ${j} comes after query ${i}: causal attention never looks at it`;
    const worked = sum(kind, numbers, query, key);
    if (kind !== "selfextend") return worked;
    const isNear = query - key < numbers.neighbor_window;
    return isNear ? `neighbor: ${worked} (distance ${distance} < ${w})` : `grouped: ${worked} (distance ${distance} >= ${w})`;
  }

  // As app/wording.py has the library's sentences.
  function complaint(kind, numbers, trainedWindow) {
    const { least } = METHODS[kind];
    for (const [name, smallest] of Object.entries(least)) {
      if (!Number.isInteger(numbers[name])) return "Group size and Neighbor window both need a whole number.";
      const named = name === "group_size" ? "Group size" : "Neighbor window";
      if (numbers[name] < smallest) return `${named} must be at least ${smallest}, not ${written(numbers[name])}.`;
    }
    if (!("neighbor_window" in least) || numbers.neighbor_window < trainedWindow) return "";
    const why = kind === "rerope" ? ": the model never saw that position" : ", else no position is left for grouped keys";
    return (
      `Neighbor window ${written(numbers.neighbor_window)} must be smaller than the trained window ` +
      `(${written(trainedWindow)})${why}. Try ${written(Math.max(1, Math.floor(trainedWindow / 4)))}.`
    );
  }

  return { bands, relative, largest, reach, sum, explain, complaint };
})();
