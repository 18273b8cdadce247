// Passes on what app/tabs/evidence.py says of a test under way to assets/passages.js, which knows whether it shows that
// answer. The last news is kept for a tab that is opened later. Gradio runs it once, as a function body.
watch("value", () => {
  if (!props.value) return;
  window.selfextendPassageNews = JSON.parse(props.value);
  document.dispatchEvent(new CustomEvent("selfextend-passage-news", { detail: window.selfextendPassageNews }));
});
