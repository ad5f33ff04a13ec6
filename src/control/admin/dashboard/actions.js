/* ---- changes: the figures of a dry run first, then the thing itself ---- */

const TITLES = { shift: "Shift", restore: "Restore", drain: "Drain", up: "Bring up", down: "Take down" };
const SUFFICES = /^(\d+(ms|s|m|h|d))+$/;
let asking = null;              // what the dialog is about: { what, pool, zone or target }
let planned = 0;                // counts the dry runs, so that a late answer is not shown

const headers = () => (token === null ? {} : { authorization: "Bearer " + token });

function askFor(what, about) {
  asking = { what, ...about };
  const subject = about.zone ?? about.target, lasts = what === "shift" || what === "drain";
  byId("ask-title").textContent = `${TITLES[what]} ${about.zone === undefined ? "" : "zone "}${subject}?`;
  byId("ask-what").textContent = meaning(what, about);
  byId("ask-for-line").hidden = !lasts;
  byId("ask-for").value = what === "shift" ? "1h" : "";
  byId("ask-for-hint").textContent = what === "shift" ? "1m to 72h, such as 90m; the zone comes back by itself then"
    : what === "drain" ? "such as 10m; empty for the pool's own deadline" : "";
  byId("ask-comment-line").hidden = what !== "shift";
  byId("ask-comment").value = "";
  byId("ask-yes").textContent = `${TITLES[what]} it`;
  fail(null);
  byId("ask").showModal();
  (lasts ? byId("ask-for") : byId("ask-no")).focus();
  plan();
}

function meaning(what, { pool, zone }) {
  return {
    shift: `No new session goes to ${zone}, in any pool, and the sessions there move to the other zones.`,
    restore: `${zone} gets its share of new sessions again. Sessions that moved stay where they are, unless failback says otherwise.`,
    drain: `It gets no new session of ${pool}, and keeps those bound to it until they end or the time is over.`,
    up: `It gets its share of new sessions of ${pool} again, if its checks pass.`,
    down: `It gets nothing more of ${pool}, at once: the sessions bound to it move.`,
  }[what];
}

/* The request for what is asked, or for its dry run. */
async function send(dry) {
  const { what, pool, zone, target } = asking, lasts = byId("ask-for").value.trim();
  const json = { "content-type": "application/json", ...headers() }, signal = AbortSignal.timeout(PATIENCE_MS);
  const shift = `/v1/zones/${encodeURIComponent(zone)}/shift`;
  if (what === "restore") return fetch(shift + (dry ? "?dry_run=true" : ""), { method: "DELETE", headers: headers(), signal });
  const comment = byId("ask-comment").value.trim();
  const body = what === "shift"
    ? { for: lasts, comment: comment === "" ? null : comment, force: byId("ask-force").checked, dry_run: dry }
    : { state: what, dry_run: dry, ...(what === "drain" && lasts !== "" ? { deadline: lasts } : {}) };
  const path = what === "shift" ? shift : `/v1/pools/${encodeURIComponent(pool)}/targets/${encodeURIComponent(target)}/state`;
  return fetch(path, { method: "PUT", headers: json, body: JSON.stringify(body), signal });
}

async function answered(dry) {
  const answer = await send(dry);
  const said = await answer.json();
  if (!answer.ok) throw new Error(said.error.message);
  return said;
}

/* Asks what it would do, and shows that. */
async function plan() {
  const mine = ++planned;
  byId("ask-yes").disabled = true;
  byId("ask-force-line").hidden = true;
  byId("ask-force").checked = false;
  if (!isDuration()) {
    byId("ask-figures").replaceChildren(make("p", {}, "A duration is missing, such as 90m or 2h."));
    return;
  }
  try {
    const { figures } = await answered(true);
    if (mine !== planned) return;
    byId("ask-figures").replaceChildren(...shownFigures(figures));
    const enough = figures.enough || asking.what === "restore" || asking.what === "up";
    byId("ask-force-line").hidden = enough;
    byId("ask-yes").disabled = !enough;
    fail(null);
  } catch (error) {
    if (mine !== planned) return;
    byId("ask-figures").replaceChildren();
    fail(error.message);
  }
}

function isDuration() {
  const text = byId("ask-for").value.trim(), what = asking.what;
  const good = (what !== "shift" && what !== "drain") || (what === "drain" && text === "") || SUFFICES.test(text);
  byId("ask-for").setAttribute("aria-invalid", String(!good));
  return good;
}

function shownFigures(figures) {
  const pools = figures.pools ?? [{ pool: asking.pool, zones: figures.zones, target: figures }];
  return pools.flatMap((pool) => [
    make("p", {}, pool.target === undefined ? zoneWords(pool) : targetWords(pool.target)),
    make("table", {}, make("caption", { class: "unseen" }, "What pool " + pool.pool + " would look like"),
      make("thead", {}, make("tr", {}, ...[`Zones of ${pool.pool}`, "Healthy", "Share now", "Share then"]
        .map((title) => make("th", { scope: "col" }, title)))),
      make("tbody", {}, ...pool.zones.map((zone) => make("tr", {}, make("th", { scope: "row" }, titleOf(zone.zone)),
        make("td", {}, `${zone.healthy} of ${zone.targets}`), make("td", {}, percent(zone.share_now)),
        make("td", {}, percent(zone.share_then)))))),
  ]);
}

function zoneWords({ pool, capacity_left: left, capacity_needed: needed, sessions }) {
  const capacity = `${percent(left)} of the targets of pool ${pool} are in service and healthy then`;
  if (asking.what === "restore") return capacity + ".";
  const moves = `about ${many(sessions, "session")} ${sessions === 1 ? "moves" : "move"}.`;
  return left < needed ? `Too little is left: ${capacity}, ${percent(needed)} are needed; ${moves}`
    : `${capacity} (${percent(needed)} needed); ${moves}`;
}

function targetWords(figures) {
  const { open_now: now, open_then: then, sessions, sessions_move: move, in_flight: flight, deadline_seconds: deadline } = figures;
  const bound = sessions === 0 ? "No session is bound to it"
    : move > 0 ? `About ${many(sessions, "session")} ${sessions === 1 ? "moves" : "move"} to others at once`
      : `About ${many(sessions, "session")} ${sessions === 1 ? "stays" : "stay"}` +
        (deadline === null ? "" : ` for up to ${span(deadline)}`);
  const last = figures.enough ? "" : " Nobody is left for new sessions: requests wait, and then fail.";
  const panic = figures.panic ? " So few are healthy then that health is ignored." : "";
  return `${bound}; ${many(flight, "request")} under way. ${then} of ${figures.targets} targets take new sessions then, ${now} do now.` +
    last + panic;
}

function fail(text) {
  byId("ask-error").hidden = text === null;
  byId("ask-error").textContent = text ?? "";
}

async function carryOut() {
  byId("ask-yes").disabled = true;
  const mine = asking, { what, zone, target } = mine;
  try {
    await answered(false);
    say(`${TITLES[what]} ${zone ?? target}: done`);
    if (asking === mine) byId("ask").close();
  } catch (error) {
    say(`${TITLES[what]} ${zone ?? target}: ${error.message}`);
    if (asking !== mine) return;        // another question is open by now
    fail(error.message);
    byId("ask-yes").disabled = false;
  }
}

document.addEventListener("click", (event) => {
  const pressed = event.target.closest("button[data-do]");
  if (pressed !== null) askFor(pressed.dataset.do, { pool: pressed.dataset.pool, zone: pressed.dataset.zone, target: pressed.dataset.target });
});
byId("ask-no").addEventListener("click", () => byId("ask").close());
byId("ask-for").addEventListener("input", plan);
byId("ask-force").addEventListener("change", () => { byId("ask-yes").disabled = !byId("ask-force").checked; });
byId("ask-form").addEventListener("submit", (event) => {
  event.preventDefault();
  if (!byId("ask-yes").disabled) carryOut();
});
