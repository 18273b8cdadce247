// One selected pair of tokens for the whole page: query i and key j, as token indices of prompt and answer together.
// A panel sends what its user chose and follows what was chosen in another one. Gradio runs this once, as the body of a
// function.
const EVENT = "selfextend-select";

window.selfextendSelection ??= {
  current: { query: null, key: null, from: "" },

  // `from` names who chose it. Who sends it does not hear of it.
  select(query, key, from, sender = from) {
    this.current = { query, key, from };
    document.dispatchEvent(new CustomEvent(EVENT, { detail: { ...this.current, sender } }));
  },

  // Calls `hear` with the current selection and with every one after it, until `element` leaves the page.
  follow(element, name, hear) {
    const listen = (event) => {
      if (!element.isConnected) {
        document.removeEventListener(EVENT, listen);
      } else if (event.detail.sender !== name) {
        hear(event.detail);
      }
    };
    document.addEventListener(EVENT, listen);
    if (this.current.from && this.current.from !== name) hear(this.current);
  },
};
