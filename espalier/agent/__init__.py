"""The research loop and the MCP server: a language model drives the verbs, inside one study.

Every tool is `espalier VERB … --json` as a process of its own; what a model may name is decided in
`rules`, what it may spend in `budget`, and each step stands in STUDY/log.jsonl.
"""
