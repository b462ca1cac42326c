// Says over a WebSocket, once a second, which release answers now.
"use strict";
const heading = document.querySelector("h1");
function connect() {
  const socket = new WebSocket(`${location.protocol.replace("http", "ws")}//${location.host}/live`);
  let timer;
  socket.onopen = () => { timer = setInterval(() => socket.send("tick"), 1000); };
  socket.onmessage = (event) => { heading.textContent = `testapp ${JSON.parse(event.data).release}`; };
  socket.onclose = () => { clearInterval(timer); setTimeout(connect, 100); };
}
connect();
