// Follows the chat's page links (#passage-TURN-RANK): the sanitizer leaves a link's href alone and strips data
// attributes. Knows nothing about what the numbers mean.
document.addEventListener("click", (event) => {
  const link = event.target.closest('a[href*="#passage-"]');
  if (!link || !element.isConnected) return;
  event.preventDefault();
  const href = link.getAttribute("href");
  trigger("passage", { href: href.slice(href.indexOf("#")) });
});
