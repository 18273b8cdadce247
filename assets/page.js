// Follows the chat's page links (#passage-TURN-RANK). They are plain links since Gradio's sanitizer strips data attributes.
document.addEventListener("click", (event) => {
  const link = event.target.closest('a[href*="#passage-"]');
  if (!link || !element.isConnected) return;
  event.preventDefault();
  const href = link.getAttribute("href");
  trigger("passage", { href: href.slice(href.indexOf("#")) });
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
