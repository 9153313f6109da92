"""Programs that measure, each a command: `python -m benchmarks.<name>`. See README.md."""
