"""TerminalBench: shell tasks with real tests."""
