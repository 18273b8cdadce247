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
  showMap: inApp ? showOnMap : undefined,
});
watch("value", async () => {
  if (props.value) (await mounted).ran(JSON.parse(props.value));
});

// The app's meters tell of another text with other numbers.
new IntersectionObserver(([{ isIntersecting }]) => {
  document.body.classList.toggle("lesson-open", isIntersecting && lessonRoot.offsetParent !== null);
}).observe(lessonRoot);
