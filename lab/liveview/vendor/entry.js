// What the page uses of other projects; `npm run build` bundles it into ../page/vendor.js.
export { default as uPlot } from "uplot";
export { PromQLExtension } from "@prometheus-io/codemirror-promql";
export { parser as traceqlParser } from "@grafana/lezer-traceql";
export { EditorView, keymap, placeholder } from "@codemirror/view";
export { EditorState, Prec } from "@codemirror/state";
export { history, historyKeymap, defaultKeymap } from "@codemirror/commands";
export { autocompletion, closeBrackets, completionKeymap, startCompletion } from "@codemirror/autocomplete";
export { HighlightStyle, LanguageSupport, LRLanguage, syntaxHighlighting } from "@codemirror/language";
export { styleTags, tags } from "@lezer/highlight";
