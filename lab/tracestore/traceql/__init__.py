"""TraceQL: text -> syntax tree (`parse`) -> checked (`validate`) -> SQL (`fields`, `spansets`)."""
