// Follows the chat's links: to a passage (#passage-TURN-RANK), and to go on with an answer (#continue-TURN). They are
// plain links since Gradio's sanitizer strips data attributes.
document.addEventListener("click", (event) => {
  const link = event.target.closest('a[href*="#passage-"], a[href*="#continue-"]');
  if (!link || !element.isConnected) return;
  event.preventDefault();
  const href = link.getAttribute("href");
  const place = href.slice(href.indexOf("#"));
  const passage = /^#passage-(\d+)-(\d+)$/.exec(place);
  if (passage) window.selfextendReader?.openPassage(Number(passage[1]), Number(passage[2]));
  trigger(place.startsWith("#continue-") ? "go_on" : "passage", { href: place });
});

// Gradio resets a slider to the value it was built with. These two have an advised value, which Suggest knows.
document.addEventListener(
  "click",
  (event) => {
    if (!event.target.closest("#group-size .reset-button, #neighbor-window .reset-button")) return;
    event.stopImmediatePropagation();
    document.getElementById("suggest").click();
  },
  true,
);
