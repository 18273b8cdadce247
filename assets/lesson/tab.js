// Puts the lesson into the Learn tab. Gradio runs this as the body of a function, with the lesson's scripts before it.
const lessonRoot = element.querySelector(".lesson-root");
const inApp = document.getElementById("main-tabs") !== null;

function showOnMap(query, key) {
  const tabs = [...document.querySelectorAll('button[role="tab"]')];
  for (const name of ["Read", "Position map"]) tabs.find((tab) => tab.textContent.trim() === name)?.click();
  window.selfextendSelection?.select(query, key, "lesson");
}

const mounted = mountLesson(lessonRoot, props.lesson_packed, {
  run: props.lesson_runs ? (settings) => trigger("run", settings) : undefined,
  stopRun: () => trigger("stop_run"),
  showMap: inApp ? showOnMap : undefined,
});
watch("value", async () => {
  if (props.value) (await mounted).ran(JSON.parse(props.value));
});

// What the page would read next, in two parts that come by themselves: the settings, and the document with the model.
const page = {};
async function tellPage(told) {
  Object.assign(page, told);
  if ("DG" in page && "T" in page) (await mounted).page({ ...page });
}
window.selfextendLesson = {
  settings(G, w) {
    // An emptied slider says nothing.
    if (G !== null && w !== null) tellPage({ DG: G, DW: w });
  },
  document({ trained, length, model, documents }) {
    tellPage({ T: length, DL: trained, model, documents: documents.join(", ") });
  },
};
trigger("ready");

// The app's header stays in sight, and the row that step 4 keeps in sight stands below it.
const header = document.getElementById("top");
if (header) {
  new ResizeObserver(() => lessonRoot.style.setProperty("--above", `${header.offsetHeight}px`)).observe(header);
}

// The app's meters tell of another text with other numbers.
new IntersectionObserver(([{ isIntersecting }]) => {
  document.body.classList.toggle("lesson-open", isIntersecting && lessonRoot.offsetParent !== null);
}).observe(lessonRoot);
