"""One module per command of `mllm`, `-` in its name as `_`: `HELP`, `add_arguments(parser)`, `run(args)`."""
