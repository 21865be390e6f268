"""One module per command of `mllm`: `HELP`, `add_arguments(parser)`, `run(args)`."""
