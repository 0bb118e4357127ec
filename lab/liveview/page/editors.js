// Inputs for PromQL and TraceQL with highlighting and completion.
import {
  EditorState, EditorView, HighlightStyle, LRLanguage, LanguageSupport, Prec, PromQLExtension, autocompletion, closeBrackets,
  completionKeymap, defaultKeymap, history, historyKeymap, keymap, placeholder, styleTags, syntaxHighlighting, tags, traceqlParser,
} from "./vendor.js";
import { getJson, make } from "./common.js";

const HIGHLIGHT = HighlightStyle.define([
  { tag: [tags.keyword, tags.operatorKeyword, tags.modifier], color: "#7b2d8e" },
  { tag: [tags.function(tags.variableName)], color: "#0057a8" },
  { tag: [tags.string], color: "#1a7f37" },
  { tag: [tags.number, tags.literal], color: "#a04000" },
  { tag: [tags.labelName, tags.propertyName], color: "#00667a" },
]);

function editor(language, text, hint, run) {
  const runKeys = Prec.highest(keymap.of([{ key: "Mod-Enter", run: () => (run(), true) }, { key: "Shift-Enter", run: () => (run(), true) }]));
  const state = EditorState.create({
    doc: text,
    extensions: [
      runKeys, language, history(), closeBrackets(), autocompletion({ icons: false }), placeholder(hint), EditorView.lineWrapping,
      syntaxHighlighting(HIGHLIGHT), keymap.of([...completionKeymap, ...historyKeymap, ...defaultKeymap]),
    ],
  });
  return new EditorView({ state });
}

// A form with one input; `run(text)` is called by its button and by Ctrl-Enter.
function form(title, name, language, text, hint, run) {
  const view = editor(language, text, hint, () => run(view.state.doc.toString().trim()));
  const button = make("button", { textContent: "Run", title: "Ctrl-Enter", onclick: () => run(view.state.doc.toString().trim()) });
  return make("div", { className: "editor", id: name }, make("label", { textContent: title }), view.dom, button);
}

export function promqlForm(text, run) {
  const extension = new PromQLExtension().setComplete({ remote: { url: "", httpMethod: "GET" } });
  return form("PromQL", "promql", extension.asExtension(), text, 'sum by (job) (rate(vllm:generation_tokens_total[1m]))', run);
}

export function traceqlForm(text, run, window) {
  const language = LRLanguage.define({
    parser: traceqlParser.configure({ props: [styleTags({
      String: tags.string, "Integer Float Duration": tags.number, "Identifier IntrinsicField": tags.labelName,
      "Resource Span Event Link Instrumentation Parent": tags.propertyName,
      "MetricsOperationBasicType MetricsOverTimeType MetricsAggregatorFunctionType Aggregate": tags.function(tags.variableName),
    })] }),
  });
  const complete = language.data.of({ autocomplete: context => completeTraceql(context, window) });
  return form("TraceQL", "traceql", new LanguageSupport(language, complete), text, '{ name = "llm_request" && duration > 1s }', run);
}

export function isMetricsQuery(text) {
  const cursor = traceqlParser.parse(text).cursor();
  do { if (cursor.name === "MetricsOperation") return true; } while (cursor.next());
  return false;
}

// ---- completion of TraceQL: attributes and values of the store, functions of the language
const FUNCTIONS = {
  "rate()": "spans per second", "count_over_time()": "spans per step", "quantile_over_time(duration, .95)": "quantiles",
  "histogram_over_time(duration)": "histogram", "avg_over_time(duration)": "mean", "min_over_time(duration)": "minimum",
  "max_over_time(duration)": "maximum", "sum_over_time(duration)": "sum", "compare({ status = error })": "what differs",
  "count()": "spans of the trace", "avg(duration)": "mean in the trace", "max(duration)": "maximum in the trace",
  "min(duration)": "minimum in the trace", "sum(duration)": "sum in the trace", "by(resource.service.name)": "groups",
  "select(duration)": "attributes to return",
};
const FIELD = String.raw`(?:(?:span|resource|event|link|instrumentation|trace|parent)?[.:])?[\w.:/-]+`;
const VALUE = new RegExp(String.raw`(${FIELD})\s*(?:=~|!~|!=|>=|<=|=|>|<)\s*("?[^"{}|&()]*)$`);

async function completeTraceql(context, window) {
  const before = context.state.sliceDoc(0, context.pos);
  const inFilter = before.lastIndexOf("{") > before.lastIndexOf("}");
  if (!inFilter) {
    const piped = before.match(/\|\s*(\w*)$/);
    if (!piped) return null;
    const options = Object.entries(FUNCTIONS).map(([label, detail]) => ({ label, detail, type: "function" }));
    return { from: context.pos - piped[1].length, options };
  }

  const value = before.match(VALUE);
  if (value) return { from: context.pos - value[2].length, options: await valuesOf(value[1], window), filter: true };
  const word = context.matchBefore(/[\w.:/-]*/);
  if (!word.text && !context.explicit && !/[{&|(]\s*$/.test(before)) return null;
  return { from: word.from, options: await attributes(window), validFor: /^[\w.:/-]*$/ };
}

async function attributes(window) {
  const { from, to } = window();
  const { scopes } = await getJson("/api/v2/search/tags", { start: Math.floor(from), end: Math.ceil(to) });
  return scopes.flatMap(scope => scope.tags.map(tag => {
    if (scope.name === "intrinsic") return { label: tag, type: "keyword", detail: "intrinsic" };
    const name = /^[\w./-]+$/.test(tag) ? tag : JSON.stringify(tag);
    return { label: `${scope.name}.${name}`, type: "property", detail: scope.name };
  }));
}

async function valuesOf(field, window) {
  const { from, to } = window();
  const path = `/api/v2/search/tag/${encodeURIComponent(field)}/values`;
  const { tagValues } = await getJson(path, { start: Math.floor(from), end: Math.ceil(to) });
  return tagValues.map(({ type, value }) => ({ label: type === "string" ? JSON.stringify(value) : value, detail: type, type: "constant" }));
}
