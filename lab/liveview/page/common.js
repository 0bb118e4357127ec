// Helpers of all modules. Text reaches the page through textContent: a label may hold anything.

export function make(tag, properties = {}, ...children) {
  const { dataset, ...others } = properties;
  const node = Object.assign(document.createElement(tag), others);
  Object.assign(node.dataset, dataset);
  node.append(...children.filter(child => child !== null && child !== undefined));
  return node;
}

export async function getJson(path, params = {}) {
  const query = new URLSearchParams();
  for (const [name, value] of Object.entries(params)) {
    if (value !== undefined && value !== null) query.append(name, value);
  }
  const url = query.size ? `${path}?${query}` : path;
  let answer;
  try {
    answer = await fetch(url);
  } catch {
    throw new Error("The live view's server does not answer. Is the lab still up? See `lab status`.");
  }
  const text = await answer.text();
  if (answer.ok) return JSON.parse(text);
  let message = text;
  try { message = JSON.parse(text).error || text; } catch { /* plain text */ }
  throw new Error(message);
}

// Prometheus' result of an instant or a range query.
export async function query(expr, range) {
  const { data } = range.step
    ? await getJson("/api/v1/query_range", { query: expr, start: range.from, end: range.to, step: range.step })
    : await getJson("/api/v1/query", { query: expr, time: range.to });
  if (data.resultType === "scalar") return [{ metric: {}, value: data.result }];
  return data.result;
}

const PREFIXES = [[1e12, "T"], [1e9, "G"], [1e6, "M"], [1e3, "k"]];
const RATES = { reqps: " req/s", ops: " ops/s", "count:tok/s": " tok/s" };
const SI = { joule: "J", watt: "W", hertz: "Hz", Bps: "B/s" };

function digits(value) {
  const size = Math.abs(value);
  if (size === 0 || Number.isInteger(value) && size < 1e4) return String(value);
  return String(Number(value.toPrecision(size >= 1000 ? 4 : 3)));
}

function short(value, join = "") {
  const [factor, prefix] = PREFIXES.find(([bound]) => Math.abs(value) >= bound) || [1, ""];
  return digits(value / factor) + (prefix ? join + prefix : "");
}

function seconds(value) {
  const size = Math.abs(value);
  if (size === 0) return "0 s";
  if (size < 1e-3) return digits(value * 1e6) + " µs";
  if (size < 1) return digits(value * 1e3) + " ms";
  if (size < 120) return digits(value) + " s";
  if (size < 7200) return digits(value / 60) + " min";
  return digits(value / 3600) + " h";
}

function bytes(value) {
  const exponent = Math.min(4, Math.max(0, Math.floor(Math.log2(Math.abs(value) || 1) / 10)));
  return `${digits(value / 1024 ** exponent)} ${["B", "KiB", "MiB", "GiB", "TiB"][exponent]}`;
}

// The text of a value in one of Grafana's units that the dashboards use.
export function format(value, unit = "short") {
  if (value === null || value === undefined || Number.isNaN(value)) return "–";
  if (!Number.isFinite(value)) return value > 0 ? "+Inf" : "-Inf";
  switch (unit) {
    case "s": return seconds(value);
    case "percentunit": return digits(value * 100) + " %";
    case "bytes": return bytes(value);
    case "currencyUSD": return "$" + short(value);
    case "celsius": return digits(value) + " °C";
    case "none": return digits(value);
    default: return unit in SI ? short(value, " ").replace(/[^TGMk]$/, "$& ") + SI[unit] : short(value) + (RATES[unit] || "");
  }
}

export function duration(total) {
  const s = Math.max(0, Math.round(total));
  if (s < 60) return `${s} s`;
  if (s < 3600) return `${Math.floor(s / 60)} min ${s % 60} s`;
  if (s < 86400) return `${Math.floor(s / 3600)} h ${Math.floor(s % 3600 / 60)} min`;
  return `${Math.floor(s / 86400)} d ${Math.floor(s % 86400 / 3600)} h`;
}

export function failure(error) {
  return make("p", { className: "bad message", textContent: error.message });
}

export function table(headings, rows, properties = {}) {
  return make("table", properties,
    make("thead", {}, make("tr", {}, ...headings.map(text => make("th", { textContent: text })))),
    make("tbody", {}, ...rows));
}

export function row(cells, properties = {}) {
  return make("tr", properties,
    ...cells.map(cell => cell instanceof Node ? make("td", {}, cell) : make("td", { textContent: cell ?? "" })));
}
