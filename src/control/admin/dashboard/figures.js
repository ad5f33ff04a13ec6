"use strict";

/* ---- figures: counts become rates, numbers become text ---- */

const RATE_WINDOW_S = 5, CURVE_POINTS = 60;

let uptime = 0;                 // the node's clock in the picture that is shown, in seconds
const counts = new Map();       // key → [[uptime, count], …] of the last seconds
const curves = new Map();       // pool → [[uptime, requests per second], …], oldest first

/* Per second over the last seconds; null while that cannot be known. */
function rate(key, count) {
  const points = counts.get(key) ?? [];
  if (points.at(-1)?.[0] === uptime) points.pop();        // the same picture is drawn again
  points.push([uptime, count]);
  while (points.length > 2 && uptime - points[0][0] > RATE_WINDOW_S) points.shift();
  counts.set(key, points);
  const [since, before] = points[0];
  return uptime > since ? (count - before) / (uptime - since) : null;
}

function forgetRates() {
  counts.clear();
  curves.clear();
}

/* The rates of the last minute, with this one. */
function curveOf(pool, perSec) {
  const points = curves.get(pool) ?? [];
  if (points.at(-1)?.[0] === uptime) points.pop();
  if (perSec !== null) points.push([uptime, perSec]);
  if (points.length > CURVE_POINTS) points.shift();
  curves.set(pool, points);
  return points.map(([, rate]) => rate);
}

/* Forgets what is no longer there: targets come and go. */
function forgetOldRates() {
  for (const [key, points] of counts) if (uptime - points.at(-1)[0] > RATE_WINDOW_S) counts.delete(key);
}

const whole = (n) => Math.round(n).toLocaleString("en");
const perSecond = (n) => (n === null ? "–" : n > 0 && n < 10 ? n.toFixed(1) : whole(n));
const ms = (n) => (n === null ? "–" : n < 10 ? n.toFixed(1) : whole(n));
const both = (times) => (times.p50 === null ? "–" : ms(times.p50) + " / " + ms(times.p99));
const percent = (share) => (share > 0 && share < 0.01 ? "<1 %" : Math.round(share * 100) + " %");
const total = (named) => Object.values(named).reduce((sum, n) => sum + n, 0);
const words = (name) => name.replaceAll("_", " ");
const many = (n, one, more = one + "s") => whole(n) + " " + (n === 1 ? one : more);

function span(seconds) {
  const s = Math.max(0, Math.floor(seconds));
  if (s < 120) return s + " s";
  if (s < 3600) return Math.floor(s / 60) + " min";
  if (s < 86400) return Math.floor(s / 3600) + " h " + Math.floor((s % 3600) / 60) + " min";
  return Math.floor(s / 86400) + " d " + Math.floor((s % 86400) / 3600) + " h";
}

const ago = (milliseconds) => (milliseconds < 2000 ? "just now" : span(milliseconds / 1000) + " ago");
const clock = (at) => new Date(at).toLocaleTimeString([], { hour12: false });
