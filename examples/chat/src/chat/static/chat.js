// A WebSocket; with ?poll in the page's address, long polling.
const polling = new URLSearchParams(location.search).has("poll");
const state = document.getElementById("state");
const list = document.getElementById("messages");
let last = 0, tries = 0, socket;

function show(answer) {
  for (const message of answer.messages) {
    if (message.id <= last) continue;
    last = message.id;
    list.append(Object.assign(document.createElement("li"), { textContent: message.text }));
  }
}

function connect() {
  socket = new WebSocket(`${location.origin.replace(/^http/, "ws")}/live?after=${last}`);
  socket.onopen = () => { tries = 0; state.textContent = "connected"; };
  socket.onmessage = (event) => show(JSON.parse(event.data));
  socket.onclose = (event) => {
    // 1012: this process leaves and another one is there. Otherwise slower with every failure, each client for itself.
    const polite = event.code === 1012 && tries === 0;
    const delay = polite ? 200 * Math.random() : Math.min(10000, 400 * 2 ** tries) * (0.5 + Math.random() / 2);
    tries += 1;
    state.textContent = `connecting again (${event.code})`;
    setTimeout(connect, delay);
  };
}

async function poll() {
  for (;;) {
    try {
      const answer = await fetch(`/messages?after=${last}`);
      if (!answer.ok) throw new Error(answer.status);
      show(await answer.json());
      tries = 0;
      state.textContent = "polling";
    } catch (error) {
      state.textContent = "polling again";
      await new Promise((go) => setTimeout(go, Math.min(10000, 400 * 2 ** tries++) * (0.5 + Math.random() / 2)));
    }
  }
}

async function post(text) {
  const token = document.cookie.match(/(?:^|; )_xsrf=([^;]*)/)[1];
  const answer = await fetch("/messages", {
    method: "POST",
    headers: { "Content-Type": "application/json", "X-Xsrftoken": token },
    body: JSON.stringify({ text }),
  });
  if (!answer.ok) throw new Error(answer.status);
}

document.getElementById("say").addEventListener("submit", async (event) => {
  event.preventDefault();
  const input = document.getElementById("text");
  // Between two sockets, and when polling, by POST: what was not said stays in the field.
  try {
    if (!polling && socket.readyState === WebSocket.OPEN) socket.send(input.value);
    else await post(input.value);
    input.value = "";
  } catch (error) {
    state.textContent = `not said (${error.message})`;
  }
});

if (polling) poll(); else connect();
