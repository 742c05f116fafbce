"""One error type per boundary: a user can act on a `UsageError`; a `RuntimeFailure` is the machine's doing."""


class UsageError(Exception):
    """Bad input. The one-line message names the file, the key, the value and the fix; the CLI exits with 2."""


class RuntimeFailure(Exception):
    """The run cannot go on (engine, node, network). The message names the first cause; the CLI exits with 1."""
