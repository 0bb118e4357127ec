// Draws the panels of a Grafana dashboard: timeseries, stat, table and heatmap.
// Not drawn: exemplars, ad-hoc filters, several values of one variable at once.
import { uPlot } from "./vendor.js";
import { failure, format, make, query, row, table } from "./common.js";

const COLOURS = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#7b4ea3", "#8c6d31", "#4d4d4d", "#b22222"];
const THRESHOLDS = { green: "#1a7f37", yellow: "#9a6700", red: "#b3261e" };
const HEAT = "217, 95, 2";
const CHART_HEIGHT = 160;
const MIN_POINT_PX = 3;  // between two points of a line
const GRID = "#e6eaee";

// Replace Grafana's variables; `values` are the dashboard's, already escaped for a regular expression.
export function expand(expr, values, range) {
  const builtIn = {
    __rate_interval: `${Math.max((range.step || 0) + range.scrape, 4 * range.scrape)}s`,
    __range: `${Math.max(1, Math.round(range.to - range.from))}s`,
    __interval: `${range.step || range.scrape}s`,
  };
  return expr.replace(/\$(?:\{(\w+)(?::\w+)?\}|(\w+))/g, (text, braced, bare) => {
    const name = braced || bare;
    return name in builtIn ? builtIn[name] : name in values ? values[name] : text;
  });
}

function legend(target, metric) {
  if (target.legendFormat) return target.legendFormat.replace(/\{\{\s*([\w.]+)\s*\}\}/g, (_, label) => metric[label] ?? "");
  const { __name__: name = "", ...labels } = metric;
  const inside = Object.entries(labels).map(([k, v]) => `${k}="${v}"`).join(", ");
  return inside ? `${name}{${inside}}` : name || target.expr;
}

// The steps of a range, and one array of values per series on them.
export function onGrid(series, range) {
  const start = Math.floor(range.from / range.step) * range.step;
  const count = Math.max(2, Math.floor((range.to - start) / range.step) + 1);
  const x = Array.from({ length: count }, (_, i) => start + i * range.step);
  const columns = series.map(one => {
    const values = new Array(count).fill(null);
    for (const [time, text] of one.values || []) {
      const value = Number(text);
      const i = Math.round((time - start) / range.step);
      if (i >= 0 && i < count && Number.isFinite(value)) values[i] = value;
    }
    return values;
  });
  return [x, columns];
}

export class Panel {
  // `context()` returns { range, values } now; `zoom(from, to)` sets the time range; `narrow(name, value)` a variable.
  constructor(json, context, actions = {}) {
    this.json = json;
    this.context = context;
    this.actions = actions;
    this.unit = json.fieldConfig?.defaults?.unit || "short";
    this.body = make("div", { className: "body" });
    const info = json.description
      ? make("span", { className: "info", title: json.description, tabIndex: 0, textContent: "i", ariaLabel: json.description })
      : null;
    this.node = make("section", { className: `panel ${json.type}`, dataset: { title: json.title } },
      make("h3", { textContent: json.title }, info), this.body);
    this.node.style.gridColumn = `span ${json.gridPos?.w || 24}`;
    this.turn = 0;
    this.resize = new ResizeObserver(() => this.chart?.setSize({ width: this.body.clientWidth, height: CHART_HEIGHT }));
    this.resize.observe(this.body);
  }

  close() {
    this.turn = -1;
    this.resize.disconnect();
    this.dropChart();
  }

  dropChart() {
    this.chart?.destroy();
    this.chart = this.chartKey = null;
  }

  async update() {
    const turn = ++this.turn;
    const { range: { from, to, scrape }, values } = this.context();
    const points = Math.max(40, Math.floor((this.body.clientWidth || 400) / MIN_POINT_PX));
    const step = Math.max(scrape, Math.ceil((to - from) / points));
    const range = { from, to, scrape, step };
    try {
      const answers = await Promise.all(this.json.targets.map(target => {
        const when = target.instant ? { ...range, step: 0 } : range;
        return query(expand(target.expr, values, range), when);
      }));
      if (turn !== this.turn) return;
      this[{ stat: "drawStat", table: "drawTable", heatmap: "drawHeatmap" }[this.json.type] || "drawLines"](answers, range);
      this.node.dataset.state = answers.some(a => a.length) ? "drawn" : "empty";
    } catch (error) {
      if (turn !== this.turn) return;
      this.show(failure(error));
      this.node.dataset.state = "failed";
    }
  }

  show(...nodes) {
    this.dropChart();
    this.body.replaceChildren(...nodes);
  }

  showNoData() {
    const [needs] = this.json.description?.match(/Needs a GPU\.|Available on a cluster only\./) || [];
    const text = needs || this.json.fieldConfig?.defaults?.noValue || "No data";
    this.show(make("p", { className: "soft message", textContent: text }));
  }

  // ---- stat
  drawStat(answers) {
    const defaults = this.json.fieldConfig.defaults;
    const numbers = this.json.targets.flatMap((target, i) => answers[i].map(s => [legend(target, s.metric), Number(s.value[1])]));
    if (!numbers.some(([, value]) => Number.isFinite(value))) return this.showNoData();
    const colour = value => {
      const steps = defaults.thresholds?.steps || [];
      const reached = steps.filter(s => s.value === null || s.value === undefined || value >= s.value).pop();
      return THRESHOLDS[reached?.color] || "inherit";
    };
    this.show(make("div", { className: "numbers" }, ...numbers.map(([name, value]) => {
      const number = make("strong", { textContent: Number.isFinite(value) ? format(value, this.unit) : defaults.noValue });
      number.style.color = colour(value);
      return make("div", {}, make("span", { className: "soft", textContent: name }), number);
    })));
  }

  // ---- table: one row per set of labels, one column per label and query, as Grafana's `merge` and `organize` do
  drawTable(answers) {
    const { indexByName: order, renameByName: titles, excludeByName: hidden = {} } = this.json.transformations[1].options;
    const rows = new Map();
    this.json.targets.forEach((target, i) => answers[i].forEach(({ metric, value }) => {
      const { __name__: _, ...labels } = metric;
      const key = JSON.stringify(Object.entries(labels).sort());
      if (!rows.has(key)) rows.set(key, { ...labels });
      rows.get(key)[`Value #${target.refId}`] = Number(value[1]);
    }));
    if (!rows.size) return this.showNoData();
    const names = Object.keys(order).filter(name => !hidden[name]).sort((a, b) => order[a] - order[b]);
    const cells = [...rows.values()].map(values => row(names.map(name => this.cell(titles[name] || name, values[name]))));
    this.show(make("div", { className: "scroll" }, table(names.map(name => titles[name] || name), cells)));
  }

  cell(title, value) {
    const override = (this.json.fieldConfig.overrides || []).find(o => o.matcher.options === title);
    const property = id => override?.properties.find(p => p.id === id)?.value;
    if (typeof value === "number") return Number.isFinite(value) ? format(value, property("unit")) : this.json.fieldConfig.defaults.noValue;
    const [, name] = property("links")?.[0]?.url.match(/var-(\w+)=/) || [];
    if (!name || value === undefined) return value;
    return make("button", { className: "link", textContent: value, title: property("links")[0].title, onclick: () => this.actions.narrow?.(name, value) });
  }

  // ---- lines
  drawLines(answers, range) {
    const series = this.json.targets.flatMap((target, i) => answers[i].map(s => ({ ...s, name: legend(target, s.metric) })));
    const [x, columns] = onGrid(series, range);
    if (!columns.some(values => values.some(v => v !== null))) return this.showNoData();
    const stacked = this.json.fieldConfig?.defaults?.custom?.stacking?.mode === "normal";
    const drawn = stacked ? stack(columns) : columns;
    const key = series.map(s => s.name).join("\n");
    this.range = range;
    this.values = columns;
    if (this.chart && key === this.chartKey) {
      this.chart.setData([x, ...drawn]);
    } else {
      this.show(make("div", { className: "chart" }), make("div", { className: "legend" }));
      this.hidden = new Set();
      this.chart = new uPlot(this.lineOptions(series, stacked), [x, ...drawn], this.body.firstChild);
      this.chartKey = key;
    }
    this.body.lastChild.replaceChildren(this.legendTable(series, columns));
  }

  lineOptions(series, stacked) {
    // Areas of many lines that are not stacked would only cover each other.
    const opacity = stacked || series.length < 4 ? this.json.fieldConfig?.defaults?.custom?.fillOpacity ?? 8 : 0;
    const lines = series.map((s, i) => {
      const colour = COLOURS[i % COLOURS.length];
      const alpha = Math.round(opacity * 2.55).toString(16).padStart(2, "0");
      return { label: s.name, stroke: colour, width: 1.4, fill: colour + alpha, spanGaps: false, points: { size: 4 } };
    });
    const bands = stacked ? series.slice(1).map((_, i) => ({ series: [i + 2, i + 1] })) : [];
    const axis = { label: this.json.fieldConfig?.defaults?.custom?.axisLabel || undefined, labelSize: 16, labelFont: "11px system-ui" };
    if (this.unit === "bytes") axis.incrs = Array.from({ length: 45 }, (_, power) => 2 ** power);
    const top = (_, low, high) => [Math.min(0, low ?? 0), high > 0 ? high * 1.05 : low < 0 ? 0 : 1];
    return { ...this.options({ ...axis, values: (_, ticks) => ticks.map(v => format(v, this.unit)) }, top), series: [{}, ...lines], bands };
  }

  // What lines and heatmaps share.
  options(yAxis, yRange) {
    const axes = { stroke: "#5d6875", font: "11px system-ui", grid: { stroke: GRID, width: 1 }, ticks: { show: false } };
    return {
      width: this.body.clientWidth || 400,
      height: CHART_HEIGHT,
      legend: { show: false },
      cursor: { sync: { key: "lab", scales: ["x", null] }, drag: { x: true, y: false, setScale: false }, points: { size: 5 } },
      scales: { x: { time: true, range: () => [this.range.from, this.range.to] }, y: { range: yRange } },
      axes: [{ ...axes, size: 26, space: 52, values: times }, { ...axes, size: 64, ...yAxis }],
      plugins: [tooltip(this)],
      hooks: { setSelect: [plot => this.zoom(plot)] },
    };
  }

  zoom(plot) {
    if (plot.select.width < 4) return;
    const from = plot.posToVal(plot.select.left, "x");
    const to = plot.posToVal(plot.select.left + plot.select.width, "x");
    this.actions.zoom?.(Math.floor(from), Math.ceil(to));
  }

  tooltipLines(i) {
    const lines = this.values
      .map((values, n) => [n, values[i]])
      .filter(([n, value]) => value !== null && value !== undefined && !this.hidden.has(n))
      .sort((a, b) => b[1] - a[1]);
    return lines.map(([n, value]) => make("div", {}, swatch(n), this.chart.series[n + 1].label, make("b", { textContent: format(value, this.unit) })));
  }

  legendTable(series, columns) {
    const detailed = this.json.options?.legend?.displayMode === "table";
    const rows = series.map((s, i) => {
      const numbers = columns[i].filter(v => v !== null);
      const last = numbers[numbers.length - 1];
      const mean = numbers.reduce((sum, v) => sum + v, 0) / numbers.length;
      const shown = detailed ? [mean, numbers.length ? Math.max(...numbers) : null, last] : [last];
      const name = make("button", { className: "link", title: "show or hide" }, swatch(i), s.name);
      const line = row([name, ...shown.map(v => format(v, this.unit))]);
      line.classList.toggle("off", this.hidden.has(i));
      name.onclick = () => {
        const off = !this.hidden.delete(i) && Boolean(this.hidden.add(i));
        this.chart.setSeries(i + 1, { show: !off });
        line.classList.toggle("off", off);
      };
      return line;
    });
    return table(["", ...(detailed ? ["mean", "max", "last"] : ["last"])], rows);
  }

  // ---- heatmap of a histogram's cumulative buckets
  drawHeatmap(answers, range) {
    const bound = s => Number(s.metric.le === "+Inf" ? Infinity : s.metric.le);
    const series = answers.flat().sort((a, b) => bound(a) - bound(b));
    const [x, cumulative] = onGrid(series, range);
    let buckets = series.map((s, n) => ({
      low: n ? bound(series[n - 1]) : 0,
      high: bound(s),
      counts: x.map((_, i) => Math.max(0, (cumulative[n][i] ?? 0) - (n ? cumulative[n - 1][i] ?? 0 : 0))),
    }));
    const isUsed = bucket => bucket.counts.some(count => count > 1e-9);
    const first = buckets.findIndex(isUsed);
    if (first < 0) return this.showNoData();
    buckets = buckets.slice(first, buckets.findLastIndex(isUsed) + 1);
    this.range = range;
    this.buckets = buckets;
    this.show(make("div", { className: "chart" }));
    const unit = this.json.options?.yAxis?.unit || this.unit;
    const labels = (_, ticks) => ticks.map(t => Number.isInteger(t) ? format(t ? buckets[t - 1]?.high : buckets[0].low, unit) : "");
    const options = this.options({ values: labels, space: 24, incrs: [1, 2, 4, 8, 16] }, () => [0, buckets.length]);
    options.series = [{}, { label: "buckets", paths: () => null, points: { show: false } }];
    options.hooks.draw = [plot => drawCells(plot, x, buckets, range.step)];
    options.cursor.points = { show: false };
    this.tooltipLines = (i, y) => {
      const bucket = buckets[Math.floor(y)];
      if (!bucket) return [];
      const text = `${format(bucket.low, unit)} to ${format(bucket.high, unit)}`;
      return [make("div", {}, text, make("b", { textContent: `${format(bucket.counts[i])} per second` }))];
    };
    this.chart = new uPlot(options, [x, x.map(() => null)], this.body.firstChild);
  }
}

function stack(columns) {
  const sums = columns[0].map(() => 0);
  return columns.map(values => values.map((v, i) => v === null ? null : sums[i] += v));
}

function drawCells(plot, x, buckets, step) {
  const most = Math.max(...buckets.flatMap(b => b.counts));
  const { ctx, bbox } = plot;
  ctx.save();
  ctx.beginPath();
  ctx.rect(bbox.left, bbox.top, bbox.width, bbox.height);
  ctx.clip();
  buckets.forEach((bucket, n) => {
    const top = plot.valToPos(n + 1, "y", true);
    const height = Math.max(1, plot.valToPos(n, "y", true) - top - 1);
    bucket.counts.forEach((count, i) => {
      if (count <= 1e-9) return;
      const left = plot.valToPos(x[i] - step / 2, "x", true);
      const width = Math.max(1, plot.valToPos(x[i] + step / 2, "x", true) - left);
      ctx.fillStyle = `rgba(${HEAT}, ${0.15 + 0.85 * Math.sqrt(count / most)})`;
      ctx.fillRect(left, top, width, height);
    });
  });
  ctx.restore();
}

function swatch(index) {
  const node = make("i", { className: "swatch" });
  node.style.background = COLOURS[index % COLOURS.length];
  return node;
}

function times(plot, ticks, axis, space, distance) {
  const minutes = { hour: "2-digit", minute: "2-digit" };
  const options = distance >= 86400 ? { month: "short", day: "numeric" } : distance % 60 ? { ...minutes, second: "2-digit" } : minutes;
  return ticks.map(t => new Date(t * 1000).toLocaleString([], { ...options, hour12: false }));
}

function tooltip(panel) {
  const box = make("div", { className: "tooltip", hidden: true });
  return {
    hooks: {
      init: plot => {
        plot.over.append(box);
        plot.over.addEventListener("mouseleave", () => { box.hidden = true; });
      },
      setCursor: plot => {
        const { idx, left, top } = plot.cursor;
        box.hidden = idx === null || idx === undefined || left < 0 || !plot.over.matches(":hover");
        if (box.hidden) return;
        const time = new Date(plot.data[0][idx] * 1000).toLocaleTimeString([], { hour12: false });
        box.replaceChildren(make("div", { className: "soft", textContent: time }), ...panel.tooltipLines(idx, plot.posToVal(top, "y")));
        const isRight = left > plot.over.clientWidth / 2;
        box.style.left = isRight ? "" : `${left + 12}px`;
        box.style.right = isRight ? `${plot.over.clientWidth - left + 12}px` : "";
      },
    },
  };
}
