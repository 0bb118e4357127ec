// Reads the store's answers with packages that Grafana publishes, without checking what Grafana does not check either.
// Usage: node grafana_client.cjs < job.json, where a job is {"url", "trace", "queries", "search", "range"}; prints a report as JSON.
"use strict";
const { createRequire } = require("node:module");
const path = require("node:path");

const modules = createRequire(path.join(process.env.LAB_GRAFANA_MODULES, "package.json"));
const { parser } = modules("@grafana/lezer-traceql");
const { MutableDataFrame, FieldType, toDataFrame, dataFrameToJSON, dataFrameFromJSON } = modules("@grafana/data");
const frontend = path.dirname(modules.resolve("@grafana/o11y-ds-frontend"));
const { createNodeGraphFrames } = require(path.join(frontend, "createNodeGraphFrames.cjs"));

const get = async (url) => {
  const answer = await fetch(url);
  if (!answer.ok) throw new Error(`${answer.status} ${await answer.text()}`);
  return answer.json();
};

function syntaxErrors(query) {
  let errors = 0;
  parser.parse(query).iterate({ enter: (node) => { if (node.type.isError) errors += 1; } });
  return errors;
}

// A trace as the frame that Grafana's trace view and node graph take. Resource, scope and status are read unchecked.
function traceFrame(trace) {
  const names = ["traceID", "spanID", "parentSpanID", "operationName", "serviceName", "startTime", "duration",
    "statusCode", "statusMessage", "instrumentationLibraryName"];
  const frame = new MutableDataFrame({ fields: names.map((name) => ({
    name, type: ["startTime", "duration", "statusCode"].includes(name) ? FieldType.number : FieldType.string })) });
  const hex = (id) => Buffer.from(id || "", "base64").toString("hex");
  for (const group of trace.resourceSpans) {
    const service = group.resource.attributes.find((a) => a.key === "service.name").value.stringValue;
    for (const scope of group.scopeSpans)
      for (const span of scope.spans) {
        const start = Number(BigInt(span.startTimeUnixNano)) / 1e6;
        frame.add({ traceID: hex(span.traceId), spanID: hex(span.spanId), parentSpanID: hex(span.parentSpanId),
          operationName: span.name, serviceName: service, startTime: start,
          duration: Number(BigInt(span.endTimeUnixNano)) / 1e6 - start,
          statusCode: ["STATUS_CODE_UNSET", "STATUS_CODE_OK", "STATUS_CODE_ERROR"].indexOf(span.status.code ?? "STATUS_CODE_UNSET"),
          statusMessage: span.status.message ?? "", instrumentationLibraryName: scope.scope.name ?? "" });
      }
  }
  return frame;
}

function seriesFrames(answer) {
  return answer.series.map((series) => toDataFrame({ fields: [
    { name: "time", type: FieldType.time, values: series.samples.map((s) => Number(s.timestampMs)) },
    { name: "value", type: FieldType.number, values: series.samples.map((s) => s.value ?? 0),
      labels: Object.fromEntries(series.labels.map((l) => [l.key, String(Object.values(l.value)[0])])) },
  ] }));
}

async function main() {
  const chunks = [];
  for await (const chunk of process.stdin) chunks.push(chunk);
  const job = JSON.parse(Buffer.concat(chunks).toString());
  const report = { unparsed: job.queries.filter((q) => syntaxErrors(q) > 0) };

  const frame = traceFrame((await get(`${job.url}/api/v2/traces/${job.trace}`)).trace);
  const [nodes, edges] = createNodeGraphFrames(frame);
  report.trace = { spans: frame.length, nodes: nodes.length, edges: edges.length,
    badColours: nodes.fields.find((f) => f.name === "color").values.filter((v) => !(v >= 0 && v <= 1)).length };

  const search = await get(`${job.url}/api/search?${new URLSearchParams(job.search)}`);
  const spans = search.traces.flatMap((t) => t.spanSets.flatMap((s) => s.spans));
  const parents = spans.map((s) => Object.fromEntries(s.attributes.map((a) => [a.key, Object.values(a.value)[0]])));
  report.search = { traces: search.traces.length, spans: spans.length,
    roots: parents.filter((a) => Number(a.nestedSetParent) < 0).length,
    nested: parents.filter((a) => Number(a.nestedSetLeft) < Number(a.nestedSetRight)).length };

  const frames = seriesFrames(await get(`${job.url}/api/metrics/query_range?${new URLSearchParams(job.range)}`));
  const copies = frames.map((f) => dataFrameFromJSON(dataFrameToJSON(f)));
  report.range = { series: frames.length, samples: copies.reduce((n, f) => n + f.length, 0),
    total: copies.reduce((n, f) => n + f.fields[1].values.reduce((a, b) => a + b, 0), 0) };
  console.log(JSON.stringify(report));
}

main().catch((error) => { console.error(error); process.exit(1); });
