/* ---- the stream of pictures; by fetch, as an EventSource could not carry a token ---- */

const RETRY_MS = 1000, PATIENCE_MS = 10000, EVENT_MAX = 64 << 20;

let token = sessionStorage.getItem("selvedge-token");
let last = null;                // when the last picture came
let admitted = null;            // called when a token was entered

function trouble(text) {
  byId("trouble").hidden = text === null;
  if (text !== null && byId("trouble").textContent !== text) byId("trouble").textContent = text;
}

function live(state, text) {
  byId("live").className = state;
  if (byId("live").textContent !== text) byId("live").textContent = text;
}

/* Reads one stream to its end. */
async function read() {
  const patience = new AbortController();
  let alarm = null;
  const wait = () => {
    clearTimeout(alarm);
    alarm = setTimeout(() => patience.abort(), PATIENCE_MS);
  };
  wait();
  try {
    const answer = await fetch("/v1/events", { headers: headers(), cache: "no-store", signal: patience.signal });
    if (answer.status === 401) return await login();
    if (!answer.ok) {
      trouble(`The node refuses: ${(await answer.json()).error.message}.`);
      return live("off", "not live");
    }
    const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
    let text = "";
    for (;;) {
      const { done, value } = await reader.read();
      if (done || text.length > EVENT_MAX) return;
      wait();
      text += value;
      for (let end = text.indexOf("\n\n"); end >= 0; end = text.indexOf("\n\n")) {
        const data = text.slice(0, end).split("\n").filter((line) => line.startsWith("data: ")).map((line) => line.slice(6));
        text = text.slice(end + 2);
        if (data.length > 0) come(data.join("\n"));
      }
    }
  } finally {
    clearTimeout(alarm);
    patience.abort();
  }
}

function come(data) {
  last = new Date();
  trouble(null);
  live("on", "live");
  take(JSON.parse(data));
}

async function login() {
  byId("login").hidden = false;
  live("off", "locked");
  trouble(token === null ? null : "This token is not the right one.");
  await new Promise((resolve) => { admitted = resolve; });
  byId("login").hidden = true;
}

async function follow() {
  for (;;) {
    try {
      await read();
    } catch (error) {
      const since = last === null ? "" : ` What is shown is from ${clock(last)}.`;
      trouble(`The node does not answer; it is asked again each second.${since}`);
      live("off", "not live");
      console.error(error);
    }
    await new Promise((resolve) => setTimeout(resolve, RETRY_MS));
  }
}

byId("login").addEventListener("submit", (event) => {
  event.preventDefault();
  token = byId("token").value;
  sessionStorage.setItem("selvedge-token", token);
  admitted?.();
});
byId("filter").addEventListener("submit", (event) => event.preventDefault());
byId("filter").addEventListener("input", () => { if (picture !== null) show(); });
document.addEventListener("visibilitychange", () => { if (picture !== null && !document.hidden) show(); });
follow();
