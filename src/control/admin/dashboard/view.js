/* ---- the page, from the top down ---- */

const CHANGES_SHOWN = 8;
const SIGNS = {
  healthy: "●", unhealthy: "✕", ejected: "△", shifted: "⇄", standby: "◌", draining: "◐", drained: "◑", down: "■", initial: "○",
};

let picture = null;             // what the node said last
const statuses = new Map();     // pool and target → status

function show() {
  const { node, pools, dns } = picture, now = Date.parse(node.at);
  patchChildren(byId("node"), nodeFacts(node, now));
  patchChildren(byId("notices"), notices(node, now));
  const filter = chosen(), focused = document.activeElement;
  patchChildren(byId("pools"), pools.length === 0 ? [make("p", { class: "pool" }, "No pool is configured.")]
    : pools.map((pool) => poolSection(pool, filter, now)));
  patchChildren(byId("dns"), dns === null ? [] : [dnsSection(dns, now)]);
  forgetOldRates();
  // What had the focus may be gone for good: the keyboard goes on from the page's beginning, not from nowhere.
  if (focused !== document.body && !focused.isConnected) byId("main").focus();
  const targets = pools.flatMap((pool) => pool.targets);
  const healthy = targets.filter((target) => target.status === "healthy").length;
  byId("filter").hidden = targets.length === 0;
  byId("matches").textContent = filter.all ? "" : `${filter.count} of ${targets.length}`;
  document.title = `${healthy}/${targets.length} healthy · Selvedge${node.zone === null ? "" : " " + node.zone}`;
}

/* Takes the next picture. What is not looked at is not drawn. */
function take(next) {
  if (next.node.uptime_seconds < uptime) forgetRates();   // restarted
  picture = next;
  uptime = next.node.uptime_seconds;
  next.pools.forEach(noteChanges);
  if (!document.hidden) show();
}

function nodeFacts(node, now) {
  const fact = (name, value) => make("li", {}, name, " ", make("b", {}, value));
  return [
    node.zone === null ? null : fact("zone", node.zone),
    fact("", node.phase + (node.ready || node.phase !== "serving" ? "" : ", not ready: " + node.not_ready)),
    fact("up", span(node.uptime_seconds)),
    fact("connections", whole(node.connections_open)),
    ...node.listeners.map(({ name, address }) => fact(name, address)),
    fact("configuration", `${node.config.generation}, ${ago(now - Date.parse(node.config.since))}`),
    fact("version", node.version),
  ].filter((part) => part !== null);
}

/* An upgrade under way, what it leaves, and why there was none. */
function upgradeNotices({ under_way: underWay, predecessor: before, last_refused: refused }, now) {
  const list = [], mild = { class: "notice mild" };
  if (underWay !== null) {
    list.push(make("p", mild, `An upgrade is under way, asked for by ${underWay.trigger} ${ago(now - Date.parse(underWay.since))}: ` +
      `the new process ${underWay.stage === "starting" ? "starts" : "is ready and takes over"}.`));
  }
  if (before !== null && before.drains) {
    const left = before.left_seconds, all = left === null ? 0 : (Date.parse(before.until) - Date.parse(before.since)) / 1000;
    list.push(make("div", mild, `Process ${before.pid} (version ${before.version}), which served before, drains: ` +
      many(before.connections, "connection") + (before.tunnels > 0 ? `, ${many(before.tunnels, "tunnel")} among them` : "") +
      (before.connections === 1 ? " is left" : " are left") + (left === null ? "." : `, for ${span(left)} at most.`),
      all > 0 ? bar(left / all, "leaving") : null));
  }
  if (refused !== null) {
    list.push(make("div", { class: "notice" }, `The upgrade ${ago(now - Date.parse(refused.at))} was refused; the old process goes on.`,
      make("ul", {}, ...refused.problems.map((problem) => make("li", {}, problem)))));
  }
  return list;
}

function notices({ config, state, upgrade }, now) {
  const list = [], last = config.last_reload, mild = { class: "notice mild" };
  if (config.reloading !== null) {
    list.push(make("p", mild, `A reload is under way, asked for by ${config.reloading.trigger} ` +
      `${ago(now - Date.parse(config.reloading.since))}.`));
  }
  if (last !== null && last.result === "refused") {
    list.push(make("div", { class: "notice" },
      `The reload ${ago(now - Date.parse(last.at))} was refused; configuration ${config.generation} runs on.`,
      make("ul", {}, ...last.problems.map((problem) => make("li", {}, problem)))));
  }
  if (config.restart_needed.length > 0) {
    list.push(make("p", mild, "A restart is needed: " + config.restart_needed.join("; ") + "."));
  }
  list.push(...upgradeNotices(upgrade, now));
  if (state.problem !== null) {
    list.push(make("p", { class: "notice" }, `What is changed here may be lost at a restart: ${state.problem}.`));
  }
  return list;
}

/* Which targets are to be shown; counts those that are. */
function chosen() {
  const parts = byId("words").value.toLowerCase().split(/\s+/).filter((part) => part !== "");
  const odd = byId("odd").checked;
  return {
    all: parts.length === 0 && !odd,
    count: 0,
    shows(pool, target) {
      if (odd && target.status === "healthy") return false;
      const text = `${pool.name} ${target.name} ${target.status} ${target.reason} ${target.source}`.toLowerCase();
      const shown = parts.every((part) => text.includes(part));
      if (shown) this.count += 1;
      return shown;
    },
  };
}

function poolSection(pool, filter, now) {
  const id = "pool-" + pool.name, all = rate(pool.name + " all", pool.zones.reduce((sum, zone) => sum + zone.requests, 0));
  return make("section", { class: "pool", "aria-labelledby": id, "data-key": pool.name },
    make("div", { class: "head" }, make("h2", { id }, pool.name),
      make("span", { class: "quiet" }, words(pool.balance) + ", " +
        (pool.stickiness === "off" ? "no sessions" : "sessions by cookie"))),
    pool.panic ? make("p", { class: "notice", "data-key": "panic" },
      "Panic: so few targets are healthy that health is ignored and all are tried.") : null,
    poolFigures(pool),
    make("div", { class: "zones" }, ...pool.zones.map((zone) => zoneCard(pool, zone, all, filter, now))),
    names(pool),
    decisions(pool));
}

function poolFigures(pool) {
  const perSec = rate(pool.name, pool.requests);
  const failed = rate(pool.name + " 5xx", pool.responses["5xx"]);
  const { valid, none, ...odd } = pool.verdicts;
  const oddities = Object.entries(odd).filter(([, n]) => n > 0).map(([name, n]) => whole(n) + " " + words(name));
  return make("dl", { class: "figures", "data-key": "figures" },
    figure("Requests per second", perSecond(perSec), whole(pool.requests) + " in all", curve(curveOf(pool.name, perSec)), { class: "wide" }),
    figure("5xx per second", perSecond(failed), whole(pool.responses["5xx"]) + " in all"),
    figure("In flight", whole(pool.live), pool.waiting > 0 || pool.queue_refused > 0
      ? `${whole(pool.waiting)} waiting, ${whole(pool.queue_refused)} in vain` : "none waiting"),
    figure("p50 / p99 ms", both(pool.duration_ms), "to the last byte"),
    figure("Retries", whole(pool.retries), whole(pool.retrying) + " under way"),
    ...pool.stickiness === "off" ? [] : [
      figure("With a session", whole(valid), whole(pool.rehomed) + " re-homed"),
      figure("New sessions", whole(none), oddities.length > 0 ? "and " + oddities.join(", ") : "no odd cookies")]);
}

/* ---- a zone, with its targets ---- */

const titleOf = (zone) => (zone === "-" ? "no zone" : zone);

function zoneCard(pool, zone, all, filter, now) {
  const id = `zone-${pool.name}-${zone.name}`, name = titleOf(zone.name);
  const targets = pool.targets.filter((target) => target.zone === zone.name);
  const open = targets.filter((target) => target.takes_new).length;
  const perSec = rate(`${pool.name} zone ${zone.name}`, zone.requests), part = all > 0 ? perSec / all : 0;
  const shown = targets.map((target) => [target, rate(`${pool.name} ${target.name}`, target.attempts)])
    .filter(([target]) => filter.shows(pool, target));
  const wish = zone.state === "shifted" ? "restore" : "shift";
  return make("section", { class: open === 0 ? "zone out" : "zone", "aria-labelledby": id, "data-key": zone.name },
    make("div", { class: "head" }, make("h3", { id }, name),
      make("span", { class: "quiet" }, `${open} of ${targets.length} open`),
      zone.name === "-" ? null : button(wish, { pool: pool.name, zone: zone.name }, "zone " + name),
      make("span", { class: "line quiet" }, `${percent(zone.share / 100)} of new sessions, ${percent(part)} of requests`),
      zoneState(zone, open)),
    zone.state === "shifted" && zone.evacuated < 100 ? bar(zone.evacuated / 100, "leaving") : bar(part),
    make("table", {},
      make("caption", { class: "unseen" }, "Targets of " + name),
      make("thead", {},
        make("tr", {}, make("th", { scope: "col" }, "Target"), make("th", { scope: "col" }, "Req/s"),
          make("th", { scope: "col" }, "In flight"),
          make("th", { scope: "col" }, "p50 / p99 ms"), make("th", { scope: "col" }, "Sessions")),
        make("tr", { class: "all" }, make("th", { scope: "row" }, "all"), make("td", {}, perSecond(perSec)),
          make("td", {}, whole(zone.in_flight)),
          make("td", {}, both(zone.first_byte_ms)), make("td", {}, whole(zone.sessions)))),
      ...shown.map(([target, perSec]) => targetRows(pool, target, perSec, now))),
    shown.length < targets.length
      ? make("p", { class: "none", "data-key": "none" }, many(targets.length - shown.length, "target") + " not shown") : null);
}

/* How a zone is out, in words; nothing when it is not. */
function zoneState(zone, open) {
  const said = (text, kind = "") => make("span", { class: "line state" + kind }, text), why = zone.reason === null ? "" : ": " + zone.reason;
  if (zone.state === "failed") return said("failed" + why, " bad");
  if (zone.state === "ok") return open === 0 ? said("no target here takes new sessions", " bad") : null;
  const who = zone.state === "shifted" ? "shifted by the operator" : "taken out because it stands out";
  const gone = zone.evacuated < 100 ? `${zone.evacuated.toFixed(0)} % of its sessions moved` : "its sessions move";
  return said(`${who}${why} · ${span(zone.left_seconds)} left, until ${clock(zone.until)} · ${gone}, ` +
    `${many(zone.sessions, "session")} seen here lately`);
}

function targetRows(pool, target, perSec, now) {
  const limit = target.max_connections === null ? "" : " of " + target.max_connections;
  return make("tbody", { class: "target", "data-key": target.name },
    make("tr", {},
      make("th", { scope: "row" }, target.address, target.weight === 1 ? null
        : make("span", { class: "quiet small" }, " weight " + target.weight)),
      make("td", {}, perSecond(perSec)),
      make("td", {}, whole(target.in_flight) + limit),
      make("td", {}, both(target.first_byte_ms)),
      make("td", {}, whole(target.sessions))),
    make("tr", {}, make("td", { class: "why", colspan: "5" }, make("div", {},
      make("span", {}, make("span", { class: "status " + target.status },
        make("span", { "aria-hidden": "true" }, (SIGNS[target.status] ?? "?") + " "), target.status),
        ...target.safe_to_remove ? [make("span", { class: "safe" }, "safe to remove"), " "] : [],
        facts(target, now)),
      make("span", { class: "do" },
        ...changesOf(target).map((what) => button(what, { pool: pool.name, target: target.name }, target.address)))))));
}

function facts(target, now) {
  const parts = [target.reason, "for " + span((now - Date.parse(target.since)) / 1000)];
  if (target.drain !== null && !target.safe_to_remove) parts.push(many(target.sessions, "session") + " still bound");
  if (target.ramp < 100 && target.takes_new) parts.push(`at ${target.ramp.toFixed(0)} % of its weight`);
  const failed = total(target.failures);
  if (failed > 0) {
    parts.push(many(failed, "failed attempt") + " (" +
      Object.entries(target.failures).map(([name, n]) => words(name) + " " + whole(n)).join(", ") + ")");
  }
  if (target.ejections > 0) parts.push("ejected " + (target.ejections === 1 ? "once" : whole(target.ejections) + " times"));
  if (target.last_probe !== null && target.status !== "healthy") parts.push("checked " + ago(now - Date.parse(target.last_probe.at)));
  return parts.join(" · ");
}

/* What an operator can do with a target as it is. */
const changesOf = ({ admin }) => (admin === "up" ? ["drain", "down"] : admin === "drain" ? ["up", "down"] : ["up", "drain"]);
const LABELS = { shift: "Shift", restore: "Restore", drain: "Drain", up: "Up", down: "Down" };

/* Everybody sees the verb; who does not see the row hears what it is about. */
function button(what, about, subject) {
  const data = Object.entries(about).map(([name, value]) => ["data-" + name, value]);
  return make("button", { type: "button", "data-do": what, ...Object.fromEntries(data) },
    LABELS[what], make("span", { class: "unseen" }, " " + subject));
}

/* ---- DNS, and what was decided ---- */

function grid(caption, titles, rows) {
  return make("div", { class: "scroll list", role: "region", "aria-label": caption, tabindex: "0" }, make("table", {},
    make("caption", { class: "unseen" }, caption),
    make("thead", {}, make("tr", {}, ...titles.map((title) => make("th", { scope: "col" }, title)))),
    ...rows.map((row) => make("tbody", {}, make("tr", {},
      ...row.map((cell, index) => (index === 0 ? make("th", { scope: "row" }, cell) : make("td", {}, cell))))))));
}

function names(pool) {
  if (pool.discovery.length === 0) return null;
  const row = ({ question, targets, answer, next_try_seconds: next, error, doubted_seconds: doubted }) => [
    question, whole(targets.length),
    answer === null ? "never" : span(answer.age_seconds) + " ago",
    answer === null ? "–" : span(answer.ttl_seconds),
    next === null ? "–" : next === 0 ? "now" : "in " + span(next),
    error === null ? "as it should be"
      : error.what + (doubted === null ? "" : `, not believed yet for ${span(doubted)}`) + `, at ${clock(error.at)}`];
  return make("div", { class: "beside", "data-key": "names" }, make("h3", {}, "Found in DNS"),
    grid("Names in DNS where targets of " + pool.name + " are found", ["Question", "Targets", "Answered", "TTL", "Asked again", "State"],
      pool.discovery.map(row)));
}

function decisions(pool) {
  if (pool.decisions.length === 0) return null;
  const line = ({ at, subject, what, reason }) => make("li", {}, make("time", { datetime: at }, clock(at)),
    make("b", {}, subject), ` ${what}: ${reason}`);
  const older = pool.decisions.slice(CHANGES_SHOWN);
  return make("div", { class: "beside", "data-key": "decisions" }, make("h3", {}, "Decisions"),
    make("ol", { class: "said" }, ...pool.decisions.slice(0, CHANGES_SHOWN).map(line)),
    older.length === 0 ? null : make("details", {}, make("summary", {}, many(older.length, "older decision")),
      make("ol", { class: "said" }, ...older.map(line))));
}

function dnsSection(dns, now) {
  const node = (node) => [
    [node.ipv4, node.ipv6].filter((address) => address !== null).join(", "), titleOf(node.zone),
    node.good ? "answered" : "left out",
    node.reason + (node.last_probe === null ? "" : `, checked ${ago(now - Date.parse(node.last_probe.at))}`)];
  const name = ({ name, policy, ttl_seconds: ttl, answers }) =>
    [name, policy, span(ttl), answers.length === 0 ? "no address" : answers.join(", ")];
  return make("section", { class: "names", "aria-labelledby": "dns-title" },
    make("div", { class: "head" }, make("h2", { id: "dns-title" }, "Answers over DNS"),
      make("span", { class: "quiet" }, `${dns.domain} at ${dns.addresses.join(", ")} · ${many(total(dns.queries), "query", "queries")}, ` +
        `${whole(total(dns.limited))} limited`)),
    dns.all_bad ? make("p", { class: "notice", "data-key": "bad" }, "No node is good, so all of them are answered.") : null,
    grid("Names that this node answers", ["Name", "Policy", "TTL", "Addresses"], dns.names.map(name)),
    make("div", { class: "beside" }, make("h3", {}, "Nodes"),
      grid("Nodes of the balancer", ["Address", "Zone", "State", "Why"], dns.nodes.map(node))));
}

function noteChanges(pool) {
  for (const target of pool.targets) {
    const key = pool.name + " " + target.name, before = statuses.get(key);
    statuses.set(key, target.status);
    if (before !== undefined && before !== target.status) {
      say(`${pool.name}: ${target.name} is ${target.status}, ${target.reason}`);
    }
  }
}
