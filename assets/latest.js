// The browser's side of `Latest` in app/tabs/widgets.py. Gradio runs this as a function body with `trigger`,
// and `made`: what it was made with. What is wanted while an answer is under way is asked for after it, with the values of that moment.
const all = (window.selfextendLatest ??= {});
let wanted = null;
let busy = false;

function send() {
  if (busy || wanted === null) return;
  const data = wanted;
  wanted = null;
  busy = true;
  trigger("ask", data);
}

all[made.name] = {
  want(data) {
    wanted = { ...wanted, ...data };
    setTimeout(send); // what changes in one go is asked for in one go
  },
  answered() {
    busy = false;
    send();
  },
};
if (made.first) all[made.name].want({});
