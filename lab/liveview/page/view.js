// The live view: routes, the time range, and the pages. panels.js draws, editors.js has the query inputs.
import { duration, failure, format, getJson, make, query, row, table } from "./common.js";
import { isMetricsQuery, promqlForm, traceqlForm } from "./editors.js";
import { Panel, expand } from "./panels.js";

const RANGES = { "5m": 300, "15m": 900, "30m": 1800, "1h": 3600, "3h": 10800, "6h": 21600, "24h": 86400 };
const REFRESH_S = [5, 10, 30, 0];
const COMPONENTS_S = 3;
const MAX_TRACES = 50;
const PAGES = ["prometheus", "grafana", "alertmanager"];  // components with web pages of their own
const GOOD = ["ready", "done", "Running"];
const BAD = ["failed", "dead", "hangs"];
const $ = id => document.getElementById(id);

let lab = { place: "", components: [], dashboards: [], scrape_interval_s: 2 };
let refreshS = Number(sessionStorage.refreshS ?? 10);
let page = { route: "", update() {}, close() {} };  // what is shown
const boards = new Map();  // name -> Grafana's JSON

// ---- the address: #/ROUTE?range=30m or from=..&to=..&var-NAME=VALUE
function address() {
  const [route, search = ""] = location.hash.replace(/^#\/?/, "").split("?");
  return { route: decodeURIComponent(route) || "lab", params: new URLSearchParams(search) };
}

function go(route, changes = {}) {
  const { params } = address();
  for (const [name, value] of Object.entries(changes)) {
    if (value === null) params.delete(name); else params.set(name, value);
  }
  location.hash = `#/${encodeURI(route)}${params.size ? `?${params}` : ""}`;
}

function isFixed() {
  return address().params.has("from") || (lab.recording && !address().params.has("range"));
}

// The time range in seconds since the epoch.
function range() {
  const { params } = address();
  const scrape = lab.scrape_interval_s;
  if (params.has("from")) return { from: Number(params.get("from")), to: Number(params.get("to")), scrape };
  if (isFixed()) return { from: lab.recording.window[0], to: lab.recording.window[1], scrape };
  const now = Date.now() / 1000;
  return { from: now - (RANGES[params.get("range")] || RANGES["15m"]), to: now, scrape };
}

const zoom = (from, to) => go(address().route, { from, to, range: null });

// ---- header
const capital = text => text.replace(/^[a-z](?=[a-z])/, letter => letter.toUpperCase());

function drawHeader() {
  const { route, params } = address();
  const entries = [["lab", "Lab"], ...lab.dashboards.map(d => [`d/${d.name}`, capital(d.title.replace("LLM lab: ", ""))]),
    ["query", "Query"], ["traces", "Traces"], ["alerts", "Alerts"]];
  const keep = new URLSearchParams([...params].filter(([name]) => ["from", "to", "range"].includes(name)));
  $("nav").replaceChildren(...entries.map(([target, text]) => {
    const link = make("a", { href: `#/${target}${keep.size ? `?${keep}` : ""}`, textContent: text, id: `nav-${target.replace("/", "-")}` });
    if (route === target || route.startsWith(`${target}/`)) link.ariaCurrent = "page";
    return link;
  }));
  $("place").textContent = lab.recording ? `recording ${lab.recording.name} of ${lab.recording.recorded_at}` : lab.place;

  const { from, to } = range();
  const options = Object.keys(RANGES).map(name => make("option", { value: name, textContent: `last ${name}` }));
  if (isFixed()) {
    const time = t => new Date(t * 1000).toLocaleString([], { dateStyle: "short", timeStyle: "medium", hour12: false });
    options.unshift(make("option", { value: "", textContent: `${time(from)} to ${time(to)}` }));
  }
  $("range").replaceChildren(...options);
  $("range").value = isFixed() ? "" : params.get("range") || "15m";
}

function drawRefresh() {
  $("refresh").replaceChildren(...REFRESH_S.map(s => make("option", { value: s, textContent: s ? `every ${s} s` : "off" })));
  $("refresh").value = refreshS;
}

// ---- components and alerts
function componentTable() {
  const node = make("div", { className: "scroll", id: "components" });
  const update = () => {
    const now = Date.now() / 1000;
    const rows = lab.components.map(c => {
      const state = make("span", { className: `state ${GOOD.includes(c.state) ? "good" : BAD.includes(c.state) ? "bad" : "soft"}`, textContent: c.state });
      const href = c.name === "tracestore" ? "#/traces" : PAGES.includes(c.name) && c.address;
      const where = href && c.state === "ready" ? make("a", { href, textContent: c.address, target: href[0] === "#" ? "" : "_blank", rel: "noopener" }) : c.address;
      return row([c.name, state, c.since ? duration(now - c.since) : "", where, c.rss_bytes ? format(c.rss_bytes, "bytes") : "", c.note || c.what],
        { dataset: { part: c.name, state: c.state } });
    });
    const none = rows.length ? null : make("p", { className: "soft", textContent: "No part of the lab runs on this machine; the stores are those of the settings." });
    const note = lab.error ? failure(new Error(lab.error)) : none;
    node.replaceChildren(...[note, table(["component", "state", "since", "address", "memory", "what it does, or waits for"], rows)].filter(Boolean));
  };
  update();
  return { node, update };
}

// All alerts, the firing ones first; each has one entry per set of labels that is pending or fires.
async function readAlerts() {
  const { data } = await getJson("/api/v1/rules", { type: "alert" });
  const rules = data.groups.flatMap(group => group.rules.map(rule => ({ ...rule, group: group.name })));
  const order = { firing: 0, pending: 1, inactive: 2 };
  return rules.sort((a, b) => order[a.state] - order[b.state]);
}

function alertRows(rules) {
  return rules.flatMap(rule => rule.alerts.map(alert => {
    const { alertname: _, severity = "", ...labels } = alert.labels;
    const state = make("span", { className: `state ${alert.state === "firing" ? "bad" : "warn"}`, textContent: alert.state });
    const about = alert.annotations.summary || alert.annotations.description || rule.query;
    const where = Object.entries(labels).map(([k, v]) => `${k}=${v}`).join(" ");
    const since = duration((Date.now() - new Date(alert.activeAt)) / 1000);
    return row([rule.name, state, since, severity, where, about], { dataset: { alert: rule.name, state: alert.state } });
  }));
}

function alertSection(withRules) {
  const node = make("section", { id: "alerts" });
  const update = async () => {
    try {
      const rules = await readAlerts();
      const active = alertRows(rules);
      const parts = [make("h2", { textContent: "Alerts" })];
      if (active.length) parts.push(table(["alert", "state", "since", "severity", "labels", "summary"], active));
      else parts.push(make("p", { className: "soft", textContent: rules.length ? `None of ${rules.length} alerts fires.` : "This Prometheus evaluates no alerts; a recording has none." }));
      if (withRules && rules.length) {
        parts.push(make("h2", { textContent: "Rules" }), table(["alert", "state", "for", "expression", "description"], rules.map(rule =>
          row([rule.name, rule.state, duration(rule.duration), queryLink(rule.query), plain(rule.annotations)], { dataset: { rule: rule.name } }))));
      }
      node.replaceChildren(...parts);
    } catch (error) { node.replaceChildren(make("h2", { textContent: "Alerts" }), failure(error)); }
  };
  return { node, update };
}

// A rule's text has templates, which only an alert fills in.
function plain(annotations) {
  return (annotations.description || annotations.summary || "").replace(/\{\{[^}]*\}\}/g, "…");
}

function queryLink(expr) {
  return make("a", { href: `#/query?${new URLSearchParams({ promql: expr })}`, className: "code", textContent: expr });
}

// ---- dashboards
async function board(name) {
  if (!boards.has(name)) boards.set(name, await getJson(`/dashboards/${encodeURIComponent(name)}`));
  return boards.get(name);
}

const escapeRegex = text => text.replace(/[\\^$.*+?()[\]{}|]/g, "\\\\$&");

// A dashboard's variables with their choices: { name, label, value, text box or options }.
async function readVariables(json) {
  const { params } = address();
  const { from, to, scrape } = range();
  const values = {};
  const variables = [];
  for (const v of json.templating.list) {
    if (v.type === "datasource" || v.type === "adhoc") continue;
    let chosen = params.get(`var-${v.name}`) ?? v.current?.value ?? v.query;
    let options = null;
    if (v.type === "custom") {
      options = v.query.split(", ").map(choice => choice.split(" : "));
    } else if (v.type === "query") {
      const [, metric, label] = v.query.match(/^label_values\((.+),\s*(\w+)\)$/s);
      const { data } = await getJson(`/api/v1/label/${label}/values`, { "match[]": expand(metric, values, { from, to, scrape }), start: from, end: to });
      options = [...(v.includeAll ? [["All", "$__all"]] : []), ...data.map(value => [value, value])];
      if (options.length && !options.some(([, value]) => value === chosen)) chosen = options[0][1];
    }
    values[v.name] = chosen === "$__all" ? v.allValue || ".*" : v.type === "query" ? escapeRegex(chosen) : chosen;
    variables.push({ name: v.name, label: v.label || v.name, chosen, options });
  }
  return { values, variables };
}

function variableInputs(variables) {
  return make("form", { className: "variables", onsubmit: event => event.preventDefault() }, ...variables.map(v => {
    const input = v.options
      ? make("select", {}, ...v.options.map(([text, value]) => make("option", { value, textContent: text })))
      : make("input", { size: 8 });
    input.value = v.chosen;
    input.onchange = () => go(address().route, { [`var-${v.name}`]: input.value });
    return make("label", {}, v.label, " ", input);
  }));
}

// Panels that update while they are in sight.
class Board {
  constructor(json, values) {
    const actions = { zoom, narrow: (name, value) => go(address().route, { [`var-${name}`]: value }) };
    const context = () => ({ range: range(), values });
    this.visible = new Set();
    this.observer = new IntersectionObserver(entries => entries.forEach(entry => {
      const panel = this.panels.find(p => p.node === entry.target);
      if (!entry.isIntersecting) this.visible.delete(panel);
      else if (!this.visible.has(panel)) { this.visible.add(panel); panel.update(); }
    }), { rootMargin: "300px" });
    this.panels = [];
    this.node = make("div", { className: "board" }, ...json.panels.map(p => {
      if (p.type === "row") return make("h2", { textContent: p.title, dataset: { row: p.title } });
      const panel = new Panel(p, context, actions);
      this.panels.push(panel);
      this.observer.observe(panel.node);
      return panel.node;
    }));
  }

  update() { this.visible.forEach(panel => panel.update()); }

  close() {
    this.observer.disconnect();
    this.panels.forEach(panel => panel.close());
  }
}

async function dashboard(name) {
  const json = await board(name);
  const { values, variables } = await readVariables(json);
  const shown = new Board(json, values);
  return { shown, node: make("div", {}, variableInputs(variables), shown.node) };
}

// ---- pages: each returns { node, update, close }
async function labPage() {
  const components = componentTable();
  const alerts = alertSection(false);
  alerts.update();
  const overview = make("div", {});
  const node = make("div", {}, make("h2", { textContent: "Components" }), components.node, alerts.node, overview);
  let shown = null;
  const open = () => dashboard("overview").then(({ shown: opened, node: content }) => { shown = opened; overview.replaceChildren(content); })
    .catch(error => overview.replaceChildren(failure(error)));
  open();
  return {
    node,
    components: components.update,
    update: () => { alerts.update(); if (shown) shown.update(); else open(); },
    close: () => shown?.close(),
  };
}

async function dashboardPage(name, rowTitle) {
  const { shown, node } = await dashboard(name);
  // Panels above the row change their height while they fill, so it is scrolled to again until the reader does something.
  const scroll = () => {
    const target = [...node.querySelectorAll("[data-row], [data-title]")].find(n => (n.dataset.row || n.dataset.title) === rowTitle);
    const timers = [0, 500, 1500, 3000].map(delay => setTimeout(() => target?.scrollIntoView(), delay));
    for (const event of ["wheel", "pointerdown", "keydown"]) addEventListener(event, () => timers.forEach(clearTimeout), { once: true });
  };
  return { node, opened: scroll, update: () => shown.update(), close: () => shown.close() };
}

async function queryPage() {
  const { params } = address();
  const results = make("div", { id: "results" });
  let panel = null;
  const close = () => panel?.close();
  const draw = content => { results.replaceChildren(...content); };

  const chart = (title, series) => {
    const json = { type: "timeseries", title, targets: [{ expr: title }], gridPos: { w: 24 }, options: { legend: { displayMode: "table" } } };
    panel = new Panel(json, () => ({ range: range(), values: {} }), { zoom });
    if (series) panel.update = async () => { panel.drawLines([await series()], seriesRange()); panel.node.dataset.state = "drawn"; };
    return panel;
  };
  const seriesRange = () => {
    const { from, to, scrape } = range();
    return { from, to, scrape, step: Math.max(scrape, Math.ceil((to - from) / 200)) };
  };

  const runPromql = async expr => {
    close();
    const { from, to, scrape } = range();
    const now = await query(expand(expr, {}, { from, to, scrape }), { to });
    const rows = now.slice(0, 500).map(s => {
      const { __name__: name = "", ...labels } = s.metric;
      return row([name, Object.entries(labels).map(([k, v]) => `${k}="${v}"`).join(" "), s.value?.[1] ?? ""]);
    });
    const lines = chart(expr);
    draw([lines.node, make("h3", { textContent: `${now.length} series at the end of the range` }), table(["metric", "labels", "value"], rows)]);
    await lines.update();
  };
  const traceSeries = text => async () => {
    const { from, to, step } = seriesRange();
    const { series = [] } = await getJson("/api/metrics/query_range", { q: text, start: Math.floor(from), end: Math.ceil(to), step: `${step}s` });
    const label = l => `${l.key}=${Object.values(l.value)[0]}`;
    return series.map(s => ({ metric: { __name__: s.labels.map(label).join(" ") || "value" }, values: s.samples.map(p => [p.timestampMs / 1000, p.value]) }));
  };
  const runTraceql = async text => {
    close();
    if (isMetricsQuery(text)) {
      const lines = chart(text, traceSeries(text));
      draw([lines.node]);
      return lines.update();
    }
    const { from, to } = range();
    const { traces = [] } = await getJson("/api/search", { q: text || "{}", start: Math.floor(from), end: Math.ceil(to), limit: MAX_TRACES });
    const rows = traces.map(t => {
      const id = t.traceID.padStart(32, "0");
      const started = new Date(Number(BigInt(t.startTimeUnixNano) / 1000000n)).toLocaleString([], { hour12: false });
      return row([make("a", { href: `#/traces/${id}`, className: "code", textContent: id }), t.rootServiceName, t.rootTraceName, started, `${t.durationMs || 0} ms`]);
    });
    draw([make("h3", { textContent: `${traces.length} traces${traces.length === MAX_TRACES ? " (the first found)" : ""}` }),
      table(["trace", "service", "root span", "started", "duration"], rows)]);
  };

  const guarded = run => async text => { try { await run(text); } catch (error) { draw([failure(error)]); } };
  const runs = { promql: guarded(runPromql), traceql: guarded(runTraceql) };
  // A run is an address, so that it can be sent to others; the same text is run again.
  const start = name => text => {
    if (address().params.get(name) === text) return runs[name](text);
    go("query", { promql: null, traceql: null, [name]: text });
  };
  const node = make("div", {}, promqlForm(params.get("promql") || "", start("promql")), traceqlForm(params.get("traceql") || "", start("traceql"), range), results);
  for (const name of ["promql", "traceql"]) if (params.get(name)) runs[name](params.get(name));
  return { node, update: () => panel?.update(), close };
}

async function tracesPage(id) {
  const frame = make("iframe", { title: "Traces", src: `/traces${id ? `#${id}` : ""}` });
  return { node: frame, update() {}, close() {} };
}

async function alertsPage() {
  const alerts = alertSection(true);
  alerts.update();
  return { node: alerts.node, update: alerts.update, close() {} };
}

function pageOf(route) {
  const [name, ...rest] = route.split("/");
  switch (name) {
    case "lab": return labPage();
    case "d": return dashboardPage(rest[0], rest.slice(1).join("/"));
    case "query": return queryPage();
    case "traces": return tracesPage(rest[0]);
    case "alerts": return alertsPage();
    default: return Promise.reject(new Error(`There is no view ${route}.`));
  }
}

let opening = 0;
async function open() {
  const turn = ++opening;
  drawHeader();
  let next;
  try {
    next = await pageOf(address().route);
  } catch (error) { next = { node: failure(error), update: open, close() {} }; }
  if (turn !== opening) return next.close();
  page.close();
  page = next;
  $("main").replaceChildren(page.node);
  page.opened?.();
}

// ---- refresh
async function readLab() {
  try {
    lab = await getJson("/lab");
    $("trouble").hidden = true;
  } catch (error) {
    $("trouble").hidden = false;
    $("trouble").textContent = error.message;
  }
}

async function main() {
  drawRefresh();
  await readLab();
  await open();
  addEventListener("hashchange", open);
  $("range").onchange = event => go(address().route, { range: event.target.value, from: null, to: null });
  $("refresh").onchange = event => { refreshS = sessionStorage.refreshS = Number(event.target.value); };
  let last = Date.now();
  setInterval(async () => {
    if (document.hidden || !refreshS) return;
    await readLab();
    page.components?.();
    if (Date.now() - last < refreshS * 1000 || isFixed()) return;
    last = Date.now();
    page.update();
  }, COMPONENTS_S * 1000);
}

main();
